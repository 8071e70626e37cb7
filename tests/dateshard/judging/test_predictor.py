"""`dateshard.Predictor`: raw values in memory, the forecast of `predict` to the bit."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

import dateshard
from dateshard.judging.predictor import Predictor
from dateshard.shardstore.errors import UsageError
from dateshard.shardstore.times.instants import parse_instant
from tests.conftest import World
from tests.kit.forecasting import HISTORY, HORIZON, NEW_YORK, forecasting_world, raw_cells

INPUTS = ["volume", "kind", "rows", "calm"]  # in another order than the dataset's, and without its first
RUNS: dict[str, dict[str, Any]] = {
    "mlp": {"model": {"name": "mlp", "hidden_units": [4]}},
    "few": {"model": {"name": "gru", "hidden_units": [4]}, "inputs": INPUTS, "targets": ["speed", "kind"]},
    "ridge": {"model": {"name": "ridge"}, "targets": ["volume", "speed"], "bounds": {"speed": [59, 61]}},
    "spread": {
        "model": {"name": "mlp", "hidden_units": [4]},
        "targets": ["volume", "kind", "speed"],
        "training": {
            "losses": {
                "kind": {"loss": "cross_entropy", "targets": ["kind"]},
                "speed": {"loss": "quantile", "targets": ["speed"], "quantiles": [0.05, 0.5, 0.975]},
                "volume": {"loss": "negative_binomial", "targets": ["volume"], "quantiles": [0.05, 0.5]},
            }
        },
    },
    "same_step": {
        "model": {"name": "cnn", "hidden_units": [4]},
        "window": {"history": HISTORY, "horizon": 0},
        "targets": ["speed"],
    },
}
MIDDAY, CHANGED, MIDNIGHT = "2013-03-09T17:00", "2013-03-10T05:00", "2013-03-11"
FIRST = {MIDDAY: dt.date(2013, 3, 8), CHANGED: dt.date(2013, 3, 8), MIDNIGHT: dt.date(2013, 3, 10)}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("predictor")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return forecasting_world(folder, RUNS)


@pytest.fixture
def here(prepared: World, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(prepared.folder)
    return prepared


def cells(world: World, predictor: Predictor, until: str) -> np.ndarray:
    """[L, N, I] from midnight of the window's first date on."""
    dataset, end = world.open(), parse_instant(until, NEW_YORK, end=True)
    names = dataset.feature_names
    return raw_cells(dataset, "raw/{date}.csv", FIRST[until], end)[
        ..., [names.index(name) for name in predictor.inputs]
    ]


def rows(world: World, predictor: Predictor, until: str) -> pl.DataFrame:
    """The same as a frame: a row a step and node with a value, categories as texts."""
    values, end = cells(world, predictor, until), parse_instant(until, NEW_YORK, end=True)
    at = end - np.arange(len(values), 0, -1) * 3600 * 10**9
    columns: dict[str, Any] = {
        "node": np.tile(predictor.nodes, len(values)),
        "time": pl.Series(np.repeat(at, len(predictor.nodes))).cast(pl.Datetime("ns", "UTC")),
    }
    for place, name in enumerate(predictor.inputs):
        column = values[..., place].ravel()
        columns[name] = pl.Series(column).fill_nan(None)
        if name in predictor.categories:
            words = ["no such", *predictor.categories[name]]
            columns[name] = [None if np.isnan(cell) else words[int(cell)] for cell in column]
    frame = pl.DataFrame(columns)
    return frame.filter(~pl.all_horizontal(pl.col(predictor.inputs).is_null())).sample(fraction=1, shuffle=True, seed=1)


@pytest.mark.parametrize("until", FIRST)
@pytest.mark.parametrize("name", RUNS)
def test_arrays_and_frames_give_the_forecast_of_predict_to_the_bit(here: World, name: str, until: str) -> None:
    level = 0.8 if name == "ridge" else None
    predictor = dateshard.Predictor(name, interval=level)
    expected = dateshard.predict(name, "raw/{date}.csv", until=until, interval=level)
    values = cells(here, predictor, until)
    assert np.isnan(values[-HISTORY:]).any()
    given = values if len(values) % 24 in (0, 23) else np.concatenate([np.full_like(values[:30], np.nan), values])
    answer = predictor.forecast(values, until)
    assert answer.frame.equals(expected)
    assert predictor.forecast(given, until).frame.equals(expected)  # what lies before the window's dates is not read
    numbers = expected.filter(pl.col("feature") == "speed")
    place = predictor.targets.index("speed")
    assert answer.value[..., place].ravel().tolist() == numbers["value"].to_list()
    assert np.array_equal(answer.low[..., place].ravel(), numbers["low"].fill_null(np.nan).to_numpy(), equal_nan=True)
    assert np.isfinite(answer.low).any() == (level is not None)
    assert answer.horizon.tolist() == numbers["horizon"].unique().sort().to_list()
    assert predictor.forecast(rows(here, predictor, until), until).frame.equals(expected)


def test_quantiles_come_with_a_forecast_wherever_it_leaves_the_model(here: World) -> None:
    """As columns, as an array, in JSON and for every window of a split; of a number the median is the forecast."""
    predictor = Predictor("spread", interval=None)
    answer = predictor.forecast(cells(here, predictor, MIDDAY), MIDDAY)
    assert answer.levels == (0.05, 0.5, 0.975)
    assert answer.quantiles.shape == (HORIZON, 3, 3, 3)
    columns = answer.frame.columns
    assert columns[columns.index("high") + 1 : columns.index("category")] == ["q5", "q50", "q97.5"]
    table = answer.frame.select("q5", "q50", "q97.5").to_numpy().astype(float)
    assert np.array_equal(table.reshape(answer.quantiles.shape), answer.quantiles, equal_nan=True)
    volume, kind, speed = (answer.quantiles[..., k, :] for k in range(3))
    assert np.isnan(kind).all()
    assert np.array_equal(speed[..., 1], answer.value[..., 2])
    for quantiles in (volume, speed):
        assert (np.diff(quantiles) >= 0).all()
        assert (np.diff(quantiles) > 0).any()
    assert np.array_equal(volume, volume.round())
    assert volume.min() >= 0
    here.run("evaluate", "spread", "--forecasts", "w.parquet", "--baselines", "mean", code=None)
    told = json.loads(here.run("predict", "spread", "--interval", "none", "--json").stdout)["forecasts"]
    assert told[0]["quantiles"].keys() == {"q5", "q50", "q97.5"}
    kept = pl.read_parquet("w.parquet").filter(pl.col("feature") != "kind")
    assert kept.select(pl.col("q5", "q50").is_not_null().all()).row(0) == (True, True)
    assert kept.filter(pl.col("feature") == "speed").select((pl.col("q50") == pl.col("forecast")).all()).item()
    assert kept.select((pl.col("q5") <= pl.col("q50")).all(), (pl.col("q50") <= pl.col("q97.5")).all()).row(0) == (
        True,
        True,
    )


def test_a_forecast_has_times_and_probabilities(here: World) -> None:
    predictor = Predictor("few", interval=None)
    answer = predictor.forecast(cells(here, predictor, CHANGED), CHANGED)
    shares = answer.probabilities["kind"]
    assert shares.shape == (HORIZON, 3, len(predictor.categories["kind"]))
    assert np.allclose(shares.sum(-1), 1)
    assert np.isnan(answer.value[..., predictor.targets.index("kind")]).all()
    assert str(answer.time[0]) == "2013-03-10T09:00:00.000000000"
    table = answer.frame.filter(pl.col("feature") == "kind")
    assert np.array_equal(table["probability"].to_numpy().reshape(HORIZON, 3), shares.max(-1))


def test_a_history_may_begin_at_the_window(here: World) -> None:
    predictor = Predictor("ridge", interval=None)
    window = cells(here, predictor, MIDDAY)[-HISTORY:]
    bare = Predictor("ridge", interval=None).forecast(window, MIDDAY)
    assert np.isfinite(bare.value).all()
    until = dt.datetime(2013, 3, 9, 22, tzinfo=dt.UTC)
    assert predictor.forecast(window, until).frame.equals(bare.frame)


def test_a_frame_ends_by_default_with_its_last_step_and_may_have_local_times(here: World) -> None:
    predictor = Predictor("mlp", interval=None)
    frame = rows(here, predictor, MIDDAY)
    local = frame.with_columns(pl.col("time").dt.convert_time_zone(NEW_YORK).dt.replace_time_zone(None))
    answer = predictor.forecast(local)
    assert answer.frame.equals(predictor.forecast(frame, MIDDAY).frame)


def test_nodes_that_training_never_saw_are_left_out_and_named(here: World) -> None:
    predictor = Predictor("mlp", interval=None)
    frame = rows(here, predictor, MIDDAY)
    more = pl.concat([frame, frame.with_columns(node=pl.lit("n9"))])
    answer = predictor.forecast(more, MIDDAY)
    assert answer.unknown_nodes == ("n9",)
    assert answer.frame.equals(predictor.forecast(frame, MIDDAY).frame)


def changed(place: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values[-1, 2, place] = value
        return values

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values[..., :1], "Give numbers [steps, nodes, features], of 3 nodes"),
        (lambda values: values.astype(str), "Give numbers"),
        (lambda values: values[-HISTORY + 1 :], "has 29 steps, and the model looks back 30"),
        (changed(0, -1.0), "log1p takes values above -1"),
        (changed(0, np.inf), "float32 cannot hold it"),
        (changed(1, 9.0), "is no code"),
        (changed(1, 0.5), "is no code"),
    ],
)
def test_an_array_that_is_no_history_is_refused_with_its_place(here: World, change: Any, message: str) -> None:
    predictor = Predictor("few", interval=None)
    with pytest.raises(UsageError) as refused:
        predictor.forecast(change(cells(here, predictor, MIDDAY)), MIDDAY)
    assert message in str(refused.value)
    if "-03-09" in str(refused.value):
        assert "2013-03-09T16:00:00-05:00, node n2" in str(refused.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop("kind", "time"), "no column time, kind"),
        (lambda frame: frame.clear(), "has no row"),
        (lambda frame: frame.with_columns(pl.col("time").cast(pl.String)), "not a time"),
        (lambda frame: frame.with_columns(pl.lit("x").alias("volume")), "column volume is String"),
        (lambda frame: frame.with_columns(pl.lit("x").alias("node")), "no row of the frame is of a known node"),
        (lambda frame: pl.concat([frame, frame]), "2 rows are of"),
        (lambda frame: frame.with_columns(pl.col("time").dt.offset_by("5m")), "no step begins at"),
        (lambda frame: frame.with_columns(pl.lit(dt.datetime(2013, 3, 10, 2, 30)).alias("time")), "twice or never"),
        (lambda frame: frame.with_columns(pl.lit(None, pl.Datetime("ns")).alias("time")), "without a time"),
    ],
)
def test_a_frame_that_is_no_history_is_refused(here: World, change: Any, message: str) -> None:
    predictor = Predictor("few", interval=None)
    with pytest.raises(UsageError) as refused:
        predictor.forecast(change(rows(here, predictor, MIDDAY)), MIDDAY)
    assert message in str(refused.value)


@pytest.mark.parametrize("until", [None, "2013-03-09T17:30", "noon"])
def test_an_array_needs_the_step_at_which_it_ends(here: World, until: str | None) -> None:
    predictor = Predictor("mlp", interval=None)
    with pytest.raises(UsageError):
        predictor.forecast(cells(here, predictor, MIDDAY), until)
