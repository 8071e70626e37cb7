"""Quantiles of a forecast, in raw units: what a model says of a batch, read at any levels that its losses know.

Legend: S windows of a batch, P target steps, N nodes, C numeric targets in the order of their heads, Q levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dateshard.shardstore.dataset import Dataset
from dateshard.trainer.bounds import bounds_of, scaled_bounds
from dateshard.trainer.config import Trainer
from dateshard.trainer.metrics.sums import Floats
from dateshard.trainer.metrics.units import Units
from dateshard.trainer.optimization.objective import Head


@dataclass(frozen=True, slots=True, kw_only=True)
class RawQuantiles:
    """What is needed to read quantiles out of the outputs of a model.

    Attributes:
        heads: of numbers. levels: those that every one of them was asked for by the configuration; empty where none knows
            quantiles.
        bounds_2NF: what no value goes beyond, scaled; None: nothing. bounds_2C: the same in raw units.
    """

    heads: tuple[Head, ...]
    levels: tuple[float, ...]
    units: Units
    bounds_2NF: torch.Tensor | None
    bounds_2C: Floats

    @staticmethod
    def of(config: Trainer, dataset: Dataset, heads: Sequence[Head], places: Sequence[int]) -> RawQuantiles:
        """Prepares to read the numeric targets of some heads, which are at these places among the features."""
        numbers = tuple(head for head in heads if head.loss != "cross_entropy")
        levels = sorted({level for head in numbers for level in head.quantiles})
        return RawQuantiles(
            heads=numbers,
            levels=tuple(levels),
            units=Units(dataset, places),
            bounds_2NF=scaled_bounds(config, dataset, places),
            bounds_2C=bounds_of(config, dataset, places),
        )

    def scaled(self, outputs: Mapping[str, torch.Tensor], levels: Sequence[float]) -> torch.Tensor:
        """Returns [S, P, N, C, Q] scaled, within the bounds; NaN where a target's loss knows no such quantile."""
        each = [head.quantiles_at(outputs[head.name].detach().cpu(), levels) for head in self.heads]
        joined = torch.cat(each, dim=-2)
        return joined if self.bounds_2NF is None else joined.clamp(*self.bounds_2NF[..., None])

    def raw(self, outputs: Mapping[str, torch.Tensor], levels: Sequence[float]) -> Floats:
        """Returns the quantiles of a batch at these levels in raw units, [S, P, N, C, Q].

        They never fall with the level and lie within the bounds; NaN where a target's loss knows no such quantile.

        Args:
            outputs: all channels by head, as `Forecaster.forecast` and `of_model` give them.
        """
        low_C, high_C = self.bounds_2C
        raw_QSPNC = self.units.raw(self.scaled(outputs, levels).movedim(-1, 0)).numpy().clip(low_C, high_C)
        return np.moveaxis(never_falling(raw_QSPNC), 0, -1)


def never_falling(values_Q: Floats) -> Floats:
    """Returns values whose first axis is the level: none is below one of a lower level; NaN stays, and lifts nothing."""
    lifted: Floats = np.where(np.isnan(values_Q), np.nan, np.fmax.accumulate(values_Q, axis=0))
    return lifted


def outer_of(quantiles_Q: NDArray[np.float32] | None, forecast: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Returns [2, ...]: the lowest and highest of quantiles [..., Q] less their forecast, which they enclose.

    0 where a target's loss knows no quantiles; None where none does.
    """
    if quantiles_Q is None:
        return None
    low, high = (np.nan_to_num(quantiles_Q[..., place] - forecast) for place in (0, -1))
    return np.stack([np.minimum(low, 0.0), np.maximum(high, 0.0)])


def around(reach_2: Floats, outer_2: NDArray[np.float32] | None) -> Floats:
    """Returns what is added to a forecast for its ends: outer quantiles moved by a reach; they never pass the forecast."""
    if outer_2 is None:
        return reach_2
    moved_2 = reach_2 + outer_2
    return np.stack([np.minimum(moved_2[0], 0.0), np.maximum(moved_2[1], 0.0)])
