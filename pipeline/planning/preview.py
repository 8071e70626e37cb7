"""A plan with all that it was made of, and what carrying it out would read and write. Looks only."""

from __future__ import annotations

import datetime as dt
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.planning.observe import observe
from dateshard.pipeline.planning.plan import Observed, Plan, Wish, make_plan, refuse_no_match
from dateshard.pipeline.raw.dumps import one_table
from dateshard.shardstore.commit import Committed, StoreWriter
from dateshard.shardstore.coverage.spacing import too_short_a_step
from dateshard.shardstore.coverage.split_names import about_cuts_in_no_split
from dateshard.shardstore.errors import UsageError

SHARD_JSON, MASK_JSON = 1200, 580  # bytes of JSON beside a shard's arrays, and beside its mask
RECEIPTS, NAME = 440, 6  # beside a measured date's, and for each node in it
MOMENTS = 48  # bytes of partial statistics for a node and feature


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What stands, and what a wish would do to it; `damaged`: files of the store had to be passed over."""

    plan: Plan
    current: Committed | None
    seen: Observed
    notes: tuple[str, ...]
    damaged: bool


@dataclass(frozen=True, slots=True)
class Cost:
    """What a plan reads and writes.

    Attributes:
        read_bytes: of dumps, as they lie on disk; of a file that must be cut first, all of it.
        written_bytes: about; shards with their masks, and the measured arrays. None before the nodes are known.
        free_bytes: on the disk of the store.
    """

    read_bytes: int
    written_bytes: int | None
    free_bytes: int


def survey(config: Pipeline, root: Path, wish: Wish) -> Survey:
    """Takes no lock and writes nothing.

    Raises:
        DumpError: nothing is prepared, and no dump matches the path.
    """
    current, passed_over = StoreWriter(root).current() if root.is_dir() else (None, [])
    notes = [f"passed over: {note}" for note in passed_over]
    seen, _, _ = observe(config, root, current)
    if seen.to_cut:
        notes.append(seen.to_cut.why)
        notes += filter(None, [one_table(config.source.path, seen.to_cut.whole.files)])
    elif current is None:
        refuse_no_match(seen)
    plan = _with_remarks(make_plan(config, seen, wish), current, root)
    return Survey(plan=plan, current=current, seen=seen, notes=tuple(notes), damaged=bool(passed_over))


def _with_remarks(plan: Plan, current: Committed | None, root: Path) -> Plan:
    """Adds what only a look into the shards tells: a step too short for the records, people who are in no split."""
    if current is None:
        return plan
    too_short = too_short_a_step(root, current.generation, current.manifest, current.sources.dates)
    remarks = [*filter(None, [too_short, about_cuts_in_no_split(root, current.generation, current.manifest)])]
    return replace(plan, remarks=(*plan.remarks, *remarks), warnings=(*plan.warnings, *remarks))


def look(config: Pipeline, root: Path, wish: Wish) -> tuple[Plan, Committed | None, list[str]]:
    """The plan alone: takes no lock and writes nothing."""
    surveyed = survey(config, root, wish)
    return surveyed.plan, surveyed.current, list(surveyed.notes)


def cost_of(surveyed: Survey, config: Pipeline, root: Path) -> Cost:
    """What carrying out a plan costs in bytes."""
    plan, seen, free = surveyed.plan, surveyed.seen, free_bytes(root)
    if seen.to_cut:
        return Cost(seen.to_cut.whole.size, None, free)
    read = sum(seen.dumps[p.date].size for p in plan.to_measure if p.date in seen.dumps)
    nodes = _num_nodes(seen)
    if nodes is None:
        return Cost(read, None if plan.to_measure + plan.to_normalise else 0, free)
    row = nodes * len(config.features)
    written = sum(8 * row * _steps(p.date, config) + MOMENTS * row + RECEIPTS + NAME * nodes for p in plan.to_measure)
    masks = _has_masks(seen)
    for p in plan.to_normalise:
        entry = seen.manifest.dates.get(p.date) if seen.manifest else None
        mask, parts = entry.masked if entry else masks, len(config.store.parts_of(nodes))
        written += ((5 if mask else 4) * row + 8 * parts) * _steps(p.date, config)
        written += parts * (SHARD_JSON + mask * MASK_JSON)
    return Cost(read, written, free)


def _num_nodes(seen: Observed) -> int | None:
    if seen.node_names is not None:
        return len(seen.node_names)
    return seen.manifest.num_nodes if seen.manifest else None


def _has_masks(seen: Observed) -> bool:
    """Whether anything is missing in any committed date; taken for granted before there is one."""
    entries = seen.manifest.dates.values() if seen.manifest else ()
    return not entries or any(entry.masked for entry in entries)


def _steps(date: dt.date, config: Pipeline) -> int:
    """Returns a date's steps; 0 if its zone lacks the date or the step does not divide it, which is refused later."""
    try:
        return config.day(date).num_steps
    except UsageError:
        return 0


def free_bytes(folder: Path) -> int:
    """Returns the free bytes of the disk that a folder is on, or will be once it exists."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free
