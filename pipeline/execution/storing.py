"""A committed date in other formats: its arrays stay what they are, no dump and no measured array is read."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.planning.plan import DatePlan
from dateshard.pipeline.workers.engine import Task
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.manifest import Entry, Manifest
from dateshard.shardstore.storage import About
from dateshard.shardstore.storage.shards import publish_shard


@dataclass(frozen=True, slots=True)
class StoredAgain:
    """Receipt of a date whose shard was only written in other formats."""

    date: dt.date
    entry: Entry
    folders: tuple[Path, ...]


def stored_as(entry: Entry | None, formats: Collection[str]) -> bool:
    """Whether a date is committed, and in just these formats."""
    return entry is not None and set(entry.parts[0].formats) == set(formats)


def storing(
    root: Path, plans: Collection[DatePlan], committed: Manifest, config: Pipeline, about: About
) -> Iterator[Task]:
    """Tasks that write dates in the formats they should have; each takes its own date of the manifest along."""
    for plan in plans:
        alone = replace(committed, dates={plan.date: committed.dates[plan.date]}, failed=())
        num_nodes = alone.dates[plan.date].parts[0].nodes[1]
        yield plan, store_date, (root, plan.date, alone, config.store.formats, about.first(num_nodes))


def store_date(root: Path, date: dt.date, manifest: Manifest, formats: Sequence[str], about: About) -> StoredAgain:
    """Gives a committed date the formats that it should have, out of one that it has. What is there already is hashed.

    Args:
        manifest: with this date at least.

    Raises:
        DamagedError: what it has is damaged.
    """
    dataset, entry = Dataset(root, 0, manifest), manifest.dates[date]
    (shard,) = entry.parts
    if set(formats) <= set(shard.formats):
        kept = replace(shard, formats={name: shard.formats[name] for name in sorted(formats)})
        alone = replace(manifest, dates={date: replace(entry, parts=(kept,))})
        for _, error in Dataset(root, 0, alone).verify_dates([date], full=False):
            if error is not None:
                raise error
        return StoredAgain(date, alone.dates[date], ())
    stored, folders = publish_shard(root, date, dataset.committed(date), about, formats, shard)
    return StoredAgain(date, replace(entry, parts=(stored,)), folders)
