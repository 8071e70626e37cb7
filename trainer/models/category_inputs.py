"""Categorical inputs as learned embeddings, in front of any family.

A category of K codes becomes 1 + log2 K numbers (rounded up), at most 16, unless `model.embedding_width` says how
many. The embedding of code 0 (unseen or missing) begins at zero: training never meets an unseen category, so it stays
zero unless values are missing.

Legend: B batch, H history, N nodes, F inputs.
"""

from __future__ import annotations

import torch
from torch import nn

from dateshard.trainer.models.around import Around, Output

WIDEST = 16


def width_of(num_codes: int) -> int:
    """Numbers that a category becomes: enough bits to tell all its codes apart, and one more."""
    return min(WIDEST, 1 + (num_codes - 1).bit_length())


class CategoricalInputs(Around):
    """Hands the inner model the numbers in their order, then each category's embedding.

    Memory: an embedding holds codes x width numbers; a million categories take 64 MB, and three times that with Adam.
    """

    def __init__(
        self, inner: nn.Module, numbers: tuple[int, ...], codes: dict[int, int], widths: dict[int, int]
    ) -> None:
        super().__init__(inner)
        self.numbers, self.places = list(numbers), list(codes)
        self.embeddings = nn.ModuleList(nn.Embedding(count, widths[place]) for place, count in codes.items())
        with torch.no_grad():
            for table in self.embeddings:
                assert isinstance(table, nn.Embedding)
                table.weight[0] = 0

    def forward(
        self,
        history_BHNF: torch.Tensor,
        codes_BW: torch.Tensor | None,
        known_BHNF: torch.Tensor | None = None,
        **future: torch.Tensor | None,
    ) -> Output:
        pairs = list(zip(self.places, self.embeddings, strict=True))
        parts = [history_BHNF[..., self.numbers], *(table(history_BHNF[..., at].long()) for at, table in pairs)]
        known = known_BHNF
        if known_BHNF is not None and self.inner_uses_known:
            widths = [embedded.shape[-1] for embedded in parts[1:]]
            each = [
                known_BHNF[..., [at]].expand(*known_BHNF.shape[:-1], width)
                for at, width in zip(self.places, widths, strict=True)
            ]
            known = torch.cat([known_BHNF[..., self.numbers], *each], dim=-1)
        return self.ask(torch.cat(parts, dim=-1), codes_BW, known, future)
