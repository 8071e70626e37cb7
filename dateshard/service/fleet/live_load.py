"""The forecast of a load that is being received: requests are told as they come, and the answer is that of the interval ahead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dateshard.requests.next_interval import IntervalForecast, IntervalModel, last_values
from dateshard.requests.request_history import RequestHistory
from dateshard.requests.trace import Trace
from dateshard.service.fleet.fleet_load import SECOND, Integers, Service

LEVELS = (0.1, 0.5, 0.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A request that came: nanoseconds (None: now), tokens in and out."""

    time: int | None
    input_tokens: int
    output_tokens: int


class LiveLoad:
    """Keeps what came in the time that the model looks back, and forecasts. Memory: 24 bytes a request of that time.

    Args:
        intervals: None: the last values are the answer. why: there is no model.
        warm: a trace that came before. If its times count from its own beginning, its clock goes on from its end.
        wall: the clock, in nanoseconds since 1970.
    """

    def __init__(
        self,
        service: Service,
        intervals: IntervalModel | None,
        why: str = "",
        warm: Trace | None = None,
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        self.service, self.intervals, self.why, self.wall = service, intervals, why, wall
        self.needed = intervals.history_seconds if intervals else 3600.0
        self.received, self.lock = 0, threading.Lock()
        self.shift = 0
        self.rows_R3 = np.empty((0, 3), dtype=np.int64)
        if warm is not None:
            if warm.scale.origin is not None:
                self.shift = int(warm.time_R[-1]) - wall()
            low = self._first_kept(warm.time_R, int(warm.time_R[-1]))
            self.rows_R3 = np.stack([warm.time_R[low:], warm.input_R[low:], warm.output_R[low:]], axis=1).astype(
                np.int64
            )

    @property
    def now(self) -> int:
        """Nanoseconds on the clock of the trace."""
        return self.wall() + self.shift

    @property
    def _span(self) -> int:
        return round((max(self.needed, self.service.interval) + 120) * SECOND)

    def _first_kept(self, time_R: Integers, now: int) -> int:
        """The place of the newest of all that are older than the model looks back: it tells that before them all is known."""
        return max(0, int(np.searchsorted(time_R, now - self._span)) - 1)

    def tell(self, came: Sequence[Told]) -> None:
        """Takes requests in, in any order; what is older than the model looks back is forgotten, but for the newest of it."""
        now = self.now
        new = np.array(
            [
                (now if each.time is None else each.time + self.shift, each.input_tokens, each.output_tokens)
                for each in came
            ],
            dtype=np.int64,
        ).reshape(-1, 3)
        with self.lock:
            rows = np.concatenate([self.rows_R3, new])
            rows = rows[np.argsort(rows[:, 0], kind="stable")]
            self.rows_R3 = rows[self._first_kept(rows[:, 0], now) :]
            self.received += len(new)

    def forecast(self, levels: Sequence[float] = LEVELS) -> IntervalForecast:
        """What comes in the interval that begins a cold start from now. Nothing came yet: all 0, and `fallback` says so."""
        now, (length, lead) = self.now, (float(self.service.interval), float(self.service.cold_start))
        with self.lock:
            rows = self.rows_R3
        rows = rows[rows[:, 0] <= now]
        if not len(rows):
            return _nothing(levels)
        tokens = rows[:, 1:].astype(np.int32)
        history = RequestHistory(time_R=rows[:, 0], input_R=tokens[:, 0], output_R=tokens[:, 1], num_rows=len(rows))
        span = (now - int(rows[0, 0])) / SECOND
        if self.intervals is None:
            return last_values(history, now, length, levels, self.why)
        if span < self.needed - 60:
            why = f"{span:,.0f} s of requests are known, and the model looks back {self.needed:,.0f} s"
            return last_values(history, now, length, levels, why)
        return self.intervals.forecast(history, now, length, lead, levels)

    def work(self, forecast: IntervalForecast, level: float) -> float:
        """Work a second of the interval ahead, at a level."""
        service = self.service
        tokens = (
            forecast.input_tokens[level] * service.input_weight,
            forecast.output_tokens[level] * service.output_weight,
        )
        return sum(tokens) / service.interval


def _nothing(levels: Sequence[float]) -> IntervalForecast:
    zero = dict.fromkeys(levels, 0.0)
    return IntervalForecast(
        count=zero,
        mean_input=zero,
        mean_output=zero,
        input_tokens=zero,
        output_tokens=zero,
        fallback="no request came yet",
    )
