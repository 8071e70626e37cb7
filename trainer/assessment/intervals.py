"""How wide a forecast's interval must be: conformal prediction on the validation windows, judged on the test ones.

The score of a target is what the model missed it by, in scaled units: what was observed less the forecast. Of n scores
of one step and feature the interval reaches from the floor((n + 1) a / 2)-th least to the ceil((n + 1) (1 - a / 2))-th, a
being 1 - level: for exchangeable windows at least `level` of new targets lie inside, whatever the model (Vovk et al. 2005;
Romano et al. 2019). Both ends are moved outwards, to the forecast itself, where the model is biased that far.

On a grid the score is divided by the local error at its hour, as that was known when the forecast was made, and the ends
follow the targets that become known (`trainer.assessment.adaptation`): for data drift. Records that come when they come,
and targets at the history's own steps, keep the ends that the validation windows gave.

Scaled units: quantiles go through the inverse of scale and transform as they are, so in raw units the interval of a
log1p feature grows with its forecast, and that of a feature scaled per node with the node's own spread.

Legend: K windows that are looked at, P target steps, N nodes, F numeric targets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from dateshard.shardstore.dataset import Dataset
from dateshard.trainer.assessment.adaptation import RATE, Integers, LocalError, Reach, Walk, starting
from dateshard.trainer.assessment.coverage import Coverage, CoverageTally
from dateshard.trainer.assessment.forecaster import Forecaster
from dateshard.trainer.assessment.quantiles import around, outer_of
from dateshard.trainer.data.batch import Batch, BatchForm
from dateshard.trainer.data.order import Order, Window
from dateshard.trainer.data.window_dates import DateOf, InstantOf
from dateshard.trainer.metrics.raw_errors import hours_of
from dateshard.trainer.metrics.units import Units
from dateshard.trainer.models.naive import repeated
from dateshard.trainer.setup import evaluation_shuffle, make_reader, order_of, shuffle_of

CODE = 6  # raised by hand when the same checkpoint and data give other intervals
HELD_BYTES = 256 << 20  # of scores
MOST_WINDOWS = 10_000  # of a split that are asked; more would take time and hardly move a quantile
UNLEARNED = 8  # the first eighth of the validation windows only teaches what a local error is
TAIL_SCORES = 10  # expected beyond each end, below which a node's own scores give way to those of all nodes
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """What is added to a scaled forecast.

    Attributes:
        begin, now: as the validation windows left it, and as the test windows did after them; the same where it never changes.
        windows: validation windows that were asked, of so many in the split.
        own_nodes: features x nodes whose own scores decide, at every step; of the others those of all nodes do.
        errors: {model | repeat | mean: mean squared error of the scaled targets of those windows}.
        coverage: on the test split; None without one.
    """

    level: float
    begin: Reach
    now: Reach
    windows: int
    of: int
    own_nodes: int
    errors: dict[str, float]
    coverage: Coverage | None = None


def calibrate(forecaster: Forecaster, level: float) -> Intervals | None:
    """Intervals of the numeric targets, and how they do on the test split; None without such or a validation window.

    Memory: `HELD_BYTES` of scores and twice those of one step and feature; of a larger split every k-th window is asked.
    """
    if not forecaster.numbers:
        return None
    order, of = _thinned(forecaster, "validation", held=True)
    if not order.num_windows:
        return None
    scores_RKPNF, errors, local = _scores(forecaster, order, level)
    ends, own = _reach(scores_RKPNF[0], level, point=len(scores_RKPNF) == 1)
    if len(scores_RKPNF) > 1:
        ends[1] = _reach(scores_RKPNF[1], level, point=False)[0][1]
    del scores_RKPNF
    begin = Reach(ends_2PNF=ends, local=local)
    intervals = Intervals(
        level=level, begin=begin, now=begin, windows=order.num_windows, of=of, own_nodes=own, errors=errors
    )
    return cover(forecaster, intervals, "test")


def adapts(forecaster: Forecaster) -> bool:
    """Whether the targets of a window become known in the order of time, one step after the other."""
    manifest, targets = forecaster.dataset.manifest, forecaster.columns.targets
    in_order = bool(manifest.step and forecaster.window.horizon and not manifest.split_cuts)
    return in_order and not any(forecaster.dataset.features[place].ahead for place in targets)


class IntervalWalk:
    """The intervals of an order's windows, one batch after the other, each as it stood when its window was forecast."""

    def __init__(self, dataset: Dataset, order: Order, window: Window, reach: Reach, level: float) -> None:
        self.dataset, self.window, self.start, self.level = dataset, window, reach, level
        self.rate = RATE
        self._walk: Walk | None = None
        self.instant_of = None if reach.local is None else InstantOf(dataset, order, window)

    def finish(self) -> Reach:
        """Returns the ends after all that was learned."""
        return self.start if self._walk is None else self._walk.finish()

    def __call__(self, missed_RBPNF: NDArray[np.float32], hours_BP: Integers, positions: range) -> Floats:
        """Returns [2, B, P, N, F]: what is added to the scaled forecasts, or to their outer quantiles, at these positions.

        Args:
            missed_RBPNF: as `missed_of` gives it.
        """
        size = missed_RBPNF.shape[1]
        if self.instant_of is None:
            ends_2PNF = self.start.ends_2PNF
            return np.broadcast_to(ends_2PNF[:, None], (2, size, *ends_2PNF.shape[1:]))
        anchor_B = self.instant_of(positions, np.zeros(1, dtype=np.int64))[:, 0] // self.dataset.manifest.step
        if self._walk is None:
            step, rows = self.dataset.manifest.step, len(missed_RBPNF)
            self._walk = Walk(reach=self.start, level=self.level, step=step, rows=rows, rate=self.rate)
        return self._walk.of_batch(anchor_B, hours_BP, missed_RBPNF)


def _thinned(forecaster: Forecaster, split: str, *, held: bool) -> tuple[Order, int]:
    """Returns (every k-th window of a split in date order, windows of the split)."""
    config, dataset, window = forecaster.config, forecaster.dataset, forecaster.window
    shuffle = evaluation_shuffle(shuffle_of(config, dataset, window))
    order = order_of(dataset, split, window, config.training.batch_size, shuffle, None)
    total = order.num_windows
    scores = 4 * window.target_steps * dataset.manifest.num_nodes * max(1, len(forecaster.numbers))
    scores *= 2 if forecaster.quantiles.levels else 1
    most = min(MOST_WINDOWS, max(1, HELD_BYTES // scores)) if held else MOST_WINDOWS
    every = max(1, math.ceil(total / most))
    runs = tuple(replace(run, count=math.ceil(run.count / every)) for run in order.runs)
    return replace(order, runs=runs, stride=order.stride * every), total


def _batches(forecaster: Forecaster, order: Order) -> Iterator[Batch]:
    """All features as inputs, the numeric targets alone as targets."""
    targets = tuple(forecaster.columns.targets[place] for place in forecaster.numbers)
    everything = tuple(range(len(forecaster.dataset.features)))
    futures = forecaster.columns.futures
    wanted = BatchForm(
        window=forecaster.window, inputs=everything, targets=targets, codes=True, known=True, futures=futures
    )
    return make_reader(forecaster.config, forecaster.dataset, order, wanted).batches(0)


def target_hours(forecaster: Forecaster, codes_BW: torch.Tensor | None) -> Integers:
    """Returns [B, P]: the hour of the local day of each target step, of the time codes of windows."""
    window = forecaster.window
    first = window.history if window.horizon else 0
    hours = hours_of(codes_BW, first, window.target_steps, forecaster.dataset.code_length)
    assert hours is not None, "codes were asked for"
    return hours


@torch.no_grad()
def _scores(
    forecaster: Forecaster, order: Order, level: float
) -> tuple[NDArray[np.float32], dict[str, float], LocalError | None]:
    """Returns ([1, K, P, N, F] scores, NaN where nothing was observed; squared errors beside two baselines; local errors).

    Scores are errors, in local errors where these are known; of the first windows, which know of none, there is none. Of a
    model that knows quantiles they are [2, K, P, N, F]: less the lowest and less the highest one.
    """
    targets = [forecaster.columns.targets[place] for place in forecaster.numbers]
    shape = (forecaster.window.target_steps, forecaster.dataset.manifest.num_nodes, len(targets))
    rows = 2 if forecaster.quantiles.levels else 1
    scores, at = np.empty((rows, order.num_windows, *shape), dtype=np.float32), 0
    mean = Units(forecaster.dataset, targets).mean_scaled_NF
    sums: dict[str, float] = {}
    follow = None
    if adapts(forecaster):
        follow = IntervalWalk(forecaster.dataset, order, forecaster.window, starting(*shape), level)
        follow.rate = 0.0  # so that the high end is the local error itself
    looks_ahead = any(forecaster.dataset.features[place].ahead for place in targets)
    for number, batch in enumerate(_batches(forecaster, order)):
        outputs = forecaster.forecast(batch)
        predicted = forecaster.numeric(outputs)
        outer = outer_of(forecaster.quantiles_in(outputs), predicted.numpy())
        missed = missed_of(predicted, batch.target_BPNF, batch.observed_BPNF, outer)
        seen = ~np.isnan(missed[-1])
        unit = (
            1.0
            if follow is None
            else follow(missed, target_hours(forecaster, batch.codes_BW), order.positions(number))[1]
        )
        scores[:, at : at + batch.size] = missed[:rows] / unit
        at += batch.size
        guesses = {"model": predicted, "mean": mean.expand(batch.size, *shape)}
        if forecaster.window.horizon and not looks_ahead:  # its own last value would tell what came
            guesses["repeat"] = repeated(batch, targets, (forecaster.window.history, 1, shape[0]), mean)
        for name, guess in guesses.items():
            squared = np.square((batch.target_BPNF.double() - guess.double()).numpy())
            sums[name] = sums.get(name, 0.0) + float(squared[seen].sum())
    count = int(np.count_nonzero(~np.isnan(scores[0])))
    if follow is not None:
        scores[:, : order.num_windows // UNLEARNED] = np.nan
    local = None if follow is None else follow.finish().local
    return scores, {name: total / count for name, total in sums.items()} if count else {}, local


def missed_of(
    predicted: torch.Tensor,
    target: torch.Tensor,
    observed: torch.Tensor | None,
    outer_2BPNF: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Returns [1, B, P, N, F] what was observed less what was forecast, NaN where nothing was observed.

    With outer quantiles, less the forecast, it is [3, B, P, N, F]: less the low one, the high one and the forecast.
    """
    missed: NDArray[np.float32] = (target - predicted).numpy()[None]
    if outer_2BPNF is not None:
        missed = np.concatenate([missed - outer_2BPNF, missed])
    return missed if observed is None else np.where(observed.numpy(), missed, np.float32(np.nan))


def _reach(scores_KPNF: NDArray[np.float32], level: float, *, point: bool = True) -> tuple[Floats, int]:
    """Returns ([2, P, N, F], nodes x features that all their steps have scores enough of)."""
    _, steps, nodes, features = scores_KPNF.shape
    reach, own = np.full((2, steps, nodes, features), np.nan), np.zeros((steps, nodes, features), dtype=bool)
    for step in range(steps):
        for feature in range(features):
            column_KN = np.sort(scores_KPNF[:, step, :, feature], axis=0)  # NaN last
            count_N = np.count_nonzero(~np.isnan(column_KN), axis=0)
            enough_N = count_N * (1 - level) / 2 >= TAIL_SCORES
            together = np.sort(column_KN, axis=None)[:, None]
            pooled = _ends(together, np.asarray([count_N.sum()]), level)
            mine = _ends(column_KN, count_N, level)
            reach[:, step, :, feature] = np.where(enough_N, mine, pooled)
            own[step, :, feature] = enough_N
    if point:  # an end of a biased forecast is the forecast itself; a quantile may move inwards too
        reach[0], reach[1] = np.minimum(reach[0], 0.0), np.maximum(reach[1], 0.0)  # NaN stays
    return reach, int(own.all(axis=0).sum())


def _ends(sorted_KN: NDArray[np.float32], count_N: NDArray[np.int64], level: float) -> Floats:
    """Returns [2, N] low and high order statistics; NaN where the corrected rank lies beyond the scores."""
    tail = (1 - level) / 2
    low_N = np.floor((count_N + 1) * tail + 1e-9).astype(np.int64)  # 0.05 x 200 is 10, whatever floats say
    high_N = count_N + 1 - low_N
    places = [np.clip(rank - 1, 0, len(sorted_KN) - 1) for rank in (low_N, high_N)]
    taken = [np.take_along_axis(sorted_KN, place_N[None], axis=0)[0] for place_N in places]
    return np.where((low_N >= 1) & (high_N <= count_N), np.stack(taken).astype(np.float64), np.nan)


@torch.no_grad()
def cover(forecaster: Forecaster, intervals: Intervals, split: str) -> Intervals:
    """Walks over a split, and returns the intervals as they are afterwards, with the share of its targets that lay inside.

    Without a window or an interval they stay what they were. Memory: a few batches, the counts of `CoverageTally`, `Walk`.
    """
    order, total = _thinned(forecaster, split, held=False)
    if not order.num_windows or np.isnan(intervals.begin.ends_2PNF).all():
        return intervals
    window, dataset = forecaster.window, forecaster.dataset
    names = [forecaster.columns.target_names[place] for place in forecaster.numbers]
    tally = CoverageTally(nodes=dataset.nodes.names, dates=[day.date for day in dataset.days], names=names)
    date_of, follow = (
        DateOf(dataset, order),
        IntervalWalk(dataset, order, window, intervals.begin, intervals.level),
    )
    offsets = np.arange(window.target_steps) - (0 if window.horizon else window.history - 1)
    for number, batch in enumerate(_batches(forecaster, order)):
        outputs, hours = forecaster.forecast(batch), target_hours(forecaster, batch.codes_BW)
        predicted = forecaster.numeric(outputs)
        outer = outer_of(forecaster.quantiles_in(outputs), predicted.numpy())
        missed_RBPNF = missed_of(predicted, batch.target_BPNF, batch.observed_BPNF, outer)
        low, high = around(follow(missed_RBPNF, hours, order.positions(number)), outer)
        missed = missed_RBPNF[-1]
        with np.errstate(invalid="ignore"):
            seen, inside = ~np.isnan(missed - low), (missed >= low) & (missed <= high)
        tally.add(seen, inside, hours, date_of(order.positions(number), offsets))
    coverage = tally.coverage(split, order.num_windows, total)
    return replace(intervals, now=follow.finish(), coverage=coverage)
