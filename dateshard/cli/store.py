"""The commands drop, clean and export: what is done with a store itself, beside preparing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dateshard.cli.options import (
    agreed,
    emit,
    json_option,
    needed_config_option,
    settings_of,
    split_arguments,
)
from dateshard.preparing.selectors import committed_dates, not_there, select_dates
from dateshard.shardstore.errors import counted

if TYPE_CHECKING:
    from dateshard.documents.preparing import CleanDocument, DropDocument, ExportDocument, FileRow
    from dateshard.pipeline.drop import Dropped
    from dateshard.shardstore.cleaning.garbage import Garbage
    from dateshard.shardstore.dataset import Dataset
    from dateshard.shardstore.pinning.pins import Look
    from dateshard.terminal.screen import Screen


@click.command()
@click.argument("words", nargs=-1, metavar="DATES [KEY=VALUE]...")
@needed_config_option
@click.option("-y", "--yes", is_flag=True, help="do not ask")
@click.option("--dry-run", is_flag=True, help="only say what would be taken out")
@json_option
def drop(words: tuple[str, ...], files: tuple[str, ...], yes: bool, dry_run: bool, as_json: bool) -> int:
    """Take dates out of the dataset, in a new generation. They stay out until `preprocess` is asked for them by name.

    Nothing is deleted: dumps and statistics stay as they are, shards until `clean` finds that nothing needs them.
    """
    from dateshard.pipeline.drop import drop as take_out
    from dateshard.places import shards_folder
    from dateshard.shardstore.dataset import Dataset
    from dateshard.terminal.screen import Screen

    selectors, overrides = split_arguments(words)
    if not selectors:
        raise click.UsageError("Name the dates to take out, for example 2013-03-05 or 2013-03-01..2013-03-07.")
    settings, screen = settings_of(files, overrides), Screen(as_json=as_json)
    root, config = shards_folder(settings.dataset), settings.preparing()
    manifest = Dataset.open(root).manifest
    known = sorted({*manifest.dates, *manifest.failed})
    dates = select_dates(selectors, known, dict(manifest.split), not_there(root)) or frozenset()
    dropped = take_out(config, root, dates, dry_run=True)
    asking = bool(dates) and not (dry_run or yes)
    if asking:
        _show_drop(Screen(as_json=True), dropped, done=False)  # the question goes to stderr, so does what it is about
        if not agreed(f"Take {len(dates)} of {counted(len(dates) + dropped.left, 'date')} out of {settings.dataset}?"):
            screen.tell("nothing was dropped")
            return 0
    if dates and not dry_run:
        dropped = take_out(config, root, dates, dry_run=False)
    if as_json:
        emit(_drop_to_json(dropped, dry_run=dry_run))
    else:
        _show_drop(screen, dropped, done=not dry_run, brief=asking)
    return 0


def _show_drop(screen: Screen, dropped: Dropped, *, done: bool, brief: bool = False) -> None:
    """What is taken out, and what that means; `brief` where that was told with the question."""
    from dateshard.pipeline.planning.remarks import moved_split
    from dateshard.shardstore.times.calendar import collapse

    for note in dropped.notes:
        screen.tell(f"passed over: {note}")
    if not dropped.dates:
        screen.tell("nothing to drop: no date of the dataset is meant")
        return
    dates, single = collapse(dropped.dates), len(dropped.dates) == 1
    state = (
        f"generation {dropped.generation}: {counted(dropped.left, 'date')}, without" if done else "would be dropped:"
    )
    screen.tell(f"{state} {dates}")
    if brief:
        return
    if dropped.dumps:
        it = "its dump stays" if single else f"{counted(len(dropped.dumps), 'dump')} of them stay"
        screen.tell(f"  {it}; preprocess leaves {'it' if single else 'them'} out until asked by name")
    if dropped.in_statistics:
        held = collapse(dropped.in_statistics)
        screen.tell(f"  the frozen statistics still include {held}, until preprocess --refit-statistics")
    for line in moved_split(*dropped.split):
        screen.tell(f"  {line}")


def _drop_to_json(dropped: Dropped, *, dry_run: bool) -> DropDocument:
    return {
        "dry_run": dry_run,
        "generation": dropped.generation,
        "dropped": [str(date) for date in dropped.dates],
        "dates": dropped.left,
        "dumps": {str(date): str(path) for date, path in dropped.dumps.items()},
        "in_statistics": [str(date) for date in dropped.in_statistics],
    }


@click.command()
@click.argument("words", nargs=-1, metavar="[KEY=VALUE]...")
@needed_config_option
@click.option(
    "--keep", type=click.IntRange(1), default=3, show_default=True, help="how many of the newest generations to keep"
)
@click.option("-y", "--yes", is_flag=True, help="forget runs that are gone without asking")
@click.option("--dry-run", is_flag=True, help="only show what would be removed")
@json_option
def clean(words: tuple[str, ...], files: tuple[str, ...], keep: int, yes: bool, dry_run: bool, as_json: bool) -> int:
    """Remove files that no kept generation needs. The newest three generations and those of training runs are kept.

    The stores of backtests whose origins are all judged go as well: their runs, tables and pages stay.

    If a training run is no longer in its runs folder, clean asks whether its generation may be removed too. If the whole
    runs folder is missing (moved, or not mounted), the generation stays, and clean says so.
    """
    from dateshard.judging.backtesting.backtest_file import finished_stores, remove_store
    from dateshard.pipeline.clean import clean as remove
    from dateshard.pipeline.clean import refuse_in_bucket
    from dateshard.places import runs_folder, shards_folder
    from dateshard.shardstore.cleaning.garbage import Runs
    from dateshard.shardstore.pinning.pins import judge_pins
    from dateshard.terminal.screen import Screen

    stray, overrides = split_arguments(words)
    if stray:
        raise click.UsageError(f"clean takes KEY=VALUE, not '{stray[0]}'.")
    settings, screen = settings_of(files, overrides), Screen(as_json=as_json)
    root = shards_folder(settings.dataset)
    refuse_in_bucket(root)
    gone = [] if yes or dry_run else [look for look in judge_pins(root, runs_folder()) if look.there is False]
    if gone:
        _show_gone(Screen(as_json=True), gone)  # the question goes to stderr, so does what it is about
        if not agreed("Forget them, and remove what nothing needs then?"):
            screen.tell("nothing was removed")
            return 0
    runs = Runs(runs_folder(), None if yes or dry_run else frozenset(look.pin.file for look in gone))
    garbage = remove(settings.preparing(), root, keep, dry_run=dry_run, runs=runs)
    if stores := list(finished_stores(settings.dataset)):
        garbage.sizes["backtests"] = len(stores), sum(num_bytes for _, num_bytes in stores)
    for store, _ in stores if not dry_run else ():
        remove_store(store)
    if as_json:
        emit(_to_json(garbage, dry_run=dry_run))
        return 0
    if not gone:
        _show_gone(screen, garbage.pins)
    _show(screen, garbage, dry_run=dry_run)
    if garbage.damaged:
        screen.tell(
            f"Damaged folders are never deleted here: when you no longer need them, empty {root / 'quarantine'}"
        )
    return 0


def _show_gone(screen: Screen, gone: list[Look]) -> None:
    for look in gone:
        screen.tell(f"{look.label} is gone: generation {look.pin.generation} is no longer kept for it")


def _show(screen: Screen, garbage: Garbage, *, dry_run: bool) -> None:
    from dateshard.terminal.screen import size

    for number, runs in garbage.kept.items():
        reasons = [
            f"{look.label}, {look.why}. If that run is over: rm {look.pin.file}"
            for look in garbage.away
            if look.pin.generation == number
        ]
        for reason in ([", ".join(runs)] if runs else []) + reasons or [""]:
            screen.tell(f"generation {number} stays" + (f": {reason}" if reason else ""))
    for note in garbage.notes:
        screen.tell(f"note: {note}")
    rows = [(kind, count, num_bytes) for kind, (count, num_bytes) in garbage.sizes.items() if count]
    screen.table([[kind, str(count), size(num_bytes)] for kind, count, num_bytes in rows], right=(1, 2))
    freed = sum(num_bytes for kind, _, num_bytes in rows if kind != "damaged")
    sentence = f"{size(freed)} would go" if dry_run else f"{size(freed)} freed"
    pins = f", {counted(len(garbage.pins), 'pin')} of runs that are gone" if garbage.pins else ""
    screen.tell(f"{sentence}{pins}" if rows or pins else "nothing to remove")


def _to_json(garbage: Garbage, *, dry_run: bool) -> CleanDocument:
    return {
        "dry_run": dry_run,
        "kept": {str(number): runs for number, runs in garbage.kept.items()},
        "removed": {
            kind: {"count": count, "bytes": num_bytes} for kind, (count, num_bytes) in garbage.sizes.items() if count
        },
        "pins": [look.pin.run for look in garbage.pins],
        "away": [
            {
                "run": look.pin.run,
                "generation": look.pin.generation,
                "runs": str(look.place),
                "why": look.why,
                "pin": str(look.pin.file),
            }
            for look in garbage.away
        ],
        "notes": garbage.notes,
    }


@click.command()
@click.argument("words", nargs=-1, metavar="[DATES] [KEY=VALUE]...")
@needed_config_option
@click.option(
    "--to",
    "form",
    type=click.Choice(["parquet", "csv", "npy"]),
    required=True,
    help="the format; one file for each date",
)
@click.option("--out", metavar="DIR", type=click.Path(), help="default: data/exports/DATASET")
@click.option("--scaled", is_flag=True, help="scaled units, as stored (default: raw units)")
@click.option("--force", is_flag=True, help="replace files that exist")
@json_option
def export(
    words: tuple[str, ...], files: tuple[str, ...], form: str, out: str | None, scaled: bool, force: bool, as_json: bool
) -> int:
    """Write committed dates as Parquet, CSV or npy, one file each, in raw units; null where nothing was observed.

    Parquet and CSV: time_utc, time_local (rows without a time: file, row), node, and a column a feature. npy: arrays of
    steps x nodes x features.
    """
    from pathlib import Path

    from dateshard.places import data_folder, shards_folder
    from dateshard.preparing.export import export as write_files
    from dateshard.shardstore.dataset import Dataset
    from dateshard.terminal.screen import Screen, size

    selectors, overrides = split_arguments(words)
    settings, screen = settings_of(files, overrides), Screen(as_json=as_json, works=True)
    dataset = Dataset.open(shards_folder(settings.dataset))
    dates = committed_dates(dataset, selectors)
    folder = Path(out) if out else data_folder() / "exports" / settings.dataset
    rows: list[FileRow] = []
    notes: list[str] = []
    bar = screen.bar("dates", len(dates))
    try:
        for done in write_files(dataset, dates, form, folder, scaled=scaled, force=force):
            bar.advance(note=str(done.date))
            row: FileRow = {
                "date": str(done.date),
                "file": str(done.file),
                "bytes": done.num_bytes,
                "steps": done.steps,
                "missing": done.missing,
            }
            rows.append(row)
            notes += [done.note] if done.note else []
    finally:
        bar.close()
    for note in notes:
        screen.tell(f"warning: {note}")
    if as_json:
        emit(_export_document(dataset, form, rows, scaled=scaled))
        return 0
    units = "scaled" if scaled else "raw"
    total = size(sum(row["bytes"] for row in rows))
    screen.tell(f"generation {dataset.generation}: {counted(len(rows), 'date')}, {total}, {units} units, in {folder}")
    return 0


def _export_document(dataset: Dataset, form: str, rows: list[FileRow], *, scaled: bool) -> ExportDocument:
    return {
        "dataset": dataset.manifest.dataset,
        "generation": dataset.generation,
        "format": form,
        "units": "scaled" if scaled else "raw",
        "nodes": dataset.manifest.num_nodes,
        "features": dataset.feature_names,
        "files": rows,
    }
