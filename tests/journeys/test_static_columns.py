"""Static columns of the node table: frozen beside the nodes, scaled over the nodes of training, and given to models."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import UsageError
from dateshard.trainer.setup import make_session
from tests.conftest import World

DATES = [dt.date(2024, 3, 1) + dt.timedelta(days=k) for k in range(6)]
NODES = [f"n{k}" for k in range(6)]
SPLIT = {"train": f"{DATES[0]}..{DATES[3]}", "validation": str(DATES[4]), "test": str(DATES[5])}
TABLE = {  # capacity and kind alone decide what a node shows on the hour; n6 has no record
    "n0": ("1", "a"),
    "n1": ("2", "b"),
    "n2": ("3", "a"),
    "n3": ("4", "b"),
    "n4": ("5", "a"),
    "n5": ("", ""),
    "n6": ("900", "z"),
}
STATIC = ["capacity", "kind"]


def world_of(folder: Path, static: list[str] | None = None, **trainer: Any) -> World:
    nodes = {"table": str(folder / "nodes.csv"), "id": "id", **({"static": static} if static else {})}
    tree = {
        "dataset": "world",
        "pipeline": {
            "source": {"path": str(folder / "raw" / "{date}.csv"), "time": "time", "node": "node"},
            "nodes": nodes,
            "step": "1h",
            "features": {"load": {}},
            "split": SPLIT,
        },
        "trainer": {
            "window": {"history": 6, "horizon": 2},
            "model": {"name": "mlp", "hidden_units": [8], "dropout_rate": 0.1},
            "training": {"epochs": 2, "batch_size": 8, "seed": 3},
            **trainer,
        },
    }
    world = World(folder, tree)
    folder.mkdir(exist_ok=True)
    write_table(world, TABLE)
    for date in DATES:
        dump(world, date)
    return world


def write_table(world: World, rows: dict[str, tuple[str, str]]) -> None:
    lines = ["id,capacity,kind", *(f"{name},{','.join(cells)}" for name, cells in rows.items())]
    (world.folder / "nodes.csv").write_text("\n".join(lines) + "\n")


def dump(world: World, date: dt.date) -> None:
    random = np.random.default_rng(date.toordinal())
    lines = ["time,node,load"]
    lines += [f"{date}T{hour:02}:00,{node},{random.normal():.3f}" for hour in range(24) for node in NODES]
    world.dump(date).parent.mkdir(parents=True, exist_ok=True)
    world.dump(date).write_text("\n".join(lines) + "\n")


def shards_of(world: World) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in (world.store / "shards").rglob("*") if path.is_file()}


def test_numbers_are_scaled_and_texts_coded_by_the_nodes_of_training_alone(tmp_path: Path) -> None:
    world = world_of(tmp_path, STATIC)
    assert not world.prepare().failed
    columns = world.open().static
    capacity, kind = columns["capacity"], columns["kind"]
    trained = np.array([1.0, 2, 3, 4, 5])
    np.testing.assert_allclose(capacity.values_N[:5], (trained - 3) / trained.std(), rtol=1e-6)
    assert capacity.values_N[5] == 0
    assert not capacity.observed_N[5]
    assert not capacity.complete
    assert kind.categories == ("a", "b")  # z is of a node without a record on a training date
    assert kind.values_N.tolist() == [1, 2, 1, 2, 1, 0, 0]
    write_table(world, {**TABLE, "n6": ("-1e9", "a")})
    assert not world.prepare().failed
    changed = world.open().static
    assert np.array_equal(changed["capacity"].values_N[:6], capacity.values_N[:6])
    assert changed["kind"].categories == ("a", "b")


def test_a_changed_column_makes_no_shard_and_plan_says_what_it_makes(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    config = str(world.config_file())
    world.run("preprocess", "-c", config)
    before, first = shards_of(world), world.open().manifest
    assert "static" not in first.to_json()
    world.tree["pipeline"]["nodes"]["static"] = STATIC
    world.config_file()
    assert "its static columns" in world.run("plan", "-c", config).stdout
    world.run("preprocess", "-c", config)
    named = world.open()
    assert named.manifest.static
    assert not world.run("plan", "-c", config).stdout.count("static columns")
    write_table(world, {**TABLE, "n0": ("7", "a")})
    assert "its static columns" in world.run("plan", "-c", config).stdout
    world.run("preprocess", "-c", config)
    later = world.open()
    assert later.manifest.static != named.manifest.static
    assert later.manifest.normalise == first.normalise
    assert shards_of(world) == before
    assert later.generation == named.generation + 1
    assert Dataset.open(world.store, named.generation).static["capacity"].values_N[0] < 0  # as it was trained on
    assert "0 damaged" in world.run("verify", "-c", config).stdout
    (folder,) = (world.store / "static" / later.manifest.static).glob("static.json")
    folder.write_bytes(folder.read_bytes().replace(b"7", b"8", 1))
    assert f"static/{later.manifest.static}" in world.run("verify", "-c", config, code=None).stdout


@pytest.mark.parametrize(
    ("rows", "nodes", "words"),
    [
        ({"n0": ("many", "a")}, {}, r"row 2, column 'capacity', value 'many'.*a number is expected.*categorical"),
        ({}, {"static": ["height"]}, "no column 'height'"),
        (dict.fromkeys(NODES, ("", "a")), {}, "'capacity' has no value at any node that the training dates have"),
        ({"n6": ("1e300", "a")}, {}, "'capacity' has 1e"),
    ],
)
def test_a_faulty_column_is_refused_by_its_name(
    tmp_path: Path, rows: dict[str, tuple[str, str]], nodes: dict[str, Any], words: str
) -> None:
    world = world_of(tmp_path, STATIC)
    world.tree["pipeline"]["nodes"].update(nodes)
    write_table(world, TABLE | rows)
    with pytest.raises(UsageError, match=words):
        world.prepare()


def test_a_number_is_a_category_where_the_configuration_says_so(tmp_path: Path) -> None:
    world = world_of(tmp_path, STATIC)
    world.tree["pipeline"]["nodes"]["categorical"] = ["capacity"]
    assert not world.prepare().failed
    assert world.open().static["capacity"].categories == ("1", "2", "3", "4", "5")
    world.tree["pipeline"]["nodes"]["categorical"] = ["colour"]
    assert "static does not" in world.run("config", "check", "-c", str(world.config_file()), code=2).stderr


@pytest.mark.parametrize("name", ["mlp", "cnn", "lstm", "gru"])
def test_a_model_reads_them_and_keeps_them_once(tmp_path: Path, name: str) -> None:
    """They change the forecast of their own node, no batch holds them, and no checkpoint does."""
    model = {"name": name, "hidden_units": [8]}
    plain = world_of(tmp_path / "plain", model=model)
    world = world_of(tmp_path / "static", STATIC, model=model)
    assert not plain.prepare().failed
    assert not world.prepare().failed
    sessions = [make_session(each.settings.trainer, each.open(), tmp_path) for each in (plain, world)]
    batches = [next(iter(session.train.batches(0))) for session in sessions]
    held = [[slot.flat.nbytes for slot in session.train._ring] for session in sessions]
    assert held[0] == held[1]  # the memory of batches does not grow
    assert batches[0].history_BHNF.shape == batches[1].history_BHNF.shape
    trained, batch = sessions[1].model.eval(), batches[1]
    with torch.no_grad():
        before = trained(batch.history_BHNF, batch.codes_BW).clone()
        trained.node.numbers_NK[2] += 1
        after = trained(batch.history_BHNF, batch.codes_BW)
    moved = (after != before).any(dim=-1).any(dim=1).any(dim=0)
    assert moved.tolist() == [False, False, True, False, False, False, False]
    numbers, codes = trained.node.numbers_NK, trained.node.codes_NC
    assert numbers.shape == (7, 2)  # the capacity, and whether it is there
    assert codes.shape == (7, 1)
    assert {key.partition(".")[2] for key in trained.state_dict() if key.startswith("node")} == {
        "weight",
        "categories.0.weight",
    }


def test_a_model_that_cannot_read_them_says_so(tmp_path: Path) -> None:
    world = world_of(tmp_path, STATIC, model={"name": "dlinear"})
    config = str(world.config_file())
    world.run("preprocess", "-c", config)
    done = world.run("train", "-c", config, "--run", "r")
    assert "dlinear does not read the static columns (capacity, kind)" in done.stdout + done.stderr


def test_a_model_of_ones_own_gets_them_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_static.py").write_text(
        "import torch\n"
        "class Own(torch.nn.Module):\n"
        "    def __init__(self, shape):\n"
        "        super().__init__()\n"
        "        column = shape.static['capacity']\n"
        "        assert column.codes == 0 and shape.static['kind'].codes == 3\n"
        "        self.register_buffer('capacity', column.values_N, persistent=False)\n"
        "        self.factor = torch.nn.Parameter(torch.ones(shape.window.target_steps, 1, shape.num_outputs))\n"
        "    def forward(self, history, codes=None):\n"
        "        return (self.factor * self.capacity[:, None]).expand(len(history), -1, -1, -1)\n"
        "def build(shape, config):\n"
        "    return Own(shape)\n"
    )
    world = world_of(tmp_path, STATIC, model={"name": "own_static:build"})
    config = str(world.config_file())
    world.run("preprocess", "-c", config)
    world.run("train", "-c", config, "--run", "r")
    predicted = json.loads(world.run("predict", "r", "--interval", "none", "--json").stdout)
    assert len({row["value"] for row in predicted["forecasts"] if row["step"] == 1}) == 6  # n5 and n6 lie apart


def test_a_training_with_static_columns_is_continued_to_the_same_bits(tmp_path: Path) -> None:
    world = world_of(tmp_path, STATIC, checkpoint={"save_freq": 5})
    config = str(world.config_file())
    world.run("preprocess", "-c", config)
    world.run("train", "-c", config, "--run", "r")
    checkpoints = tmp_path / "data/runs/r/checkpoints"
    last = checkpoints / "checkpoint_epoch_2_batch_12" / "model.safetensors"
    whole = last.read_bytes()
    write_table(world, {**TABLE, "n0": ("70", "a")})  # a later generation is none of the run's business
    world.run("preprocess", "-c", config)
    world.run("train", "--resume", str(checkpoints / "checkpoint_epoch_1_batch_10"))
    assert last.read_bytes() == whole
    assert list(checkpoints.glob("set_aside-*"))
