"""Where things lie: below `data/` of the working directory, or below `DATESHARD_DATA`; stores in a bucket, too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_instead: ContextVar[Path | None] = ContextVar("_instead", default=None)


def data_folder() -> Path:
    """The folder of shards, runs and examples."""
    return _instead.get() or Path(os.environ.get("DATESHARD_DATA", "data"))


@contextmanager
def data_in(folder: Path) -> Iterator[None]:
    """Takes another folder for shards and runs within this context, as DATESHARD_DATA would for a command."""
    token = _instead.set(folder)
    try:
        yield
    finally:
        _instead.reset(token)


def shards_folder(dataset: str) -> Path:
    """One dataset's store, or this machine's side of it where DATESHARD_SHARDS names a place in a bucket.

    Raises:
        UsageError: it names none, or a store of this machine lies here already.
    """
    folder, place = data_folder() / "shards" / dataset, os.environ.get("DATESHARD_SHARDS")
    if place and dataset and _instead.get() is None:
        from dateshard.shardstore.objects.bucket_store import lie_in_bucket

        lie_in_bucket(folder, f"{place}/{dataset}")
    return folder


def runs_folder() -> Path:
    """All training runs."""
    return data_folder() / "runs"


def backtests_folder() -> Path:
    """All backtests: each is a data folder of its own, with a store and runs."""
    return data_folder() / "backtests"
