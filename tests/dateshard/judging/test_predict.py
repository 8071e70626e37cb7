"""`predict`: raw rows become the very bytes that shards hold, the run's model is asked, and its rows are told in raw units."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import dateshard
from dateshard.cli import run
from dateshard.judging import prediction_screen, step_forecast
from dateshard.judging.prediction import Prediction, PredictRequest, predict_run
from dateshard.pipeline.recent.recent_steps import RecentSteps
from dateshard.settings import load_settings
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import DumpError, NotThereError, UsageError
from dateshard.shardstore.times.calendar import instants
from dateshard.trainer import checkpoint
from dateshard.trainer.assessment import intervals_file
from dateshard.trainer.assessment.coverage import Coverage
from dateshard.trainer.bounds import bounds_of, scaled_bounds
from dateshard.trainer.config import Trainer
from dateshard.trainer.runs.run_folder import TrainingRun
from dateshard.trainer.session import restore
from dateshard.trainer.setup import make_session
from tests.conftest import World, build_world
from tests.kit.forecasting import FEATURES, with_kinds
from tests.kit.untrained import untrained

Run = Callable[..., Any]
NEW_YORK = "America/New_York"
FIRST = dt.date(2013, 2, 27)  # the clock changes on 2013-03-10
SPLIT = {"train": "..2013-03-07", "validation": "2013-03-08..2013-03-09", "test": "2013-03-10..2013-03-12"}
HISTORY, HORIZON = 30, 6
NUMBERS = {"targets": ["speed", "volume"]}
RUNS: dict[str, dict[str, Any]] = {  # of each family one; what they forecast
    **{name: {"model": {"name": name}, **NUMBERS} for name in ("dlinear", "nlinear", "ridge")},
    **{name: {"model": {"name": name, "hidden_units": [4]}} for name in ("mlp", "stid", "cnn", "lstm", "gru")},
    "same_step": {"model": {"name": "mlp", "hidden_units": [4]}, "window": {"history": HISTORY, "horizon": 0}},
}


def days(*numbers: int) -> list[dt.date]:
    return [FIRST + dt.timedelta(days=number) for number in numbers]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Fourteen dates around a change of the clock, every kind of feature, and a run of each family."""
    folder = tmp_path_factory.mktemp("predict")
    training = {"epochs": 1, "batch_size": 16, "seed": 3}
    world = build_world(folder, 14, first=str(FIRST), zone=NEW_YORK, missing=0.5, split=SPLIT, training=training)
    world.tree["trainer"]["window"] = {"history": HISTORY, "horizon": HORIZON}
    world.tree["pipeline"]["features"] = FEATURES
    with_kinds(world)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        world.config_file()
        assert run(["preprocess", "-c", "config.yaml", "--workers", "1", "-q"]) == 0
        for name, trainer in RUNS.items():
            given = [f"trainer.{key}={json.dumps(value)}" for key, value in trainer.items()]
            if name in ("mlp", "ridge"):
                assert run(["train", "-c", "config.yaml", "--run", name, "-q", *given]) == 0
            else:
                untrained(load_settings(["config.yaml"], given).trainer, world, name)
    return world


@pytest.fixture
def here(prepared: World, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(prepared.folder)
    return prepared


def ask(name: str, **more: Any) -> Prediction:
    given = {"history": (str(Path("raw") / "{date}.csv"),), "interval": None} | more
    return predict_run(PredictRequest(run=name, **given))


def window_of(made: Prediction) -> RecentSteps:
    assert made.forecast.window is not None
    return made.forecast.window


def joined(dataset: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, masks and instants of all dates, one after the other: the test's own way to a window."""
    values = [np.asarray(dataset.map(day.date)) for day in dataset.days]
    masks = [dataset.map(day.date, "observed") for day in dataset.days]
    seen = [np.ones(v.shape, bool) if m is None else np.asarray(m) for v, m in zip(values, masks, strict=True)]
    return np.concatenate(values), np.concatenate(seen), np.concatenate([instants(day) for day in dataset.days])


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("until", ["2013-03-09T17:00", "2013-03-10T05:00", "2013-03-12"])
def test_raw_rows_give_the_bytes_of_the_shards_and_the_forecast_of_the_model_on_them(
    here: World, name: str, until: str
) -> None:
    made, dataset = ask(name, until=until), here.open()
    values, seen, at = joined(dataset)
    stop = int(np.searchsorted(at, window_of(made).end))
    assert window_of(made).values_HNF.tobytes() == values[stop - HISTORY : stop].tobytes()
    assert window_of(made).observed_HNF.tobytes() == seen[stop - HISTORY : stop].tobytes()
    assert not seen[stop - HISTORY : stop].all()
    path = here.folder / "data" / "runs" / name
    config = Trainer.model_validate(TrainingRun(path).facts().config)
    session = make_session(config, dataset, path / "checkpoints")
    restore(session, checkpoint.best(path / "checkpoints")[0])  # type: ignore[arg-type]
    session.model.eval()
    codes = np.concatenate([dataset.codes(day) for day in dataset.days])
    told = np.pad(codes, (0, HORIZON))[stop - HISTORY : stop + config.window.horizon]
    window = torch.from_numpy(values[stop - HISTORY : stop].copy())[None]
    with torch.no_grad():
        out = session.model(window, torch.from_numpy(told)[None])[0]
    numeric = [channel for head in session.heads if head.loss == "mse" for channel in head.channels]
    forecast, _ = made.forecaster.of_window(window_of(made).values_HNF, told)
    assert forecast is not None
    bounds = scaled_bounds(
        config, dataset, [made.forecaster.columns.targets[place] for place in made.forecaster.numbers]
    )
    wanted = out[..., numeric] if bounds is None else out[..., numeric].clamp(*bounds)
    assert forecast.tobytes() == wanted.contiguous().numpy().tobytes()
    if until == "2013-03-12" and session.model.uses_codes:
        return  # the shards know no codes of what comes after them
    raw = session.metrics.form.units.raw(torch.from_numpy(forecast)).numpy()  # type: ignore[union-attr]
    for place, feature in enumerate(target.name for target in made.forecaster.targets if not target.categories):
        shown = made.frame.filter(pl.col("feature") == feature)["value"].to_numpy()
        low = 0.0 if feature in ("volume", "rows") else -np.inf
        np.testing.assert_allclose(shown, np.maximum(raw[..., place].ravel(), low), rtol=1e-5, atol=1e-5)


def test_the_forecast_begins_where_the_history_ends_and_knows_the_change_of_the_clock(here: World) -> None:
    made = ask("mlp", until="2013-03-10T01:00")
    assert made.first == "2013-03-10T01:00:00-05:00"
    steps = made.frame.unique(["date", "step"], maintain_order=True)
    assert steps["step"].to_list() == [1, 2, 3, 4, 5, 6]
    local = steps["time"].dt.strftime("%H:%M%:z").to_list()
    assert local[:3] == ["01:00-05:00", "03:00-04:00", "04:00-04:00"]
    assert steps["horizon"].to_list() == [1, 2, 3, 4, 5, 6]
    codes = np.concatenate([here.open().codes(day) for day in here.open().days])
    assert made.frame["node"].to_list()[:5] == ["n0"] * 5
    at = joined(here.open())[2]
    first = int(np.searchsorted(at, window_of(made).end))

    told = step_forecast.codes_of(made.forecaster, window_of(made))
    assert told.tolist() == codes[first - HISTORY : first + HORIZON].tolist()


def test_after_the_last_date_the_calendar_goes_on(here: World) -> None:
    made = ask("mlp", until="2013-03-12")
    assert made.first == "2013-03-13T00:00:00-04:00"
    assert set(made.frame["date"]) == {dt.date(2013, 3, 13)}
    assert ask("mlp", history=(), at="latest").frame.equals(made.frame)


def test_targets_of_the_same_steps_are_those_of_the_history(here: World) -> None:
    made = ask("same_step", until="2013-03-10T05:00")
    steps = made.frame.unique(["date", "step"], maintain_order=True)
    assert steps["horizon"].to_list() == list(range(1 - HISTORY, 1))
    assert made.first == "2013-03-08T22:00:00-05:00"
    assert str(steps["time"][-1]) == "2013-03-10 04:00:00-04:00"


def test_a_categorical_target_has_its_likeliest_name_and_a_probability(here: World) -> None:
    made = ask("gru", until="2013-03-11")
    kinds = made.frame.filter(pl.col("feature") == "kind")
    assert set(kinds["category"]) <= {"bus", "car"}
    assert kinds["probability"].min() >= 0.5  # type: ignore[operator] - of two
    assert kinds["value"].null_count() == kinds.height
    assert made.frame.filter(pl.col("feature") == "speed")["category"].null_count() == kinds.height
    assert "category" not in ask("ridge").frame.columns


def test_a_date_that_is_not_over_ends_with_the_last_step_that_has_a_record(here: World, tmp_path: Path) -> None:
    """What comes later on the date changes nothing of it."""
    for date in days(11, 12):
        shutil.copy(here.dump(date), tmp_path)
    header, *rows = here.dump(days(13)[0]).read_text().splitlines()

    def until_now(end: str) -> tuple[str, ...]:
        kept = [row for row in rows if row[:16] < f"2013-03-12T{end}"]
        (tmp_path / "2013-03-12.csv").write_text("\n".join([header, *kept]) + "\n")
        return (str(tmp_path / "{date}.csv"),)

    made = ask("mlp", history=until_now("15:00"))
    assert made.first == "2013-03-12T15:00:00-04:00"
    assert "until='2013-03-12T14:" in made.notes[0]
    assert made.frame.equals(ask("mlp", until="2013-03-12T15:00").frame)
    assert made.frame.equals(ask("mlp", history=(), at="2013-03-12T15:59").frame)
    given = until_now("14:05")
    assert ask("mlp", history=given).first == made.first  # 14:00 has a record, so it is taken
    whole = ask("mlp", history=given, until="2013-03-12T14:05")
    assert whole.first == "2013-03-12T14:00:00-04:00"
    assert whole.frame.equals(ask("mlp", until="2013-03-12T14:00").frame)
    over = ask(
        "mlp", history=given, until="2013-03-12"
    )  # nothing came after 14:00: counts are 0, the others are filled
    assert over.first == "2013-03-13T00:00:00-04:00"
    assert not window_of(over).observed_HNF[-9:, :, 0].any()
    assert window_of(over).observed_HNF[-9:, :, 2].all()


@pytest.mark.parametrize(
    ("given", "first", "words"),
    [
        ([13, 12, 10, 9], 65, "lacks 2013-03-10"),
        ([13, 12], 65, r"has 23 steps \(2013-03-11..2013-03-12\), and the model looks back 30"),
    ],
)
def test_a_missing_date_and_a_short_history_are_refused_by_name(
    here: World, given: list[int], first: int, words: str
) -> None:
    chosen = tuple(str(here.dump(date)) for date in days(*given))
    until = "2013-03-12T05:00" if len(given) == 4 else "2013-03-11T23:00"
    with pytest.raises(DumpError, match=words if len(given) == 4 else "looks back 30") as error:
        ask("mlp", history=chosen, until=until)
    assert error.value.exit_code == first


def test_unknown_nodes_are_named_and_rejected_rows_are_counted(here: World, tmp_path: Path, ds: Run) -> None:
    for date in days(11, 12, 13):
        shutil.copy(here.dump(date), tmp_path)
    path = tmp_path / "2013-03-12.csv"
    path.write_text(
        path.read_text() + "2013-03-12T08:30:00-04:00,stranger,1,1,car\n2013-03-12T08:30:00-04:00,,1,1,car\n"
    )
    pattern = str(tmp_path / "{date}.csv")
    with pytest.raises(DumpError, match="without a node"):
        ask("mlp", history=(pattern,))
    wish = "pipeline.source.faults.missing_node=drop"
    done = ds("predict", "mlp", "--history", pattern, "--until", "2013-03-12", "-c", "config.yaml", wish, "--json")
    told = done.document["history"]
    assert told["unknown_nodes"] == ["stranger"]
    assert told["rows"]["rejected"] == {"without a node": 1}
    assert told["rows"]["read"] == told["rows"]["accepted"] + 1
    assert "1 node that training never saw left out: stranger." in done.err
    assert done.document["forecasts"] == ds("predict", "mlp", "--at", "2013-03-13", "--json").document["forecasts"]


def test_nodes_that_the_table_lacks_are_named_too(here: World, make_world: Callable[..., World]) -> None:
    world = make_world(4, split={"train": "..2024-03-03"})
    (world.folder / "nodes.csv").write_text("id\nn0\nn1\n")
    world.tree["pipeline"] |= {"nodes": {"table": str(world.folder / "nodes.csv"), "id": "id"}}
    world.tree["pipeline"]["source"]["faults"] = {"unknown_node": "drop"}
    world.prepare()
    (world.folder / "nodes.csv").unlink()  # what is frozen is enough
    from dateshard.pipeline.generation_settings import refuse_other_settings, settings_of, table_of, target_of
    from dateshard.pipeline.recent.raw_files import raw_files
    from dateshard.pipeline.recent.recent_steps import read_history

    dataset = world.open()
    config = settings_of(dataset)
    refuse_other_settings(config, dataset)
    with raw_files([str(world.folder / "raw" / "{date}.csv")], config) as raw:
        found = read_history(raw, target_of(dataset), table_of(dataset, config), 30)
    assert found.unknown_nodes == ("n2",)
    assert found.values_HNF.shape == (30, 2, 2)


def test_other_settings_than_the_generation_has_are_refused(here: World, ds: Run) -> None:
    """Wrong numbers would be the only sign: another fill, another aggregate, another column."""
    asked = ("predict", "mlp", "--history", "raw/{date}.csv", "-c", "config.yaml")
    assert ds(*asked, "pipeline.source.max_bad_fraction=0.5").code == 0
    assert "scale or clip differ" in ds(*asked, "pipeline.features.speed.fill_limit=2", code=2).err
    assert "how a dump is read" in ds(*asked, "pipeline.features.speed.aggregate=max", code=2).err
    assert "how a dump is read" in ds(*asked, "pipeline.step=30m", code=2).err


def test_a_dataset_without_kept_settings_asks_for_its_configuration(
    here: World, ds: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dateshard.pipeline import generation_settings

    known = generation_settings.load_sources
    monkeypatch.setattr(generation_settings, "load_sources", lambda *a: replace(known(*a), settings=None))
    asked = ("predict", "mlp", "--history", "raw/{date}.csv")
    assert "-c FILE" in ds(*asked, code=2).err
    assert ds(*asked, "-c", "config.yaml").code == 0


def test_files_of_any_name_and_packing_give_the_same_bytes(here: World, tmp_path: Path) -> None:
    """Named by date, zipped, a folder a date, or one file of many dates that is cut by its rows."""
    wanted = window_of(ask("mlp", until="2013-03-11")).values_HNF.tobytes()
    (tmp_path / "2013-03-10").mkdir()
    rows = []
    for date in days(10, 11, 12):
        text = here.dump(date).read_text()
        with gzip.open(tmp_path / f"readings_{date:%Y%m%d}.csv.gz", "wt") as file:
            file.write(text)
        rows += text.splitlines()[1:] if rows else text.splitlines()
    (tmp_path / "all.csv").write_text("\n".join(rows) + "\n")
    shutil.copy(here.dump(days(11)[0]), tmp_path / "2013-03-10" / "part-0.csv")
    named = [str(tmp_path / f"readings_{date:%Y%m%d}.csv.gz") for date in days(10, 11, 12)]
    folder = [named[0], str(tmp_path / "2013-03-10"), named[2]]
    for given in (named, folder, [str(tmp_path / "all.csv")], [str(tmp_path / "readings_{date:%Y%m%d}.csv.gz")]):
        assert window_of(ask("mlp", history=tuple(given), until="2013-03-11")).values_HNF.tobytes() == wanted
    with pytest.raises(UsageError, match="hold 2013-03-09"):
        ask("mlp", history=(named[0], str(tmp_path / "all.csv")))
    with pytest.raises(UsageError, match="has no date"):
        ask("mlp", history=(str(tmp_path),))
    with pytest.raises(DumpError, match="there is no nothing in "):
        ask("mlp", history=("nothing/{date}.csv",))


def test_a_generation_keeps_the_settings_that_made_it(make_world: Callable[..., World]) -> None:
    """The order of features comes back, and another path or tolerance alone makes no new generation."""
    from dateshard.pipeline.generation_settings import settings_of

    world = make_world(3, split={"train": "..2024-03-02"})
    features = world.tree["pipeline"]["features"]
    world.tree["pipeline"]["features"] = {name: features[name] for name in ("volume", "speed")}
    world.prepare()
    assert settings_of(world.open()) == world.settings.preparing()
    assert list(settings_of(world.open()).features) == ["volume", "speed"]
    first = world.open().generation
    world.tree["pipeline"]["source"]["max_bad_fraction"] = 0.25
    world.prepare()
    assert world.open().generation == first
    world.tree["pipeline"]["features"]["speed"]["fill_limit"] = 2
    world.prepare()
    assert settings_of(world.open()) == world.settings.preparing()


def test_committed_steps_serve_as_history_up_to_what_is_there(here: World) -> None:
    made = ask("mlp", history=(), at="2013-03-11")
    assert made.first == "2013-03-11T00:00:00-04:00"
    assert made.frame.equals(ask("mlp", until="2013-03-10").frame)
    with pytest.raises(NotThereError, match="lacks 2013-02-26"):
        ask("mlp", history=(), at="2013-02-28T05:00")
    assert ask("mlp", history=()).frame.equals(ask("mlp", history=(), at="latest").frame)
    with pytest.raises(UsageError, match="Give one of history and at"):
        ask("mlp", at="latest")
    with pytest.raises(UsageError, match="until is for dumps"):
        ask("mlp", history=(), at="latest", until="2013-03-10")


def test_dates_prepared_after_the_training_serve_as_history(make_world: Callable[..., World], ds: Run) -> None:
    world = make_world(8, split={"train": "..2024-03-04", "validation": "2024-03-05.."}, training={"epochs": 1})
    kept = {date: world.dump(date).read_bytes() for date in world.rows}
    last = max(kept)
    world.dump(last).unlink()
    world.config_file()
    world.prepare()
    ds("train", "-c", "config.yaml", "--run", "r", "-q")
    world.dump(last).write_bytes(kept[last])
    world.prepare()
    made = predict_run(PredictRequest(run="r", at="latest"))
    assert made.first == f"{last + dt.timedelta(days=1)}T00:00:00+00:00"
    assert made.frame.equals(predict_run(PredictRequest(run="r", history=("raw/{date}.csv",), until=str(last))).frame)


def test_a_history_that_is_scaled_otherwise_by_now_is_that_of_the_run_s_own_generation(
    make_world: Callable[..., World], ds: Run
) -> None:
    world = make_world(7, split={"train": "..2024-03-05", "validation": "2024-03-06.."}, training={"epochs": 1})
    world.config_file()
    world.prepare()
    ds("train", "-c", "config.yaml", "--run", "r", "-q")
    before = predict_run(PredictRequest(run="r", at="latest")).frame
    first = min(world.rows)
    world.rows[first] = [(i, node, speed and speed * 3, volume) for i, node, speed, volume in world.rows[first]]
    world.write(first)
    world.prepare(refit=True)
    assert world.open().generation == 2
    assert predict_run(PredictRequest(run="r", at="latest")).frame.equals(before)


@pytest.mark.parametrize(("least", "floor"), [(-0.5, -np.inf), (0.0, 0.0), (1.0, 0.0)])
def test_a_log1p_feature_that_training_never_saw_below_0_is_not_forecast_there(
    make_world: Callable[..., World], least: float, floor: float
) -> None:
    world = make_world(5, split={"train": "..2024-03-04", "validation": "2024-03-05.."})
    world.tree["pipeline"]["features"]["volume"] |= {"aggregate": "min", "fill": "none", "transform": "log1p"}
    for date, rows in world.rows.items():
        world.rows[date] = [(i, node, speed, volume + 2) for i, node, speed, volume in rows]
    instant, node, speed, _ = world.rows[min(world.rows)][5]
    world.rows[min(world.rows)][5] = (instant, node, speed, least)
    for date in world.rows:
        world.write(date)
    world.prepare()
    assert bounds_of(world.settings.trainer, world.open(), (0, 1))[0].tolist() == [-np.inf, floor]


def test_intervals_are_made_once_for_these_weights_and_a_damaged_file_is_made_anew(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = here.folder / "data" / "runs" / "ridge" / "intervals"
    shutil.rmtree(folder, ignore_errors=True)
    first = ask("ridge", interval=0.8)
    (path,) = folder.iterdir()
    kept = path.read_bytes()
    monkeypatch.setattr(intervals_file, "calibrate", lambda *_: pytest.fail("they were kept"))
    again = ask("ridge", interval=0.8)
    assert again.frame.equals(first.frame)
    assert first.intervals is not None
    assert again.intervals is not None
    assert repr(again.intervals.coverage) == repr(first.intervals.coverage)
    monkeypatch.undo()
    monkeypatch.chdir(here.folder)
    for spoiled in (kept[:-20], kept.replace(b'"windows":', b'"window5":'), b""):
        path.write_bytes(spoiled)
        assert ask("ridge", interval=0.8).frame.equals(first.frame)
        assert path.read_bytes() == kept
    mine = ask("dlinear", interval=0.8)
    (other,) = (folder.parent.parent / "dlinear" / "intervals").iterdir()
    shutil.copy(path, other)  # of other weights: not believed
    assert ask("dlinear", interval=0.8).frame.equals(mine.frame)
    assert other.read_bytes() != kept
    assert ask("ridge", interval=0.9).frame["low"].null_count() == 0
    assert len(list(folder.iterdir())) == 2


def test_intervals_hold_the_forecast_and_stay_where_values_can_be(here: World) -> None:
    made = ask("mlp", interval=0.9)
    numbers = made.frame.drop_nulls("value")
    assert ((numbers["low"] <= numbers["value"]) & (numbers["value"] <= numbers["high"])).all()
    never = numbers.filter(pl.col("feature").is_in(["volume", "rows"]))
    assert never.select(pl.min("low", "value")).row(0) >= (0.0, 0.0)
    assert (never["low"] == 0).any()
    assert (numbers.filter(pl.col("feature") == "speed")["low"] < 60).all()
    narrow = ask("mlp", interval=0.5).frame.drop_nulls("value")
    width = (numbers["high"] - numbers["low"], narrow["high"] - narrow["low"])
    assert (width[0] >= width[1] - 1e-9).all()


def test_without_validation_windows_low_and_high_stay_empty_and_it_is_said(
    make_world: Callable[..., World], ds: Run
) -> None:
    world = make_world(5, split={"train": "2024-03-01..2024-03-05"}, training={"epochs": 1})
    world.config_file()
    world.prepare()
    ds("train", "-c", "config.yaml", "--run", "r", "-q")
    done = ds("predict", "r", "--history", "raw/{date}.csv", "--checkpoint", "latest")
    assert "no validation window" in done.err
    assert ds("predict", "r", "--at", "latest", "--json").document["interval"] is None
    frame = pl.read_csv(done.out.encode(), try_parse_dates=True)
    assert frame["low"].null_count() == frame.height
    assert frame["value"].null_count() == 0


def test_what_is_printed_in_a_pipe_is_csv_and_nothing_else(here: World, ds: Run) -> None:
    done = ds("predict", "ridge", "--history", "raw/{date}.csv", "--until", "2013-03-12")
    header, first, *rows = done.out.splitlines()
    assert header == "date,step,node,feature,horizon,value,low,high,time"
    assert first.startswith("2013-03-13,0,n0,speed,1,")
    assert first.endswith(",2013-03-13T00:00:00-04:00")
    assert len(rows) + 1 == HORIZON * 3 * 2
    for words in (
        "run ridge, best checkpoint",
        "generation 1",
        "2013-03-13T00:00:00-04:00",
        NEW_YORK,
        "less than mean",
    ):
        assert words in done.err
    assert "test windows" in done.err
    (note,) = ds("predict", "ridge", "--history", "raw/{date}.csv", "--until", "2013-03-12", "-q").err.splitlines()
    assert note == "Categories of 'kind' that the training data lacks get code 0: up to 1 on a date, such as 'tram'."


def test_the_headline_tells_whether_the_model_is_worth_asking_once_it_was_evaluated(here: World, ds: Run) -> None:
    asked = ("predict", "ridge", "--at", "latest")
    for path in (here.folder / "data" / "runs" / "ridge").glob("evaluation-*"):
        path.unlink()
    assert "not compared yet: dateshard evaluate ridge" in ds(*asked).err
    assert ds(*asked, "--json").document["verdict"] is None
    told = ds("evaluate", "ridge", "--json").document["beats_baselines"]
    found = ds(*asked, "--json").document["verdict"]
    assert (found["split"], found["beats_baselines"]) == ("test", told)
    words = {"beats": "beaten", "loses": "NOT all beaten", "unclear": "no clear winner"}
    assert f"{words[found['outcome']]} on the test windows" in ds(*asked).err


@pytest.mark.parametrize(("share", "words"), [(0.7, "less than promised"), (0.95, "more than promised"), (0.91, "")])
def test_too_much_coverage_is_told_like_too_little_and_the_worst_of_each_kind_is_named(
    share: float, words: str
) -> None:
    nodes = {"nodes": ["a", "b"], "speed": {"inside": [90, 68], "targets": [100, 100]}}
    hours = {"hours": [6, 7], "speed": {"inside": [90, 99], "targets": [100, 100]}}
    found = Coverage(
        split="test",
        windows=9,
        of=9,
        targets=1000,
        inside=int(1000 * share),
        by_feature={"speed": share},
        by_node=nodes,
        by_hour=hours,
    )
    first, *others = prediction_screen._covered(found, share, 0.9)
    assert first == f"           holds {100 * share:.1f} % of the true values of 9 test windows"
    assert [line.strip().split(":")[0].split(",")[0] for line in others[: bool(words)]] == [words] * bool(words)
    assert [line.strip() for line in others[bool(words) :]] == [
        "farthest from 90 %: node b, with 68.0 % of speed",
        "farthest from 90 %: hour 7:00, with 99.0 % of speed",
    ]
    assert max(map(len, others)) <= 80


def test_value_low_and_high_stay_within_the_bounds_of_a_feature(here: World, ds: Run) -> None:
    """Those of the run, or of a configuration that is named; other features are forecast as before."""
    asked = ("predict", "mlp", "--at", "latest", "--json")
    free = pl.DataFrame(ds(*asked).document["forecasts"]).filter(pl.col("feature") != "kind")
    bound = ("-c", "config.yaml", "trainer.bounds={speed: [59, 60.5]}")
    kept = pl.DataFrame(ds(*asked, *bound).document["forecasts"]).filter(pl.col("feature") != "kind")
    speed = pl.col("feature") == "speed"
    assert free.filter(~speed).equals(kept.filter(~speed))
    ends = kept.filter(speed).select("low", "value", "high")
    assert ends.to_numpy().min() == 59.0
    assert ends.to_numpy().max() == 60.5
    assert kept.filter(speed).filter((pl.col("low") > pl.col("value")) | (pl.col("value") > pl.col("high"))).is_empty()
    wide = free.filter(speed).select("low", "high").to_numpy()
    assert wide.min() < 59.0
    assert wide.max() > 60.5


def test_every_way_out_tells_the_same_rows(here: World, ds: Run, tmp_path: Path) -> None:
    asked = ("predict", "mlp", "--history", "raw/{date}.csv", "--until", "2013-03-12")
    piped = ds(*asked).out
    for name in ("f.csv", "f.parquet"):
        done = ds(*asked, "--out", str(tmp_path / name))
        assert f"{HORIZON * 3 * 5:,} rows" in done.out
        assert "date,step" not in done.out
    assert (tmp_path / "f.csv").read_text() == piped
    frame = dateshard.predict("mlp", "raw/{date}.csv", until="2013-03-12")
    assert pl.read_parquet(tmp_path / "f.parquet").equals(frame)
    assert frame.schema["time"] == pl.Datetime("ns", NEW_YORK)
    told = ds(*asked, "--json").document["forecasts"]
    assert [row["value"] for row in told] == frame["value"].to_list()
    assert [row["time"] for row in told[:1]] == ["2013-03-13T00:00:00-04:00"]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["f.csv", "f.parquet"]


def test_a_forecast_replaces_a_forecast_and_nothing_else(here: World, ds: Run) -> None:
    asked = ("predict", "ridge", "--at", "latest", "--out")
    for name in ("f.csv", "f.parquet"):
        for _ in range(2):
            ds(*asked, name)
    dumps = {path: path.read_bytes() for path in sorted(Path("raw").glob("*.csv"))}
    assert len(dumps) > 1
    told = ds(*asked, str(next(iter(dumps))), code=2).err
    assert f"{next(iter(dumps))}: there is a file already, and it holds no forecasts" in told
    pl.read_csv("f.csv").drop("horizon").write_parquet("f.parquet")
    ds(*asked, "f.parquet", code=2)
    ds("evaluate", "ridge", "--forecasts", "f.parquet", code=2)
    ds("evaluate", "ridge", "--forecasts", "w.parquet")
    ds("evaluate", "ridge", "--forecasts", "w.parquet")
    assert {path: path.read_bytes() for path in dumps} == dumps
    assert "horizon" not in pl.read_parquet_schema("f.parquet")


def test_a_page_is_written_to_no_other_kind_of_file(here: World, ds: Run) -> None:
    current = Path("data/shards") / here.tree["dataset"] / "CURRENT"
    before = current.read_bytes()
    for words in (("report", "ridge"), ("report", "--data", "-c", str(here.config_file()))):
        assert "CURRENT' is not the name of a page" in ds(*words, "-o", str(current), code=2).err
    assert current.read_bytes() == before


def test_a_terminal_shows_a_few_rows_in_eighty_columns(here: World, ds: Run, terminal: Any) -> None:
    terminal.of(80)
    done = ds("predict", "mlp", "--history", "raw/{date}.csv")
    assert done.err == ""
    lines = done.out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[-1].strip().startswith("78 more rows")


def test_a_run_alone_forecasts_after_all_that_is_prepared(here: World, ds: Run) -> None:
    whole = ds("predict", "mlp", "--at", "latest").out
    assert ds("predict", "mlp").out == whole
    assert len(ds("predict", "latest").out.splitlines()) > 1
    assert "Say with --at where the prepared history ends" in ds("predict", "mlp", "--until", "2013-03-10", code=2).err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("predict",), 2),
        (("predict", "mlp", "--until", "2013-03-10"), 2),
        (("predict", "nobody", "--at", "latest"), 4),
        (("predict", "mlp", "--at", "noon"), 2),
        (("predict", "mlp", "--at", "latest", "--interval", "90"), 2),
        (("predict", "mlp", "--at", "latest", "--out", "x.txt"), 2),
        (("predict", "mlp", "--at", "latest", "--out", "nowhere/x.csv"), 2),
        (("predict", "mlp", "--at", "latest", "--checkpoint", "checkpoint_epoch_9_batch_9"), 4),
        (("predict", "mlp", "--at", "latest", "trainer.training.seed=2"), 2),
        (("predict", "mlp", "--history", "raw/2013-03-12.csv", "--until", "2013-03-10T02:30"), 2),
        (("predict", "mlp", "--history", "none.csv"), 65),
    ],
)
def test_what_cannot_be_asked_ends_with_its_code_and_a_sentence(
    here: World, ds: Run, words: tuple[str, ...], code: int
) -> None:
    assert ds(*words, code=code).err.strip()


def test_a_checkpoint_is_named_by_its_folder_too(here: World) -> None:
    (folder,) = (here.folder / "data" / "runs" / "ridge" / "checkpoints").glob("checkpoint_*")
    made = ask(str(folder))
    assert made.which == folder.name
    assert made.frame.equals(ask("ridge").frame)
