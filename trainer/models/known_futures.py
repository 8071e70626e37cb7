"""What is known ahead, behind any family: a correction of its forecast by the features of the target steps.

At each target step the correction reads the features that are known there and at its two neighbours, and what the family
forecasts; it begins at zero, so that training starts from the family alone. Categories become learned embeddings.

Legend: B batch, P target steps, N nodes, C output channels.
"""

from __future__ import annotations

import torch
from torch import nn

from dateshard.trainer.models.around import Around
from dateshard.trainer.models.category_inputs import width_of
from dateshard.trainer.models.shape import Shape

UNITS = 32  # of the hidden layer
NEAR = 3  # target steps that a correction looks at


class KnownFutures(Around):
    """Maps what the inner model is given, and futures [B, P, N, Fu], to its forecast [B, P, N, C] with a correction."""

    uses_future = True

    def __init__(self, inner: nn.Module, shape: Shape) -> None:
        super().__init__(inner)
        counts = {place: count for place, count in enumerate(shape.future_codes) if count}
        self.numbers = [place for place in range(len(shape.future_codes)) if place not in counts]
        self.places = list(counts)
        self.embeddings = nn.ModuleList(nn.Embedding(count, width_of(count)) for count in counts.values())
        width = len(self.numbers) + sum(map(width_of, counts.values())) + shape.num_outputs
        self.hidden = nn.Conv1d(width, UNITS, NEAR, padding=NEAR // 2)
        self.out = nn.Linear(UNITS, shape.num_outputs)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self,
        history_BHNF: torch.Tensor,
        codes_BW: torch.Tensor | None,
        known_BHNF: torch.Tensor | None = None,
        *,
        future_BPNF: torch.Tensor,
    ) -> torch.Tensor:
        given = self.ask(history_BHNF, codes_BW, known_BHNF, {})
        assert isinstance(given, torch.Tensor), "the families return one"
        pairs = zip(self.places, self.embeddings, strict=True)
        embedded = [table(future_BPNF[..., place].long()) for place, table in pairs]
        steps = torch.cat([future_BPNF[..., self.numbers], *embedded, given], dim=-1)
        batch, count, nodes, _ = steps.shape
        hidden = self.hidden(steps.permute(0, 2, 3, 1).reshape(batch * nodes, -1, count)).relu()
        correction = self.out(hidden.view(batch, nodes, UNITS, count).permute(0, 3, 1, 2))
        out: torch.Tensor = given + correction
        return out
