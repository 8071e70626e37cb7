"""Makes defects in synthetic dumps, each with the exact number of records that it touches.

A fault takes one date's clean frame, random numbers and how many rows to hit, and gives a `Spoiled`. Its content is a
frame, which `formats` writes in any format, or the bytes of a file whose very form is damaged. `FAULTS` names them all.

`rows` counts the records that a perfect reader gets otherwise than from the clean dump: changed, added or lost. It is 0
where only the writing differs. Of a damaged binary file no record can be trusted, so all count.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from dateshard.pipeline.synthetic.city import Integers
from dateshard.pipeline.synthetic.formats import encode, in_text

Random = np.random.Generator
LOCAL = "%Y-%m-%dT%H:%M:%S"
NO_NUMBERS = ("fast", "n/a", "--", "1.2.3", "0x1F", "1,234.5", "#REF!")
NO_TIMES = ("noon", "2024-02-30T00:00:00+00:00", "2024-03-01T25:00:00+00:00", "01/03/2024 00:05", "1709251200", "")
UNKNOWN_NODES = ("x99999", "S00000", "sensor 0")
BEYOND_FLOAT32, BEYOND_INT64, BEYOND_RANGE = 1e39, 2**63, 400.0


@dataclass(frozen=True, slots=True)
class Spoiled:
    """A dump with a defect. `suffix` is the format of bytes; a frame is written in any."""

    content: pl.DataFrame | bytes
    rows: int
    suffix: str = "csv"

    def data(self, suffix: str = "csv") -> bytes:
        """The file's bytes; `suffix` counts for frames only."""
        return self.content if isinstance(self.content, bytes) else encode(self.content, suffix)


Fault = Callable[[pl.DataFrame, Random, int], Spoiled]


def choose(frame: pl.DataFrame, random: Random, many: int) -> Integers:
    """Positions of `many` rows (at most all), in file order."""
    return np.sort(random.choice(len(frame), min(many, len(frame)), replace=False))


def _replaced(frame: pl.DataFrame, at: Integers, column: str, values: pl.Series) -> Spoiled:
    """The frame with one column's values at some rows replaced; the column takes the values' type."""
    changed = frame[column].cast(values.dtype).scatter(at, values)
    return Spoiled(frame.with_columns(changed), len(at))


def _constant(frame: pl.DataFrame, at: Integers, column: str, value: float) -> Spoiled:
    return _replaced(frame, at, column, pl.Series([value] * len(at), dtype=pl.Float64))


def _texts(frame: pl.DataFrame, at: Integers, column: str, texts: tuple[str | None, ...]) -> Spoiled:
    values = [texts[number % len(texts)] for number in range(len(at))]
    return _replaced(_in_text(frame, column), at, column, pl.Series(values, dtype=pl.String))


def _in_text(frame: pl.DataFrame, column: str) -> pl.DataFrame:
    return in_text(frame) if column == "timestamp" else frame.with_columns(pl.col(column).cast(pl.String))


def equal_duplicates(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """Rows that come again, unchanged, at the file's end."""
    again = frame[choose(frame, random, many)]
    return Spoiled(pl.concat([frame, again]), len(again))


def conflicting_duplicates(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """Rows that come again at the file's end with one vehicle more."""
    again = frame[choose(frame, random, many)].with_columns(pl.col("vehicles") + 1)
    return Spoiled(pl.concat([frame, again]), len(again))


def rows_of_another_date(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """Rows whose time is 48 hours later."""
    at = choose(frame, random, many)
    return _replaced(frame, at, "timestamp", frame["timestamp"].gather(at) + dt.timedelta(hours=48))


def unknown_nodes(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """Sensors that no node table has."""
    return _texts(frame, choose(frame, random, many), "sensor_id", UNKNOWN_NODES)


def missing_node(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """Rows without a sensor."""
    return _texts(frame, choose(frame, random, many), "sensor_id", (None,))


def not_a_number(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """Speeds that are text."""
    return _texts(frame, choose(frame, random, many), "speed", NO_NUMBERS)


def nan_values(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """Speeds that are NaN (null in JSON, which has no such number); a speed that was missing stays missing."""
    numbers = frame.with_row_index("row").filter(pl.col("speed").is_not_null())["row"].to_numpy()
    at = numbers[choose(frame[numbers], random, many)].astype(np.int64)
    return _replaced(frame, at, "speed", pl.Series([float("nan")] * len(at)))


def infinite_values(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """Speeds that are infinite, of either sign (null in JSON)."""
    at = choose(frame, random, many)
    signs = np.where(np.arange(len(at)) % 2, -1.0, 1.0)
    return _replaced(frame, at, "speed", pl.Series(signs * np.inf))


def huge_values(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """Speeds of 1e39, more than float32 holds."""
    return _constant(frame, choose(frame, random, many), "speed", BEYOND_FLOAT32)


def negative_values(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """Counts of -5."""
    at = choose(frame, random, many)
    return _replaced(frame, at, "vehicles", pl.Series([-5] * len(at), dtype=pl.Int64))


def out_of_range(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """Speeds of 400 km/h: numbers, but no road's."""
    return _constant(frame, choose(frame, random, many), "speed", BEYOND_RANGE)


def bad_times(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """Times that are none, among them an empty one, a 30 February and an hour 25."""
    return _texts(frame, choose(frame, random, many), "timestamp", NO_TIMES)


def ambiguous_times(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """All times local and without an offset; those that the zone has twice on this date count, whatever `many` is."""
    zoned = frame["timestamp"]
    zone = zoned.dtype.time_zone if isinstance(zoned.dtype, pl.Datetime) else None
    local = zoned.dt.replace_time_zone(None)
    unique = local.dt.replace_time_zone(zone, ambiguous="null", non_existent="null")
    return Spoiled(frame.with_columns(zoned.dt.strftime(LOCAL)), unique.null_count())


def header_only(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """Columns and no row."""
    return Spoiled(frame.clear(), len(frame))


def missing_column(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """No column of speeds."""
    return Spoiled(frame.drop("speed"), len(frame))


def renamed_column(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """The column of speeds is called `sped`."""
    return Spoiled(frame.rename({"speed": "sped"}), len(frame))


def reordered_columns(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """The columns from right to left."""
    return Spoiled(frame.select(reversed(frame.columns)), 0)


def too_large_integer(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """Counts of 2^63, which int64 cannot hold."""
    at = choose(frame, random, many)
    return _replaced(frame, at, "vehicles", pl.Series([BEYOND_INT64] * len(at), dtype=pl.UInt64))


def other_types(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """Counts as floats (`12.0`) and, where the format has types, times as text; other dates have them otherwise."""
    return Spoiled(_in_text(frame, "timestamp").with_columns(pl.col("vehicles").cast(pl.Float64)), 0)


def shuffled_rows(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """All rows, in random order."""
    return Spoiled(frame[random.permutation(len(frame))], 0)


def constant_column(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """One and the same speed in every row."""
    return Spoiled(frame.with_columns(speed=pl.lit(50.0)), int(frame["speed"].ne_missing(50.0).sum()))


def null_column(frame: pl.DataFrame, random: Random, many: int) -> Spoiled:
    """No speed in any row."""
    return Spoiled(frame.with_columns(speed=pl.lit(None, pl.Float64)), len(frame) - frame["speed"].null_count())
