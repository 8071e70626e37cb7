"""The calendar: days of 23, 25, 23.5 and 24.5 hours, days that do not exist, midnights that do not exist."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from dateshard.shardstore.coverage.spacing import spelled
from dateshard.shardstore.errors import UsageError
from dateshard.shardstore.times.calendar import (
    Day,
    Segment,
    collapse,
    day_of,
    instants,
    midnight,
    parse_date,
    parse_step,
    segments,
    time_codes,
)

HOUR = 3_600_000_000_000
D = dt.date
LENGTHS = [
    ("UTC", D(2024, 3, 10), "1h", 24),
    ("America/New_York", D(2013, 3, 10), "1h", 23),
    ("America/New_York", D(2013, 11, 3), "1h", 25),
    ("Europe/Berlin", D(2024, 3, 31), "15m", 92),
    ("Europe/Berlin", D(2024, 10, 27), "15m", 100),
    ("Australia/Lord_Howe", D(2024, 10, 6), "30m", 47),
    ("Australia/Lord_Howe", D(2024, 4, 7), "30m", 49),
    ("America/Havana", D(2024, 3, 10), "1h", 23),  # midnight does not exist: the day begins at 01:00
    ("America/Havana", D(2024, 11, 3), "1h", 25),  # midnight happens twice
    ("Asia/Beirut", D(2024, 3, 31), "1h", 23),
    ("Asia/Beirut", D(2024, 10, 26), "1h", 25),  # 24:00 is put back to 23:00
]


@pytest.mark.parametrize(("zone", "date", "step", "num_steps"), LENGTHS)
def test_a_day_has_as_many_steps_as_the_clock_has_hours(zone: str, date: D, step: str, num_steps: int) -> None:
    day = day_of(date, zone, parse_step(step))
    assert day.num_steps == num_steps
    before, after = (day_of(date + dt.timedelta(days=k), zone, parse_step(step)) for k in (-1, 1))
    assert before.end == day.start
    assert day.end == after.start


@pytest.mark.parametrize(("zone", "date", "step", "num_steps"), LENGTHS)
def test_every_instant_of_a_day_reads_as_that_date_in_its_zone(zone: str, date: D, step: str, num_steps: int) -> None:
    day = day_of(date, zone, parse_step(step))
    local = [dt.datetime.fromtimestamp(second, ZoneInfo(zone)) for second in (instants(day) // 10**9).tolist()]
    assert {at.date() for at in local} == {date}
    just_before = dt.datetime.fromtimestamp(day.start // 10**9 - 1, ZoneInfo(zone))
    assert just_before.date() == date - dt.timedelta(days=1)


@pytest.mark.parametrize(("zone", "date", "step", "num_steps"), LENGTHS)
def test_time_codes_are_the_local_step_of_day_and_the_weekday(zone: str, date: D, step: str, num_steps: int) -> None:
    day = day_of(date, zone, parse_step(step))
    codes = time_codes(day, zone)
    assert codes.dtype == np.int32
    assert codes.shape == (num_steps,)
    for instant, code in zip(instants(day).tolist(), codes.tolist(), strict=True):
        at = dt.datetime.fromtimestamp(instant // 10**9, ZoneInfo(zone))
        assert divmod(code, 8) == ((at.hour * 60 + at.minute) * 60 * 10**9 // day.step, date.weekday())


def test_a_second_step_of_a_day_keeps_all_its_codes_apart() -> None:
    codes = time_codes(day_of(D(2024, 1, 1), "UTC", parse_step("1s")), "UTC")
    assert len(np.unique(codes)) == 86_400


@pytest.mark.parametrize(
    ("zone", "date", "step"),
    [
        ("Australia/Lord_Howe", D(2024, 10, 6), "1h"),
        ("Australia/Lord_Howe", D(2024, 4, 7), "1h"),
        ("America/New_York", D(2013, 3, 10), "1d"),
        ("UTC", D(2024, 1, 1), "7m"),
    ],
)
def test_a_step_that_does_not_divide_a_day_is_refused_with_the_days_hours(zone: str, date: D, step: str) -> None:
    with pytest.raises(UsageError, match="does not divide") as caught:
        day_of(date, zone, parse_step(step))
    assert caught.value.where is not None
    assert caught.value.where.date == date
    assert "hours in " + zone in str(caught.value)


def test_the_date_that_samoa_skipped_is_refused_and_its_neighbours_join() -> None:
    with pytest.raises(UsageError, match="does not exist in Pacific/Apia"):
        day_of(D(2011, 12, 30), "Pacific/Apia", HOUR)
    days = [day_of(D(2011, 12, d), "Pacific/Apia", HOUR) for d in (28, 29, 31)]
    assert [day.num_steps for day in days] == [24, 24, 24]
    assert segments(days) == [Segment(0, 3, 72)]


def test_a_midnight_that_a_zone_skips_is_the_instant_of_the_jump() -> None:
    jump = dt.datetime(2024, 3, 10, 5, tzinfo=dt.UTC).timestamp() * 10**9
    assert midnight(D(2024, 3, 10), "America/Havana") == jump
    first = dt.datetime(2024, 11, 3, 4, tzinfo=dt.UTC).timestamp() * 10**9
    assert midnight(D(2024, 11, 3), "America/Havana") == first  # of the two midnights the first


def test_segments_end_where_a_date_is_missing_and_run_through_dst() -> None:
    zone = "America/New_York"
    days = [day_of(D(2013, 3, d), zone, HOUR) for d in (8, 9, 10, 11, 13, 14, 20)]
    assert segments(days) == [Segment(0, 4, 95), Segment(4, 6, 48), Segment(6, 7, 24)]
    assert segments([]) == []
    assert segments(days[:1]) == [Segment(0, 1, 24)]


def test_a_days_end_is_the_first_instant_after_it() -> None:
    day = Day(date=D(2024, 1, 1), start=100, step=10, num_steps=3)
    assert day.end == 130
    assert instants(day).tolist() == [100, 110, 120]


def test_dates_are_collapsed_to_ranges_as_people_write_them() -> None:
    dates = [D(2024, 2, 28), D(2024, 2, 29), D(2024, 3, 1), D(2024, 3, 3), D(2024, 2, 29), D(2024, 3, 5), D(2024, 3, 6)]
    assert collapse(dates) == "2024-02-28..2024-03-01, 2024-03-03, 2024-03-05..2024-03-06"
    assert collapse(reversed(dates)) == collapse(dates)
    assert collapse([]) == ""


@pytest.mark.parametrize(
    "given", ["2013-03-05", " 2013-03-05 ", "20130305", 20130305, D(2013, 3, 5), dt.datetime(2013, 3, 5, 12)]
)
def test_a_date_is_read_as_text_number_or_date(given: object) -> None:
    assert parse_date(given) == D(2013, 3, 5)
    assert type(parse_date(given)) is D


@pytest.mark.parametrize("given", ["", "2013-02-30", "05.03.2013", "yesterday", None, True, 5, 1.5, "2013-3-5"])
def test_what_is_no_date_is_refused_with_the_value(given: object) -> None:
    with pytest.raises(UsageError, match="is not a date") as caught:
        parse_date(given)
    assert f"'{given}'" in str(caught.value)


def test_a_step_is_read_from_text_or_seconds() -> None:
    assert [parse_step(text) for text in ("30s", "5m", "1h", "1d", 90, "90", " 2 h ")] == [
        30 * 10**9,
        300 * 10**9,
        HOUR,
        24 * HOUR,
        90 * 10**9,
        90 * 10**9,
        2 * HOUR,
    ]


@pytest.mark.parametrize("text", ["", "0", "0h", "-5m", "1.5h", "5 min", "h", "5w", True])
def test_what_is_no_step_is_refused_with_the_value(text: str) -> None:
    with pytest.raises(UsageError, match="is not a step"):
        parse_step(text)


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../etc/passwd", "Europe", "europe/berlin "])
def test_an_unknown_time_zone_is_refused_with_its_name(name: str) -> None:
    with pytest.raises(UsageError, match="is not a time zone"):
        midnight(D(2024, 1, 1), name)


@pytest.mark.parametrize(("date", "hours"), [("2013-11-03", 25), ("2013-03-10", 23), ("2013-03-11", 24)])
def test_codes_of_steps_below_a_second_are_those_of_their_instants(date: str, hours: int) -> None:
    zone_name, step = "America/New_York", parse_step("250ms")
    day = day_of(dt.date.fromisoformat(date), zone_name, step)
    assert day.num_steps == hours * 3600 * 4
    codes = time_codes(day, zone_name)
    for place in (0, 1, 3, 4, day.num_steps // 12, day.num_steps // 8 + 7, day.num_steps - 1):
        seconds, fraction = divmod(day.start + place * step, 10**9)
        local = dt.datetime.fromtimestamp(seconds, ZoneInfo(zone_name))
        since = (local.hour * 3600 + local.minute * 60 + local.second) * 10**9 + fraction
        assert divmod(int(codes[place]), 8) == (since // step, local.weekday())


def test_a_step_is_a_millisecond_at_least() -> None:
    assert parse_step("1ms") * 1000 == parse_step(1) == parse_step("1s") == 10**9
    for text in ("1ms", "250ms", "30s", "5m", "1h", "1d"):
        assert spelled(parse_step(text)) == text
    for text in ("0ms", "1us", "0.01s", "0.5"):
        with pytest.raises(UsageError, match="one millisecond is the least"):
            parse_step(text)
