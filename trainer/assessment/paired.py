"""Errors by date or by cut, and how sure it is that one forecaster is better: a paired bootstrap over them.

Every predictor is judged on the same windows, so that the errors of two are paired; windows overlap and a bad day is bad
for both, so that dates are drawn and not windows, and blocks of neighbouring dates, for a bad week is bad on each of
its days. A window belongs to the date of its anchor. Of D dates a block has the square root of D, and at least as many
as one window's targets reach over; there are few blocks, so the interval is widened as Student's t is wider than the
normal distribution (docs/decisions/0050, with how often two equal forecasters are told apart).

Where the splits are people (or any other cuts) and not dates, people are drawn: all windows of a person, on whichever
dates, are one unit, and units have no order, so that each is a block (docs/decisions/0059).

Legend: B windows of a batch, D dates, R runs of an order, U units (dates or cuts), T targets of a window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray

from dateshard.shardstore.dataset import Dataset
from dateshard.trainer.assessment.baseline_comparison import Comparison, Measure
from dateshard.trainer.data.batch import Batch
from dateshard.trainer.data.order import DateRun, EpochOrder, Order
from dateshard.trainer.data.permutation import Integers
from dateshard.trainer.data.window_dates import DateOf
from dateshard.trainer.metrics.epoch import Form, numbers_of
from dateshard.trainer.metrics.sums import Floats

LEVEL = 0.95
FEWEST_UNITS = 4  # below, nothing can be told
MOST_UNITS = 1000  # cuts that are drawn; of more each is one of so many groups, whose draws take 32 MB
NO_ERROR = 1e-12  # share of a baseline's error that is none
DRAWS = 4000
SEED = 0
# two-sided 95 % quantiles of Student's t by degrees of freedom; between two of them by 1 / degrees
T_QUANTILES = {
    1: 12.706,
    1.5: 6.202,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    6: 2.447,
    8: 2.306,
    10: 2.228,
    15: 2.131,
    30: 2.042,
}
NORMAL = 1.960


class CutOf:
    """Which cut a window of an order belongs to: places among the cuts of its split, whichever dates they come on."""

    def __init__(self, dataset: Dataset, order: Order, split: str) -> None:
        self.order: EpochOrder = order.epoch(0)
        self.cut_R = _cuts_of_runs(dataset, order.runs, dataset.manifest.split_cuts[split])

    def __call__(self, positions: range) -> Integers:
        """Returns [B] places of the cuts of these windows."""
        pieces = self.order.pieces(positions.start, positions.stop)
        return np.concatenate([self.cut_R[piece.block_runs[piece.run_K]] for piece in pieces])


def _cuts_of_runs(dataset: Dataset, runs: Sequence[DateRun], names: Sequence[str]) -> Integers:
    places, cut_R = {name: place for place, name in enumerate(names)}, list[int]()
    for segment, own in groupby(runs, key=lambda run: run.segment):
        cuts = dataset.cuts(dataset.days[dataset.segments[segment].first])  # where records are cut, a segment is a date
        begins = np.searchsorted(cuts.starts, [run.begin for run in own], side="right") - 1
        cut_R += [places[cuts.names[begin]] for begin in begins]
    return np.array(cut_R, dtype=np.int64)


def units_of(dataset: Dataset, order: Order, split: str) -> tuple[int, Callable[[range], Integers]]:
    """Returns (how many units a split may have, the unit [B] of each window at some positions): cuts, or dates."""
    if dataset.manifest.split_cuts:
        return len(dataset.manifest.split_cuts[split]), CutOf(dataset, order, split)
    date_of = DateOf(dataset, order)
    return len(dataset.days), lambda positions: date_of(positions, np.zeros(1, dtype=np.int64))[:, 0]


@dataclass(slots=True)
class ErrorsByUnit:
    """The errors of one predictor by unit; 24 bytes a unit for its numbers together and for each category.

    Attributes:
        sums: {None | category: [3, U] observed targets, squared errors or right forecasts, absolute errors or log loss}.
    """

    form: Form
    num_units: int
    sums: dict[str | None, Floats] = field(default_factory=dict)

    def add(self, forecast: Mapping[str, torch.Tensor], batch: Batch, unit_B: Integers) -> None:
        """Adds a batch; a predictor may leave heads out."""
        if (numbers := numbers_of(self.form, forecast, batch)) is not None:
            predicted, target, observed = (None if tensor is None else tensor.detach().cpu() for tensor in numbers)
            assert predicted is not None
            assert target is not None
            error = torch.sub(predicted.double(), target.double())
            seen = torch.ones_like(error, dtype=torch.bool) if observed is None else observed
            error = torch.where(seen, error, 0.0)
            self._add(None, (seen, error.square(), error.abs()), unit_B)
        for head in self.form.categorical:
            if head.name in forecast:
                place = head.targets[0]
                self._add(self.form.targets[place].name, _of_category(forecast[head.name], batch, place), unit_B)

    def _add(self, target: str | None, terms: Sequence[torch.Tensor], unit_B: Integers) -> None:
        sums = self.sums.setdefault(target, np.zeros((3, self.num_units)))
        for row, term in zip(sums, terms, strict=True):
            row += np.bincount(unit_B, term.flatten(1).sum(1, dtype=torch.float64).numpy(), minlength=self.num_units)


def _of_category(logits_BPNC: torch.Tensor, batch: Batch, place: int) -> tuple[torch.Tensor, ...]:
    """Returns (seen, right, log loss) of each target, the loss 0 where nothing was seen."""
    logits, codes = logits_BPNC.detach().cpu()[..., 1:].double(), batch.target_BPNF[..., place].cpu().long()
    seen = codes > 0
    if batch.observed_BPNF is not None:
        seen &= batch.observed_BPNF[..., place].cpu()
    lost = -logits.log_softmax(-1).gather(-1, (codes - 1).clamp(min=0)[..., None])[..., 0]
    return seen, seen & (logits.argmax(-1) + 1 == codes), torch.where(seen, lost, 0.0)


def compare(
    mine: ErrorsByUnit, theirs: ErrorsByUnit, baseline: str, horizon_days: int | None, measure: Measure = "mse"
) -> list[Comparison]:
    """The model beside a baseline, in everything that both forecast.

    Args:
        horizon_days: dates that one window's targets reach over; None where the units are cuts.
        measure: of numbers, which error decides.
    """
    first, second = (1, 2) if measure == "mse" else (2, 1)
    comparisons = []
    for target, own in mine.sums.items():
        other = theirs.sums.get(target)
        if other is None or not own[0].any():
            continue
        if target is None:
            gain_U, size_U = other[first] - own[first], other[first]
            agrees = own[second].sum() - other[second].sum()
        else:
            gain_U, size_U, agrees = own[1] - other[1], own[0], own[2].sum() - other[2].sum()
        there = own[0] > 0
        gain, (low, high) = interval(gain_U[there], size_U[there], horizon_days)
        same = gain is not None and bool(agrees < 0 if gain > 0 else agrees >= 0)
        count, by_date = int(there.sum()), horizon_days is not None
        comparisons.append(
            Comparison(
                baseline=baseline,
                target=target,
                gain=gain,
                low=low,
                high=high,
                dates=count if by_date else None,
                cuts=None if by_date else count,
                agrees=same,
            )
        )
    return comparisons


def interval(
    gain_U: Floats, size_U: Floats, horizon_days: int | None
) -> tuple[float | None, tuple[float | None, float | None]]:
    """Returns (sum of gains / sum of sizes, its 95 % interval) by a bootstrap over units.

    Blocks of dates in their order are drawn, the first following the last; of cuts, which have no order, each by itself.
    None where the sizes are 0 or something is no number. No interval with fewer than two blocks or `FEWEST_UNITS`, nor
    where all of the sizes lie in so few units that a draw may have none of them.

    Args:
        horizon_days: dates that one window's targets reach over; None: the units are cuts.
    """
    total = float(size_U.sum())
    if not total or not math.isfinite(total) or not np.isfinite(gain_U).all():
        return None, (None, None)
    value = float(gain_U.sum()) / total
    if horizon_days is None:
        gain_U, size_U = (_grouped(values_U) for values_U in (gain_U, size_U))
    units = len(gain_U)
    block = 1 if horizon_days is None else max(min(math.ceil(math.sqrt(units)), units // 2), 1 + horizon_days)
    if units < FEWEST_UNITS or block > units // 2:
        return value, (None, None)
    drawn = math.ceil(units / block)
    starts = np.random.default_rng(SEED).integers(0, units, (DRAWS, drawn))
    gains, sizes = (_block_sums(values_U, block)[starts].sum(1) for values_U in (gain_U, size_U))
    if sizes.min() <= NO_ERROR * total:
        return value, (None, None)
    away = np.quantile(gains / sizes - value, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    # fewer units than were drawn; blocks that share dates, or few cuts; few blocks
    widened = (
        math.sqrt(drawn * block / units) * math.sqrt(units / (units - block)) * _student(units / block - 1) / NORMAL
    )
    low, high = (value + widened * away).tolist()
    return value, (low, min(high, 1.0))  # no forecaster has less than no error


def _grouped(values_U: Floats) -> Floats:
    """Adds cuts up to at most `MOST_UNITS` groups, which are as independent of each other as the cuts are."""
    if len(values_U) <= MOST_UNITS:
        return values_U
    padded = np.concatenate([values_U, np.zeros(-len(values_U) % MOST_UNITS)])
    groups: Floats = padded.reshape(-1, MOST_UNITS).sum(0)
    return groups


def _block_sums(values_D: Floats, block: int) -> Floats:
    """Sums of `block` dates from each one on, the first following the last."""
    if block == 1:
        return values_D
    sums = np.cumsum(np.concatenate([[0.0], values_D, values_D[: block - 1]]))
    block_sums: NDArray[np.float64] = sums[block:] - sums[:-block]
    return block_sums


def _student(degrees: float) -> float:
    known = sorted(T_QUANTILES.items(), reverse=True)
    return float(np.interp(1 / degrees, [0.0, *(1 / d for d, _ in known)], [NORMAL, *(t for _, t in known)]))
