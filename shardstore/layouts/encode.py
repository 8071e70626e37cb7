"""Raw cells -> what a shard holds. One encoder for preparing and for predicting.

Legend: T steps of the date, N nodes, F features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dateshard.shardstore.layouts.feature import CALENDAR, Feature
from dateshard.shardstore.layouts.fill import WHOLE, fill, gaps_to_fill
from dateshard.shardstore.scaling.scale import Scale
from dateshard.shardstore.scaling.transform import Floats, Integers, in_blocks, transform


def last_record(
    values_TNF: NDArray[np.float32], observed_TNF: NDArray[np.bool_] | None, features: Sequence[Feature], scale: Scale
) -> int | None:
    """The last step of an encoded date into which a record with a value fell; None without one.

    A count observes every cell: there it is one that counts a record.
    """
    seen_TNF = np.ones(values_TNF.shape, dtype=bool) if observed_TNF is None else observed_TNF.copy()
    counts = [place for place, feature in enumerate(features) if feature.aggregate == "count"]
    if counts:
        nothing, _ = encode(np.zeros((1, *values_TNF.shape[1:])), features, scale)
        seen_TNF[..., counts] &= (values_TNF > nothing)[..., counts]
    seen_TNF[..., [place for place, feature in enumerate(features) if feature.aggregate == CALENDAR]] = False
    steps = np.flatnonzero(seen_TNF.any(axis=(1, 2)))
    return int(steps[-1]) if len(steps) else None


def encode(
    values_TNF: Floats,
    features: Sequence[Feature],
    scale: Scale,
    cuts: Integers = WHOLE,
    *,
    over: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """Fills, transforms and scales one date: (values [T, N, F] float32, observed [T, N, F] or None if nothing misses).

    Zero and forward fill raw values, mean the scaled ones; a cell that fill leaves empty holds the scale's `empty`.
    All is float64; clipping is the last step before the cast to float32. Filled and empty cells are not observed.
    A scaled value that float32 cannot hold becomes infinite: the caller refuses it.

    Memory: one array of [T, N, F] float64, changed in place: each further one costs more than what is computed in it.

    Args:
        cuts: rows at which a piece of the date begins, over whose borders nothing is filled.
        over: the values are no longer needed, and are that array.
    """
    missing = np.isnan(values_TNF)
    cells = fill(values_TNF, features, cuts, values_TNF if over else None)
    transform(cells, [feature.transform for feature in features], out=cells)
    gaps = {
        index: gaps_to_fill(values_TNF[:, :, index], feature.fill_limit, cuts)
        for index, feature in enumerate(features)
        if feature.fill == "mean"
    }
    encoded = np.empty(values_TNF.shape, dtype=np.float32)
    for rows in in_blocks(values_TNF.shape):
        with np.errstate(over="ignore"):
            scaled = scale.apply(cells[rows], out=cells[rows])
        for index, gaps_TN in gaps.items():
            np.copyto(scaled[..., index], scale.mean_NF[:, index], where=gaps_TN[rows])
        np.copyto(scaled, scale.empty_NF, where=np.isnan(scaled))
        for index, feature in enumerate(features):
            if feature.clip is not None:
                np.clip(scaled[..., index], *feature.clip, out=scaled[..., index])
        with np.errstate(over="ignore"):
            encoded[rows] = scaled
    return encoded, ~missing if missing.any() else None
