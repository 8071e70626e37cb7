"""Scaled values back to the units of the data.

Legend: N nodes, F target features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from shardstore.dataset import Dataset
from trainer.gram import scaled_means

RESOLUTION = 2.0**-20  # of a value's own size: float32 keeps 24 bits, and what is below 16 of its units is noise


class Units:
    """Scaled -> raw for the target features: float64, the inverse of scale and transform.

    Attributes:
        mean_scaled_NF, mean_raw_NF: the training mean, the same for all nodes. shift_scaled_F: of all scaled cells.
        rounding_NF: what float32 may have left of a raw 0.
    """

    def __init__(self, dataset: Dataset, targets: Sequence[int]) -> None:
        scale, chosen = dataset.scale, list(targets)
        self.pivot, self.delta, self.spread = (
            torch.from_numpy(part[:, chosen].copy()) for part in (scale.pivot_NF, scale.delta_NF, scale.spread_NF)
        )
        self.logs = [k for k, t in enumerate(chosen) if dataset.features[t].transform == "log1p"]
        moments = dataset.statistics.merged.over_nodes().moments_6NF[:, :, chosen]
        mean = np.broadcast_to(moments[1] + moments[2], scale.pivot_NF[:, chosen].shape)
        self.mean_scaled_NF = (torch.from_numpy(mean.copy()) - self.pivot - self.delta) / self.spread
        self.mean_raw_NF = self.raw(self.mean_scaled_NF)
        self.shift_scaled_F = torch.tensor(scaled_means(dataset, chosen), dtype=torch.float64)
        rounding = RESOLUTION * ((self.pivot + self.delta).abs() + self.spread.abs())
        self.rounding_NF: NDArray[np.float64] = rounding.numpy()

    def raw(self, values: torch.Tensor) -> torch.Tensor:
        """[..., N, F] scaled -> raw."""
        raw = (values.double() * self.spread + self.delta) + self.pivot
        for feature in self.logs:
            raw[..., feature] = torch.expm1(raw[..., feature])
        return raw
