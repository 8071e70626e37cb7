"""What changed between two generations: dates, shards, statistics, nodes, settings and the split.

Reads two manifests and what they freeze; no shard.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dateshard.insight.figures import figure, moments_to_json, split_to_json
from dateshard.shardstore.commands import command
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import NotThereError, UsageError, Where
from dateshard.shardstore.identity import identity
from dateshard.shardstore.layouts.feature import Feature
from dateshard.shardstore.manifest import Manifest, current_generation, generations
from dateshard.shardstore.scaling.statistics import Statistics, drift
from dateshard.shardstore.times.calendar import collapse

if TYPE_CHECKING:
    from dateshard.documents.insight import (
        DatesChanged,
        DatesMoved,
        DiffDocument,
        FeatureMoved,
        NamesChanged,
        NodesChanged,
        SettingChanged,
        SplitChanged,
        StatisticsChanged,
    )

MOST_NAMES, MOST_CUTS = 100, 8


def two_generations(root: Path, words: Collection[str]) -> tuple[int, int]:
    """The generations that `g12 g13`, `12 13`, `12` (and the current one) or nothing (the last two) name.

    Raises:
        UsageError: a word that is no generation, or more than two.
        NotThereError: the store holds no such generation, or only one at all.
    """
    current = current_generation(root)
    known = [number for number in generations(root) if number <= current]
    chosen = [_number(word, current) for word in words]
    if len(chosen) > 2:
        raise UsageError("diff compares two generations", todo=f"Write: {command('diff', 'g12', 'g13', config=True)}")
    for number in chosen:
        if number not in known:
            there = ", ".join(f"g{n}" for n in known[-10:])
            what = f"generation {number} is not in the store (there are {there})"
            raise NotThereError(
                what, where=Where(file=str(root)), todo="Choose one of these; clean keeps the last three"
            )
    if not chosen and len(known) < 2:
        what = f"there is only generation {current}: nothing to compare it with"
        raise NotThereError(
            what, where=Where(file=str(root)), todo="The next preprocess that changes something makes another"
        )
    if not chosen:
        return known[-2], known[-1]
    return (chosen[0], chosen[1]) if len(chosen) == 2 else (chosen[0], current)


def _number(word: str, current: int) -> int:
    if word == "latest":
        return current
    if match := re.fullmatch(r"g?(\d{1,8})", word):
        return int(match[1])
    raise UsageError(f"'{word}' is not a generation", todo="Write g12, 12 or latest")


def comparison(old: Dataset, new: Dataset) -> DiffDocument:
    """Makes the document of `diff --json`."""
    a, b = old.manifest, new.manifest
    return {
        "dataset": b.dataset,
        "from": old.generation,
        "to": new.generation,
        "dates": _dates(a, b),
        "failed": _came_and_went(a.failed, b.failed),
        "provisional": _came_and_went(a.provisional, b.provisional),
        "statistics": _statistics(old, new),
        "nodes": _nodes(old, new),
        "features": _names([f.name for f in a.features], [f.name for f in b.features]),
        "settings": list(_settings(a, b)),
        "split": _split(a, b),
    }


def _dates(a: Manifest, b: Manifest) -> DatesChanged:
    both = sorted(set(a.dates) & set(b.dates))
    changed = [date for date in both if a.dates[date] != b.dates[date]]
    changes = _came_and_went(a.dates, b.dates)
    return {**changes, "changed": [str(date) for date in changed], "unchanged": len(both) - len(changed)}


def _came_and_went(a: Collection[dt.date], b: Collection[dt.date]) -> DatesMoved:
    return {"added": [str(d) for d in sorted(set(b) - set(a))], "removed": [str(d) for d in sorted(set(a) - set(b))]}


def _names(a: Collection[str], b: Collection[str]) -> NamesChanged:
    """Names that came and went, at most `MOST_NAMES` of each, with their numbers."""
    added, removed = (sorted(x, key=str.encode) for x in (set(b) - set(a), set(a) - set(b)))
    return {
        "from": len(a),
        "to": len(b),
        "num_added": len(added),
        "num_removed": len(removed),
        "added": added[:MOST_NAMES],
        "removed": removed[:MOST_NAMES],
    }


def _nodes(old: Dataset, new: Dataset) -> NodesChanged:
    same = old.manifest.nodes == new.manifest.nodes
    names = _names(old.nodes.names, old.nodes.names if same else new.nodes.names)
    moved = 0
    if not same and old.nodes.axes == new.nodes.axes:
        place = dict(zip(old.nodes.names, old.nodes.positions_NP, strict=True))
        rows = zip(new.nodes.names, new.nodes.positions_NP, strict=True)
        moved = sum(name in place and not np.array_equal(place[name], row, equal_nan=True) for name, row in rows)
    return {**names, "moved": moved}


def _statistics(old: Dataset, new: Dataset) -> StatisticsChanged:
    a, b = old.manifest.statistics, new.manifest.statistics
    document: StatisticsChanged = {"from": a, "to": b, "sources": None, "features": []}
    if a == b:
        return document
    first, other = old.statistics, new.statistics
    before, after = dict(first.sources), dict(other.sources)
    again = sorted(date for date in before.keys() & after.keys() if before[date] != after[date])
    document["sources"] = {**_came_and_went(before, after), "changed": [str(date) for date in again]}
    document["features"] = list(_moved(first, other, old.features, new.features))
    return document


def _moved(
    first: Statistics, other: Statistics, old: tuple[Feature, ...], new: tuple[Feature, ...]
) -> Iterator[FeatureMoved]:
    """Yields each feature that both have under the same transform: moments before and after, and how far they moved."""
    transforms = {feature.name: feature.transform for feature in old if not feature.categorical}
    before, after = (s.over_nodes for s in (first, other))
    shifts = {row["feature"]: row for row in (drift(first, other) if first.features == other.features else [])}
    for index, feature in enumerate(new):
        if transforms.get(feature.name) != feature.transform or feature.categorical:
            continue
        row = shifts.get(feature.name, {"mean_shift": float("nan"), "spread_ratio": float("nan")})
        yield {
            "feature": feature.name,
            "mean_shift": figure(row["mean_shift"]),
            "spread_ratio": figure(row["spread_ratio"]),
            "from": moments_to_json(before[:, first.features.index(feature.name)]),
            "to": moments_to_json(after[:, index]),
        }


def _settings(a: Manifest, b: Manifest) -> Iterator[SettingChanged]:
    """Settings of the manifests that differ, by their dotted names."""
    before, after = _flat(a), _flat(b)
    for key in [*before, *(key for key in after if key not in before)]:
        if before.get(key) != after.get(key):
            yield {"key": key, "from": before.get(key), "to": after.get(key)}


def _flat(manifest: Manifest) -> dict[str, Any]:
    rows: dict[str, Any] = {
        "layout": manifest.layout,
        "timezone": manifest.timezone,
        "step_seconds": manifest.step / 1e9,
        "order": [feature.name for feature in manifest.features],
    }
    rows |= {f"split.{name}": _cuts(names) for name, names in manifest.split_cuts.items()}
    for feature in manifest.features:
        settings: Mapping[str, Any] = feature.to_json()
        rows |= {f"features.{feature.name}.{key}": value for key, value in settings.items() if key != "name"}
    return rows


def _cuts(names: Sequence[str]) -> str:
    """Writes the names of a split's cuts; of many their number and an id, which differs where one name does."""
    return ", ".join(names) if len(names) <= MOST_CUTS else f"{len(names):,} names ({identity(list(names))[:6]})"


def _split(a: Manifest, b: Manifest) -> list[SplitChanged]:
    """Ranges of dates that moved; where cuts are divided in both, every date is of every split."""
    if a.split_cuts and b.split_cuts:
        return []
    before, after = split_to_json(a), split_to_json(b)
    names = [*before, *(name for name in after if name not in before)]
    return [
        {"name": name, "from": before.get(name), "to": after.get(name)}
        for name in names
        if before.get(name) != after.get(name)
    ]


def dates_of(words: Collection[str]) -> str:
    """ISO dates as people write them."""
    return collapse(map(dt.date.fromisoformat, words))
