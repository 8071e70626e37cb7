"""STID (Shao et al., CIKM 2022, arXiv 2208.05233): a residual perceptron that knows the node, the time of day and the weekday.

A node's history becomes a quarter of a row of numbers, and three learned embeddings the others: of the node, of the time of
day and of the weekday of the anchor. Each of `hidden_units` is one residual layer over that row, with dropout inside; the
first is also the row's width. The mlp is told the time as a sine and a cosine: a time of day of its own is what a rush hour
is learned by. All nodes share the weights.

The day has at most `MOMENTS` embeddings, so that data with a step of a second do not get 86,400 of them.

Legend: B batch, H history, W window, P target steps, N nodes, F inputs, C output channels, D a quarter of a row.
"""

from __future__ import annotations

import torch
from torch import nn

from dateshard.trainer.models.context import NODE
from dateshard.trainer.models.shape import Shape

MOMENTS = 288  # times of day that are told apart: every five minutes


class ResidualLayer(nn.Module):
    """Adds to a row what two dense layers say of it."""

    def __init__(self, width: int, hidden: int, dropout_rate: float) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout_rate)

    def forward(self, row: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = row + self.leave(self.dropout(torch.relu(self.enter(row))))
        return out


class Stid(nn.Module):
    """Maps history [B, H, N, F] and codes [B, W] to [B, P, N, C]."""

    uses_codes = True

    def __init__(self, shape: Shape, hidden_units: tuple[int, ...], dropout_rate: float) -> None:
        super().__init__()
        self.target = (shape.window.target_steps, shape.num_outputs)
        self.anchor, self.steps_per_day = shape.window.before, shape.steps_per_day
        self.moments = min(shape.steps_per_day, MOMENTS)
        quarter = -(-hidden_units[0] // 4) if hidden_units else NODE
        self.own = nn.Linear(shape.window.history * shape.num_inputs, quarter)
        self.node = nn.Embedding(shape.num_nodes, quarter)
        self.day, self.week = nn.Embedding(self.moments, quarter), nn.Embedding(7, quarter)
        layers = [ResidualLayer(4 * quarter, hidden, dropout_rate) for hidden in hidden_units]
        self.hidden = nn.Sequential(*layers)
        self.out = nn.Linear(4 * quarter, self.target[0] * self.target[1])
        for table in (self.node, self.day, self.week):
            nn.init.xavier_uniform_(table.weight)

    def forward(self, history_BHNF: torch.Tensor, codes_BW: torch.Tensor | None) -> torch.Tensor:
        assert codes_BW is not None, "a model that uses codes is given them"
        batch, _, nodes, _ = history_BHNF.shape
        code = codes_BW[:, self.anchor].long()
        moment = (code >> 3) * self.moments // self.steps_per_day
        when_BD = torch.cat([self.day(moment), self.week(code & 7)], dim=1)
        own_BND = self.own(history_BHNF.permute(0, 2, 1, 3).reshape(batch, nodes, -1))
        names_BND = self.node.weight.expand(batch, nodes, -1)
        row = torch.cat([own_BND, names_BND, when_BD[:, None].expand(batch, nodes, -1)], dim=2)
        flat: torch.Tensor = self.out(self.hidden(row))
        return flat.reshape(batch, nodes, *self.target).permute(0, 2, 1, 3)
