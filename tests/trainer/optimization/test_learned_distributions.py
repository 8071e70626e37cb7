"""What losses learn of data whose conditional distribution is known: it depends on the hour, in its middle and in its spread."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dateshard.trainer.assessment.forecaster import of_model
from dateshard.trainer.assessment.quantiles import RawQuantiles
from dateshard.trainer.loop import train
from dateshard.trainer.setup import choose_columns, make_reader, make_session, order_of, shuffle_of, window_of
from tests.conftest import World

DATES = [dt.date(2024, 3, 1) + dt.timedelta(days=k) for k in range(60)]
NODES = ("a", "b", "c", "d")
SPLIT = {
    "train": f"{DATES[0]}..{DATES[39]}",
    "validation": f"{DATES[40]}..{DATES[44]}",
    "test": f"{DATES[45]}..{DATES[59]}",
}
HOUR = np.arange(24)
MIDDLE, SPREAD = 10 + 3 * np.sin(HOUR / 24 * 2 * np.pi), 1.6 + 1.2 * np.cos(HOUR / 24 * 2 * np.pi)  # of a normal one
RATE = 4 + 3 * np.cos(HOUR / 24 * 2 * np.pi)  # of a Poisson one
FEATURES: dict[str, Any] = {"load": {}, "calls": {"aggregate": "sum"}}
MODEL = {"name": "mlp", "hidden_units": [16], "dropout_rate": 0.0}
TRAINING = {"epochs": 12, "batch_size": 32, "learning_rate": 0.01, "seed": 5}


def world_of(folder: Path, target: str, **training: Any) -> World:
    """Each cell is drawn for itself: nothing but the hour tells what comes."""
    tree = {
        "dataset": "world",
        "pipeline": {
            "source": {"path": str(folder / "raw" / "{date}.csv"), "time": "time", "node": "node"},
            "step": "1h",
            "features": FEATURES,
            "split": SPLIT,
        },
        "trainer": {
            "window": {"history": 2, "horizon": 1},
            "targets": [target],
            "model": MODEL,
            "training": {**TRAINING, **training},
            "scheduler": {"type": "step", "step_size": 4, "gamma": 0.3},
            "early_stopping": None,
        },
    }
    world = World(folder, tree)
    draw = np.random.default_rng(1)
    for date in DATES:
        lines = ["time,node,load,calls"]
        for hour in range(24):
            for node in NODES:
                load = draw.normal(MIDDLE[hour], SPREAD[hour])
                lines.append(f"{date}T{hour:02}:00:00,{node},{load:.4f},{draw.poisson(RATE[hour])}")
        world.dump(date).parent.mkdir(parents=True, exist_ok=True)
        world.dump(date).write_text("\n".join(lines) + "\n")
    assert not world.prepare().failed
    return world


@torch.no_grad()
def tried(world: World, levels: tuple[float, ...]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Trains, and returns of the test's cells (hour, truth, quantiles at the levels), in raw units."""
    config, dataset = world.settings.trainer, world.open()
    session = make_session(config, dataset, world.folder / "checkpoints")
    with torch.enable_grad():
        for _ in train(session, lambda: False):
            pass
    columns = choose_columns(config, dataset)
    reader = RawQuantiles.of(config, dataset, session.heads, columns.targets)
    outputs = of_model(session.model, session.heads, columns.inputs, window_of(config))
    hours, truths, quantiles = [], [], []
    order = order_of(dataset, "test", window_of(config), 64, shuffle_of(config, dataset, window_of(config)), None)
    for batch in make_reader(config, dataset, order, session.train.wanted).batches(0):
        assert batch.codes_BW is not None
        hours.append((batch.codes_BW[:, -1].numpy() >> 3)[:, None].repeat(len(NODES), axis=1).ravel())
        truths.append(reader.units.raw(batch.target_BPNF).numpy().ravel())
        quantiles.append(reader.raw(outputs(batch), levels).reshape(-1, len(levels)))
    return np.concatenate(hours), np.concatenate(truths), np.concatenate(quantiles)


def test_learned_quantiles_hold_what_their_levels_say_in_calm_hours_and_in_wild_ones(tmp_path: Path) -> None:
    """Of 1,440 cells 0.8 +- 0.021 (two standard errors), and 0.03 for what 40 dates of training cannot tell."""
    levels = (0.1, 0.5, 0.9)
    hours, truth, quantiles = tried(world_of(tmp_path, "load", loss="quantile", quantiles=levels), levels)
    inside = (truth >= quantiles[:, 0]) & (truth <= quantiles[:, 2])
    assert abs(inside.mean() - 0.8) < 0.05
    for calm in (True, False):
        here = (SPREAD[hours] < 1.6) == calm
        assert abs(inside[here].mean() - 0.8) < 0.07
        width = quantiles[here, 2] - quantiles[here, 0]
        assert abs(width.mean() / (2 * 1.2816 * SPREAD[hours[here]]).mean() - 1) < 0.15
    assert np.abs(quantiles[:, 1] - MIDDLE[hours]).mean() < 0.35
