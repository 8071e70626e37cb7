"""Which cells were observed, as inputs beside the values: for a model that is to tell a filled cell from a measured one.

Legend: B batch, H history, N nodes, F inputs.
"""

from __future__ import annotations

import torch
from torch import nn


class ObservedInputs(nn.Module):
    """Hands the inner model [B, H, N, 2F]: the inputs, then 1 for each cell that was observed and 0 for each other."""

    uses_known = True

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        uses = (bool(getattr(inner, f"uses_{what}", False)) for what in ("codes", "known", "future"))
        self.uses_codes, self.gives_known, self.uses_future = uses

    def forward(
        self,
        history_BHNF: torch.Tensor,
        codes_BW: torch.Tensor | None,
        known_BHNF: torch.Tensor | None = None,
        **future: torch.Tensor | None,
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        known = torch.ones_like(history_BHNF, dtype=torch.bool) if known_BHNF is None else known_BHNF
        given = torch.cat([history_BHNF, known.to(history_BHNF.dtype)], dim=-1)
        also = (torch.cat([known, torch.ones_like(known)], dim=-1),) if self.gives_known else ()
        out: torch.Tensor | dict[str, torch.Tensor] = self.inner(given, codes_BW, *also, **future)
        return out
