"""The learning rate's schedule and early stopping: pure functions of the position and of one small state.

The state is in every checkpoint, so that a continued run takes the same rates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dateshard.trainer.config import (
    CosineSchedule,
    EarlyStopping,
    NoSchedule,
    PlateauSchedule,
    Schedule,
    StepSchedule,
)


@dataclass(slots=True, kw_only=True)
class LossHistory:
    """What early stopping, `best` and the plateau schedule remember. A loss that is no number never wins.

    Attributes:
        reference_loss: the last validation loss that improved by more than min_delta.
        bad_epochs: validations since then.
        plateau_loss, plateau_epochs: likewise for the plateau schedule, by its threshold; `cuts` counts its reductions.
    """

    best_loss: float | None = None
    best_epoch: int = -1
    reference_loss: float | None = None
    bad_epochs: int = 0
    plateau_loss: float | None = None
    plateau_epochs: int = 0
    cuts: int = 0

    def note(
        self, loss: float | None, epoch: int, stopping: EarlyStopping | None, schedule: Schedule | None = None
    ) -> bool:
        """Takes one validation loss; returns whether it is the lowest so far (ties keep the older)."""
        known = loss if loss is not None and math.isfinite(loss) else None
        self._note_reference(known, stopping.min_delta if stopping else 0.0)
        if isinstance(schedule, PlateauSchedule):
            self._note_plateau(known, schedule)
        if known is None or (self.best_loss is not None and known >= self.best_loss):
            return False
        self.best_loss, self.best_epoch = known, epoch
        return True

    def _note_reference(self, loss: float | None, min_delta: float) -> None:
        if loss is not None and (self.reference_loss is None or loss < self.reference_loss - min_delta):
            self.reference_loss, self.bad_epochs = loss, 0
        else:
            self.bad_epochs += 1

    def _note_plateau(self, loss: float | None, schedule: PlateauSchedule) -> None:
        if loss is not None and (self.plateau_loss is None or loss < self.plateau_loss * (1 - schedule.threshold)):
            self.plateau_loss, self.plateau_epochs = loss, 0
        else:
            self.plateau_epochs += 1
        if self.plateau_epochs > schedule.patience:
            self.cuts, self.plateau_epochs = self.cuts + 1, 0

    def exhausted(self, stopping: EarlyStopping | None) -> bool:
        """Whether training should end."""
        return stopping is not None and self.bad_epochs >= stopping.patience


def learning_rate(epoch: int, step: int, base: float, schedule: Schedule, cuts: int = 0) -> float:
    """The rate of an optimizer step: a pure function.

    Args:
        epoch, step: 0-based. cuts: how often a plateau has cut the rate (`Progress.cuts`).
    """
    rate = _rate(epoch, base, schedule, cuts)
    if step < schedule.warmup_steps:
        return rate * (step + 1) / schedule.warmup_steps
    return rate


def _rate(epoch: int, base: float, schedule: Schedule, cuts: int) -> float:
    match schedule:
        case StepSchedule():
            return base * float(schedule.gamma ** (epoch // schedule.step_size))
        case PlateauSchedule():
            return max(base * float(schedule.factor**cuts), min(schedule.min_lr, base))
        case CosineSchedule():
            share = (1 + math.cos(math.pi * min(epoch, schedule.T_max) / schedule.T_max)) / 2
            return schedule.eta_min + (base - schedule.eta_min) * share
        case NoSchedule():
            return base
    raise AssertionError(schedule)
