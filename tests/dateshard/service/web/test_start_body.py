"""The body of a start: the notes' names and defaults are the configuration's."""

from __future__ import annotations

from typing import Any

import pytest

from dateshard.service.web.start_body import StartBody
from dateshard.trainer.config import CosineSchedule, EarlyStopping, ModelConfig, PlateauSchedule, StepSchedule, Training


def test_defaults_are_those_of_the_configuration() -> None:
    body, model, training, stopping = StartBody(name="x"), ModelConfig(), Training(), EarlyStopping()
    assert (body.model_type, tuple(body.hidden_units), body.dropout_rate) == (
        model.name,
        model.hidden_units,
        model.dropout_rate,
    )
    assert (body.epochs, body.batch_size, body.learning_rate) == (
        training.epochs,
        training.batch_size,
        training.learning_rate,
    )
    assert (body.early_stopping_patience, body.min_delta) == (stopping.patience, stopping.min_delta)


@pytest.mark.parametrize(
    ("given", "schedule"),
    [
        ({}, StepSchedule(step_size=30, gamma=0.1)),
        ({"learning_rate_scheduler": "step", "step_size": 5, "gamma": 0.5}, StepSchedule(step_size=5, gamma=0.5)),
        ({"learning_rate_scheduler": "plateau"}, PlateauSchedule(type="plateau", patience=5, factor=0.5)),
        ({"learning_rate_scheduler": "cosine", "T_max": 9}, CosineSchedule(type="cosine", T_max=9, eta_min=0.0001)),
    ],
)
def test_a_scheduler_of_the_notes_is_that_of_the_configuration(given: dict[str, Any], schedule: Any) -> None:
    assert type(schedule).model_validate(StartBody(name="x", **given).scheduler()) == schedule
