"""Some dates of a dataset in memory, and their windows as arrays: views over one copy of the steps.

    steps in memory     h h | 0 1 2 3 4 5 | p      h: history that lies before the dates, p: targets that lie after them
    window 0            [     ]   [  ]
    window 1              [     ]   [  ]           one row further on: nothing is stacked

Where windows of several stretches are asked for (a date is missing between, records are cut) no stride reaches from one to
the next: these are copied, window by window.

Legend: T rows, N nodes, F features, S windows, H history steps, P target steps.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import DTypeLike, NDArray

from dateshard.shardstore.dataset import Dataset
from dateshard.trainer.data.batch import columns
from dateshard.trainer.data.order import DateRun, Window, make_runs
from dateshard.trainer.data.split_runs import pieces_of

TIME_CODES = 2  # step of the day, weekday
CODE_BITS = 3  # of a time code: the weekday


class Arena:
    """Memory that is given back at once, whoever still holds an array of it: such an array then reads as zeros."""

    def __init__(self) -> None:
        self._areas: list[mmap.mmap] = []

    @property
    def num_bytes(self) -> int:
        """Bytes that were asked for since the last `release`."""
        return sum(map(len, self._areas))

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array of zeros."""
        count = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        area = mmap.mmap(-1, max(count, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._areas.append(area)
        return np.frombuffer(area, dtype=np.uint8, count=count).view(dtype).reshape(shape)

    def release(self) -> None:
        """Gives all of it back to the system."""
        for area in self._areas:
            area.madvise(mmap.MADV_DONTNEED)
            with suppress(BufferError):  # somebody holds an array: its pages are gone, its addresses stay
                area.close()
        self._areas = []


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowArrays:
    """Windows of a split.

    Attributes:
        x_SHNF: float32, inputs, scaled. y_SPNF: targets. observed_SPNF: bool, which targets were observed.
        xte_SH2, yte_SP2: int32, step of the day and weekday (0: Monday).
    """

    x_SHNF: NDArray[np.float32]
    y_SPNF: NDArray[np.float32]
    xte_SH2: NDArray[np.int32]
    yte_SP2: NDArray[np.int32]
    observed_SPNF: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Span:
    """Steps [low, high) of a segment, which lie in memory from row `at` on."""

    segment: int
    low: int
    high: int
    at: int


class LoadedDates:
    """Days [first, last) of a dataset in memory, with what their windows take of the days around them.

    Memory: `bytes_of`; nothing before `load` and after `clear`.

    Args:
        members: of each split, which of the dataset's days are in it.
    """

    def __init__(
        self,
        dataset: Dataset,
        window: Window,
        inputs: tuple[int, ...],
        targets: tuple[int, ...],
        members: Mapping[str, Sequence[bool]],
    ) -> None:
        self.dataset, self.window, self.inputs, self.targets, self.members = dataset, window, inputs, targets, members
        self.arena = Arena()
        self.days = range(0)
        self._spans: list[Span] = []
        self._given: dict[str, WindowArrays] = {}
        self.mask = any(dataset.has_mask(day.date) for day in dataset.days)

    def spans(self, days: range) -> list[Span]:
        """Which steps are held for these days: theirs, a history before them, a horizon after them."""
        spans, at = list[Span](), 0
        edges = [0, *np.cumsum([day.num_steps for day in self.dataset.days]).tolist()]
        for number, segment in enumerate(self.dataset.segments):
            first, last = max(days.start, segment.first), min(days.stop, segment.last)
            if first >= last:
                continue
            low, high = (edges[day] - edges[segment.first] for day in (first, last))
            low, high = max(0, low - self.window.before), min(segment.num_steps, high + self.window.reach - 1)
            spans.append(Span(number, low, high, at))
            at += high - low
        return spans

    def bytes_of(self, days: range) -> int:
        """Bytes that these days take, with the windows of all splits where they have to be stacked."""
        rows = sum(span.high - span.low for span in self.spans(days))
        nodes, features = self.dataset.manifest.num_nodes, self.dataset.row_values
        apart = sum(len(index) for index in (self.inputs, self.targets) if isinstance(columns(index), list))
        own = rows * (features * 4 + (features if self.mask else 0) + TIME_CODES * 4 + apart * nodes * 4)
        stacked = [runs for split in self.members if len(runs := self.runs(days, split)) > 1]
        history, steps = self.window.history, self.window.target_steps
        cells = nodes * (history * len(self.inputs) * 4 + steps * len(self.targets) * (5 if self.mask else 4))
        return own + sum(run.count for runs in stacked for run in runs) * (cells + (history + steps) * TIME_CODES * 4)

    def load(self, days: range) -> None:
        """Reads these days; what was loaded before goes first."""
        self.clear()
        self.days, self._spans = days, self.spans(days)
        rows = sum(span.high - span.low for span in self._spans)
        shape = (rows, self.dataset.manifest.num_nodes, len(self.dataset.features))
        self._values = self.arena.empty(shape, np.float32)
        self._observed = self.arena.empty(shape, np.bool_) if self.mask else None
        self._codes = self.arena.empty((rows, TIME_CODES), np.int32)
        for span in self._spans:
            own = slice(span.at, span.at + span.high - span.low)
            seen, codes = (None if self._observed is None else self._observed[own]), self._codes[own]
            packed = np.empty(len(codes), dtype=np.int32)
            self.dataset.read_span(span.segment, span.low, span.high, self._values[own], seen, packed)
            codes[:, 0], codes[:, 1] = packed >> CODE_BITS, packed & ((1 << CODE_BITS) - 1)
        self._x, self._y = (self._apart(self._values, index) for index in (self.inputs, self.targets))

    def _apart(self, rows_TNF: NDArray[Any], index: tuple[int, ...]) -> NDArray[Any]:
        """The columns of one role: a view where they are neighbours."""
        chosen = columns(index)
        if isinstance(chosen, slice):
            return rows_TNF[..., chosen]
        copied = self.arena.empty((*rows_TNF.shape[:2], len(index)), rows_TNF.dtype)
        np.take(rows_TNF, list(index), axis=2, out=copied, mode="clip")
        return copied

    def runs(self, days: range, split: str) -> list[DateRun]:
        """The windows of a split whose first target step lies in these days, neighbours joined."""
        member = list(self.members[split])
        pieces = pieces_of(self.dataset, split, member, self.window)
        of_days = make_runs(self.dataset.days, self.dataset.segments, member, self.window, 1, pieces)
        joined = list[DateRun]()
        for run in of_days:
            if run.first_day not in days:
                continue
            last = joined[-1] if joined else None
            if last and (last.segment, last.begin, last.first + last.count * self.window.stride) == (
                run.segment,
                run.begin,
                run.first,
            ):
                joined[-1] = replace(last, count=last.count + run.count, last_day=run.last_day)
            else:
                joined.append(run)
        return joined

    def arrays(self, split: str) -> WindowArrays:
        """The windows of a split in what is loaded, in date order; the same arrays until the next `load`."""
        if split not in self._given:
            self._given[split] = self._arrays(self.runs(self.days, split))
        return self._given[split]

    def _arrays(self, runs: Sequence[DateRun]) -> WindowArrays:
        window = self.window
        begin = window.history if window.horizon else 0
        past, ahead = (0, window.history), (begin, window.target_steps)
        observed = self._observed
        if observed is None:  # one true cell for all
            true = np.ones((1, 1, 1), dtype=np.bool_)
            count = sum(run.count for run in runs)
            shape = (count, window.target_steps, self._values.shape[1], len(self.targets))
            seen = np.broadcast_to(true, shape)
        else:
            seen = self._windows(self._apart(observed, self.targets), runs, ahead)
        return WindowArrays(
            x_SHNF=self._windows(self._x, runs, past),
            y_SPNF=self._windows(self._y, runs, ahead),
            xte_SH2=self._windows(self._codes, runs, past),
            yte_SP2=self._windows(self._codes, runs, ahead),
            observed_SPNF=seen,
        )

    def _windows(self, rows: NDArray[Any], runs: Sequence[DateRun], steps: tuple[int, int]) -> NDArray[Any]:
        """Steps [begin, begin + count) of each window: a view of one stretch, a copy of several."""
        views = [self._view(rows, run, steps) for run in runs]
        if len(views) == 1:
            return views[0]
        stacked = self.arena.empty((sum(map(len, views)), steps[1], *rows.shape[1:]), rows.dtype)
        edges = np.cumsum([0, *map(len, views)]).tolist()
        for view, (low, high) in zip(views, pairwise(edges), strict=True):
            stacked[low:high] = view
        stacked.flags.writeable = False
        return stacked

    def _view(self, rows: NDArray[Any], run: DateRun, steps: tuple[int, int]) -> NDArray[Any]:
        span = next(s for s in self._spans if s.segment == run.segment)
        first = span.at + run.first - self.window.before - span.low + steps[0]
        strides = (rows.strides[0] * self.window.stride, *rows.strides)
        return as_strided(rows[first:], (run.count, steps[1], *rows.shape[1:]), strides, writeable=False)

    def clear(self) -> None:
        """Gives the memory back; arrays that were handed out read as zeros from now on."""
        self.days, self._spans, self._given = range(0), [], {}
        self._values = self._observed = self._codes = self._x = self._y = np.empty(0)
        self.arena.release()
