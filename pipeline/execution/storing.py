"""A committed date in other formats or parts: its cells stay what they are, no dump and no measured array is read."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.execution.date_parts import parts_of_date
from dateshard.pipeline.planning.plan import DatePlan
from dateshard.pipeline.workers.engine import Task
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.manifest import Entry, Manifest
from dateshard.shardstore.storage import About
from dateshard.shardstore.storage.shards import publish_shard


@dataclass(frozen=True, slots=True)
class StoredAgain:
    """Receipt of a date whose shard, or a part of it, was only written in other formats or other parts."""

    date: dt.date
    entry: Entry
    folders: tuple[Path, ...]

    def joined(self, others: Sequence[StoredAgain]) -> StoredAgain:
        """The receipt of the whole date: this is of its first part, and these of the others, in order."""
        folders = tuple(folder for receipt in (self, *others) for folder in receipt.folders)
        return StoredAgain(self.date, self.entry.joined([receipt.entry for receipt in others]), folders)


def storing(
    root: Path, plans: Collection[DatePlan], committed: Manifest, config: Pipeline, about: About
) -> Iterator[Task]:
    """Tasks that write dates in the formats and parts they should have; each takes its own date of the manifest along."""
    for plan in plans:
        alone = replace(committed, dates={plan.date: committed.dates[plan.date]}, failed=())
        parts = config.store.parts_of(alone.dates[plan.date].num_nodes)
        for label, nodes in parts_of_date(plan, parts):
            yield label, store_date, (root, plan.date, alone, config.store.formats, about.of_nodes(*nodes))


def store_date(root: Path, date: dt.date, manifest: Manifest, formats: Sequence[str], about: About) -> StoredAgain:
    """Gives nodes of a committed date the formats that they should have, out of one that they have.

    What is there already is hashed. Memory: the arrays of these nodes, and of the parts that they lie in where those are
    stored without Zarr.

    Args:
        manifest: with this date at least.
        about: of the nodes, which are a part then.

    Raises:
        DamagedError: what it has is damaged.
    """
    dataset, entry = Dataset(root, 0, manifest), manifest.dates[date]
    nodes = (about.begin, about.begin + len(about.nodes))
    shard = next((shard for shard in entry.parts if shard.nodes == nodes), None)
    if shard and set(formats) <= set(shard.formats):
        kept = shard._replace(formats={name: shard.formats[name] for name in sorted(formats)})
        of_part = entry._replace(parts=(kept,))
        dataset.part_files.verify_parts(date, of_part, full=False)
        return StoredAgain(date, of_part, ())
    stored, folders = publish_shard(root, date, dataset.part_files.of_nodes(date, *nodes), about, formats, shard)
    return StoredAgain(date, entry._replace(parts=(stored,)), folders)
