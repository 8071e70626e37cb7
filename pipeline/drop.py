"""Takes dates out of a dataset: a new generation without them, and a note that keeps the next preprocess from them.

Nothing is deleted: dumps, shards and measured arrays stay where they are until `clean` finds that nothing needs them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.planning.observe import StagedKeys, observe
from dateshard.pipeline.planning.plan import Observed, Plan, Wish, make_plan, split_settings
from dateshard.shardstore.commands import command, to_run
from dateshard.shardstore.commit import Committed, StoreWriter
from dateshard.shardstore.errors import NotThereError, StoreError, UsageError, Where
from dateshard.shardstore.frozen import merged_dates
from dateshard.shardstore.manifest import Manifest, Ranges
from dateshard.shardstore.sources import DroppedRow, Sources
from dateshard.shardstore.times.calendar import collapse


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """What a drop did, or would do.

    Attributes:
        generation: the new one; the current one where nothing was written.
        dates: what is taken out.
        left: number of dates that stay.
        dumps: {date: dump} of those whose dump still exists.
        in_statistics: dates that the frozen statistics rest on.
        split: ranges before and after.
        notes: what had to be passed over.
    """

    generation: int
    dates: tuple[dt.date, ...]
    left: int
    dumps: Mapping[dt.date, Path]
    in_statistics: tuple[dt.date, ...]
    split: tuple[Mapping[str, Ranges], Mapping[str, Ranges]]
    notes: tuple[str, ...]


def drop(config: Pipeline, root: Path, dates: Collection[dt.date], *, dry_run: bool) -> Dropped:
    """Takes dates out, whether they are committed or failed. The statistics stay frozen.

    Raises:
        NotThereError: nothing is committed, or a date is not in the dataset.
        UsageError: no date, or none that trains, would be left.
        BusyError: another process writes this dataset.
    """
    if dry_run:
        return _drop(config, StoreWriter(root), dates, dry_run=True)
    with StoreWriter(root) as writer:
        return _drop(config, writer, dates, dry_run=False)


def _drop(config: Pipeline, writer: StoreWriter, dates: Collection[dt.date], *, dry_run: bool) -> Dropped:
    current, notes = writer.current() if writer.root.is_dir() else (None, [])
    if current is None:
        todo = to_run("preprocess", config=True)
        raise NotThereError("no committed dataset here", where=Where(file=str(writer.root)), todo=todo)
    going = sorted(set(dates))
    _refuse_absent(going, current, writer.root)
    if not set(current.manifest.dates) - set(going):
        what, todo = "no date would be left", "To give up the dataset, remove its folder"
        raise UsageError(what, where=Where(file=str(writer.root)), todo=todo)
    held = _in_statistics(writer.root, current, going)
    after = Committed(current.generation, *_without(current, going, held))
    seen, _, _ = observe(config, writer.root, after)
    split = _split(config, after, make_plan(config, seen, Wish()))
    manifest = replace(after.manifest, split=split)
    done = current if dry_run else writer.commit(manifest, after.sources, current)
    dumps = {date: seen.dumps[date].path for date in going if date in seen.dumps}
    splits = current.manifest.split, split
    return Dropped(
        generation=done.generation,
        dates=tuple(going),
        left=len(manifest.dates),
        dumps=dumps,
        in_statistics=tuple(held),
        split=splits,
        notes=tuple(notes),
    )


def _refuse_absent(dates: Collection[dt.date], current: Committed, root: Path) -> None:
    there = {*current.manifest.dates, *current.manifest.failed}
    if absent := sorted(set(dates) - there):
        todo = (
            f"{command('status', config=True)} lists its dates; pipeline.exclude leaves out one that was never prepared"
        )
        raise NotThereError(f"not in the dataset: {collapse(absent)}", where=Where(file=str(root)), todo=todo)


def _in_statistics(root: Path, current: Committed, dates: Collection[dt.date]) -> list[dt.date]:
    try:
        merged = merged_dates(root, current.manifest.statistics)
    except StoreError:  # damaged: the next merge makes others, without these dates
        return []
    return sorted({*merged} & {*dates})


def _without(current: Committed, dates: Collection[dt.date], held: Collection[dt.date]) -> tuple[Manifest, Sources]:
    """Manifest and sources as they are without the dates, which are noted as dropped."""
    old, gone = current.manifest, set(dates)
    manifest = replace(
        old,
        dates={date: entry for date, entry in old.dates.items() if date not in gone},
        failed=tuple(date for date in old.failed if date not in gone),
        provisional=tuple(date for date in old.provisional if date not in gone),
    )
    noted = {date: DroppedRow(old.statistics if date in held else "") for date in dates}
    dropped = {**current.sources.dropped, **noted}
    return manifest, replace(current.sources.without(gone), dropped=dropped)


def _split(config: Pipeline, after: Committed, plan: Plan) -> Mapping[str, Ranges]:
    """The split moves with the dates that are left, unless the configuration's is another than the generation's."""
    same = after.sources.split == split_settings(config)
    return plan.split if same else after.manifest.split


def without_rows(
    seen: Observed, keys: Mapping[dt.date, str], config: Pipeline, root: Path, current: Committed | None
) -> Observed:
    """What a plan looks at once dates turned out to have no row; notes which dump that was, and how it was read.

    Args:
        keys: of the staged arrays that they should have had.
    """
    held = _in_statistics(root, current, keys) if current else []
    tolerated = config.source.tolerated()
    noted = {
        date: DroppedRow(current.manifest.statistics if current and date in held else "", key, tolerated)
        for date, key in keys.items()
    }
    sources = replace(seen.sources, dropped={**seen.sources.dropped, **noted})
    return replace(seen, sources=sources, staged=StagedKeys(root, sources))


def still_dropped(sources: Sources, plan: Plan) -> dict[dt.date, DroppedRow]:
    """The notes that stay after a preprocess."""
    out = {p.date for p in plan.dates if p.state == "excluded"}
    return {date: row for date, row in sources.dropped.items() if date in out}
