"""What every module around another model shares: it asks for what the inner model asks for, and hands it on."""

from __future__ import annotations

import torch
from torch import nn

Output = torch.Tensor | dict[str, torch.Tensor]


class Around(nn.Module):
    """Holds an inner model, with the same `uses_codes`, `uses_known` and `uses_future` unless a subclass says otherwise."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.inner_uses_known = bool(getattr(inner, "uses_known", False))
        for what in ("codes", "known", "future"):
            if not hasattr(type(self), f"uses_{what}"):
                setattr(self, f"uses_{what}", bool(getattr(inner, f"uses_{what}", False)))

    def ask(
        self,
        history_BHNF: torch.Tensor,
        codes_BW: torch.Tensor | None,
        known_BHNF: torch.Tensor | None,
        future: dict[str, torch.Tensor | None],
    ) -> Output:
        """What the inner model forecasts; it is given what was observed only if it asks."""
        known = (known_BHNF,) if self.inner_uses_known else ()
        out: Output = self.inner(history_BHNF, codes_BW, *known, **future)
        return out
