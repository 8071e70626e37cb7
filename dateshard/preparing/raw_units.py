"""Scaled values in raw units, without the digits that float32 never held.

Legend: T steps, N nodes, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.scaling.transform import Floats, untransform


def raw_units(dataset: Dataset, scaled_TNF: NDArray[Any], places: Sequence[int] | None = None) -> Floats:
    """Returns [T, N, F] float64: scale and transform undone, each value at the last decimal that its float32 held.

    Memory: five arrays of the size of the result.

    Args:
        places: of the last axis among the dataset's features; None: all of them.
    """
    chosen = list(range(len(dataset.features)) if places is None else places)
    scale = dataset.scale.of(chosen)
    transforms = [dataset.features[place].transform for place in chosen]
    step_TNF = np.spacing(np.maximum(np.abs(scaled_TNF), 1).astype(np.float32, copy=False)).astype(
        np.float64
    )  # float32's
    raw = scale.undo(scaled_TNF)
    shown = untransform(raw, transforms)
    return _rounded(shown, np.abs(untransform(raw + step_TNF * scale.spread_NF, transforms) - shown))


def _rounded(values: Floats, error: Floats) -> Floats:
    """Each value at the last decimal that is coarser than its error: 0.0 and not 2.5e-08, as the dump had it."""
    places = 10.0 ** np.clip(np.floor(-np.log10(np.maximum(error, 1e-300))), -300, 15)
    rounded: Floats = np.rint(values * places) / places + 0.0  # no -0.0
    return rounded
