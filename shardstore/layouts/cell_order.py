"""Records of a grid by their cells, a few steps of the date at a time: what is worked on stays in the processor's cache.

    packed key, 63 bits     | step * nodes + node | units since the step began | row |

Sorted, it holds the order by (step, node, instant, row): a cell's records stand together, and so do those of a step, which a
dump has close to each other too. Of the key come the cells, the rows, and which records repeat a node and instant.

Legend: R records of a stretch, B records of a block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dateshard.shardstore.layouts.records import Records, unit_of
from dateshard.shardstore.scaling.transform import Integers
from dateshard.shardstore.times.calendar import Day

CHUNK = 1 << 15  # records whose keys are made at once
BLOCK_CELLS, BLOCK_RECORDS = 1 << 14, 1 << 16  # of a block, unless one step has more


@dataclass(frozen=True, slots=True, kw_only=True)
class CellBlock:
    """The records of some steps of a stretch, by (step, node, instant, row).

    Attributes:
        steps: these, counted from the stretch's first.
        order: int64 [B], positions of the records.
        cell: int64 [B], step * nodes + node, counted from the block's first cell.
        again: bool [B - 1], whether the next record has the same node and instant.
    """

    steps: slice
    order: Integers
    cell: Integers
    again: NDArray[np.bool_]


def blocks_by_cell(records: Records, day: Day, num_nodes: int) -> Iterator[CellBlock]:
    """Yields the stretch's steps in order, all of them, with their records.

    Memory: 8 bytes a record, and a block; 24 bytes where the key does not fit into 63 bits.
    """
    count = max(len(records.time_R), 1)
    steps = max(1, min(BLOCK_CELLS // max(num_nodes, 1), BLOCK_RECORDS * day.num_steps // count))
    unit = math.gcd(unit_of(records.time_R, day.start), day.step)
    within_bits, row_bits = (day.step // unit - 1).bit_length(), (count - 1).bit_length()
    if (day.num_steps * num_nodes).bit_length() + within_bits + row_bits > 63:
        yield from _unpacked(records, day, num_nodes, steps)
        return
    shift, rows = within_bits + row_bits, (1 << row_bits) - 1
    packed = _packed(records, day, num_nodes, (unit, within_bits, row_bits))
    packed.sort()  # 6 ns a record where the processor has wide registers
    firsts = np.arange(0, day.num_steps + steps, steps)
    ends = np.searchsorted(packed, np.minimum(firsts, day.num_steps) * num_nodes << shift).tolist()
    for first, low, high in zip(firsts.tolist(), ends, ends[1:], strict=False):
        key = packed[low:high]
        instant = key >> row_bits
        yield CellBlock(
            steps=slice(first, min(first + steps, day.num_steps)),
            order=key & rows,
            cell=(instant >> within_bits) - first * num_nodes,
            again=instant[1:] == instant[:-1],
        )


def _packed(records: Records, day: Day, num_nodes: int, form: tuple[int, int, int]) -> Integers:
    """Returns the keys of all records [R], not sorted.

    Args:
        form: nanoseconds of a unit, bits of an instant in its step, bits of a row.
    """
    unit, within_bits, row_bits = form
    packed, units = np.empty(len(records.time_R), dtype=np.int64), day.step // unit
    for low in range(0, len(packed), CHUNK):
        rows = slice(low, low + CHUNK)
        at = (records.time_R[rows] - day.start) // unit
        step = at // units
        key = (step * num_nodes + records.node_R[rows]) << within_bits | (at - step * units)
        packed[rows] = key << row_bits | np.arange(low, low + len(key))
    return packed


def _unpacked(records: Records, day: Day, num_nodes: int, steps: int) -> Iterator[CellBlock]:
    """Yields the blocks where no 63 bits hold a key: of single nanoseconds, with very many nodes or rows."""
    offset = records.time_R - day.start
    order = np.lexsort((offset, records.node_R, offset // day.step))
    step = offset[order] // day.step
    for first in range(0, day.num_steps, steps):
        low, high = np.searchsorted(step, [first, first + steps]).tolist()
        block = order[low:high]
        node, time = records.node_R[block], records.time_R[block]
        yield CellBlock(
            steps=slice(first, min(first + steps, day.num_steps)),
            order=block,
            cell=(step[low:high] - first) * num_nodes + node,
            again=(time[1:] == time[:-1]) & (node[1:] == node[:-1]),
        )
