"""DLinear (Zeng et al., 2023, arXiv 2205.13504): trend and remainder, a linear map each, shared by nodes and features."""

from __future__ import annotations

import torch
from torch import nn

from dateshard.trainer.data.batch import columns


class DLinear(nn.Module):
    """Maps history [B, H, N, Fi] to [B, P, N, Fo]; every target is forecast from its own history."""

    uses_codes = False

    def __init__(self, history: int, horizon: int, targets_in_inputs: tuple[int, ...], kernel: int) -> None:
        super().__init__()
        self.targets = columns(targets_in_inputs)
        self.kernel = min(kernel, history) | 1
        self.trend, self.rest = nn.Linear(history, horizon), nn.Linear(history, horizon)
        with torch.no_grad():  # the paper's start: every step of the history weighs the same
            for layer in (self.trend, self.rest):
                layer.weight.fill_(1 / history)

    def forward(self, history_BHNF: torch.Tensor, codes_BW: torch.Tensor | None = None) -> torch.Tensor:
        own_BNFH = history_BHNF[..., self.targets].permute(0, 2, 3, 1)
        shape, side = own_BNFH.shape, self.kernel // 2
        rows = own_BNFH.reshape(-1, 1, shape[-1])
        padded = torch.cat([rows[..., :1].expand(-1, -1, side), rows, rows[..., -1:].expand(-1, -1, side)], dim=2)
        trend = nn.functional.avg_pool1d(padded, self.kernel, stride=1)
        out: torch.Tensor = self.trend(trend) + self.rest(rows - trend)
        return out.view(*shape[:-1], -1).permute(0, 3, 1, 2)
