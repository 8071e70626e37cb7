"""The runs of one split of a dataset: which of its dates and of their pieces windows may lie in.

A piece is what no window leaves: a segment on a grid; a cut of a date; and where the history is an interval of time, the
records between two gaps that are longer than it, for a record after such a gap has no history.

    record      0  1  2     3  4  5       history: 30s
    second      0  9  20    70 75 110     gaps 9 11 50 5 35 -> pieces [0, 3), [3, 5), [5, 6)
    anchors        1  2        4          each has a record at most 30 s before it

Legend: T records of a segment, K anchors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.layouts.events import Cuts
from dateshard.shardstore.times.calendar import Day
from dateshard.trainer.data.order import DateRun, Pieces, Window, make_runs
from dateshard.trainer.data.permutation import Integers


@dataclass(frozen=True, slots=True)
class LongestPiece:
    """The longest piece of a split that windows could lie in, and what bounds it, in words."""

    kind: str
    num_steps: int


def runs_of(dataset: Dataset, split: str, window: Window, days_per_run: int | None) -> list[DateRun]:
    """The runs of a split, in date order.

    Memory: where records are cut, the edges of their pieces; where the history is an interval, one segment's instants.
    """
    member = members(dataset, split)
    pieces = pieces_of(dataset, split, member, window)
    return make_runs(dataset.days, dataset.segments, member, window, days_per_run, pieces)


def members(dataset: Dataset, split: str) -> list[bool]:
    """Whether each date has windows of the split."""
    manifest = dataset.manifest
    if manifest.split_cuts:
        return [split in manifest.split_cuts] * len(dataset.days)
    return [manifest.split_of(day.date) == split for day in dataset.days]


def pieces_of(dataset: Dataset, split: str, member: list[bool], window: Window) -> list[Pieces] | None:
    """The pieces of each segment that has dates of the split; None where segments are whole."""
    if not dataset.manifest.cut and not window.interval:
        return None
    least = window.needed + window.reach  # of shorter ones no window could be
    return [
        _pieces(dataset, number, split, window, least) if any(member[segment.first : segment.last]) else ()
        for number, segment in enumerate(dataset.segments)
    ]


def _pieces(dataset: Dataset, number: int, split: str, window: Window, least: int) -> Pieces:
    segment = dataset.segments[number]
    cuts = dataset.cuts(dataset.days[segment.first])  # a segment of several dates is not cut
    starts = cuts.starts
    stops = np.append(starts[1:], segment.num_steps)
    if window.interval:
        time_T = _times(dataset, number)
        parted = np.union1d(starts, np.flatnonzero(np.diff(time_T) > window.interval) + 1)
        ends = np.append(parted[1:], segment.num_steps) + window.reach - 1  # targets may lie beyond a gap
        of_cut = np.searchsorted(starts, parted, side="right") - 1
        starts, stops = parted, np.minimum(ends, stops[of_cut])
    chosen = stops - starts >= least
    if dataset.manifest.split_cuts:
        chosen &= _own(dataset, cuts, split)[np.searchsorted(cuts.starts, starts, side="right") - 1]
    return list(zip(starts[chosen].tolist(), stops[chosen].tolist(), strict=True))


def _times(dataset: Dataset, number: int) -> NDArray[np.int64]:
    """Returns [T]: the instants of a segment."""
    time_T = np.empty(dataset.segments[number].num_steps, dtype=np.int64)
    dataset.read_span(number, 0, len(time_T), times=time_T)
    return time_T


def _own(dataset: Dataset, cuts: Cuts, split: str) -> NDArray[np.bool_]:
    """Returns [C]: which cuts of a date are of the split."""
    own = set(dataset.manifest.split_cuts.get(split, ()))
    return np.array([name in own for name in cuts.names], dtype=np.bool_)


def rows_of(dataset: Dataset, day: Day, split: str) -> NDArray[np.bool_] | None:
    """Returns [T]: which records of a date are of the split, where cuts are divided; None where dates are."""
    if not dataset.manifest.split_cuts:
        return None
    cuts = dataset.cuts(day)
    return np.repeat(_own(dataset, cuts, split), np.diff(np.append(cuts.starts, day.num_steps)))


def longest_piece(dataset: Dataset, split: str, window: Window) -> LongestPiece:
    """What windows of a split have at most."""
    if not dataset.manifest.cut and not window.interval:
        lengths = [segment.num_steps for segment in dataset.segments]
        return LongestPiece("stretch of joined dates", max(lengths, default=0))
    member, alone = members(dataset, split), replace(window, horizon=0)
    chosen = [number for number, s in enumerate(dataset.segments) if any(member[s.first : s.last])]
    pieces = (piece for number in chosen for piece in _pieces(dataset, number, split, alone, 1))
    longest = max((high - low for low, high in pieces), default=0)
    seconds = f"piece without a gap of more than {window.interval / 1e9:g} s"
    return LongestPiece(seconds if window.interval else f"cut by '{dataset.manifest.cut}'", longest)


def records_before(time_T: Integers, row_K: Integers, begin_K: Integers, window: Window) -> Integers:
    """Returns [K]: how many records up to `history` lie in the interval before each anchor, by bisection.

    Args:
        time_T: instants, in order within each piece. row_K: the anchors. begin_K: the rows at which their pieces begin.
    """
    low, high = np.zeros_like(row_K), np.minimum(window.history, row_K - begin_K)
    earliest_K = time_T[row_K] - window.interval
    while (low < high).any():
        middle = (low + high + 1) // 2
        inside = time_T[row_K - middle] >= earliest_K
        low, high = np.where(inside, middle, low), np.where(inside, high, middle - 1)
    return low


def num_overflowing(dataset: Dataset, runs: Sequence[DateRun], window: Window) -> int:
    """Counts the windows whose interval holds more records than `history` has room for: the last ones stay.

    Memory: one segment's instants.
    """
    count = 0
    for number, of_segment in groupby(runs, key=lambda run: run.segment):
        time_T = _times(dataset, number)
        for run in of_segment:
            row_K = run.first + np.arange(run.count) * window.stride
            row_K = row_K[row_K - run.begin > window.history]
            count += int((time_T[row_K - window.history - 1] >= time_T[row_K] - window.interval).sum())
    return count
