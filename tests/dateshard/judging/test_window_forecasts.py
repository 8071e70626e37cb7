"""`evaluate RUN --forecasts FILE`: every window's truth and forecast, against plain numpy; whole or not at all."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pa_parquet
import pytest
from polars.testing import assert_frame_equal

from dateshard.judging import window_forecasts
from dateshard.preparing.raw_units import raw_units
from dateshard.shardstore.dataset import Dataset
from dateshard.trainer import checkpoint
from dateshard.trainer.assessment.adaptation import Walk
from dateshard.trainer.assessment.forecaster import Forecaster, load_forecaster
from dateshard.trainer.assessment.intervals_file import kept_intervals
from dateshard.trainer.config import Trainer
from dateshard.trainer.runs.run_folder import TrainingRun
from tests.conftest import World
from tests.dateshard.judging.test_predict_records import BY, DATES, made_world
from tests.journeys.test_tables import houses, table_world
from tests.kit.untrained import untrained
from tests.trainer.conftest import Plain

Run = Callable[..., Any]
SPLIT = {"train": "2024-03-01..2024-03-04", "validation": "2024-03-05", "test": "2024-03-06..2024-03-07"}
HISTORY, HORIZON = 6, 3


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """A run `r` that was never trained; its targets stand in another order than the features."""
    made = make_world(
        7,
        split=SPLIT,
        missing=0.6,
        window={"history": HISTORY, "horizon": HORIZON},
        training={"batch_size": 16},
        targets=["volume", "speed"],
        baselines=["repeat"],
    )
    made.prepare()
    untrained(made.settings.trainer, made, "r")
    return made


def forecaster_of(config: Trainer, dataset: Dataset) -> tuple[Forecaster, checkpoint.Checkpoint]:
    saved, _ = checkpoint.find(TrainingRun(Path("data/runs/r")).checkpoints, "best")
    return load_forecaster(config, dataset, saved), saved


def test_every_window_step_node_and_target_is_a_row_of_truth_and_forecast(world: World, ds: Run) -> None:
    written = Plain(world)
    windows = written.windows("test", HISTORY, HORIZON)
    done = ds("evaluate", "r", "--forecasts", "w.parquet", "--json")
    frame = pl.read_parquet("w.parquet")
    assert done.document["forecasts"] == {
        "file": "w.parquet",
        "bytes": Path("w.parquet").stat().st_size,
        "windows": len(windows),
        "rows": len(windows) * HORIZON * 3 * 2,
        "level": 0.9,
        "notes": [],
    }
    forecaster, saved = forecaster_of(world.settings.trainer, world.open())
    values, codes = np.array([w.scaled[:HISTORY] for w in windows], np.float32), np.array([w.codes for w in windows])
    known = np.array([w.observed[:HISTORY] for w in windows])
    scaled, _ = forecaster.of_windows(values, codes.astype(np.int32), known)
    assert scaled is not None
    mean, spread = (np.array([moment[k] for moment in written.moments])[::-1] for k in range(2))
    intervals = kept_intervals(forecaster, saved, Path("data/runs/r"))
    assert intervals is not None
    observed, target = (np.array([getattr(w, name)[HISTORY:] for w in windows]) for name in ("observed", "scaled"))
    missed = np.where(observed, target, np.nan)[..., ::-1] - scaled  # targets are in the other order
    walk = Walk(reach=intervals.begin, level=0.9, step=3_600_000_000_000)
    hours = np.array([w.codes[HISTORY:] for w in windows]) >> 3
    reach = walk.of_batch(np.array([w.anchor for w in windows]), hours, missed.astype(np.float32)[None])
    expected = {
        "forecast": scaled * spread + mean,
        "low": (scaled + reach[0]) * spread + mean,
        "high": (scaled + reach[1]) * spread + mean,
    }
    truth = np.array([np.where(w.observed[HISTORY:], w.raw[HISTORY:], np.nan) for w in windows])[..., ::-1]
    seen = known.any(1)[:, None, :, ::-1]
    expected["truth"] = truth
    for name, values_BPNT in expected.items():
        if name in ("low", "high"):
            values_BPNT = np.where(seen, values_BPNT, np.nan)
        found = frame[name].to_numpy().reshape(values_BPNT.shape)
        assert (np.isnan(found) == np.isnan(values_BPNT)).all(), name
        np.testing.assert_allclose(found, values_BPNT, rtol=1e-5, atol=1e-4, err_msg=name)
    first = dt.datetime(2024, 3, 1, tzinfo=written.zone)
    anchors = [first.timestamp() + 3600 * w.anchor for w in windows]
    each = HORIZON * 3 * 2
    assert frame["anchor"].dt.epoch("s").to_list() == np.repeat(anchors, each).tolist()
    steps = np.array(anchors)[:, None] + 3600 * np.arange(HORIZON)
    assert frame["time"].dt.epoch("s").to_list() == np.repeat(steps.ravel(), 6).tolist()
    assert frame["horizon"].to_list() == np.tile(np.repeat([1, 2, 3], 6), len(windows)).tolist()
    assert frame["node"].to_list() == np.tile(np.repeat(["n0", "n1", "n2"], 2), len(windows) * HORIZON).tolist()
    assert frame["feature"].to_list() == ["volume", "speed"] * (len(frame) // 2)


def test_without_intervals_of_these_weights_low_and_high_are_empty(world: World, ds: Run) -> None:
    done = ds("evaluate", "r", "--split", "validation", "--forecasts", "w.parquet")
    assert "low and high are empty: the run has no intervals of this checkpoint" in done.out
    frame = pl.read_parquet("w.parquet")
    assert frame["low"].null_count() == frame["high"].null_count() == len(frame) > 0
    assert frame["forecast"].null_count() == 0
    assert set(frame["anchor"].dt.date()) == {dt.date(2024, 3, 5)}


def test_rows_are_written_in_groups_and_the_file_appears_whole_or_not_at_all(
    world: World, ds: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds("evaluate", "r", "--forecasts", "whole.parquet")
    whole = pl.read_parquet("whole.parquet")
    monkeypatch.setattr(window_forecasts, "ROWS", 100)
    ds("evaluate", "r", "--forecasts", "w.parquet")
    groups = pa_parquet.ParquetFile("w.parquet").metadata
    assert groups.num_row_groups > 5
    assert max(groups.row_group(k).num_rows for k in range(groups.num_row_groups)) <= 100
    assert_frame_equal(
        pl.read_parquet("w.parquet"), whole, abs_tol=1e-4
    )  # but for the last digits: batches are smaller
    before, make, made = Path("w.parquet").read_bytes(), window_forecasts._of_batch, list[int]()

    def failing(*asked: Any) -> pl.DataFrame:
        made.append(1)
        if len(made) == 4:
            raise OSError(28, "No space left on device")
        return make(*asked)

    monkeypatch.setattr(window_forecasts, "_of_batch", failing)
    for name in ("w.parquet", "new.parquet"):
        made.clear()
        assert "no space left on the disk" in ds("evaluate", "r", "--forecasts", name, code=28).err
    assert Path("w.parquet").read_bytes() == before
    assert [path.name for path in Path().iterdir() if "new.parquet" in path.name or path.suffix == ".tmp"] == []
    Path("full.parquet").symlink_to("/dev/full")
    monkeypatch.setattr(window_forecasts, "_of_batch", make)
    assert "no space left on the disk" in ds("evaluate", "r", "--forecasts", "full.parquet", code=28).err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["r", "--forecasts", "w.csv"], "w.csv: forecasts of windows are written as .parquet"),
        (["r", "--forecasts", "no/w.parquet"], "no/w.parquet: the folder does not exist"),
        (["r", "--forecasts", "there.parquet"], "there.parquet: that is a folder"),
        (["-c", "config.yaml", "--forecasts", "w.parquet"], "--forecasts is of a RUN."),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_judged(
    tmp_path: Path, ds: Run, words: list[str], said: str
) -> None:
    Path("there.parquet").mkdir()
    assert said in ds("evaluate", *words, code=2).err


@pytest.mark.parametrize("window", [{"history": 4, "horizon": 2}, {"history": 4, "horizon": 0}], ids=str)
def test_of_records_date_place_cut_and_instant_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ds: Run, window: dict[str, int]
) -> None:
    world = made_world(tmp_path, window, cut=True)
    monkeypatch.chdir(world.folder)
    ds("evaluate", "r", "--forecasts", "w.parquet")
    frame, dataset, place, row = pl.read_parquet("w.parquet"), world.open(), 0, 0
    target = dataset.feature_names.index(world.settings.trainer.targets[0])
    for date in DATES:
        day = dataset.manifest.day(date)
        cuts, times = dataset.cuts(day), dataset.times(day)
        values = dataset.scale.undo(np.asarray(dataset.arrays(date)["values"]))[:, 0, target]
        ends = [*cuts.starts[1:].tolist(), day.num_steps]
        for name, low, high in zip(cuts.names, cuts.starts.tolist(), ends, strict=True):
            if name not in BY["test"]:
                continue
            before = window["history"] if window["horizon"] else window["history"] - 1
            for anchor in range(low + before, high - max(window["horizon"], 1) + 1):
                records = (
                    anchor + np.arange(window["horizon"]) if window["horizon"] else np.arange(anchor - 3, anchor + 1)
                )
                part = frame[row : row + len(records)]
                assert set(part["cut"]) == {name}
                assert set(part["date"]) == {date}
                assert part["record"].to_list() == records.tolist()
                assert part["time"].dt.epoch("ns").to_list() == times[records].tolist()
                assert set(part["anchor"].dt.epoch("ns")) == {int(times[anchor])}
                np.testing.assert_allclose(part["truth"].to_numpy(), values[records], rtol=1e-5, atol=1e-4)
                row, place = row + len(records), place + 1
    assert (row, frame.columns[:4]) == (len(frame), ["anchor", "date", "record", "cut"])
    assert place > 10


def test_of_a_category_the_true_one_stands_beside_the_likeliest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ds: Run
) -> None:
    """In a table without dates, whose rows have no time; a town that training never saw is not known."""
    world = table_world(tmp_path / "t", [*houses(200), *(f"{50 + k}.5,3,X{k},100.0" for k in range(40))], target="town")
    world.prepare()
    untrained(world.settings.trainer, world, "r")
    monkeypatch.chdir(world.folder)
    told = ds("evaluate", "r", "--forecasts", "w.parquet").out
    assert "predict r --history FILE (any dump)" in told  # without records there is nothing to forecast
    frame, dataset = pl.read_parquet("w.parquet"), world.open()
    named = ["record", "file", "row", "cut", "node", "feature", "horizon", "truth", "forecast", "low", "high"]
    assert [name for name in frame.columns if name != "cut"] == [
        *(name for name in named if name != "cut"),
        *("truth_category", "category", "probability"),
    ]
    (day,) = dataset.days
    values, codes = np.asarray(dataset.arrays(day.date)["values"])[frame["record"].to_numpy()], dataset.codes(day)
    lines = (world.folder / "houses.csv").read_text().splitlines()
    rows = [lines[row - 1].split(",") for row in frame["row"].to_list()]
    assert [row[0] for row in rows] == [f"{x:.1f}" for x in raw_units(dataset, values)[:, 0, 0]]
    assert set(frame["file"].to_list()) == {str(world.folder / "houses.csv")}
    towns, place = dataset.vocabularies.names["town"], dataset.feature_names.index("town")
    code = values[:, 0, place].astype(int)
    assert frame["truth_category"].to_list() == [towns[k - 1] if k else None for k in code]
    assert 0 < frame["truth_category"].null_count() < len(frame)
    forecaster, _ = forecaster_of(world.settings.trainer, dataset)
    _, chances = forecaster.of_windows(values[:, None], codes[frame["record"].to_numpy()][:, None], None)
    likeliest = chances["town"][:, 0, 0]
    assert frame["category"].to_list() == [towns[k] for k in likeliest.argmax(-1)]
    np.testing.assert_allclose(frame["probability"].to_numpy(), likeliest.max(-1), rtol=1e-5)
    assert frame["truth"].null_count() == frame["forecast"].null_count() == len(frame)
