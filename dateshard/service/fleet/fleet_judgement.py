"""The judge: the held-out part of a trace served by plans of every predictor, and what each costs at matched misses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from dateshard.requests.next_interval import IntervalModel
from dateshard.requests.trace import Trace
from dateshard.service.fleet.chance_of_saving import saving_interval
from dateshard.service.fleet.fleet_load import Load, Service, load_of, refuse_service
from dateshard.service.fleet.load_forecasts import BASELINES, LoadPredictor
from dateshard.service.fleet.replica_hours import (
    CONSTANT,
    DialSetting,
    by_factor,
    constants,
    in_blocks,
    matched,
    minimum,
    replay,
    turned,
)
from dateshard.service.fleet.trained_load import dialled
from dateshard.shardstore.errors import UsageError

OURS = "trained model"
BUSIEST = 10  # replicas that the busiest interval needs, where no capacity is given
LARGE = 0.999  # share of requests that one replica then does alone within the objective


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the judge says.

    Attributes:
        curves: {predictor: settings of its dial, replayed}, the simplest predictor first.
        lowest: the zero-lag minimum. most_missed: share of requests at which costs are compared.
    """

    load: Load
    service: Service
    curves: Mapping[str, list[DialSetting]]
    lowest: DialSetting
    most_missed: float

    def at_matched_misses(self) -> dict[str, DialSetting | None]:
        """The cheapest setting of each predictor that misses no more."""
        return {name: matched(each, self.most_missed) for name, each in self.curves.items()}

    def saving(self, name: str) -> tuple[float, float]:
        """The 95 % interval of the share of a constant fleet's replica-hours that a predictor saves."""
        load, second = self.load, self.load.first * self.load.interval
        seen_S = np.repeat(load.seen_K[load.first :], load.interval)
        requests_B = in_blocks(load.requests_S[second:] * seen_S, 1)
        return saving_interval(self.curves[CONSTANT], self.curves[name], self.most_missed, requests_B)

    @property
    def cheapest(self) -> str | None:
        """The predictor with the fewest replica-hours; of equal ones the simplest. None: no dial reaches the misses."""
        costs = {name: setting.hours for name, setting in self.at_matched_misses().items() if setting}
        return min(costs, key=lambda name: costs[name], default=None)


def judged(
    trace: Trace,
    service: Service,
    intervals: IntervalModel | None = None,
    most_missed: float = 0.01,
    predictors: Mapping[str, LoadPredictor] = BASELINES,
) -> Judgement:
    """Replays a trace's held-out part.

    Args:
        service: its capacity may be 0: then the busiest interval needs `BUSIEST` replicas.

    Raises:
        UsageError: a number that cannot be, or an interval out of the model's reach. DumpError: the trace is too short.
    """
    if not 0 <= most_missed < 1:
        raise UsageError(f"--misses {most_missed:g} is not a share of requests", todo="Write it as 0.01")
    chosen = service if service.capacity else replace(service, capacity=1.0)
    refuse_service(chosen)
    load = load_of(trace, chosen)
    if not service.capacity:
        chosen = replace(chosen, capacity=_capacity(trace, load, chosen))
    reach = intervals.reach_seconds if intervals else 0.0
    ends = (chosen.lead + 1) * chosen.interval
    if intervals and ends > reach:
        what = f"an interval ends {ends:g} s after the decision, and the trained model reaches {reach:g} s"
        raise UsageError(what, todo="Give a shorter --cold-start or --length, or leave the model out with --no-model")
    curves = {CONSTANT: constants(load, chosen)}
    for name, predictor in predictors.items():
        curves[name] = turned(load, chosen, by_factor(predictor(load, chosen.lead)))
    if intervals:
        curves[OURS] = turned(load, chosen, dialled(intervals, trace, load, chosen))
    lowest = replay(load, chosen, minimum(load, chosen), "none", lead=0)
    return Judgement(load=load, service=chosen, curves=curves, lowest=lowest, most_missed=most_missed)


def _capacity(trace: Trace, load: Load, service: Service) -> float:
    """Work a second: the busiest interval needs `BUSIEST` replicas, or fewer if one could not do a large request in time."""
    work_R = service.input_weight * trace.input_R + service.output_weight * trace.output_R
    large = float(np.quantile(work_R, LARGE)) / max(service.objective, 1.0)
    return max(float(load.interval_work[load.first :].max()) / BUSIEST / service.interval, large, 1e-9)


def verdict(judgement: Judgement) -> str:
    """One sentence: which predictor is the cheapest at matched misses, and by how much less than a constant number."""
    best, each = judgement.cheapest, judgement.at_matched_misses()
    if best is None:
        return f"no predictor misses as few as {judgement.most_missed:.2%} of the requests, however its dial is set"
    if best == CONSTANT:
        return "a constant number of replicas is the cheapest: on this trace no forecast pays"
    chosen, constant = each[best], each[CONSTANT]
    assert chosen is not None
    above = f"{chosen.hours / judgement.lowest.hours - 1:+.1%} beside the zero-lag minimum"
    if constant is None:
        return f"{best} is the cheapest: {above}; no constant number misses as few"
    low, high = judgement.saving(best)
    beside = (
        f"{1 - chosen.hours / constant.hours:.1%} below a constant number of replicas (95 %: {low:.1%} to {high:.1%})"
    )
    if low <= 0:
        return f"no clear winner: {best} is {beside}, which may be chance. Replay a longer trace, or allow more misses"
    return f"{best} is the cheapest: {beside}, {above}"


def spans(judgement: Judgement) -> tuple[float, float]:
    """Returns (days that were replayed, mean work a second in them)."""
    load = judgement.load
    work_J = load.interval_work[load.first :][load.seen_K[load.first :]]
    return len(work_J) * load.interval / 86_400, float(np.mean(work_J)) / load.interval
