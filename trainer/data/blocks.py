"""The `blocks` policy: one contiguous buffer per block, filled by sequential reads, out of which batches are gathered.

Legend: K windows of a piece, R runs of a block.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from dateshard.shardstore.dataset import Dataset
from dateshard.trainer.data.batch import BatchForm, Slot, aligned
from dateshard.trainer.data.order import DateRun, Order, Window, WindowBatch
from dateshard.trainer.data.permutation import Integers
from dateshard.trainer.data.split_runs import records_before

LONG_ROW = 128 << 10  # bytes; 32,768 cells of float32, from which on torch copies a row by a slower way of its own


def buffer_rows(order: Order, window: Window, *, prefetch: bool) -> tuple[int, ...]:
    """Rows of each buffer: those of the longest runs that its blocks can be made of, with their histories and horizons.

    There are two where a block is filled while another trains. Of two blocks the second one is what the first leaves.
    """
    sizes = sorted(_rows_by_dates(order, window), reverse=True)
    dates = order.runs_per_block or max(len(sizes), 1)
    rest = len(sizes) - dates if prefetch else 0
    return tuple(sum(sizes[:count]) for count in (dates, min(dates, rest)) if count > 0)


def rows_read(order: Order, window: Window) -> int:
    """Rows that all blocks of an epoch hold together; those that runs of several dates need count each time."""
    return sum(_rows_by_dates(order, window))


def _rows_by_dates(order: Order, window: Window) -> list[int]:
    """The rows that the runs of the same dates take together."""
    edges = order.date_edges.tolist()
    return [
        sum(high - low for low, high in _spans(order.runs[first:last], order.stride, window)[0])
        for first, last in pairwise(edges)
    ]


def _spans(runs: Sequence[DateRun], stride: int, window: Window) -> tuple[list[tuple[int, int]], list[int]]:
    """What is read for runs of the same dates: (spans of their segment, the row at which each run's first window begins).

    Neighbours share the rows that both need, and what lies between two pieces is read along where it is short.
    """
    spans, begins, rows = list[tuple[int, int]](), list[int](), 0
    for run in runs:
        low = run.first - window.before
        high = low + (run.count - 1) * stride + window.length
        if spans and low - spans[-1][1] <= window.length:
            rows += max(0, high - spans[-1][1])
            spans[-1] = (spans[-1][0], max(high, spans[-1][1]))
        else:
            spans.append((low, high))
            rows += high - low
        begins.append(rows - (spans[-1][1] - low))
    return spans, begins


def spans_of_runs(runs: Sequence[DateRun], stride: int, window: Window) -> tuple[list[tuple[int, int, int]], Integers]:
    """Returns (segment, low, high) of what is read for runs, and the row at which each run's first window begins.

    A last entry is the number of all rows."""
    spans, begins, at = list[tuple[int, int, int]](), list[int](), 0
    for (segment, _), of_dates in groupby(runs, key=lambda run: (run.segment, run.first_day)):
        joined, own = _spans(list(of_dates), stride, window)
        spans += [(segment, low, high) for low, high in joined]
        begins += [at + begin for begin in own]
        at += sum(high - low for low, high in joined)
    return spans, np.array([*begins, at], dtype=np.int64)


def num_blocks(order: Order) -> int:
    """Blocks of an epoch."""
    count = len(order.date_edges) - 1
    return -(-count // (order.runs_per_block or max(count, 1)))


class Block:
    """One block's buffer: the rows of its runs one after the other, and strided views that are its windows.

    Args:
        values: [rows, N * F] float32. mask: [rows, N * F] uint8 or None. codes: [rows] int32 or None.
        first_R, offset_R: each run's first anchor, and the row at which its first window begins.
        before: counts the records of histories that are intervals of time.
    """

    def __init__(
        self,
        values: torch.Tensor,
        mask: torch.Tensor | None,
        codes: torch.Tensor | None,
        offset_R: Integers,
        first_R: Integers,
        wanted: BatchForm,
        before: RecordsBefore | None = None,
    ) -> None:
        self.before = before
        window, steps = wanted.window, len(wanted.masked)
        rows, cells = len(values) - window.length + 1, values.shape[1]
        self.row_of_anchor_R = offset_R - first_R
        self.mask_begin = wanted.masked.start
        self.windows = values.as_strided((rows, window.length * cells), (cells, 1))
        self.masks = mask.as_strided((len(mask) - steps + 1, steps * cells), (cells, 1)) if mask is not None else None
        self.codes = codes.as_strided((rows, window.length), (1, 1)) if codes is not None else None

    def prepare(self, piece: WindowBatch) -> torch.Tensor:
        """Rows at which a piece's windows begin [K]; [K, 2] with the records of their histories where those are intervals."""
        start_K = self.row_of_anchor_R[piece.run_K] + piece.anchor_K
        if self.before is None:
            return torch.from_numpy(start_K)
        return torch.from_numpy(np.stack([start_K, self.before.of(start_K, piece)], axis=1))

    def gather(self, slot: Slot, at: int, chosen: torch.Tensor) -> None:
        """Gathers windows into rows of the slot, whose shapes are fixed: `index_select` silently resizes a wrong `out`."""
        stop, start_K = at + len(chosen), chosen if self.before is None else chosen[:, 0].contiguous()
        select_rows(self.windows, start_K, slot.rows(slot.flat, at, stop))
        if self.masks is not None:
            select_rows(self.masks, start_K + self.mask_begin, slot.rows(slot.mask_flat, at, stop))
        if self.codes is not None:
            torch.index_select(self.codes, 0, start_K, out=slot.rows(slot.codes_flat, at, stop))
        if self.before is not None:
            slot.pad(at, stop, chosen[:, 1])


def select_rows(windows: torch.Tensor, start_K: torch.Tensor, out: torch.Tensor) -> None:
    """Copies rows of a strided view to `out` [K, cells], as `index_select` does; long ones one by one (decision 92)."""
    if windows.is_cpu and windows.shape[1] * windows.element_size() >= LONG_ROW:
        source, target = windows.numpy(), out.numpy()
        for row, start in enumerate(start_K.tolist()):
            target[row] = source[start]
    else:
        torch.index_select(windows, 0, start_K, out=out)


@dataclass(frozen=True, slots=True)
class RecordsBefore:
    """Instants of a block's rows, and the first step of each of its runs' pieces."""

    time_T: Integers
    begin_R: Integers
    window: Window

    def of(self, start_K: Integers, piece: WindowBatch) -> Integers:
        """How many records the histories of windows have, whose rows begin at `start_K`."""
        row_K = start_K + self.window.before
        return records_before(self.time_T, row_K, row_K - (piece.anchor_K - self.begin_R[piece.run_K]), self.window)


class Blocks:
    """Fills blocks; the only block of an order is kept across epochs.

    Memory: `resident_bytes`, in two buffers where a block is filled while another trains.
    """

    def __init__(self, dataset: Dataset, order: Order, wanted: BatchForm, *, mask: bool, prefetch: bool) -> None:
        self.dataset, self.order, self.wanted, self.mask = dataset, order, wanted, mask
        self.prefetch = prefetch and num_blocks(order) > 1
        self.buffer_rows = buffer_rows(order, wanted.window, prefetch=prefetch)
        row_bytes = dataset.row_values * (5 if mask else 4) + (4 if wanted.codes else 0)
        row_bytes += 8 if wanted.window.interval else 0
        self.resident_bytes = sum(self.buffer_rows) * row_bytes
        self._buffers: list[tuple[NDArray[np.uint8], ...]] = []
        self._only: Block | None = None

    def serve(self, groups: Sequence[Integers]) -> Generator[Block, WindowBatch, None]:
        """Receives the next piece, gives the block that it lies in, and has the one after filled meanwhile.

        piece of block    0   0   1   1   2
        trains on         0   0   1   1   2      buffer 0, 0, 1, 1, 0
        thread fills      1   -   2   -   -      into the buffer that nobody reads
        """
        if len(groups) == 1:
            while True:
                yield self._load(groups, 0)
        with ThreadPoolExecutor(1, thread_name_prefix="dateshard-block") as thread:
            held, block = -1, cast(Block, None)
            coming: dict[int, Future[Block]] = {}  # at most one: the block after the held one
            while True:
                piece = yield block
                if piece.block == held:
                    continue
                filled = {number: future.result() for number, future in coming.items()}
                block = filled.get(piece.block) or self._load(groups, piece.block)  # a rank may skip a small block
                held, coming = piece.block, {}
                if self.prefetch and held + 1 < len(groups):
                    coming[held + 1] = thread.submit(self._fill, groups[held + 1], (held + 1) % 2)

    def _load(self, groups: Sequence[Integers], number: int) -> Block:
        if len(groups) > 1:
            return self._fill(groups[number], number % 2 if self.prefetch else 0)
        if self._only is None:
            self._only = self._fill(groups[0], 0)
        return self._only

    def _buffer(self, index: int) -> tuple[NDArray[np.uint8], ...]:
        while len(self._buffers) <= index:
            cells, rows = self.dataset.row_values, self.buffer_rows[len(self._buffers)]
            timed = rows * 8 if self.wanted.window.interval else 0
            sizes = (rows * cells * 4, rows * cells if self.mask else 0, rows * 4 if self.wanted.codes else 0, timed)
            self._buffers.append(tuple(aligned(size) for size in sizes))
        return self._buffers[index]

    def _fill(self, group: Integers, buffer: int) -> Block:
        """Reads the rows of a block's runs, one after the other, into a buffer."""
        runs = [self.order.runs[index] for index in group]
        spans, begin_R = spans_of_runs(runs, self.order.stride, self.wanted.window)
        total, shape = int(begin_R[-1]), (self.dataset.manifest.num_nodes, len(self.dataset.features))
        raw_values, raw_mask, raw_codes, raw_times = self._buffer(buffer)
        cells = total * self.dataset.row_values
        values = raw_values.view(np.float32)[:cells].reshape(total, *shape)
        mask = raw_mask.view(np.bool_)[:cells].reshape(total, *shape) if self.mask else None
        codes = raw_codes.view(np.int32)[:total] if self.wanted.codes else None
        times = raw_times.view(np.int64)[:total] if self.wanted.window.interval else None
        at = 0
        for segment, low, high in spans:
            rows = slice(at, at + high - low)
            seen, own = (None if mask is None else mask[rows]), (None if codes is None else codes[rows])
            when = None if times is None else times[rows]
            self.dataset.read_span(segment, low, high, values[rows], seen, own, when)
            at = rows.stop
        first_R, piece_R = (
            np.array([getattr(run, name) for run in runs], dtype=np.int64) for name in ("first", "begin")
        )
        return Block(
            torch.from_numpy(values.reshape(total, -1)),
            torch.from_numpy(mask.view(np.uint8).reshape(total, -1)) if mask is not None else None,
            torch.from_numpy(codes) if codes is not None else None,
            begin_R[:-1],
            first_R,
            self.wanted,
            None if times is None else RecordsBefore(times, piece_R, self.wanted.window),
        )
