"""Training runs: how each one stands, and several side by side. What is told comes from their folders alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from dateshard.documents.runs import CompareDocument, ComparedRun, RunRow, SettingRow
from dateshard.judging.verdict import kept
from dateshard.places import runs_folder
from dateshard.shardstore.commands import command
from dateshard.shardstore.errors import DamagedError, UsageError
from dateshard.trainer import checkpoint
from dateshard.trainer.config import flatten
from dateshard.trainer.runs.run_folder import TrainingRun, all_runs, newest
from dateshard.trainer.runs.run_record import RunRecord
from dateshard.trainer.runs.status import RESUMABLE, Standing, standing

STATES = ("running", "stopped", "ended", "failed", "cut off", "damaged")
LOSSES = ("loss", "losses", "huber_delta", "class_weights")  # of trainer.training: what is minimised
TOLD = ("mse", "rmse", "mae", "r2")  # of a stored evaluation's model, scaled


def list_runs(dataset: str | None, state: str | None, most: int | None) -> tuple[list[RunRow], list[str]]:
    """Rows, newest first, and what is wrong with damaged ones.

    Args:
        dataset, state: only those; None: all. most: so many at most.
    """
    rows, faults = list[RunRow](), list[str]()
    for run in all_runs(runs_folder()):
        row, fault = describe(run)
        if (dataset and row["dataset"] != dataset) or (state and row["state"] != state):
            continue
        rows.append(row)
        faults += [fault] if fault else []
        if most is not None and len(rows) == most:
            break
    return rows, faults


def describe(run: TrainingRun) -> tuple[RunRow, str]:
    """One run's row, and its fault where run.json is damaged (what can be told is told all the same)."""
    fault, record = "", None
    try:
        record = run.facts()
    except DamagedError as error:
        fault = f"damaged  {run.name}  {error}"
    saved, _ = checkpoint.scan(run.checkpoints)
    state = saved[-1].state if saved else None
    stands = standing(run, saved[-1] if saved else None)
    if fault and stands.state != "running":
        stands = Standing(state="damaged", began=stands.began, seconds=stands.seconds)
    known = record or state
    return {
        "run": run.name,
        "state": stands.state,
        "why": stands.why,
        "dataset": known.bound.data.name if known else None,
        "model": record.model if record else "?",
        "epoch": state.epoch + 1 if state else 0,
        "epochs": known.config.get("training", {}).get("epochs") if known else None,
        "batch": state.batch if state else 0,
        "batches": state.num_batches if state else None,
        "steps": state.step if state else 0,
        "best_val_loss": checkpoint.loss_of_best(state.progress, saved) if state else None,
        "best_epoch": state.progress.best_epoch + 1 if state else 0,
        "checkpoints": len(saved),
        "bytes": sum(each.num_bytes for each in saved),
        "started": record.created if record else None,
        "seconds": stands.seconds,
        "resume": _resume(run, stands),
    }, fault


def _resume(run: TrainingRun, stands: Standing) -> str | None:
    """The command that goes on with the run; None where there is nothing to go on with, or it runs."""
    if stands.why == "max steps":
        return command("train", "--resume", run.name, "--max-steps", "null")
    return command("train", "--resume", run.name) if stands.state in (*RESUMABLE, "damaged") else None


def open_run(name: str) -> TrainingRun:
    """A run by its name; `latest` is the newest.

    Raises:
        NotThereError: there is none.
    """
    return newest(runs_folder()) if name == "latest" else TrainingRun.open(runs_folder(), name)


def compare(names: Sequence[str]) -> CompareDocument:
    """Runs side by side: the settings in which they differ, their outcomes, and what keeps them from being compared.

    Raises:
        UsageError: fewer than two runs.
    """
    if len(names) < 2:
        raise UsageError("a comparison needs two runs or more", todo=f"See: {command('runs')}")
    runs = [open_run(name) for name in names]
    records = [run.facts_or_recovered() for run in runs]
    configs = [record.config if record else {} for record in records]
    settings = [flatten(config) for config in configs]
    keys = dict.fromkeys(key for leaves in settings for key in leaves)
    differing = [key for key in keys if any(leaves.get(key) != settings[0].get(key) for leaves in settings)]
    rows: list[SettingRow] = [
        {"key": f"trainer.{key}", "values": [leaves.get(key) for leaves in settings]} for key in differing
    ]
    outcomes = [_outcome(run, record) for run, record in zip(runs, records, strict=True)]
    return {"runs": outcomes, "settings": rows, "notes": _notes(configs, outcomes)}


def _outcome(run: TrainingRun, record: RunRecord | None) -> ComparedRun:
    row, _ = describe(run)
    metrics = list(run.metrics())
    epochs = [line for line in metrics if "val_loss" in line]
    times = [line["time_per_epoch"] for line in epochs if line.get("time_per_epoch")]
    seconds = median(times) if times else None  # an epoch that was continued counts only its rest
    windows, data = (record.windows, record.bound.data) if record else (None, None)
    rates = [line["windows_per_second"] for line in epochs if line.get("windows_per_second")]
    plain = windows / seconds if windows and seconds else None  # validation included
    return {
        "run": run.name,
        "state": row["state"],
        "why": row["why"],
        "dataset": row["dataset"],
        "generation": data.generation if data else None,
        "data": data.id if data else None,
        "split": dict(record.split) if record and record.split is not None else None,
        "model": row["model"],
        "parameters": record.parameters if record else None,
        "windows": windows,
        "epoch": row["epoch"],
        "steps": row["steps"],
        "best_val_loss": row["best_val_loss"],
        "best_epoch": row["best_epoch"],
        "seconds": row["seconds"],
        "seconds_per_epoch": seconds,
        "windows_per_second": median(rates) if rates else plain,
        "test": _evaluated(run),
        "train_loss": [line.get("train_loss") for line in epochs],
        "val_loss": [line.get("val_loss") for line in epochs],
    }


def _evaluated(run: TrainingRun) -> dict[str, float | None] | None:
    """Scaled figures of the run's best weights, of the evaluation of the test split beside it; None without one."""
    best = next(iter(checkpoint.ranked(checkpoint.scan(run.checkpoints)[0])), None)
    verdict = kept(run, "test", best, older=True) if best else None
    model = verdict.row() if verdict else None
    return {name: model["scaled"][name] for name in TOLD} if model else None


def _notes(configs: Sequence[Mapping[str, Any]], runs: Sequence[ComparedRun]) -> list[str]:
    """What keeps the figures from being comparable."""
    notes = []
    if len({run["dataset"] for run in runs}) > 1:
        notes.append("they were trained on different datasets: their losses cannot be compared")
    elif len({run["data"] for run in runs}) > 1:
        numbers = ", ".join(f"{run['run']} {run['generation']}" for run in runs)
        notes.append(f"not the same data (generations: {numbers}): dates or statistics differ, and so may every loss")
    splits = [run["split"] for run in runs if run["split"] is not None]
    if any(split != splits[0] for split in splits):
        notes.append("their splits differ: validation losses are of other dates")
    for section, what in (("window", "windows"), ("targets", "targets")):
        if any(config.get(section) != configs[0].get(section) for config in configs):
            notes.append(f"their {what} differ: losses are of other targets")
    losses = [{key: config.get("training", {}).get(key) for key in LOSSES} for config in configs]
    if any(loss != losses[0] for loss in losses):
        notes.append("their losses differ (trainer.training.loss): compare rmse or mae, not the loss")
    return notes
