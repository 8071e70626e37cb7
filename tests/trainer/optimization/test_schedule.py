"""Schedules against torch's own schedulers, warm-up, and what is kept of a plateau."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from dateshard.trainer.config import AnySchedule, Schedule
from dateshard.trainer.optimization.schedule import LossHistory, learning_rate

BASE = 0.03


def schedule_of(**content: Any) -> Schedule:
    found: Schedule = TypeAdapter(AnySchedule).validate_python(content)
    return found


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=BASE)


def torch_rates(make: Any, losses: list[float]) -> list[float]:
    """The rates of torch's scheduler, of which each takes one loss an epoch if it takes any."""
    held = optimizer()
    scheduler, rates = make(held), []
    for loss in losses:
        rates.append(held.param_groups[0]["lr"])
        held.step()
        scheduler.step(*([loss] if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau) else []))
    return rates


def test_step_and_cosine_are_those_of_torch() -> None:
    step = torch_rates(lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=4, gamma=0.3), [0.0] * 15)
    ours = schedule_of(type="step", step_size=4, gamma=0.3)
    assert [learning_rate(epoch, 10**6, BASE, ours) for epoch in range(15)] == pytest.approx(step, rel=1e-12)
    cosine = torch_rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=12, eta_min=1e-4), [0.0] * 13)
    ours = schedule_of(type="cosine", T_max=12, eta_min=1e-4)
    assert [learning_rate(epoch, 0, BASE, ours) for epoch in range(13)] == pytest.approx(cosine, rel=1e-12)


def test_after_its_last_epoch_a_cosine_stays_at_its_least() -> None:
    ours = schedule_of(type="cosine", T_max=5, eta_min=0.001)
    assert {learning_rate(epoch, 0, BASE, ours) for epoch in (5, 6, 99)} == {0.001}


@pytest.mark.parametrize("patience", [0, 2])
def test_a_plateau_cuts_where_torch_does(patience: int) -> None:
    losses = [1.0, 0.9, 0.89999, 0.95, 0.9, 0.89998, 0.8, 0.81, 0.82, 0.83, 0.84, 0.85, math.nan, 0.7, 0.7, 0.7, 0.7]

    def theirs(held: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.ReduceLROnPlateau(held, factor=0.5, patience=patience, min_lr=0.002)

    ours, progress, rates = schedule_of(type="plateau", patience=patience, factor=0.5, min_lr=0.002), LossHistory(), []
    for epoch, loss in enumerate(losses):
        rates.append(learning_rate(epoch, 0, BASE, ours, progress.cuts))
        progress.note(loss, epoch, None, ours)
    assert rates == pytest.approx(torch_rates(theirs, losses), rel=1e-12)
    assert len(set(rates)) >= 3


def test_an_equal_loss_or_one_that_is_no_number_takes_nothing_from_the_best() -> None:
    progress = LossHistory()
    taken = [progress.note(loss, epoch, None) for epoch, loss in enumerate([2.0, 1.0, 1.0, math.nan, 1.5, 0.9])]
    assert taken == [True, True, False, False, False, True]
    assert (progress.best_loss, progress.best_epoch) == (0.9, 5)
    assert not progress.note(0.9, 6, None)
    assert progress.best_epoch == 5


def test_warm_up_rises_step_by_step_to_the_rate_of_the_epoch() -> None:
    ours = schedule_of(type="step", step_size=1, gamma=0.5, warmup_steps=4)
    assert [learning_rate(0, step, 0.8, ours) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])
    assert learning_rate(1, 2, 0.8, ours) == pytest.approx(0.3)
