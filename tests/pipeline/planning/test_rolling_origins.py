"""A split moved back in time keeps its lengths, counts dates that exist, and says what it lacks."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from dateshard.pipeline.config import Split
from dateshard.pipeline.planning.rolling_origins import rolling_origins
from dateshard.pipeline.splits import resolve_split
from dateshard.shardstore.errors import UsageError

FIRST = dt.date(2024, 3, 1)
DATES = [FIRST + dt.timedelta(days=k) for k in range(20)]


def day(number: int) -> dt.date:
    """2024-03-<number>."""
    return dt.date(2024, 3, number)


def origins(split: dict[str, Any], count: int, every: int, dates: list[dt.date] = DATES, least: int = 1) -> list[Any]:
    return rolling_origins(resolve_split(Split.model_validate(split), dates), dates, count, every, least)


def test_the_newest_origin_is_the_configured_split_and_training_from_the_first_date_on_grows() -> None:
    split = {"train": "2024-03-01..2024-03-14", "validation": "2024-03-15..2024-03-16", "test": "2024-03-17.."}
    assert origins(split, 3, 3) == [
        {"train": ((day(1), day(14)),), "validation": ((day(15), day(16)),), "test": ((day(17), day(20)),)},
        {"train": ((day(1), day(11)),), "validation": ((day(12), day(13)),), "test": ((day(14), day(17)),)},
        {"train": ((day(1), day(8)),), "validation": ((day(9), day(10)),), "test": ((day(11), day(14)),)},
    ]


@pytest.mark.parametrize(
    "split",
    [
        {"train": "2024-03-09..2024-03-14", "validation": "2024-03-15..2024-03-16", "test": "2024-03-17.."},
        {"train": "latest-11..latest-6", "validation": "latest-5..latest-4", "test": "last:4"},
    ],
)
def test_training_that_begins_later_keeps_its_length_and_rolling_ranges_move_alike(split: dict[str, Any]) -> None:
    oldest = origins(split, 3, 4)[-1]
    assert oldest == {"train": ((day(1), day(6)),), "validation": ((day(7), day(8)),), "test": ((day(9), day(12)),)}


def test_dates_are_counted_where_days_are_missing() -> None:
    dates = [date for date in DATES if date.day not in (9, 12, 13)]
    oldest = origins({"train": "..latest-4", "validation": "latest-3..latest-2", "test": "last:2"}, 3, 4, dates)[-1]
    assert oldest == {"train": ((day(1), day(5)),), "validation": ((day(6), day(7)),), "test": ((day(8), day(10)),)}


@pytest.mark.parametrize(
    ("split", "least", "first", "fits"),
    [
        (
            {"train": "..latest-6", "validation": "latest-5..latest-4", "test": "last:4"},
            1,
            "2024-02-23",
            "3 origins fit",
        ),
        (
            {"train": "..latest-6", "validation": "latest-5..latest-4", "test": "last:4"},
            5,
            "2024-02-19",
            "2 origins fit",
        ),
        ({"train": "2024-03-10..2024-03-14", "test": "2024-03-17.."}, 1, "2024-02-19", "2 origins fit"),
        ({"train": "2024-03-02..2024-03-14", "test": "2024-03-17.."}, 1, "2024-02-11", "1 origin fits"),
    ],
)
def test_too_few_dates_are_refused_with_the_first_date_that_is_needed(
    split: dict[str, Any], least: int, first: str, fits: str
) -> None:
    with pytest.raises(UsageError) as caught:
        origins(split, 5, 5, DATES, least)
    assert f"need dates from {first} on, and the first is 2024-03-01: {fits}" in str(caught.value)
    there = int(fits[0])
    assert len(origins(split, there, 5, DATES, least)) == there
