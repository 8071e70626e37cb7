"""Dates, instants and steps. Pure functions; instants are int64 nanoseconds since 1970-01-01T00:00Z.

A date is a calendar day in the dataset's time zone: 24 hours as a rule, 23 or 25 on two days a year in many zones,
and none at all where a zone jumped over it (Samoa has no 2011-12-30).
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from dateshard.shardstore.errors import UsageError, Where

NANOSECONDS = 1_000_000_000
UNDATED = dt.date(1970, 1, 1)  # under which rows lie that have no time, in a path without a date
UNDATED_TEXT = "undated"  # how people are shown that date
MILLISECOND = 1_000_000  # the codes of a day of such steps fit into int32
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """One date's place in time: it covers [start, start + num_steps * step) nanoseconds.

    Attributes:
        step: nanoseconds of a step; 0 where steps are records that come when they come (events, tables).
        num_steps: rows of the date's arrays.
        length: nanoseconds of the date where its steps have no length; 0 on a grid.
    """

    date: dt.date
    start: int
    step: int
    num_steps: int
    length: int = 0

    @property
    def end(self) -> int:
        """First instant after the date, in nanoseconds."""
        return self.start + (self.length or self.num_steps * self.step)


@dataclass(frozen=True, slots=True)
class Segment:
    """Dates whose instants join without a gap: days[first:last], `num_steps` steps in all."""

    first: int
    last: int
    num_steps: int


def parse_date(text: object) -> dt.date:
    """A date from `2013-03-05`, `20130305`, a number or a date.

    Raises:
        UsageError: naming the value.
    """
    if isinstance(text, dt.datetime):
        return text.date()
    if isinstance(text, dt.date):
        return text
    try:
        return dt.date.fromisoformat(str(text).strip())
    except ValueError:
        raise UsageError(f"'{text}' is not a date", todo="Write it as 2013-03-05 or 20130305") from None


def parse_step(text: str | int) -> int:
    """A step's length in nanoseconds from `5m`, `1h`, `30s`, `10ms` or a number of seconds."""
    match = re.fullmatch(r"\s*(\d+)\s*(ms|[smhd]?)\s*", str(text))
    if not match or int(match[1]) == 0:
        todo = "Write it as 10ms, 30s, 5m, 1h or 1d; one millisecond is the least"
        raise UsageError(f"'{text}' is not a step", todo=todo)
    if match[2] == "ms":
        return int(match[1]) * MILLISECOND
    return int(match[1]) * UNITS[match[2] or "s"] * NANOSECONDS


@lru_cache(maxsize=64)
def zone(name: str) -> ZoneInfo:
    """The time zone of an IANA name such as `America/New_York`."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(f"'{name}' is not a time zone", todo="Use an IANA name such as UTC or Europe/Berlin") from None


@lru_cache(maxsize=4096)
def midnight(date: dt.date, zone_name: str) -> int:
    """The instant at which `date` begins, in nanoseconds. A midnight that a zone skips is the instant of its jump."""
    local = dt.datetime(date.year, date.month, date.day, tzinfo=zone(zone_name))
    return round(local.timestamp()) * NANOSECONDS


def day_of(date: dt.date, zone_name: str, step: int) -> Day:
    """Lays `date` out in steps of `step` nanoseconds.

    Raises:
        UsageError: the date does not exist in the zone, or the step does not divide its length.
    """
    start, length = _extent(date, zone_name)
    if length % step:
        hours = length / 3600 / NANOSECONDS
        raise UsageError(
            f"a step of {step / NANOSECONDS:g} s does not divide this date's {hours:g} hours in {zone_name}",
            where=Where(date=date),
            todo="Choose a step that divides every day's length, or the time zone UTC",
        )
    return Day(date=date, start=start, step=step, num_steps=length // step)


def day_of_records(date: dt.date, zone_name: str, num_records: int = 0) -> Day:
    """Lays `date` out as records without steps.

    Raises:
        UsageError: the date does not exist in the zone.
    """
    start, length = _extent(date, zone_name)
    return Day(date=date, start=start, step=0, num_steps=num_records, length=length)


def _extent(date: dt.date, zone_name: str) -> tuple[int, int]:
    """Returns (first instant, nanoseconds) of a date."""
    start = midnight(date, zone_name)
    length = midnight(date + dt.timedelta(days=1), zone_name) - start
    if length <= 0:
        raise UsageError(f"the date does not exist in {zone_name}", where=Where(date=date))
    return start, length


def missing_days(first: dt.date, last: dt.date, there: Collection[dt.date], zone_name: str) -> list[dt.date]:
    """The calendar days from `first` to `last` that are not among `there`; but none that the zone jumped over."""
    known = {date.toordinal() for date in there}
    days = [dt.date.fromordinal(n) for n in range(first.toordinal(), last.toordinal()) if n not in known]
    return [day for day in days if midnight(day + dt.timedelta(days=1), zone_name) > midnight(day, zone_name)]


def segments(days: Sequence[Day], *, joined: bool = True) -> list[Segment]:
    """Cuts dates in order into runs whose instants join: a segment goes on when a date begins where the last ended.

    Args:
        joined: whether dates join at all; if not, each is a segment of its own.
    """
    runs: list[Segment] = []
    first = 0
    for index in range(1, len(days) + 1):
        if index == len(days) or not joined or days[index].start != days[index - 1].end:
            runs.append(Segment(first, index, sum(day.num_steps for day in days[first:index])))
            first = index
    return runs if days else []


class Timeline:
    """Steps of segments <-> rows of dates."""

    def __init__(self, days: Sequence[Day], segments: Sequence[Segment]) -> None:
        self.days, self.segments = days, segments
        self.edges = [
            np.cumsum([0, *(day.num_steps for day in days[segment.first : segment.last])]) for segment in segments
        ]

    def spans(self, segment: int, low: int, high: int) -> Iterator[tuple[Day, slice]]:
        """The dates and their rows that steps [low, high) of a segment fall into."""
        edges = self.edges[segment]
        index = int(np.searchsorted(edges, low, side="right")) - 1
        while low < high:
            stop = min(high, int(edges[index + 1]))
            yield (
                self.days[self.segments[segment].first + index],
                slice(low - int(edges[index]), stop - int(edges[index])),
            )
            low, index = stop, index + 1


def time_codes(day: Day, zone_name: str) -> NDArray[np.int32]:
    """Returns [num_steps] int32: step of the local day x 8 + weekday (Monday 0). `divmod(code, 8)` gives both back.

    The step of day is local: a 25th hour repeats its codes, a skipped hour leaves them out.
    """
    begin, tz = dt.datetime.fromtimestamp(day.start // NANOSECONDS, zone(zone_name)), zone(zone_name)
    weekday = day.date.weekday()
    whole = (day.num_steps * day.step) == 24 * 3600 * NANOSECONDS and begin.hour == begin.minute == begin.second == 0
    if whole:
        return np.arange(day.num_steps, dtype=np.int32) * 8 + weekday
    return _codes_of(instants(day), day.step, tz) + weekday


def record_codes(day: Day, time_T: NDArray[np.int64], zone_name: str) -> NDArray[np.int32]:
    """Returns [T] int32 as `time_codes`, of records at the given instants: second of the local day x 8 + weekday."""
    return _codes_of(time_T, NANOSECONDS, zone(zone_name)) + day.date.weekday()


def _codes_of(time_T: NDArray[np.int64], unit: int, tz: ZoneInfo) -> NDArray[np.int32]:
    """Returns [T] int32: `unit`s of the local day x 8."""
    second_T, fraction_T = np.divmod(time_T, NANOSECONDS)
    minutes, place_T = np.unique(second_T // 60, return_inverse=True)  # no zone has changed its offset within one
    local = [dt.datetime.fromtimestamp(minute * 60, tz) for minute in minutes.tolist()]
    shown = np.asarray([at.hour * 3600 + at.minute * 60 + at.second for at in local], dtype=np.int64)
    of_day = ((shown[place_T] + second_T % 60) % 86_400 * NANOSECONDS + fraction_T) // unit
    codes_T: NDArray[np.int32] = of_day.astype(np.int32) * 8
    return codes_T


def instants(day: Day) -> NDArray[np.int64]:
    """Returns [num_steps] int64: the instant at which each step begins."""
    return day.start + np.arange(day.num_steps, dtype=np.int64) * day.step


def collapse(dates: Iterable[dt.date], most: int | None = None, *, undated: bool = False) -> str:
    """Dates as people write them: `2013-01-01..2013-03-04, 2013-03-06`; of more than `most` ranges the first ones, `...`.

    Args:
        undated: the rows have no date: there is one, `UNDATED`, which is never shown.
    """
    if undated:
        return UNDATED_TEXT
    ranges: list[list[dt.date]] = []
    following = 0
    for date in sorted(set(dates)):
        if ranges and date.toordinal() == following:
            ranges[-1][1] = date
        else:
            ranges.append([date, date])
        following = date.toordinal() + 1
    shown = [str(a) if a == b else f"{a}..{b}" for a, b in ranges[:most]]
    return ", ".join([*shown, *(["..."] if len(shown) < len(ranges) else [])])
