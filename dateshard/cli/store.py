"""clean: what is done to a store itself, beside preparing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dateshard.cli.options import config_option, emit, json_option, settings_of, split_arguments

if TYPE_CHECKING:
    from dateshard.documents import CleanDocument
    from dateshard.screen import Screen
    from shardstore.garbage import Garbage


@click.command()
@click.argument("words", nargs=-1, metavar="[KEY=VALUE]...")
@config_option
@click.option("--keep", type=click.IntRange(1), default=3, show_default=True, help="newest generations that stay")
@click.option("--dry-run", is_flag=True, help="only say what would go")
@json_option
def clean(words: tuple[str, ...], files: tuple[str, ...], keep: int, dry_run: bool, as_json: bool) -> int:
    """Remove what no kept generation needs. The newest three and those of training runs stay, with all they name."""
    from dateshard.places import shards_folder
    from dateshard.screen import Screen
    from pipeline.clean import clean as remove

    stray, overrides = split_arguments(words)
    if stray:
        raise click.UsageError(f"clean takes KEY=VALUE, not '{stray[0]}'.")
    settings, screen = settings_of(files, overrides), Screen(as_json=as_json)
    root = shards_folder(settings.dataset)
    found = remove(settings.preparing(), root, keep, dry_run=dry_run)
    if as_json:
        emit(_to_json(found, dry_run=dry_run))
        return 0
    _show(screen, found, dry_run=dry_run)
    if found.damaged:
        screen.tell(
            f"Damaged folders are never deleted here: when you no longer need them, empty {root / 'quarantine'}"
        )
    return 0


def _show(screen: Screen, found: Garbage, *, dry_run: bool) -> None:
    from dateshard.screen import counted, size

    for number, runs in found.kept.items():
        screen.tell(f"generation {number} stays" + (f": {', '.join(runs)}" if runs else ""))
    for note in found.notes:
        screen.tell(f"note: {note}")
    rows = [(kind, count, num_bytes) for kind, (count, num_bytes) in found.sizes.items() if count]
    screen.table([[kind, str(count), size(num_bytes)] for kind, count, num_bytes in rows], right=(1, 2))
    freed = sum(num_bytes for kind, _, num_bytes in rows if kind != "damaged")
    told = f"{size(freed)} would go" if dry_run else f"{size(freed)} freed"
    pins = f", {counted(len(found.pins), 'pin')} of runs that are gone" if found.pins else ""
    screen.tell(f"{told}{pins}" if rows or pins else "nothing to remove")


def _to_json(found: Garbage, *, dry_run: bool) -> CleanDocument:
    return {
        "dry_run": dry_run,
        "kept": {str(number): runs for number, runs in found.kept.items()},
        "removed": {
            kind: {"count": count, "bytes": num_bytes} for kind, (count, num_bytes) in found.sizes.items() if count
        },
        "pins": [path.stem for path in found.pins],
        "notes": found.notes,
    }
