"""A date's records: the truth with noise, without what got lost. Any date can be made alone.

Legend: T steps, N sensors, R records.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dateshard.pipeline.synthetic.city import City, Integers, sensors
from dateshard.pipeline.synthetic.truth import SECOND, STEP_SECONDS, day, expected, this_and_before
from dateshard.shardstore.times.calendar import instants

ROWS_AT_ONCE = 1 << 20
STEPS_AN_HOUR = 3600 // STEP_SECONDS


def records(city: City, date: dt.date) -> Iterator[pl.DataFrame]:
    """The date's rows in whole hours, sorted by time, then sensor; about a million rows at a time (at least an hour).

    Columns: `timestamp` (Datetime in the city's zone), `sensor_id`, `speed` (km/h to two decimals; null where no
    vehicle passed), `vehicles` (Poisson). A record that is missing has no row.
    """
    num_steps, ordinal = day(city, date).num_steps, date.toordinal()
    noise, counts, losses = (city.stream(what, ordinal) for what in ("noise", "counts", "losses"))
    hours = max(ROWS_AT_ONCE // (city.num_sensors * STEPS_AN_HOUR), 1)
    for first in range(0, num_steps, hours * STEPS_AN_HOUR):
        steps = slice(first, min(first + hours * STEPS_AN_HOUR, num_steps))
        truth_TNF = expected(city, date, steps)
        shape = truth_TNF.shape[:2]
        speed_TN = np.round(truth_TNF[..., 0] + city.speed_noise * noise.standard_normal(shape), 2)
        vehicles_TN = counts.poisson(truth_TNF[..., 1])
        sent_TN = (losses.random(shape) >= city.lost_records) & working(city, date, steps)
        yield _frame(city, date, steps, sent_TN, speed_TN, vehicles_TN)


def whole_date(city: City, date: dt.date) -> pl.DataFrame:
    """All of a date's records at once: 40 bytes a row."""
    return pl.concat(list(records(city, date)))


def working(city: City, date: dt.date, steps: slice = slice(None)) -> NDArray[np.bool_]:
    """Tells [T, N] whether the sensor exists and is not out of order."""
    where, seconds_T = sensors(city), instants(day(city, date))[steps] // SECOND
    alive_N = (where.born_N <= date.toordinal()) & (date.toordinal() < where.gone_N)
    working_TN = np.repeat(alive_N[None], len(seconds_T), axis=0)
    for begun in this_and_before(city, date):
        sensor_O, start_O, end_O = _outages(city, begun)
        for sensor, start, end in zip(sensor_O, start_O, end_O, strict=True):
            working_TN[np.searchsorted(seconds_T, start) : np.searchsorted(seconds_T, end), sensor] = False
    return working_TN


def _outages(city: City, date: dt.date) -> tuple[Integers, Integers, Integers]:
    """Sensor, start and end (instants in seconds) of the outages that begin on `date`."""
    random, whole = city.stream("outages", date.toordinal()), day(city, date)
    number = random.poisson(city.outages * city.num_sensors)
    sensor_O = random.integers(city.num_sensors, size=number)
    start_O = random.integers(whole.start // SECOND, whole.end // SECOND, size=number)
    return sensor_O, start_O, start_O + random.integers(3600, 12 * 3600, size=number)


def _frame(
    city: City,
    date: dt.date,
    steps: slice,
    sent_TN: NDArray[np.bool_],
    speed_TN: NDArray[np.float64],
    vehicles_TN: Integers,
) -> pl.DataFrame:
    step_R, sensor_R = np.nonzero(sent_TN)
    times = pl.Series(instants(day(city, date))[steps] // 1000, dtype=pl.Datetime("us", "UTC"))
    vehicles = pl.Series(vehicles_TN[sent_TN])
    speed = pl.Series(speed_TN[sent_TN])
    return pl.DataFrame(
        {
            "timestamp": times.dt.convert_time_zone(city.timezone).gather(step_R),
            "sensor_id": pl.Series(sensors(city).names).gather(sensor_R),
            "speed": speed.set(vehicles == 0, None),
            "vehicles": vehicles,
        }
    )
