"""Keeps run.log: what the terminal said of a run, with times. Bounded: one older file is kept beside it."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from dateshard.terminal.screen import escaped

MOST_BYTES = 1 << 20  # then it becomes run.log.1, and the one before that is gone


class RunLog:
    """The log of one run's folder. Nothing fails for it: what it says was said on the terminal."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "run.log"

    def write(self, text: str) -> None:
        """Adds each line of a text with the local time."""
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        lines = "".join(f"{now}  {line}\n" for line in escaped(text).splitlines())
        with suppress(OSError):
            with open(self.path, "a", encoding="utf-8", errors="replace") as file:
                file.write(lines)
                full = file.tell() > MOST_BYTES
            if full:
                self.path.replace(self.path.with_name("run.log.1"))
