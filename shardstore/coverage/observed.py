"""How much of a generation was observed: cells into which a record with a value fell, by split."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dateshard.shardstore.commands import to_run
from dateshard.shardstore.manifest import SPLITS, Entry, Manifest
from dateshard.shardstore.scaling.statistics import Statistics
from dateshard.shardstore.sources import SourceRow

ALL = "all records"
Counts = Sequence[int]  # observed cells of each feature


@dataclass(frozen=True, slots=True)
class ObservedCells:
    """Cells of the dates of a split, as far as they are known."""

    observed: int
    cells: int

    @property
    def share(self) -> float:
        """Between 0 and 1."""
        return self.observed / self.cells if self.cells else 0.0


def by_split(
    manifest: Manifest,
    rows: Mapping[dt.date, SourceRow],
    features: Sequence[int] | None = None,
    read: Callable[[dt.date], Counts] | None = None,
) -> dict[str, ObservedCells]:
    """Returns {split: what was observed of its dates}, without splits of which no date is known.

    Where cuts are divided and not dates, it is {"all records": what was observed}.

    Args:
        rows: of the sources file, by date; those of a version before 0051 know no counts.
        features: places of those that count; None: all.
        read: gives the counts of a date whose row knows none; None: such dates are left out, as those without a shard are.
    """
    chosen = None if features is None else list(features)
    num_features = len(manifest.features) if chosen is None else len(chosen)
    seen, cells = dict[str, int](), dict[str, int]()
    for date, entry in manifest.dates.items():  # thousands of them: nothing is made for each
        split = ALL if manifest.split_cuts else manifest.split_of(date)
        if split is None:
            continue
        counts = counts_of(manifest, entry, rows.get(date))
        counts = read(date) if counts is None and read and entry.parts[0].files else counts
        if counts is not None:
            seen[split] = seen.get(split, 0) + sum(counts if chosen is None else [counts[place] for place in chosen])
            cells[split] = cells.get(split, 0) + entry.num_steps * entry.num_nodes * num_features
    return {split: ObservedCells(seen[split], cells[split]) for split in (*SPLITS, ALL) if split in seen}


def counts_of(manifest: Manifest, entry: Entry, row: SourceRow | None) -> Counts | None:
    """Returns a date's observed cells by feature: all without a mask, else as in its row.

    None where that has none, and of a date without a shard, which is decoded when it is read."""
    if not entry.parts[0].files:
        return None
    if not entry.masked:
        return [entry.num_steps * entry.num_nodes] * len(manifest.features)
    return row.observed if row else None


def never_observed(manifest: Manifest, rows: Mapping[dt.date, SourceRow], split: str) -> tuple[int, ...] | None:
    """Places of the features of which no date of the split has an observed cell; None where that is not known.

    Args:
        rows: of the sources file, by date; those of a version before 0051 know no counts.
    """
    left = set(range(len(manifest.features)))
    for date, entry in manifest.dates.items():
        if left and manifest.split_of(date) == split:
            counts = counts_of(manifest, entry, rows.get(date))
            if counts is None:
                return None
            left -= {place for place, count in enumerate(counts) if count}
    return tuple(sorted(left))


def unscaled(manifest: Manifest, statistics: Statistics) -> tuple[int, ...]:
    """Places of the features whose scale or vocabulary rests on no value at all."""
    held_F = (statistics.merged.moments_6NF[0] > 0).any(axis=0)
    return tuple(
        place
        for place, feature in enumerate(manifest.features)
        if not held_F[place] and (feature.categorical or feature.scale != "none")
    )


def not_scaled(names: str) -> tuple[str, str]:
    """What is wrong with features that are observed now, of whose values the frozen statistics know none; what mends it."""
    what = f"the frozen statistics hold no value of {names}, so it is not scaled, though the training data has it now"
    return what, to_run("preprocess", "--refit-statistics", config=True)
