"""What losses learn of data whose conditional distribution is known: it depends on the hour, in its middle and in its spread."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dateshard.trainer.assessment.forecaster import of_model
from dateshard.trainer.assessment.quantiles import RawQuantiles
from dateshard.trainer.loop import train
from dateshard.trainer.optimization.count_likelihood import count_quantiles
from dateshard.trainer.optimization.objective import points_of
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
def tried(world: World, levels: tuple[float, ...]) -> list[NDArray[Any]]:
    """Trains, and returns of the test's cells [hour, truth, forecast, quantiles at the levels], in raw units."""
    config, dataset = world.settings.trainer, world.open()
    session = make_session(config, dataset, world.folder / "checkpoints")
    with torch.enable_grad():
        for _ in train(session, lambda: False):
            pass
    columns = choose_columns(config, dataset)
    reader = RawQuantiles.of(config, dataset, session.heads, columns.targets)
    outputs = of_model(session.model, session.heads, columns.inputs, window_of(config))
    hours, truths, points, quantiles = [], [], [], []
    order = order_of(dataset, "test", window_of(config), 64, shuffle_of(config, dataset, window_of(config)), None)
    for batch in make_reader(config, dataset, order, session.train.wanted).batches(0):
        assert batch.codes_BW is not None
        hours.append((batch.codes_BW[:, -1].numpy() >> 3)[:, None].repeat(len(NODES), axis=1).ravel())
        truths.append(reader.units.raw(batch.target_BPNF).numpy().ravel())
        given = outputs(batch)
        points.append(reader.units.raw(points_of(given, session.heads)[session.heads[0].name]).numpy().ravel())
        quantiles.append(reader.raw(given, levels).reshape(-1, len(levels)))
    return [np.concatenate(each) for each in (hours, truths, points, quantiles)]


def test_learned_quantiles_hold_what_their_levels_say_in_calm_hours_and_in_wild_ones(tmp_path: Path) -> None:
    """Of 1,440 cells 0.8 +- 0.021 (two standard errors), and 0.03 for what 40 dates of training cannot tell."""
    levels = (0.1, 0.5, 0.9)
    hours, truth, _, quantiles = tried(world_of(tmp_path, "load", loss="quantile", quantiles=levels), levels)
    inside = (truth >= quantiles[:, 0]) & (truth <= quantiles[:, 2])
    assert abs(inside.mean() - 0.8) < 0.05
    for calm in (True, False):
        here = (SPREAD[hours] < 1.6) == calm
        assert abs(inside[here].mean() - 0.8) < 0.07
        width = quantiles[here, 2] - quantiles[here, 0]
        assert abs(width.mean() / (2 * 1.2816 * SPREAD[hours[here]]).mean() - 1) < 0.15
    assert np.abs(quantiles[:, 1] - MIDDLE[hours]).mean() < 0.35


@pytest.mark.parametrize("loss", ["poisson", "negative_binomial"])
def test_the_mean_of_counts_is_the_rate_they_were_drawn_with(tmp_path: Path, loss: str) -> None:
    """Rates of 1 to 7, each known from 160 cells to 0.16; inside are all counts from the least quantile to the largest."""
    hours, truth, points, quantiles = tried(world_of(tmp_path, "calls", loss=loss), (0.1, 0.5, 0.9))
    assert np.abs(points - RATE[hours]).mean() < 0.3
    assert np.abs(quantiles - quantiles.round()).max() < 1e-5
    assert quantiles.min() >= 0
    expected = count_quantiles(RATE[hours], np.zeros(len(hours)), (0.1, 0.9))
    within = [(truth >= low - 1e-4) & (truth <= high + 1e-4) for low, high in (quantiles[:, ::2].T, expected.T)]
    assert abs(within[0].mean() - within[1].mean()) < 0.04
