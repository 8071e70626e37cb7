"""Times whose parts stand in columns of their own: year, month, day (or a whole date), hour, minute, second."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dateshard.pipeline.raw.clocks.civil_days import days_of
from dateshard.pipeline.raw.formats import as_numbers

SECOND, MINUTE, HOUR, DAY = 10**9, 60 * 10**9, 3600 * 10**9, 86400 * 10**9
LARGEST = {"year": 9999, "month": 12, "day": 31, "hour": 24, "minute": 59}
Whole = NDArray[np.int64]
Valid = NDArray[np.bool_]


def readings(columns: Mapping[str, pl.Series], form: str | None, *, midnight: bool) -> pl.Series:
    """Readings of the clock in nanoseconds since 1970, null where the parts make none.

    Args:
        columns: {part: column}; `date` stands for year, month and day.
        form: of the dates, in chrono's words; None for ISO 8601.
        midnight: whether the hour 24 is the midnight at the date's end.
    """
    if "date" in columns:
        days, valid = _days_of_dates(columns["date"], form)
    else:
        wholes = [_whole(columns[name], LARGEST[name]) for name in ("year", "month", "day")]
        days, valid = days_of(*(values.astype(np.int32) for values, _ in wholes))
        valid = np.logical_and.reduce([valid, *(there for _, there in wholes)])
    clock = np.zeros(len(days), dtype=np.int64)
    for name, unit in (("minute", MINUTE), ("second", SECOND)):
        if name in columns:
            values, there = _whole(columns[name], 59) if name == "minute" else _seconds(columns[name])
            clock, valid = clock + values * (unit if name == "minute" else 1), valid & there
    if "hour" in columns:
        hours, there = _whole(columns["hour"], LARGEST["hour"])
        valid = valid & there & ((hours < 24) | (midnight & (clock == 0)))
        clock = clock + hours * HOUR
    return pl.Series(days * DAY + clock).set(pl.Series(~valid), None)


def _days_of_dates(column: pl.Series, form: str | None) -> tuple[Whole, Valid]:
    if not column.dtype.is_temporal():
        texts = column.cast(pl.String, strict=False)
        texts = texts.set(~texts.str.contains("^[0-9]{4}-[0-9]{2}-[0-9]{2}$"), None) if form is None else texts
        column = texts.str.to_date(form or "%Y-%m-%d", strict=False)
    dates = column.cast(pl.Date, strict=False)
    years = dates.dt.year().fill_null(0)
    days = dates.to_physical().cast(pl.Int64).fill_null(0).to_numpy()
    return days, ((years >= 1678) & (years <= 2261)).to_numpy()


def _whole(column: pl.Series, most: int) -> tuple[Whole, Valid]:
    """Whole numbers from 0 on, as integers, as `5.0` or as text."""
    values = as_numbers(column)[0].fill_null(float("nan")).to_numpy()
    with np.errstate(invalid="ignore"):
        valid = (values >= 0) & (values <= most) & (values == np.floor(values))
    return np.where(valid, values, 0).astype(np.int64), valid


def _seconds(column: pl.Series) -> tuple[Whole, Valid]:
    """Seconds with a fraction, as nanoseconds."""
    values = as_numbers(column)[0].fill_null(float("nan")).to_numpy()
    with np.errstate(invalid="ignore"):
        valid = (values >= 0) & (values < 60)
    return np.rint(np.where(valid, values, 0) * SECOND).astype(np.int64), valid
