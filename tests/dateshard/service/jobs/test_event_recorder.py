"""What a training tells the log of its job."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dateshard.service.jobs.event_recorder import EventRecorder
from dateshard.service.jobs.job_table import JobOrder, JobTable
from dateshard.service.jobs.service_folder import ServiceFolder
from dateshard.trainer.loop import EpochDone, Stepped


@pytest.fixture
def table(tmp_path: Path) -> Iterator[JobTable]:
    table = JobTable.open(ServiceFolder(tmp_path).path)
    with table.database.writing():
        table.add("job", "n", JobOrder({}, {}, None), tmp_path)
    yield table
    table.database.close()


def epoch(number: int, train: float | None, val: float | None, accuracy: float | None = None) -> EpochDone:
    report: dict[str, Any] = {"accuracy": accuracy}
    return EpochDone(
        epoch=number,
        step=number * 4,
        train=report,
        validation=report if val is not None else None,
        train_loss=train,
        val_loss=val,
        best=False,
        skipped=0,
        seconds=0.25,
        learning_rate=0.1,
    )


def step(number: int) -> Stepped:
    return Stepped(
        epoch=0,
        batch=number,
        num_batches=9,
        step=number,
        loss=torch.tensor(math.nan),
        losses={},
        skipped=0,
        size=1,
        learning_rate=0.1,
        wait_seconds=0.0,
    )


def test_an_epoch_is_told_with_the_seven_figures_and_the_best_so_far(table: JobTable) -> None:
    recorder = EventRecorder(table, table.job("job"))
    recorder.epochs = 9
    recorder.watch(epoch(0, 0.5, 0.4, 0.7))
    recorder.watch(epoch(1, 0.4, math.nan, 0.6))
    recorder.watch(epoch(2, math.inf, 0.3, 0.5))
    rows = [event["progress"] for event in table.recorded("job", "progress")]
    assert rows[0] == {
        "current_epoch": 1,
        "total_epochs": 9,
        "training_state": "running",
        "latest_metrics": {
            "epoch": 1,
            "train_loss": 0.5,
            "train_accuracy": 0.7,
            "val_loss": 0.4,
            "val_accuracy": 0.7,
            "learning_rate": 0.1,
            "time_per_epoch": 0.25,
        },
        "best_metrics": {"loss": 0.4, "accuracy": 0.7},
    }
    assert [row["latest_metrics"]["val_loss"] for row in rows] == [0.4, None, 0.3]
    assert [row["best_metrics"]["loss"] for row in rows] == [0.4, 0.4, 0.3]
    assert rows[-1]["latest_metrics"]["train_loss"] is None


def test_an_epoch_that_was_told_is_not_told_again(table: JobTable) -> None:
    first = EventRecorder(table, table.job("job"))
    for number in range(3):
        first.watch(epoch(number, 0.5, 0.4 - number / 10))
    second = EventRecorder(table, table.job("job"))
    for number in range(1, 4):
        second.watch(epoch(number, 0.5, 0.35))
    rows = [event["progress"] for event in table.recorded("job", "progress")]
    assert [row["current_epoch"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["best_metrics"]["loss"] == pytest.approx(0.2), "the best of the process before counts"


def test_without_validation_the_best_is_of_training_and_of_a_regression_there_is_no_accuracy(table: JobTable) -> None:
    recorder = EventRecorder(table, table.job("job"))
    recorder.watch(epoch(0, 0.5, None))
    (event,) = table.recorded("job", "progress")
    assert event["progress"]["best_metrics"] == {"loss": 0.5, "accuracy": None}
    assert event["progress"]["latest_metrics"]["val_loss"] is None
    assert event["progress"]["latest_metrics"]["train_accuracy"] is None


def test_single_batches_are_news_that_are_thinned(table: JobTable) -> None:
    recorder = EventRecorder(table, table.job("job"))
    for number in range(1, 40):
        recorder.watch(step(number))
    events = table.recorded("job", "batch")
    assert 1 <= len(events) < 20
    assert (events[0]["epoch"], events[0]["batch"], events[0]["loss"]) == (1, 1, None)
    assert events[0]["memory_bytes"] > 10**6
