"""A multi-layer perceptron beside a linear map, shared by all nodes.

`hidden_units` are the widths of its layers, `dropout_rate` acts after each. Beside its own history a node sees its
embedding and the anchor's time of day and weekday. The linear map from the history straight to the forecast (the
global residual of TiDE, Das et al. 2023, arXiv 2304.08424) leaves the layers what a linear model cannot say.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn

EMBEDDING = 8  # numbers a node


class Mlp(nn.Module):
    """history [B, H, N, Fi] and codes [B, W] -> [B, P, N, Fo]."""

    uses_codes = True

    def __init__(
        self,
        num_history: int,
        target: tuple[int, int],
        num_nodes: int,
        hidden_units: tuple[int, ...],
        dropout_rate: float,
        *,
        anchor: int,
        steps_per_day: int,
    ) -> None:
        super().__init__()
        self.target, self.anchor, self.steps_per_day = target, anchor, steps_per_day
        self.node = nn.Embedding(num_nodes, EMBEDDING)
        widths = (num_history + EMBEDDING + 2 + 7, *hidden_units)
        layers: list[nn.Module] = []
        for wide, narrow in pairwise(widths):
            layers += [nn.Linear(wide, narrow), nn.ReLU(), nn.Dropout(dropout_rate)]
        self.hidden = nn.Sequential(*layers)
        self.out = nn.Linear(widths[-1], target[0] * target[1])
        self.linear = nn.Linear(num_history, target[0] * target[1], bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, history_BHNF: torch.Tensor, codes_BW: torch.Tensor | None) -> torch.Tensor:
        assert codes_BW is not None
        batch, _, nodes, _ = history_BHNF.shape
        own = history_BHNF.permute(0, 2, 1, 3).reshape(batch, nodes, -1)
        names = self.node.weight.expand(batch, nodes, EMBEDDING)
        when = self._when(codes_BW[:, self.anchor])[:, None].expand(batch, nodes, 9)
        flat = self.out(self.hidden(torch.cat([own, names, when], dim=2))) + self.linear(own)
        out: torch.Tensor = flat.view(batch, nodes, *self.target).permute(0, 2, 1, 3)
        return out

    def _when(self, code_B: torch.Tensor) -> torch.Tensor:
        """[B, 9]: sine and cosine of the time of day, and the weekday as one of seven."""
        angle = (code_B >> 3) * (2 * math.pi / self.steps_per_day)
        weekday = torch.nn.functional.one_hot((code_B & 7).long(), 7)
        return torch.cat([torch.sin(angle)[:, None], torch.cos(angle)[:, None], weekday], dim=1)
