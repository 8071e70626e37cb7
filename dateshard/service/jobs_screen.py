"""What `jobs` shows of the jobs of a service."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dateshard.service.api_client import Document
from dateshard.terminal.screen import Screen, number

ENDS = {"complete": 0, "paused": 75, "stopped": 75, "failed": 1, "interrupted": 1}  # types of events -> exit code
HEADS = ("task", "state", "epoch", "best loss", "model", "dataset", "created", "name")


def show_jobs(screen: Screen, rows: list[Document]) -> None:
    """Shows jobs as a table."""
    cells = []
    for row in rows:
        state = row["training_state"] + (f" ({row['position']})" if row["position"] else "")
        epoch = f"{row['current_epoch']}/{row['total_epochs']}"
        best = number(row["best_metrics"]["loss"])
        cells.append(
            [row["task_id"], state, epoch, best, row["model_type"], row["dataset"], row["created"], row["name"]]
        )
    screen.table([HEADS, *cells], right=(2, 3))


def show_job(screen: Screen, job: Document) -> None:
    """Shows one job, a line a fact that it has."""
    row = job["job"]
    show_jobs(screen, [row])
    memory = row["memory_bytes"]
    facts = {
        "why": row["reason"],
        "process": row["pid"] and f"{row['pid']}" + (f", {memory / 1e6:,.0f} MB" if memory else ""),
        "ended": row["ended"],
        "may be asked to": ", ".join(row["moves"]),
    }
    screen.table([[name, str(value)] for name, value in facts.items() if value])


def event_line(event: Document) -> str:
    """A line about an event; empty for one that people need not see."""
    kinds: dict[str, Callable[[Document], str]] = {"progress": _epoch, "queued": _place, "position": _place}
    kind = event["type"]
    if kind in kinds:
        return kinds[kind](event)
    if kind in ("batch", "checkpoint"):
        return ""
    reason = event.get("reason")
    return str(event.get("training_state", kind)) + (f": {reason}" if reason else "")


def _place(event: Document) -> str:
    return f"queued, number {event['position']}"


def _epoch(event: Document) -> str:
    progress = event["progress"]
    metrics: dict[str, Any] = progress["latest_metrics"]
    accuracy = ""
    if metrics["train_accuracy"] is not None:
        accuracy = f" - Train Acc: {number(metrics['train_accuracy'])} - Val Acc: {number(metrics['val_accuracy'])}"
    return (
        f"Epoch {metrics['epoch']}/{progress['total_epochs']} - Time: {metrics['time_per_epoch']:.2f}s"
        f" - Train Loss: {number(metrics['train_loss'])} - Val Loss: {number(metrics['val_loss'])}{accuracy}"
    )
