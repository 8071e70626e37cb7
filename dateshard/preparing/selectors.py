"""Which dates are meant: 2013-03-05, 2013-03, last:7, train, @file; on the command line and in Python."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from dateshard.shardstore.commands import by_door, to_run

if TYPE_CHECKING:
    from pathlib import Path

    from dateshard.shardstore.dataset import Dataset
    from dateshard.shardstore.errors import DateshardError
    from dateshard.shardstore.manifest import Ranges


def select_dates(
    selectors: Iterable[str],
    known: Sequence[dt.date],
    split: dict[str, Ranges] | None = None,
    absent: Callable[[str], DateshardError] | None = None,
) -> frozenset[dt.date] | None:
    """Dates that selectors name; None where there is no selector. A date by its name need not be among the known ones.

    Understands 2013-03-05, 20130305, 2013-03-01..2013-03-31, 2013-03, 2013-W10, latest, latest-1, ..latest-14, last:7,
    a split's name, @file; and undated, of rows that have no date.

    Args:
        absent: makes the error of a selector that names no date; without it such a one is passed over.

    Raises:
        UsageError: a selector that is none of these.
    """
    words = list(selectors)
    if not words:
        return None
    chosen_dates: set[dt.date] = set()
    for word in words:
        for inner in _listed(word[1:]) if word.startswith("@") else [word]:
            dates = _select(inner, sorted(known), split or {})
            if not dates and absent:
                raise absent(f"no date lies in '{inner}'; {_reach(known)}")
            chosen_dates |= set(dates)
    return frozenset(chosen_dates)


def _reach(known: Sequence[dt.date]) -> str:
    return f"the dates reach from {min(known)} to {max(known)}" if known else "there is none yet"


def _all_dates() -> str:
    return by_door(to_run("status", config=True), "Its dates: dateshard.open(...).dates")


def not_there(root: Path) -> Callable[[str], DateshardError]:
    """Makes the error of a selector that names nothing in a store."""
    from dateshard.shardstore.errors import NotThereError, Where

    return lambda what: NotThereError(what, where=Where(file=str(root)), todo=_all_dates())


def committed_dates(dataset: Dataset, selectors: Iterable[str]) -> list[dt.date]:
    """The committed dates that are meant; all of them where there is no selector.

    Raises:
        NotThereError: a date that is not committed, a selector that names none, or none at all.
    """
    from dateshard.shardstore.errors import NotThereError, Where

    known, lacking = sorted(dataset.manifest.dates), not_there(dataset.root)
    chosen = select_dates(selectors, known, dict(dataset.manifest.split), lacking)
    dates = known if chosen is None else sorted(chosen)
    if missing := [date for date in dates if date not in dataset.manifest.dates]:
        where, todo = Where(file=str(dataset.root), date=missing[0]), to_run("preprocess", missing[0], config=True)
        raise NotThereError("the date is not in this generation", where=where, todo=todo)
    if not dates:
        raise lacking("no committed date is selected")
    return dates


def plain_dates(selectors: Iterable[str]) -> list[dt.date]:
    """The dates, where every selector is one; else nothing."""
    import re

    from dateshard.shardstore.errors import UsageError
    from dateshard.shardstore.times.calendar import parse_date

    words = list(selectors)
    if not all(re.fullmatch(r"\d{4}-\d\d-\d\d|\d{8}", word) for word in words):  # 2013-W10 would be its Monday
        return []
    try:
        return [parse_date(word) for word in words]
    except UsageError:
        return []


def _listed(file: str) -> list[str]:
    """The selectors in a file, separated by white space."""
    from pathlib import Path

    from dateshard.shardstore.errors import UsageError, Where, refuse_special

    try:
        refuse_special(file)
        return Path(file).read_text(encoding="utf-8").split()
    except (OSError, ValueError) as error:
        what = f"not a list of dates: {getattr(error, 'strerror', None) or 'not UTF-8'}"
        raise UsageError(what, where=Where(file=file), todo="Name a text file of dates") from None


def _select(word: str, known: Sequence[dt.date], split: dict[str, Ranges]) -> list[dt.date]:
    import re

    from dateshard.pipeline.splits import parse_range
    from dateshard.shardstore.errors import UsageError
    from dateshard.shardstore.times.calendar import UNDATED, UNDATED_TEXT, parse_date

    if word in split:
        return [date for date in known if any(low <= date <= high for low, high in split[word])]
    if word == UNDATED_TEXT and list(known) == [UNDATED]:
        return [UNDATED]
    if word == "latest":
        return list(known[-1:])
    if match := re.fullmatch(r"last:(\d+)", word):
        return list(known[-int(match[1]) :]) if int(match[1]) else []
    if match := re.fullmatch(r"(\d{4})-(\d\d)", word):
        return [date for date in known if (date.year, date.month) == (int(match[1]), int(match[2]))]
    if match := re.fullmatch(r"(\d{4})-?W(\d\d)", word):
        return [date for date in known if date.isocalendar()[:2] == (int(match[1]), int(match[2]))]
    if ".." in word or word.startswith("latest-"):
        ends = parse_range(word, known)
        return [date for date in known if ends and ends[0] <= date <= ends[1]]
    try:
        return [parse_date(word)]
    except UsageError as error:
        todo = (
            "Dates: 2013-03-05, 2013-03-01..2013-03-31, 2013-03, 2013-W10, latest, last:7, train|validation|test, @file"
        )
        raise UsageError(error.what, todo=todo) from None
