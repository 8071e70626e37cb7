"""A multi-layer perceptron beside a linear map, shared by all nodes.

`hidden_units` are the widths of its layers, `dropout_rate` acts after each. Beside its own history a node sees its
embedding and the anchor's time of day and weekday. The linear map from the history straight to the forecast (the
global residual of TiDE, Das et al. 2023, arXiv 2304.08424) leaves the layers what a linear model cannot say.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from dateshard.trainer.models.context import TIME, NodeContext, time_of
from dateshard.trainer.models.shape import Shape


class Mlp(nn.Module):
    """Maps history [B, H, N, Fi] and codes [B, W] to [B, P, N, C]."""

    uses_codes = True

    def __init__(self, shape: Shape, hidden_units: tuple[int, ...], dropout_rate: float) -> None:
        super().__init__()
        self.target = (shape.window.target_steps, shape.num_outputs)
        self.anchor, self.steps_per_day = shape.window.before, shape.steps_per_day
        num_history = shape.window.history * shape.num_inputs
        self.node = NodeContext(shape)
        widths = (num_history + self.node.width + TIME, *hidden_units)
        layers: list[nn.Module] = []
        for wide, narrow in pairwise(widths):
            layers += [nn.Linear(wide, narrow), nn.ReLU(), nn.Dropout(dropout_rate)]
        self.hidden = nn.Sequential(*layers)
        self.out = nn.Linear(widths[-1], self.target[0] * self.target[1])
        self.linear = nn.Linear(num_history, self.target[0] * self.target[1], bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, history_BHNF: torch.Tensor, codes_BW: torch.Tensor | None) -> torch.Tensor:
        assert codes_BW is not None, "a model that uses codes is given them"
        batch, _, nodes, _ = history_BHNF.shape
        own = history_BHNF.permute(0, 2, 1, 3).reshape(batch, nodes, -1)
        names = self.node().expand(batch, nodes, self.node.width)
        when = time_of(codes_BW[:, self.anchor], self.steps_per_day)[:, None].expand(batch, nodes, TIME)
        flat = self.out(self.hidden(torch.cat([own, names, when], dim=2))) + self.linear(own)
        out: torch.Tensor = flat.view(batch, nodes, *self.target).permute(0, 2, 1, 3)
        return out
