"""Sums of products over all windows of a split, hardly a window of them written out: what a ridge is solved from.

Windows overlap, so their Gram matrix is nearly the same along its diagonals: with stride s

    gram[i + s, j + s] = gram[i, j] + entering[i] * entering[j] - leaving[i] * leaving[j]

summed over runs of windows, `leaving` being a run's first window and `entering` the one after its last. So the first s
rows and two windows a run give all of it. Where targets are masked, target step p has a Gram of its own, over the
windows whose step p was observed, and the same holds along (p, i, j) together: gram[p + s, i + s, j + s]. Its first s
matrices are written out, of all others only the first s rows: s = 1, H 168 and P 24 take 1 + 24/168 products where
writing out takes 24.

float64 throughout, the feature's mean subtracted first. Nothing here depends on `trainer.loading`: chunks are cut by
the constants below, so the same windows give the same bytes.

Legend: H history, P target steps, W = H + P, N nodes, T steps of a chunk, Q target steps that share a Gram, s stride.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from shardstore.calendar import Timeline
from shardstore.dataset import Dataset
from trainer.order import Run, Window, make_runs
from trainer.stop import ShouldStop, ask

CHUNK_BYTES = 16 << 20  # of a dataset's rows in memory at a time, or two windows if they are longer
WRITTEN_BYTES = 6 << 20  # of windows written out at a time, where they must be
LAG_STEPS = 8192  # of one dot product: so short, numpy starts no threads


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of one split. `targets` are positions among the dataset's features."""

    dataset: Dataset
    window: Window
    runs: tuple[Run, ...]
    targets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring windows of one feature.

    Attributes:
        values_NT: float64, T = (count - 1) * stride + W. seen_NT: what was observed, None for all.
        count: windows of each node. opens, closes: the part has its run's first, its last window.
    """

    values_NT: torch.Tensor
    seen_NT: torch.Tensor | None
    count: int
    opens: bool
    closes: bool

    def edges(self, stride: int) -> Iterator[tuple[float, slice]]:
        """(-1, steps of the leaving window), (+1, of the entering one), each without its last `stride` steps."""
        length = self.values_NT.shape[1] - self.count * stride
        if length > 0 and self.opens:
            yield -1.0, slice(0, length)
        if length > 0 and self.closes:
            yield 1.0, slice(self.count * stride, self.count * stride + length)

    def rows(self, length: int, stride: int) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        """(windows [R, W], what is observed of them), about `WRITTEN_BYTES` at a time."""
        values = self.values_NT.unfold(1, length, stride)
        seen = None if self.seen_NT is None else self.seen_NT.unfold(1, length, stride)
        most = max(1, WRITTEN_BYTES // (8 * length))
        nodes = max(1, most // self.count)
        for node in range(0, len(values), nodes):
            for low in range(0, self.count, most):
                part = (slice(node, node + nodes), slice(low, low + most))
                yield values[part].reshape(-1, length), None if seen is None else seen[part].reshape(-1, length)


@dataclass(frozen=True, slots=True)
class System:
    """What least squares of Q target steps on the H steps of history needs; the history's oldest step comes first.

    Attributes:
        steps: the target steps. count: windows. total_H: sums of the history. level_Q, square_Q: of targets.
    """

    steps: range
    count: float
    gram_HH: torch.Tensor
    total_H: torch.Tensor
    cross_HQ: torch.Tensor
    level_Q: torch.Tensor
    square_Q: torch.Tensor

    def squared_error(self, weight_hQ: torch.Tensor, bias_Q: torch.Tensor) -> float:
        """Sum of squared errors of a forecast from the last h steps, without a pass over the windows."""
        history = len(weight_hQ)
        gram, total, cross = self.gram_HH[-history:, -history:], self.total_H[-history:], self.cross_HQ[-history:]
        error = self.square_Q - 2 * (weight_hQ * cross).sum(0) + (weight_hQ * (gram @ weight_hQ)).sum(0)
        error = error - 2 * bias_Q * self.level_Q + 2 * bias_Q * (total @ weight_hQ) + self.count * bias_Q**2
        return float(error.sum())


class Equations(Protocol):
    """The sums of one feature over the parts added so far."""

    window: Window

    def add(self, part: Part, should_stop: ShouldStop) -> None:
        """Adds a part."""
        ...

    def finish(self, should_stop: ShouldStop) -> None:
        """Runs the recurrence, once, after the last part."""
        ...

    def systems(self, steps: range) -> Iterator[System]:
        """The systems of some target steps."""
        ...


class Joint:
    """Every target is observed: one Gram of whole windows holds the systems of every history and step.

    Memory: (H + P)^2 float64.
    """

    def __init__(self, window: Window) -> None:
        self.window, self.count = window, 0.0
        self.gram = torch.zeros(window.length, window.length, dtype=torch.float64)
        self.total = torch.zeros(window.length, dtype=torch.float64)

    def add(self, part: Part, should_stop: ShouldStop) -> None:
        """Adds a part; asks between nodes."""
        stride = self.window.stride
        if stride == 1:
            self._add_lags(part, should_stop)
        else:
            for rows, _ in part.rows(self.window.length, stride):
                ask(should_stop)
                self.gram[:stride] += rows[:, :stride].T @ rows
                self.total[:stride] += rows[:, :stride].sum(0)
        for sign, steps in part.edges(stride):
            edge = part.values_NT[:, steps]
            self.gram[stride:, stride:] += sign * (edge.T @ edge)
            self.total[stride:] += sign * edge.sum(0)
        self.count += part.count * len(part.values_NT)

    def _add_lags(self, part: Part, should_stop: ShouldStop) -> None:
        """The first row is a correlation of a node's steps with themselves."""
        first, length = self.gram[0].numpy(), self.window.length
        for values in part.values_NT.numpy():
            ask(should_stop)
            for low in range(0, part.count, LAG_STEPS):
                own = values[low : min(low + LAG_STEPS, part.count)]
                first += np.correlate(values[low : low + len(own) + length - 1], own, "valid")
        self.total[0] += part.values_NT[:, : part.count].sum()

    def finish(self, should_stop: ShouldStop) -> None:
        """From the first rows to all of them."""
        gram, stride, length = self.gram, self.window.stride, self.window.length
        for row in range(stride, length):
            gram[row, row:] += gram[row - stride, row - stride : length - stride]
            self.total[row] += self.total[row - stride]
        self.gram = gram.triu() + gram.triu(1).T

    def systems(self, steps: range) -> Iterator[System]:
        """One for all steps."""
        split = self.window.history
        target = slice(split + steps.start, split + steps.stop)
        yield System(
            steps,
            self.count,
            self.gram[:split, :split],
            self.total[:split],
            self.gram[:split, target],
            self.total[target],
            self.gram.diagonal()[target],
        )


class Masked:
    """Targets are missing: every target step has its own windows, and a Gram of its own.

    Memory: P * H^2 float64.
    """

    def __init__(self, window: Window) -> None:
        self.window = window
        history, steps = window.history, window.target_steps
        self.gram = torch.zeros(steps, history, history, dtype=torch.float64)
        self.total, self.cross = (torch.zeros(steps, history, dtype=torch.float64) for _ in range(2))
        self.count, self.level, self.square = (torch.zeros(steps, dtype=torch.float64) for _ in range(3))

    def add(self, part: Part, should_stop: ShouldStop) -> None:
        """Adds a part; asks before every `WRITTEN_BYTES` of windows."""
        history, stride = self.window.history, self.window.stride
        for rows, seen in part.rows(self.window.length, stride):
            ask(should_stop)
            observed = torch.ones_like(rows[:, history:]) if seen is None else seen[:, history:].double()
            self._add_rows(rows[:, :history], rows[:, history:] * observed, observed)
        for sign, steps in part.edges(stride):
            self._add_edge(part, sign, steps, should_stop)

    def _add_rows(self, x: torch.Tensor, y: torch.Tensor, seen: torch.Tensor) -> None:
        stride = self.window.stride
        for step, chosen in enumerate(seen[:, :stride].T.bool()):
            own = x if bool(chosen.all()) else x[chosen]
            self.gram[step] += own.T @ own
        later, steps = seen[:, stride:], seen.shape[1]
        first = [later * x[:, row : row + 1] for row in range(min(stride, x.shape[1]))] if later.shape[1] else []
        products = torch.cat([seen, y, *first], dim=1).T @ x  # one product where three would read x three times
        self.total += products[:steps]
        self.cross += products[steps : 2 * steps]
        for row in range(len(first)):
            at = 2 * steps + row * later.shape[1]
            self.gram[stride:, row] += products[at : at + later.shape[1]]
        self.count += seen.sum(0)
        self.level += y.sum(0)
        self.square += (y * y).sum(0)

    def _add_edge(self, part: Part, sign: float, steps: slice, should_stop: ShouldStop) -> None:
        """A run's first window or the one after its last; step p of it belongs to step p + stride of the others."""
        stride, history = self.window.stride, self.window.history
        values = part.values_NT[:, steps]
        seen = None if part.seen_NT is None else part.seen_NT[:, steps]
        x = values[:, : max(0, history - stride)]
        for step in range(stride, len(self.gram)):
            ask(should_stop)
            own = x if seen is None else x[seen[:, history + step - stride]]
            self.gram[step, stride:, stride:] += sign * (own.T @ own)

    def finish(self, should_stop: ShouldStop) -> None:
        """From the first matrices and rows to all of them."""
        stride, history = self.window.stride, self.window.history
        kept = max(0, history - stride)
        for step in range(stride, len(self.gram)):
            ask(should_stop)
            self.gram[step, stride:, stride:] += self.gram[step - stride, :kept, :kept]
            self.gram[step, stride:, :stride] = self.gram[step, :stride, stride:].T

    def systems(self, steps: range) -> Iterator[System]:
        """One a step."""
        for step in steps:
            own = slice(step, step + 1)
            yield System(
                range(step, step + 1),
                float(self.count[step]),
                self.gram[step],
                self.total[step],
                self.cross[own].T,
                self.level[own],
                self.square[own],
            )


def accumulate(
    windows: Windows, equations: dict[int, Equations], means: Sequence[float], should_stop: ShouldStop
) -> None:
    """One pass over the windows; `equations[k]` receives target k, `means[k]` being subtracted from it.

    A feature's equations may be of a shorter history: the windows stay the same, their oldest steps are left out.
    Memory: about five times `CHUNK_BYTES` (or two windows of rows, if they are longer), and four `WRITTEN_BYTES`.

    Raises:
        Interrupted: `should_stop()`, asked every few milliseconds of work.
        DamagedError: a date's file is not what was committed.
    """
    masked = any(isinstance(own, Masked) for own in equations.values())
    for values_TNF, seen_TNF, count, opens, closes in _chunks(windows, masked=masked):
        ask(should_stop)
        for target, own in equations.items():
            place = windows.targets[target]
            values = torch.empty(values_TNF.shape[1::-1], dtype=torch.float64)
            values.copy_(torch.from_numpy(values_TNF[..., place]).T).sub_(means[target])
            seen = torch.from_numpy(seen_TNF[..., place]).T.contiguous() if isinstance(own, Masked) else None
            begin = windows.window.history - own.window.history
            part = Part(values[:, begin:], None if seen is None else seen[:, begin:], count, opens, closes)
            own.add(part, should_stop)
    for own in equations.values():
        own.finish(should_stop)


def _chunks(windows: Windows, *, masked: bool) -> Iterator[tuple[np.ndarray, np.ndarray, int, bool, bool]]:
    """(values [T, N, F], observed [T, N, F] or empty, windows, run begins, run ends), in date order."""
    dataset, window = windows.dataset, windows.window
    timeline = Timeline(dataset.days, dataset.segments)
    shape = (dataset.manifest.num_nodes, len(dataset.features))
    fresh = max(window.length, CHUNK_BYTES // (dataset.row_values * 4))
    most = max(1, fresh // window.stride)
    for run in windows.runs:
        for low in range(0, run.count, most):
            count = min(most, run.count - low)
            begin, steps = run.first - window.before + low * window.stride, (count - 1) * window.stride + window.length
            values = np.empty((steps, *shape), dtype=np.float32)
            seen = np.empty((steps if masked else 0, *shape), dtype=np.bool_)
            at = 0
            for day, rows in timeline.spans(run.segment, begin, begin + steps):
                stop = at + rows.stop - rows.start
                dataset.read(day.date, rows, values[at:stop])
                if masked:
                    dataset.read_observed(day.date, rows, seen[at:stop])
                at = stop
            yield values, seen, count, low == 0, low + count == run.count


def masked_targets(windows: Windows, should_stop: ShouldStop) -> set[int]:
    """Which targets (positions in `windows.targets`) miss any step that a window forecasts; reads masks alone."""
    dataset, window = windows.dataset, windows.window
    timeline, places = Timeline(dataset.days, dataset.segments), list(windows.targets)
    shape = (dataset.manifest.num_nodes, len(dataset.features))
    found: set[int] = set()
    for run in windows.runs:
        end = run.first + (run.count - 1) * window.stride + window.target_steps
        for day, rows in timeline.spans(run.segment, run.first, end):
            ask(should_stop)
            if len(found) < len(places) and dataset.has_mask(day.date):
                seen = np.empty((rows.stop - rows.start, *shape), dtype=np.bool_)
                dataset.read_observed(day.date, rows, seen)
                found |= {k for k, place in enumerate(places) if not seen[..., place].all()}
    return found


def scaled_means(dataset: Dataset, targets: Iterable[int]) -> list[float]:
    """The mean of all scaled training cells of each target feature."""
    chosen, scale = list(targets), dataset.scale
    count, pivot, delta = (dataset.statistics.merged.moments_6NF[k][:, chosen] for k in range(3))
    means_NF = (pivot - scale.pivot_NF[:, chosen]) + (delta - scale.delta_NF[:, chosen])
    means_NF = means_NF / scale.spread_NF[:, chosen]
    means: list[float] = ((count * means_NF).sum(0) / np.maximum(count.sum(0), 1)).tolist()
    return means


def windows_of(
    dataset: Dataset, split: str, window: Window, targets: Sequence[int], reach: int | None = None
) -> Windows:
    """All windows of a split, in date order whatever `trainer.loading` says.

    Args:
        reach: steps of history to look at, if not the window's. The anchors stay the window's own, less those that
            have not so much history.
    """
    member = [dataset.manifest.split_of(day.date) == split for day in dataset.days]
    runs = tuple(make_runs(dataset.days, dataset.segments, member, window, None))
    if reach is not None:
        runs, window = reaching(runs, reach, window.stride), replace(window, history=reach)
    return Windows(dataset, window, runs, tuple(targets))


def reaching(runs: Iterable[Run], reach: int, stride: int) -> tuple[Run, ...]:
    """The anchors among those of `runs` that have `reach` steps of their segment before them."""
    kept = []
    for run in runs:
        skipped = max(0, -(-(reach - run.first) // stride))
        if skipped < run.count:
            first = run.first + skipped * stride
            kept.append(Run(run.segment, first, run.count - skipped, run.first_day, run.last_day))
    return tuple(kept)
