"""The grid layout: records of many nodes at any instants -> one value per (step, node, feature).

Legend: T steps of the date, N nodes, F features, R records.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from dateshard.shardstore.layouts.cell_order import blocks_by_cell
from dateshard.shardstore.layouts.counters import Counters
from dateshard.shardstore.layouts.feature import CALENDAR, Feature
from dateshard.shardstore.layouts.records import (
    NO_DUPLICATES,
    Records,
    Reduced,
    Reduction,
    Stretch,
    keep_last,
    refuse_repeated,
)
from dateshard.shardstore.scaling.transform import Floats, Integers


def reduce(stretches: Iterable[Stretch], to: Reduction) -> Reduced:
    """Reduces a date's records to its grid, stretch by stretch: a cell's records all lie in one.

    Memory: the grid, and beside it 8 bytes a record of a stretch and a block of its steps.
    """
    day, features, num_nodes = to.day, to.features, len(to.names)
    values = np.empty((day.num_steps, num_nodes, len(features)))
    duplicates, last, counters = NO_DUPLICATES, None, Counters(features, num_nodes)
    for stretch, records in stretches:
        last = int(records.time_R.max()) if len(records.time_R) else last
        first = (stretch.start - day.start) // stretch.step
        cells = values[first : first + stretch.num_steps]
        orders, dropped = list[Integers](), list[Integers]()
        for block in blocks_by_cell(records, stretch, num_nodes):
            kept, again = keep_last(records, block.order, block.again)
            duplicates = duplicates.and_of(again)
            order, cell = block.order, block.cell
            if again.dropped:
                dropped.append(order[~kept])
                order, cell = (order, cell) if to.keep_all else (order[kept], cell[kept])
            aggregate(records, order, cell, features, cells[block.steps])
            orders += [order] if counters.places else []
        refuse_repeated(records, np.concatenate([*dropped, np.empty(0, np.int64)]), to)
        counters.take(cells, records, orders, stretch)
    return Reduced(values_TNF=values, nodes=to.nodes, duplicates=duplicates, last=last, resets=counters.resets)


def aggregate(records: Records, order: Integers, cell: Integers, features: Sequence[Feature], into_TNF: Floats) -> None:
    """Writes what the records of some steps amount to, NaN where nothing was observed.

    Sums run in the given order: same records, same bits. Of a counter it is the last reading of a step; `counters` makes
    differences of them.

    Args:
        order: positions of the records, a cell's together, by instant and row.
        cell: each one's cell in `into_TNF`, ascending.
        into_TNF: the cells of these steps.
    """
    num_steps, num_nodes, _ = into_TNF.shape
    count_C = np.bincount(cell, minlength=num_steps * num_nodes)
    for index, feature in enumerate(features):
        column = records.values[index]
        reduced_C = _reduce(feature.aggregate, cell, None if column is None else column[order], count_C)
        into_TNF[..., index] = reduced_C.reshape(num_steps, num_nodes)


def _reduce(how: str, cell: Integers, column: Floats | None, count_C: Integers) -> Floats:
    """One feature's cells [C]. A count without records is an observed 0; every other aggregate is then NaN.

    Args:
        column: the records' values, which are changed.
        count_C: records of each cell.
    """
    if how == CALENDAR:
        return np.zeros(len(count_C))  # what the date says is put there afterwards
    if column is None:
        assert how == "count", "only count works without a column; the configuration holds this"
        return count_C.astype(np.float64)
    missing = np.flatnonzero(np.isnan(column))
    if how in ("first", "last", "difference", "min", "max"):
        if len(missing):
            cell, column = np.delete(cell, missing), np.delete(column, missing)
        return _pick(how, cell, column, len(count_C))
    if len(missing):
        count_C = count_C - np.bincount(cell[missing], minlength=len(count_C))
        column[missing] = 0.0  # which changes no sum: it begins with a positive zero
    if how == "count":
        return count_C.astype(np.float64)
    reduced_C = np.bincount(cell, weights=column, minlength=len(count_C)).astype(np.float64, copy=False)
    empty = count_C == 0
    if how == "mean":
        np.divide(reduced_C, count_C, out=reduced_C, where=~empty)
    reduced_C[empty] = np.nan
    return reduced_C


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
