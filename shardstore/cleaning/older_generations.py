"""The generations that are kept beside the current one, verified: what runs are pinned to must be whole as well."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator
from typing import Any

from dateshard.shardstore.commit import load_sources, sources_path
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import StoreError
from dateshard.shardstore.frozen import verify_frozen
from dateshard.shardstore.manifest import Entry, Manifest, generations, manifest_name

Looked = Iterator[tuple[str, StoreError | None]]


def verify_older(current: Dataset, dates: Collection[dt.date] | None = None, *, full: bool = False) -> Looked:
    """Verifies every other generation, the newest first; yields (name, error or None).

    Checks manifest, sources file, and what no newer one names (it was looked at there, or with `current`).

    Args:
        dates: only these, where a generation has them. full: as in `Dataset.verify`.
    """
    root, seen, frozen = current.root, _names(current.manifest), current.manifest.frozen
    for number in reversed(generations(root)):
        if number == current.generation:
            continue
        name = f"manifests/{manifest_name(number)}"
        try:
            older = Dataset.open(root, number)
        except StoreError as error:
            todo = f"Nothing makes it again. If that generation is given up: mv {root / name} {root / 'quarantine'}/"
            yield name, _with(error, todo)
            continue
        yield name, None
        yield _sources(current, number)
        new = {
            date: entry
            for date, entry in older.manifest.dates.items()
            if _key(date, entry) not in seen and (dates is None or date in dates)
        }
        ids = older.manifest.frozen
        rows = verify_frozen(root, ids).items() if ids != frozen else ()
        verified = [*rows, *older.verify_dates(sorted(new), full=full)]
        todo = f"Only generation {number} and older ones name it: nothing makes it again, and their runs cannot go on"
        for what, fault in verified:
            yield f"{what} (generation {number})", fault and _with(fault, todo)
        seen, frozen = seen | _names(older.manifest), ids


def _names(manifest: Manifest) -> set[tuple[Any, ...]]:
    return {_key(date, entry) for date, entry in manifest.dates.items()}


def _key(date: dt.date, entry: Entry) -> tuple[Any, ...]:
    """All that tells a date's files from those of another generation."""
    return date, *((shard.id, *sorted(shard.formats)) for shard in entry.parts)


def _sources(current: Dataset, number: int) -> tuple[str, StoreError | None]:
    path = sources_path(current.root, number)
    try:
        load_sources(current.root, number)
    except StoreError as error:
        return f"manifests/{path.name}", _with(error, "Training needs none of it; `clean` keeps all measured arrays")
    return f"manifests/{path.name}", None


def _with(error: StoreError, todo: str) -> StoreError:
    return type(error)(error.what, where=error.where, todo=todo)
