"""Shuffling within blocks of two days trains as well as shuffling over all of them: five seeds of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dateshard.cli import run
from dateshard.settings import load_settings
from dateshard.shardstore.dataset import Dataset
from dateshard.trainer.loop import EpochDone, train
from dateshard.trainer.setup import make_session

SETTINGS = [
    "trainer.model.hidden_units=[32]",
    "trainer.training.epochs=3",
    "trainer.training.batch_size=32",
    "trainer.checkpoint.save_freq=null",
    "trainer.scheduler.step_size=1",
]


@pytest.fixture
def validation_loss(tmp_path: Any) -> Callable[..., float]:
    """The last validation loss of a training on twelve days of eight traffic sensors."""
    assert run(["init", "--example", "traffic", "--dates", "12", "--sensors", "8"]) == 0
    assert run(["preprocess", "-c", "configs/traffic.yaml", "-q", "--workers", "1"]) == 0
    dataset = Dataset.open(tmp_path / "data" / "shards" / "traffic")

    def loss(seed: int, **loading: Any) -> float:
        given = [f"trainer.loading.{name}={value}" for name, value in loading.items()]
        overrides = [*SETTINGS, f"trainer.training.seed={seed}", *given]
        config = load_settings(["configs/traffic.yaml"], overrides).trainer
        folder = tmp_path / f"{seed}-{'-'.join(given)}"
        done = [
            event
            for event in train(make_session(config, dataset, folder), lambda: False)
            if isinstance(event, EpochDone)
        ]
        assert done[-1].val_loss is not None
        return done[-1].val_loss

    return loss


@pytest.mark.slow
def test_blocks_of_two_days_end_within_the_spread_of_the_global_shuffle(validation_loss: Callable[..., float]) -> None:
    everywhere = [validation_loss(seed, shuffle="global") for seed in range(5)]
    in_blocks = [validation_loss(seed, days_per_batch=2) for seed in range(5)]

    assert everywhere != in_blocks
    mean = sum(in_blocks) / 5
    assert mean <= max(everywhere)
    dates_in_order = validation_loss(0, shuffle="dates")
    assert dates_in_order != in_blocks[0]
