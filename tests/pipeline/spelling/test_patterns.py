"""strptime patterns mean what Python's mean; what has no meaning is refused before a row is read."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dateshard.pipeline.raw.clocks.times import instants
from dateshard.pipeline.source import Source
from dateshard.pipeline.spelling.patterns import PatternError, read_pattern
from dateshard.shardstore.errors import DumpError
from tests.pipeline.conftest import Read

Dump = Callable[..., Read]
BASE = {"path": "{date}", "time": "t", "node": "n"}


def times_of(form: str, *texts: str, **source: Any) -> list[str | None]:
    """Instants in UTC, None where a text is no time."""
    found, valid = instants([pl.Series("t", texts)], Source(**BASE, time_format=form, **source), None)
    shown = [str(np.datetime64(int(at), "ns")).rstrip("0").removesuffix(".") for at in found]
    return [text if good else None for text, good in zip(shown, valid, strict=True)]


DATES = [
    "%Y-%m-%d",
    "%d/%m/%Y",
    "%m/%d/%y",
    "%d.%m.%y",
    "%Y%m%d",
    "%d-%b-%Y",
    "%A, %d. %B %Y",
    "%a %b %d %Y",
    "%Y-%j",
    "%Y%j",
]
DATES += ["%G-W%V-%u", "%Y week %U day %w", "%Y-%W-%a", "%x"]
CLOCKS = [
    "",
    "%H",
    "%H:%M",
    "%H.%M.%S",
    "%H%M%S",
    "%I:%M %p",
    "%I %p",
    "%I:%M:%S %p",
    "%H:%M:%S.%f",
    "%H:%M:%S,%f",
    "%X",
]
CLOCKS += ["%H:%M:%S:%f", "%H:%M:%S %f", "%H%M%S%f", "%H:%M %z", "%H:%M:%S.%f%z", "%H:%M UTC"]


@given(
    st.sampled_from(DATES),
    st.sampled_from(CLOCKS),
    st.sampled_from([" ", "T", "_", " at "]),
    st.datetimes(dt.datetime(1969, 1, 1), dt.datetime(2068, 12, 31)),
    st.integers(-23, 23),
)
def test_patterns_read_what_python_reads(date: str, clock: str, joint: str, at: dt.datetime, hours: int) -> None:
    assume(not ("%B" in date and clock == "%H%M%S%f"))  # is refused: where would the fraction begin?
    form = date + joint + clock if clock else date
    text = at.replace(tzinfo=dt.timezone(dt.timedelta(hours=hours, minutes=30))).strftime(form)
    if text.endswith(("+0000", "-0000")):
        text = text[:-5] + "Z"
    parsed = dt.datetime.strptime(text, form)
    expected = parsed if parsed.tzinfo is None else parsed.astimezone(dt.UTC).replace(tzinfo=None)
    (found,) = times_of(form, text)
    assert found == str(np.datetime64(expected, "ns")).rstrip("0").removesuffix(".")


@pytest.mark.parametrize("mark", [".", ",", ":", " ", "_"])
def test_a_fraction_counts_in_decimals_and_never_in_nanoseconds(mark: str) -> None:
    fractions = {"9": 900, "10": 100, "000": 0, "5": 500, "123": 123, "250000": 250, "9799600": 979.96}
    form = f"%H{'-' if mark == ':' else ':'}%M-%S{mark}%f of %Y-%m-%d"
    texts = [f"05{'-' if mark == ':' else ':'}00-01{mark}{fraction} of 2024-01-02" for fraction in fractions]
    expected = [
        np.datetime64("2024-01-02T05:00:01", "ns") + np.timedelta64(int(ms * 1e6), "ns") for ms in fractions.values()
    ]
    assert times_of(form, *texts) == [str(at).rstrip("0").removesuffix(".") for at in expected]
    assert times_of(form, texts[0].replace(f"{mark}9 ", " ")) == [
        "2024-01-02T05:00:01"
    ]  # str() of a whole second has none


def test_an_hour_without_minutes_is_a_time() -> None:
    assert times_of("%Y%m%d%H", "2024010205", "2024010223", "2024010224") == [
        "2024-01-02T05:00:00",
        "2024-01-02T23:00:00",
        None,
    ]
    assert times_of("%m/%d/%Y %I %p", "1/2/2024 12 AM", "1/2/2024 3 pm") == [
        "2024-01-02T00:00:00",
        "2024-01-02T15:00:00",
    ]


def test_offsets_and_seconds_since_1970_are_instants_whatever_the_zone() -> None:
    form, zone = "%Y-%m-%dT%H:%M%z", "Europe/Berlin"
    offsets = ["Z", "+00:00", "+0000", "+00"]
    assert set(times_of(form, *(f"2024-01-02T05:00{z}" for z in offsets), timezone=zone)) == {"2024-01-02T05:00:00"}
    assert times_of("%s", "1704171600", timezone=zone) == ["2024-01-02T05:00:00"]
    assert times_of("%Y-%m-%d %H:%M", "2024-01-02 06:00", timezone=zone) == ["2024-01-02T05:00:00"]


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ("yyyy-MM-dd HH:mm", "it holds no directive; write '%Y-%m-%d %H:%M'"),
        ("yyyy-MM-dd'T'HH:mm:ss.SSS", "it holds no directive; write '%Y-%m-%dT%H:%M:%S.%f'"),
        ("ISO", "it holds no directive"),
        ("%Y-%m-%d %Q", "'%Q' is no directive of strptime"),
        ("%Y-%m-%d %", "'%' is no directive of strptime"),
        ("%Y-%m-%dT%h:%m", "'%m' stands in it twice"),
        ("%Y-%m %H:%M", "it names no day"),
        ("%H:%M", "it names no year and no month and no day"),
        ("%d.%m. %H:%M", "it names no year"),
        ("%Y-%W %H:%M", "it names no month and no day"),
        ("%Y-%m-%d %I:%M", "%I counts to 12: it needs %p, or %H is meant"),
        ("%m/%d/%Y %H:%M:%S %p", "%p goes with %I: %H counts to 24 and takes 12 for noon"),
        ("%Y-%B-%d %M:%S", "it names minutes and no hour"),
        ("%Y-%m-%d %H:%S", "it names seconds and no minutes"),
        ("%Y-%m-%d %H:%M.%f", "it names a fraction and no seconds"),
        ("%d-%B-%Y-%H-%M-%S%f", "%f needs a point, or another mark, before it"),
    ],
)
def test_a_pattern_without_a_meaning_is_refused_with_the_reason(form: str, reason: str) -> None:
    with pytest.raises(PatternError) as caught:
        read_pattern(form)
    assert str(caught.value) == reason
    with pytest.raises(ValueError, match="has no meaning: "):
        Source(**BASE, time_format=form)


PAIRS = {  # pattern -> a date and a time of day in two columns
    "%d/%m/%Y %H.%M.%S": ("01/03/2024", "05.30.00"),
    "%d/%m/%YT%H.%M.%S": ("01/03/2024", "05.30.00"),
    "%Y%m%d%H%M": ("20240301", "0530"),
    "%m/%d/%y_%I:%M %p": ("03/01/24", "05:30 AM"),
    "%H:%M, %d.%m.%Y": ("05:30", "01.03.2024"),
}


@pytest.mark.parametrize("form", PAIRS)
def test_a_pattern_reads_two_columns_by_what_stands_between_its_halves(read_dump: Dump, form: str) -> None:
    first, second = PAIRS[form]
    data = f"a;b;n;speed\n{first};{second};x;1\n"
    found = read_dump(data, time=["a", "b"], node="n", time_format=form, csv={"separator": ";"})
    assert found.clock == ["2024-03-01T05:30:00"]
    with pytest.raises(DumpError, match=r"row 2, column 'a b'.*not a time"):
        read_dump(data.replace(second, "noon"), time=["a", "b"], node="n", time_format=form, csv={"separator": ";"})


def test_a_pattern_that_mixes_date_and_clock_reads_one_column_alone() -> None:
    with pytest.raises(ValueError, match="is no date and time of day apart"):
        Source(**BASE | {"time": ("a", "b")}, time_format="%a %b %d %H:%M:%S %Y")
    assert times_of("%c", "Fri Mar  1 05:30:00 2024") == ["2024-03-01T05:30:00"]


def test_only_patterns_that_read_other_times_than_before_have_another_identity() -> None:
    def measuring(form: str, **source: Any) -> dict[str, Any]:
        return Source(**BASE, time_format=form, **source).measuring()

    assert measuring("%Y-%m-%d %H:%M:%S.%f")["time_form"] == "%Y-%m-%d %H:%M:%S%.f"
    assert "time_form" in measuring("%s", timezone="Europe/Berlin")
    for form in ("%Y-%m-%d %H:%M:%S%.f", "%d.%m.%Y %H:%M", "%Y-%m-%dT%H:%M%z", "%s", "%F %T", "100%%f %Y%m%d"):
        assert "time_form" not in measuring(form)
