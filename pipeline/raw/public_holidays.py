"""Public holidays as a feature: 1 on a date that is one, 0 on any other, at every step and node.

What is a holiday is looked up once, when a date is measured, and kept in its arrays like every other value.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from dateshard.shardstore.errors import UsageError
from dateshard.shardstore.layouts.feature import CALENDAR, Feature
from dateshard.shardstore.scaling.transform import Floats

if TYPE_CHECKING:
    from dateshard.pipeline.source import CalendarConfig


def put_holidays(
    values_TNF: Floats, date: dt.date, features: Sequence[Feature], calendar: CalendarConfig | None
) -> None:
    """Writes the columns of a date that the calendar decides, in place.

    Raises:
        UsageError: the package is not installed, or it has no such country or subdivision.
    """
    for place, feature in enumerate(features):
        if feature.aggregate == CALENDAR:
            assert calendar is not None, "the configuration holds this"
            values_TNF[..., place] = is_holiday(date, calendar.country, calendar.subdivision)


def is_holiday(date: dt.date, country: str, subdivision: str | None) -> float:
    """Returns 1.0 on a public holiday of the country or its subdivision, otherwise 0.0."""
    return float(date in _holidays(country, subdivision, date.year))


@lru_cache(maxsize=64)
def _holidays(country: str, subdivision: str | None, year: int) -> frozenset[dt.date]:
    try:
        from holidays import country_holidays
    except ImportError:
        raise UsageError(
            "pipeline.calendar needs the package holidays, which is not installed",
            todo="Run: pip install 'dateshard[calendar]'",
        ) from None
    try:
        return frozenset(country_holidays(country, subdiv=subdivision, years=year))
    except NotImplementedError as error:
        todo = "Take a two-letter code of ISO 3166, as US, and a subdivision of it, as CA"
        raise UsageError(f"pipeline.calendar: {error}", todo=todo) from None
