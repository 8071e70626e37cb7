"""Runs that were never trained, for tests that ask what is made of a model's output and not how good it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from torch import nn

from dateshard.trainer import checkpoint
from dateshard.trainer.config import Trainer
from dateshard.trainer.runs.start import New, start_new
from dateshard.trainer.session import save
from tests.conftest import World


def untrained(
    config: Trainer, world: World, name: str, change: Callable[[nn.Module], None] = lambda _model: None
) -> None:
    """A run with one checkpoint of weights as they were drawn: what it forecasts is as good for these tests."""
    with closing(start_new(config, world.store, world.folder / "data" / "runs", New(name))) as started:
        change(started.session.model)
        started.session.state.validated, started.session.state.val_loss = True, 1.0
        with checkpoint.CheckpointWriter(started.session.checkpoints) as writer:
            save(started.session, writer)
