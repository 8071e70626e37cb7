"""What `bench epoch` shows: a line a way while it runs, then the table."""

from __future__ import annotations

from collections.abc import Sequence

from dateshard.documents.benching import BenchEpochDocument, WayRow
from dateshard.terminal.screen import Screen, number, seconds, size

HEADS = ["way", "memory", "first batch", "epoch", "train loss", "val loss", "windows"]


def show_bench(screen: Screen, document: BenchEpochDocument) -> None:
    """Prints the table, and what its columns are."""
    screen.tell(headline(document))
    screen.tell()
    screen.table(table_of(document["ways"]), right=range(1, len(HEADS)))
    screen.tell()
    for row in document["ways"]:
        if row["skipped"]:
            screen.explain(f"{row['way']}: skipped: {row['skipped']}")
    screen.explain(legend(document))


def table_as_text(document: BenchEpochDocument) -> str:
    """The table with its columns aligned, whatever it is printed to."""
    rows = table_of(document["ways"])
    widths = [max(len(row[k]) for row in rows) for k in range(len(HEADS))]
    lines = [
        "  ".join(
            cell.rjust(wide) if k else cell.ljust(wide) for k, (cell, wide) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    skipped = [f"{row['way']}: skipped: {row['skipped']}" for row in document["ways"] if row["skipped"]]
    return "\n".join([headline(document), "", *lines, *skipped])


def progress_of(row: WayRow) -> str:
    """One line when a way is measured."""
    if row["skipped"] or row["epoch_seconds"] is None:
        return f"{row['way']}: skipped"
    return f"{row['way']}: an epoch in {duration(row['epoch_seconds'])}"


def headline(document: BenchEpochDocument) -> str:
    """Says what was measured, when and where."""
    of = f"{document['dataset']}, generation {document['generation']}: one epoch of {document['model']}"
    return f"{of}, batches of {document['batch_size']:,}; measured {document['date']} on {document['machine']}"


def table_of(rows: Sequence[WayRow]) -> list[list[str]]:
    """The table as texts, with its heads."""
    return [HEADS, *(_cells(row) for row in rows)]


def _cells(row: WayRow) -> list[str]:
    if row["peak_bytes"] is None or row["first_batch_seconds"] is None or row["epoch_seconds"] is None:
        return [row["way"], *["-"] * (len(HEADS) - 1)]
    times = [duration(row["first_batch_seconds"]), duration(row["epoch_seconds"])]
    losses = [number(row["train_loss"]), number(row["val_loss"])]
    return [row["way"], size(row["peak_bytes"]), *times, *losses, f"{row['windows']:,}"]


def duration(value: float) -> str:
    """Writes a duration, below a second in milliseconds."""
    return f"{1000 * value:.0f} ms" if value < 1 else seconds(value)


def legend(document: BenchEpochDocument) -> str:
    """Says what the columns are."""
    return (
        "Each way ran in a process of its own, one thread computing, files in the page cache. memory: private memory at "
        "its highest, above that of the idle process with its model made; first batch, epoch: time from there to the "
        f"first batch and to the last step; date-batched: {document['days_per_batch']} dates at a time. All windows in RAM are "
        f"{size(document['stacked_bytes'])}; blocks may take {size(document['budget_bytes'])} (trainer.loading.memory_budget)."
    )
