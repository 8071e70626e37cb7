"""The load that a trained model of minutes forecasts, as quantiles: its level is the dial.

Legend: J held-out intervals, H minutes of history, P target minutes, Q levels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from dateshard.requests.interval_facts import weights_of
from dateshard.requests.next_interval import IntervalModel, counted_minutes
from dateshard.requests.request_history import RequestHistory
from dateshard.requests.request_predictor import INTERVALS, RequestPredictor
from dateshard.requests.trace import Trace
from dateshard.requests.trace_dumps import MINUTE
from dateshard.service.fleet.fleet_load import SECOND, Load, Service
from dateshard.shardstore.errors import NotThereError, UsageError, counted
from dateshard.shardstore.scaling.transform import Floats

HIGH = (0.96, 0.97, 0.975, 0.98, 0.985, 0.99, 0.992, 0.994, 0.996, 0.997, 0.998, 0.999)
LEVELS = (*np.linspace(0.05, 0.95, 19).round(2).tolist(), *HIGH)
LEAST_WINDOWS = 50  # whose errors quantiles are made of
BEYOND = tuple(np.geomspace(1.05, 6, 24).tolist())  # times the highest level's quantile


def calibrated_before(model: IntervalModel, load: Load) -> IntervalModel:
    """The model with errors of windows alone that end before the replay begins.

    Raises:
        UsageError: there are too few: it was trained, or its errors were measured, on what is replayed; or on another trace.
    """
    held_out = model.model.held_out
    ends_W = held_out["time"] + model.model.window.horizon * MINUTE
    early_W = ends_W <= int(load.times[load.first])
    if early_W.sum() < LEAST_WINDOWS:
        what = f"the trained model {model.model.name} has {counted(int(early_W.sum()), 'held-out window')} before the replay"
        todo = f"Train it on this trace, or leave it out with --no-model ({LEAST_WINDOWS} are needed)"
        raise UsageError(what, todo=todo)
    kept = {name: values[early_W] for name, values in held_out.items() if len(values) == len(early_W)}
    return IntervalModel(model=replace(model.model, held_out={**held_out, **kept}))


def dialled(model: IntervalModel, trace: Trace, load: Load, service: Service) -> Iterator[tuple[str, Floats]]:
    """Yields (level, [J] work) of each level, and of factors beyond the highest."""
    work_JQ = work_quantiles(calibrated_before(model, load), trace, load, service)
    for place, level in enumerate(LEVELS):
        yield f"level {level:g}", work_JQ[:, place]
    for factor in BEYOND:
        yield f"level {LEVELS[-1]:g} x {factor:.2f}", work_JQ[:, -1] * factor


def work_quantiles(model: IntervalModel, trace: Trace, load: Load, service: Service) -> Floats:
    """Returns [J, Q]: quantiles of the work of each held-out interval, asked for `lead` intervals before it begins."""
    packed, lead = model.model, service.lead * service.interval
    now_J = load.times[load.first :] - lead * SECOND - 1
    errors = model.errors(float(service.interval), float(lead))
    weights_P = weights_of(service.interval, lead, packed.window.horizon)
    weight = np.array([0.0, service.input_weight, service.output_weight])
    span, rows = (packed.window.history + 1) * MINUTE, list[Floats]()
    for now in now_J.tolist():
        low, high = np.searchsorted(trace.time_R, [now - span, now + 1])
        recent = slice(int(low), int(high))
        history = RequestHistory(
            time_R=trace.time_R[recent],
            input_R=trace.input_R[recent],
            output_R=trace.output_R[recent],
            num_rows=int(high - low),
        )
        values_HNF, _ = packed.encoded(counted_minutes(history, now, packed.window.history))
        begin_W = now + (np.arange(packed.window.length) - packed.window.history) * MINUTE
        scaled_P3 = packed.scaled(values_HNF[None, :, 0], packed.codes(begin_W)[None])[0]
        rows.append(weight @ errors.quantiles(weights_P @ packed.raw(scaled_P3), LEVELS))
    return np.stack(rows)


def intervals_of(model_dir: Path | None) -> tuple[IntervalModel | None, str]:
    """Returns (the newest model of minutes, why there is none)."""
    try:
        predictor = RequestPredictor(model_dir, models=[INTERVALS])
    except NotThereError as error:
        return None, str(error)
    return predictor.intervals, predictor.no_intervals
