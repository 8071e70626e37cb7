"""What the windows of each split are made of: how many there are, what cuts cost, and which test rows training has seen.

Random splits of windows are the classic leak: neighbouring windows share most of their rows. Here dates or cuts are divided,
and no window leaves them; how far the windows of training reach into the rows of the test split is measured all the same.

Legend: T rows (steps or records) of a segment, K anchors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.manifest import SPLITS
from dateshard.shardstore.times.calendar import Segment
from dateshard.trainer.data.order import Window, make_runs
from dateshard.trainer.data.split_runs import members, records_before, rows_of, runs_of


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitWindows:
    """The windows of a split.

    Attributes:
        rows: its steps or records.
        lost: how many windows more there would be if no cut, and no gap longer than the history, divided its rows.
        overlap: share of its rows that lie in a window of the training split; None of that split itself.
    """

    split: str
    rows: int
    windows: int
    lost: int
    overlap: float | None


def windows_by_split(dataset: Dataset, window: Window) -> list[SplitWindows]:
    """The windows of each split that has rows.

    Memory: of one segment a few numbers a row.
    """
    rows, seen = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
    for segment, covered_T in _covered(dataset, window):
        edge = 0
        for day in dataset.days[segment.first : segment.last]:
            covered = covered_T[edge : edge + day.num_steps]
            edge += day.num_steps
            for split in SPLITS:
                own_T = rows_of(dataset, day, split)
                if own_T is None and dataset.manifest.split_of(day.date) == split:
                    own_T = np.ones(day.num_steps, dtype=np.bool_)
                if own_T is not None:
                    rows[split] += int(own_T.sum())
                    seen[split] += int((own_T & covered).sum())
    made = []
    for split in (split for split in SPLITS if rows[split]):
        windows = sum(run.count for run in runs_of(dataset, split, window, None))
        lost = _undivided(dataset, split, window) - windows
        overlap = None if split == "train" else seen[split] / rows[split]
        made.append(SplitWindows(split=split, rows=rows[split], windows=windows, lost=lost, overlap=overlap))
    return made


def _covered(dataset: Dataset, window: Window) -> Iterator[tuple[Segment, NDArray[np.bool_]]]:
    """Yields each segment with [T], which of its rows lie in a window of the training split."""
    runs = {
        number: list(own)
        for number, own in groupby(runs_of(dataset, "train", window, None), key=lambda run: run.segment)
    }
    for number, segment in enumerate(dataset.segments):
        change_T = np.zeros(segment.num_steps + 1, dtype=np.int64)
        time_T = None
        if window.interval and number in runs:
            days = dataset.days[segment.first : segment.last]
            time_T = np.concatenate([dataset.times(day) for day in days])
        for run in runs.get(number, ()):
            row_K = run.first + np.arange(run.count) * window.stride
            begin_K = np.full_like(row_K, run.begin)
            before = window.before if time_T is None else records_before(time_T, row_K, begin_K, window)
            np.add.at(change_T, row_K - before, 1)
            np.add.at(change_T, row_K + window.reach, -1)
        yield segment, np.cumsum(change_T)[:-1] > 0


def _undivided(dataset: Dataset, split: str, window: Window) -> int:
    """Counts the windows that the rows of a split would give, if each date's lay one after the other in one piece."""
    if not dataset.manifest.split_cuts:
        return sum(
            run.count for run in make_runs(dataset.days, dataset.segments, members(dataset, split), window, None)
        )
    count = 0
    for day in dataset.days:
        own_T = rows_of(dataset, day, split)
        anchors = 0 if own_T is None else int(own_T.sum()) - window.needed - window.reach + 1
        count += max(0, -(-anchors // window.stride))
    return count
