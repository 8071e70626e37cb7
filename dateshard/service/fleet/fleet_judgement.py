"""The judge: the held-out part of a trace served by plans of every predictor, and what each costs and misses.

The dial of each is chosen on the part before. What it costs at matched misses, with a dial that is chosen with hindsight,
stands beside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from dateshard.requests.next_interval import IntervalModel
from dateshard.requests.trace import Trace
from dateshard.service.fleet.chance_of_saving import saving_interval
from dateshard.service.fleet.fleet_load import Integers, Load, Service, load_of, refuse_service
from dateshard.service.fleet.load_forecasts import BASELINES, LoadPredictor
from dateshard.service.fleet.replica_hours import (
    CONSTANT,
    Dial,
    DialSetting,
    by_factor,
    constants,
    in_blocks,
    matched,
    minimum,
    replay,
    turned,
)
from dateshard.service.fleet.trained_load import trained_dials
from dateshard.shardstore.errors import UsageError

OURS = "trained model"
BUSIEST = 10  # replicas that the busiest interval needs, where no capacity is given
LARGE = 0.999  # share of requests that one replica then does alone within the objective


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the judge says.

    Attributes:
        chosen: {predictor: the setting that was chosen before the held-out part, replayed}, the simplest predictor first;
            None where no setting missed few enough then.
        curves: {predictor: all settings of its dial, replayed}.
        lowest: the zero-lag minimum. most_missed: share of requests that may miss. skipped: {predictor: why it is not judged}.
    """

    load: Load
    service: Service
    chosen: Mapping[str, DialSetting | None]
    curves: Mapping[str, list[DialSetting]]
    lowest: DialSetting
    most_missed: float
    skipped: Mapping[str, str]

    def at_matched_misses(self) -> dict[str, DialSetting | None]:
        """The cheapest setting of each predictor that misses no more, with hindsight."""
        return {name: matched(each, self.most_missed) for name, each in self.curves.items()}

    def saving(self, name: str) -> tuple[float, float] | None:
        """The 95 % interval of the share of a constant fleet's replica-hours that a predictor saves at matched misses.

        None: too little was replayed.
        """
        return saving_interval(
            self.curves[CONSTANT], self.curves[name], self.most_missed, in_blocks(self._replayed_requests, 1)
        )

    @property
    def requests(self) -> int:
        """How many requests were replayed."""
        return int(self._replayed_requests.sum())

    @property
    def _replayed_requests(self) -> Integers:
        load = self.load
        return load.requests_S[load.first * load.interval :] * np.repeat(load.seen_K[load.first :], load.interval)

    def kept(self, name: str) -> bool:
        """Whether a predictor's setting, chosen before, missed few enough in the replay too."""
        setting = self.chosen[name]
        return setting is not None and setting.missed <= self.most_missed

    @property
    def cheapest(self) -> str | None:
        """The predictor with the fewest replica-hours of those that kept the misses; of equal ones the simplest."""
        costs = {name: each.hours for name, each in self.chosen.items() if each and self.kept(name)}
        return min(costs, key=lambda name: costs[name], default=None)


def judged(
    trace: Trace,
    service: Service,
    intervals: IntervalModel | str = "",
    most_missed: float = 0.01,
    predictors: Mapping[str, LoadPredictor] = BASELINES,
) -> Judgement:
    """Replays a trace's held-out part.

    Args:
        service: its capacity may be 0: then the busiest interval needs `BUSIEST` replicas.
        intervals: the trained model; or why there is none, if one was wanted.

    Raises:
        UsageError: a number that cannot be. DumpError: the trace is too short.
    """
    if not 0 <= most_missed < 1:
        raise UsageError(f"--misses {most_missed:g} is not a share of requests", todo="Write it as 0.01")
    chosen = service if service.capacity else replace(service, capacity=1.0)
    refuse_service(chosen)
    load = load_of(trace, chosen)
    if not service.capacity:
        chosen = replace(chosen, capacity=_capacity(trace, load, chosen))
    dials = {CONSTANT: (load.before, constants(load.before, chosen), constants(load, chosen))}
    for name, predictor in predictors.items():
        first, second = (by_factor(predictor(each, chosen.lead)) for each in (load.before, load))
        dials[name] = (load.before, first, second)
    ours = intervals if isinstance(intervals, str) else trained_dials(intervals, trace, load, chosen)
    if not isinstance(ours, str):
        dials[OURS] = (ours.before, ours.chosen, ours.held_out)
    return replayed(load, chosen, dials, most_missed, {OURS: ours} if isinstance(ours, str) and ours else {})


def replayed(
    load: Load,
    service: Service,
    dials: Mapping[str, tuple[Load, Dial, Dial]],
    most_missed: float,
    skipped: Mapping[str, str] = MappingProxyType({}),
) -> Judgement:
    """Chooses the setting of each dial before the held-out part, and replays all settings in it.

    Args:
        dials: {predictor: (the load on which its dial is chosen, its dial there, its dial in the held-out part)}.
    """
    chosen, curves = dict[str, DialSetting | None](), dict[str, list[DialSetting]]()
    for name, (before, early, late) in dials.items():
        number = early.first_within(before, service, most_missed)
        chosen[name] = None if number is None else late.replayed(number, load, service)
        curves[name] = turned(load, service, late)
    lowest = replay(load, service, minimum(load, service), "none", lead=0)
    return Judgement(
        load=load,
        service=service,
        chosen=chosen,
        curves=curves,
        lowest=lowest,
        most_missed=most_missed,
        skipped=skipped,
    )


def _capacity(trace: Trace, load: Load, service: Service) -> float:
    """Work a second: the busiest interval needs `BUSIEST` replicas, or fewer if one could not do a large request in time."""
    work_R = service.input_weight * trace.input_R + service.output_weight * trace.output_R
    large = float(np.quantile(work_R, LARGE)) / max(service.objective, 1.0)
    return max(float(load.interval_work[load.first :].max()) / BUSIEST / service.interval, large, 1e-9)


def verdict(judgement: Judgement) -> str:
    """What to scale by, in a sentence or two: the cheapest predictor that kept the misses, if that is no chance."""
    best, allowed = judgement.cheapest, f"{judgement.most_missed:.2%}"
    if best is None:
        return f"no predictor kept its misses at {allowed} with the dial that was chosen before. {_with_hindsight(judgement)}"
    if best == CONSTANT:
        kept = f"of what kept the misses at {allowed}, a constant number of replicas is the cheapest"
        return f"{kept}: on this trace no forecast pays"
    chosen, each = judgement.chosen[best], judgement.at_matched_misses()
    assert chosen is not None
    ours, constant = each[best], each[CONSTANT]
    won = f"{best} is the cheapest that kept the misses, {chosen.hours / judgement.lowest.hours - 1:+.1%} beside the minimum"
    if ours is None or constant is None:
        return f"{won}; no constant number misses as few"
    if constant.hours <= ours.hours:
        return "a constant number of replicas is the cheapest at matched misses: on this trace no forecast pays"
    ends = judgement.saving(best)
    saved = f"{1 - ours.hours / constant.hours:.1%} of the replica-hours of a constant number"
    if ends:
        saved += f" (95 %: {ends[0]:.1%} to {ends[1]:.1%})"
    if not ends or ends[0] <= 0:
        less = f"at matched misses {best} saves {saved}, which may be chance"
        return f"no clear winner: {less}. Replay a longer trace, or allow more misses"
    return f"{won}; at matched misses it saves {saved}"


def _with_hindsight(judgement: Judgement) -> str:
    """Which predictor would have been the cheapest, had its dial been known."""
    costs = {name: setting.hours for name, setting in judgement.at_matched_misses().items() if setting}
    if not costs:
        return "However its dial is set, none misses as few"
    name = min(costs, key=lambda each: costs[each])
    return f"With hindsight, at matched misses, {name} would have been the cheapest ({costs[name]:,.1f} replica-hours)"


def spans(judgement: Judgement) -> tuple[float, float]:
    """Returns (days that were replayed, mean work a second in them)."""
    load = judgement.load
    work_J = load.interval_work[load.first :][load.seen_K[load.first :]]
    return len(work_J) * load.interval / 86_400, float(np.mean(work_J)) / load.interval
