"""How fast a training runs, how much of that it waits for data, and the memory that it holds: for metrics.jsonl."""

from __future__ import annotations

import time
from typing import Any

from dateshard.trainer.loop import Stepped
from dateshard.trainer.memory.process_memory import private_bytes


class Rates:
    """Counts between two rows of steps, and over an epoch's training (its validation and checkpoint left out).

    Args:
        resumed_at: the step that a continued run goes on from; the next row tells it.
    """

    def __init__(self, resumed_at: int | None) -> None:
        self._resumed, self._peak = resumed_at, 0
        self._since, self._row, self._epoch = time.monotonic(), _Leg(), _Leg()

    def add(self, event: Stepped) -> None:
        """One more step is done."""
        now = time.monotonic()
        for leg in (self._row, self._epoch):
            leg.windows += event.size
            leg.waited += event.wait_seconds
            leg.seconds += now - self._since
        self._since = now

    def saved(self) -> None:
        """A checkpoint is written: within an epoch its time counts, the one after an epoch belongs to none."""
        if not self._epoch.windows:
            self._since = time.monotonic()

    def step(self) -> dict[str, Any]:
        """Returns the rates of the steps since the last row of steps."""
        figures, self._row = self._row.figures(), _Leg()
        return {**figures, "memory_bytes": self._look(), **self._resume()}

    def epoch(self) -> dict[str, Any]:
        """Returns the rates of the whole epoch, as far as this process trained it; the next one begins."""
        figures, self._row, self._epoch = self._epoch.figures(), _Leg(), _Leg()
        row = {**figures, "memory_bytes": self._look(), "peak_memory_bytes": self._peak, **self._resume()}
        self._since = time.monotonic()
        return row

    def _resume(self) -> dict[str, int]:
        at, self._resumed = self._resumed, None
        return {} if at is None else {"resumed_at": at}

    def _look(self) -> int:
        held = private_bytes()
        self._peak = max(self._peak, held)
        return held


class _Leg:
    """Some steps: their windows, their seconds, and how many of these went by in waiting for data."""

    def __init__(self) -> None:
        self.windows, self.seconds, self.waited = 0, 0.0, 0.0

    def figures(self) -> dict[str, float | None]:
        if not self.windows or self.seconds <= 0:
            return {"windows_per_second": None, "data_wait": None}
        share = min(self.waited / self.seconds, 1.0)
        return {"windows_per_second": round(self.windows / self.seconds, 3), "data_wait": round(share, 5)}
