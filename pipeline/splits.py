"""Split settings -> ranges of dates. Pure functions."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Mapping, Sequence

from pipeline.config import Split
from shardstore.calendar import parse_date
from shardstore.errors import UsageError
from shardstore.manifest import SPLITS, Ranges


def parse_range(text: str, dates: Sequence[dt.date]) -> tuple[dt.date, dt.date]:
    """`A..B`, `A..`, `..B` or `A`, both ends included; open ends reach the first or last of `dates`."""
    first, dots, last = (part.strip() for part in str(text).partition(".."))
    low = parse_date(first) if first else min(dates)
    high = (parse_date(last) if last else max(dates)) if dots else low
    if dots and not first and not last:
        raise UsageError(f"'{text}' is not a range of dates", todo="Write 2013-01-01..2013-09-30, or 2013-10-01..")
    return low, high


def resolve_split(
    split: Split | None, dates: Sequence[dt.date], frozen: Mapping[str, Ranges] | None = None
) -> dict[str, Ranges]:
    """The ranges of train, validation and test over the known dates.

    Fractions are of whole dates in order, resolved once: `frozen` (the manifest's split) is kept where it exists.
    Without a split, validation is the last date.

    Raises:
        UsageError: no training date, ranges that overlap, or fractions mixed with ranges.
    """
    if not dates:
        return {}
    if split is None:
        return (
            {"train": ((dates[0], dates[-2]),), "validation": ((dates[-1],) * 2,)}
            if len(dates) > 1
            else {"train": ((dates[0], dates[0]),)}
        )
    given = {name: value for name in SPLITS if (value := getattr(split, name)) is not None}
    fractions = {name: value for name, value in given.items() if isinstance(value, float | int)}
    if fractions and len(fractions) < len(given):
        raise UsageError("pipeline.split mixes fractions and dates", todo="Give all three as one or the other")
    if fractions:
        return dict(frozen) if frozen else _by_fraction(fractions, dates)
    ranges = {name: _ranges(value, dates) for name, value in given.items()}
    ranges = {name: found for name, found in ranges.items() if found}
    _refuse_overlap(ranges)
    if "train" not in ranges:
        raise UsageError("pipeline.split names no training date that exists", todo="Set pipeline.split.train")
    return ranges


def _ranges(value: object, dates: Sequence[dt.date]) -> Ranges:
    texts = value if isinstance(value, list | tuple) else [value]
    found = [parse_range(str(text), dates) for text in texts]
    return tuple(sorted((low, high) for low, high in found if low <= high))


def _by_fraction(fractions: Mapping[str, float], dates: Sequence[dt.date]) -> dict[str, Ranges]:
    if sum(fractions.values()) > 1 + 1e-9 or min(fractions.values()) < 0:
        raise UsageError("pipeline.split: fractions must lie between 0 and 1 and sum to at most 1", todo="Correct them")
    ranges: dict[str, Ranges] = {}
    total, begin = 0.0, 0
    for name in SPLITS:
        total += fractions.get(name, 0.0)
        end = round(total * len(dates))
        if end > begin:
            ranges[name] = ((dates[begin], dates[end - 1]),)
        begin = max(begin, end)
    if "train" not in ranges:
        raise UsageError("pipeline.split leaves no training date", todo="Raise pipeline.split.train")
    return ranges


def _refuse_overlap(ranges: Mapping[str, Ranges]) -> None:
    flat = sorted((low, high, name) for name, found in ranges.items() for low, high in found)
    for (_, high, name), (low, _, other) in itertools.pairwise(flat):
        if low <= high:
            raise UsageError(
                f"pipeline.split: {low} is in {name} and in {other}", todo="Every date belongs to one split at most"
            )
