"""Sums of products over all windows of a split, hardly a window of them written out: what a ridge is solved from.

Windows overlap, so their Gram matrix is nearly the same along its diagonals: with stride s

    gram[i + s, j + s] = gram[i, j] + entering[i] * entering[j] - leaving[i] * leaving[j]

summed over runs of windows, `leaving` being a run's first window and `entering` the one after its last. So the first s
rows and two windows a run give all of it. Where targets are masked, target step p has a Gram of its own, over the
windows whose step p was observed, and the same holds along (p, i, j) together: gram[p + s, i + s, j + s]. Its first s
matrices are written out, of all others only the first s rows: s = 1, H 168 and P 24 take 1 + 24/168 products where
writing out takes 24.

A window's newest observed value of the history stands beside its steps as one more column: where the last step was not
observed, that is what a forecast has to begin from.

float64 throughout, the feature's mean subtracted first. Nothing here depends on `trainer.loading`: chunks are cut by
the constants below, so the same windows give the same bytes.

Legend: H history, J = H + 1 with the newest observed value last, P target steps, W = H + P, N nodes, T steps of a
chunk, K windows of a node, Q target steps that share a Gram, s stride.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from dateshard.shardstore.dataset import Dataset
from dateshard.trainer.data.order import Window
from dateshard.trainer.data.window_chunks import WindowRuns, chunks
from dateshard.trainer.stop import ShouldStop, ask

WRITTEN_BYTES = 6 << 20  # of windows written out at a time, where they must be
LAG_STEPS = 8192  # of one dot product: so short, numpy starts no threads


@dataclass(frozen=True, slots=True, kw_only=True)
class GramPart:
    """Neighbouring windows of one feature.

    Attributes:
        values_NT: float64, T = (count - 1) * stride + W. seen_NT: what was observed, None for all.
        newest_NK: the newest observed value of each window's history; None where all is observed: its last step.
        count: windows of each node. opens, closes: the part has its run's first, its last window.
    """

    values_NT: torch.Tensor
    seen_NT: torch.Tensor | None
    newest_NK: torch.Tensor | None
    count: int
    opens: bool
    closes: bool

    def edges(self, stride: int) -> Iterator[tuple[float, slice]]:
        """Yields (-1, steps of the leaving window), (+1, of the entering one), each without its last `stride` steps."""
        length = self.values_NT.shape[1] - self.count * stride
        if length > 0 and self.opens:
            yield -1.0, slice(0, length)
        if length > 0 and self.closes:
            yield 1.0, slice(self.count * stride, self.count * stride + length)

    def rows(self, window: Window) -> Iterator[tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]]:
        """Yields (windows [R, W], what is observed of them, newest [R]), about `WRITTEN_BYTES` at a time."""
        length, stride = window.length, window.stride
        values = self.values_NT.unfold(1, length, stride)
        seen = None if self.seen_NT is None else self.seen_NT.unfold(1, length, stride)
        newest = values[..., window.history - 1] if self.newest_NK is None else self.newest_NK
        most = max(1, WRITTEN_BYTES // (8 * length))
        nodes = max(1, most // self.count)
        for node in range(0, len(values), nodes):
            for low in range(0, self.count, most):
                windows = (slice(node, node + nodes), slice(low, low + most))
                observed = None if seen is None else seen[windows].reshape(-1, length)
                yield values[windows].reshape(-1, length), observed, newest[windows].reshape(-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """What least squares of Q target steps on the history needs: its H steps, the oldest first, and its newest value.

    Attributes:
        steps: the target steps. count: windows. total_J: sums of the history. level_Q, square_Q: of targets.
    """

    steps: range
    count: float
    gram_JJ: torch.Tensor
    total_J: torch.Tensor
    cross_JQ: torch.Tensor
    level_Q: torch.Tensor
    square_Q: torch.Tensor

    def squared_error(self, weight_jQ: torch.Tensor, bias_Q: torch.Tensor) -> float:
        """Sum of squared errors of a forecast from the last steps and the newest value, without a pass over windows."""
        size = len(weight_jQ)
        gram, total, cross = self.gram_JJ[-size:, -size:], self.total_J[-size:], self.cross_JQ[-size:]
        error = self.square_Q - 2 * (weight_jQ * cross).sum(0) + (weight_jQ * (gram @ weight_jQ)).sum(0)
        error = error - 2 * bias_Q * self.level_Q + 2 * bias_Q * (total @ weight_jQ) + self.count * bias_Q**2
        return float(error.sum())


class Equations(Protocol):
    """The sums of one feature over the parts added so far."""

    window: Window

    def add(self, gram_part: GramPart, should_stop: ShouldStop) -> None:
        """Adds a part."""
        ...

    def finish(self, should_stop: ShouldStop) -> None:
        """Runs the recurrence, once, after the last part."""
        ...

    def merge(self, other: Any) -> None:
        """Adds the finished sums of other windows."""
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

    def add(self, gram_part: GramPart, should_stop: ShouldStop) -> None:
        """Adds a part; asks between nodes."""
        stride = self.window.stride
        if stride == 1:
            self._add_lags(gram_part, should_stop)
        else:
            for rows, _, _ in gram_part.rows(self.window):
                ask(should_stop)
                self.gram[:stride] += rows[:, :stride].T @ rows
                self.total[:stride] += rows[:, :stride].sum(0)
        for sign, steps in gram_part.edges(stride):
            edge = gram_part.values_NT[:, steps]
            self.gram[stride:, stride:] += sign * (edge.T @ edge)
            self.total[stride:] += sign * edge.sum(0)
        self.count += gram_part.count * len(gram_part.values_NT)

    def _add_lags(self, gram_part: GramPart, should_stop: ShouldStop) -> None:
        """The first row is a correlation of a node's steps with themselves."""
        first, length = self.gram[0].numpy(), self.window.length
        for values in gram_part.values_NT.numpy():
            ask(should_stop)
            for low in range(0, gram_part.count, LAG_STEPS):
                own = values[low : min(low + LAG_STEPS, gram_part.count)]
                first += np.correlate(values[low : low + len(own) + length - 1], own, "valid")
        self.total[0] += gram_part.values_NT[:, : gram_part.count].sum()

    def finish(self, should_stop: ShouldStop) -> None:
        """Completes the sums from their first rows to all of them."""
        gram, stride, length = self.gram, self.window.stride, self.window.length
        for row in range(stride, length):
            gram[row, row:] += gram[row - stride, row - stride : length - stride]
            self.total[row] += self.total[row - stride]
        self.gram = gram.triu() + gram.triu(1).T

    def merge(self, other: Joint) -> None:
        """Adds the finished sums of other windows."""
        self.gram, self.total, self.count = self.gram + other.gram, self.total + other.total, self.count + other.count

    def systems(self, steps: range) -> Iterator[System]:
        """One for all steps. The newest value is the last step's."""
        history = self.window.history
        target, own = slice(history + steps.start, history + steps.stop), [*range(history), history - 1]
        yield System(
            steps=steps,
            count=self.count,
            gram_JJ=self.gram[own][:, own],
            total_J=self.total[own],
            cross_JQ=self.gram[own, target],
            level_Q=self.total[target],
            square_Q=self.gram.diagonal()[target],
        )


class Masked:
    """Cells are missing: every target step has its own windows, and a Gram of its own.

    Memory: P * H^2 float64.

    Attributes:
        newest_PJ, newest_cross_P, newest_total_P: products of the newest value with the history and itself, with the
            target; its sums.
    """

    def __init__(self, window: Window) -> None:
        self.window = window
        history, steps = window.history, window.target_steps
        self.gram = torch.zeros(steps, history, history, dtype=torch.float64)
        self.total, self.cross = (torch.zeros(steps, history, dtype=torch.float64) for _ in range(2))
        self.count, self.level, self.square = (torch.zeros(steps, dtype=torch.float64) for _ in range(3))
        self.newest_PJ = torch.zeros(steps, history + 1, dtype=torch.float64)
        self.newest_cross_P, self.newest_total_P = (torch.zeros(steps, dtype=torch.float64) for _ in range(2))

    def add(self, gram_part: GramPart, should_stop: ShouldStop) -> None:
        """Adds a part; asks before every `WRITTEN_BYTES` of windows."""
        history, stride = self.window.history, self.window.stride
        for rows, seen, newest in gram_part.rows(self.window):
            ask(should_stop)
            observed = torch.ones_like(rows[:, history:]) if seen is None else seen[:, history:].double()
            self._add_rows(rows[:, :history], rows[:, history:] * observed, observed, newest)
        for sign, steps in gram_part.edges(stride):
            self._add_edge(gram_part, sign, steps, should_stop)

    def _add_rows(self, x: torch.Tensor, y: torch.Tensor, seen: torch.Tensor, newest: torch.Tensor) -> None:
        stride = self.window.stride
        for step, chosen in enumerate(seen[:, :stride].T.bool()):
            own = x if bool(chosen.all()) else x[chosen]
            self.gram[step] += own.T @ own
        later, steps = seen[:, stride:], seen.shape[1]
        first = [later * x[:, row : row + 1] for row in range(min(stride, x.shape[1]))] if later.shape[1] else []
        begun = seen * newest[:, None]
        products = torch.cat([seen, y, begun, *first], dim=1).T @ x  # one product where four would read x four times
        self.total += products[:steps]
        self.cross += products[steps : 2 * steps]
        self.newest_PJ[:, :-1] += products[2 * steps : 3 * steps]
        self.newest_PJ[:, -1] += begun.T @ newest
        self.newest_cross_P += y.T @ newest
        self.newest_total_P += begun.sum(0)
        for row in range(len(first)):
            at = 3 * steps + row * later.shape[1]
            self.gram[stride:, row] += products[at : at + later.shape[1]]
        self.count += seen.sum(0)
        self.level += y.sum(0)
        self.square += (y * y).sum(0)

    def _add_edge(self, gram_part: GramPart, sign: float, steps: slice, should_stop: ShouldStop) -> None:
        """A run's first window or the one after its last; step p of it belongs to step p + stride of the others."""
        stride, history = self.window.stride, self.window.history
        values = gram_part.values_NT[:, steps]
        seen = None if gram_part.seen_NT is None else gram_part.seen_NT[:, steps]
        x = values[:, : max(0, history - stride)]
        for step in range(stride, len(self.gram)):
            ask(should_stop)
            own = x if seen is None else x[seen[:, history + step - stride]]
            self.gram[step, stride:, stride:] += sign * (own.T @ own)

    def finish(self, should_stop: ShouldStop) -> None:
        """Completes the sums from their first matrices and rows to all of them."""
        stride, history = self.window.stride, self.window.history
        kept = max(0, history - stride)
        for step in range(stride, len(self.gram)):
            ask(should_stop)
            self.gram[step, stride:, stride:] += self.gram[step - stride, :kept, :kept]
            self.gram[step, stride:, :stride] = self.gram[step, :stride, stride:].T

    def merge(self, other: Masked) -> None:
        """Adds the finished sums of other windows, in place: the matrices are large."""
        for mine, theirs in zip(self._sums(), other._sums(), strict=True):
            mine += theirs

    def _sums(self) -> tuple[torch.Tensor, ...]:
        newest = (self.newest_PJ, self.newest_cross_P, self.newest_total_P)
        return (self.gram, self.total, self.cross, self.count, self.level, self.square, *newest)

    def systems(self, steps: range) -> Iterator[System]:
        """One a step."""
        for step in steps:
            own, newest = slice(step, step + 1), self.newest_PJ[step]
            yield System(
                steps=range(step, step + 1),
                count=float(self.count[step]),
                gram_JJ=torch.cat([torch.cat([self.gram[step], newest[None, :-1]]), newest[:, None]], dim=1),
                total_J=torch.cat([self.total[step], self.newest_total_P[own]]),
                cross_JQ=torch.cat([self.cross[own].T, self.newest_cross_P[own][None]]),
                level_Q=self.level[own],
                square_Q=self.square[own],
            )


def accumulate(
    windows: WindowRuns, equations: dict[int, Equations], means: Sequence[float], should_stop: ShouldStop
) -> None:
    """One pass over the windows; `equations[k]` receives target k, `means[k]` being subtracted from it.

    A feature's equations may be of a shorter history: the windows stay the same, their oldest steps are left out.
    Memory: about five times `CHUNK_BYTES` (or two windows of rows, if they are longer), and four `WRITTEN_BYTES`.

    Raises:
        Interrupted: `should_stop()`, asked every few milliseconds of work.
        DamagedError: a date's file is not what was committed.
    """
    masked, window = any(isinstance(own, Masked) for own in equations.values()), windows.window
    for values_TNF, seen_TNF, count, opens, closes in chunks(windows, masked=masked):
        ask(should_stop)
        for target, own in equations.items():
            place, begin = windows.targets[target], window.history - own.window.history
            values = torch.empty(values_TNF.shape[1::-1], dtype=torch.float64)
            values.copy_(torch.from_numpy(values_TNF[..., place]).T).sub_(means[target])
            if isinstance(own, Masked):
                seen = torch.from_numpy(seen_TNF[..., place]).T.contiguous()
                newest = _newest(values, seen, window, count)
                own.add(
                    GramPart(
                        values_NT=values[:, begin:],
                        seen_NT=seen[:, begin:],
                        newest_NK=newest,
                        count=count,
                        opens=opens,
                        closes=closes,
                    ),
                    should_stop,
                )
            else:
                own.add(
                    GramPart(
                        values_NT=values[:, begin:],
                        seen_NT=None,
                        newest_NK=None,
                        count=count,
                        opens=opens,
                        closes=closes,
                    ),
                    should_stop,
                )
    for own in equations.values():
        own.finish(should_stop)


def _newest(values_NT: torch.Tensor, seen_NT: torch.Tensor, window: Window, count: int) -> torch.Tensor:
    """Returns [N, K]: the newest observed value of each window's history; if none was observed, what its last step holds."""
    steps = torch.arange(values_NT.shape[1])
    upto = torch.where(seen_NT, steps, -1).cummax(1).values
    begin_K = steps[:: window.stride][:count]
    last_K = begin_K + window.history - 1
    place_NK = upto[:, last_K]
    return values_NT.gather(1, torch.where(place_NK >= begin_K, place_NK, last_K))


def scaled_means(dataset: Dataset, targets: Iterable[int]) -> list[float]:
    """The mean of all scaled training cells of each target feature."""
    chosen, scale = list(targets), dataset.scale
    count, pivot, delta = (dataset.statistics.merged.moments_6NF[k][:, chosen] for k in range(3))
    means_NF = (pivot - scale.pivot_NF[:, chosen]) + (delta - scale.delta_NF[:, chosen])
    means_NF = means_NF / scale.spread_NF[:, chosen]
    means: list[float] = ((count * means_NF).sum(0) / np.maximum(count.sum(0), 1)).tolist()
    return means
