"""The grid layout: records of many nodes at any instants -> one value per (step, node, feature).

Legend: T steps of the date, N nodes, F features, R records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dateshard.shardstore.layouts.feature import Feature
from dateshard.shardstore.scaling.transform import Floats, Integers
from dateshard.shardstore.times.calendar import Day

SAMPLE = 1024  # records that rule out most units before all are asked
UNITS = (3_600_000_000_000, 60_000_000_000, 1_000_000_000, 1_000_000, 1_000, 1)


@dataclass(frozen=True, slots=True)
class Records:
    """One date's records as columns, in file order.

    Attributes:
        time_R: instants in int64 nanoseconds, all inside the date.
        node_R: int64 positions in the date's node list.
        values: a float64 [R] column per feature, NaN where the record has none; None counts records.
        categories: names of each categorical feature, by its place; its column holds places in them.
    """

    time_R: Integers
    node_R: Integers
    values: tuple[Floats | None, ...]
    categories: Mapping[int, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Counts records of the same node and instant that were dropped.

    `conflicting` of them had other values than the one that stayed, `by_column` says in which columns."""

    dropped: int
    conflicting: int
    by_column: tuple[int, ...] = ()


def arrange(records: Records, day: Day, num_nodes: int) -> Integers:
    """The order that sorts records by (node, instant, row), as positions [R].

    One packed 64-bit key is sorted (6-15 times faster than a grouped sort); where key and row number do not fit into
    63 bits, a stable sort of the key gives the same order.
    """
    offset = records.time_R - day.start
    unit = next(u for u in UNITS if not (offset[:SAMPLE] % u).any() and not (offset % u).any())
    length = (day.end - day.start) // unit
    if num_nodes * length >= 1 << 63:  # the key would wrap: instants of single nanoseconds, more than 106,751 nodes
        return np.lexsort((offset, records.node_R))
    key = records.node_R.astype(np.int64) * length + offset // unit
    row_bits = max(int(len(key) - 1).bit_length(), 1)
    if (num_nodes * length).bit_length() + row_bits > 63:
        return np.argsort(key, kind="stable")
    packed = (key << row_bits) | np.arange(len(key), dtype=np.int64)
    packed.sort()
    return packed & ((1 << row_bits) - 1)


def keep_last(records: Records, order: Integers) -> tuple[Integers, Duplicates]:
    """Keeps only the last in file order of the records with the same node and instant."""
    time, node = records.time_R[order], records.node_R[order]
    again = (time[1:] == time[:-1]) & (node[1:] == node[:-1])  # a later record of the same key follows
    if not again.any():
        return order, Duplicates(0, 0, (0,) * len(records.values))
    earlier, later = order[:-1][again], order[1:][again]
    conflict, by_column = np.zeros(len(earlier), dtype=bool), list[int]()
    for column in records.values:
        differs = np.zeros(len(earlier), dtype=bool)
        if column is not None:
            a, b = column[earlier], column[later]
            differs = ~((a == b) | (np.isnan(a) & np.isnan(b)))
        conflict |= differs
        by_column.append(int(differs.sum()))
    kept = np.append(~again, True)
    return order[kept], Duplicates(int(again.sum()), int(conflict.sum()), tuple(by_column))


def aggregate(records: Records, order: Integers, day: Day, num_nodes: int, features: Sequence[Feature]) -> Floats:
    """Returns [T, N, F] float64, NaN where nothing was observed. Sums run in the given order: same records, same bits.

    Of a counter it is the last reading of a step; `counters` makes differences of them.

    Args:
        order: as `arrange` gives it, so that a cell's records stand together, by instant and row.
    """
    cell = ((records.time_R - day.start) // day.step * num_nodes + records.node_R)[order]
    size = day.num_steps * num_nodes
    values_CF = np.empty((size, len(features)))
    for index, feature in enumerate(features):
        column = records.values[index]
        values_CF[:, index] = _reduce(feature.aggregate, cell, None if column is None else column[order], size)
    return values_CF.reshape(day.num_steps, num_nodes, len(features))


def _reduce(how: str, cell: Integers, column: Floats | None, size: int) -> Floats:
    """One feature's cells [size]. A count without records is an observed 0; every other aggregate is then NaN."""
    if column is not None:
        present = ~np.isnan(column)
        if not present.all():
            cell, column = cell[present], column[present]
    if how == "count":
        return np.bincount(cell, minlength=size).astype(np.float64)
    assert column is not None, "only count works without a column; the configuration holds this"
    if how in ("first", "last", "difference", "min", "max"):
        return _pick(how, cell, column, size)
    counts = np.bincount(cell, minlength=size)
    sums = np.bincount(cell, weights=column, minlength=size)
    with np.errstate(invalid="ignore"):
        return np.where(counts > 0, sums / counts if how == "mean" else sums, np.nan)


def _pick(how: str, cell: Integers, column: Floats, size: int) -> Floats:
    """One record's value per cell: the first, last, least or greatest. Cells are runs of equal numbers."""
    picked = np.full(size, np.nan)
    if how in ("last", "difference"):
        picked[cell] = column  # sorted by instant: of repeated cells the last assignment stays
    elif how == "first":
        picked[cell[::-1]] = column[::-1]
    elif len(cell):
        starts = np.flatnonzero(np.append(True, cell[1:] != cell[:-1]))
        least_or_greatest = np.minimum if how == "min" else np.maximum
        # + 0.0 makes a positive zero of a negative one: which of the two is less is left to the machine
        picked[cell[starts]] = least_or_greatest.reduceat(column + 0.0, starts)
    return picked


def on_nodes(values_TNF: Floats, positions: Integers, num_nodes: int) -> Floats:
    """Places cells on the frozen node list; `positions[i]` is where node i goes, -1 drops it; absent nodes are NaN."""
    steps, _, num_features = values_TNF.shape
    if len(positions) == num_nodes and np.array_equal(positions, np.arange(num_nodes)):
        return values_TNF
    wide = np.full((steps, num_nodes, num_features), np.nan)
    kept = positions >= 0
    wide[:, positions[kept]] = values_TNF[:, kept]
    return wide
