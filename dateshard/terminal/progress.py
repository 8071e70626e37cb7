"""What a preprocess is at: a live line at a terminal, a log line every few seconds elsewhere, nothing when quiet.

A thread draws it, since a date's act in this very process may take minutes. It also looks at how much memory this process
and its workers hold together.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import psutil

from dateshard.terminal.screen import LINE_SECONDS, Bar, Screen, size
from dateshard.trainer.memory.process_memory import private_bytes

LOOK_SECONDS = 0.5  # between two looks at the memory


class Progress:
    """Acts on dates, one after the other. A context manager."""

    def __init__(self, screen: Screen) -> None:
        self.screen, self.failed, self.peak_bytes = screen, 0, 0
        self._act, self._total, self._done, self._rows = "", 0, 0, 0
        self._began = self._said = time.monotonic()
        self._bar: Bar | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Progress:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._look()
        self._close()

    def begin(self, act: str, total: int) -> None:
        """The next act, on so many dates."""
        self._close()
        self._done = self._rows = 0
        self._act, self._total, self._began = act, total, time.monotonic()
        if self.screen.terminal and not self.screen.quiet:
            self._bar = self.screen.bar(act, total)

    def done(self, rows: int = 0) -> None:
        """One more date is done, of so many rows."""
        self._done, self._rows = self._done + 1, self._rows + rows
        if self._bar:
            self._bar.advance(note=self._note())

    def print(self, text: str) -> None:
        """A line above the live line."""
        (self._bar.print if self._bar else self.screen.tell)(text)

    def line(self) -> str:
        """All facts at once: act, dates, time gone and left, rows a second, memory now and at most, failures."""
        gone = time.monotonic() - self._began
        left = gone / self._done * (self._total - self._done) if self._done else None
        clock = f"{_clock(gone)}<{_clock(left)}"
        dates = f"{self._done}/{self._total}"
        memory = f"mem {size(self._memory)}, peak {size(self.peak_bytes)}"
        return "\t".join([self._act, dates, clock, *self._rate(), memory, f"{self.failed} failed"])

    def _note(self) -> str:
        failed = [f"{self.failed} failed"] if self.failed else []
        return self.screen.fitting(*failed, *self._rate(), f"mem {self._memory / 1e6:,.0f} MB")

    def _rate(self) -> list[str]:
        rate = self._rows / max(time.monotonic() - self._began, 1e-3)
        return [f"{_short(rate)} rows/s"] if self._rows else []

    def _watch(self) -> None:
        with suppress(OSError):  # nobody reads it any more, or its disk is full: who does the work says so, or need not
            while not self._over.wait(LOOK_SECONDS):
                self._look()
                if self._bar:
                    self._bar.note(self._note())
                elif self._act and not self.screen.quiet and time.monotonic() - self._said >= LINE_SECONDS:
                    self._said = time.monotonic()
                    self.screen.say(self.line())

    def _look(self) -> None:
        self._memory = family_bytes()
        self.peak_bytes = max(self.peak_bytes, self._memory)

    def _close(self) -> None:
        bar, self._bar = self._bar, None
        if bar:
            bar.close()


def family_bytes() -> int:
    """Private memory of this process and of all that it has started; pages that a fork still shares count in each."""
    own = psutil.Process()
    return sum(private_bytes(process) for process in [own, *own.children(recursive=True)])


def _short(number: float) -> str:
    """Writes a number as `950`, `31k`, `1.2M`."""
    for unit, factor in (("M", 1e6), ("k", 1e3)):
        if number >= factor:
            return f"{number / factor:.1f}{unit}" if number < 10 * factor else f"{number / factor:.0f}{unit}"
    return f"{number:.0f}"


def _clock(seconds: float | None) -> str:
    """Writes a duration as `0:41`, `1:02:05`, `-` for what is not known."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
