"""Split settings -> ranges of dates. Pure functions."""

from __future__ import annotations

import datetime as dt
import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

from dateshard.shardstore.errors import UsageError, counted
from dateshard.shardstore.identity import identity
from dateshard.shardstore.manifest import SPLITS, Ranges, in_no_split
from dateshard.shardstore.times.calendar import collapse, parse_date

if TYPE_CHECKING:
    from dateshard.pipeline.config import Split

FORMS = "Write 2013-01-01..2013-09-30, 2013-10-01.., ..latest-14 or last:7"
BOUNDS = "Write 2013-01-01..2013-12-31, 2013-01-01.. or ..2013-12-31"
ONE_SPLIT = "Every date belongs to one split at most"
SHOWN_RANGES = 3  # of dates in a sentence about many
NO_WEIGHTS: Mapping[dt.date, int] = {}
LATEST, LAST = re.compile(r"latest(?:-(\d{1,5}))?"), re.compile(r"last:(\d{1,5})")


def parse_range(text: str, dates: Sequence[dt.date]) -> tuple[dt.date, dt.date] | None:
    """Parses `A..B`, `A..`, `..B`, `A` or `last:7`, ends included; open ends reach the first or last of `dates`.

    `latest` is the last of `dates` (in order) and `latest-14` the one 14 before it, so that `..latest-14` and `last:14`
    neither overlap nor leave a date out, whichever dates are missing. None where nothing can lie between the ends.

    Raises:
        UsageError: no range, or one that runs backwards.
    """
    first, dots, last = (end.strip() for end in str(text).partition(".."))
    if (dots and not first and not last) or (dots and (LAST.fullmatch(first) or LAST.fullmatch(last))):
        raise UsageError(f"'{text}' is not a range of dates", todo=FORMS)
    if match := LAST.fullmatch(first):
        chosen = dates[-int(match[1]) :] if int(match[1]) else ()
        return (chosen[0], chosen[-1]) if chosen else None
    low = _end(first, dates) if first else (dates[0] if dates else None)
    high = _end(last, dates) if last else (low if not dots else dates[-1] if dates else None)
    if low is None or high is None:
        return None
    if LATEST.fullmatch(first):
        low = max(low, dates[0])
    if low > high and first and last and not LATEST.fullmatch(first) and not LATEST.fullmatch(last):
        raise UsageError(f"'{text}' runs backwards", todo="Write the earlier date first")
    return (low, high) if low <= high else None


def parse_bounds(value: object) -> tuple[dt.date, dt.date]:
    """A range of plain dates, or a single date, as both ends; an open end is the least or the greatest date there is.

    Raises:
        UsageError: no range, one that runs backwards, or one that depends on the dates that exist.
    """
    text = str(value).strip()
    if isinstance(value, list | tuple | dict | float):
        raise UsageError(f"{text} is not a range of dates", todo=BOUNDS)
    if "latest" in text or "last:" in text:
        raise UsageError(f"'{text}' depends on the dates that exist", todo=BOUNDS)
    ends = parse_range(text, [dt.date.min, dt.date.max])
    assert ends is not None, "only rolling ends leave nothing between them"
    return ends


def write_bounds(ends: tuple[dt.date, dt.date]) -> str:
    """The inverse of `parse_bounds`."""
    low, high = ends
    if low == high:
        return str(low)
    return f"{low if low > dt.date.min else ''}..{high if high < dt.date.max else ''}"


def _end(text: str, dates: Sequence[dt.date]) -> dt.date | None:
    """A date, `latest`, or `latest-14`, which may lie before the first; None for `latest` of no dates."""
    if not (match := LATEST.fullmatch(text)):
        return parse_date(text)
    back = int(match[1] or 0)
    if back < len(dates):
        return dates[-1 - back]
    return dates[0] - dt.timedelta(days=1) if dates else None


def default_split(dates: Sequence[dt.date], weights: Mapping[dt.date, int]) -> dict[str, Ranges]:
    """Validation is the last date that is not almost empty, training all before it; dates after it are in no split.

    A date is almost empty that holds less than half of what the median date before it does (`pipeline.planning.weights`);
    one of unknown weight is not. Where none is left, validation is the last date.
    """
    for last in range(len(dates) - 1, 0, -1):
        before = [weights[date] for date in dates[:last] if date in weights]
        if not before or 2 * weights.get(dates[last], before[0]) >= median(before):
            break
    else:
        last = len(dates) - 1
    if not last:
        return {"train": ((dates[0], dates[0]),)}
    return {"train": ((dates[0], dates[last - 1]),), "validation": ((dates[last],) * 2,)}


def why_not_last(dates: Sequence[dt.date], weights: Mapping[dt.date, int], split: Mapping[str, Ranges]) -> list[str]:
    """A sentence where the default validation is not the last date; `weights` are empty where it is configured."""
    chosen = split["validation"][0][0] if weights and "validation" in split else None
    if chosen is None or not (left := [date for date in dates if date > chosen]):
        return []
    usual = int(median([weights[date] for date in dates if date < chosen and date in weights]))
    are, few = "is" if len(left) == 1 else "are", max(weights[date] for date in left)
    return [
        f"Validation is {chosen}, not the last date: {collapse(left, SHOWN_RANGES)} {are} almost empty ({few:,} observed "
        f"cells, a training date has {usual:,}) and in no split. pipeline.split decides otherwise"
    ]


def resolve_split(
    split: Split | None,
    dates: Sequence[dt.date],
    frozen: Mapping[str, Ranges] | None = None,
    weights: Mapping[dt.date, int] = NO_WEIGHTS,
) -> dict[str, Ranges]:
    """The ranges of train, validation and test over the known dates.

    Fractions are of whole dates in order, resolved once: `frozen` (the manifest's split) is kept where it exists.
    Without a split see `default_split`.

    Raises:
        UsageError: no training date among them, ranges that overlap or run backwards, fractions mixed with ranges.
    """
    if not dates:
        return {}
    if split is not None and split.by is not None:
        return dict.fromkeys(_given(split), ((dates[0], dates[-1]),))
    if split is None:
        return default_split(dates, weights)
    try:
        refuse_impossible(split)
    except UsageError as error:
        raise UsageError(f"pipeline.split: {error.what}", todo=error.todo) from None
    given = _given(split)
    fractions = {name: value for name, value in given.items() if isinstance(value, float | int)}
    if fractions:
        resolved = dict(frozen) if frozen else _by_fraction(fractions, dates)
        _refuse_no_training(resolved, dates, given)
        return resolved
    ranges = {name: _ranges(value, dates) for name, value in given.items()}
    ranges = {name: spans for name, spans in ranges.items() if spans}
    _refuse_overlap(ranges)
    _refuse_no_training(ranges, dates, given)
    return ranges


def _given(split: Split) -> dict[str, float | str | list[str]]:
    return {name: value for name in SPLITS if (value := getattr(split, name)) is not None}


def about_no_split(split: Split | None, ranges: Mapping[str, Ranges], dates: Sequence[dt.date]) -> str:
    """One sentence about the dates that lie in none of the resolved ranges; empty where there are none.

    Args:
        split: as configured; None where that is not known.
    """
    left = in_no_split(ranges, dates)
    if not left:
        return ""
    single = len(left) == 1
    sentence = f"{len(left):,} {'date is' if single else 'dates are'} in no split: {collapse(left, SHOWN_RANGES)}"
    shares = split is not None and any(isinstance(value, float | int) for value in _given(split).values())
    if shares and len(in_no_split(resolve_split(split, dates), dates)) < len(left):
        return f"{sentence}. Use preprocess --resplit, or rolling ranges"
    return f"{sentence}. {'pipeline.split' if split else 'The split'} leaves {'it' if single else 'them'} out"


def refuse_impossible(split: Split) -> None:
    """Refuses what no dates can make a split of: so a configuration is told of it before there is any.

    Raises:
        UsageError: fractions mixed with dates or more than 1, no training dates, no range, ranges that share a date.
    """
    given = _given(split)
    shown = ", ".join(f"{name} {_shown(value)}" for name, value in given.items())
    if split.by is not None and (wrong := next((v for v in given.values() if isinstance(v, str)), None)):
        raise UsageError(f"with by, a split is a list of names or a fraction (got {wrong})", todo=f"Write [{wrong}]")
    fractions = {name: value for name, value in given.items() if isinstance(value, float | int)}
    if fractions and len(fractions) < len(given):
        todo = (
            "Give all as one or the other; null removes a split that another file sets, as in pipeline.split.test=null"
        )
        raise UsageError(f"it mixes fractions and dates ({shown})", todo=todo)
    if fractions and (sum(fractions.values()) > 1 + 1e-9 or min(fractions.values()) < 0):
        raise UsageError(f"fractions must lie between 0 and 1 and sum to at most 1 ({shown})", todo="Correct them")
    if not given.get("train"):
        what = "no training date is named" if split.by is None else f"no training value of '{split.by}' is named"
        raise UsageError(f"{what} ({shown or 'it is empty'})", todo="Set pipeline.split.train")
    if split.by is not None:
        _refuse_shared_names(given)
    elif not fractions:
        _refuse_shared(given)


def _refuse_shared_names(given: Mapping[str, object]) -> None:
    """Refuses a name on two sides: windows of one subject in training and in test are the classic leak."""
    first_in: dict[str, str] = {}
    for split, names in given.items():
        for name in names if isinstance(names, list) else ():
            if (other := first_in.setdefault(name, split)) != split:
                raise UsageError(f"'{name}' is in {other} and in {split}", todo="Name it in one of them")


def resolve_cuts(split: Split, names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The names of cuts in each split: as listed, or a fraction of all, in an order that a hash of each name gives.

    The order depends on no other name, so that names of one day or in alphabetical order say nothing of the split.

    Raises:
        UsageError: a listed name that no record has, or no training name.
    """
    given = _given(split)
    if all(isinstance(value, list) for value in given.values()):
        listed = {name: tuple(sorted(set(_texts(value)), key=str.encode)) for name, value in given.items()}
        for side, own in listed.items():
            if unknown := sorted(set(own) - set(names)):
                known = ", ".join(sorted(names)[:5])
                what = (
                    f"pipeline.split.{side} names '{unknown[0]}', and no record has it as its {split.by} ({known} ...)"
                )
                raise UsageError(what, todo="Correct the name, or leave it out")
        return listed
    ordered = sorted(names, key=lambda name: (identity(name), name))
    total, begin, resolved = 0.0, 0, dict[str, tuple[str, ...]]()
    for name in SPLITS:
        share = given.get(name, 0.0)
        total += share if isinstance(share, float | int) else 0.0
        end = round(total * len(ordered))
        if end > begin:
            resolved[name] = tuple(sorted(ordered[begin:end], key=str.encode))
        begin = max(begin, end)
    if "train" not in resolved:
        what = f"pipeline.split leaves no training {split.by} of {len(ordered):,}"
        raise UsageError(what, todo="Raise pipeline.split.train, or list names")
    return resolved


def _shown(value: float | str | list[str]) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _refuse_shared(given: Mapping[str, object]) -> None:
    """Ranges between plain dates are held against each other, rolling ones too; one with the other only once dates exist."""
    texts = [(name, text) for name, value in given.items() for text in _texts(value)]
    rolling = [(name, text) for name, text in texts if "latest" in text or "last:" in text]
    plain = [pair for pair in texts if pair not in rolling]
    for first, second, low, high in _shared(plain, [dt.date.min, dt.date.max]):
        date = low if low > dt.date.min else high
        raise UsageError(f"{date} is in {first[0]} and in {second[0]}", todo=ONE_SPLIT)
    counts = [int(count) for _, text in rolling for count in re.findall(r"\d{1,5}", text)]
    if not plain:
        some = [dt.date.min + dt.timedelta(days=k) for k in range(2 * max(counts, default=0) + 2)]
        for first, second, *_ in _shared(rolling, some):
            raise UsageError(f"{first[0]} ({first[1]}) and {second[0]} ({second[1]}) share dates", todo=ONE_SPLIT)


def _shared(
    texts: Sequence[tuple[str, str]], dates: Sequence[dt.date]
) -> Iterator[tuple[tuple[str, str], tuple[str, str], dt.date, dt.date]]:
    """Pairs of ranges that overlap, with the first and the last date of both."""
    dated = [(ends, pair) for pair in texts if (ends := parse_range(pair[1], dates))]
    for (earlier, first), (later, second) in itertools.pairwise(sorted(dated)):
        if later[0] <= earlier[1]:
            yield first, second, later[0], min(earlier[1], later[1])


def _texts(value: object) -> list[str]:
    return [str(text) for text in (value if isinstance(value, list | tuple) else [value])]


def _ranges(value: object, dates: Sequence[dt.date]) -> Ranges:
    parsed = (parse_range(text, dates) for text in _texts(value))
    return tuple(sorted(ends for ends in parsed if ends is not None))


def _by_fraction(fractions: Mapping[str, float], dates: Sequence[dt.date]) -> dict[str, Ranges]:
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


def _refuse_no_training(ranges: Mapping[str, Ranges], dates: Sequence[dt.date], given: Mapping[str, object]) -> None:
    if any(low <= date <= high for low, high in ranges.get("train", ()) for date in dates):
        return
    there = f"there {'is' if len(dates) == 1 else 'are'} {counted(len(dates), 'date')}, {collapse(dates, SHOWN_RANGES)}"
    todo = "Set pipeline.split.train"
    if match := re.search(r"\.\.latest-(\d+)$", ", ".join(_texts(given["train"]))):
        todo = f"..{match[0][2:]} needs {int(match[1]) + 1}: add dates, or write smaller numbers into pipeline.split"
    raise UsageError(f"pipeline.split names no training date that exists: {there}", todo=todo)


def _refuse_overlap(ranges: Mapping[str, Ranges]) -> None:
    flat = sorted((low, high, name) for name, spans in ranges.items() for low, high in spans)
    for (_, high, name), (low, _, other) in itertools.pairwise(flat):
        if low <= high:
            raise UsageError(f"pipeline.split: {low} is in {name} and in {other}", todo=ONE_SPLIT)
