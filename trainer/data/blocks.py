"""The `blocks` policy: one contiguous buffer per block, filled by sequential reads while the one before trains.

Legend: K windows of a piece, R runs of a block.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from dateshard.shardstore.dataset import Dataset
from dateshard.trainer.data.batch import BatchForm, Slot, aligned
from dateshard.trainer.data.order import DateRun, Order, Window, WindowBatch
from dateshard.trainer.data.permutation import Integers


def num_blocks(order: Order) -> int:
    """Blocks of an epoch."""
    return -(-len(order.runs) // (order.runs_per_block or max(len(order.runs), 1)))


def largest_block(order: Order, window: Window) -> int:
    """Rows of the largest block that the order can make: of the longest runs, each with its history and horizon."""
    sizes = sorted((_rows(run, order.stride, window) for run in order.runs), reverse=True)
    return sum(sizes[: order.runs_per_block or len(sizes)])


def rows_read(order: Order, window: Window) -> int:
    """Rows that all blocks of an epoch hold together; those that several runs need count each time."""
    return sum(_rows(run, order.stride, window) for run in order.runs)


def _rows(run: DateRun, stride: int, window: Window) -> int:
    return (run.count - 1) * stride + window.length


class Block:
    """One block's buffer: the rows of its runs one after the other, and strided views that are its windows.

    Args:
        values: [rows, N * F] float32. mask: [rows, N * F] uint8 or None. codes: [rows] int32 or None.
        first_R, offset_R: each run's first anchor, and the row at which its first window begins.
    """

    def __init__(
        self,
        values: torch.Tensor,
        mask: torch.Tensor | None,
        codes: torch.Tensor | None,
        offset_R: Integers,
        first_R: Integers,
        wanted: BatchForm,
    ) -> None:
        window, steps = wanted.window, len(wanted.masked)
        rows, cells = len(values) - window.length + 1, values.shape[1]
        self.row_of_anchor_R = offset_R - first_R
        self.mask_begin = wanted.masked.start
        self.windows = values.as_strided((rows, window.length * cells), (cells, 1))
        self.masks = mask.as_strided((len(mask) - steps + 1, steps * cells), (cells, 1)) if mask is not None else None
        self.codes = codes.as_strided((rows, window.length), (1, 1)) if codes is not None else None

    def prepare(self, piece: WindowBatch) -> torch.Tensor:
        """Rows at which a piece's windows begin."""
        return torch.from_numpy(self.row_of_anchor_R[piece.run_K] + piece.anchor_K)

    def gather(self, slot: Slot, at: int, start_K: torch.Tensor) -> None:
        """Gathers windows into rows of the slot, whose shapes are fixed: `index_select` silently resizes a wrong `out`."""
        stop = at + len(start_K)
        torch.index_select(self.windows, 0, start_K, out=slot.rows(slot.flat, at, stop))
        if self.masks is not None:
            torch.index_select(self.masks, 0, start_K + self.mask_begin, out=slot.rows(slot.mask_flat, at, stop))
        if self.codes is not None:
            torch.index_select(self.codes, 0, start_K, out=slot.rows(slot.codes_flat, at, stop))


class Blocks:
    """Fills blocks; the only block of an order is kept across epochs.

    Memory: `resident_bytes`, in two buffers where a block is filled while another trains.
    """

    def __init__(self, dataset: Dataset, order: Order, wanted: BatchForm, *, mask: bool, prefetch: bool) -> None:
        self.dataset, self.order, self.wanted, self.mask = dataset, order, wanted, mask
        self.prefetch = prefetch and num_blocks(order) > 1
        self.block_rows = largest_block(order, wanted.window)
        row_bytes = dataset.row_values * (5 if mask else 4) + (4 if wanted.codes else 0)
        self.resident_bytes = self.block_rows * row_bytes * (2 if self.prefetch else 1)
        self._buffers: list[tuple[NDArray[np.uint8], ...]] = []
        self._only: Block | None = None

    def serve(self, groups: Sequence[Integers]) -> Generator[Block, WindowBatch, None]:
        """Receives the next piece, gives the block that it lies in, and has the one after filled meanwhile."""
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
            cells, rows = self.dataset.row_values, self.block_rows
            sizes = (rows * cells * 4, rows * cells if self.mask else 0, rows * 4 if self.wanted.codes else 0)
            self._buffers.append(tuple(aligned(size) for size in sizes))
        return self._buffers[index]

    def _fill(self, group: Integers, buffer: int) -> Block:
        """Reads the rows of a block's runs, one after the other, into a buffer."""
        raw_values, raw_mask, raw_codes = self._buffer(buffer)
        runs = [self.order.runs[index] for index in group]
        lengths = [_rows(run, self.order.stride, self.wanted.window) for run in runs]
        offset_R = np.cumsum([0, *lengths], dtype=np.int64)
        total, shape = int(offset_R[-1]), (self.dataset.manifest.num_nodes, len(self.dataset.features))
        values = raw_values.view(np.float32)[: total * self.dataset.row_values].reshape(total, *shape)
        mask = raw_mask.view(np.bool_)[: total * self.dataset.row_values].reshape(total, *shape) if self.mask else None
        codes = raw_codes.view(np.int32)[:total] if self.wanted.codes else None
        for run, offset, length in zip(runs, offset_R, lengths, strict=False):
            low, part = run.first - self.wanted.window.before, slice(int(offset), int(offset) + length)
            seen, own = (None if mask is None else mask[part]), (None if codes is None else codes[part])
            self.dataset.read_span(run.segment, low, low + length, values[part], seen, own)
        return Block(
            torch.from_numpy(values.reshape(total, -1)),
            torch.from_numpy(mask.view(np.uint8).reshape(total, -1)) if mask is not None else None,
            torch.from_numpy(codes) if codes is not None else None,
            offset_R[:-1],
            np.array([run.first for run in runs], dtype=np.int64),
            self.wanted,
        )
