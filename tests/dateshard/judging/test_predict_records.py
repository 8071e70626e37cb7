"""Forecasts of records: of sessions, events and tables, against the model asked by hand about the shards' own rows."""

from __future__ import annotations

import csv
import datetime as dt
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import polars as pl
import pytest

import dateshard
from dateshard.documents import document_schema
from dateshard.judging.exporting.onnx_file import export_model
from dateshard.judging.forecast_table import in_raw_units
from dateshard.judging.prediction import Prediction, PredictRequest, predict_run
from dateshard.pipeline.generation_settings import target_of
from dateshard.pipeline.recent.raw_files import raw_files
from dateshard.pipeline.recent.recent_records import DumpRecords, ShardRecords, reading
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import DumpError, UsageError
from tests.conftest import World
from tests.journeys.test_tables import houses, table_world
from tests.kit.events import FIRST, NS, event_world, in_order, make_records, write
from tests.kit.untrained import untrained

DATES = [FIRST + dt.timedelta(days=k) for k in range(3)]
CUTS = ("ann", "bo", "cy", "dö")
BY = {"by": "session", "train": ["ann", "bo"], "validation": ["cy"], "test": ["dö"]}
FEATURES = {
    "value": {"transform": "none"},
    "gap": {"aggregate": "gap", "scale": "robust"},
    "load": {"column": "twin", "aggregate": "last"},
}
HISTORY = 4


def made_world(folder: Path, window: dict[str, Any], *, cut: bool, count: int = 60, model: str = "mlp") -> World:
    """Three dates of records with a column `twin` of their own, prepared; a run `r` that was never trained."""
    records = {date: make_records(date, count, CUTS, 5) for date in DATES}
    last = [row for row in records[DATES[2]] if row.cut != "bo"]
    records[DATES[2]] = [row for row in last if row.cut != "cy"] + [row for row in last if row.cut == "cy"][:3]
    split = BY if cut else {"train": f"{DATES[0]}..{DATES[1]}", "validation": str(DATES[2])}
    horizon = bool(window["horizon"])
    world = event_world(
        folder,
        records,
        cut=cut,
        features=FEATURES,
        split=split,
        window=window,
        model={"name": model, **({"hidden_units": [8]} if model == "mlp" else {})},
        inputs=["value", "gap"],
        targets=["value"] if horizon else ["load"],
    )
    for date, rows in records.items():
        write(world, date, rows)
        with_twin(world.dump(date))
    assert not world.prepare().failed
    untrained(world.settings.trainer, world, "r")
    return world


def with_twin(dump: Path) -> None:
    lines = dump.read_text().splitlines()
    rows = [f"{line},{3 * float(line.rsplit(',', 1)[1])}" for line in lines[1:]]
    dump.write_text("\n".join([f"{lines[0]},twin", *rows]) + "\n")


def ask(world: World, monkeypatch: pytest.MonkeyPatch, **more: Any) -> Prediction:
    monkeypatch.chdir(world.folder)
    return predict_run(PredictRequest(run="r", interval=None, **more))


def pieces(dataset: Dataset, date: dt.date) -> list[slice]:
    day = dataset.manifest.day(date)
    edges = [*dataset.cuts(day).starts.tolist(), day.num_steps]
    return [slice(low, high) for low, high in pairwise(edges)]


def by_hand(made: Prediction, dataset: Dataset, date: dt.date, rows: slice, later: np.ndarray) -> np.ndarray:
    """What the model says of some rows of a shard, in raw units [P, T]; `later`: time codes of what comes."""
    arrays, codes = dataset.arrays(date), dataset.codes(dataset.manifest.day(date))
    seen = np.array(arrays.get("observed", np.ones(arrays["values"].shape, bool))[rows])
    values, codes = np.array(arrays["values"][rows]), np.concatenate([codes[rows], later]).astype(np.int32)
    scaled, _ = made.forecaster.of_window(values, codes, seen)
    assert scaled is not None
    places = [made.forecaster.columns.targets[place] for place in made.forecaster.numbers]
    return in_raw_units(made.forecaster, scaled.astype(np.float64), places)[:, 0]


@pytest.mark.parametrize("column", [True, False])
def test_every_record_of_a_session_is_told_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: bool
) -> None:
    world = made_world(tmp_path, {"history": HISTORY, "horizon": 0}, cut=True)
    dataset, pattern = world.open(), world.folder / "new"
    pattern.mkdir()
    for date in DATES:  # what is to be forecast stands in the dumps, or is not there
        frame = pl.read_csv(world.dump(date))
        (frame if column else frame.drop("twin")).write_csv(pattern / f"{date}.csv")
    made = ask(world, monkeypatch, history=(str(pattern / "{date}.csv"),))
    left_out = 0
    for date in DATES:
        arrays, cuts = dataset.arrays(date), dataset.cuts(dataset.manifest.day(date))
        of_date = made.frame.filter(pl.col("date") == date)
        file = list(csv.DictReader((pattern / f"{date}.csv").read_text().splitlines()))
        assert of_date["row"].to_list() == sorted(of_date["row"])
        for name, piece in zip(cuts.names, pieces(dataset, date), strict=True):
            own = of_date.filter(pl.col("cut") == name).sort("time", maintain_order=True)
            length = piece.stop - piece.start
            if length < HISTORY:
                assert not len(own)
                left_out += length
                continue
            wanted = np.empty(length)
            for low in range(0, length, HISTORY):
                begin = piece.start + min(low, length - HISTORY)
                wanted[begin - piece.start :][:HISTORY] = by_hand(
                    made, dataset, date, slice(begin, begin + HISTORY), np.zeros(0)
                )[:, 0]
                if low != begin - piece.start:  # the records of the window before were told already
                    before = piece.start + low - HISTORY
                    told = by_hand(made, dataset, date, slice(before, before + HISTORY), np.zeros(0))[:, 0]
                    wanted[low - HISTORY : low] = told
            np.testing.assert_allclose(own["value"], wanted, rtol=1e-6)  # of many windows at once
            assert own["time"].cast(pl.Int64).to_list() == np.asarray(arrays["time"])[piece].tolist()
            for row in own.iter_rows(named=True):
                raw = file[row["row"] - 2]  # the header is row 1
                assert (raw["session"], row["file"]) == (name, str(pattern / f"{date}.csv"))
                assert int(raw["time"]) == pl.Series([row["time"]]).cast(pl.Datetime("ns")).cast(pl.Int64)[0]
    assert left_out
    assert any(f"{left_out} records are not forecast" in note for note in made.forecast.notes)


@pytest.mark.parametrize("shards", [True, False])
@pytest.mark.parametrize("window", [{"history": HISTORY}, {"history": "2h", "most": HISTORY}])
def test_the_records_after_the_last_one_of_each_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: bool, window: dict[str, Any]
) -> None:
    world = made_world(tmp_path, {**window, "horizon": 2}, cut=True)
    dataset = world.open()
    history = {} if shards else {"history": (str(tmp_path / "raw" / "{date}.csv"),)}
    made = ask(world, monkeypatch, **history)
    date, forecaster = DATES[2], made.forecaster
    arrays, day = dataset.arrays(date), dataset.manifest.day(date)
    codes, time = dataset.codes(day), np.asarray(arrays["time"])
    assert set(made.frame["date"]) == {date}
    assert made.frame["horizon"].to_list() == [1, 2] * (made.frame.height // 2)
    count = 0
    for name, piece in zip(dataset.cuts(day).names, pieces(dataset, date), strict=True):
        own = made.frame.filter(pl.col("cut") == name)
        rows = list(range(piece.start, piece.stop))[-HISTORY:]
        if "most" in window:
            rows = [row for row in rows if time[row] >= time[rows[-1]] - 2 * 3600 * NS]
        elif len(rows) < HISTORY:
            assert not len(own)
            continue
        count += 1
        values, seen = np.zeros((HISTORY, 1, 3), np.float32), np.zeros((HISTORY, 1, 3), bool)
        code = np.zeros(HISTORY + 2, np.int32)
        values[HISTORY - len(rows) :] = np.asarray(arrays["values"])[rows]
        seen[HISTORY - len(rows) :] = np.asarray(arrays["observed"])[rows]
        code[HISTORY - len(rows) : HISTORY], code[HISTORY:] = codes[rows], codes[rows[-1]]
        scaled, _ = forecaster.of_window(values, code, seen)
        assert scaled is not None
        wanted = in_raw_units(forecaster, scaled.astype(np.float64), [0]).ravel()
        np.testing.assert_allclose(own["value"], wanted, rtol=1e-6)  # of many windows at once
        assert set(own["time"].cast(pl.Int64)) == {int(time[rows[-1]])}
        assert own["row"].null_count() == (2 if shards else 0)
    assert count >= 2


def test_a_forecast_after_an_instant_knows_nothing_from_it_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = made_world(tmp_path, {"history": HISTORY, "horizon": 1}, cut=False)
    noon = f"{DATES[1]}T12:00"
    instant = int(dt.datetime.fromisoformat(noon).replace(tzinfo=dt.UTC).timestamp()) * NS
    dumps = ask(world, monkeypatch, history=(str(tmp_path / "raw" / "{date}.csv"),), until=noon)
    shards = ask(world, monkeypatch, at=noon)
    assert dumps.frame.drop("file", "row").equals(shards.frame.drop("file", "row"))
    rows = [row for row in in_order(make_records(DATES[1], 60, CUTS, 5), cut=False) if row.time < instant]
    assert dumps.frame["time"].cast(pl.Int64).to_list() == [rows[-1].time]
    later = world.dump(DATES[1]).read_text().splitlines()
    kept = [later[0], *(line for line in later[1:] if int(line.split(",")[0]) < instant)]
    world.dump(DATES[1]).write_text("\n".join(kept) + "\n")
    alone = ask(world, monkeypatch, history=(str(world.dump(DATES[1])),), until=noon)
    assert alone.frame["value"].to_list() == dumps.frame["value"].to_list()


@pytest.mark.parametrize("horizon", [0, 1])
def test_records_that_nothing_cuts_have_a_history_over_midnight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, horizon: int
) -> None:
    world = made_world(tmp_path, {"history": HISTORY, "horizon": horizon}, cut=False, count=3)
    made, dataset = ask(world, monkeypatch, history=(str(tmp_path / "raw" / "{date}.csv"),)), world.open()
    values = np.concatenate([np.asarray(dataset.arrays(date)["values"]) for date in DATES])
    codes = np.concatenate([dataset.codes(day) for day in dataset.days])
    seen = np.ones(values.shape, bool)
    seen[np.cumsum([0, *(day.num_steps for day in dataset.days[:-1])]), 0, 1] = False  # a date's first gap
    told = dict[int, float]()
    for end in np.cumsum([day.num_steps for day in dataset.days]).tolist():  # as each date is read
        for nominal in range(len(told), end, HISTORY) if end >= HISTORY else []:
            low = end - HISTORY if horizon else min(nominal, end - HISTORY)
            code = np.concatenate([codes[low:][:HISTORY], codes[low + HISTORY - 1 :][:horizon]]).astype(np.int32)
            scaled, _ = made.forecaster.of_window(values[low:][:HISTORY], code, seen[low:][:HISTORY])
            assert scaled is not None
            raw = in_raw_units(made.forecaster, scaled.astype(np.float64), [0 if horizon else 2]).ravel()
            told = {low + place: float(value) for place, value in enumerate(raw)} | told  # the first window that has it
            last = float(raw[-1])
    wanted = [last] if horizon else [told[place] for place in range(len(values))]
    np.testing.assert_allclose(made.frame.sort("time", maintain_order=True)["value"], wanted, rtol=1e-6)
    few = "record, and|records, and"
    with pytest.raises(DumpError, match=f"longest piece has [123] ({few}) the model looks back 4 records"):
        ask(world, monkeypatch, history=(str(world.dump(DATES[2])),))


@pytest.mark.parametrize("cut", [True, False])
def test_inputs_of_dumps_are_the_bytes_of_the_shards(tmp_path: Path, cut: bool) -> None:
    world = made_world(tmp_path, {"history": HISTORY, "horizon": 0}, cut=cut)
    dataset, config = world.open(), world.settings.preparing()
    with raw_files([str(tmp_path / "raw" / "{date}.csv")], reading(config, ["value", "gap"])) as raw:
        dumps, shards = DumpRecords(raw, target_of(dataset), config), ShardRecords(dataset)
        assert list(dumps.dates) == list(shards.dates) == DATES
        for date in DATES:
            ours, theirs = dumps.read(date).records, shards.read(date).records
            assert ours.values_TNF[..., :2].tobytes() == theirs.values_TNF[..., :2].tobytes()
            assert ours.observed_TNF[..., :2].tobytes() == theirs.observed_TNF[..., :2].tobytes()
            assert not ours.observed_TNF[..., 2].any()
            for name in ("date_T", "time_T", "code_T"):
                assert np.array_equal(getattr(ours, name), getattr(theirs, name))
            assert (ours.cut_T is None) is not cut
            assert not cut or np.array_equal(ours.cut_T, theirs.cut_T)


def test_rows_of_a_table_are_told_what_they_lack_in_the_order_of_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = table_world(tmp_path, houses(300))
    assert not world.prepare().failed
    untrained(world.settings.trainer, world, "r")
    frame = pl.read_csv(tmp_path / "houses.csv").drop("price").sample(fraction=1, shuffle=True, seed=2)
    (tmp_path / "new").mkdir()
    files = [tmp_path / "new" / f"{name}.csv" for name in "ab"]
    frame[:100].write_csv(files[0])
    frame[100:].write_csv(files[1])
    made = ask(world, monkeypatch, history=(str(files[1]),))
    assert made.frame.columns == ["file", "row", "feature", "horizon", "value", "low", "high"]
    assert made.frame["row"].to_list() == list(range(2, 202))
    dataset = world.open()
    (day,) = dataset.days
    arrays = dataset.arrays(day.date)
    raw = np.round(dataset.scale.undo(np.asarray(arrays["values"])[:, 0][:, None])[:, 0], 1)
    place = {(row[0], row[1], row[2]): number for number, row in enumerate(raw.tolist())}
    towns = dataset.vocabularies.names["town"]
    for row, value in zip(frame[100:].iter_rows(named=True), made.frame["value"], strict=True):
        number = place[(row["area"], float(row["rooms"]), float(towns.index(row["town"]) + 1))]
        wanted = by_hand(made, dataset, day.date, slice(number, number + 1), np.zeros(0))[0, 0]
        assert value == pytest.approx(wanted, rel=1e-6)
    with pytest.raises(UsageError, match="two of the histories"):
        ask(world, monkeypatch, history=tuple(map(str, files)))
    with pytest.raises(UsageError, match="no records are given"):
        ask(world, monkeypatch)
    with pytest.raises(UsageError, match="have no time"):
        ask(world, monkeypatch, history=(str(files[0]),), until="2024-01-01")


def test_the_command_prints_rows_of_records(tmp_path: Path) -> None:
    world = made_world(tmp_path, {"history": HISTORY, "horizon": 0}, cut=True)
    done = world.run("predict", "r", "--history", str(world.dump(DATES[0])), "--interval", "none")
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [*rows[0]] == ["date", "file", "row", "cut", "feature", "horizon", "value", "low", "high", "time"]
    assert "60 records, 1 date of dumps, 96.7 % of the cells observed" in done.stderr
    assert f"forecast   {len(rows)} records" in done.stderr
    assert len({row["row"] for row in rows}) == len(rows)
    document = json.loads(
        world.run("predict", "r", "--history", str(world.dump(DATES[0])), "--interval", "none", "--json").stdout
    )
    jsonschema.validate(document, document_schema("predict"))
    assert [float(row["value"]) for row in rows] == [row["value"] for row in document["forecasts"]]
    raw = world.dump(DATES[0]).read_text().splitlines()
    for row in rows:  # the instant with its fraction, as the dump has it
        at = dt.datetime.fromisoformat(row["time"]) - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
        assert at // dt.timedelta(microseconds=1) * 1000 == int(raw[int(row["row"]) - 1].split(",")[0])


def test_predictors_and_graphs_are_of_a_grid_and_say_what_they_were_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = made_world(tmp_path, {"history": HISTORY, "horizon": 2}, cut=True)
    monkeypatch.chdir(world.folder)
    with pytest.raises(UsageError, match=r"keeps records \(events\).*predict r --history"):
        dateshard.Predictor("r")
    with pytest.raises(UsageError, match=r"only models of a grid are exported.*keeps records \(events\)"):
        export_model("r", "best", tmp_path / "r.onnx")
    assert not list(tmp_path.glob("r.onnx*"))


def test_a_record_without_any_input_has_no_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = table_world(tmp_path, houses(400))
    assert not world.prepare().failed
    untrained(world.settings.trainer, world, "r")
    (tmp_path / "new.csv").write_text("area,rooms,town\n100,3,A\n,,\n")
    monkeypatch.chdir(tmp_path)
    made = predict_run(PredictRequest(run="r", history=("new.csv",)))
    assert made.frame["low"].is_null().to_list() == [False, True]
    assert made.frame["value"].null_count() == 0


def test_an_instant_long_after_the_last_record_is_told_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = made_world(tmp_path, {"history": "10m", "most": HISTORY, "horizon": 1}, cut=True)
    with pytest.raises(DumpError, match=r"none of its \d+ records lies in the 600 s before.*until"):
        ask(world, monkeypatch, history=(str(world.dump(DATES[0])),), until=f"{DATES[1]}T12:00")


def test_a_target_that_looks_ahead_is_not_compared_with_its_own_last_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = {date: make_records(date, 60, CUTS, 5) for date in DATES}
    features = {"value": {}, "soon": {"column": "value", "aggregate": "mean", "ahead": "30m"}}
    world = event_world(
        tmp_path,
        records,
        cut=True,
        features=features,
        split=BY,
        window={"history": 2, "horizon": 1},
        inputs=["value"],
        targets=["soon"],
    )
    assert not world.prepare().failed
    untrained(world.settings.trainer, world, "r")
    monkeypatch.chdir(tmp_path)
    made = predict_run(PredictRequest(run="r", history=(str(world.dump(DATES[0])),)))
    assert made.intervals is not None
    assert set(made.intervals.errors) == {"model", "mean"}
