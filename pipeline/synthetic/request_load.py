"""How many requests an invented fleet receives each minute: rhythm of days and weeks, growth, slow unrest, and bursts.

The intensity of a date follows from its seed alone. Requests are a Poisson process of that intensity, so what can be known of
the next one's instant has an exact bound.

Legend: M minutes of a date (1440).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MINUTES = 1440
FIRST = dt.date(2024, 4, 1)  # a Monday
WEEK = 7.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What clients ask of a fleet, and how it is written down.

    Attributes:
        rows_a_day: requests of a mean date at the beginning, without bursts.
        daily: how far the logarithm of the intensity swings within a day. weekend: share that Saturday and Sunday lack.
        unrest: standard deviation of the slow noise of the intensity's logarithm.
        bursts_a_day: how often load comes at once; burst_height: by how much more than usual; burst_minutes: half of that
            has gone after so long.
        growth, token_growth: of the logarithm of requests, and of tokens, a week.
        mean_input, mean_output: tokens of a message, and of the response to one. tail: standard deviation of their logarithms.
        told_by_input: share of the variance of a response's logarithm that its request's tells, without sessions.
        in_session: share of requests that go on with an earlier one, whose tokens they carry. open_sessions: at a time.
        tick_seconds: of the clock; 0: milliseconds. failures: share of requests without a response.
        num_holes: stretches of `hole_minutes` in which nothing was written, each on a date of its own.
    """

    rows_a_day: float = 20_000.0
    num_dates: int = 28
    seed: int = 11
    daily: float = 0.6
    weekend: float = 0.4
    unrest: float = 0.15
    bursts_a_day: float = 6.0
    burst_height: float = 1.5
    burst_minutes: float = 6.0
    growth: float = 0.0
    token_growth: float = 0.0
    mean_input: float = 600.0
    mean_output: float = 250.0
    tail: float = 1.0
    told_by_input: float = 0.3
    in_session: float = 0.3
    open_sessions: int = 64
    tick_seconds: float = 0.0
    failures: float = 0.02
    num_holes: int = 0
    hole_minutes: int = 180

    @property
    def dates(self) -> list[dt.date]:
        """All dates, the first one a Monday."""
        return [FIRST + dt.timedelta(days=number) for number in range(self.num_dates)]

    def stream(self, purpose: int, day: int) -> np.random.Generator:
        """Random numbers of one purpose and one date."""
        return np.random.default_rng([self.seed, purpose, day])

    @property
    def ticks_ns(self) -> int:
        """Nanoseconds of the clock's tick."""
        return round(self.tick_seconds * 1e9) or 1_000_000


def intensity(workload: Workload, day: int) -> Floats:
    """Returns [M]: requests a minute that are to be expected on the date of that number, holes as if there were none."""
    hour_M = (np.arange(MINUTES) + 0.5) / 60
    swing_M = np.cos((hour_M - 15) * 2 * np.pi / 24) + 0.3 * np.cos((hour_M - 11) * 4 * np.pi / 24)
    rhythm_M = np.exp(workload.daily * swing_M)
    week = np.where(np.arange(7) >= 5, 1 - workload.weekend, 1.0)
    level = workload.rows_a_day / MINUTES * week[day % 7] / week.mean() * np.exp(workload.growth * day / WEEK)
    load_M: Floats = level * rhythm_M / rhythm_M.mean() * np.exp(_unrest(workload, day)) * (1 + _bursts(workload, day))
    return load_M


def _unrest(workload: Workload, day: int) -> Floats:
    """Slow noise: independent at full hours, and a line between them; it goes on over midnight."""
    at_hours = np.concatenate([workload.stream(1, day).normal(size=24), workload.stream(1, day + 1).normal(size=1)])
    noise: Floats = workload.unrest * np.interp(np.arange(MINUTES) / 60, np.arange(25), at_hours)
    return noise


def _bursts(workload: Workload, day: int) -> Floats:
    """How much more than usual comes: bursts of this date, and what is left of those of the date before."""
    minute_M, total_M = np.arange(MINUTES), np.zeros(MINUTES)
    for number in (day - 1, day) if day else (day,):
        chance = workload.stream(2, number)
        for start in chance.integers(0, MINUTES, chance.poisson(workload.bursts_a_day)).tolist():
            since_M = minute_M - start + (day - number) * MINUTES
            height = workload.burst_height * chance.exponential()
            total_M += np.where(since_M >= 0, height * 0.5 ** (np.maximum(since_M, 0) / workload.burst_minutes), 0.0)
    return total_M


def holes(workload: Workload) -> dict[int, slice]:
    """The minutes of each date in which nothing was written: {number of the date: its minutes}."""
    chance = workload.stream(3, 0)
    chosen = chance.choice(np.arange(workload.num_dates), min(workload.num_holes, workload.num_dates), replace=False)
    starts = chance.integers(0, MINUTES - workload.hole_minutes, len(chosen))
    return {
        day: slice(start, start + workload.hole_minutes)
        for day, start in zip(chosen.tolist(), starts.tolist(), strict=True)
    }


def intensities(workload: Workload) -> Iterator[Floats]:
    """Yields the intensity of each date, 0 in holes: what the written requests have."""
    nothing = holes(workload)
    for day in range(workload.num_dates):
        load_M = intensity(workload, day)
        if day in nothing:
            load_M[nothing[day]] = 0.0
        yield load_M


def expected_wait(workload: Workload, day: int, second_R: Floats) -> Floats:
    """Returns [R] seconds until the next request that succeeds, as they are to be expected at these seconds of a date.

    That is what a predictor would say that knew the intensity of every minute to come, and none can say better. Of a clock
    with ticks: the expected difference of the two stamps.
    """
    per_second_M = (
        np.concatenate([intensity(workload, day), intensity(workload, day + 1)]) * (1 - workload.failures) / 60
    )
    tick = workload.ticks_ns / 1e9
    stays = np.exp(-per_second_M * tick)  # nothing comes within a tick
    in_minute = round(60 / tick)
    step = tick * stays / -np.expm1(-per_second_M * tick)  # of endless ticks
    at_start = np.empty(len(per_second_M) + 1)
    at_start[-1] = step[-1]
    for place in range(len(per_second_M) - 1, -1, -1):
        quiet = stays[place] ** in_minute
        at_start[place] = step[place] * (1 - quiet) + quiet * at_start[place + 1]
    minute_R = (second_R // 60).astype(np.int64)
    left_R = 60 - second_R % 60
    ticks_R = np.ceil(left_R / tick - 1e-9) - 1  # whole ticks after the one that runs
    rest_R = left_R - ticks_R * tick
    each, rate = stays[minute_R], per_second_M[minute_R]
    quiet_R = each**ticks_R
    after_R = step[minute_R] * (1 - quiet_R) + quiet_R * at_start[minute_R + 1]
    wait_R: Floats = np.exp(-rate * rest_R) * (tick + after_R)
    return wait_R
