"""Filling gaps of one date. Nothing is carried over midnight, and a filled cell stays unobserved.

Legend: T steps of the date, N nodes, F features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dateshard.shardstore.layouts.feature import Feature
from dateshard.shardstore.scaling.transform import Floats, Integers

BLOCK_CELLS = 1 << 18  # whose gaps are looked for at once
WHOLE = np.zeros(1, dtype=np.int64)  # a date of one piece


def fill(values_TNF: Floats, features: Sequence[Feature], cuts: Integers = WHOLE, out: Floats | None = None) -> Floats:
    """Fills raw values per feature; what is left empty stays NaN, as does a feature that is filled with its mean.

    Args:
        out: may be the values, which are then changed; None: a copy is made.
        cuts: rows at which a piece of the date begins; nothing is carried from one into the next.
    """
    filled = values_TNF.copy() if out is None else out
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
        for step, node, last, _ in _gaps(column_TN, cuts):
            far = step - last > limit
            empty[step[far], node[far]] = False
    return empty


def _gaps(column_TN: Floats, cuts: Integers) -> Iterator[tuple[Integers, Integers, Integers, NDArray[np.bool_]]]:
    """Yields the empty cells of some nodes at a time: step, node, last step before, and whether that holds a value.

    It is the last one of the cell's piece that does, or else the one before the piece.

        step   0  1  2  3  4                       the cells of one node after the other: of each run of empty ones the
        a      1  .  .  4  .     ->  1,2 -> 0      last step before it, or the node's start, where that is later
        b      .  2  .  .  5         4 -> 3; 0 -> -1; 2,3 -> 1
    """
    num_steps, num_nodes = column_TN.shape
    before = np.repeat(cuts - 1, np.diff(np.append(cuts, num_steps)))
    for first in range(0, num_nodes, width := max(1, BLOCK_CELLS // max(num_steps, 1))):
        gap = np.flatnonzero(np.isnan(column_TN[:, first : first + width].T))
        if not len(gap):
            continue
        starts = np.flatnonzero(np.append(True, gap[1:] != gap[:-1] + 1))
        last = np.repeat(gap[starts] - 1, np.diff(np.append(starts, len(gap))))
        node = gap // num_steps
        start = node * num_steps
        step, last = gap - start, last - start
        floor = before[step]
        yield step, node + first, np.maximum(last, floor), last > floor


def _carry_forward(column_TN: Floats, limit: int | None, cuts: Integers) -> None:
    """Fills each empty step in place with the last value before it in its piece, at most `limit` steps on."""
    for step, node, last, usable in _gaps(column_TN, cuts):
        if limit is not None:
            usable &= step - last <= limit
        column_TN[step[usable], node[usable]] = column_TN[last[usable], node[usable]]
