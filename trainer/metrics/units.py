"""Scaled values back to the units of the data.

Legend: N nodes, F target features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dateshard.shardstore.dataset import Dataset
from dateshard.trainer.models.ridge_gram import scaled_means

RESOLUTION = 2.0**-20  # of a value's own size: float32 keeps 24 bits, and what is below 16 of its units is noise


class Units:
    """Scaled -> raw for the target features: float64, the inverse of scale and transform.

    Attributes:
        mean_scaled_NF: each node's own training mean; of a node that was never observed there, that of all nodes.
        shift_raw_NF, shift_scaled_F: about the mean of all nodes, the same for each of them.
        rounding_NF: what float32 may have left of a raw 0.
        both_signs_F: whether the training values lie on both sides of 0, where an error in per cent of them says nothing.
    """

    def __init__(self, dataset: Dataset, targets: Sequence[int]) -> None:
        scale, chosen = dataset.scale, list(targets)
        self.pivot, self.delta, self.spread = (
            torch.from_numpy(array[:, chosen].copy()) for array in (scale.pivot_NF, scale.delta_NF, scale.spread_NF)
        )
        self.logs = [k for k, t in enumerate(chosen) if dataset.features[t].transform == "log1p"]
        statistics = dataset.statistics
        own, pooled = statistics.merged.moments_6NF[:, :, chosen], statistics.over_nodes[:, None, chosen]
        self.mean_scaled_NF = self._scaled(*np.where(own[0] > 0, own, pooled)[1:3])
        self.shift_raw_NF = self.raw(self._scaled(*np.broadcast_to(pooled, own.shape)[1:3]))
        self.shift_scaled_F = torch.tensor(scaled_means(dataset, chosen), dtype=torch.float64)
        rounding = RESOLUTION * ((self.pivot + self.delta).abs() + self.spread.abs())
        self.rounding_NF: NDArray[np.float64] = rounding.numpy()
        self.both_signs_F: NDArray[np.bool_] = (pooled[4, 0] < 0) & (pooled[5, 0] > 0)  # a transform keeps the sign

    def _scaled(self, pivot_NF: NDArray[np.float64], delta_NF: NDArray[np.float64]) -> torch.Tensor:
        """Scaled means of pivoted ones; pivots are subtracted first, so that a large offset costs no digit."""
        pivot, delta = torch.tensor(pivot_NF), torch.tensor(delta_NF)
        return ((pivot - self.pivot) + (delta - self.delta)) / self.spread

    def raw(self, values: torch.Tensor) -> torch.Tensor:
        """Changes [..., N, F] from scaled to raw units."""
        raw = (values.double() * self.spread + self.delta) + self.pivot
        for feature in self.logs:
            raw[..., feature] = torch.expm1(raw[..., feature])
        return raw
