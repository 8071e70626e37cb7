"""Losses, the learning rate's schedule and early stopping. Pure but for one small state."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from trainer.batch import Batch
from trainer.config import EarlyStopping, NoSchedule, StepSchedule


def squared_error(forecast: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | int]:
    """(sum of squared errors over the observed targets, how many there are)."""
    error = forecast - batch.target_BPNF
    if batch.observed_BPNF is None:
        return (error * error).sum(), error.numel()
    error = error * batch.observed_BPNF
    return (error * error).sum(), batch.observed_BPNF.sum()


LOSSES = {"mse": squared_error}


def learning_rate(epoch: int, base: float, schedule: StepSchedule | NoSchedule) -> float:
    """The rate of an epoch (0-based): a pure function, so no schedule state is ever saved."""
    if isinstance(schedule, NoSchedule):
        return base
    return base * float(schedule.gamma ** (epoch // schedule.step_size))


@dataclass(slots=True)
class Progress:
    """What early stopping and `best` remember. A loss that is no number never wins.

    Attributes:
        reference_loss: the last validation loss that improved by more than min_delta.
        bad_epochs: validations since then.
    """

    best_loss: float | None = None
    best_epoch: int = -1
    reference_loss: float | None = None
    bad_epochs: int = 0

    def note(self, loss: float | None, epoch: int, stopping: EarlyStopping | None) -> bool:
        """Takes one validation loss; returns whether it is the lowest so far (ties keep the older)."""
        if loss is None or not math.isfinite(loss):
            self.bad_epochs += 1
            return False
        if self.reference_loss is None or loss < self.reference_loss - (stopping.min_delta if stopping else 0.0):
            self.reference_loss, self.bad_epochs = loss, 0
        else:
            self.bad_epochs += 1
        if self.best_loss is None or loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, epoch
            return True
        return False

    def exhausted(self, stopping: EarlyStopping | None) -> bool:
        """Whether training should end."""
        return stopping is not None and self.bad_epochs >= stopping.patience
