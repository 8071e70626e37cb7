"""Splits: ranges, open ends, lists, fractions, none; overlap is refused."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from dateshard.pipeline.config import Split
from dateshard.pipeline.splits import parse_range, refuse_impossible, resolve_split
from dateshard.shardstore.errors import UsageError

DATES = [dt.date(2024, 3, 1) + dt.timedelta(days=k) for k in range(10)]
D = dt.date


def resolved(split: dict[str, Any] | None, frozen: Any = None, dates: list[dt.date] = DATES) -> dict[str, Any]:
    found = resolve_split(None if split is None else Split.model_validate(split), dates, frozen)
    return {name: [(str(low)[5:], str(high)[5:]) for low, high in ranges] for name, ranges in found.items()}


def test_ranges_include_both_ends() -> None:
    split = {"train": "2024-03-01..2024-03-05", "validation": "2024-03-06", "test": "2024-03-07..2024-03-10"}
    assert resolved(split) == {
        "train": [("03-01", "03-05")],
        "validation": [("03-06", "03-06")],
        "test": [("03-07", "03-10")],
    }


def test_open_ends_reach_the_first_and_last_date_and_move_with_the_data() -> None:
    split = {"train": "..2024-03-05", "test": "2024-03-07.."}
    assert resolved(split) == {"train": [("03-01", "03-05")], "test": [("03-07", "03-10")]}
    assert resolved(split, dates=[D(2024, 2, 28), *DATES, D(2024, 3, 12)]) == {
        "train": [("02-28", "03-05")],
        "test": [("03-07", "03-12")],
    }


def test_a_list_joins_ranges_and_single_dates() -> None:
    split = {"train": ["2024-03-06..", "2024-03-01..2024-03-03", "2024-03-05"], "test": "2024-03-04"}
    assert resolved(split)["train"] == [("03-01", "03-03"), ("03-05", "03-05"), ("03-06", "03-10")]


@pytest.mark.parametrize("date", ["2024-03-06", "20240306", 20240306, D(2024, 3, 6)])
def test_a_date_may_be_text_a_number_or_a_date_alone_and_in_a_list(date: Any) -> None:
    split = {"train": "..2024-03-05", "validation": date}
    assert resolved(split)["validation"] == [("03-06", "03-06")]
    assert resolved({"train": "..2024-03-05", "validation": [date]}) == resolved(split)


def test_fractions_are_of_whole_dates_in_order_and_use_each_once() -> None:
    assert resolved({"train": 0.7, "validation": 0.1, "test": 0.2}) == {
        "train": [("03-01", "03-07")],
        "validation": [("03-08", "03-08")],
        "test": [("03-09", "03-10")],
    }
    assert resolved({"train": 1}) == {"train": [("03-01", "03-10")]}


@pytest.mark.parametrize("count", range(1, 40))
def test_fractions_of_any_number_of_dates_neither_overlap_nor_leave_one_out(count: int) -> None:
    dates = [DATES[0] + dt.timedelta(days=2 * k) for k in range(count)]
    found = resolve_split(Split(train=0.6, validation=0.2, test=0.2), dates)
    named = [[d for d in dates if low <= d <= high] for ranges in found.values() for low, high in ranges]
    assert sorted(d for part in named for d in part) == dates
    assert "train" in found


def test_fractions_once_resolved_stay_frozen_when_dates_are_added() -> None:
    split = Split(train=0.7, test=0.3)
    frozen = resolve_split(split, DATES)
    more = [*DATES, *(DATES[-1] + dt.timedelta(days=k) for k in range(1, 11))]
    assert resolve_split(split, more, frozen) == frozen
    assert resolve_split(split, more)["train"] == ((DATES[0], more[13]),)  # --resplit


def test_without_a_split_validation_is_the_last_date() -> None:
    assert resolved(None) == {"train": [("03-01", "03-09")], "validation": [("03-10", "03-10")]}
    assert resolved(None, dates=DATES[:1]) == {"train": [("03-01", "03-01")]}
    assert resolved(None, dates=[]) == {}


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ({"train": "..2024-03-05", "test": "2024-03-05.."}, "2024-03-05 is in train and in test"),
        ({"train": "..", "test": "2024-03-05.."}, "is not a range"),
        ({"train": ["2024-03-01..2024-03-03", "2024-03-02..2024-03-04"]}, "2024-03-02 is in train and in train"),
        ({"train": ["2024-03-01..2024-03-09"], "test": "2024-03-03"}, "2024-03-03 is in train and in test"),
        ({"train": 0.7, "test": "2024-03-08.."}, "mixes fractions and dates"),
        ({"train": 0.7, "test": 0.4}, "sum to at most 1"),
        ({"train": 1.2, "test": -0.2}, "between 0 and 1"),
        ({"train": 0.01, "test": 0.9}, "no training date"),
        ({"train": "2025-01-01.."}, "no training date"),
        ({"test": "2024-03-05.."}, "no training date"),
        ({"train": "soon"}, "'soon' is not a date"),
        ({"train": "2024-03-05..2024-03-01"}, "'2024-03-05..2024-03-01' runs backwards"),
        (
            {"train": "2023-01-01..2023-12-31"},
            "no training date that exists: there are 10 dates, 2024-03-01..2024-03-10",
        ),
        ({"train": "..latest-10"}, "no training date"),
        ({"train": "last:0"}, "no training date"),
        ({"train": "last:3..2024-03-09"}, "is not a range"),
        ({"train": "..2024-03-05", "test": "last:6"}, "2024-03-05 is in train and in test"),
    ],
)
def test_a_split_that_cannot_be_is_refused_in_words(split: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolved(split)
    assert words in str(caught.value)
    assert caught.value.todo


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ({"train": "..2024-03-05", "test": "2024-03-05.."}, "2024-03-05 is in train and in test"),
        ({"train": "2024-03-01..2024-03-05", "test": "2024-03-03"}, "2024-03-03 is in train and in test"),
        ({"train": "..latest-7", "test": "last:8"}, "share dates"),
    ],
)
def test_ranges_that_share_a_date_are_refused_before_there_is_any_dump(split: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        refuse_impossible(Split.model_construct(**{"train": None, "validation": None, "test": None, **split}))
    refuse_impossible(Split.model_validate({"train": "..2024-03-05", "test": "2024-03-06.."}))
    refuse_impossible(Split.model_validate({"train": "..latest-7", "test": "last:7"}))


def test_rolling_ranges_count_dates_that_exist_so_that_they_neither_overlap_nor_leave_one_out() -> None:
    split = {"train": "..latest-4", "validation": ["latest-3", "latest-2"], "test": "last:2"}
    assert resolved(split)["train"] == [("03-01", "03-06")]
    assert resolved(split)["test"] == [("03-09", "03-10")]
    holed = [date for date in DATES if date.day not in (5, 8)] + [D(2024, 3, 15)]
    assert resolved(split, dates=holed) == {
        "train": [("03-01", "03-06")],
        "validation": [("03-07", "03-07"), ("03-09", "03-09")],
        "test": [("03-10", "03-15")],
    }
    found = resolve_split(Split.model_validate(split), holed)
    named = sorted(d for ranges in found.values() for low, high in ranges for d in holed if low <= d <= high)
    assert named == holed
    assert parse_range("latest-30..", DATES) == (DATES[0], DATES[-1])
    assert parse_range("latest-30", DATES) is None
    assert parse_range("latest", []) is None


def test_a_range_of_one_date_is_that_date() -> None:
    assert parse_range("2024-03-05", DATES) == (DATES[4], DATES[4])
    assert parse_range(" 2024-03-05 .. 20240307 ", DATES) == (DATES[4], DATES[6])
