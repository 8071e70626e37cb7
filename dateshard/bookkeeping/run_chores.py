"""Removes training runs, and says before what that frees."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from dateshard.documents.runs import RemovedRun, RunsRemovedDocument
from dateshard.places import runs_folder, shards_folder
from dateshard.shardstore.commands import command
from dateshard.shardstore.errors import StoreError, UsageError, counted
from dateshard.shardstore.pinning.pins import forget_run
from dateshard.terminal.chosen import configuration_for
from dateshard.terminal.screen import Screen, size
from dateshard.trainer import checkpoint
from dateshard.trainer.runs.run_folder import WORDS, TrainingRun
from dateshard.trainer.runs.run_record import RunRecord
from dateshard.trainer.runs.run_removal import bytes_of_run, refuse_needed, remove_run, sweep_runs


def runs_to_remove(names: Sequence[str]) -> list[TrainingRun]:
    """Opens runs by their names, and refuses all if one of them must stay.

    Raises:
        UsageError: no name, a word in place of one, or a run with a pinned checkpoint. NotThereError: no such run.
        BusyError: one is trained now.
    """
    for name in names:
        if name in WORDS:
            raise UsageError(f"'{name}' may be another run tomorrow", todo=f"Name the run itself: {command('runs')}")
    runs = [TrainingRun.open(runs_folder(), name) for name in dict.fromkeys(names)]
    for run in runs:
        refuse_needed(run)
    return runs


def removed_document(runs: Sequence[TrainingRun], *, dry_run: bool) -> RunsRemovedDocument:
    """What `runs rm --json` prints; made before anything goes."""
    rows = [_row(run) for run in runs]
    return {"dry_run": dry_run, "bytes": sum(row["bytes"] for row in rows), "runs": rows}


def _row(run: TrainingRun) -> RemovedRun:
    record, place = run.facts_or_recovered(), run.checkpoints
    data = record.bound.data if record else None
    return {
        "run": run.name,
        "bytes": bytes_of_run(run),
        "checkpoints": len(checkpoint.scan(place)[0]),
        "dataset": data.name if data else None,
        "generation": data.generation if data else None,
        "elsewhere": os.path.realpath(place) if place.is_symlink() else None,
    }


def remove_runs(runs: Sequence[TrainingRun]) -> None:
    """Removes them with their pins, one after the other, and what a killed removal left.

    Raises:
        BusyError: one is trained since. UsageError: a checkpoint of one was pinned since.
    """
    sweep_runs(runs_folder())
    for run in runs:
        record = run.facts_or_recovered()
        remove_run(run)
        with suppress(StoreError, OSError):  # the run is gone: `clean` asks about a pin that stays
            for store in _stores(record):
                forget_run(store, run.folder)


def _stores(record: RunRecord | None) -> set[Path]:
    """Where the shards of a run lie: below the data folder, and where they lay when it was made."""
    if record is None:
        return set()
    return {shards_folder(record.bound.data.name), *([Path(record.root)] if record.root else [])}


def show_removed(screen: Screen, document: RunsRemovedDocument) -> None:
    """Prints a row a run, and what that frees."""
    rows = [
        [row["run"], counted(row["checkpoints"], "checkpoint"), size(row["bytes"]), _of(row)]
        for row in document["runs"]
    ]
    screen.table(rows)
    for sentence in _sentences(document):
        screen.tell(sentence)


def _of(row: RemovedRun) -> str:
    return "" if row["dataset"] is None else f"{row['dataset']}, generation {row['generation']}"


def _sentences(document: RunsRemovedDocument) -> Iterator[str]:
    verb = "would be freed" if document["dry_run"] else "are freed"
    datasets = dict.fromkeys(row["dataset"] for row in document["runs"])
    cleaning = "; ".join(dict.fromkeys(command("clean", *configuration_for(dataset)) for dataset in datasets))
    yield f"{size(document['bytes'])} {verb}. Shards that nothing else needs go with: {cleaning}"
    for row in document["runs"]:
        if row["elsewhere"] is not None:
            yield f"the checkpoints of {row['run']} lie in {row['elsewhere']}, and stay there"
