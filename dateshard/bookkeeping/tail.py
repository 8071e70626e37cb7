"""Follows a run's metrics: the last rows, then those that come, until the run ends. Only reads.

A run that is continued drops the rows that will come again and puts a new file in the place of the old one: the reader
notices, says from where the run goes on, and follows the new file.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dateshard.trainer.runs.run_folder import TrainingRun
from dateshard.trainer.runs.status import is_locked

POLL_SECONDS = 0.5
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rewound:
    """The run was continued: rows after this step come again. 0: from its beginning."""

    step: int


@dataclass(slots=True, kw_only=True)
class Follower:
    """Reads a file that grows, and may be replaced by a shorter one.

    Attributes:
        step: the last row's.
    """

    path: Path
    step: int = 0
    _inode: int = -1
    _at: int = 0
    _torn: bytes = field(default=b"", repr=False)

    def rows(self) -> Iterator[Row | Rewound]:
        """Rows that came since the last look."""
        try:
            with open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
                again = self._inode not in (-1, status.st_ino) or status.st_size < self._at
                if again:
                    self._at, self._torn = 0, b""
                self._inode = status.st_ino
                file.seek(self._at)
                data = file.read()
        except OSError:
            return
        self._at += len(data)
        *whole, self._torn = (self._torn + data).split(b"\n")
        rows = [row for row in map(_parsed, whole) if row is not None]
        if again:
            yield from self._after_rewind(rows)
            return
        for row in rows:
            self.step = row["step"]
            yield row

    def _after_rewind(self, rows: list[Row]) -> Iterator[Row | Rewound]:
        """What the new file still holds was shown before; what is beyond the last row shown is new."""
        kept = [row for row in rows if row["step"] <= self.step]
        yield Rewound(kept[-1]["step"] if kept else 0)
        new = rows[len(kept) :]
        self.step = rows[-1]["step"] if rows else 0
        yield from new


def follow(run: TrainingRun, follower: Follower) -> Iterator[Row | Rewound]:
    """Rows as they come, until no process trains the run any more."""
    while True:
        busy = is_locked(run)  # asked before reading: what was written before the end is then read
        yield from follower.rows()
        if not busy:
            return
        time.sleep(POLL_SECONDS)


def _parsed(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
        return row if row["step"] + row["epoch"] >= 0 else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
