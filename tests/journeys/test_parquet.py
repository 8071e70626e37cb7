"""`pipeline.store.formats`: dates in Parquet beside Zarr or alone, gained and lost without measuring anything again."""

from __future__ import annotations

import datetime as dt
import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from dateshard.cli import run
from dateshard.pipeline.clean import clean
from dateshard.pipeline.planning.plan import Wish
from dateshard.pipeline.planning.preview import look
from dateshard.settings import validate
from dateshard.shardstore.errors import NotThereError, UsageError

FIRST, LAST = dt.date(2024, 3, 1), dt.date(2024, 3, 5)
SPLIT = {"train": "2024-03-01..2024-03-03", "validation": "2024-03-04.."}
ZARR, PARQUET, BOTH = ["zarr"], ["parquet"], ["zarr", "parquet"]


@pytest.fixture
def make(make_world: Callable[..., Any]) -> Callable[..., Any]:
    def build(formats: list[str], dates: int = 5, **given: Any) -> Any:
        world = make_world(dates, **{"split": SPLIT, **given})
        store(world, formats)
        world.prepare()
        return world

    return build


def store(world: Any, formats: list[str]) -> None:
    world.tree["pipeline"]["store"] = {"formats": formats}


def ids(world: Any) -> list[str]:
    return [entry.parts[0].id for entry in world.open().manifest.dates.values()]


def formats_of(world: Any) -> dict[str, list[str]]:
    return {str(date): list(entry.parts[0].formats) for date, entry in world.open().manifest.dates.items()}


def parquet_file(world: Any, date: dt.date = FIRST) -> Path:
    stored = world.open().manifest.dates[date].parts[0].formats["parquet"]
    found: Path = world.store / "parquet" / str(date) / stored.folder / f"{date}.parquet"
    return found


def verifies(world: Any, *, full: bool = True) -> None:
    assert [str(error) for _, error in world.open().verify(full=full) if error] == []


def paths_in(store: Path) -> int:
    return sum(len(names) + len(files) for _, names, files in os.walk(store))


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.chmod(0o644)
    path.write_bytes(data)


def test_formats_come_and_go_and_nothing_is_measured_or_scaled_again(make: Any, committed: Any) -> None:
    world = make(ZARR)
    first, names = committed(world), ids(world)
    staged = {path: path.stat().st_mtime_ns for path in world.store.glob("staged/*/*/*")}
    for formats in (BOTH, PARQUET, BOTH, ZARR):
        store(world, formats)
        done = world.prepare()
        assert (done.measured, done.written, done.unchanged, done.stored) == (0, 0, 0, 5)
        assert set(map(tuple, formats_of(world).values())) == {tuple(sorted(formats))}
        assert ids(world) == names
        verifies(world)
        again = world.prepare()
        assert (again.generation, again.stored) == (done.generation, 0)
    assert {path: path.stat().st_mtime_ns for path in world.store.glob("staged/*/*/*")} == staged
    ours, theirs = (
        {name: data for name, data in state.items() if "manifests" not in name} for state in (first, committed(world))
    )
    assert ours == theirs
    manifests = [world.open(number).manifest for number in (1, world.open().generation)]
    assert manifests[0] == manifests[1]


def test_formats_that_change_beside_a_refit_of_the_same_statistics_are_written_too(make: Any) -> None:
    world = make(ZARR)
    names = ids(world)
    store(world, BOTH)
    done = world.prepare(refit=True)
    assert (done.measured, done.written, done.stored) == (0, 5, 0)
    assert set(map(tuple, formats_of(world).values())) == {tuple(sorted(BOTH))}
    assert ids(world) == names
    verifies(world)
    assert world.prepare(refit=True).generation == done.generation


def test_the_order_in_which_formats_are_named_means_nothing(make: Any) -> None:
    world = make(BOTH)
    store(world, BOTH[::-1])
    assert world.prepare(force=True).generation == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_store_that_gains_parquet_equals_one_that_had_it_from_the_start(
    make: Any, committed: Any, workers: int
) -> None:
    world = make(BOTH)
    whole = committed(world)
    shutil.rmtree(world.store)
    store(world, ZARR)
    world.prepare()
    store(world, BOTH)
    world.prepare(workers)
    later = committed(world)
    assert {name.split("/")[-1]: data for name, data in later.items() if "g0000" not in name} == {
        name.split("/")[-1]: data for name, data in whole.items() if "g0000" not in name
    }


def test_dates_whose_dump_and_measured_arrays_are_gone_gain_parquet_too(make: Any) -> None:
    world = make(ZARR)
    world.dump(LAST).unlink()
    shutil.rmtree(world.store / "staged" / str(LAST))
    store(world, PARQUET)
    assert world.prepare().stored == 5
    verifies(world, full=False)
    clean(world.settings.preparing(), world.store, 1, dry_run=False)
    assert not list(world.store.glob("shards/*"))
    store(world, ZARR)
    assert world.prepare().stored == 5
    verifies(world, full=False)


def test_only_the_named_dates_change_and_the_others_are_read_as_they_are(make: Any) -> None:
    world = make(ZARR)
    store(world, PARQUET)
    world.prepare(dates=frozenset([FIRST]))
    found = formats_of(world)
    assert found.pop(str(FIRST)) == PARQUET
    assert set(map(tuple, found.values())) == {tuple(ZARR)}
    verifies(world)
    dataset = world.open()
    assert all(dataset.map(day.date) is not None for day in dataset.days)


def test_plan_and_status_say_what_formats_are_missing_and_that_all_is_fresh(
    make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    world = make(ZARR)
    store(world, BOTH)
    made, _, _ = look(world.settings.preparing(), world.store, Wish())
    assert {(p.state, p.reason) for p in made.dates} == {("fresh", "to be written as parquet")}
    config = str(world.config_file())
    assert run(["status", "-c", config]) == 0
    assert run(["plan", "-c", config]) == 0
    assert "0 dates to measure, 0 to normalise, 5 to store in other formats." in capsys.readouterr().out
    assert run(["preprocess", "-c", config, "--workers", "1"]) == 0
    assert "5 dates stored in other formats, 0 shards written" in capsys.readouterr().out
    assert run(["preprocess", "-c", config, "--workers", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stored"] == 0


def test_what_a_damaged_shard_cannot_give_comes_from_the_measured_array(make: Any) -> None:
    world = make(ZARR)
    names = ids(world)
    damage(world.store / "shards" / str(FIRST) / names[0] / "values" / "0.0.0")
    store(world, BOTH)
    done = world.prepare()
    assert (done.stored, done.written, done.measured, done.failed) == (4, 1, 0, {})
    verifies(world)
    assert ids(world)[1:] == names[1:]


@pytest.mark.parametrize("formats", [PARQUET, BOTH])
def test_a_damaged_parquet_file_is_named_by_verify_and_mended_by_what_it_prints(
    make: Any, formats: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    world = make(formats)
    names, path = ids(world), parquet_file(world)
    damage(path)
    config = str(world.config_file())
    assert run(["verify", "-c", config]) == 4
    told = capsys.readouterr().out
    assert str(path.relative_to(world.folder)) in told
    match = re.search(r"dateshard (preprocess \S+ --force)", told)
    assert match
    assert run([*match[1].split(), "-c", config, "--workers", "1"]) == 0
    assert run(["verify", "--full", "-c", config]) == 0
    assert parquet_file(world).parent.name == f"{path.parent.name}-2"
    assert ids(world) == names
    assert world.prepare().generation == 2  # and it stays so


def test_a_missing_parquet_file_is_written_again_under_its_name(make: Any) -> None:
    world = make(PARQUET)
    path = parquet_file(world)
    shutil.rmtree(path.parent)
    (name, error), *more = [(name, error) for name, error in world.open().verify() if error]
    assert (name, more) == (str(FIRST), [])
    assert "cannot be read" in str(error)
    world.prepare(dates=frozenset([FIRST]), force=True)
    assert path.exists()
    verifies(world)


def test_dropping_a_format_looks_first_whether_what_stays_is_whole(make: Any) -> None:
    world = make(BOTH)
    damage(parquet_file(world))
    store(world, PARQUET)
    done = world.prepare()
    assert (done.stored, done.written, done.measured) == (4, 1, 0)
    verifies(world)


def test_full_verify_finds_a_file_whose_arrays_are_not_the_committed_ones(make: Any) -> None:
    """Another date's good file, with the manifest's hash changed to its own: only the arrays tell."""
    from dataclasses import replace

    from dateshard.shardstore.dataset import Dataset

    world = make(PARQUET)
    dataset = world.open()
    entries = dict(dataset.manifest.dates)
    (part,) = entries[FIRST].parts
    other = parquet_file(world, LAST).read_bytes()
    path = parquet_file(world)
    path.chmod(0o644)
    path.write_bytes(other)
    stored = entries[LAST].parts[0].formats["parquet"]._replace(folder=path.parent.name)
    entries[FIRST] = entries[FIRST]._replace(parts=(part._replace(formats={"parquet": stored}),))
    crafted = Dataset(world.store, dataset.generation, replace(dataset.manifest, dates=entries))
    assert [str(error) for _, error in crafted.verify([FIRST]) if error] == []
    (error,) = [str(error) for _, error in crafted.verify([FIRST], full=True) if error]
    assert "its arrays are not those that were committed" in error
    with pytest.raises(Exception, match="its arrays are not those"):
        crafted.map(FIRST)


def test_clean_keeps_what_a_kept_generation_names_and_removes_the_rest(make: Any) -> None:
    world = make(PARQUET)
    for day in world.open().days:
        world.open().map(day.date)
    world.rows[FIRST] = world.rows[FIRST][:-3]
    world.write(FIRST)
    world.prepare()
    world.open().map(FIRST)
    assert clean(world.settings.preparing(), world.store, 3, dry_run=True).sizes == {"generations": (0, 0)}
    found = clean(world.settings.preparing(), world.store, 1, dry_run=False)
    assert {kind: count for kind, (count, _) in found.sizes.items()} == {
        "generations": 1, "parquet": 1, "cache": 1, "staged": 1, "partials": 1,
    }  # fmt: skip
    assert len(list(world.store.glob("cache/*/*"))) == len(list(world.store.glob("parquet/*/*"))) == 5
    verifies(world)


def test_a_generation_that_is_cleaned_away_while_it_is_open_is_gone_and_not_damaged(make: Any) -> None:
    world = make(PARQUET)
    dataset = world.open()
    world.rows[FIRST] = world.rows[FIRST][:-3]
    world.write(FIRST)
    world.prepare()
    clean(world.settings.preparing(), world.store, 1, dry_run=False)
    for read in (dataset.arrays, dataset.map):
        with pytest.raises(NotThereError, match="generation 1 was cleaned away"):
            read(FIRST)


def test_clean_removes_a_cache_that_zarr_made_needless_and_what_killed_builders_left(make: Any) -> None:
    world = make(PARQUET)
    world.open().map(FIRST)
    (world.store / "cache" / str(LAST) / "tmp-dead").mkdir(parents=True)
    store(world, BOTH)
    world.prepare()
    assert clean(world.settings.preparing(), world.store, 1, dry_run=False).sizes["cache"][0] == 2
    assert not list((world.store / "cache").iterdir())


@pytest.mark.parametrize("name", ["time", "node", "speed_observed"])
def test_a_feature_with_the_name_of_another_column_is_refused_for_parquet_alone(make_world: Any, name: str) -> None:
    world = make_world(2)
    world.tree["pipeline"]["features"][name] = {"column": "vehicles"}
    validate(world.tree)
    store(world, BOTH)
    with pytest.raises(UsageError, match=f"feature '{name}' has the name of a column that parquet needs"):
        validate(world.tree)


@pytest.mark.parametrize("formats", [[], ["zarr", "zarr"], ["csv"]])
def test_other_lists_of_formats_are_refused(make_world: Any, formats: list[str]) -> None:
    world = make_world(1)
    store(world, formats)
    with pytest.raises(UsageError, match=r"store\.formats"):
        validate(world.tree)


def kill_while_storing(
    make: Any, launch: Any, committed: Any, formats: list[str], seed: int, workers: int
) -> tuple[Any, Any]:
    """Killed at random moments: the old generation or the new one. Returns what it ends in, undisturbed and after that."""
    chance = random.Random(seed)
    print(f"replay with seed {seed}")
    world = make(ZARR)
    old = committed(world)
    away = world.folder / "away"
    shutil.copytree(world.store, away)
    store(world, formats)
    world.prepare()
    new = committed(world)
    shutil.rmtree(world.store)
    away.rename(world.store)
    world.config_file()
    for _ in range(3):
        before, target = paths_in(world.store), chance.randint(1, 25)
        process = launch("preprocess", "-c", "config.yaml", "--workers", str(workers))
        process.until(lambda b=before, t=target: paths_in(world.store) >= b + t)
        process.kill()
        assert committed(world) in (old, new)
    launch("preprocess", "-c", "config.yaml", "--workers", str(workers)).wait()
    verifies(world)
    return new, committed(world)


def test_a_store_killed_while_it_gains_parquet_is_the_old_or_the_new_one(
    make: Any, launch: Any, committed: Any
) -> None:
    undisturbed, ended = kill_while_storing(make, launch, committed, BOTH, 1, 1)
    assert ended == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("formats", [BOTH, PARQUET])
def test_a_store_killed_again_and_again_while_formats_change(
    make: Any, launch: Any, committed: Any, formats: list[str], seed: int
) -> None:
    undisturbed, ended = kill_while_storing(make, launch, committed, formats, seed, 1 + seed % 2)
    assert ended == undisturbed


def wanted(world: Any, date: dt.date = FIRST) -> dict[str, np.ndarray]:
    """Columns as the shard says, row by row."""
    arrays = world.open().arrays(date)
    steps, nodes, _ = arrays["values"].shape
    found = {"time": np.repeat(arrays["time"], nodes), "node": np.tile(np.array(["n0", "n1", "n2"]), steps)}
    for index, name in enumerate(["speed", "volume"]):
        found |= {
            name: arrays["values"][..., index].ravel(),
            f"{name}_observed": arrays["observed"][..., index].ravel(),
        }
    return found


def test_polars_reads_one_date_and_all_of_them(make: Any) -> None:
    world = make(BOTH, missing=0.4)
    frame, expected = pl.read_parquet(parquet_file(world)), wanted(world)
    assert frame.columns == ["time", "node", "speed", "volume", "speed_observed", "volume_observed"]
    assert frame.schema["time"] == pl.Datetime("ns", "UTC")
    assert frame.schema["speed"] == pl.Float32
    assert frame["time"].to_physical().to_list() == expected["time"].tolist()
    assert frame["node"].cast(pl.String).to_list() == expected["node"].tolist()
    for name in ("speed", "volume", "speed_observed", "volume_observed"):
        assert frame[name].null_count() == 0
        assert frame[name].to_numpy().tobytes() == expected[name].tobytes()
    whole = pl.scan_parquet([parquet_file(world, day.date) for day in world.open().days])
    assert whole.select(pl.len()).collect().item() == 5 * 24 * 3


def test_pandas_reads_it(make: Any) -> None:
    import pandas

    world = make(PARQUET, missing=0.4)
    frame, expected = pandas.read_parquet(parquet_file(world)), wanted(world)
    assert str(frame["time"].dtype) == "datetime64[ns, UTC]"
    assert frame["time"].astype("int64").tolist() == expected["time"].tolist()
    assert frame["node"].astype(str).tolist() == expected["node"].tolist()
    for name in ("speed", "volume", "speed_observed", "volume_observed"):
        assert frame[name].to_numpy().tobytes() == expected[name].tobytes()


def test_duckdb_reads_it(make: Any) -> None:
    import duckdb

    world = make(PARQUET, missing=0.4)
    expected = wanted(world)
    found = duckdb.sql(f"select * from '{parquet_file(world)}'").fetchnumpy()
    assert [str(node) for node in found["node"]] == expected["node"].tolist()
    for name in ("speed", "volume", "speed_observed", "volume_observed"):
        assert np.asarray(found[name]).tobytes() == expected[name].tobytes()


def test_the_file_alone_leads_back_to_raw_units(make: Any) -> None:
    """From its own metadata: log1p, a scale per node, and what the file says of itself."""
    world = make(ZARR, missing=0.4)
    world.tree["pipeline"]["features"] |= {
        "volume": {"column": "vehicles", "aggregate": "sum", "transform": "log1p"},
        "speed": {"aggregate": "mean", "fill": "forward", "scale_per": "node"},
    }
    store(world, PARQUET)
    world.prepare()
    file, dataset = parquet_file(world), world.open()
    table = pq.read_table(file)
    said = json.loads(table.schema.metadata[b"dateshard"])
    about = {"dataset": "world", "date": str(FIRST), "timezone": "UTC", "step": 3600 * 10**9, "shape": [24, 3, 2]}
    assert said | about == said
    assert said["statistics"] == dataset.manifest.statistics
    assert said["nodes"] == dataset.manifest.nodes
    arrays, frame = dataset.arrays(FIRST), pl.read_parquet(file)
    expected = dataset.scale.undo(arrays["values"])
    for index, feature in enumerate(said["features"]):
        numbers = [np.asarray(feature[key]) for key in ("pivot", "delta", "spread")]
        pivot, delta, spread = (np.tile(x, 24) if x.shape else x for x in numbers)
        raw = (frame[feature["name"]].to_numpy().astype(float) * spread + delta) + pivot
        raw = np.expm1(raw) if feature["transform"] == "log1p" else raw
        there = expected[..., index].ravel()
        assert raw.tolist() == (np.expm1(there) if feature["name"] == "volume" else there).tolist()
