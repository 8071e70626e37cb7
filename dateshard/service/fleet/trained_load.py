"""The load that a trained model of minutes forecasts, as quantiles: its level is the dial.

Legend: K intervals, J those that are forecast, H minutes of history, P target minutes, Q levels, W held-out windows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dateshard.requests.interval_facts import weights_of
from dateshard.requests.next_interval import IntervalModel
from dateshard.requests.request_predictor import INTERVALS, RequestPredictor
from dateshard.requests.trace import Integers, Trace
from dateshard.requests.trace_dumps import MINUTE
from dateshard.service.fleet.fleet_load import FEWEST, SECOND, Load, Service
from dateshard.service.fleet.replica_hours import Dial
from dateshard.shardstore.errors import NotThereError, counted
from dateshard.shardstore.scaling.transform import Floats

HIGH = (0.96, 0.97, 0.975, 0.98, 0.985, 0.99, 0.992, 0.994, 0.996, 0.997, 0.998, 0.999)
LEVELS = (*np.linspace(0.05, 0.45, 9).round(2).tolist(), *np.linspace(0.5, 0.95, 46).round(2).tolist(), *HIGH)
BEYOND = tuple(np.geomspace(1.05, 6, 24).tolist())  # times the highest level's quantile
AT_ONCE = 512  # intervals
ALIKE, CLOSE = 0.95, 1e-3  # a trace is the model's own if so many of its held-out minutes are, to this relative error


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedDials:
    """The dial of a trained model where it is chosen, and where it is replayed.

    Attributes:
        before: the load before the held-out part; dials are chosen where the model was not trained.
    """

    before: Load
    chosen: Dial
    held_out: Dial


def trained_dials(model: IntervalModel, trace: Trace, load: Load, service: Service) -> TrainedDials | str:
    """The dials of a trained model; or in words why it cannot be judged on this load."""
    name, ends = model.model.name, (service.lead + 1) * service.interval
    if ends > model.reach_seconds:
        return f"an interval ends {ends:g} s after its decision, and {name} reaches {model.reach_seconds:g} s"
    if not is_of(model, trace):
        return f"{name} was trained on another trace"
    time_W = model.model.held_out["time"]
    tuning = max(load.tuning, int(np.searchsorted(load.times, int(time_W.min()))))
    early_W = time_W + model.model.window.horizon * MINUTE <= int(load.times[load.first])
    if load.first - tuning < FEWEST or early_W.sum() < FEWEST:
        few = counted(max(0, min(load.first - tuning, int(early_W.sum()))), "interval")
        return f"{name} leaves {few} between its training and the replay, and {FEWEST} are needed to choose its dial"
    kept = {each: values[early_W] for each, values in model.model.held_out.items() if len(values) == len(early_W)}
    honest = IntervalModel(model=replace(model.model, held_out={**model.model.held_out, **kept}))
    work_JQ = work_quantiles(honest, trace, load.times[tuning:], service)
    before = replace(load.before, first=tuning)
    return TrainedDials(
        before=before,
        chosen=of_levels(work_JQ[: load.first - tuning]),
        held_out=of_levels(work_JQ[load.first - tuning :]),
    )


def is_of(model: IntervalModel, trace: Trace) -> bool:
    """Whether the minutes that a model was measured on are those of a trace."""
    time_W, truth_W3 = model.model.held_out["time"], model.model.held_out["truth"][:, 0].astype(np.float64)
    came_W3 = _MinuteSums(trace).between(time_W[:, None] + np.array([0, MINUTE]))[:, 0]
    seen_W = np.isfinite(truth_W3).all(axis=1)
    same_W = np.isclose(came_W3[seen_W], truth_W3[seen_W], rtol=CLOSE, atol=0.5).all(axis=1)
    return bool(seen_W.any()) and float(np.mean(same_W)) >= ALIKE


def of_levels(work_JQ: Floats) -> Dial:
    """The dial of quantiles: their level, and a factor beyond the highest."""

    def at(number: int) -> tuple[str, Floats]:
        if number < len(LEVELS):
            return f"level {LEVELS[number]:g}", work_JQ[:, number]
        factor = BEYOND[number - len(LEVELS)]
        return f"level {LEVELS[-1]:g} x {factor:.2f}", work_JQ[:, -1] * factor

    return Dial(len(LEVELS) + len(BEYOND), at)


def work_quantiles(model: IntervalModel, trace: Trace, time_J: Integers, service: Service) -> Floats:
    """Returns [J, Q]: quantiles of the work of intervals that begin then, forecast a cold start before."""
    packed, lead = model.model, service.lead * service.interval
    window, errors = packed.window, model.errors(float(service.interval), float(lead))
    weights_P = weights_of(service.interval, lead, window.horizon)
    weight = np.array([0.0, service.input_weight, service.output_weight])
    counts, rows = _MinuteSums(trace), list[Floats]()
    for low in range(0, len(time_J), AT_ONCE):
        now_J = time_J[low : low + AT_ONCE] - lead * SECOND
        count_JH3 = counts.between(now_J[:, None] + np.arange(-window.history, 1) * MINUTE)
        values_MNF, _ = packed.encoded(count_JH3.reshape(-1, 3))
        codes_JW = packed.codes(now_J[:, None] + np.arange(-window.history, window.length - window.history) * MINUTE)
        scaled_JP3 = packed.scaled(values_MNF[:, 0].reshape(count_JH3.shape), codes_JW)
        sums_J3 = np.einsum("jpf,p->jf", packed.raw(scaled_JP3), weights_P)
        rows += [weight @ errors.quantiles(sums_3, LEVELS) for sums_3 in sums_J3]
    return np.stack(rows)


class _MinuteSums:
    """Counts what came in minutes that begin at any instant. Memory: 24 bytes a record."""

    def __init__(self, trace: Trace) -> None:
        self.time_R, self.sums_R3 = trace.time_R, np.zeros((len(trace) + 1, 3), dtype=np.int64)
        self.sums_R3[:, 0] = np.arange(len(trace) + 1)
        self.sums_R3[1:, 1] = np.cumsum(trace.input_R, dtype=np.int64)
        self.sums_R3[1:, 2] = np.cumsum(trace.output_R, dtype=np.int64)

    def between(self, edge_JE: Integers) -> Floats:
        """Requests, input tokens and output tokens between each two edges, the first included: [J, E - 1, 3]."""
        return np.diff(self.sums_R3[np.searchsorted(self.time_R, edge_JE)], axis=1).astype(np.float64)


def intervals_of(model_dir: Path | None) -> tuple[IntervalModel | None, str]:
    """Returns (the newest model of minutes, why there is none)."""
    try:
        predictor = RequestPredictor(model_dir, models=[INTERVALS])
    except NotThereError as error:
        return None, str(error)
    return predictor.intervals, predictor.no_intervals
