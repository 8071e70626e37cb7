"""Nodes that training never saw, kept: behind the frozen list, scaled like all nodes together, forecast from their first day."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.conftest import World

DATES = [dt.date(2024, 3, 1) + dt.timedelta(days=k) for k in range(8)]
SPLIT = {"train": f"{DATES[0]}..{DATES[3]}", "validation": str(DATES[4]), "test": f"{DATES[5]}.."}
OLD = ("a", "b", "c")
NEW = {DATES[4]: ("z",), DATES[6]: ("k", "z"), DATES[7]: ("k",)}  # k comes last, and stands before a by name


def world_of(folder: Path, dates: list[dt.date] = DATES, **nodes: Any) -> World:
    tree = {
        "dataset": "world",
        "pipeline": {
            "source": {"path": str(folder / "raw" / "{date}.csv"), "time": "time", "node": "node"},
            "nodes": {"unknown": "keep", **nodes},
            "step": "1h",
            "features": {"load": {"scale_per": "node"}, "rows": {"aggregate": "count", "fill": "zero"}},
            "split": SPLIT,
        },
        "trainer": {
            "window": {"history": 6, "horizon": 2},
            "targets": ["load"],
            "model": {"name": "mlp", "hidden_units": [8], "dropout_rate": 0.0},
            "training": {"epochs": 2, "batch_size": 8, "seed": 3},
        },
    }
    folder.mkdir(exist_ok=True)
    world = World(folder, tree)
    for date in dates:
        dump(world, date)
    return world


def dump(world: World, date: dt.date) -> None:
    random = np.random.default_rng(date.toordinal())
    lines = ["time,node,load"]
    names = (*OLD, *NEW.get(date, ()))
    lines += [f"{date}T{hour:02}:00,{node},{5 + random.normal():.3f}" for hour in range(24) for node in names]
    world.dump(date).parent.mkdir(parents=True, exist_ok=True)
    world.dump(date).write_text("\n".join(lines) + "\n")


def shards_of(world: World) -> dict[str, bytes]:
    files = (path for path in (world.store / "shards").rglob("*") if path.is_file())
    return {str(path.relative_to(world.store)): path.read_bytes() for path in files}


def test_new_nodes_stand_behind_the_frozen_list_and_older_shards_keep_their_bytes(tmp_path: Path) -> None:
    plain = world_of(tmp_path / "plain")
    del plain.tree["pipeline"]["nodes"]
    whole, daily = world_of(tmp_path / "whole"), world_of(tmp_path / "daily", DATES[:5])
    for world in (plain, whole, daily):
        assert not world.prepare().failed
    for date in DATES[5:]:
        before = shards_of(daily)
        dump(daily, date)
        assert not daily.prepare().failed
        assert before.items() <= shards_of(daily).items()
    assert shards_of(daily) == shards_of(whole)  # however the dates came
    dataset = daily.open()
    assert dataset.nodes.names == ("a", "b", "c", "z", "k")
    assert dataset.manifest.num_new_nodes == 2
    widths = [entry.parts[0].nodes[1] for entry in dataset.manifest.dates.values()]
    assert widths == [3, 3, 3, 3, 4, 3, 5, 5]
    same = {
        name: data for name, data in shards_of(plain).items() if name.split("/")[1] in map(str, (*DATES[:4], DATES[5]))
    }
    assert same.items() <= shards_of(daily).items()
    assert daily.open().manifest.to_json()["dates"] == whole.open().manifest.to_json()["dates"]


def test_a_date_is_read_on_all_nodes_as_if_they_had_always_been_there(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    assert not world.prepare().failed
    dataset = world.open()
    values, observed = dataset.read_day(dataset.days[0])
    assert values.shape == (24, 5, 2)
    assert observed[:, :3].all()
    assert not observed[:, 3:].any()
    scale = dataset.scale
    np.testing.assert_array_equal(scale.pivot_NF[3], scale.pivot_NF[4])
    pooled = dataset.statistics.over_nodes[1, 0] + dataset.statistics.over_nodes[2, 0]
    assert (scale.pivot_NF + scale.delta_NF)[3, 0] == pytest.approx(pooled)
    zero = np.float32(scale.apply(np.zeros((24, 5, 2))))
    np.testing.assert_array_equal(values[:, 3:, 1], zero[:, 3:, 1])
    np.testing.assert_array_equal(np.asarray(dataset.map(DATES[0])), values)
    np.testing.assert_array_equal(dataset.arrays(DATES[0])["values"], values)
    late, seen = dataset.read_day(dataset.days[6])
    assert seen[:, 3:, 0].all()
    raw = dataset.scale.undo(late)[0, 4, 0]
    line = world.dump(DATES[6]).read_text().splitlines()[4]
    assert raw == pytest.approx(float(line.rpartition(",")[2]), rel=1e-6)
    assert [(name, str(error)) for name, error in dataset.verify(full=True) if error] == []


def test_keeping_and_dropping_are_a_setting_that_plan_tells(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    config = str(world.config_file())
    world.run("preprocess", "-c", config)
    before = shards_of(world)
    world.tree["pipeline"]["nodes"] = None
    world.config_file()
    assert "nodes.unknown changed" in world.run("plan", "-c", config).stdout
    world.run("preprocess", "-c", config)
    assert world.open().nodes.names == OLD
    world.tree["pipeline"]["nodes"] = {"unknown": "keep"}
    world.config_file()
    world.run("preprocess", "-c", config)
    assert before.items() <= shards_of(world).items()
    assert world.open().nodes.names == (*OLD, "z", "k")
    assert "nothing to do" in world.run("preprocess", "-c", config).stdout


def test_a_table_describes_new_nodes_too(tmp_path: Path) -> None:
    (tmp_path / "nodes.csv").write_text("id,lat,size\na,1,10\nb,2,20\nz,3,99\n")
    table = {"table": str(tmp_path / "nodes.csv"), "id": "id", "position": ["lat"], "static": ["size"]}
    (tmp_path / "edges.csv").write_text("from,to\na,z\na,q\n")
    world = world_of(tmp_path, **table, edges=str(tmp_path / "edges.csv"))
    assert not world.prepare().failed
    dataset = world.open()
    np.testing.assert_array_equal(dataset.nodes.positions_NP.ravel(), [1, 2, np.nan, 3, np.nan])
    size = dataset.static["size"]
    np.testing.assert_allclose(size.values_N, [-1, 1, 0, (99 - 15) / 5, 0])  # scaled by a and b alone
    assert not size.complete
    assert dataset.edges.index_2E.tolist() == [[0], [3]]  # q has not come yet


@pytest.mark.parametrize("formats", [["parquet"], ["zarr", "parquet"]])
def test_in_other_formats_too(tmp_path: Path, formats: list[str]) -> None:
    world, zarr = world_of(tmp_path / "a"), world_of(tmp_path / "b")
    world.tree["pipeline"]["store"] = {"formats": formats}
    for each in (world, zarr):
        assert not each.prepare().failed
    for day in zarr.open().days:
        for ours, theirs in zip(world.open().read_day(day), zarr.open().read_day(day), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    zarr.tree["pipeline"]["store"] = {"formats": formats}
    assert not zarr.prepare().failed  # the shards stay, only the formats change
    assert zarr.open().manifest.to_json()["dates"] == world.open().manifest.to_json()["dates"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A run on a dataset with new nodes on validation and test dates."""
    world = world_of(tmp_path_factory.mktemp("unseen") / "world")
    world.tree["trainer"]["checkpoint"] = {"save_freq": 5}
    config = str(world.config_file())
    made = world.run("preprocess", "-c", config)
    assert "2 of 5 nodes are unseen by training" in made.stdout + made.stderr
    world.run("train", "-c", config, "--run", "r")
    return world


def test_they_are_counted_and_scored_apart(trained: World) -> None:
    done = trained.run("evaluate", "r", "--baselines", "repeat")
    assert "test: 2 nodes unseen by training, which the rows above leave out" in done.stdout
    document = json.loads(trained.run("evaluate", "r", "--baselines", "repeat", "--json").stdout)
    windows, unseen = document["windows"], document["unseen"]
    assert unseen["nodes"] == 2
    tables = {"all": document, "new": unseen}
    counts = {(kind, row["name"]): row["scaled"]["count"] for kind, table in tables.items() for row in table["rows"]}
    assert {counts["all", "mlp"], counts["all", "repeat"]} == {windows * 2 * len(OLD)}
    assert (
        0 < counts["new", "mlp"] < windows * 2 * 2
    )  # z has no record on one date, k on one, and neither has on a third
    for words in (
        ("plan", "-c", "config.yaml"),
        ("status", "-c", "config.yaml"),
        ("inspect", "test", "-c", "config.yaml"),
    ):
        shown = trained.run(*words)
        assert "unseen by training" in shown.stdout + shown.stderr, words


def test_the_embedding_of_an_unknown_node_is_trained_and_a_training_is_continued_to_the_same_bits(
    trained: World,
) -> None:
    checkpoints = trained.folder / "data/runs/r/checkpoints"
    first, last = (
        checkpoints / f"checkpoint_epoch_{name}" / "model.safetensors" for name in ("1_batch_5", "2_batch_12")
    )
    whole = last.read_bytes()
    tables = [load_file(path)["node.weight"] for path in (first, last)]
    assert tables[0].shape == (4, 8)
    assert (tables[0][3] != tables[1][3]).all()
    trained.run("train", "--resume", str(first.parent))
    assert last.read_bytes() == whole


def test_predict_forecasts_a_node_from_its_first_day(trained: World) -> None:
    """Of dumps, and of dates that were prepared after the training; the nodes of training are forecast as before."""
    late = DATES[7] + dt.timedelta(days=1)
    words = ("predict", "r", "--interval", "0.5", "--json")
    before = json.loads(trained.run(*words, "--history", str(trained.dump(DATES[7])), "--until", str(DATES[7])).stdout)
    NEW[late] = ("k", "q")
    dump(trained, late)
    del NEW[late]
    of_dump = json.loads(trained.run(*words, "--history", str(trained.dump(late)), "--until", str(late)).stdout)
    steps = {row["node"]: row for row in of_dump["forecasts"] if row["horizon"] == 1}
    assert list(steps) == ["a", "b", "c", "z", "k", "q"]
    assert list({row["node"]: 0 for row in before["forecasts"]}) == ["a", "b", "c", "z", "k"]
    note = "3 nodes unseen by training, forecast as an unknown node: z, k, q"
    assert any(note in said for said in of_dump["notes"])
    without_interval = [name for name, row in steps.items() if row["low"] is None]
    assert without_interval == ["z", "q"]  # z is silent, q came after the run's generation
    trained.run("preprocess", "-c", "config.yaml")
    assert trained.open().nodes.names[-1] == "q"
    of_shards = json.loads(trained.run(*words).stdout)
    assert of_shards["forecasts"] == of_dump["forecasts"]
    trained.run("evaluate", "r", "--baselines", "repeat")  # on the generation of the run


def test_without_the_setting_a_new_node_is_left_out_as_ever(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    del world.tree["pipeline"]["nodes"]
    config = str(world.config_file())
    done = world.run("preprocess", "-c", config)
    assert "unknown nodes are left out" in done.stdout + done.stderr
    assert (
        set(world.open().manifest.to_json()) & {"keeps_unknown", "new_nodes", "num_new_nodes", "static", "edges"}
        == set()
    )


def test_a_damaged_list_of_new_nodes_is_made_again_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    world = world_of(tmp_path / "late", DATES[:5])
    assert not world.prepare().failed
    for date in (DATES[6], DATES[7], DATES[5]):
        dump(world, date)
        if date == DATES[5]:
            path = world.dump(date)
            path.write_text(path.read_text() + f"{date}T03:00,a late one,5\n")
        assert not world.prepare().failed
    names, shards = world.open().nodes.names, shards_of(world)
    assert names == ("a", "b", "c", "z", "k", "a late one")
    [file] = [path for path in (world.store / "new_nodes").rglob("nodes.json") if b"late" in path.read_bytes()]
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-9])
    config = ("-c", str(world.config_file()))
    refused = world.run("preprocess", *config, code=4)
    assert "preprocess --refit-statistics" in refused.stderr
    world.run("preprocess", "--refit-statistics", *config)
    assert "0 damaged" in world.run("verify", "--full", *config).stdout
    assert (world.open().nodes.names, shards_of(world)) == (names, shards)
