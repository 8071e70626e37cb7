"""The columns of a table as a sequence, in front of a family that reads sequences (cnn, lstm, gru).

A row of a table is one step, in which such a family has nothing to read. Here a row of C columns becomes C steps of
`WIDTH` numbers: a number times a vector of its column, a category's embedding through a linear map of its column, each
plus the learned embedding of the position (the tokens of Gorishniy et al. 2021, arXiv 2106.11959). A cell that was not
observed adds one more vector of its column. The family forecasts the one step that follows the columns.

Legend: B batch, N nodes, F inputs, C columns, D width of a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate

import torch
from torch import nn

from dateshard.trainer.data.order import Window
from dateshard.trainer.models.shape import Shape

WIDTH = 16


class Columns(nn.Module):
    """Maps rows [B, 1, N, F] to what the inner model forecasts from their columns [B, C, N, D].

    Args:
        shape: of a table; columns that are one number come first.
        make: the inner model, of a history of C steps, D inputs and one target step.
    """

    uses_known = True

    def __init__(self, shape: Shape, make: Callable[[Shape], nn.Module]) -> None:
        super().__init__()
        count, self.numbers = len(shape.columns), shape.columns.count(1)
        self.widths = list(shape.columns[self.numbers :])
        assert 1 not in self.widths, "numbers come first"
        self.first = list(accumulate(shape.columns, initial=0))[:-1]
        self.inner = make(replace(shape.with_inputs((), WIDTH), window=Window(count, 1)))
        self.uses_codes = bool(getattr(self.inner, "uses_codes", False))
        self.weight = nn.Parameter(torch.randn(self.numbers, WIDTH) / math.sqrt(WIDTH))
        self.maps = nn.ModuleList(nn.Linear(width, WIDTH, bias=False) for width in self.widths)
        self.position = nn.Parameter(torch.randn(count, WIDTH) / math.sqrt(WIDTH))
        self.missing = nn.Parameter(torch.zeros(count, WIDTH))

    def forward(
        self, history_BHNF: torch.Tensor, codes_BW: torch.Tensor | None, known_BHNF: torch.Tensor | None = None
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        numbers, *categories = torch.split(history_BHNF[:, 0], [self.numbers, *self.widths], dim=-1)
        mapped = [own(category)[..., None, :] for own, category in zip(self.maps, categories, strict=True)]
        steps_BNCD = torch.cat([numbers[..., None] * self.weight, *mapped], dim=-2) + self.position
        if known_BHNF is not None:
            steps_BNCD = steps_BNCD + ~known_BHNF[:, 0][..., self.first, None] * self.missing
        codes = None if codes_BW is None else codes_BW.expand(-1, len(self.first) + 1)  # the row's time, at every step
        out: torch.Tensor | dict[str, torch.Tensor] = self.inner(steps_BNCD.transpose(1, 2), codes)
        return out
