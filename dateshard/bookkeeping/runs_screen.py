"""Shows runs, compare and tail to people: tables, sparklines and the notes' lines."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from dateshard.documents.runs import CompareDocument, ComparedRun, RunRow
from dateshard.shardstore.commands import command
from dateshard.shardstore.errors import shorten
from dateshard.terminal.screen import Screen, columns, in_a_line, number, rounded, seconds, size

SPARKS = "▁▂▃▄▅▆▇█"
SPARK_COLUMNS = 40
CELL = 24  # characters of a setting beside others


def show_runs(screen: Screen, rows: Sequence[RunRow]) -> None:
    """A row a run; below it how a run that was cut off or failed goes on. Nothing where there is no run."""
    if not rows:
        return
    header = [
        "run",
        "state",
        "model",
        "epoch",
        "batch",
        "best val loss",
        "in epoch",
        "checkpoints",
        "size",
        "started",
        "time",
    ]
    table = [header]
    for row in rows:
        best = str(row["best_epoch"]) if row["best_epoch"] else "-"
        epoch = f"{row['epoch']}/{row['epochs'] or '?'}"
        started = (row["started"] or "-")[:16].replace("T", " ")
        took = "-" if row["seconds"] is None else seconds(row["seconds"])
        loss, held = number(row["best_val_loss"]), size(row["bytes"])
        place = [row["model"], epoch, str(row["batch"]), loss, best]
        table.append([row["run"], standing_text(row), *place, str(row["checkpoints"]), held, started, took])
    if screen.terminal:
        table = _narrowed(table)
    screen.table(table, right=range(3, len(table[0])) if not screen.terminal else _numbers(table[0]))
    for row in rows:
        if row["state"] == "failed":
            screen.tell(f"{row['run']} failed: {row['why']}")
    going = [row["resume"] for row in rows if row["resume"]]
    for following in going[:5]:
        screen.tell(f"go on: {following}")


def standing_text(row: RunRow | ComparedRun) -> str:
    """Tells how a run stands: `ended: epochs`, `cut off`."""
    return f"{row['state']}: {row['why']}" if row["state"] == "ended" and row["why"] else row["state"]


LEAST = (
    "time",
    "started",
    "size",
    "checkpoints",
    "batch",
    "in epoch",
    "model",
)  # left out first where there is no room


def _narrowed(table: list[list[str]]) -> list[list[str]]:
    """The table with as many columns as stand side by side on the terminal; --json and a pipe have all."""
    for name in ("", *LEAST):
        if name in table[0]:
            place = table[0].index(name)
            table = [row[:place] + row[place + 1 :] for row in table]
        if table_width(table) <= columns():
            break
    return table


def _numbers(header: Sequence[str]) -> list[int]:
    left = ("run", "state", "model", "started")
    return [place for place, name in enumerate(header) if name not in left]


OUTCOMES = (  # label, key, digits
    ("best val loss", "best_val_loss", 4),
    ("in epoch", "best_epoch", 0),
    ("epoch", "epoch", 0),
    ("steps", "steps", 0),
    ("training windows", "windows", 0),
    ("parameters", "parameters", 0),
    ("seconds an epoch", "seconds_per_epoch", 2),
    ("windows/s", "windows_per_second", 0),
    ("seconds in all", "seconds", 1),
    ("generation", "generation", 0),
)


def show_comparison(screen: Screen, told_: CompareDocument) -> None:
    """Settings that differ, outcomes, curves of the validation loss on a terminal, and what makes it no comparison."""
    runs = told_["runs"]
    rows = [["state", *(standing_text(run) for run in runs)]]
    rows += [[row["key"], *map(_value, row["values"])] for row in told_["settings"]]
    for label, key, digits in OUTCOMES:
        rows.append([label, *(_figure(run.get(key), digits) for run in runs)])
    for name in ("mse", "rmse", "mae", "r2"):
        if any(run["test"] for run in runs):
            rows.append([f"test {name} (scaled)", *(_figure((run["test"] or {}).get(name), 4) for run in runs)])
    _side_by_side(screen, [run["run"] for run in runs], rows)
    if not told_["settings"]:
        screen.tell("no setting differs")
    if screen.terminal:
        _show_curves(screen, runs)
    for note in told_["notes"]:
        screen.explain(f"note: {note}")
    if not all(run["test"] for run in runs):
        missing = next(run["run"] for run in runs if not run["test"])
        screen.say(f"Test figures come from: {command('evaluate', missing)}")


def _side_by_side(screen: Screen, names: Sequence[str], rows: list[list[str]]) -> None:
    """Shows a column a run.

    Where a terminal is too narrow for their names these are numbered, and as many runs as it has room for stand beside each
    other, the others below them."""
    whole = [["", *names], *rows]
    if not screen.terminal or table_width(whole) <= columns():
        screen.table(whole)
        return
    numbers = [f"({place})" for place in range(1, len(names) + 1)]
    screen.table(list(zip(numbers, names, strict=True)))
    table = [
        ["", *numbers],
        *([row[0].removeprefix("trainer."), *(shorten(cell, CELL) for cell in row[1:])] for row in rows),
    ]
    first = 1
    while first <= len(names):
        stop = first + 1
        while stop <= len(names) and table_width([[row[0], *row[first : stop + 1]] for row in table]) <= columns():
            stop += 1
        screen.tell()
        screen.table([[row[0], *row[first:stop]] for row in table])
        first = stop


def table_width(table: Sequence[Sequence[str]]) -> int:
    """Cells that it takes on a terminal."""
    from rich.cells import cell_len

    return 2 * len(table[0]) + sum(max(cell_len(in_a_line(row[k])) for row in table) for k in range(len(table[0])))


def _show_curves(screen: Screen, runs: Sequence[ComparedRun]) -> None:
    """All on one scale, so that they can be compared."""
    name = "val_loss" if any(loss is not None for run in runs for loss in run["val_loss"]) else "train_loss"
    curves = [run["val_loss"] if name == "val_loss" else run["train_loss"] for run in runs]
    known = [loss for curve in curves for loss in curve if loss is not None and math.isfinite(loss)]
    if not known:
        return
    low, high = min(known), max(known)
    screen.tell()
    screen.tell(f"{name.replace('_', ' ')} by epoch, {number(low)} to {number(high)}")
    screen.table([[run["run"], sparkline(curve, low, high)] for run, curve in zip(runs, curves, strict=True)])


def sparkline(curve: Sequence[float | None], low: float, high: float, width: int = SPARK_COLUMNS) -> str:
    """One sign an epoch, of long curves one for several (their mean); a gap where there is no figure."""
    per = -(-len(curve) // width) or 1
    signs = []
    for start in range(0, len(curve), per):
        known = [loss for loss in curve[start : start + per] if loss is not None and math.isfinite(loss)]
        share = (sum(known) / len(known) - low) / (high - low) if known and high > low else 0.0
        signs.append(SPARKS[min(int(share * len(SPARKS)), len(SPARKS) - 1)] if known else " ")
    return "".join(signs)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return value if isinstance(value, str) else rounded(value) if isinstance(value, float) else json.dumps(value)


def _figure(value: Any, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def line_of(row: Mapping[str, Any], epochs: int | None, batches: int | None) -> str:
    """One row of metrics.jsonl as the notes write it; an epoch counts from 0 there."""
    if "val_loss" in row:
        took = "-" if row.get("time_per_epoch") is None else f"{row['time_per_epoch']:.2f}s"
        errors = f" - Errors: {row['skipped']}" if row.get("skipped") else ""
        return (
            f"Epoch {row['epoch'] - 1}/{epochs or '?'} - Time: {took} - Train Loss: {number(row.get('train_loss'))}"
            f" - Val Loss: {number(row['val_loss'])}{errors}"
        )
    losses = row.get("losses") or {}
    named = "".join(f", {name}: {number(loss, 6)}" for name, loss in losses.items()) if len(losses) > 1 else ""
    errors = f", Errors: {row['skipped']}" if row.get("skipped") else ""
    place = f"Epoch: {row['epoch'] - 1}, Batch: {row['batch'] - 1}/{batches or '?'}"
    return f"{place}, Loss: {number(row.get('loss'), 6)}{named}{errors}"
