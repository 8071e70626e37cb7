"""Order + `read(date, rows, out)` -> batches. Windows are never stored: a batch is one gather over a strided view.

`blocks` fills one contiguous buffer per block by sequential reads, the next while this one trains. `mapped` serves the
same order from lazily mapped files. The policy, the budget and prefetching never change a batch.

Legend: B batch, H history steps, P target steps, W window steps, N nodes, F features (Fi inputs, Fo targets).
"""

from __future__ import annotations

import mmap
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray

from shardstore.calendar import Day, Segment
from shardstore.dataset import Dataset
from shardstore.errors import UsageError
from trainer.mapped import MappedDates
from trainer.order import Integers, Order, Piece, Run, Window

HUGE_PAGE = 2 << 20
RING_SLOTS = 2  # a batch stays valid until the next but one
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Batch:
    """Views into a buffer that is used again two batches later; not contiguous: no `.view`.

    Attributes:
        history_BHNF, target_BPNF: float32, scaled.
        observed_BPNF: bool, None where the dataset misses nothing.
        codes_BW: int32 time codes (step of local day x 8 + weekday) of the whole window, None unless asked for.
    """

    history_BHNF: torch.Tensor
    target_BPNF: torch.Tensor
    observed_BPNF: torch.Tensor | None
    codes_BW: torch.Tensor | None

    @property
    def size(self) -> int:
        """Windows in the batch."""
        return len(self.history_BHNF)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a batch is made of."""

    window: Window
    inputs: tuple[int, ...]
    targets: tuple[int, ...]
    codes: bool = False


class Source(Protocol):
    """Brings the windows of pieces; `prepare`'s result can be sliced, a slice of it is gathered into a slot."""

    def prepare(self, piece: Piece) -> Any:
        """Where a piece's windows begin."""
        ...

    def gather(self, slot: Slot, at: int, chosen: Any) -> None:
        """Copies windows into rows [at, at + len) of the slot."""
        ...


def aligned(num_bytes: int) -> NDArray[np.uint8]:
    """Zeroed anonymous memory; large ones start at 2 MB and ask for huge pages (73 -> 89 % of memcpy at big windows)."""
    if num_bytes < 2 * HUGE_PAGE:
        return np.zeros(num_bytes, dtype=np.uint8)
    area = mmap.mmap(-1, num_bytes + HUGE_PAGE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        area.madvise(mmap.MADV_HUGEPAGE)
    raw = np.frombuffer(area, dtype=np.uint8)
    skip = -raw.ctypes.data % HUGE_PAGE
    return raw[skip : skip + num_bytes]


def columns(index: tuple[int, ...]) -> slice | list[int]:
    """A slice (a view) where the columns are neighbours, else a list (a copy per batch)."""
    joined = index == tuple(range(index[0], index[0] + len(index)))
    return slice(index[0], index[0] + len(index)) if joined else list(index)


class Slot:
    """One buffer of the ring with its views made once."""

    def __init__(self, batch_size: int, num_nodes: int, num_features: int, wanted: Wanted, *, mask: bool) -> None:
        window, self.wanted = wanted.window, wanted
        cells = num_nodes * num_features
        self.values = aligned(batch_size * window.length * cells * 4).view(np.float32).reshape(batch_size, -1)
        self.flat = torch.from_numpy(self.values)
        self.shaped = self.flat.view(batch_size, window.length, num_nodes, num_features)
        self.mask = np.zeros((batch_size, window.target_steps * cells), dtype=np.uint8) if mask else None
        self.codes = np.zeros((batch_size, window.length), dtype=np.int32) if wanted.codes else None
        if self.mask is not None:
            self.mask_flat = torch.from_numpy(self.mask)
            self.mask_shaped = self.mask_flat.view(batch_size, window.target_steps, num_nodes, num_features)
        if self.codes is not None:
            self.codes_flat = torch.from_numpy(self.codes)
        self.full = self._batch(batch_size)
        self.views = all(isinstance(columns(index), slice) for index in (wanted.inputs, wanted.targets))

    def _batch(self, size: int) -> Batch:
        window = self.wanted.window
        begin = window.history if window.horizon else 0
        targets = columns(self.wanted.targets)
        return Batch(
            self.shaped[:size, : window.history, :, columns(self.wanted.inputs)],
            self.shaped[:size, begin : begin + window.target_steps, :, targets],
            self.mask_shaped[:size, :, :, targets].view(torch.bool) if self.mask is not None else None,
            self.codes_flat[:size] if self.codes is not None else None,
        )

    def batch(self, size: int) -> Batch:
        """The batch of the first `size` rows; views made once where that is possible."""
        return self.full if size == len(self.values) and self.views else self._batch(size)

    @staticmethod
    def rows(buffer: torch.Tensor, at: int, stop: int) -> torch.Tensor:
        """Rows [at, stop) of one of the slot's buffers."""
        return buffer if stop - at == len(buffer) else buffer[at:stop]


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
        window: Window,
    ) -> None:
        rows, cells = len(values) - window.length + 1, values.shape[1]
        steps = window.target_steps
        self.row_of_anchor_R = offset_R - first_R
        self.target_begin = window.history if window.horizon else 0
        self.windows = values.as_strided((rows, window.length * cells), (cells, 1))
        self.targets = mask.as_strided((len(mask) - steps + 1, steps * cells), (cells, 1)) if mask is not None else None
        self.codes = codes.as_strided((rows, window.length), (1, 1)) if codes is not None else None

    def prepare(self, piece: Piece) -> torch.Tensor:
        """Rows at which a piece's windows begin."""
        return torch.from_numpy(self.row_of_anchor_R[piece.run_K] + piece.anchor_K)

    def gather(self, slot: Slot, at: int, start_K: torch.Tensor) -> None:
        """`index_select` silently resizes a wrong `out`, so shapes are fixed by slicing rows of the slot."""
        stop = at + len(start_K)
        torch.index_select(self.windows, 0, start_K, out=slot.rows(slot.flat, at, stop))
        if self.targets is not None:
            torch.index_select(self.targets, 0, start_K + self.target_begin, out=slot.rows(slot.mask_flat, at, stop))
        if self.codes is not None:
            torch.index_select(self.codes, 0, start_K, out=slot.rows(slot.codes_flat, at, stop))


class Calendar:
    """Steps of segments <-> rows of dates."""

    def __init__(self, days: Sequence[Day], segments: Sequence[Segment]) -> None:
        self.days, self.segments = days, segments
        self.edges = [
            np.cumsum([0, *(day.num_steps for day in days[segment.first : segment.last])]) for segment in segments
        ]

    def spans(self, segment: int, low: int, high: int) -> Iterator[tuple[Day, slice]]:
        """The dates and their rows that steps [low, high) of a segment fall into."""
        edges = self.edges[segment]
        index = int(np.searchsorted(edges, low, side="right")) - 1
        while low < high:
            stop = min(high, int(edges[index + 1]))
            yield (
                self.days[self.segments[segment].first + index],
                slice(low - int(edges[index]), stop - int(edges[index])),
            )
            low, index = stop, index + 1


class Reader:
    """Batches of one split.

    Memory: `resident_bytes` for blocks (never above the budget, or refused), maps for mapped; plus a ring of 2 batches.

    Args:
        policy: `blocks`, `mapped`, or `auto`: blocks where they fit the budget, else mapped.
        memory_budget: bytes that block buffers may take.
        prefetch: fill the next block while this one trains.

    Raises:
        UsageError: the block does not fit the budget under `policy: blocks`; says what would.
    """

    def __init__(
        self,
        dataset: Dataset,
        order: Order,
        wanted: Wanted,
        *,
        policy: str = "auto",
        memory_budget: int = 2 * GIB,
        prefetch: bool = True,
    ) -> None:
        self.dataset, self.order, self.wanted, self.prefetch = dataset, order, wanted, prefetch
        self.calendar = Calendar(dataset.days, dataset.segments)
        self.mask = any(dataset.has_mask(day.date) for day in dataset.days)
        self.num_blocks = -(-len(order.runs) // (order.runs_per_block or max(len(order.runs), 1)))
        self.block_rows = self._largest_block()
        self.row_bytes = dataset.row_values * (5 if self.mask else 4) + (4 if wanted.codes else 0)
        num_buffers = 2 if prefetch and self.num_blocks > 1 else 1
        self.resident_bytes = self.block_rows * self.row_bytes * num_buffers
        self.policy = self._choose(policy, memory_budget)
        self._ring: list[Slot] = []
        self._turn = 0  # slots taken so far: the ring goes on over the border of epochs
        self._buffers: list[tuple[NDArray[np.uint8], ...]] = []
        self._only: Block | None = None  # the only block is kept across epochs
        self._maps = (
            MappedDates(dataset, self.calendar, wanted, order.runs, mask=self.mask) if self.policy == "mapped" else None
        )

    def _rows(self, run: Run) -> int:
        return (run.count - 1) * self.order.stride + self.wanted.window.length

    def _largest_block(self) -> int:
        sizes = sorted((self._rows(run) for run in self.order.runs), reverse=True)
        return sum(sizes[: self.order.runs_per_block or len(sizes)])

    def _choose(self, policy: str, budget: int) -> str:
        if policy == "mapped":
            return policy
        fits = self.resident_bytes <= budget
        sparse = self.order.stride > self.wanted.window.length // 2
        if policy == "auto":
            return "blocks" if fits and not sparse else "mapped"
        if not fits:
            raise UsageError(
                f"blocks of this order need {self.resident_bytes / 1e6:,.3f} MB, "
                f"trainer.loading.memory_budget allows {budget / 1e6:,.3f} MB",
                todo="Set loading.policy: mapped (the same batches), a smaller loading.days_per_batch (another order), "
                "or a larger budget",
            )
        return "blocks"

    @property
    def windows_per_epoch(self) -> int:
        """Windows of an epoch."""
        return self.order.num_windows

    def batches(self, epoch: int, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Batches of an epoch from number `start` on. Reaching a batch directly gives the same as counting up to it."""
        if not self.order.runs:
            return
        if not self._ring:
            shape = (self.dataset.manifest.num_nodes, len(self.dataset.features))
            size = -(-self.order.batch_size // world)
            self._ring = [Slot(size, *shape, self.wanted, mask=self.mask) for _ in range(RING_SLOTS)]
        sources = self._maps_of() if self._maps else self._blocks_of(epoch)
        source, prepared = cast(Source, None), cast(Any, None)
        with closing(sources):
            next(sources)
            for draw in self.order.epoch(epoch).draws(start):
                held = -1
                for begin in range(draw.low, draw.high, self.order.batch_size):
                    slot, at, end = (
                        self._ring[self._turn % RING_SLOTS],
                        0,
                        min(begin + self.order.batch_size, draw.high),
                    )
                    for which, chosen in draw.cut(begin, end, rank, world):
                        if which != held:
                            source, held = sources.send(draw.pieces[which]), which
                            prepared = source.prepare(draw.pieces[which])
                        part = prepared[chosen]
                        source.gather(slot, at, part)
                        at += len(part)
                    self._turn += 1
                    yield slot.batch(at)

    def _maps_of(self) -> Generator[Source, Piece, None]:
        """The mapped dates serve every piece."""
        source = cast(Source, self._maps)
        while True:
            yield source

    def _blocks_of(self, epoch: int) -> Generator[Source, Piece, None]:
        """Receives the next piece, gives the block that it lies in, and has the one after filled meanwhile."""
        groups = self.order.epoch(epoch).blocks
        with ThreadPoolExecutor(1, thread_name_prefix="dateshard-block") as thread:
            held, block = -1, cast(Source, None)
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

    def _load(self, groups: list[Integers], number: int) -> Block:
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
        lengths = [self._rows(run) for run in runs]
        offset_R = np.cumsum([0, *lengths], dtype=np.int64)
        total, shape = int(offset_R[-1]), (self.dataset.manifest.num_nodes, len(self.dataset.features))
        values = raw_values.view(np.float32)[: total * self.dataset.row_values].reshape(total, *shape)
        mask = raw_mask.view(np.bool_)[: total * self.dataset.row_values].reshape(total, *shape) if self.mask else None
        codes = raw_codes.view(np.int32)[:total] if self.wanted.codes else None
        for run, offset, length in zip(runs, offset_R, lengths, strict=False):
            low, at = run.first - self.wanted.window.before, int(offset)
            for day, rows in self.calendar.spans(run.segment, low, low + length):
                count = rows.stop - rows.start
                self.dataset.read(day.date, rows, values[at : at + count])
                if mask is not None:
                    self.dataset.read_observed(day.date, rows, mask[at : at + count])
                if codes is not None:
                    codes[at : at + count] = self.dataset.codes(day)[rows]
                at += count
        return Block(
            torch.from_numpy(values.reshape(total, -1)),
            torch.from_numpy(mask.view(np.uint8).reshape(total, -1)) if mask is not None else None,
            torch.from_numpy(codes) if codes is not None else None,
            offset_R[:-1],
            np.array([run.first for run in runs], dtype=np.int64),
            self.wanted.window,
        )
