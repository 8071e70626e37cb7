"""Years, months and days -> days since 1970-01-01 in the Gregorian calendar, for whole columns."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MONTH_DAYS = np.array([0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
FIRST_YEAR, LAST_YEAR = 1678, 2261  # that int64 holds whole in nanoseconds


def days_of(
    year: NDArray[np.int32], month: NDArray[np.int32], date: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Returns (days since 1970-01-01, whether there is such a date).

    The days count years from March (H. Hinnant, days_from_civil).
    """
    valid = (month >= 1) & (month <= 12) & (date >= 1) & (year >= FIRST_YEAR) & (year <= LAST_YEAR)
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    valid &= date <= MONTH_DAYS[np.where(valid, month, 1)] - ((month == 2) & ~leap)
    shifted = year - (month <= 2)
    era = shifted // 400
    in_era = shifted - era * 400
    day_of_year = (153 * (month + np.where(month > 2, -3, 9)) + 2) // 5 + date - 1
    days: Any = era * 146097 + in_era * 365 + in_era // 4 - in_era // 100 + day_of_year - 719468
    return days.astype(np.int64), valid
