"""Records of one date as columns: put in order, and freed of those that come twice. What every layout begins with.

Legend: T steps or records of the date, N nodes, F features, R records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from dateshard.shardstore.layouts.feature import Feature
from dateshard.shardstore.scaling.transform import Floats, Integers
from dateshard.shardstore.times.calendar import Day

SAMPLE = 1024  # records that rule out most units before all are asked
CHUNK = 1 << 15  # of those
UNITS = (3_600_000_000_000, 60_000_000_000, 1_000_000_000, 1_000_000, 1_000, 1)


@dataclass(frozen=True, slots=True)
class Records:
    """One date's records as columns, in file order.

    Attributes:
        time_R: instants in int64 nanoseconds, all inside the date.
        node_R: integer positions in the date's list of names: of its nodes, or of its cuts.
        values: a float64 [R] column per feature, NaN where the record has none; None counts records.
        place_R: each record's place among the dump's rows, if that was kept.
    """

    time_R: Integers
    node_R: Integers | NDArray[np.int32]
    values: tuple[Floats | None, ...]
    place_R: Integers | None = None

    def at(self, order: Integers) -> Records:
        """The records at these positions."""
        columns = tuple(None if column is None else column[order] for column in self.values)
        place_R = None if self.place_R is None else self.place_R[order]
        return Records(self.time_R[order], self.node_R[order], columns, place_R)


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Counts records of the same node and instant that were dropped.

    `conflicting` of them had other values than the one that stayed, `by_column` says in which columns."""

    dropped: int
    conflicting: int
    by_column: tuple[int, ...] = ()

    def and_of(self, other: Duplicates) -> Duplicates:
        """Returns the counts of two stretches together."""
        counts = zip(self.by_column or (0,) * len(other.by_column), other.by_column, strict=True)
        return Duplicates(self.dropped + other.dropped, self.conflicting + other.conflicting, tuple(map(sum, counts)))


NO_DUPLICATES = Duplicates(0, 0)
Stretch = tuple[Day, Records]  # a part of the date, and its records


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduction:
    """What a date's records are to be reduced to.

    Attributes:
        names: of the nodes, or of the cuts, as `Records.node_R` counts them.
        cut: whether the names are of cuts; the one node is then `nodes`.
        categories: {place of a categorical feature: names that its column's values are places in}.
        by_row: whether records are cut by a hash of what they hold.
        keep_all: whether all records of one name and instant are kept, or only the last of them in file order.
        refuse: called with the dump's row that comes again and the count of such rows; None where that is no fault.
        keep_places: whether `place` is kept beside the values: which of the dump's rows each record is.
    """

    day: Day
    names: tuple[str, ...]
    nodes: tuple[str, ...]
    cut: bool
    features: Sequence[Feature]
    categories: Mapping[int, Sequence[str]]
    by_row: bool
    keep_all: bool
    refuse: Callable[[int, int], NoReturn] | None
    keep_places: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduced:
    """A date's records, reduced.

    Attributes:
        values_TNF: float64, NaN where nothing was observed.
        nodes: names of axis 1.
        last: instant of the last record, None without one.
        resets: {feature: resets of its counters}.
        beside: arrays that the layout keeps beside the values: `time`, and `cuts` with `cut_names`; none of a grid.
    """

    values_TNF: Floats
    nodes: tuple[str, ...]
    duplicates: Duplicates
    last: int | None
    resets: Mapping[str, int] = field(default_factory=dict)
    beside: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def unit_of(time_R: Integers, start: int) -> int:
    """Returns the longest unit of `UNITS`, in nanoseconds, that every instant is a whole number of since `start`."""
    first = time_R[:SAMPLE] - start
    for unit in UNITS:
        if (first % unit).any():
            continue
        if unit == 1 or all(_whole(time_R[low : low + CHUNK] - start, unit) for low in range(0, len(time_R), CHUNK)):
            return unit
    raise AssertionError("every instant is a whole number of nanoseconds")


def _whole(offset_R: Integers, unit: int) -> bool:
    return bool((offset_R // unit * unit == offset_R).all())  # in a third of a remainder's time


def arrange(records: Records, day: Day, num_nodes: int) -> Integers:
    """The order that sorts records by (node, instant, row), as positions [R].

    One packed 64-bit key is sorted (6-15 times faster than a grouped sort); where key and row number do not fit into
    63 bits, a stable sort of the key gives the same order.
    """
    offset = records.time_R - day.start
    unit = unit_of(records.time_R, day.start)
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


def repeated(records: Records, order: Integers) -> NDArray[np.bool_]:
    """Returns [R - 1]: whether the next record in that order has the same node and instant."""
    time, node = records.time_R[order], records.node_R[order]
    again: NDArray[np.bool_] = (time[1:] == time[:-1]) & (node[1:] == node[:-1])
    return again


def keep_last(records: Records, order: Integers, again: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], Duplicates]:
    """Returns which of the ordered records stay [R], the last in file order of each node and instant; and what goes.

    Args:
        again: whether the next record has the same node and instant, [R - 1].
    """
    kept = np.append(~again, np.True_)[: len(order)]
    if not again.any():
        return kept, Duplicates(0, 0, (0,) * len(records.values))
    earlier, later = order[:-1][again], order[1:][again]
    conflict, by_column = np.zeros(len(earlier), dtype=bool), list[int]()
    for column in records.values:
        differs = np.zeros(len(earlier), dtype=bool)
        if column is not None:
            a, b = column[earlier], column[later]
            differs = ~((a == b) | (np.isnan(a) & np.isnan(b)))
        conflict |= differs
        by_column.append(int(differs.sum()))
    return kept, Duplicates(int(again.sum()), int(conflict.sum()), tuple(by_column))


def refuse_repeated(records: Records, dropped: Integers, to: Reduction) -> None:
    """Refuses records that come again, where that is a fault; `dropped`: positions of those that others replace."""
    if to.refuse is not None and len(dropped):
        assert records.place_R is not None, "who may refuse a row has its place kept"
        to.refuse(int(records.place_R[dropped].min()), len(dropped))


def without_earlier(records: Records, order: Integers, to: Reduction) -> tuple[Integers, Duplicates]:
    """Returns the order of the records that stay, and what was found of those of one name and instant."""
    kept, again = keep_last(records, order, repeated(records, order))
    refuse_repeated(records, order[~kept], to)
    return (order if to.keep_all or not again.dropped else order[kept]), again
