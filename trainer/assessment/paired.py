"""Errors by date, and how sure it is that one forecaster is better: a paired block bootstrap over dates.

Every predictor is judged on the same windows, so that the errors of two are paired; windows overlap and a bad day is bad
for both, so that dates are drawn and not windows, and blocks of neighbouring dates, for a bad week is bad on each of
its days. A window belongs to the date of its anchor. Of D dates a block has the square root of D, and at least as many
as one window's targets reach over; there are few blocks, so the interval is widened as Student's t is wider than the
normal distribution (docs/decisions/0050, with how often two equal forecasters are told apart).

Legend: B windows of a batch, D dates, T targets of a window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from dateshard.shardstore.dataset import Dataset
from dateshard.trainer.data.batch import Batch
from dateshard.trainer.data.order import EpochOrder, Order
from dateshard.trainer.data.permutation import Integers
from dateshard.trainer.metrics.epoch import Form, numbers_of
from dateshard.trainer.metrics.sums import Floats

LEVEL = 0.95
FEWEST_DATES = 4  # below, nothing can be told
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
Outcome = Literal["better", "worse", "unclear"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A model beside one baseline, in all its numbers together or in one category.

    Attributes:
        target: the category; None: the numbers.
        gain: of numbers the share by which the squared error is smaller, of a category the share of targets that are
            right more often; None where the baseline is without any error. low, high: its 95 % interval, None with too
            few dates.
        agrees: whether the second figure says the same: mean absolute error, or log loss.
    """

    baseline: str
    target: str | None
    gain: float | None
    low: float | None
    high: float | None
    dates: int
    agrees: bool

    @property
    def outcome(self) -> Outcome:
        """Whether the model is better, or worse, beyond chance and by both figures; worse than what makes no error."""
        if self.gain is None:
            return "worse"
        if self.low is None or self.high is None or not self.agrees:
            return "unclear"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "unclear"


class DateOf:
    """Which date a window of an order, or a step near its anchor, lies on: places among the dataset's days."""

    def __init__(self, dataset: Dataset, order: Order) -> None:
        self.order: EpochOrder = order.epoch(0)
        self.segment_R = np.array([run.segment for run in order.runs], dtype=np.int64)
        self.first_S = [segment.first for segment in dataset.segments]
        lengths = [[dataset.days[i].num_steps for i in range(s.first, s.last)] for s in dataset.segments]
        self.ends_S = [np.cumsum(steps) for steps in lengths]

    def __call__(self, positions: range, offsets_P: Integers) -> Integers:
        """Returns [B, P] days of the steps at some offsets from the anchor; 0 is the anchor, whose date is the window's."""
        days = []
        for piece in self.order.pieces(positions.start, positions.stop):
            segment_B = self.segment_R[piece.block_runs[piece.run_K]]
            step_BP = piece.anchor_K[:, None] + offsets_P
            day_BP = np.empty_like(step_BP)
            for segment in np.unique(segment_B).tolist():
                own = segment_B == segment
                day_BP[own] = self.first_S[segment] + np.searchsorted(self.ends_S[segment], step_BP[own], side="right")
            days.append(day_BP)
        return np.concatenate(days)


@dataclass(slots=True)
class ErrorsByUnit:
    """The errors of one predictor by date; 24 bytes a date for its numbers together and for each category.

    Attributes:
        sums: {None | category: [3, D] observed targets, squared errors or right forecasts, absolute errors or log loss}.
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


def compare(mine: ErrorsByUnit, theirs: ErrorsByUnit, baseline: str, horizon_days: int) -> list[Comparison]:
    """The model beside a baseline, in everything that both forecast."""
    comparisons = []
    for target, own in mine.sums.items():
        other = theirs.sums.get(target)
        if other is None or not own[0].any():
            continue
        if target is None:
            gain_D, size_D, agrees = other[1] - own[1], other[1], own[2].sum() - other[2].sum()
        else:
            gain_D, size_D, agrees = own[1] - other[1], own[0], own[2].sum() - other[2].sum()
        there = own[0] > 0
        gain, (low, high) = interval(gain_D[there], size_D[there], horizon_days)
        same = gain is not None and bool(agrees < 0 if gain > 0 else agrees >= 0)
        comparisons.append(
            Comparison(
                baseline=baseline, target=target, gain=gain, low=low, high=high, dates=int(there.sum()), agrees=same
            )
        )
    return comparisons


def interval(
    gain_D: Floats, size_D: Floats, horizon_days: int
) -> tuple[float | None, tuple[float | None, float | None]]:
    """Returns (sum of gains / sum of sizes, its 95 % interval) by a circular block bootstrap over dates in their order.

    None where the sizes are 0 or something is no number; no interval with fewer than two blocks or `FEWEST_DATES`.
    """
    total = float(size_D.sum())
    if not total or not math.isfinite(total) or not np.isfinite(gain_D).all():
        return None, (None, None)
    value, dates = float(gain_D.sum()) / total, len(gain_D)
    block = max(min(math.ceil(math.sqrt(dates)), dates // 2), 1 + horizon_days)
    if dates < FEWEST_DATES or block > dates // 2:
        return value, (None, None)
    drawn = math.ceil(dates / block)
    starts = np.random.default_rng(SEED).integers(0, dates, (DRAWS, drawn))
    gains, sizes = (_block_sums(values_D, block)[starts].sum(1) for values_D in (gain_D, size_D))
    away = np.quantile(gains / sizes - value, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    # fewer dates than were drawn; blocks that share dates; few blocks
    widened = (
        math.sqrt(drawn * block / dates) * math.sqrt(dates / (dates - block)) * _student(dates / block - 1) / NORMAL
    )
    low, high = (value + widened * away).tolist()
    return value, (low, min(high, 1.0))  # no forecaster has less than no error


def _block_sums(values_D: Floats, block: int) -> Floats:
    """Sums of `block` dates from each one on, the first following the last."""
    sums = np.cumsum(np.concatenate([[0.0], values_D, values_D[: block - 1]]))
    block_sums: NDArray[np.float64] = sums[block:] - sums[:-block]
    return block_sums


def _student(degrees: float) -> float:
    known = sorted(T_QUANTILES.items(), reverse=True)
    return float(np.interp(1 / degrees, [0.0, *(1 / d for d, _ in known)], [NORMAL, *(t for _, t in known)]))
