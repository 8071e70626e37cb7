"""The `resident` policy: all rows of a split's windows lie on the device that trains, and batches are gathered there.

It serves any order: a window is found by its run, whichever block the order puts that in.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch

from dateshard.shardstore.dataset import Dataset
from dateshard.trainer.data.batch import BatchForm, Memory, Slot
from dateshard.trainer.data.blocks import Block, RecordsBefore, rows_read, spans_of_runs
from dateshard.trainer.data.order import Order, WindowBatch
from dateshard.trainer.data.permutation import Integers

CHUNK = 64 << 20  # bytes that are read at a time, on the way to the device


@dataclass(frozen=True, slots=True)
class ResidentWindows:
    """A block of all runs, in the memory of a device."""

    block: Block

    def prepare(self, piece: WindowBatch) -> torch.Tensor:
        """Rows at which a piece's windows begin, on the device."""
        of_all_runs = replace(piece, run_K=piece.block_runs[piece.run_K])
        return self.block.prepare(of_all_runs).to(self.block.windows.device)

    def gather(self, slot: Slot, at: int, chosen: torch.Tensor) -> None:
        """Copies windows into rows [at, ...) of a slot on the same device."""
        self.block.gather(slot, at, chosen)


class Resident:
    """Loads a split once, before its first batch.

    Memory: `resident_bytes` on the device; on the host a chunk while it loads, and the instants of records.

    Args:
        memory: makes so many bytes on the device.
    """

    def __init__(self, dataset: Dataset, order: Order, wanted: BatchForm, *, mask: bool, memory: Memory) -> None:
        self.dataset, self.order, self.wanted, self.mask, self.memory = dataset, order, wanted, mask, memory
        self.row_bytes = dataset.row_values * (5 if mask else 4) + (4 if wanted.codes else 0)
        self.resident_bytes = rows_read(order, wanted.window) * self.row_bytes
        self._windows: ResidentWindows | None = None

    def serve(self, groups: Sequence[Integers]) -> Generator[ResidentWindows, WindowBatch, None]:
        """Every piece lies here."""
        self._windows = self._windows or self._load()
        while True:
            yield self._windows

    def _load(self) -> ResidentWindows:
        window, runs, cells = self.wanted.window, self.order.runs, self.dataset.row_values
        spans, begin_R = spans_of_runs(runs, self.order.stride, window)
        rows = int(begin_R[-1])
        values = self.memory(rows * cells * 4).view(torch.float32).view(rows, cells)
        mask = self.memory(rows * cells).view(rows, cells) if self.mask else None
        codes = self.memory(rows * 4).view(torch.int32) if self.wanted.codes else None
        times = np.empty(rows, dtype=np.int64) if window.interval else None
        at, step = 0, max(1, CHUNK // self.row_bytes)
        for segment, low, high in spans:
            edges = [low, *range(max(low, 0) + step, high, step), high]  # padding, below 0, comes with the first rows
            for first, last in pairwise(edges):
                to = slice(at, at + last - first)
                held = [None if tensor is None else tensor[to] for tensor in (values, mask, codes)]
                self._read(segment, first, last, held)
                if times is not None:
                    self.dataset.read_span(segment, first, last, times=times[to])
                at = to.stop
        first_R, piece_R = (
            np.array([getattr(run, name) for run in runs], dtype=np.int64) for name in ("first", "begin")
        )
        before = None if times is None else RecordsBefore(times, piece_R, window)
        return ResidentWindows(Block(values, mask, codes, begin_R[:-1], first_R, self.wanted, before))

    def _read(self, segment: int, first: int, last: int, held: Sequence[torch.Tensor | None]) -> None:
        """Reads steps of a segment on the host and copies them to where they stay."""
        shape = (last - first, self.dataset.manifest.num_nodes, len(self.dataset.features))
        values = np.empty(shape, dtype=np.float32)
        mask = np.empty(shape, dtype=np.bool_) if self.mask else None
        codes = np.empty(last - first, dtype=np.int32) if self.wanted.codes else None
        self.dataset.read_span(segment, first, last, values, mask, codes)
        read = (values, None if mask is None else mask.view(np.uint8), codes)
        for tensor, array in zip(held, read, strict=True):
            if tensor is not None and array is not None:
                tensor.copy_(torch.from_numpy(array.reshape(tensor.shape)))
