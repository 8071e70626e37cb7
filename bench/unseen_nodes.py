"""Forecasts of nodes that training never saw: what stands for their embedding, tried on generated sensors.

48 nodes with a daily wave of their own phase, height and level; 8 of them have records on the test dates alone.
`python bench/unseen_nodes.py FOLDER` prints scaled test errors of an mlp and a gru, three seeds.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import numpy as np
import torch

from dateshard.settings import validate
from dateshard.shardstore.dataset import Dataset
from dateshard.trainer import loop
from dateshard.trainer.data.shuffle import Shuffle
from dateshard.trainer.models import context
from dateshard.trainer.session import Session
from dateshard.trainer.setup import make_reader, make_session, order_of, window_of
from tests.conftest import World

NODES, HELD_OUT, DAYS = 48, 8, 24
FIRST = dt.date(2024, 3, 1)
SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)


def world_of(folder: Path) -> World:
    dates = [FIRST + dt.timedelta(days=k) for k in range(DAYS)]
    tree = {
        "dataset": "waves",
        "pipeline": {
            "source": {"path": str(folder / "raw" / "{date}.csv"), "time": "time", "node": "node"},
            "nodes": {"unknown": "keep"},
            "step": "1h",
            "features": {"load": {}},
            "split": {"train": f"..{dates[15]}", "validation": f"{dates[16]}..{dates[19]}", "test": f"{dates[20]}.."},
        },
        "trainer": {},
    }
    world, draw = World(folder, tree), np.random.default_rng(1)
    phase, height, level = draw.uniform(0, 24, NODES), draw.uniform(0.3, 2, NODES), draw.normal(0, 1, NODES)
    (folder / "raw").mkdir(parents=True, exist_ok=True)
    for number, date in enumerate(dates):
        last = NODES if number >= 20 else NODES - HELD_OUT
        lines = ["time,node,load"]
        for hour in range(24):
            wave = level + height * np.sin((hour + phase) / 24 * 2 * np.pi) ** 3 + draw.normal(0, 0.3, NODES)
            lines += [f"{date}T{hour:02}:00,n{node:02},{wave[node]:.4f}" for node in range(last)]
        (folder / "raw" / f"{date}.csv").write_text("\n".join(lines) + "\n")
    assert not world.prepare().failed
    return world


def trained(world: World, name: str, seed: int, folder: Path) -> tuple[Session, Dataset]:
    trainer: dict[str, Any] = {
        "window": {"history": 6, "horizon": 6},
        "model": {"name": name, "hidden_units": [64], "dropout_rate": 0.0},
        "training": {"epochs": 15, "batch_size": 16, "learning_rate": 0.003, "seed": seed},
        "checkpoint": {"save_freq": 100000},
        "early_stopping": None,
    }
    settings = validate({**world.tree, "trainer": trainer})
    dataset = world.open()
    session = make_session(settings.trainer, dataset, folder)
    for _ in loop.train(session, lambda: False):
        pass
    return session, dataset


@torch.no_grad()
def errors(session: Session, dataset: Dataset) -> tuple[float, float]:
    """Scaled squared errors on the test dates, at known nodes and at unseen ones."""
    window = window_of(session.config)
    order = order_of(dataset, "test", window, 32, Shuffle(None, None, shuffle_runs=False), None)
    model, known = session.model.eval(), dataset.manifest.num_frozen_nodes
    sums, counts = np.zeros(2), np.zeros(2)
    for batch in make_reader(session.config, dataset, order, session.train.wanted).batches(0):
        squared = (model(batch.history_BHNF, batch.codes_BW) - batch.target_BPNF) ** 2
        seen = torch.ones_like(squared) if batch.observed_BPNF is None else batch.observed_BPNF.float()
        for group, nodes in enumerate((slice(0, known), slice(known, None))):
            sums[group] += float((squared * seen)[:, :, nodes].sum())
            counts[group] += float(seen[:, :, nodes].sum())
    return float(sums[0] / counts[0]), float(sums[1] / counts[1])


def rows(world: World, name: str, seed: int, folder: Path) -> Iterator[tuple[str, float, float]]:
    for share in SHARES:
        context.DROPPED = share
        session, dataset = trained(world, name, seed, folder / f"{name}-{seed}-{share}")
        if share == 0:
            yield "as drawn, never trained", *errors(session, dataset)
            with torch.no_grad():
                session.model.node.weight[-1] = session.model.node.weight[:-1].mean(0)  # type: ignore[union-attr, index]
            yield "mean of the embeddings", *errors(session, dataset)
        else:
            yield f"trained, {share:.0%} of nodes dropped", *errors(session, dataset)


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    made = world_of(place)
    for model in ("mlp", "gru"):
        tried: dict[str, list[tuple[float, float]]] = {}
        for seed in (1, 2, 3):
            for how, known, unseen in rows(made, model, seed, place):
                tried.setdefault(how, []).append((known, unseen))
        for how, pairs in tried.items():
            known, unseen = np.mean(pairs, axis=0)
            spread = ", ".join(f"{pair[1]:.3f}" for pair in pairs)
            print(f"{model}  {how:32}  known {known:.4f}  unseen {unseen:.4f}  ({spread})", flush=True)
