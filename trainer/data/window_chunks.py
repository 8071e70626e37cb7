"""The windows of a split in date order, read in chunks: for what is solved from all of them at once.

Nothing here depends on `trainer.loading`: chunks are cut by a constant, so the same windows give the same bytes.

Legend: T steps, N nodes, F features.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from dateshard.shardstore.dataset import Dataset
from dateshard.trainer.data.order import DateRun, Window
from dateshard.trainer.data.split_runs import runs_of
from dateshard.trainer.stop import ShouldStop, ask

CHUNK_BYTES = 16 << 20  # of a dataset's rows in memory at a time, or two windows if they are longer


@dataclass(frozen=True, slots=True)
class WindowRuns:
    """The windows of one split. `targets` are positions among the dataset's features."""

    dataset: Dataset
    window: Window
    runs: tuple[DateRun, ...]
    targets: tuple[int, ...]


def windows_of(
    dataset: Dataset, split: str, window: Window, targets: Sequence[int], reach: int | None = None
) -> WindowRuns:
    """All windows of a split, in date order whatever `trainer.loading` says.

    Args:
        reach: steps of history to look at, if not the window's. The anchors stay the window's own, less those that
            have not so much history.
    """
    runs = tuple(runs_of(dataset, split, window, None))
    if reach is not None:
        runs, window = reaching(runs, reach, window.stride), replace(window, history=reach)
    return WindowRuns(dataset, window, runs, tuple(targets))


def cut(windows: WindowRuns, shares: Sequence[float]) -> list[WindowRuns]:
    """The windows in date order as neighbouring pieces, each with about its share of them; the last has the rest."""
    pieces = cut_runs(windows.runs, windows.window.stride, shares)
    return [replace(windows, runs=runs) for runs in pieces]


def cut_runs(runs: Sequence[DateRun], stride: int, shares: Sequence[float]) -> list[tuple[DateRun, ...]]:
    """The anchors of runs in their order as neighbouring pieces, each with about its share; the last has the rest."""
    total = sum(run.count for run in runs)
    edges = [0, *(round(total * sum(shares[: number + 1])) for number in range(len(shares) - 1)), total]
    pieces = []
    for low, high in pairwise(edges):
        own, at = list[DateRun](), 0
        for run in runs:
            begin, stop = max(low - at, 0), min(high - at, run.count)
            if begin < stop:
                own.append(replace(run, first=run.first + begin * stride, count=stop - begin))
            at += run.count
        pieces.append(tuple(own))
    return pieces


def reaching(runs: Iterable[DateRun], reach: int, stride: int) -> tuple[DateRun, ...]:
    """The anchors among those of `runs` that have `reach` steps of their segment before them."""
    kept = []
    for run in runs:
        skipped = max(0, -(-(reach - (run.first - run.begin)) // stride))
        if skipped < run.count:
            kept.append(replace(run, first=run.first + skipped * stride, count=run.count - skipped))
    return tuple(kept)


def chunks(windows: WindowRuns, *, masked: bool) -> Iterator[tuple[np.ndarray, np.ndarray, int, bool, bool]]:
    """Yields (values [T, N, F], observed [T, N, F] or empty, windows, run begins, run ends), in date order."""
    dataset, window = windows.dataset, windows.window
    shape = (dataset.manifest.num_nodes, len(dataset.features))
    fresh = max(window.length, CHUNK_BYTES // (dataset.row_values * 4))
    most = max(1, fresh // window.stride)
    for run in windows.runs:
        for low in range(0, run.count, most):
            count = min(most, run.count - low)
            begin, steps = run.first - window.before + low * window.stride, (count - 1) * window.stride + window.length
            values = np.empty((steps, *shape), dtype=np.float32)
            seen = np.empty((steps if masked else 0, *shape), dtype=np.bool_)
            dataset.read_span(run.segment, begin, begin + steps, values, seen if masked else None)
            yield values, seen, count, low == 0, low + count == run.count


def masked_targets(windows: WindowRuns, should_stop: ShouldStop) -> set[int]:
    """Which targets (positions in `windows.targets`) miss any step of a window; reads masks alone."""
    dataset, window = windows.dataset, windows.window
    places = list(windows.targets)
    shape = (dataset.manifest.num_nodes, len(dataset.features))
    incomplete: set[int] = set()
    for run in windows.runs:
        end = run.first + (run.count - 1) * window.stride + window.target_steps
        for day, rows in dataset.timeline.spans(run.segment, run.first - window.before, end):
            ask(should_stop)
            if len(incomplete) < len(places) and dataset.has_mask(day.date):
                seen = np.empty((rows.stop - rows.start, *shape), dtype=np.bool_)
                dataset.read_rows([(day, rows)], observed=seen)
                incomplete |= {k for k, place in enumerate(places) if not seen[..., place].all()}
    return incomplete
