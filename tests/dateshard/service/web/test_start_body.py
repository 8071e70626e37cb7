"""The body of a start: the notes' names and defaults are the configuration's."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dateshard.service.jobs.job_table import JobOrder
from dateshard.service.web.orders import OrderDesk
from dateshard.service.web.output_root import OutputRoot
from dateshard.service.web.problems import ProblemError
from dateshard.service.web.start_body import StartBody
from dateshard.settings import validate
from dateshard.trainer.config import CosineSchedule, EarlyStopping, ModelConfig, PlateauSchedule, StepSchedule, Training
from tests.kit.serving import service_world


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
    ("fields", "schedule"),
    [
        ({}, StepSchedule(step_size=30, gamma=0.1)),
        ({"learning_rate_scheduler": "step", "step_size": 5, "gamma": 0.5}, StepSchedule(step_size=5, gamma=0.5)),
        ({"learning_rate_scheduler": "plateau"}, PlateauSchedule(type="plateau", patience=5, factor=0.5)),
        ({"learning_rate_scheduler": "cosine", "T_max": 9}, CosineSchedule(type="cosine", T_max=9, eta_min=0.0001)),
    ],
)
def test_a_scheduler_of_the_notes_is_that_of_the_configuration(fields: dict[str, Any], schedule: Any) -> None:
    assert type(schedule).model_validate(StartBody(name="x", **fields).scheduler()) == schedule


NAMES = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        ["..", "../..", "/etc/passwd", "rows/../rows", "rows", "\x00", "\ud800", "C:\\", "a" * 5000, "%2e%2e", "*"]
    ),
    st.lists(st.sampled_from(["..", "rows", "shards", "", "."]), max_size=5).map("/".join),
)
FIELDS = ("name", "dataset", "model_type", "target_column", "output_path", "precision", "framework")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> OrderDesk:
    folder = tmp_path_factory.mktemp("orders")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        service_world(folder)
    return OrderDesk(folder / "data", OutputRoot.of(str(folder / "models")))


def take(desk: OrderDesk, fields: dict[str, Any]) -> JobOrder | None:
    """The order of a body as it would come through HTTP; None where it is refused by its field."""
    try:
        return desk.take(StartBody.model_validate({"name": "x", **fields}))
    except (ValidationError, ProblemError):
        return None


def check(desk: OrderDesk, fields: dict[str, Any]) -> None:
    before = sorted(desk.data.parent.rglob("*"))
    order = take(desk, fields)
    if order is not None:
        assert order.settings["dataset"] == "rows"
        assert order.save_dir is None or order.save_dir.resolve().is_relative_to(desk.output.folder)
        assert ":" not in order.settings["trainer"]["model"]["name"]
        json.dumps(order.settings, ensure_ascii=False).encode()
    assert sorted(desk.data.parent.rglob("*")) == before


BODIES = st.dictionaries(st.sampled_from(FIELDS), NAMES, max_size=3)


@given(fields=BODIES)
@settings(max_examples=100)
def test_names_of_anybody_lead_nowhere_but_to_what_is_there(desk: OrderDesk, fields: dict[str, Any]) -> None:
    check(desk, fields)


@pytest.mark.slow
@given(fields=BODIES)
@settings(max_examples=10_000)
def test_ten_thousand_names_lead_nowhere_but_to_what_is_there(desk: OrderDesk, fields: dict[str, Any]) -> None:
    check(desk, fields)


def test_the_operators_configuration_counts_for_its_own_dataset_where_a_body_says_nothing(desk: OrderDesk) -> None:
    trainer = {"window": {"history": 1, "horizon": 0}, "training": {"seed": 99}, "inputs": ["feature1"]}
    own = validate({"dataset": "rows", "trainer": trainer})
    order = replace(desk, settings=own).take(StartBody(name="x", target_column="target", epochs=3))
    made = order.settings["trainer"]
    assert (made["training"]["seed"], made["training"]["epochs"], made["training"]["batch_size"]) == (99, 3, 32)
    assert (made["inputs"], made["targets"]) == (["feature1"], ["target"])
    other = replace(desk, settings=validate({"dataset": "another", "trainer": trainer}))
    made = other.take(StartBody(name="x", dataset="rows", target_column="target")).settings["trainer"]
    assert (made["training"]["seed"], made["inputs"]) == (7, None)
    with pytest.raises(ProblemError, match="there is no dataset 'another'"):
        other.take(StartBody(name="x"))
