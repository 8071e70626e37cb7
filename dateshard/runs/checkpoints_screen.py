"""What the checkpoints commands show people. Computes nothing but sums."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from dateshard.documents.checkpoints import (
    CheckpointInfoDocument,
    CheckpointLoadDocument,
    CheckpointRow,
    CheckpointsCleanDocument,
    CheckpointsListDocument,
    CheckpointsVerifyDocument,
)
from dateshard.terminal.screen import Screen, counted, number, rounded, size

HEADER = ["checkpoint", "size", "saved", "val loss", ""]


def show_list(screen: Screen, told: CheckpointsListDocument) -> None:
    """The best, the others, everything else that lies there, and the sum."""
    screen.tell(_title(told["run"], told["folder"]))
    best = [row for row in told["checkpoints"] if row["name"] == told["best"]]
    others = [row for row in told["checkpoints"] if row["name"] != told["best"]]
    exports = [row for row in told["exports"] if row["file"] == "best_model.pth"]
    lines = list(map(_line, best))
    lines += [[row["file"], size(row["bytes"]), _time(row["saved"]), "", "export"] for row in exports]
    if screen.terminal:
        _block(screen, "best", [HEADER, *lines] if lines else [])
        _block(screen, counted(len(others), "other"), [HEADER, *map(_line, others)] if others else [])
    else:
        lines = [[*line[:-1], f"best {line[-1]}".rstrip()] if k < len(best) else line for k, line in enumerate(lines)]
        screen.table([HEADER, *lines, *map(_line, others)])
    _block(screen, "set aside", [[row["name"], size(row["bytes"])] for row in told["set_aside"]])
    if told["damaged"]:
        screen.tell()
        for row in told["damaged"]:
            screen.tell(f"damaged  {row['message']}")
    screen.tell()
    screen.tell(f"{counted(told['count'], 'checkpoint')}, {size(told['bytes'])} in all")


def _title(run: str | None, folder: str) -> str:
    at = f"{folder} -> {os.path.relpath(os.path.realpath(folder))}" if os.path.islink(folder) else folder
    return f"run {run}, {at}" if run else f"{at} (no run's)"


def _block(screen: Screen, title: str, lines: list[list[str]], right: tuple[int, ...] = (1, 3)) -> None:
    if lines:
        screen.tell()
        screen.tell(title)
        screen.table(lines, right=right, wrap=not right)


def _line(row: CheckpointRow) -> list[str]:
    marks = [mark for mark, there in (("pinned", row["pinned"]), (".pth", row["exported"])) if there]
    loss = number(row["val_loss"]) if row["validated"] else "-"
    return [row["name"], size(row["bytes"]), _time(row["saved"]), loss, " ".join(marks)]


def _time(saved: str) -> str:
    """Writes a time without its offset: it is this machine's clock."""
    return saved[:19].replace("T", " ")


def show_info(screen: Screen, told: CheckpointInfoDocument) -> None:
    """Everything in the manifest."""
    screen.tell(told["folder"])
    screen.tell()
    facts = {
        "epoch": str(told["epoch"]),
        "batch": str(told["batch"]),
        "total_batches": str(told["total_batches"]),
        "step": str(told["step"]),
        "train_loss": _loss(told["train_loss"], "running mean of the epoch so far"),
        **{f"{name}_loss": _loss(loss, "the same of this loss") for name, loss in told["losses"].items()},
        "val_loss": _loss(told["val_loss"], "on these weights" if told["validated"] else "of the epoch before"),
        "best so far": f"{number(told['best_val_loss'], 6)} in epoch {told['best_epoch']}"
        if told["best_epoch"]
        else "-",
        "learning_rate": "-" if told["learning_rate"] is None else f"{told['learning_rate']:.6g}",
        "errors": f"{told['skipped']} (steps of this epoch without a finite gradient)",
        "saved": _time(told["saved"]) + (", pinned" if told["pinned"] else ""),
        "size": size(told["bytes"]),
        "run": told["run"] or "none: a copy",
        "dataset": f"{told['dataset']}, generation {told['generation']}, {told['data']}",
        "began with": told["init_from"] or "weights drawn from the seed",
    }
    screen.table([[key, value] for key, value in facts.items()], wrap=True)
    _block(screen, "files", [[row["file"], size(row["bytes"]), row["xxh3_128"]] for row in told["files"]])
    screen.tell(f"  damaged: {told['damage']}" if told["damage"] else "  every byte is as it was saved")
    for title, values in (("settings", told["settings"]), ("environment", told["environment"])):
        _block(screen, title, [[key, _value(value)] for key, value in values.items()], right=())


def _loss(value: float | None, what: str) -> str:
    return "-" if value is None else f"{value:.6f} ({what})"


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_value(inner)}" for key, inner in value.items())
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(map(_value, value))
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return rounded(value) if isinstance(value, float) else str(value)


def show_verified(screen: Screen, told: CheckpointsVerifyDocument) -> None:
    """A line each, the damaged ones with what to do."""
    screen.tell(_title(told["run"], told["folder"]))
    good = [row for row in told["verified"] if row["damage"] is None]
    screen.table([["ok", row["name"], size(row["bytes"])] for row in good], right=(2,))
    for row in told["verified"]:
        if row["damage"] is not None:
            screen.tell(f"damaged  {row['damage']}")
    total = sum(row["bytes"] for row in good)
    screen.tell(f"{len(good)} of {len(told['verified'])} verified ({size(total)}), {told['damaged']} damaged")


def show_loaded(screen: Screen, told: CheckpointLoadDocument) -> None:
    """Parameters and losses."""
    for note in told["notes"]:
        screen.tell(f"note: {note}")
    forward = told["forward"]
    facts = {
        "model": told["model"],
        "parameters": f"{told['parameters']:,}",
        "train_loss": number(told["train_loss"], 6),
        **{f"{name}_loss": number(loss, 6) for name, loss in told["losses"].items()},
        "val_loss": number(told["val_loss"], 6),
        "dataset": f"{told['dataset']}, generation {told['generation']}",
        "forward": f"{number(forward['loss'], 6)} on {counted(forward['windows'], 'window')} of {forward['split']}",
    }
    screen.tell(told["folder"])
    screen.tell("  every byte verified, loaded strictly")
    screen.table([[key, value] for key, value in facts.items()])


def show_cleaned(screen: Screen, told: CheckpointsCleanDocument) -> None:
    """What goes, what it frees, what stays."""
    verb = "would go" if told["dry_run"] else "removed"
    for name in (*told["removed"], *told["set_aside"]):
        screen.tell(f"{verb}  {name}")
    for message in told["damaged"]:
        screen.tell(f"damaged, left as it is  {message}")
    count = counted(len(told["removed"]) + len(told["set_aside"]), "checkpoint")
    freed = f"{size(told['freed'])} {'would be freed' if told['dry_run'] else 'freed'}"
    screen.tell(f"{count} {verb}, {freed}; {len(told['kept'])} kept ({size(told['left'])})")
