"""Invented recordings of movement: body-worn sensors and the joint angles that they should tell, with known truth.

A few smooth movements drive every joint linearly; a sensor sees a bent mixture of them and of their speeds, with noise. One
session a subject and date. So what a sensor's one reading says of a joint is little, and what its neighbours in time add to
that is much.

Legend: T steps, M movements, J joints, S sensors.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]
HERTZ, NUM_MOVEMENTS, NUM_WAVES = 50, 6, 3
FIRST = dt.date(2024, 3, 1)
STARTS = dt.timedelta(hours=9)
DEGREES = 25.0  # standard deviation of a joint's angle
READING_NOISE, ANGLE_NOISE = 0.1, 1.0  # of a sensor in its own units, of a recorded angle in degrees


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """Who is recorded, with what, and for how long a session."""

    num_subjects: int = 8
    num_sensors: int = 12
    num_joints: int = 20
    seconds: int = 40
    seed: int = 5

    @property
    def subjects(self) -> list[str]:
        """Names of the subjects."""
        return [f"subject_{number:02}" for number in range(1, self.num_subjects + 1)]

    @property
    def sensors(self) -> list[str]:
        """Names of the sensors' columns."""
        return [f"sensor_{number:02}" for number in range(1, self.num_sensors + 1)]

    @property
    def joints(self) -> list[str]:
        """Names of the joints' columns."""
        return [f"joint_{number:02}" for number in range(1, self.num_joints + 1)]

    @property
    def num_steps(self) -> int:
        """Steps of a session."""
        return self.seconds * HERTZ


def movements(lab: Lab, subject: int, date: dt.date) -> tuple[Floats, Floats]:
    """Returns (movements [T, M] of unit spread, their speeds [T, M]) of a session."""
    generator = np.random.default_rng([lab.seed, subject, date.toordinal()])
    time_T = np.arange(lab.num_steps)[:, None, None] / HERTZ
    pace_MW = generator.uniform(0.2, 1.6, (NUM_MOVEMENTS, NUM_WAVES)) * 2 * np.pi
    phase_MW = generator.uniform(0, 2 * np.pi, (NUM_MOVEMENTS, NUM_WAVES))
    height_MW = generator.uniform(0.5, 1.0, (NUM_MOVEMENTS, NUM_WAVES))
    height_MW /= np.sqrt((height_MW**2).sum(axis=1, keepdims=True) / 2)
    angle = pace_MW * time_T + phase_MW
    return (height_MW * np.sin(angle)).sum(axis=2), (height_MW * pace_MW * np.cos(angle)).sum(axis=2)


def truth(lab: Lab, subject: int, date: dt.date) -> Floats:
    """Returns [T, J] degrees: the joints' angles without the noise of their recording."""
    driven_MJ = np.random.default_rng([lab.seed, 1]).normal(size=(NUM_MOVEMENTS, lab.num_joints))
    driven_MJ /= np.sqrt((driven_MJ**2).sum(axis=0))
    return DEGREES * movements(lab, subject, date)[0] @ driven_MJ


def readings(lab: Lab, subject: int, date: dt.date) -> Floats:
    """Returns [T, S]: what the sensors of a session tell."""
    generator = np.random.default_rng([lab.seed, 2])
    placed_MS, turned_MS = (generator.normal(size=(NUM_MOVEMENTS, lab.num_sensors)) for _ in range(2))
    moved_TM, speed_TM = movements(lab, subject, date)
    noise = np.random.default_rng([lab.seed, subject, date.toordinal(), 3]).normal(
        size=(lab.num_steps, lab.num_sensors)
    )
    return np.tanh(0.6 * moved_TM @ placed_MS + 0.04 * speed_TM @ turned_MS) + READING_NOISE * noise


def recording(lab: Lab, date: dt.date) -> pl.DataFrame:
    """Makes a date's dump: subject after subject, a row a step."""
    return pl.concat(_session(lab, number, date) for number in range(lab.num_subjects))


def _session(lab: Lab, subject: int, date: dt.date) -> pl.DataFrame:
    noise = np.random.default_rng([lab.seed, subject, date.toordinal(), 4]).normal(size=(lab.num_steps, lab.num_joints))
    angles_TJ = truth(lab, subject, date) + ANGLE_NOISE * noise
    begin = dt.datetime.combine(date, dt.time(), dt.UTC) + STARTS + subject * dt.timedelta(minutes=10)
    times = pl.Series("time", begin.timestamp() * 1e3 + np.arange(lab.num_steps) * (1000 / HERTZ)).cast(pl.Int64)
    columns = [times, pl.Series("subject", [lab.subjects[subject]] * lab.num_steps)]
    columns += [
        pl.Series(name, values.round(4))
        for name, values in zip(lab.sensors, readings(lab, subject, date).T, strict=True)
    ]
    columns += [pl.Series(name, values.round(3)) for name, values in zip(lab.joints, angles_TJ.T, strict=True)]
    return pl.DataFrame(columns)


def dates(num_dates: int) -> Iterator[dt.date]:
    """The dates of so many days of recording."""
    yield from (FIRST + dt.timedelta(days=number) for number in range(num_dates))
