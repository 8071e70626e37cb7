"""Intervals that follow drifting data: ends in units of a local error, corrected whenever a target becomes known.

A calibrated interval covers too little once the data are unlike those that it was calibrated on. Two things change here,
always by errors that were known before the forecast was made (a target h steps ahead is known h steps later):

    local error    mean |error| of a node at an hour of the local day, of which older ones weigh less and less (half after
                   `HALF_LIFE_DAYS`), times how the errors of all nodes stood to theirs lately (half after `RECENT_DAYS`);
                   an interval is as many local errors wide as calibration found
    correction     after each target the end that it lies beyond moves outwards by `RATE` x (1 - tail) local errors, an end that
                   holds moves inwards by `RATE` x tail: in the long run a share `tail` lies beyond each, whatever the data do

The first is conformal prediction with normalised scores (Papadopoulos et al. 2008), the second the quantile tracker of
conformal PID control (Angelopoulos, Candes & Tibshirani 2023), which descends from adaptive conformal inference (Gibbs &
Candes 2021).

Legend: B windows, P target steps, N nodes, F numeric targets, G hours of day, S windows whose targets are awaited.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dateshard.trainer.metrics.raw_errors import HOURS

HALF_LIFE_DAYS = 14
RECENT_DAYS = 1
FEWEST_RECENT = 24  # steps after which a recent error weighs half, where days have fewer
RATE = 0.05
SHRUNK = 2.0  # errors of its node that stand beside those of an hour, and of all nodes beside those of a node
LEAST = 0.1  # of the error of all nodes: no local error is smaller
AWAITED_BYTES = 128 << 20  # of errors that are not known yet; of more windows every k-th is learned from
HOUR_NS = 3_600_000_000_000
DAY_NS = 24 * HOUR_NS
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(slots=True, kw_only=True)
class LocalError:
    """How large errors are at a node and an hour, by those that are known.

    Attributes:
        hours_2GNF: weighted sums of absolute errors, and of their weights.
        recent_2F: the same of errors in units of those of their node and hour.
    """

    hours_2GNF: Floats
    recent_2F: Floats
    _means: tuple[Floats, Floats] | None = field(init=False, default=None, repr=False, compare=False)

    def at(self, hours_P: Integers) -> Floats:
        """Returns [P, N, F]: the local error at these hours."""
        lately_F: Floats = self.recent_2F[0] / self.recent_2F[1]
        return self.usual(hours_P) * lately_F

    def usual(self, hours_P: Integers) -> Floats:
        """Returns [P, N, F]: the error of a node at an hour, however things stood lately; 1 where none is known yet."""
        total_GNF, weight_GNF = self.hours_2GNF
        all_F, node_NF = self._means or self._over_hours()
        hour_PNF = (total_GNF[hours_P] + SHRUNK * node_NF) / (weight_GNF[hours_P] + SHRUNK)
        error_PNF = np.maximum(hour_PNF, LEAST * all_F)
        return np.where(error_PNF > 0, error_PNF, 1.0)

    def _over_hours(self) -> tuple[Floats, Floats]:
        """Returns the errors [F] of all nodes and [N, F] of a node; kept until something is learned: it reads all hours."""
        total_NF, weight_NF = self.hours_2GNF.sum(1)  # hours first: over both at once numpy takes ten times as long
        with np.errstate(invalid="ignore"):
            all_F = np.nan_to_num(total_NF.sum(0) / weight_NF.sum(0))
        self._means = all_F, (total_NF + SHRUNK * all_F) / (weight_NF + SHRUNK)
        return self._means

    def learn(self, hour: int, missed_SNF: Floats, step: int) -> None:
        """Adds the errors of the forecasts of one target step, NaN where nothing was observed."""
        size_SNF = np.abs(missed_SNF)
        count_NF = np.count_nonzero(~np.isnan(size_SNF), axis=0)
        size_NF, usual_NF = np.nansum(size_SNF, axis=0) / np.maximum(count_NF, 1), self.usual(np.array([hour]))[0]
        new_2F = np.stack([(size_NF / usual_NF).sum(0), np.count_nonzero(count_NF, axis=0)])
        kept = 0.5 ** (1 / max(FEWEST_RECENT, RECENT_DAYS * DAY_NS / step))
        self.recent_2F = np.where(new_2F[1] > 0, kept * self.recent_2F + new_2F, self.recent_2F)
        kept, here_2NF = 0.5 ** (1 / (HALF_LIFE_DAYS * max(1.0, HOUR_NS / step))), self.hours_2GNF[:, hour]
        new_2NF = np.stack([size_NF, np.ones(size_NF.shape)])
        self.hours_2GNF[:, hour] = np.where(count_NF > 0, kept * here_2NF + new_2NF, here_2NF)
        self._means = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What is added to a scaled forecast for the ends of its interval.

    Attributes:
        ends_2PNF: low and high, in local errors where there are some, else in scaled units; NaN where there is no end.
        local: None of intervals that never change.
    """

    ends_2PNF: Floats
    local: LocalError | None = None

    def at(self, hours_P: Integers) -> Floats:
        """Returns [2, P, N, F] low and high ends of a forecast of steps at these hours of the local day, in scaled units."""
        return self.ends_2PNF if self.local is None else self.ends_2PNF * self.local.at(hours_P)

    def with_nodes(self, num_nodes: int) -> Reach:
        """Returns the reach with nodes behind its own, which have no ends and no known errors."""
        missing = ((0, 0), (0, 0), (0, num_nodes - self.ends_2PNF.shape[2]), (0, 0))
        ends, local = np.pad(self.ends_2PNF, missing, constant_values=np.nan), self.local
        if local is not None:
            local = LocalError(hours_2GNF=np.pad(local.hours_2GNF, missing), recent_2F=local.recent_2F)
        return Reach(ends_2PNF=ends, local=local)


@dataclass(slots=True, kw_only=True)
class Walk:
    """A walk over windows in the order of time, which knows of each window what was known when it was forecast.

    Memory: at most `AWAITED_BYTES`, and a few arrays of one window.

    Attributes:
        reach: as it stands now; the given one stays what it is. step: nanoseconds of a step.
        rows: of what was missed: 1 of a point forecast, else 3. rate: of the correction; with 0 the ends stay.
    """

    reach: Reach
    level: float
    step: int
    rows: int = 1
    rate: float = RATE
    _every: int = field(init=False, default=1)
    _anchor_S: Integers = field(init=False)
    _missed_SRPNF: NDArray[np.float32] = field(init=False)
    _hour_SP: Integers = field(init=False)
    _next: int = field(init=False, default=0)
    _upto: int | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        (_, steps, *cells), slots = self.reach.ends_2PNF.shape, 0
        if (local := self.reach.local) is not None:
            own = LocalError(hours_2GNF=local.hours_2GNF.copy(), recent_2F=local.recent_2F.copy())
            self.reach = Reach(ends_2PNF=self.reach.ends_2PNF.copy(), local=own)
            most = max(1, AWAITED_BYTES // (4 * self.rows * steps * math.prod(cells)))
            self._every = math.ceil(steps / most)
            slots = math.ceil(steps / self._every)
        self._anchor_S = np.full(slots, np.iinfo(np.int64).min // 2)
        self._missed_SRPNF = np.full((slots, self.rows, steps, *cells), np.nan, dtype=np.float32)
        self._hour_SP = np.zeros((slots, steps), dtype=np.int64)

    def of_batch(self, anchor_B: Integers, hours_BP: Integers, missed_RBPNF: NDArray[np.float32]) -> Floats:
        """Returns [2, B, P, N, F] scaled ends of the windows of a batch; see `of_window`."""
        windows = zip(anchor_B.tolist(), hours_BP, missed_RBPNF.swapaxes(0, 1), strict=True)
        return np.stack([self.of_window(*window) for window in windows], axis=1)

    def of_window(self, anchor: int, hours_P: Integers, missed_RPNF: NDArray[np.float32]) -> Floats:
        """Returns [2, P, N, F]: the ends as they were when this window was forecast; its errors are learned once they are known.

        Args:
            anchor: the step of its first target, counted from anywhere.
            missed_RPNF: what was observed less the forecast, NaN where nothing was; of forecast quantiles less the low one,
                the high one and the forecast.
        """
        self.learn_before(anchor)
        if len(self._anchor_S) and anchor - self._anchor_S[self._next - 1] >= self._every:
            self._anchor_S[self._next], self._hour_SP[self._next] = anchor, hours_P
            self._missed_SRPNF[self._next] = missed_RPNF
            self._next = (self._next + 1) % len(self._anchor_S)
        return self.reach.at(hours_P)

    def finish(self) -> Reach:
        """Learns what is still awaited, and returns where that leaves the ends."""
        if len(self._anchor_S):
            self.learn_before(int(self._anchor_S.max()) + self._hour_SP.shape[1])
        self._upto = None
        return self.reach

    def learn_before(self, step: int) -> None:
        """Learns the targets before a step that nothing was learned of yet."""
        if not len(self._anchor_S):
            return
        if self._upto is not None and step < self._upto:  # windows of an earlier time follow
            self.finish()
        newest = int(self._anchor_S.max()) + self._hour_SP.shape[1]
        for known in range(step if self._upto is None else self._upto, min(step, newest)):
            ahead_S = known - self._anchor_S
            slot_S = np.flatnonzero((ahead_S >= 0) & (ahead_S < self._hour_SP.shape[1]))
            if slot_S.size:
                self._learn(slot_S, ahead_S[slot_S])
        self._upto = step

    def _learn(self, slot_S: Integers, ahead_S: Integers) -> None:
        """Learns the errors of one target step, which several windows forecast."""
        local, ends = self.reach.local, self.reach.ends_2PNF
        assert local is not None, "nothing is awaited otherwise"
        hour = int(self._hour_SP[slot_S[0], ahead_S[0]])
        missed_SRNF = self._missed_SRPNF[slot_S, :, ahead_S].astype(np.float64)
        score_2SNF = missed_SRNF[:, [0, min(1, self.rows - 1)]].swapaxes(0, 1) / local.at(np.array([hour]))
        ends[:, ahead_S] += self._moves(score_2SNF, ends[:, ahead_S])
        if self.rows == 1:  # an end of a biased forecast is the forecast itself
            np.minimum(ends[0], 0.0, out=ends[0])
            np.maximum(ends[1], 0.0, out=ends[1])
        local.learn(hour, missed_SRNF[:, -1], self.step)

    def _moves(self, score_2SNF: Floats, ends_2SNF: Floats) -> Floats:
        """How far each end moves after scores in local errors; not at all where nothing was observed."""
        tail = (1 - self.level) / 2
        with np.errstate(invalid="ignore"):
            low, high = tail - (score_2SNF[0] < ends_2SNF[0]), (score_2SNF[1] > ends_2SNF[1]) - tail
        return np.where(np.isnan(score_2SNF), 0.0, self.rate * np.stack([low, high]))


def starting(num_steps: int, num_nodes: int, num_targets: int) -> Reach:
    """Returns ends of one local error, where no error is known yet."""
    ends = np.ones((2, num_steps, num_nodes, num_targets)) * np.array([-1.0, 1.0])[:, None, None, None]
    local = LocalError(hours_2GNF=np.zeros((2, HOURS, num_nodes, num_targets)), recent_2F=np.ones((2, num_targets)))
    return Reach(ends_2PNF=ends, local=local)
