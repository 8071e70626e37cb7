"""export: what is read back from the files is what the dataset holds, unscaled, null where nothing was observed."""

from __future__ import annotations

import csv
import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from dateshard.preparing import export as exporting
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.scaling.transform import untransform
from dateshard.shardstore.times.calendar import instants
from tests.conftest import World

Run = Callable[..., Any]
Make = Callable[..., World]
SPRING = dt.date(2024, 3, 10)  # 23 hours in New York


@pytest.fixture
def world(make_world: Make) -> World:
    """Four New York dates, one of 23 hours, with masks, a transform, a category and a node with a comma in its name."""
    nodes = ["n0", 'a, "b"', "节点"]
    world = make_world(dates=4, first="2024-03-08", zone="America/New_York", nodes=["n0", "n1", "n2"], missing=0.6)
    world.tree["pipeline"]["split"] = {"train": "2024-03-08..2024-03-10", "validation": "2024-03-11"}
    world.tree["pipeline"]["features"]["volume"]["transform"] = "log1p"
    world.tree["pipeline"]["features"]["kind"] = {"categorical": True}
    for date in world.rows:
        lines = [line.split(",") for line in world.dump(date).read_text().splitlines()]
        with open(world.dump(date), "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*lines[0], "kind"])
            for k, (time, node, *rest) in enumerate(lines[1:]):
                kind = "new" if date.day == 11 and k % 5 == 0 else f"kind {k % 3}" if k % 4 else ""
                writer.writerow([time, nodes[int(node[1])], *rest, kind])
    world.prepare()
    world.config_file()
    return world


def arrays(dataset: Dataset, date: dt.date) -> tuple[Any, Any]:
    """A date's raw values and mask as the dataset reads them, [T, N, F]."""
    shape = (dataset.manifest.dates[date].num_steps, len(dataset.nodes.names), len(dataset.features))
    values, observed = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=bool)
    dataset.read(date, slice(None), values)
    dataset.read_observed(date, slice(None), observed)
    return untransform(dataset.scale.undo(values), [f.transform for f in dataset.features]), observed


def frame(path: Path) -> pl.DataFrame:
    if path.suffix == ".parquet":
        return pl.read_parquet(path)
    kinds = {"time_utc": pl.String, "time_local": pl.String, "speed": pl.Float64, "volume": pl.Float64}
    return pl.read_csv(path, schema_overrides=kinds, null_values="")


@pytest.mark.parametrize("to", ["parquet", "csv"])
@pytest.mark.parametrize("block", [1 << 18, 7])
def test_values_read_back_are_those_of_the_dataset(
    world: World, ds: Run, monkeypatch: pytest.MonkeyPatch, to: str, block: int
) -> None:
    monkeypatch.setattr(exporting, "BLOCK_CELLS", block)
    document = ds("export", "-c", "config.yaml", "--to", to, "--out", "out", "--json").document
    dataset = world.open()
    assert [row["date"] for row in document["files"]] == [str(date) for date in sorted(world.rows)]
    for row in document["files"]:
        date = dt.date.fromisoformat(row["date"])
        raw, observed = arrays(dataset, date)
        assert 0 < row["missing"] == (~observed).sum()
        found = frame(Path(row["file"]))
        assert found.columns == ["time_utc", "time_local", "node", "speed", "volume", "kind"]
        assert found["node"].to_list() == list(dataset.nodes.names) * len(raw)
        for place, name in enumerate(["speed", "volume"]):
            seen = observed[..., place].ravel()
            assert found[name].is_null().to_numpy().tolist() == (~seen).tolist()
            numbers = found[name].drop_nulls().to_numpy()
            assert numbers == pytest.approx(raw[..., place].ravel()[seen], rel=1e-6, abs=1e-6)
            assert name == "speed" or np.array_equal(numbers, np.rint(numbers))  # counts come back whole, as they were
        words = [None, *dataset.vocabularies.names["kind"]]
        codes = np.where(observed[..., 2], raw[..., 2], 0).astype(int).ravel()
        assert found["kind"].to_list() == [words[code] for code in codes]
        assert (observed[..., 2] & (raw[..., 2] == 0)).any() == (date.day == 11)  # a category that training never saw


@pytest.mark.parametrize("to", ["parquet", "csv"])
def test_times_stand_in_utc_and_in_the_datasets_zone(world: World, ds: Run, to: str) -> None:
    ds("export", "-c", "config.yaml", str(SPRING), "--to", to)
    found = frame(Path(f"data/exports/world/{SPRING}.{to}"))
    utc, local = found["time_utc"].unique(maintain_order=True), found["time_local"].unique(maintain_order=True)
    assert len(utc) == len(local) == 23
    if to == "csv":
        assert utc.to_list()[1:4:2] == ["2024-03-10T06:00:00Z", "2024-03-10T08:00:00Z"]
        assert local.to_list()[1:4:2] == ["2024-03-10T01:00:00-05:00", "2024-03-10T04:00:00-04:00"]
    else:
        assert np.array_equal(utc.cast(pl.Int64).to_numpy(), instants(world.open().manifest.day(SPRING)))
        assert utc.dtype == pl.Datetime("ns", "UTC")
        assert local.dtype == pl.Datetime("ns", "America/New_York")
        assert utc.cast(pl.Int64).to_list() == local.cast(pl.Int64).to_list()


def test_npy_is_the_array_with_its_axes(world: World, ds: Run) -> None:
    ds("export", "-c", "config.yaml", "2024-03-09..2024-03-10", "--to", "npy", "--out", "out")
    dataset = world.open()
    raw, observed = arrays(dataset, SPRING)
    found = np.load(f"out/{SPRING}.npy")
    assert np.allclose(found, np.where(observed, raw, np.nan), rtol=1e-6, atol=1e-6, equal_nan=True)
    assert found.shape == (23, 3, 3)
    assert np.array_equal(np.load(f"out/{SPRING}.time.npy"), instants(dataset.manifest.day(SPRING)))
    axes = json.loads(Path("out/axes.json").read_text())
    assert (axes["nodes"], axes["features"]) == (list(dataset.nodes.names), dataset.feature_names)
    assert sorted(path.name for path in Path("out").iterdir()) == [
        *(f"2024-03-{day}{end}" for day in ("09", "10") for end in (".npy", ".time.npy")),
        "axes.json",
    ]


@pytest.mark.parametrize("to", ["parquet", "csv", "npy"])
def test_scaled_values_are_the_stored_ones(world: World, ds: Run, to: str) -> None:
    ds("export", "-c", "config.yaml", str(SPRING), "--to", to, "--scaled", "--out", "out")
    stored = world.open().map(SPRING)
    assert stored is not None
    _, observed = arrays(world.open(), SPRING)
    if to == "npy":
        found = np.load(f"out/{SPRING}.npy")
    else:
        table = frame(Path(f"out/{SPRING}.{to}")).select("speed", "volume", "kind").cast(pl.Float32)
        found = table.to_numpy().reshape(stored.shape)
    assert found.dtype == np.float32
    assert np.array_equal(found[observed], stored[observed])
    assert np.isnan(found[~observed]).all()


def test_a_file_that_exists_stays_unless_forced(world: World, ds: Run) -> None:
    Path("out").mkdir()
    kept = Path(f"out/{SPRING}.csv")
    kept.write_text("mine")
    command = ("export", "-c", "config.yaml", "--to", "csv", "--out", "out")
    said = ds(*command, code=2).err
    assert f"out/{SPRING}.csv: 1 of the files exist" in said
    assert "--force" in said
    assert [path.name for path in Path("out").iterdir()] == [kept.name]
    assert kept.read_text() == "mine"
    ds(*command, "--force")
    assert len(frame(kept)) == 23 * 3


def test_a_file_that_appears_meanwhile_is_not_replaced(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, out = world.open(), Path("out")
    files = exporting.export(dataset, sorted(world.rows), "parquet", out, scaled=False, force=False)
    first = next(files)
    late = out / f"{SPRING}.parquet"
    late.write_text("mine")
    with pytest.raises(exporting.UsageError, match="the file exists"):
        list(files)
    assert late.read_text() == "mine"
    assert first.file.exists()
    assert not list(out.glob(".*"))


def test_an_export_that_fails_leaves_no_file(world: World, ds: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "_column", fail)
    assert "no space left" in ds("export", "-c", "config.yaml", "--to", "csv", "--out", "out", code=28).err
    assert list(Path("out").iterdir()) == []


def test_what_cannot_be_exported_is_refused_before_anything_is_written(world: World, ds: Run) -> None:
    said = ds("export", "-c", "config.yaml", "2024-03-08", "2025-01-01", "--to", "csv", code=4).err
    assert "2025-01-01: the date is not in this generation" in said
    world.tree["pipeline"]["features"]["node"] = world.tree["pipeline"]["features"].pop("volume")
    world.prepare()
    assert "--to npy" in ds("export", "-c", "config.yaml", "--to", "csv", code=2).err
    assert not Path("data/exports").exists()
