"""A date's arrays on a list with more nodes behind its own: what it would hold of nodes that have no record on it.

Legend: T steps, n nodes of the date, N nodes of the dataset, F features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dateshard.shardstore.layouts.encode import encode
from dateshard.shardstore.layouts.feature import CALENDAR, Feature
from dateshard.shardstore.scaling.scale import Scale


def widen(
    values_TnF: NDArray[np.float32],
    observed_TnF: NDArray[np.bool_] | None,
    features: Sequence[Feature],
    scale: Scale,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Returns (values [T, N, F], observed [T, N, F]): the date's own, then cells as they are encoded without a record.

    Args:
        scale: of all N nodes.
    """
    steps, own, count = values_TnF.shape
    cells = np.full((steps, len(scale.pivot_NF) - own, count), np.nan)
    for place, feature in enumerate(features):
        if feature.aggregate == CALENDAR:  # the same at every node, and not scaled
            cells[..., place] = values_TnF[:, :1, place]
    more, seen = encode(cells, features, scale.nodes(slice(own, None)))
    here = np.ones(values_TnF.shape, dtype=np.bool_) if observed_TnF is None else observed_TnF
    there = np.ones(cells.shape, dtype=np.bool_) if seen is None else seen
    return np.concatenate([values_TnF, more], axis=1), np.concatenate([here, there], axis=1)
