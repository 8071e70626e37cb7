"""Filling gaps of one date. Nothing is carried over midnight, and a filled cell stays unobserved.

Legend: T steps of the date, N nodes, F features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dateshard.shardstore.layouts.feature import Feature
from dateshard.shardstore.scaling.transform import Floats, Integers


def fill(values_TNF: Floats, features: Sequence[Feature]) -> Floats:
    """Fills raw values per feature; what is left empty stays NaN, as does a feature that is filled with its mean."""
    filled = values_TNF.copy()
    for index, feature in enumerate(features):
        column_TN = filled[:, :, index]
        if feature.fill == "zero":
            column_TN[gaps_to_fill(column_TN, feature.fill_limit)] = 0.0
        elif feature.fill == "forward":
            _carry_forward(column_TN, feature.fill_limit)
    return filled


def gaps_to_fill(column_TN: Floats, limit: int | None) -> NDArray[np.bool_]:
    """Empty cells at most `limit` steps after the last observed one, or after the date's start."""
    empty = np.isnan(column_TN)
    if limit is not None:
        empty &= np.arange(len(column_TN))[:, None] - _last_observed(column_TN) <= limit
    return empty


def _last_observed(column_TN: Floats) -> Integers:
    """Returns for each cell the last step up to it that holds a value, -1 before the first."""
    step_T1 = np.arange(len(column_TN))[:, None]
    return np.maximum.accumulate(np.where(np.isnan(column_TN), -1, step_T1), axis=0)


def _carry_forward(column_TN: Floats, limit: int | None) -> None:
    """Fills each empty step in place with the last value before it, at most `limit` steps on."""
    step_T1, source_TN = np.arange(len(column_TN))[:, None], _last_observed(column_TN)
    usable = source_TN >= 0
    if limit is not None:
        usable &= step_T1 - source_TN <= limit
    taken = np.take_along_axis(column_TN, np.maximum(source_TN, 0), axis=0)
    column_TN[usable] = taken[usable]
