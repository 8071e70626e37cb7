"""Writes metrics.jsonl: a row every few steps and one an epoch; the same figures go to TensorBoard if that is asked for."""

from __future__ import annotations

import json
import math
from typing import Any, TextIO

from dateshard.shardstore.disk.naming import naming
from dateshard.trainer import loop
from dateshard.trainer.checkpoint import Saved
from dateshard.trainer.runs.start import Started
from dateshard.training.board import Board
from dateshard.training.rates import Rates

LOGGED_STEPS = 100  # rows of steps an epoch, at most about this many


class MetricRows:
    """Writes the rows of one process's part of a run.

    Args:
        file: metrics.jsonl, open at its end.
    """

    def __init__(self, started: Started, file: TextIO) -> None:
        self.file = file
        self.every = max(1, started.session.train.order.num_batches // LOGGED_STEPS)
        wanted = started.session.config.logging.tensorboard
        state = started.session.state
        self.rates = Rates(state.step if started.continued else None)
        whole = state.batch == started.session.train.order.num_batches and not state.validated
        step_known = state.step - whole  # the row of an epoch whose validation was cut off comes again
        self.board = Board(started.run.folder, step_known if started.continued else None) if wanted else None

    def add(self, event: loop.Event) -> None:
        """Adds the row of one event."""
        match event:
            case loop.Stepped():
                self.rates.add(event)
                if event.step % self.every == 0:
                    self._write({**step_row(event), **self.rates.step()})
            case loop.EpochDone():
                self._write({**_epoch_row(event), **self.rates.epoch()})
            case Saved():
                self.rates.saved()
                if self.board:
                    self.board.flush()
            case _:
                pass

    def close(self) -> None:
        """Ends TensorBoard's file; metrics.jsonl belongs to the caller."""
        if self.board:
            self.board.close()

    def _write(self, row: dict[str, Any]) -> None:
        with naming(self.file.name):
            self.file.write(json.dumps(row) + "\n")
            self.file.flush()
        if self.board:
            self.board.add(row)


def step_row(event: loop.Stepped) -> dict[str, Any]:
    """What metrics.jsonl says of a step, without the rates of the process that takes it."""
    return {
        "step": event.step,
        "epoch": event.epoch + 1,
        "batch": event.batch,
        "loss": _number(event.loss),
        "losses": {name: _number(loss) for name, loss in event.losses.items()},
        "learning_rate": event.learning_rate,
        "skipped": event.skipped,
    }


def _epoch_row(event: loop.EpochDone) -> dict[str, Any]:
    return {
        "step": event.step,
        "epoch": event.epoch + 1,
        "train_loss": event.train_loss,
        "val_loss": event.val_loss,
        "train_accuracy": event.train["accuracy"],
        "val_accuracy": event.validation["accuracy"] if event.validation else None,
        "learning_rate": event.learning_rate,
        "skipped": event.skipped,
        "time_per_epoch": event.seconds,
        "train": _short(event.train),
        "validation": _short(event.validation),
        **({} if event.judged is None else {"judged": event.judged}),
    }


def _short(report: dict[str, Any] | None) -> dict[str, Any] | None:
    """What metrics.jsonl keeps of an epoch: overall figures, each loss, each categorical target's averages."""
    if report is None:
        return None
    numbers = {key: report[key] for key in ("mse", "rmse", "mae", "bias", "r2", "losses", "sampled")}
    figures = ("accuracy", "log_loss", "macro_avg", "weighted_avg")
    return {
        **numbers,
        "classes": {name: {key: report_of[key] for key in figures} for name, report_of in report["classes"].items()},
    }


def _number(loss: Any) -> float | None:
    """A loss as JSON takes it: null where a step was skipped."""
    value = float(loss)
    return value if math.isfinite(value) else None
