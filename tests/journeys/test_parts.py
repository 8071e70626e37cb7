"""Dates that lie in parts, each with some of the nodes: whatever reads them sees what a store in one part holds."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dateshard.pipeline import arrays
from dateshard.pipeline.memory_shares import shares
from dateshard.pipeline.raw import divided_records, spill
from dateshard.shardstore.errors import DamagedError
from dateshard.shardstore.identity import seal
from dateshard.shardstore.manifest import load_manifest
from tests.conftest import World
from tests.kit.states import content, differing

DATES = [dt.date(2024, 3, 29) + dt.timedelta(days=k) for k in range(7)]
NAMES = ("a", "b2", "c", "B", "d é", "10", "9")
LATE = {DATES[5]: ("zz",), DATES[6]: ("0", "zz", "y")}  # behind the frozen list, as they come
FEATURES: dict[str, Any] = {
    "load": {"scale_per": "node", "fill": "forward", "fill_limit": 2},
    "bytes": {"transform": "log1p", "scale": "robust", "scale_per": "node", "fill": "mean"},
    "kind": {"categorical": True},
    "meter": {"aggregate": "difference", "scale": "minmax"},
    "rows": {"aggregate": "count", "fill": "zero"},
}


def world_of(folder: Path, nodes_per_part: int | None = None, **store: Any) -> World:
    """Seven dates; one node is silent on some, one date misses most nodes."""
    folder.mkdir(exist_ok=True)
    divided = {} if nodes_per_part is None else {"nodes_per_part": nodes_per_part}
    tree = {
        "dataset": "world",
        "pipeline": {
            "source": {"path": str(folder / "raw" / "{date}.csv"), "time": "time", "node": "node"},
            "nodes": {"unknown": "keep"},
            "step": "1h",
            "features": {**FEATURES},
            "calendar": {"country": "US"},
            "split": {"train": f"{DATES[0]}..{DATES[3]}", "validation": str(DATES[4]), "test": f"{DATES[5]}.."},
            "store": {**store, **divided},
        },
        "trainer": {
            "window": {"history": 6, "horizon": 2},
            "targets": ["load"],
            "model": {"name": "mlp", "hidden_units": [8], "dropout_rate": 0.1},
            "training": {"epochs": 2, "batch_size": 8, "seed": 3},
        },
    }
    world = World(folder, tree)
    for date in DATES:
        dump(world, date)
    return world


def dump(world: World, date: dt.date, seed: int = 0) -> None:
    random = np.random.default_rng([date.toordinal(), seed])
    names = (*(NAMES[:2] if date == DATES[2] else NAMES[date == DATES[1] :]), *LATE.get(date, ()))
    lines = ["time,node,load,bytes,kind,meter"]
    for hour in range(24):
        for place, name in enumerate(random.permutation(names)):
            if random.random() < 0.15:
                continue
            load = "" if random.random() < 0.1 else f"{5 * place + random.normal():.3f}"
            kind = "" if random.random() < 0.2 else f"kind {random.integers(2 + place)}"
            row = (load, str(int(10 ** random.uniform(0, 6))), kind, f"{hour * 3.1 + random.random():.2f}")
            lines.append(f"{date}T{hour:02}:{random.integers(60):02},{name},{','.join(row)}")
    world.dump(date).parent.mkdir(parents=True, exist_ok=True)
    world.dump(date).write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = world_of(tmp_path_factory.mktemp("plain"))
    assert not world.prepare().failed
    return world


def same_cells(one: World, other: World) -> None:
    """All that a reader may ask of two stores is equal, bit for bit."""
    ours, theirs = one.open(), other.open()
    assert ours.manifest.frozen == theirs.manifest.frozen
    assert ours.manifest.normalise == theirs.manifest.normalise
    for day in theirs.days:
        for mine, wanted in zip(ours.read_day(day), theirs.read_day(day), strict=True):
            assert mine.tobytes() == wanted.tobytes()
        for name in ("values", "observed"):
            mapped, wanted_map = ours.map(day.date, name), theirs.map(day.date, name)
            assert np.asarray(mapped).tobytes() == np.asarray(wanted_map).tobytes()
        there, here = theirs.arrays(day.date), ours.arrays(day.date)
        assert {name: array.tobytes() for name, array in here.items()} == {n: a.tobytes() for n, a in there.items()}
    assert [(name, str(error)) for name, error in ours.verify(full=True) if error] == []


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
def test_a_store_in_parts_holds_the_statistics_and_cells_of_one_in_whole_dates(
    tmp_path: Path, plain: World, count: int
) -> None:
    world = world_of(tmp_path / "parts", count)
    done, whole = world.prepare(), plain.open()
    assert not done.failed
    same_cells(world, plain)
    for date, entry in world.open().manifest.dates.items():
        width = whole.manifest.dates[date].num_nodes
        assert [shard.nodes for shard in entry.parts] == [(k, min(k + count, width)) for k in range(0, width, count)]
    if count >= 10:
        assert world.open().manifest.dates == whole.manifest.dates


def test_a_part_of_one_column_is_summed_as_among_others(tmp_path: Path) -> None:
    worlds = world_of(tmp_path / "whole"), world_of(tmp_path / "parts", 1)
    for world in worlds:
        world.tree["pipeline"]["features"] = {"load": {"scale_per": "node"}}
        del world.tree["pipeline"]["calendar"]
        assert not world.prepare().failed
    same_cells(worlds[1], worlds[0])
    for partial in (worlds[1].store / "partials").rglob("values.f64"):
        partial.unlink()
    refitted = worlds[1].prepare(refit=True)  # taken again from what is staged
    assert refitted.manifest is not None
    assert refitted.manifest.statistics == worlds[0].open().manifest.statistics


def test_two_workers_publish_what_one_does(tmp_path: Path) -> None:
    """Also parts of equal content, which two may publish at the same moment: all nodes but two are silent on one date."""
    worlds = [world_of(tmp_path / name, 1) for name in ("alone", "together")]
    for workers, world in enumerate(worlds, start=1):
        world.tree["pipeline"]["features"] = {"load": {}, "rows": FEATURES["rows"]}
        assert not world.prepare(num_workers=workers).failed
    stores = [content(world.open()) for world in worlds]
    assert [name for name in differing(*stores) if not name.endswith(".sources.json")] == []  # dumps lie apart
    ids = [shard.id for shard in worlds[0].open().manifest.dates[DATES[2]].parts]
    assert len(ids) > len(set(ids))


def test_training_predicting_and_exporting_from_parts_give_the_bytes_of_whole_dates(tmp_path: Path) -> None:
    worlds = world_of(tmp_path / "whole"), world_of(tmp_path / "parts", 2)
    told = []
    for world in worlds:
        world.tree["pipeline"]["source"]["path"] = "raw/{date}.csv"
        config = ("-c", str(world.config_file()))
        world.run("preprocess", *config)
        for policy in ("blocks", "mapped"):
            world.run("train", *config, "--run", policy, "--policy", policy)
        world.run("export", "train", "test", *config, "--to", "parquet", "--out", "out")
        evaluated = world.run("evaluate", "mapped", "--baselines", "repeat,ridge", "--json").stdout
        predicted = world.run("predict", "blocks", "--json").stdout
        world.run("report", "mapped")
        exported = {path.name: path.read_bytes() for path in (world.folder / "out").iterdir()}
        told.append((json.loads(evaluated)["rows"], json.loads(predicted)["forecasts"], exported))
    assert told[0] == told[1]
    runs = [world.folder / "data" / "runs" / name for world in worlds for name in ("blocks", "mapped")]
    files = [sorted((run / "checkpoints").rglob("*.safetensors")) for run in runs]
    assert files[0]
    for ours in zip(*files, strict=True):
        first, *others = (load_file(file) for file in ours)
        assert all(torch.equal(first[name], other[name]) for other in others for name in first)


def test_a_store_is_divided_and_joined_again_without_a_dump(tmp_path: Path, plain: World) -> None:
    world = world_of(tmp_path / "world", formats=["zarr", "parquet"])
    world.tree["pipeline"]["source"]["path"] = "raw/{date}.csv"
    world.run("preprocess", "-c", str(world.config_file()))
    before = world.open().manifest.dates
    (tmp_path / "world" / "raw").rename(tmp_path / "elsewhere")
    for count, formats in (
        (2, ["zarr", "parquet"]),
        (3, ["parquet"]),
        (5, ["zarr", "parquet"]),
        (None, ["zarr", "parquet"]),
    ):
        world.tree["pipeline"]["store"] = {"formats": formats} | ({} if count is None else {"nodes_per_part": count})
        config = ("-c", str(world.config_file()))
        assert "Run: dateshard preprocess" in world.run("plan", *config).stdout
        world.run("preprocess", *config)
        same_cells(world, plain)
        assert "nothing to do" in world.run("preprocess", *config).stdout
    assert world.open().manifest.dates == before


def test_a_damaged_part_is_named_and_mended_and_the_others_stay(tmp_path: Path) -> None:
    world = world_of(tmp_path / "world", 3)
    assert not world.prepare().failed
    parts = world.open().manifest.dates[DATES[0]].parts
    chunk = world.store / "shards" / str(DATES[0]) / parts[1].id / "values" / "0.0.0"
    chunk.chmod(0o644)
    chunk.write_bytes(b"\x01" + chunk.read_bytes()[1:])
    with pytest.raises(DamagedError, match=parts[1].id):
        world.open().read_day(world.open().days[0])
    assert not world.prepare(dates=frozenset(DATES[:1]), force=True).failed
    assert [error for _, error in world.open().verify() if error] == []
    mended = world.open().manifest.dates[DATES[0]].parts
    assert [shard.id for shard in mended] == [parts[0].id, f"{parts[1].id}-2", parts[2].id]


def test_a_rerun_and_dates_that_come_later_are_as_in_a_store_of_whole_dates(tmp_path: Path) -> None:
    worlds = world_of(tmp_path / "whole"), world_of(tmp_path / "parts", 2)
    late = DATES[-1] + dt.timedelta(days=1)
    for world in worlds:
        assert not world.prepare().failed
        dump(world, DATES[1], seed=5)
        dump(world, late)
        assert not world.prepare().failed
    same_cells(worlds[1], worlds[0])
    for world in worlds:
        world.tree["pipeline"]["features"]["load"]["transform"] = "log1p"
        world.tree["pipeline"]["features"]["load"]["range"] = [0, None]
        world.tree["pipeline"]["features"]["load"]["outside"] = "null"
        assert not world.prepare().failed
        world.tree["pipeline"]["features"]["meter"]["transform"] = "none"
        world.tree["pipeline"]["features"]["rows"]["transform"] = "log1p"  # partial statistics of staged arrays
        assert not world.prepare(refit=True).failed
    same_cells(worlds[1], worlds[0])


def test_parts_whose_records_are_spilled_have_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "record_budget", lambda *_: 2000)
    monkeypatch.setattr(divided_records, "READING_BYTES", 1 << 30)
    monkeypatch.setattr(spill, "READING_BYTES", 1 << 30)
    spilled = world_of(tmp_path / "spilled", 2)
    assert not spilled.prepare().failed
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    held = world_of(tmp_path / "held", 2)
    assert not held.prepare().failed
    staged = [
        {str(path.relative_to(world.store)): path.read_bytes() for path in (world.store / "staged").rglob("*.f64")}
        for world in (spilled, held)
    ]
    assert staged[0] == staged[1]
    assert any(name.endswith("values-00001.f64") for name in staged[0])
    same_cells(spilled, held)


def test_one_date_in_parts_has_more_than_one_worker(tmp_path: Path) -> None:
    whole, parts = (world_of(tmp_path / str(count), count).settings.preparing() for count in (None, 2))
    for num_nodes, wanted in ((0, (1, 8)), (5, (1, 3))):  # not known yet; of a node table
        found = [shares(DATES[:1], DATES[:1], config, 8, 8 << 30, num_nodes)[0] for config in (whole, parts)]
        assert tuple(found) == wanted


def test_only_a_grid_has_nodes_to_be_divided(tmp_path: Path) -> None:
    world = world_of(tmp_path / "world", 2)
    for key in ("step", "nodes", "calendar"):
        del world.tree["pipeline"][key]
    del world.tree["pipeline"]["source"]["node"]
    world.tree["pipeline"]["features"] = {"load": {}}
    world.tree["pipeline"] |= {"layout": "events"}
    refused = world.run("plan", "-c", str(world.config_file()), code=2)
    assert "only layout grid has nodes" in refused.stderr


def test_a_manifest_whose_parts_leave_out_a_node_is_refused(tmp_path: Path) -> None:
    world = world_of(tmp_path / "world", 3)
    assert not world.prepare().failed
    path = world.store / "manifests" / "g00000001.json"
    told = world.open().manifest.to_json()
    told["dates"][str(DATES[0])]["parts"][1]["nodes"] = [4, 7]
    path.chmod(0o644)
    path.write_bytes(seal(told))
    with pytest.raises(DamagedError):
        load_manifest(world.store, 1)
