"""Which cells were observed, as inputs beside the values: for a model that is to tell a filled cell from a measured one.

Legend: B batch, H history, N nodes, F inputs.
"""

from __future__ import annotations

import torch

from dateshard.trainer.models.around import Around, Output


class ObservedInputs(Around):
    """Hands the inner model [B, H, N, 2F]: the inputs, then 1 for each cell that was observed and 0 for each other."""

    uses_known = True

    def forward(
        self,
        history_BHNF: torch.Tensor,
        codes_BW: torch.Tensor | None,
        known_BHNF: torch.Tensor | None = None,
        **future: torch.Tensor | None,
    ) -> Output:
        known = torch.ones_like(history_BHNF, dtype=torch.bool) if known_BHNF is None else known_BHNF
        given = torch.cat([history_BHNF, known.to(history_BHNF.dtype)], dim=-1)
        return self.ask(given, codes_BW, torch.cat([known, torch.ones_like(known)], dim=-1), future)
