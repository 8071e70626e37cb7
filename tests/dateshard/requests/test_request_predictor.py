"""The predictor loads the newest complete models, and answers with the notes' keys and with what was measured."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import dateshard
from dateshard.places import data_in, shards_folder
from dateshard.requests.accuracy.response_given_input import fit
from dateshard.requests.next_request import raw_values
from dateshard.requests.request_history import HistoryReader
from dateshard.requests.request_training import RequestTraining, train_requests
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import NotThereError, UsageError
from tests.kit.trained_trace import QUICK, TrainedTrace

VALUES = ("timestamp", "request_tokens", "response_tokens")


def test_a_prediction_has_the_keys_of_the_notes_and_what_was_measured(trained: TrainedTrace) -> None:
    frame = trained.frame
    answer = trained.predictor().predict_next_request(frame)
    assert [*answer["predictions"]] == ["dlinear", "lstm"]
    for prediction in answer["predictions"].values():
        assert type(prediction["timestamp"]) is float
        assert prediction["timestamp"] >= frame["Timestamp"].max()
        assert {type(prediction[name]) for name in VALUES[1:]} == {int}
        assert 0 <= prediction["confidence"] <= 1
        assert prediction["calibration"] == 327 - 2 * 10, "the last 30 % of 1,089, less a history for each part"
        for name in VALUES:
            ends = prediction["interval"][name]
            assert ends["level"] == 0.9
            assert ends["low"] <= prediction[name] <= ends["high"]
            assert prediction["median_absolute_error"][name] > 0


def test_pandas_polars_and_rows_in_any_order_give_the_same_answer(trained: TrainedTrace) -> None:
    pandas = pytest.importorskip("pandas")
    predictor, frame = trained.predictor(), trained.frame
    answer = predictor.predict_next_request(frame)
    assert predictor.predict_next_request(pandas.read_csv(trained.path)) == answer
    times = frame.unique("Timestamp", keep="first", maintain_order=True)  # of tied ones the order of the rows decides
    shuffled = times.sample(fraction=1.0, shuffle=True, seed=3)
    assert predictor.predict_next_request(shuffled) == predictor.predict_next_request(times)
    assert predictor.predict_interval(shuffled) == predictor.predict_interval(times)


def test_a_history_is_encoded_to_the_bits_of_its_shards(trained: TrainedTrace) -> None:
    model = trained.predictor().models["lstm"]
    reader = HistoryReader(model.facts["trace"])
    with data_in(trained.data):
        name = next(path.name for path in sorted(shards_folder("").iterdir()) if not path.name.endswith("-minutes"))
        dataset = Dataset.open(shards_folder(name))
        day = dataset.days[0]
        values_TNF, seen_TNF = dataset.read_day(day)
        time_T = dataset.times(day)
    history = reader.read(trained.frame.filter(pl.col("Timestamp") < 86_400))
    assert (history.time_R == time_T).all()
    encoded, seen = model.encoded(raw_values(history, len(history)))
    assert encoded.tobytes() == values_TNF.tobytes()
    assert seen is not None
    assert (seen == seen_TNF).all()
    later = model.encoded(raw_values(history, 10))[0]
    assert later.tobytes() == values_TNF[-10:].tobytes(), "a history that goes further back knows its first gap"


def test_a_model_that_cannot_be_used_is_an_error_entry_beside_the_others(trained: TrainedTrace, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    shutil.copytree(trained.models, folder)
    weights = next(path for path in folder.glob("cpu_lstm_*/checkpoint_*/model.safetensors"))
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    predictions = dateshard.RequestPredictor(folder, ["lstm", "dlinear", "gru"]).predict_next_request(trained.frame)
    assert "hash" in predictions["predictions"]["lstm"]["error"]
    assert "requests train" in predictions["predictions"]["gru"]["error"]
    assert "error" not in predictions["predictions"]["dlinear"]


def test_too_short_a_history_says_how_many_rows_are_needed(trained: TrainedTrace) -> None:
    predictions = trained.predictor().predict_next_request(trained.frame.head(9))["predictions"]
    assert "looks back 10 requests, and the history has 9. Give at least 10 rows" in predictions["lstm"]["error"]


def test_the_newest_complete_model_is_taken_and_its_absence_says_how_to_train(
    trained: TrainedTrace, tmp_path: Path
) -> None:
    with data_in(tmp_path), pytest.raises(NotThereError, match="requests train --data-path FILE"):
        dateshard.RequestPredictor()
    folder = tmp_path / "models"
    shutil.copytree(trained.models, folder)
    old = next(folder.glob("cpu_lstm_*_*[0-9]"))
    for stamp in ("19990101_000000", "29990101_000000", "29990102_000000"):
        shutil.copytree(old, folder / f"gpu_lstm_{stamp}")
    (folder / "gpu_lstm_29990102_000000" / "model.json").unlink()  # it was cut off
    with data_in(tmp_path):
        assert dateshard.RequestPredictor().models["lstm"].name == "gpu_lstm_29990101_000000"


@pytest.mark.parametrize("length", [1.0, 60.0, 90.0, 180.0])
@pytest.mark.parametrize("lead", [0.0, 30.0, 180.0, 480.0])
def test_an_interval_is_never_negative_never_nan_and_rises_with_the_level(
    trained: TrainedTrace, length: float, lead: float
) -> None:
    predictor, frame = trained.predictor(), trained.frame
    levels = (0.01, 0.1, 0.5, 0.9, 0.99)
    for rows in (1100, 600, 300 + 150):
        forecast = predictor.predict_interval(frame.head(rows), length, lead, levels)
        assert forecast.fallback is None
        for name in ("count", "mean_input", "mean_output", "input_tokens", "output_tokens"):
            values = list(getattr(forecast, name).values())
            assert np.isfinite(values).all()
            assert values[0] >= 0
            assert (np.diff(values) >= 0).all()


def test_a_short_history_falls_back_to_the_last_values_and_says_so(trained: TrainedTrace) -> None:
    frame = pl.DataFrame({"Timestamp": [0, 30, 50, 60], "Request tokens": [1, 20, 30, 40], "Response tokens": [9] * 4})
    forecast = trained.predictor().predict_interval(frame, length=30)
    assert "spans 60 s, and the model looks back 3,600 s: these are the last values" in str(forecast.fallback)
    assert set(forecast.count.values()) == {2.0}
    assert set(forecast.mean_input.values()) == {35.0}
    assert set(forecast.output_tokens.values()) == {18.0}


def test_a_history_of_few_requests_an_hour_is_long_enough(trained: TrainedTrace) -> None:
    times = [7.0, 9000.0, 12_000.0]
    frame = pl.DataFrame({"Timestamp": times, "Request tokens": [1, 2, 3], "Response tokens": [9] * 3})
    assert trained.predictor().predict_interval(frame).fallback is None
    assert "spans 3,000 s" in str(trained.predictor().predict_interval(frame.tail(2)).fallback)


def test_an_interval_begins_with_a_given_now(trained: TrainedTrace) -> None:
    predictor, frame = trained.predictor(), trained.frame.head(300)
    last = float(frame["Timestamp"].max())  # type: ignore[arg-type]
    assert predictor.predict_interval(frame, now=last) == predictor.predict_interval(frame)
    quiet = predictor.predict_interval(frame, now=last + 1800)
    assert quiet.count[0.5] != predictor.predict_interval(frame).count[0.5]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"length": 0}, "an interval of 0 s is empty"),
        ({"length": float("nan")}, "is empty"),
        ({"lead": -5}, "lies in the past"),
        ({"lead": 3600}, "the model reaches 900 s"),
        ({"levels": ()}, "levels lie between 0 and 1"),
        ({"levels": (0.5, 1.0)}, "levels lie between 0 and 1"),
    ],
)
def test_an_interval_that_cannot_be_is_refused(trained: TrainedTrace, asked: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as refused:
        trained.predictor().predict_interval(trained.frame, **asked)
    assert words in str(refused.value)


def test_a_history_that_is_none_is_refused(trained: TrainedTrace) -> None:
    predictor = trained.predictor()
    for history, words in (
        (trained.frame.drop("Request tokens"), "there is no column 'Request tokens'"),
        (7, "a history is a frame of pandas or polars, and this is a int"),
        (trained.frame.head(0), "none can be used"),
        (trained.frame.with_columns(pl.lit(-1).alias("Request tokens")), "none can be used"),
    ):
        with pytest.raises(UsageError) as refused:
            predictor.predict_interval(history)
        assert words in str(refused.value)


def test_response_tokens_follow_the_own_input_where_that_tells_something(trained: TrainedTrace) -> None:
    chance = np.random.default_rng(5)
    taken = np.exp(6 + chance.standard_normal(2000)).astype(np.int64) + 1
    noise = np.exp(0.5 * chance.standard_normal(2000))
    tells = fit(taken, (taken * 2 * noise).astype(np.int64) + 1, (1400, 1700), 0.9)
    assert tells.tells
    assert "tell something" in tells.verdict
    assert tells.with_r2 > 0.7
    low, high = (tells.predict(tokens, np.array([100.0]))[0] for tokens in (100.0, 2000.0))
    assert high > 10 * low
    assert 0.84 < tells.coverage < 0.96
    nothing = fit(taken, np.exp(5 + chance.standard_normal(2000)).astype(np.int64) + 1, (1400, 1700), 0.9)
    assert not nothing.tells
    assert "tell nothing" in nothing.verdict
    answer = trained.predictor().predict_next_request(trained.frame, request_tokens=120)["response_given_input"]
    assert answer["request_tokens"] == 120
    assert answer["interval"]["low"] <= answer["response_tokens"] <= answer["interval"]["high"]
    assert not answer["tells"]


def test_instants_stay_instants(tmp_path: Path, trained: TrainedTrace) -> None:
    first = dt.datetime(2024, 5, 10, tzinfo=dt.UTC)
    rows = trained.frame.head(400).iter_rows()
    lines = [f"{first + dt.timedelta(seconds=at):%Y-%m-%d %H:%M:%S.%f}+00:00,{i},{o}" for at, _, i, o, *_ in rows]
    path = tmp_path / "azure.csv"
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines, ""]))
    with data_in(tmp_path / "data"):
        asked = RequestTraining(data_path=str(path), models=("dlinear",), overrides=QUICK)
        outcome = train_requests(asked, lambda *_: None)
        assert "1 date of more than 75 minutes, and a model of minutes needs 3" in outcome.no_intervals
        predictor = dateshard.RequestPredictor()
        history = pl.read_csv(path)
        at = predictor.predict_next_request(history)["predictions"]["dlinear"]["timestamp"]
        typed = history.with_columns(pl.col("TIMESTAMP").str.to_datetime(time_zone="UTC"))
        assert predictor.predict_next_request(typed)["predictions"]["dlinear"]["timestamp"] == at
        assert isinstance(at, dt.datetime)
        assert at > dt.datetime(2024, 5, 10, 10, tzinfo=dt.UTC)
        assert "no model of intervals" in str(predictor.predict_interval(history).fallback)
