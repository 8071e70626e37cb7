"""A dial is chosen before the replay, and a trained model is judged on its own trace alone, where it was not trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jsonschema
import numpy as np
import pytest

from dateshard.documents import document_schema
from dateshard.requests.next_interval import IntervalModel
from dateshard.requests.trace import Trace, read_trace
from dateshard.service.fleet.fleet_judgement import OURS, Judgement, judged
from dateshard.service.fleet.fleet_load import Service, load_of
from dateshard.service.fleet.load_forecasts import BASELINES
from dateshard.service.fleet.trained_load import trained_dials, work_quantiles
from tests.kit.trained_trace import TrainedTrace

SERVICE = Service(capacity=4.0, objective=60.0)


@pytest.fixture(scope="module")
def trace(trained: TrainedTrace) -> Trace:
    return read_trace(trained.path)


@pytest.fixture(scope="module")
def model(trained: TrainedTrace) -> IntervalModel:
    intervals = trained.predictor().intervals
    assert intervals is not None
    return intervals


@pytest.fixture(scope="module")
def judgement(trace: Trace, model: IntervalModel) -> Judgement:
    return judged(trace, SERVICE, model)


def chosen_dials(judgement: Judgement) -> dict[str, str | None]:
    return {name: setting and setting.dial for name, setting in judgement.chosen.items()}


def test_a_dial_depends_on_nothing_that_is_replayed(trace: Trace, judgement: Judgement) -> None:
    load = judgement.load
    later = trace.time_R >= load.times[load.first]
    heavier = replace(trace, output_R=np.where(later, trace.output_R * 9, trace.output_R))
    again = judged(heavier, SERVICE)
    dials, others = chosen_dials(judgement), chosen_dials(again)
    assert {name: dials[name] for name in others} == others
    assert any(others.values())
    assert again.at_matched_misses() != judgement.at_matched_misses()


def test_a_model_is_judged_beside_the_baselines_with_errors_of_before_alone(
    trace: Trace, model: IntervalModel, judgement: Judgement
) -> None:
    assert [*judgement.curves] == ["constant", *BASELINES, OURS]
    assert not judgement.skipped
    load, held_out = judgement.load, model.model.held_out
    late_W = held_out["time"] > load.times[load.first] - 15 * 60 * 10**9
    assert late_W.any()
    wild = held_out["forecast"] * np.where(late_W, 50, 1)[:, None, None]
    other = replace(model.model, held_out={**held_out, "forecast": wild})
    again = judged(trace, SERVICE, IntervalModel(model=other))
    assert again.curves[OURS] == judgement.curves[OURS]
    assert again.chosen[OURS] == judgement.chosen[OURS]


def test_the_work_of_many_intervals_is_that_of_each_alone(
    trained: TrainedTrace, trace: Trace, model: IntervalModel
) -> None:
    at = int(trace.time_R[-1])
    hour = np.array([at - 3600 * 10**9, at], dtype=np.int64) // (60 * 10**9) * 60 * 10**9
    work_JQ = work_quantiles(model, trace, hour + 180 * 10**9, SERVICE)
    frame = trained.frame
    for now, work_Q in zip(hour.tolist(), work_JQ, strict=True):
        predictor = trained.predictor()
        forecast = predictor.predict_interval(frame, 60, 180, (0.5,), now=trace.scale.written(now - 1))
        expected = 0.1 * forecast.input_tokens[0.5] + forecast.output_tokens[0.5]
        assert work_Q[9] == pytest.approx(expected, rel=0.01)


def test_a_model_of_another_trace_or_of_replayed_dates_is_not_judged_and_says_why(
    trace: Trace, model: IntervalModel
) -> None:
    load, held_out = load_of(trace, SERVICE), model.model.held_out
    shifted = replace(trace, input_R=trace.input_R + 1)
    assert "was trained on another trace" in str(trained_dials(model, shifted, load, SERVICE))
    late_W = held_out["time"] >= load.times[load.first]
    kept = {name: values[late_W] for name, values in held_out.items()}
    seen = IntervalModel(model=replace(model.model, held_out=kept))
    why = judged(trace, SERVICE, seen).skipped[OURS]
    assert "leaves 0 intervals between its training and the replay, and 60 are needed" in why
    slow = replace(SERVICE, cold_start=900.0)
    assert "reaches 900 s" in str(trained_dials(model, trace, load_of(trace, slow), slow))


def test_the_command_judges_the_model_and_its_document_is_typed(ds: Callable[..., Any], trained: TrainedTrace) -> None:
    words = ("requests", "judge", "--data-path", str(trained.path), "--model-dir", str(trained.models))
    document = ds(*words, "--capacity", "4", "--objective", "60", "--json", "--plot", "r.html").document
    jsonschema.validate(document, document_schema("requests judge"))
    rows = {row["name"]: row for row in document["predictors"]}
    assert [*rows] == ["constant", *BASELINES, OURS]
    assert (document["page"], document["skipped"]) == ("r.html", {})
    assert document["dials_chosen_from"] == "2001-01-02T00:00:00+00:00"
    assert document["replayed_from"] == "2001-01-03T00:00:00+00:00"
    for row in rows.values():
        assert row["kept"] == (row["chosen"] is not None and row["chosen"]["missed"] <= 0.01)
    empty = ds("requests", "judge", "--data-path", str(trained.path), "--json").document
    assert "no complete model" in empty["skipped"][OURS]
