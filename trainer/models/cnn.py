"""Dilated convolutions over a node's own history, shared by all nodes.

`hidden_units` are the channels of successive convolutions of three steps, `dropout_rate` acts after each. Layer k
reaches 2^k steps to either side (never further than the history); its ends are padded with zeros, so that every layer
keeps the history's steps. All steps of the last layer are read for a forecast; with horizon 0 each step for itself.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from dateshard.trainer.models.context import TIME, NodeContext, StepsOut, with_context
from dateshard.trainer.models.shape import Shape


class Cnn(nn.Module):
    """Maps history [B, H, N, Fi] and codes [B, W] to [B, P, N, C]."""

    uses_codes = True

    def __init__(self, shape: Shape, hidden_units: tuple[int, ...], dropout_rate: float) -> None:
        super().__init__()
        history, self.steps_per_day = shape.window.history, shape.steps_per_day
        self.node = NodeContext(shape)
        widths = (shape.num_inputs + self.node.width + TIME, *hidden_units)
        layers: list[nn.Module] = []
        for number, (wide, narrow) in enumerate(pairwise(widths)):
            reach = max(1, min(2**number, (history - 1) // 2))
            convolution = nn.Conv2d(wide, narrow, (3, 1), padding=(reach, 0), dilation=(reach, 1))
            layers += [convolution, nn.ReLU(), nn.Dropout(dropout_rate)]
        self.hidden = nn.Sequential(*layers)
        self.per_step = not shape.window.horizon
        read, own = (1, 1) if self.per_step else (history, history)
        target = (shape.window.target_steps, shape.num_outputs)
        self.read = StepsOut(read * widths[-1], own * shape.num_inputs, target, per_step=self.per_step)

    def forward(self, history_BHNF: torch.Tensor, codes_BW: torch.Tensor | None) -> torch.Tensor:
        steps = with_context(history_BHNF, self.node, codes_BW, self.steps_per_day)
        # channels last is how they lie: over [steps, nodes] this takes half the time of one row a node (docs/models.md)
        features = self.hidden(steps.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out: torch.Tensor = self.read(features if self.per_step else features.transpose(1, 2).flatten(2), history_BHNF)
        return out
