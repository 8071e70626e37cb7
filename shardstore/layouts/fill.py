"""Filling gaps of one date. Nothing is carried over midnight, and a filled cell stays unobserved.

Legend: T steps of the date, N nodes, F features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dateshard.shardstore.layouts.feature import Feature
from dateshard.shardstore.scaling.transform import Floats, Integers

WHOLE = np.zeros(1, dtype=np.int64)  # a date of one piece


def fill(values_TNF: Floats, features: Sequence[Feature], cuts: Integers = WHOLE) -> Floats:
    """Fills raw values per feature; what is left empty stays NaN, as does a feature that is filled with its mean.

    Args:
        cuts: rows at which a piece of the date begins; nothing is carried from one into the next.
    """
    filled = values_TNF.copy()
    for index, feature in enumerate(features):
        column_TN = filled[:, :, index]
        if feature.fill == "zero":
            column_TN[gaps_to_fill(column_TN, feature.fill_limit, cuts)] = 0.0
        elif feature.fill == "forward":
            _carry_forward(column_TN, feature.fill_limit, cuts)
    return filled


def gaps_to_fill(column_TN: Floats, limit: int | None, cuts: Integers = WHOLE) -> NDArray[np.bool_]:
    """Empty cells at most `limit` steps after the last observed one, or after the start of their piece of the date."""
    empty = np.isnan(column_TN)
    if limit is not None:
        empty &= np.arange(len(column_TN))[:, None] - _last_observed(column_TN, cuts) <= limit
    return empty


def _last_observed(column_TN: Floats, cuts: Integers) -> Integers:
    """Returns for each cell the last step of its piece up to it that holds a value, the one before the piece without."""
    step_T1 = np.arange(len(column_TN))[:, None]
    observed_TN = np.maximum.accumulate(np.where(np.isnan(column_TN), -1, step_T1), axis=0)
    return observed_TN if len(cuts) <= 1 else np.maximum(observed_TN, _before(len(column_TN), cuts))


def _before(num_steps: int, cuts: Integers) -> Integers:
    """Returns [T, 1]: the step before the piece that each step lies in."""
    return np.repeat(cuts - 1, np.diff(np.append(cuts, num_steps)))[:, None]


def _carry_forward(column_TN: Floats, limit: int | None, cuts: Integers) -> None:
    """Fills each empty step in place with the last value before it in its piece, at most `limit` steps on.

    Only the empty cells are looked at, node by node: those that follow each other are filled from the step before them.
    """
    node_G, step_G = np.nonzero(np.isnan(column_TN).T)
    first_G = np.ones(len(step_G), dtype=np.bool_)  # which of them begin a gap
    first_G[1:] = (np.diff(step_G) != 1) | (np.diff(node_G) != 0)
    source_G = step_G[np.maximum.accumulate(np.where(first_G, np.arange(len(step_G)), 0))] - 1
    usable_G = source_G > _before(len(column_TN), cuts)[step_G, 0]
    if limit is not None:
        usable_G &= step_G - source_G <= limit
    step, node = step_G[usable_G], node_G[usable_G]
    column_TN[step, node] = column_TN[source_G[usable_G], node]
