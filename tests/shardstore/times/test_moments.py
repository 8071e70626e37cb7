"""Instants as people write them, and the dates and rows around one."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dateshard.shardstore.errors import UsageError
from dateshard.shardstore.times.calendar import NANOSECONDS, day_of
from dateshard.shardstore.times.instants import (
    date_at,
    neighbour,
    parse_instant,
    rows_after,
    rows_before,
    spell,
    step_before,
)

NEW_YORK, SAMOA = "America/New_York", "Pacific/Apia"
HOUR = 3600 * NANOSECONDS


@pytest.mark.parametrize(
    ("text", "end", "spelled"),
    [
        ("2013-12-01T14:05", True, "2013-12-01T14:05:00-05:00"),
        ("2013-12-01 14:05", True, "2013-12-01T14:05:00-05:00"),
        ("2013-12-01T14:05Z", True, "2013-12-01T09:05:00-05:00"),
        ("2013-12-01", True, "2013-12-02T00:00:00-05:00"),
        ("20131201", False, "2013-12-01T00:00:00-05:00"),
        ("2013-11-03T01:30-05:00", True, "2013-11-03T01:30:00-05:00"),
    ],
)
def test_an_instant_is_read_in_the_zone(text: str, end: bool, spelled: str) -> None:
    assert spell(parse_instant(text, NEW_YORK, end=end), NEW_YORK) == spelled


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("2013-11-03T01:30", "comes twice.*as 2013-11-03T01:30:00-04:00 or 2013-11-03T01:30:00-05:00"),
        ("2013-03-10T02:30", "comes never"),
        ("noon", "not an instant"),
        ("2013-02-30", "not a date"),
        ("2013-13-01T00:00", "not an instant"),
    ],
)
def test_an_instant_that_is_none_or_two_is_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_instant(text, NEW_YORK, end=True)


def test_a_date_that_the_zone_jumped_over_is_no_neighbour() -> None:
    day = day_of(dt.date(2011, 12, 29), SAMOA, HOUR)
    after = neighbour(day, SAMOA, 1)
    assert after.date == dt.date(2011, 12, 31)
    assert after.start == day.end
    assert neighbour(after, SAMOA, -1) == day


@given(
    second=st.integers(1_300_000_000, 1_400_000_000),
    count=st.integers(1, 200),
    zone_name=st.sampled_from(["UTC", NEW_YORK, SAMOA, "Europe/Berlin"]),
)
def test_rows_around_an_instant_join_there_without_a_gap(second: int, count: int, zone_name: str) -> None:
    border = step_before(second * NANOSECONDS, zone_name, HOUR)
    assert 0 <= second * NANOSECONDS - border < HOUR
    told = []
    for spans in (rows_before(border, count, zone_name, HOUR), rows_after(border, count, zone_name, HOUR)):
        told += [day.start + row * HOUR for day, rows in spans for row in range(rows.start, rows.stop)]
        assert all(0 <= rows.start < rows.stop <= day.num_steps for day, rows in spans)
    assert told == [border + step * HOUR for step in range(-count, count)]
    assert date_at(border, zone_name) == dt.datetime.fromtimestamp(border // NANOSECONDS, ZoneInfo(zone_name)).date()


def test_no_rows_follow_where_none_are_asked_for() -> None:
    assert rows_after(0, 0, "UTC", HOUR) == []
