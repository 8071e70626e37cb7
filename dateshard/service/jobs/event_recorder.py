"""Writes the events of a training to the log of its job, in the words of the service."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from dateshard.service.jobs.job_table import JobTable, ServiceJob
from dateshard.trainer import loop
from dateshard.trainer.checkpoint import Saved
from dateshard.trainer.memory.process_memory import private_bytes
from dateshard.trainer.runs.start import Started
from dateshard.training.train import TrainingEvent

BATCH_SECONDS = 0.5  # between two events of batches
FIGURES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate", "time_per_epoch")


class EventRecorder:
    """Records one process's part of a job's training. Epochs that an earlier process told are not told again.

    A resumed run repeats, to the same bits, the batches behind its checkpoint.
    """

    def __init__(self, table: JobTable, job: ServiceJob) -> None:
        self.table, self.job = table, job
        history = [event["progress"] for event in table.recorded(job.id, "progress")]
        self.last_epoch = history[-1]["current_epoch"] if history else 0
        self.best: dict[str, float | None] = (
            history[-1]["best_metrics"] if history else {"loss": None, "accuracy": None}
        )
        self.epochs, self.due = 0, 0.0

    def watch(self, event: TrainingEvent) -> None:
        """Records one event."""
        match event:
            case Started():
                self._start(event)
            case loop.Stepped():
                if (now := time.monotonic()) >= self.due:
                    self.due = now + BATCH_SECONDS
                    self._step(event)
            case loop.EpochDone():
                if event.epoch + 1 > self.last_epoch:
                    self._epoch(event)
            case Saved():
                place = {"epoch": event.epoch + 1, "batch": event.batch, "step": event.step}
                self.table.tell(self.job.id, "checkpoint", {"checkpoint": event.folder.name, **place})
            case _:
                pass

    def _start(self, started: Started) -> None:
        self.epochs = started.session.config.training.epochs
        facts = {"run": started.run.name, "continued": started.continued, "total_epochs": self.epochs}
        notes = [*started.notes, *started.warnings]
        self.table.run(self.job, {**facts, "notes": notes})

    def _step(self, event: loop.Stepped) -> None:
        place = {"epoch": event.epoch + 1, "batch": event.batch, "num_batches": event.num_batches, "step": event.step}
        figures = {"loss": finite(float(event.loss)), "learning_rate": event.learning_rate}
        with suppress(sqlite3.OperationalError):  # news, which nothing rests on
            self.table.tell(self.job.id, "batch", {**place, **figures, "memory_bytes": private_bytes()})

    def _epoch(self, event: loop.EpochDone) -> None:
        metrics = metrics_of(event)
        judged = metrics["val_loss"] if event.validation else metrics["train_loss"]
        accuracy = metrics["val_accuracy"] if event.validation else metrics["train_accuracy"]
        self.best = {"loss": _least(self.best["loss"], judged), "accuracy": _most(self.best["accuracy"], accuracy)}
        self.last_epoch = event.epoch + 1
        progress = {
            "current_epoch": event.epoch + 1,
            "total_epochs": self.epochs,
            "training_state": "running",
            "latest_metrics": metrics,
            "best_metrics": self.best,
        }
        self.table.tell(self.job.id, "progress", {"progress": progress})
        self.table.thin(self.job.id)


def metrics_of(event: loop.EpochDone) -> dict[str, Any]:
    """The seven figures of an epoch; accuracies are those of categorical targets, null without one."""
    figures: Mapping[str, Any] = {
        "train_loss": event.train_loss,
        "train_accuracy": event.train["accuracy"],
        "val_loss": event.val_loss,
        "val_accuracy": event.validation["accuracy"] if event.validation else None,
        "learning_rate": event.learning_rate,
        "time_per_epoch": round(event.seconds, 3),
    }
    return {"epoch": event.epoch + 1, **{name: finite(figures[name]) for name in FIGURES}}


def finite(value: float | None) -> float | None:
    """A figure as JSON takes it: null where it is no finite number."""
    return value if value is not None and math.isfinite(value) else None


def _least(before: float | None, now: float | None) -> float | None:
    return min((value for value in (before, now) if value is not None), default=None)


def _most(before: float | None, now: float | None) -> float | None:
    return max((value for value in (before, now) if value is not None), default=None)
