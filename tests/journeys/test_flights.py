"""The real year: from the package to dumps, shards and an evaluation, against the raw CSVs read by hand."""

from __future__ import annotations

import csv
import datetime as dt
import json
import os
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest

import dateshard
from dateshard.settings import load_settings
from dateshard.shardstore.dataset import Dataset
from dateshard.trainer import checkpoint
from dateshard.trainer.runs.start import New, start_new
from dateshard.trainer.session import save
from tests.kit.limits import PATIENCE_SECONDS

ZONE = ZoneInfo("America/New_York")
CONFIG = ("-c", "configs/flights.yaml")


def run(folder: Path, *words: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DATESHARD")}
    words = (sys.executable, "-m", "dateshard", *words)
    done = subprocess.run(words, cwd=folder, text=True, capture_output=True, env=kept, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example's configuration, its 365 dumps and its prepared store."""
    folder = tmp_path_factory.mktemp("year")
    run(folder, "init", "--example", "flights")
    told = json.loads(run(folder, "preprocess", *CONFIG, "--json"))
    assert told["dates"] == told["measured"] == told["written"] == 365
    by_date = told["rows"].pop("by_date")
    assert told["rows"] == {"read": 260_973, "accepted": 260_973, "rejected": {}, "changed": {}}
    assert len(by_date) == 365
    assert sum(row["read"] for row in by_date.values()) == 260_973
    return folder


def hourly_departures(folder: Path, nodes: tuple[str, ...]) -> tuple[np.ndarray, int]:
    """[hours of the year, destinations] counted by hand, and the hour at which 2013-11-16 begins."""
    first = int(dt.datetime(2013, 1, 1, tzinfo=ZONE).timestamp())
    last = int(dt.datetime(2014, 1, 1, tzinfo=ZONE).timestamp())
    test = int(dt.datetime(2013, 11, 16, tzinfo=ZONE).timestamp())
    counted: Counter[tuple[int, str]] = Counter()
    for path in (folder / "data/raw/flights").glob("2013-*.csv"):
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                hour = (int(dt.datetime.fromisoformat(row["scheduled"]).timestamp()) - first) // 3600
                counted[hour, row["destination"]] += 1
    table = np.zeros(((last - first) // 3600, len(nodes)))
    for (hour, node), count in counted.items():
        table[hour, nodes.index(node)] = count
    return table, (test - first) // 3600


def test_the_year_has_365_local_dates_two_of_them_of_other_lengths(year: Path) -> None:
    dataset = Dataset.open(year / "data/shards/flights")
    lengths = {day.date: day.num_steps for day in dataset.days if day.num_steps != 24}
    assert lengths == {dt.date(2013, 3, 10): 23, dt.date(2013, 11, 3): 25}
    assert len(dataset.days) == 365
    assert len(dataset.segments) == 1
    nodes = dataset.nodes
    assert len(nodes.names) == 30
    assert nodes.axes == ("latitude", "longitude")
    assert np.isfinite(nodes.positions_NP).all()


def test_shards_hold_the_departures_of_the_raw_rows(year: Path) -> None:
    dataset = Dataset.open(year / "data/shards/flights")
    table, _ = hourly_departures(year, dataset.nodes.names)
    scaled = np.concatenate([np.asarray(dataset.map(day.date))[..., 0] for day in dataset.days])
    training = table[: sum(day.num_steps for day in dataset.days if dataset.manifest.split_of(day.date) == "train")]
    np.testing.assert_allclose(
        scaled, ((table - training.mean()) / training.std()).astype(np.float32), rtol=1e-6, atol=1e-7
    )


def test_a_seasonal_forecast_of_the_year_equals_one_made_by_hand(year: Path) -> None:
    told = json.loads(run(year, "evaluate", *CONFIG, "--baselines", "repeat,seasonal:24,seasonal:168,mean", "--json"))
    table, test = hourly_departures(year, Dataset.open(year / "data/shards/flights").nodes.names)
    anchors = range(test, len(table) - 24 + 1)
    assert told["windows"] == len(anchors) == 1081
    rows = {row["name"]: row["raw"]["by_feature"]["departures"] for row in told["rows"]}
    for season in (24, 168):
        errors = [table[a : a + 24] - table[a - season : a - season + 24] for a in anchors]
        assert rows[f"seasonal:{season}"]["mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-6)
        assert rows[f"seasonal:{season}"]["rmse"] == pytest.approx(np.sqrt(np.square(errors).mean()), rel=1e-6)
    last = [table[a : a + 24] - table[a - 1] for a in anchors]
    assert rows["repeat"]["mae"] == pytest.approx(np.abs(last).mean(), rel=1e-6)


def test_the_day_after_raw_dumps_is_that_after_their_shards(year: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A week that ends with the 25 hours of 2013-11-03, and one that ends in the afternoon."""
    monkeypatch.chdir(year)
    config = load_settings(["configs/flights.yaml"], ["trainer.model.name=dlinear"]).trainer
    with closing(start_new(config, Path("data/shards/flights"), Path("data/runs"), New("quick"))) as started:
        started.session.state.validated, started.session.state.val_loss = True, 1.0  # as drawn: nothing is trained here
        with checkpoint.CheckpointWriter(started.session.checkpoints) as writer:
            save(started.session, writer)
    for until, at in (("2013-11-03", "2013-11-04"), ("2013-12-01T14:05", "2013-12-01T14:00")):
        raw = dateshard.predict("quick", "data/raw/flights/{date}.csv", until=until)
        assert raw.equals(dateshard.predict("quick", at=at))
        assert raw.shape == (24 * 30 * 2, 9)
        assert str(raw["time"][0]) == f"{at.replace('T14:00', '')} {'14' if 'T' in at else '00'}:00:00-05:00"
        assert raw["low"].null_count() == 0
        assert raw.filter(pl.col("feature") == "departures")["low"].min() == 0.0


def test_init_never_overwrites_a_dump(year: Path) -> None:
    dump = year / "data/raw/flights/2013-07-04.csv"
    kept = dump.read_bytes()
    try:
        dump.write_bytes(kept[: kept.rindex(b"\n", 0, -1) + 1])
        changed = dump.read_bytes()
        assert "366 files are there" in run(year, "init", "--example", "flights")
        assert dump.read_bytes() == changed
    finally:
        dump.write_bytes(kept)
