"""NLinear (Zeng et al., 2023, arXiv 2205.13504) maps the changes since the newest observed value linearly.

All nodes and features share the map. It begins as the forecast that repeats that value.

The paper subtracts the last step. Where that was not observed, it holds what fill left there (without fill the middle of
the scale), and every step of the forecast would begin from it.
"""

from __future__ import annotations

import torch
from torch import nn

from dateshard.trainer.data.batch import columns
from dateshard.trainer.models.naive import newest


class NLinear(nn.Module):
    """Maps history [B, H, N, Fi] to [B, P, N, Fo]; every target is forecast from its own history."""

    uses_codes = False
    uses_known = True

    def __init__(self, history: int, horizon: int, targets_in_inputs: tuple[int, ...]) -> None:
        super().__init__()
        self.targets = columns(targets_in_inputs)
        self.linear = nn.Linear(history, horizon)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(
        self,
        history_BHNF: torch.Tensor,
        codes_BW: torch.Tensor | None = None,
        known_BHNF: torch.Tensor | None = None,
    ) -> torch.Tensor:
        own_BHNF = history_BHNF[..., self.targets]
        last = own_BHNF[:, -1:]
        if known_BHNF is not None:
            last = newest(own_BHNF, known_BHNF[..., self.targets], 1, 1, last)
        change: torch.Tensor = self.linear((own_BHNF - last).permute(0, 2, 3, 1))
        return change.permute(0, 3, 1, 2) + last
