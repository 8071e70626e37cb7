"""One batch through a session's model: does what was loaded compute."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dateshard.trainer.forward import forward
from dateshard.trainer.metrics import EpochMetrics
from dateshard.trainer.session import Session


@dataclass(frozen=True, slots=True)
class Trial:
    """What it gave: the loss of that batch alone, whole and by name."""

    split: str
    windows: int
    loss: float | None
    losses: dict[str, float | None]


@torch.no_grad()
def try_batch(session: Session) -> Trial:
    """The first batch of validation, or of training where there is none, in evaluation mode."""
    split, reader = ("validation", session.validation) if session.validation else ("train", session.train)
    session.model.eval()
    passed = forward(session, next(iter(reader.batches(0))))
    metrics = EpochMetrics.empty(session.metrics.form)
    metrics.add(passed.forecast, passed.batch, passed.sums)
    return Trial(split, passed.batch.size, metrics.loss(), metrics.losses())
