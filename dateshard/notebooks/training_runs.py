"""A training run as an object: its state, its history, its checkpoints, and what its model is asked for."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dateshard.bookkeeping.checkpoint_chores import list_checkpoints, place_of
from dateshard.bookkeeping.listing import describe, list_runs, open_run
from dateshard.judging.judge import evaluate_run, keep_forecasts, run_of
from dateshard.judging.prediction import predict
from dateshard.judging.predictor import Predictor
from dateshard.judging.tables import show
from dateshard.reports.making import write_report
from dateshard.requests.request_sections import request_sections
from dateshard.terminal.screen import Screen, number
from dateshard.trainer.runs.run_folder import TrainingRun
from dateshard.training.replay import replay_step
from dateshard.training.replay_screen import show_replay

if TYPE_CHECKING:
    import polars
    import torch

LOSSES = ("train_loss", "val_loss", "train_accuracy", "val_accuracy", "learning_rate")
EPOCH_COLUMNS = ("epoch", "step", *LOSSES, "skipped", "time_per_epoch")


class Run:
    """A training run, by its name; `latest`: the newest. Everything is read when it is asked for.

    Attributes:
        name: of its folder below `data/runs`.
    """

    def __init__(self, name: str = "latest") -> None:
        """Raises NotThereError where there is no such run."""
        self._run: TrainingRun = open_run(name)
        self.name = self._run.name

    def __repr__(self) -> str:
        row, fault = describe(self._run)
        best = f", best validation loss {number(row['best_val_loss'])} in epoch {row['best_epoch']}"
        state = row["state"] + (f" ({row['why']})" if row["why"] else "")
        place = f"epoch {row['epoch']} of {row['epochs']}" if row["epoch"] else "no checkpoint yet"
        tail = best if row["best_val_loss"] is not None else ""
        return fault or f"run {self.name}: {row['model']} on {row['dataset']}, {state}, {place}{tail}"

    @property
    def folder(self) -> Path:
        """Where its record, metrics, log and checkpoints lie."""
        return self._run.folder

    @property
    def state(self) -> str:
        """Returns running, stopped, ended, failed, cut off or damaged."""
        return describe(self._run)[0]["state"]

    @property
    def config(self) -> dict[str, Any]:
        """The resolved settings of the trainer, as a tree."""
        return dict(self._run.facts().config)

    @property
    def history(self) -> polars.DataFrame:
        """A row an epoch: losses, accuracies of categorical targets, learning rate, skipped steps, seconds."""
        import polars as pl

        rows = [row for row in self._run.metrics() if "train_loss" in row]
        columns = {name: [row.get(name) for row in rows] for name in EPOCH_COLUMNS}
        whole = dict.fromkeys(("epoch", "step", "skipped"), pl.Int64)
        return pl.DataFrame(columns, schema={name: whole.get(name, pl.Float64) for name in EPOCH_COLUMNS})

    @property
    def steps(self) -> polars.DataFrame:
        """A row every few steps: epoch, batch, step, loss, learning rate."""
        import polars as pl

        names = {
            "epoch": pl.Int64,
            "batch": pl.Int64,
            "step": pl.Int64,
            "loss": pl.Float64,
            "learning_rate": pl.Float64,
        }
        rows = [row for row in self._run.metrics() if "batch" in row]
        return pl.DataFrame({name: [row.get(name) for row in rows] for name in names}, schema=names)

    @property
    def checkpoints(self) -> polars.DataFrame:
        """A row a checkpoint, best first and then the newest: what `checkpoints list` shows."""
        import polars as pl

        document = list_checkpoints(place_of(self.name, None))
        return pl.DataFrame(document["checkpoints"], infer_schema_length=None)

    def evaluate(
        self,
        split: str = "test",
        *,
        checkpoint: str = "best",
        baselines: Sequence[str] | None = None,
        baseline_windows: int | None = None,
        forecasts: str | Path | None = None,
        trust: bool = False,
    ) -> Scores:
        """Compares the model with its baselines on the same windows of a split; as the command, it is kept beside the run.

        Args:
            baselines: names, or `my_module:forecast`; None: those of the settings.
            forecasts: a .parquet file that truth and forecast of every window are written to.
            trust: the code that the run names may be imported, though it was made elsewhere; from now on.
        """
        run = run_of(self.name, trust=trust)
        result, headline = evaluate_run(run, checkpoint, split, baselines, baseline_windows)
        if forecasts is not None:
            keep_forecasts(run, checkpoint, split, Path(forecasts))
        text = io.StringIO()
        screen = Screen(out=text)
        screen.tell(headline)
        show(screen, result)
        return Scores(text.getvalue().rstrip(), result.to_json())

    def replay(self, step: int, *, trace: bool = False, trust: bool = False) -> Replay:
        """Takes a step of the training again, in memory, to the same bits; writes nothing.

        Args:
            step: from 1. trace: list its windows by their loss, and the rows of the dumps behind them.
            trust: the code that the run names may be imported, though it was made elsewhere; from now on.

        Raises:
            UsageError, StoreError: there is no such step, or what it rests on is gone.
        """
        again = replay_step(self._run, step, trace=trace, trust=trust)
        text = io.StringIO()
        show_replay(Screen(out=text), again.document)
        return Replay(text.getvalue().rstrip(), dict(again.document), again.weights)

    def predict(self, history: str | Sequence[str] = (), **asked: Any) -> polars.DataFrame:
        """Forecasts what comes after raw dumps, or after committed dates: `dateshard.predict` with this run."""
        return predict(self.name, history, **asked)

    def predictor(self, **asked: Any) -> Predictor:
        """Loads the model once, to answer again and again: `dateshard.Predictor` with this run."""
        return Predictor(self.name, **asked)

    def report(self, output: str | Path | None = None, split: str | None = None) -> Path:
        """Writes the run's page and returns where it lies; evaluates first where that was not done yet."""
        place = None if output is None else str(output)
        return Path(write_report(self._run, place, split, more=request_sections)["file"])


@dataclass(frozen=True, slots=True, repr=False)
class Replay:
    """A step taken again: printed it is the command's text.

    Attributes:
        document: what `replay --json` prints; docs/json.md describes it.
        weights: the model's tensors after the step, by name.
    """

    text: str
    document: dict[str, Any]
    weights: dict[str, torch.Tensor]

    def __repr__(self) -> str:
        return self.text

    @property
    def equal(self) -> bool | None:
        """Tells whether its figures are those that metrics.jsonl has; None where the step was not logged."""
        equal: bool | None = self.document["equal"]
        return equal


@dataclass(frozen=True, slots=True, repr=False)
class Scores:
    """An evaluation: printed it is the command's text.

    Attributes:
        document: what `evaluate --json` prints; docs/json.md describes it.
    """

    text: str
    document: dict[str, Any]

    def __repr__(self) -> str:
        return self.text

    @property
    def outcome(self) -> str | None:
        """Returns beats, loses or unclear; None where there is no baseline."""
        outcome: str | None = self.document["outcome"]
        return outcome

    @property
    def table(self) -> polars.DataFrame:
        """A row a predictor and numeric target (all of them together: null): errors scaled, and in raw units."""
        import polars as pl

        rows = []
        for row in self.document["rows"]:
            of_all = (None, row["scaled"], row["raw"])
            each = ((name, row["scaled"]["by_feature"][name], raw) for name, raw in row["raw"]["by_feature"].items())
            for target, scaled, raw in (of_all, *each):
                figures = {"scaled_mse": scaled["mse"], "scaled_mae": scaled["mae"], "r2": scaled["r2"]}
                figures |= {name: raw[name] for name in ("mae", "rmse", "bias", "wape")}
                rows.append({"name": row["name"], "kind": row["kind"], "target": target, **figures})
        return pl.DataFrame(rows, infer_schema_length=None)


def runs(dataset: str | None = None, state: str | None = None) -> list[Run]:
    """Training runs, newest first.

    Args:
        dataset, state: only those.
    """
    return [Run(row["run"]) for row in list_runs(dataset, state, None)[0]]
