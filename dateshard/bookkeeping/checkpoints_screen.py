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
from dateshard.shardstore.errors import counted
from dateshard.terminal.screen import Screen, number, rounded, size

HEADER = ["checkpoint", "size", "saved", "val loss", ""]


def show_list(screen: Screen, document: CheckpointsListDocument) -> None:
    """The best, the others, everything else that lies there, and the sum."""
    screen.tell(_title(document["run"], document["folder"]))
    best = [row for row in document["checkpoints"] if row["name"] == document["best"]]
    others = [row for row in document["checkpoints"] if row["name"] != document["best"]]
    exports = [row for row in document["exports"] if row["file"] == "best_model.pth"]
    lines = list(map(_line, best))
    lines += [[row["file"], size(row["bytes"]), _time(row["saved"]), "", "export"] for row in exports]
    if screen.terminal:
        _block(screen, "best", [HEADER, *lines] if lines else [])
        _block(screen, counted(len(others), "other"), [HEADER, *map(_line, others)] if others else [])
    else:
        lines = [[*line[:-1], f"best {line[-1]}".rstrip()] if k < len(best) else line for k, line in enumerate(lines)]
        screen.table([HEADER, *lines, *map(_line, others)])
    _block(screen, "set aside", [[row["name"], size(row["bytes"])] for row in document["set_aside"]])
    if document["damaged"]:
        screen.tell()
        for row in document["damaged"]:
            screen.tell(f"damaged  {row['message']}")
    screen.tell()
    screen.tell(f"{counted(document['count'], 'checkpoint')}, {size(document['bytes'])} in all")


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


def show_info(screen: Screen, document: CheckpointInfoDocument) -> None:
    """Everything in the manifest."""
    screen.tell(document["folder"])
    screen.tell()
    facts = {
        "epoch": str(document["epoch"]),
        "batch": str(document["batch"]),
        "total_batches": str(document["total_batches"]),
        "step": str(document["step"]),
        "train_loss": _loss(document["train_loss"], "running mean of the epoch so far"),
        **{f"{name}_loss": _loss(loss, "the same of this loss") for name, loss in document["losses"].items()},
        "val_loss": _loss(document["val_loss"], "on these weights" if document["validated"] else "of the epoch before"),
        "best so far": f"{number(document['best_val_loss'], 6)} in epoch {document['best_epoch']}"
        if document["best_epoch"]
        else "-",
        "learning_rate": "-" if document["learning_rate"] is None else f"{document['learning_rate']:.6g}",
        "errors": f"{document['skipped']} (steps of this epoch without a finite gradient)",
        "saved": _time(document["saved"]) + (", pinned" if document["pinned"] else ""),
        "size": size(document["bytes"]),
        "run": document["run"] or "none: a copy",
        "dataset": f"{document['dataset']}, generation {document['generation']}, {document['data']}",
        "began with": document["init_from"] or "weights drawn from the seed",
    }
    screen.table([[key, value] for key, value in facts.items()], wrap=True)
    _block(screen, "files", [[row["file"], size(row["bytes"]), row["xxh3_128"]] for row in document["files"]])
    screen.tell(f"  damaged: {document['damage']}" if document["damage"] else "  every byte is as it was saved")
    for title, values in (("settings", document["settings"]), ("environment", document["environment"])):
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


def show_verified(screen: Screen, document: CheckpointsVerifyDocument) -> None:
    """A line each, the damaged ones with what to do."""
    screen.tell(_title(document["run"], document["folder"]))
    good = [row for row in document["verified"] if row["damage"] is None]
    screen.table([["ok", row["name"], size(row["bytes"])] for row in good], right=(2,))
    for row in document["verified"]:
        if row["damage"] is not None:
            screen.tell(f"damaged  {row['damage']}")
    total = sum(row["bytes"] for row in good)
    screen.tell(f"{len(good)} of {len(document['verified'])} verified ({size(total)}), {document['damaged']} damaged")


def show_loaded(screen: Screen, document: CheckpointLoadDocument) -> None:
    """Parameters and losses."""
    for note in document["notes"]:
        screen.tell(f"note: {note}")
    forward = document["forward"]
    facts = {
        "model": document["model"],
        "parameters": f"{document['parameters']:,}",
        "train_loss": number(document["train_loss"], 6),
        **{f"{name}_loss": number(loss, 6) for name, loss in document["losses"].items()},
        "val_loss": number(document["val_loss"], 6),
        "dataset": f"{document['dataset']}, generation {document['generation']}",
        "forward": f"{number(forward['loss'], 6)} on {counted(forward['windows'], 'window')} of {forward['split']}",
    }
    screen.tell(document["folder"])
    screen.tell("  every byte verified, loaded strictly")
    screen.table([[key, value] for key, value in facts.items()])


def show_cleaned(screen: Screen, document: CheckpointsCleanDocument) -> None:
    """What goes, what it frees, what stays."""
    verb = "would go" if document["dry_run"] else "removed"
    for name in (*document["removed"], *document["set_aside"]):
        screen.tell(f"{verb}  {name}")
    for message in document["damaged"]:
        screen.tell(f"damaged, left as it is  {message}")
    count = counted(len(document["removed"]) + len(document["set_aside"]), "checkpoint")
    freed = f"{size(document['freed'])} {'would be freed' if document['dry_run'] else 'freed'}"
    screen.tell(f"{count} {verb}, {freed}; {len(document['kept'])} kept ({size(document['left'])})")
