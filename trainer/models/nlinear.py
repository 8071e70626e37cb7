"""NLinear (Zeng et al., 2023, arXiv 2205.13504): a linear map of the changes since the last step, shared by all nodes
and features. It begins as the forecast that repeats the last value."""

from __future__ import annotations

import torch
from torch import nn


class NLinear(nn.Module):
    """history [B, H, N, Fi] -> [B, P, N, Fo]; every target is forecast from its own history."""

    uses_codes = False

    def __init__(self, history: int, horizon: int, targets_in_inputs: tuple[int, ...]) -> None:
        super().__init__()
        self.targets = list(targets_in_inputs)
        self.linear = nn.Linear(history, horizon)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, history_BHNF: torch.Tensor, codes_BW: torch.Tensor | None = None) -> torch.Tensor:
        own_BHNF = history_BHNF[..., self.targets]
        last = own_BHNF[:, -1:]
        change: torch.Tensor = self.linear((own_BHNF - last).permute(0, 2, 3, 1))
        return change.permute(0, 3, 1, 2) + last
