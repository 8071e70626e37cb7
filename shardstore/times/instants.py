"""Instants as people write them, and the dates around one. Pure functions; instants are int64 nanoseconds."""

from __future__ import annotations

import datetime as dt
import re

from dateshard.shardstore.errors import UsageError
from dateshard.shardstore.times.calendar import NANOSECONDS, Day, day_of, midnight, parse_date, zone


def parse_instant(text: str, zone_name: str, *, end: bool) -> int:
    """An instant in nanoseconds from `2013-12-01T14:05`, with an offset or in the zone's own time.

    Args:
        end: whether a date stands for its end, or for its beginning.

    Raises:
        UsageError: no instant, or a local time that the zone has twice or never.
    """
    stripped = text.strip()
    todo = "Write it as 2013-12-01T14:00 (local time), 2013-12-01T14:00-05:00, or as a date"
    if re.fullmatch(r"\d{4}-?\d\d-?\d\d", stripped):
        return midnight(parse_date(stripped) + dt.timedelta(days=int(end)), zone_name)
    try:
        at = dt.datetime.fromisoformat(stripped)
    except ValueError:
        raise UsageError(f"'{text}' is not an instant", todo=todo) from None
    if at.tzinfo is None:
        first, second = (at.replace(tzinfo=zone(zone_name), fold=fold) for fold in (0, 1))
        if first.utcoffset() != second.utcoffset():
            back = first.astimezone(dt.UTC).astimezone(zone(zone_name)).replace(tzinfo=None)
            often = "twice" if back == at else "never"
            todo = f"Write its offset, as {first.isoformat()} or {second.isoformat()}"
            raise UsageError(f"'{text}' comes {often} in {zone_name}", todo=todo)
        at = first
    whole = round(at.replace(microsecond=0).timestamp())
    return whole * NANOSECONDS + at.microsecond * 1000


def date_at(instant: int, zone_name: str) -> dt.date:
    """The date in which an instant lies."""
    return dt.datetime.fromtimestamp(instant // NANOSECONDS, zone(zone_name)).date()


def spell(instant: int, zone_name: str) -> str:
    """Spells `2013-12-01T14:00:00-05:00`, in the zone's own time; with a fraction where the second has one."""
    at = dt.datetime.fromtimestamp(instant // NANOSECONDS, zone(zone_name))
    return at.replace(microsecond=instant % NANOSECONDS // 1000).isoformat()


def neighbour(day: Day, zone_name: str, towards: int) -> Day:
    """The next date (`towards` 1) or the one before (-1); a date that the zone jumped over is none."""
    date = day.date + dt.timedelta(days=towards)
    while midnight(date, zone_name) == midnight(date + dt.timedelta(days=1), zone_name):
        date += dt.timedelta(days=towards)
    return day_of(date, zone_name, day.step)


def rows_before(end: int, num_steps: int, zone_name: str, step: int) -> list[tuple[Day, slice]]:
    """The `num_steps` steps before an instant at which a step begins: dates in order, and which of their rows."""
    day = day_of(date_at(end - 1, zone_name), zone_name, step)
    spans, stop = list[tuple[Day, slice]](), (end - day.start) // step
    while True:
        first = max(0, stop - num_steps)
        spans.append((day, slice(first, stop)))
        num_steps -= stop - first
        if not num_steps:
            return spans[::-1]
        day = neighbour(day, zone_name, -1)
        stop = day.num_steps


def rows_after(begin: int, num_steps: int, zone_name: str, step: int) -> list[tuple[Day, slice]]:
    """Lists the days and rows of the `num_steps` steps from an instant on; none for 0."""
    day = day_of(date_at(begin, zone_name), zone_name, step)
    spans, first = list[tuple[Day, slice]](), (begin - day.start) // step
    while num_steps > 0:
        stop = min(day.num_steps, first + num_steps)
        spans.append((day, slice(first, stop)))
        num_steps -= stop - first
        if num_steps:
            day, first = neighbour(day, zone_name, 1), 0
    return spans


def step_before(instant: int, zone_name: str, step: int) -> int:
    """The latest border of steps that is not after an instant."""
    day = day_of(date_at(instant, zone_name), zone_name, step)
    return instant - (instant - day.start) % step
