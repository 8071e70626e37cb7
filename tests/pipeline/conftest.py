"""What the tests of the offline stage share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

OF_THE_RUN = ("CURRENT", "commits.jsonl", "dumps.json", "writer.lock")  # clocks, paths and numbers of commits


@pytest.fixture
def tree_of() -> Callable[..., dict[str, tuple[int, str]]]:
    """tree_of(folder, times=False) -> {path: (mtime or 0, hash)} of every file but those about the run itself."""

    def snapshot(folder: Path, *, times: bool = False) -> dict[str, tuple[int, str]]:
        return {
            str(path.relative_to(folder)): (
                path.stat().st_mtime_ns if times else 0,
                hashlib.sha256(path.read_bytes()).hexdigest(),
            )
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in OF_THE_RUN
        }

    return snapshot
