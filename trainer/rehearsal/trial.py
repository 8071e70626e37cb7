"""One batch through a session's model: does what was loaded compute."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dateshard.trainer.metrics import EpochMetrics
from dateshard.trainer.optimization.objective import forward
from dateshard.trainer.session import Session
from dateshard.trainer.step import to_device


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
    batch = to_device(next(iter(reader.batches(0))), session.device)
    forecast = forward(session.model, batch, session.heads)
    found = {head.name: head.sums(forecast[head.name], batch) for head in session.heads}
    metrics = EpochMetrics.empty(session.metrics.form)
    metrics.add(forecast, batch, found)
    return Trial(split, len(batch.history_BHNF), metrics.loss(), metrics.losses())
