"""The noiseless truth: expected speed and vehicles of any sensor at any step of any date.

Demand has a daily and a weekly rhythm that travels along each corridor, a season, growth, and a disturbance that is
smooth in time and along the corridor. Speed falls as demand nears capacity, and around incidents, whose reach grows.

Legend: T steps of five minutes, N sensors, K knots, C corridors.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from dateshard.pipeline.synthetic.city import A_CORRIDOR, City, Floats, Integers, Sensors, sensors
from dateshard.shardstore.errors import UsageError
from dateshard.shardstore.times.calendar import Day, day_of, instants, time_codes

FEATURES = ("speed", "vehicles")  # km/h; a count in five minutes
STEP_SECONDS = 300
SECOND = 10**9
SLOWEST = 8.0  # km/h that no jam goes below; more than four standard deviations of the noise above 0
KNOT_SECONDS, KNOTS_A_DAY, KNOTS_A_CORRIDOR = 7200, 12, 4
DISTURBANCE = 0.15
VEHICLES_A_LANE = 40.0  # in five minutes at demand 1
DAYS_A_YEAR = 365.25


def day(city: City, date: dt.date) -> Day:
    """Lays `date` out in the city's zone, in steps of five minutes (276 and 300 of them where the clocks change)."""
    return day_of(date, city.timezone, STEP_SECONDS * SECOND)


def this_and_before(city: City, date: dt.date) -> Iterator[dt.date]:
    """The dates whose events reach into `date`: the one before it (where the zone has it) and itself."""
    with suppress(UsageError):
        yield day(city, date - dt.timedelta(days=1)).date
    yield date


def expected(city: City, date: dt.date, steps: slice = slice(None)) -> Floats:
    """Returns [T, N, 2] speed and vehicles that records of these steps have on average.

    Memory: about eight times the result.

    Holds for every sensor at any time, whether it exists, sends or is out of order then.
    """
    where, whole = sensors(city), day(city, date)
    seconds_T = instants(whole)[steps] // SECOND
    hour_T = (time_codes(whole, city.timezone)[steps] // 8).astype(np.float64) * (STEP_SECONDS / 3600)
    demand_TN = _rhythm(hour_T, where, weekend=date.weekday() >= 5) * level(city, date)
    demand_TN *= np.exp(DISTURBANCE * _disturbance(city, where, seconds_T))
    passing_TN = _passing(city, date, where, seconds_T)
    jam_TN = 1 / (1 + np.exp((0.85 - demand_TN) / 0.07))
    speed_TN = SLOWEST + (where.free_speed_N - SLOWEST) * (1 - 0.65 * jam_TN) * passing_TN
    vehicles_TN = VEHICLES_A_LANE * where.lanes_N * demand_TN * (0.5 + 0.5 * passing_TN)
    return np.stack([speed_TN, vehicles_TN], axis=-1)


def expected_value(city: City, date: dt.date, step: int, node: str, feature: str) -> float:
    """One cell of `expected`."""
    return float(
        expected(city, date, slice(step, step + 1))[0, sensors(city).names.index(node), FEATURES.index(feature)]
    )


def level(city: City, date: dt.date) -> float:
    """The slow part of the demand, 1 on average: a season of 8 % and the growth since `first`."""
    years = (date - city.first).days / DAYS_A_YEAR
    season = 0.08 * np.sin(2 * np.pi * (date.timetuple().tm_yday - 80) / DAYS_A_YEAR)
    return float(max(1 + season + city.growth * years, 0.1))


def _rhythm(hour_T: Floats, where: Sensors, *, weekend: bool) -> Floats:
    """Returns [T, N] demand of an average day; it reaches a corridor's far end 20 minutes late."""
    hour_TN = hour_T[:, None] - where.place_N / 3
    midday_TN = np.sin(np.pi * (hour_TN - 3) / 24) ** 2
    if weekend:
        return np.asarray((0.10 + 0.45 * midday_TN) * where.busy_N)
    morning_N, evening_N = np.where(where.inbound_N, 0.55, 0.30), np.where(where.inbound_N, 0.30, 0.55)
    rush_TN = morning_N * _bump(hour_TN, 8.0, 1.2) + evening_N * _bump(hour_TN, 17.5, 1.5)
    return np.asarray((0.10 + 0.35 * midday_TN + rush_TN) * where.busy_N)


def _bump(hour: Floats, at: float, width: float) -> Floats:
    return np.asarray(np.exp(-0.5 * ((hour - at) / width) ** 2))


def _disturbance(city: City, where: Sensors, seconds_T: Integers) -> Floats:
    """Returns [T, N] normal values at knots, every two hours and four a corridor, joined by straight lines.

    The knots of a UTC day come from that day's stream alone, so the lines join over midnight.
    """
    before_T, between_T = np.divmod(seconds_T / KNOT_SECONDS, 1)
    first, last = int(before_T[0]), int(before_T[-1]) + 1
    knots_KCP = np.concatenate([_knots(city, utc) for utc in range(first // KNOTS_A_DAY, last // KNOTS_A_DAY + 1)])
    index_T = before_T.astype(np.int64) - first // KNOTS_A_DAY * KNOTS_A_DAY
    left_N, share_N = np.divmod(where.place_N * (KNOTS_A_CORRIDOR - 1), 1)
    point_N = left_N.astype(np.int64)
    near_KN, far_KN = knots_KCP[:, where.corridor_N, point_N], knots_KCP[:, where.corridor_N, point_N + 1]
    along_KN = near_KN * (1 - share_N) + far_KN * share_N
    later_T1 = between_T[:, None]
    return np.asarray(along_KN[index_T] * (1 - later_T1) + along_KN[index_T + 1] * later_T1)


def _knots(city: City, utc_day: int) -> Floats:
    return city.stream("disturbance", utc_day).standard_normal((KNOTS_A_DAY, city.num_corridors, KNOTS_A_CORRIDOR))


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """A place of a corridor that is hard to pass from `start` (instant in seconds) for `seconds`."""

    corridor: int
    place: float
    start: float
    seconds: float
    severity: float  # share of the speed that is lost in its middle


def incidents(city: City, date: dt.date) -> Iterator[Incident]:
    """Draws the incidents that begin on `date`."""
    random, whole = city.stream("incidents", date.toordinal()), day(city, date)
    for _ in range(random.poisson(city.incidents * city.num_corridors)):
        corridor, place = int(random.integers(city.num_corridors)), float(random.random())
        start = random.uniform(whole.start, whole.end) / SECOND
        yield Incident(
            corridor=corridor,
            place=place,
            start=start,
            seconds=random.uniform(1800, 5400),
            severity=random.uniform(0.3, 0.7),
        )


def _passing(city: City, date: dt.date, where: Sensors, seconds_T: Integers) -> Floats:
    """Returns [T, N] share of the speed that incidents of the date and of the evening before leave."""
    passing_TN = np.ones((len(seconds_T), city.num_sensors))
    for begun in this_and_before(city, date):
        for incident in incidents(city, begun):
            road = slice(incident.corridor * A_CORRIDOR, (incident.corridor + 1) * A_CORRIDOR)
            passing_TN[:, road] *= 1 - _effect(incident, seconds_T, where.place_N[road])
    return passing_TN


def _effect(incident: Incident, seconds_T: Integers, place_n: Floats) -> Floats:
    """Returns [T, n] lost share: full after ten minutes, over twenty minutes after its end; its reach grows all the while."""
    since_T = seconds_T - incident.start
    rising_T, falling_T = since_T / 600, 1 - (since_T - incident.seconds) / 1200
    strength_T = np.clip(np.minimum(rising_T, falling_T), 0, 1)
    reach_T = 0.03 + 0.2 * np.clip(since_T / incident.seconds, 0, 1)
    distance_Tn = (place_n[None, :] - incident.place) / reach_T[:, None]
    return np.asarray(incident.severity * strength_T[:, None] * np.exp(-(distance_Tn**2)))
