"""Edges between nodes: checked, frozen beside the nodes, and given to models of one's own."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from dateshard.shardstore.errors import UsageError
from dateshard.trainer.setup import make_session
from tests.conftest import World

DATES = [dt.date(2024, 3, 1) + dt.timedelta(days=k) for k in range(5)]
NODES = ("a", "b", "c")
SPLIT = {"train": f"{DATES[0]}..{DATES[3]}", "validation": str(DATES[4])}
GUIDE = Path(__file__).parents[2] / "docs" / "models.md"


def world_of(folder: Path, edges: str = "from,to,weight\na,b,1\na,c,2\n", **trainer: Any) -> World:
    """Loads of b and c that are what a had an hour before; `a` is noise."""
    tree = {
        "dataset": "world",
        "pipeline": {
            "source": {"path": str(folder / "raw" / "{date}.csv"), "time": "time", "node": "node"},
            "nodes": {"edges": str(folder / "edges.csv")},
            "step": "1h",
            "features": {"load": {"scale": "none"}},
            "split": SPLIT,
        },
        "trainer": {
            "window": {"history": 4, "horizon": 1},
            "training": {"epochs": 20, "batch_size": 8, "learning_rate": 0.05, "seed": 3},
            **trainer,
        },
    }
    world = World(folder, tree)
    (folder / "edges.csv").write_text(edges)
    random, before = np.random.default_rng(1), 0.0
    for date in DATES:
        lines = ["time,node,load"]
        for hour in range(24):
            own = round(float(random.normal()), 3)
            cells = {"a": own, "b": before, "c": before}
            lines += [f"{date}T{hour:02}:00,{node},{load}" for node, load in cells.items()]
            before = own
        world.dump(date).parent.mkdir(exist_ok=True)
        world.dump(date).write_text("\n".join(lines) + "\n")
    return world


def test_the_graph_convolution_of_the_guide_learns_what_lies_at_neighbours(tmp_path: Path) -> None:
    (source,) = re.findall(r"```python\n# graph.py\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    (tmp_path / "graph.py").write_text(source)
    losses = {}
    for name in ("graph:build", "nlinear"):
        world = world_of(tmp_path, model={"name": name})
        config, run = str(world.config_file()), name[:5]
        world.run("preprocess", "-c", config)
        done = world.run("train", "-c", config, "--run", run)
        losses[name] = json.loads(world.run("checkpoints", "info", run, "best", "--json").stdout)["val_loss"]
        unused = "nlinear does not read the 2 edges between nodes: they are for models of your own"
        assert (unused in done.stdout + done.stderr) == (name == "nlinear")
    assert losses["graph:build"] < 0.6  # what is left is the noise of a, a third of the cells
    assert losses["nlinear"] > 0.9


def test_edges_are_an_index_of_nodes_sorted_and_kept_once(tmp_path: Path) -> None:
    world = world_of(tmp_path, "from,to,weight\nc,a,0.5\na,c,2\na,b,1\n")
    assert not world.prepare().failed
    dataset = world.open()
    assert dataset.edges.index_2E.tolist() == [[0, 0, 2], [1, 2, 0]]
    assert dataset.edges.weights_E.tolist() == [1, 2, 0.5]
    before = {path: path.read_bytes() for path in (world.store / "shards").rglob("*") if path.is_file()}
    frame = pl.DataFrame({"from": ["a", "a", "c"], "to": ["b", "c", "a"], "weight": [1.0, 2, 0.5]})
    frame.write_parquet(tmp_path / "edges.parquet")
    world.tree["pipeline"]["nodes"]["edges"] = str(tmp_path / "edges.parquet")
    assert not world.prepare().failed
    assert world.open().manifest.edges == dataset.manifest.edges  # the same edges, however they are written
    frame.drop("weight").write_parquet(tmp_path / "edges.parquet")
    config = str(world.config_file())
    assert "its edges" in world.run("plan", "-c", config).stdout
    world.run("preprocess", "-c", config)
    assert world.open().edges.weights_E.tolist() == [1, 1, 1]
    assert before == {path: path.read_bytes() for path in (world.store / "shards").rglob("*") if path.is_file()}
    session = make_session(world.settings.trainer, world.open(), tmp_path)
    assert isinstance(session.model, torch.nn.Module)
    folder = world.store / "edges" / world.open().manifest.edges
    data = bytearray((folder / "index.i64").read_bytes())
    data[0] ^= 1
    (folder / "index.i64").chmod(0o644)
    (folder / "index.i64").write_bytes(data)
    assert "index.i64" in world.run("verify", "-c", config, code=None).stdout


@pytest.mark.parametrize(
    ("edges", "words"),
    [
        ("from,to\na,b\na,z\n", r"row 3, column 'to', value 'z'.*a node that the dataset does not have"),
        ("from,to\na,b\nb,a\na,b\n", r"row 4.*from 'a' to 'b' comes twice"),
        ("from,to,weight\na,b,inf\n", r"row 2, column 'weight', value 'inf'.*not a finite number"),
        ("from,to,weight\na,b,\n", r"row 2, column 'weight'.*not a finite number"),
        ("from,to\na,\n", r"row 2, column 'to'.*names no node"),
        ("source,to\na,b\n", "no column 'from'"),
        ("from,to\n", "has no edge"),
    ],
)
@pytest.mark.parametrize("table", [False, True])
def test_a_faulty_edge_is_refused_with_its_row(tmp_path: Path, edges: str, words: str, table: bool) -> None:
    world = world_of(tmp_path, edges)
    if table:
        (tmp_path / "nodes.csv").write_text("id\na\nb\nc\n")
        world.tree["pipeline"]["nodes"] |= {"table": str(tmp_path / "nodes.csv"), "id": "id"}
    with pytest.raises(UsageError, match=words):
        world.prepare()


def test_a_table_and_its_column_of_names_come_together(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    config = world.tree["pipeline"]["nodes"]
    for nodes, words in (
        (config | {"table": "nodes.csv"}, "table and id come together"),
        (config | {"static": ["x"]}, "table names none"),
        ({"position": []}, "name a table or edges"),
    ):
        world.tree["pipeline"]["nodes"] = nodes
        assert words in world.run("config", "check", "-c", str(world.config_file()), code=2).stderr
