"""The `mapped` policy: gathers batches from lazily mapped files, piece by piece where windows cross midnight.

For several processes on one host (they share the page cache), for random touch, and for data above the budget.
"""

from __future__ import annotations

import datetime as dt
import resource
import sys
from collections import OrderedDict
from collections.abc import Generator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.objects.bucket_store import bucket_of
from dateshard.shardstore.objects.copies_budget import budget_bytes
from dateshard.shardstore.storage.part_files import OF_CELLS
from dateshard.shardstore.times.calendar import Day
from dateshard.trainer.data.batch import BatchForm, Slot
from dateshard.trainer.data.order import DateRun, WindowBatch
from dateshard.trainer.data.permutation import Integers
from dateshard.trainer.data.split_runs import records_before

CellMap = tuple[slice, NDArray[np.generic] | None]  # places in a row of [N x F], and their array; None: all observed
IN_MEMORY = 8  # dates that lack nodes which came later: those are no maps
CODES_KEPT = 512  # dates whose time codes are remembered


class MappedDates:
    """Maps of dates, opened on first touch; the least recently used is dropped above the limit."""

    def __init__(self, dataset: Dataset, wanted: BatchForm, runs: Sequence[DateRun], *, mask: bool) -> None:
        self.dataset, self.wanted, self.mask = dataset, wanted, mask
        self._segment = np.array([run.segment for run in runs], dtype=np.int64)
        self._begin = np.array([run.begin for run in runs], dtype=np.int64)
        self._maps: OrderedDict[tuple[dt.date, str], list[CellMap]] = OrderedDict()
        self._limit, self._num_maps = min(map_limit(), copies_limit(dataset)), 0
        self._codes = lru_cache(maxsize=CODES_KEPT)(dataset.codes)

    def serve(self, groups: Sequence[Integers]) -> Generator[MappedDates, WindowBatch, None]:
        """Every piece lies here."""
        while True:
            yield self

    def prepare(self, piece: WindowBatch) -> NDArray[np.int64]:
        """Returns [K, 3]: segment and first step of each window, and the records of its history."""
        run_K, window = piece.block_runs[piece.run_K], self.wanted.window
        before_K = np.full(len(run_K), window.history)
        if window.interval:
            places = zip(
                self._segment[run_K].tolist(), piece.anchor_K.tolist(), self._begin[run_K].tolist(), strict=True
            )
            before_K[:] = [self._records_before(*place) for place in places]
        return np.stack([self._segment[run_K], piece.anchor_K - window.before, before_K], axis=1)

    def _records_before(self, segment: int, anchor: int, begin: int) -> int:
        low = max(begin, anchor - self.wanted.window.history)
        times = np.empty(anchor + 1 - low, dtype=np.int64)
        self._copy("time", segment, low, times[:, None])
        (count,) = records_before(times, np.array([anchor - low]), np.zeros(1, np.int64), self.wanted.window)
        return int(count)

    def gather(self, slot: Slot, at: int, chosen: NDArray[np.int64]) -> None:
        """Copies windows into rows [at, ...) of the slot."""
        masked, shape = self.wanted.masked, (self.wanted.window.length, self.dataset.row_values)
        values = slot.flat.numpy()
        mask = slot.mask_flat.numpy() if slot.has_mask else None
        codes = slot.codes_flat.numpy() if slot.has_codes else None
        for row, (segment, low, _) in enumerate(chosen.tolist(), start=at):
            self._copy("values", segment, low, values[row].reshape(shape))
            if mask is not None:
                self._copy("observed", segment, low + masked.start, mask[row].reshape(len(masked), -1))
            if codes is not None:
                self._copy_codes(segment, low, codes[row])
        if self.wanted.window.interval:
            slot.pad(at, at + len(chosen), torch.from_numpy(chosen[:, 2]))

    def _copy(self, array: str, segment: int, low: int, out: NDArray[np.generic]) -> None:
        at = max(0, -low)  # before a segment is padding
        for day, rows in self.dataset.timeline.spans(segment, low + at, low + len(out)):
            count = rows.stop - rows.start
            for cells, mapped in self._of_date(day.date, array):  # one, or one a part
                out[at : at + count, cells] = True if mapped is None else mapped[rows]
            at += count

    def _copy_codes(self, segment: int, low: int, out: NDArray[np.int32]) -> None:
        at = max(0, -low)
        for day, rows in self.dataset.timeline.spans(segment, low + at, low + len(out)):
            count = rows.stop - rows.start
            out[at : at + count] = self._day_codes(day)[rows]
            at += count

    def _day_codes(self, day: Day) -> NDArray[np.int32]:
        return self._codes(day)

    def _of_date(self, date: dt.date, array: str) -> list[CellMap]:
        key = (date, array)
        if key in self._maps:
            self._maps.move_to_end(key)
            return self._maps[key]
        wide, num_parts = self.dataset.lacks_nodes(date), len(self.dataset.manifest.dates[date].parts)
        most, coming = (IN_MEMORY, 1) if wide else (self._limit, num_parts)
        while self._maps and self._num_maps + coming > most:
            self._num_maps -= len(self._maps.popitem(last=False)[1])
        features = len(self.dataset.features) if array in OF_CELLS else 1
        maps = self.dataset.maps(date, array)
        self._maps[key] = [
            (slice(nodes.start * features, nodes.stop * features), None if own is None else own.reshape(len(own), -1))
            for nodes, own in maps
        ]
        self._num_maps += len(maps)
        return self._maps[key]


def copies_limit(dataset: Dataset) -> int:
    """How many maps may be open so that the copies that they hold keep to their budget, of a store in a bucket."""
    if bucket_of(dataset.root) is None:
        return sys.maxsize
    shards = (shard for entry in dataset.manifest.dates.values() for shard in entry.parts)
    sizes = [sum(size for size, _ in shard.files.values()) for shard in shards]
    return max(1, budget_bytes() // max([1, *sizes]))


def map_limit() -> int:
    """How many maps may be open: half of the kernel's, and below the file limit, which is raised as far as allowed.

    CPython's mmap keeps a file descriptor each: at a soft limit of 1024 the 1,019th map fails.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        kernel = int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):
        kernel = 65530
    return max(16, min(kernel // 2, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 256))
