"""Where things lie: below `data/` of the working directory, or below `DATESHARD_DATA`."""

from __future__ import annotations

import os
from pathlib import Path


def data_folder() -> Path:
    """The folder of shards, runs and examples."""
    return Path(os.environ.get("DATESHARD_DATA", "data"))


def shards_folder(dataset: str) -> Path:
    """One dataset's store."""
    return data_folder() / "shards" / dataset


def runs_folder() -> Path:
    """All training runs."""
    return data_folder() / "runs"
