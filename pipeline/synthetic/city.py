"""An invented city of traffic sensors: all that synthetic data depend on, and where its sensors stand.

Sensors stand in corridors of 16: corridor 0 is the ring road, every other one a road out of town. Everything is a
function of a `City` and of instants: no state is carried from date to date.

Legend: N sensors.
"""

from __future__ import annotations

import datetime as dt
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dateshard.shardstore.errors import UsageError
from dateshard.shardstore.times.calendar import midnight

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
MOST_SENSORS = 100_000
A_CORRIDOR = 16  # sensors
CENTRE = (50.0, 10.0)  # degrees
KM_A_DEGREE = 111.32


@dataclass(frozen=True, slots=True, kw_only=True)
class City:
    """What decides every byte. A city of other `lost_records` or `outages` has the same truth.

    Attributes:
        first: drift and the sensors' lives count from this date; dates before it are as good as those after.
        speed_noise: standard deviation of a record's speed around the truth, km/h.
        growth: share by which the demand grows in a year.
        incidents: expected number a corridor and date.
        lost_records: share of single records that never arrive.
        outages: expected number a sensor and date; each lasts 1 to 12 hours.
        missing_dates: share of dates without a dump.
        short_lived: share of sensors that appear up to 30 days late, and share of those that vanish within a year.
    """

    num_sensors: int = 64
    seed: int = 7
    first: dt.date = dt.date(2024, 3, 1)
    timezone: str = "UTC"
    speed_noise: float = 2.0
    growth: float = 0.05
    incidents: float = 0.5
    lost_records: float = 0.01
    outages: float = 0.02
    missing_dates: float = 0.0
    short_lived: float = 0.05

    def __post_init__(self) -> None:
        if not 1 <= self.num_sensors <= MOST_SENSORS:
            raise UsageError(f"a city of {self.num_sensors:,} sensors", todo=f"Choose 1 to {MOST_SENSORS:,}")
        if self.seed < 0:
            raise UsageError(f"a seed of {self.seed}", todo="Choose 0 or more")

    @property
    def num_corridors(self) -> int:
        """Roads: the ring and those out of town."""
        return -(-self.num_sensors // A_CORRIDOR)

    def stream(self, what: str, day: int = 0) -> np.random.Generator:
        """Random numbers of one purpose and day: the same whatever else was drawn before."""
        return np.random.default_rng([self.seed, zlib.crc32(what.encode()), day])

    def dates(self, num_dates: int) -> Iterator[dt.date]:
        """Yields those of `num_dates` dates in a row from `first` on that have a dump."""
        for index in range(num_dates):
            date = self.first + dt.timedelta(days=index)
            exists = midnight(date, self.timezone) < midnight(date + dt.timedelta(days=1), self.timezone)
            if exists and self.stream("missing dates", date.toordinal()).random() >= self.missing_dates:
                yield date


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensors:
    """What does not change: `place_N` is 0 to 1 along the corridor, `busy_N` a factor of the demand.

    `born_N` and `gone_N` are ordinals of dates: a sensor sends from the first on and before the second.
    """

    names: tuple[str, ...]
    corridor_N: Integers
    place_N: Floats
    inbound_N: NDArray[np.bool_]
    lanes_N: Integers
    free_speed_N: Floats
    busy_N: Floats
    latitude_N: Floats
    longitude_N: Floats
    born_N: Integers
    gone_N: Integers


@lru_cache(maxsize=8)
def sensors(city: City) -> Sensors:
    """The city's sensors, sorted by name."""
    number_N = np.arange(city.num_sensors)
    random = city.stream("sensors")
    corridor_N, place_N = number_N // A_CORRIDOR, (number_N % A_CORRIDOR + 0.5) / A_CORRIDOR
    latitude_N, longitude_N = _positions(city, corridor_N, place_N)
    born_N, gone_N = _lives(city)
    return Sensors(
        names=tuple(f"s{number:05d}" for number in number_N),
        corridor_N=corridor_N,
        place_N=place_N,
        inbound_N=number_N % 2 == 0,
        lanes_N=random.integers(1, 4, city.num_sensors),
        free_speed_N=random.uniform(60.0, 120.0, city.num_sensors),
        busy_N=random.uniform(0.8, 1.2, city.num_sensors),
        latitude_N=latitude_N,
        longitude_N=longitude_N,
        born_N=born_N,
        gone_N=gone_N,
    )


def node_table(city: City) -> pl.DataFrame:
    """Lists sensor_id, corridor, lanes, latitude and longitude of every sensor that ever sends."""
    all_of_it = sensors(city)
    return pl.DataFrame(
        {
            "sensor_id": all_of_it.names,
            "corridor": all_of_it.corridor_N,
            "lanes": all_of_it.lanes_N,
            "latitude": all_of_it.latitude_N,
            "longitude": all_of_it.longitude_N,
        }
    )


def _positions(city: City, corridor_N: Integers, place_N: Floats) -> tuple[Floats, Floats]:
    """Degrees north and east, to a metre: a ring of 6 km around the centre, and roads from 2 to 22 km out."""
    ring = corridor_N == 0
    angle_N = np.where(ring, place_N, corridor_N / max(city.num_corridors - 1, 1)) * 2 * np.pi
    km_N = np.where(ring, 6.0, 2.0 + 20.0 * place_N)
    north, east = CENTRE
    latitude_N = north + km_N * np.cos(angle_N) / KM_A_DEGREE
    longitude_N = east + km_N * np.sin(angle_N) / (KM_A_DEGREE * np.cos(np.radians(north)))
    return np.round(latitude_N, 5), np.round(longitude_N, 5)


def _lives(city: City) -> tuple[Integers, Integers]:
    random, first, size = city.stream("lives"), city.first.toordinal(), city.num_sensors
    late_N, early_N = random.random((2, size)) < city.short_lived
    born_N = np.where(late_N, first + random.integers(1, 31, size), 0)
    gone_N = np.where(early_N, first + random.integers(31, 366, size), dt.date.max.toordinal())
    return born_N.astype(np.int64), gone_N.astype(np.int64)
