"""The grid layout: records of many nodes at any instants -> one value per (step, node, feature).

Legend: T steps of the date, N nodes, F features, R records.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from dateshard.shardstore.layouts.counters import Counters
from dateshard.shardstore.layouts.feature import CALENDAR, Feature
from dateshard.shardstore.layouts.records import (
    NO_DUPLICATES,
    Records,
    Reduced,
    Reduction,
    Stretch,
    arrange,
    without_earlier,
)
from dateshard.shardstore.scaling.transform import Floats, Integers
from dateshard.shardstore.times.calendar import Day


def reduce(stretches: Iterable[Stretch], to: Reduction) -> Reduced:
    """Reduces a date's records to its grid, stretch by stretch: a cell's records all lie in one."""
    day, features, num_nodes = to.day, to.features, len(to.names)
    values = np.empty((day.num_steps, num_nodes, len(features)))
    duplicates, last, counters = NO_DUPLICATES, None, Counters(features, num_nodes)
    for stretch, records in stretches:
        last = int(records.time_R.max()) if len(records.time_R) else last
        order, again = without_earlier(records, arrange(records, stretch, num_nodes), to)
        first = (stretch.start - day.start) // stretch.step
        cells = values[first : first + stretch.num_steps]
        cells[...] = aggregate(records, order, stretch, num_nodes, features)
        counters.take(cells, records, order, stretch)
        duplicates = duplicates.and_of(again)
    return Reduced(values_TNF=values, nodes=to.nodes, duplicates=duplicates, last=last, resets=counters.resets)


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
    if how == CALENDAR:
        return np.zeros(size)  # what the date says is put there afterwards
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
