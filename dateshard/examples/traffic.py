"""An invented city: five-minute speeds and counts of traffic sensors as daily CSVs, and the table of the sensors."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dateshard.pipeline.synthetic import City, node_table, write_rows
from dateshard.shardstore.errors import UsageError, Where, counted

if TYPE_CHECKING:
    from dateshard.examples import Content

NUM_DATES, NUM_SENSORS = 60, 64
FEWEST_DATES, MOST_DATES = 10, 3650  # the weekly baseline needs a week before the test dates
NODES = "nodes.csv"


def dumps(folder: Path, num_dates: int | None, num_sensors: int | None) -> Iterator[tuple[str, Content]]:
    """Yields (file name, content): one CSV a date, and last the node table, which says that the data are complete.

    Where it lies already, nothing more is made unless more dates are asked for.

    Raises:
        UsageError: a size that cannot be, or another number of sensors than lies there.
    """
    there = _sensors_of(folder / NODES)
    if there and num_dates is None and num_sensors in (None, there):
        return iter(())
    if there and num_sensors not in (None, there):
        where, todo = Where(file=str(folder / NODES)), "Choose another DIR, or remove the example's data"
        raise UsageError(
            f"the city that lies there has {counted(there, 'sensor')}, not {num_sensors:,}", where=where, todo=todo
        )
    dates = NUM_DATES if num_dates is None else num_dates
    if not FEWEST_DATES <= dates <= MOST_DATES:
        raise UsageError(f"an example of {dates:,} dates", todo=f"Choose {FEWEST_DATES} to {MOST_DATES:,}")
    sensors = NUM_SENSORS if num_sensors is None else num_sensors
    return _contents(City(num_sensors=there or sensors), dates)


def _contents(city: City, num_dates: int) -> Iterator[tuple[str, Content]]:
    for date in city.dates(num_dates):
        yield f"{date}.csv", partial(write_rows, city, date)
    yield NODES, node_table(city).write_csv().encode()


def _sensors_of(table: Path) -> int:
    """How many sensors the table that lies there names; 0 if there is none."""
    if not table.is_file():
        return 0
    with open(table, newline="") as file:
        return sum(1 for _ in csv.DictReader(file))
