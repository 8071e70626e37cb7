"""LSTM (Hochreiter and Schmidhuber, 1997) and GRU (Cho et al., 2014) over a node's own history, shared by all nodes.

`hidden_units` are the sizes of stacked layers, `dropout_rate` acts after each. A forecast is read from the last step
of the last layer; with horizon 0 each step's output from that step, which has seen no later one.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from dateshard.trainer.models.context import TIME, NodeContext, StepsOut, with_context
from dateshard.trainer.models.shape import Shape

CELLS: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}


class Recurrent(nn.Module):
    """Maps history [B, H, N, Fi] and codes [B, W] to [B, P, N, C]."""

    uses_codes = True

    def __init__(self, cell: str, shape: Shape, hidden_units: tuple[int, ...], dropout_rate: float) -> None:
        super().__init__()
        self.steps_per_day = shape.steps_per_day
        self.node = NodeContext(shape)
        widths = (shape.num_inputs + self.node.width + TIME, *hidden_units)
        self.hidden = nn.ModuleList(CELLS[cell](wide, narrow) for wide, narrow in pairwise(widths))
        self.dropout = nn.Dropout(dropout_rate)
        self.per_step = not shape.window.horizon
        own = 1 if self.per_step else shape.window.history
        target = (shape.window.target_steps, shape.num_outputs)
        self.read = StepsOut(widths[-1], own * shape.num_inputs, target, per_step=self.per_step)

    def forward(self, history_BHNF: torch.Tensor, codes_BW: torch.Tensor | None) -> torch.Tensor:
        steps = with_context(history_BHNF, self.node, codes_BW, self.steps_per_day)
        batch, _, nodes, _ = steps.shape
        rows = steps.transpose(0, 1).flatten(1, 2)  # [H, B x N, ...]: one step after the other, as the layers run
        for number, layer in enumerate(self.hidden, start=1):
            rows, _ = layer(rows)
            if number == len(self.hidden) and not self.per_step:
                rows = rows[-1:]
            rows = self.dropout(rows)
        features = rows.reshape(len(rows), batch, nodes, -1)
        out: torch.Tensor = self.read(features.transpose(0, 1) if self.per_step else features[-1], history_BHNF)
        return out
