"""The configured split moved back in time, once for each origin of a backtest. Pure functions.

dates      0 1 2 3 4 5 6 7 8 9
origin 1   t t t t t t v v x x      the configured one
origin 2   t t t t v v x x . .      2 dates back: training begins with the first date, so it ends 2 dates earlier
"""

from __future__ import annotations

import datetime as dt
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence

from dateshard.pipeline.config import Pipeline, Split
from dateshard.pipeline.splits import write_bounds
from dateshard.shardstore.errors import UsageError
from dateshard.shardstore.manifest import Ranges

ONE_DAY = dt.timedelta(days=1)
SplitRanges = Mapping[str, Ranges]
Places = tuple[int, int]  # of the first and the last date of a range, among all dates


def rolling_origins(
    split: SplitRanges, dates: Sequence[dt.date], count: int, every: int, least: int = 1
) -> list[dict[str, Ranges]]:
    """The split of each origin, newest first: the configured one, then each `every` dates further back.

    Dates are counted, not days (as in rolling ranges). Every range keeps its number of dates, but for a training range
    that begins with the first date: it begins there at every origin.

    Args:
        split: as configured, resolved over `dates`, which are in order.
        least: dates that a training range needs.

    Raises:
        UsageError: there are too few dates; says from which date on they would be needed, and how many origins fit.
    """
    places = {name: _places(ranges, dates) for name, ranges in split.items()}
    lacking = [_lacking(places, back * every, least) for back in range(count)]
    fitting = sum(missing <= 0 for missing in lacking)
    if fitting < count:
        first = dates[0] - max(lacking) * ONE_DAY
        fits = "none fits" if not fitting else "1 origin fits" if fitting == 1 else f"{fitting} origins fit"
        what = f"{count} origins {every} dates apart need dates from {first} on, and the first is {dates[0]}: {fits}"
        raise UsageError(what, todo="Lower --origins or --every, or add older dumps")
    return [_moved(places, dates, back * every) for back in range(count)]


def origin_settings(config: Pipeline, split: SplitRanges) -> Pipeline:
    """The pipeline's half with an origin's split, and without the dates after it: at that time they did not exist."""
    texts = {name: [write_bounds(ends) for ends in ranges] for name, ranges in split.items()}
    exclude = (*config.exclude, (last_date(split) + ONE_DAY, dt.date.max))
    return config.model_copy(update={"split": Split.model_validate(texts), "exclude": exclude})


def last_date(split: SplitRanges) -> dt.date:
    """The last date of a split."""
    return max(high for ranges in split.values() for _, high in ranges)


def _places(ranges: Ranges, dates: Sequence[dt.date]) -> list[Places]:
    ends = [(bisect_left(dates, low), bisect_right(dates, high) - 1) for low, high in ranges]
    return [(first, last) for first, last in ends if first <= last]


def _back(name: str, ends: Places, back: int) -> Places:
    first, last = ends
    return (0 if _grows(name, ends) else first - back), last - back


def _grows(name: str, ends: Places) -> bool:
    return name == "train" and ends[0] == 0


def _lacking(places: Mapping[str, list[Places]], back: int, least: int) -> int:
    """How many dates more there would have to be before the first; 0 or less where there are enough."""
    listed = [(name, ends) for name, ranges in places.items() for ends in ranges]
    return max(least - 1 - (ends[1] - back) if _grows(name, ends) else back - ends[0] for name, ends in listed)


def _moved(places: Mapping[str, list[Places]], dates: Sequence[dt.date], back: int) -> dict[str, Ranges]:
    moved = {name: [_back(name, ends, back) for ends in ranges] for name, ranges in places.items()}
    return {name: tuple((dates[first], dates[last]) for first, last in ranges) for name, ranges in moved.items()}
