"""A plan with all that it was made of, and what carrying it out would read and write. Looks only."""

from __future__ import annotations

import datetime as dt
import shutil
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Pipeline
from pipeline.observe import observe, uncut
from pipeline.plan import Observed, Plan, Wish, make_plan
from shardstore.calendar import day_of, parse_step
from shardstore.commit import Committed, Writer
from shardstore.errors import UsageError

SHARD_JSON, RECEIPTS = 1800, 640  # bytes of a shard's JSON files; of a measured date's receipts
CELL_SHARD, CELL_STAGED = 5, 8  # float32 and its mask; float64
MOMENTS = 48  # bytes of partial statistics for a node and feature


@dataclass(frozen=True, slots=True)
class Survey:
    """What stands, and what a wish would do to it."""

    plan: Plan
    current: Committed | None
    seen: Observed
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a plan reads and writes.

    Attributes:
        read_bytes: of dumps, as they lie on disk.
        written_bytes: about; shards with a mask each, and the measured arrays. None before the nodes are known.
        free_bytes: on the disk of the store.
    """

    read_bytes: int
    written_bytes: int | None
    free_bytes: int


def survey(config: Pipeline, root: Path, wish: Wish) -> Survey:
    """Takes no lock and writes nothing."""
    current, found = Writer(root).current() if root.is_dir() else (None, [])
    notes = [f"passed over: {note}" for note in found]
    if whole := uncut(config, root):
        notes.append(f"{whole.path}: not cut yet, or changed since: its dates are known once preprocess has cut it")
    seen, _, _ = observe(config, root, current)
    return Survey(make_plan(config, seen, wish), current, seen, tuple(notes))


def cost_of(found: Survey, config: Pipeline, root: Path) -> Cost:
    """What carrying out a plan costs in bytes."""
    measured = [plan.date for plan in found.plan.to_measure]
    normalised = [plan.date for plan in found.plan.to_normalise]
    dumps = found.seen.dumps
    read = sum(dumps[date].size for date in measured if date in dumps)
    nodes = _num_nodes(found.seen)
    written = None
    if nodes is not None:
        row, features = nodes * len(config.features), len(config.features)
        written = sum(CELL_SHARD * row * steps + 8 * steps + SHARD_JSON for steps in _steps(normalised, config))
        written += sum(CELL_STAGED * row * steps + RECEIPTS for steps in _steps(measured, config))
        written += len(measured) * MOMENTS * nodes * features
    elif not (measured or normalised):
        written = 0
    return Cost(read, written, free_bytes(root))


def _num_nodes(seen: Observed) -> int | None:
    if seen.node_names is not None:
        return len(seen.node_names)
    return seen.manifest.num_nodes if seen.manifest else None


def _steps(dates: list[dt.date], config: Pipeline) -> list[int]:
    """Steps of each date; a date that its zone does not have, or that the step does not divide, is refused later."""
    found, step = list[int](), parse_step(config.step)
    for date in dates:
        try:
            found.append(day_of(date, config.source.timezone, step).num_steps)
        except UsageError:
            continue
    return found


def free_bytes(folder: Path) -> int:
    """Of the disk that a folder is on, or will be once it exists."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free
