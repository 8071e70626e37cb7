"""Which column says when a row was, how its times are written, and in which zone the dates are."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any
from zoneinfo import available_timezones

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dateshard.insight.first_look.sampled_columns import Column
from dateshard.pipeline.raw.clocks.time_remedies import DIGITS, forms_of
from dateshard.pipeline.raw.clocks.times import instants
from dateshard.pipeline.source import Source, TimeParts
from dateshard.shardstore.times.calendar import midnight, zone

VALID = 0.95  # of the texts of a column of times are times of one form
SOME = 400  # texts that a form is sought for
FIRST, LAST = dt.date(1980, 1, 1), dt.date(2100, 1, 1)  # between which instants of numbers lie
ORIGIN = "2001-01-01"  # a Monday, at whose midnight numbers without a date begin
NAMED = re.compile(r"time|date|stamp|^ts$|epoch|when|scheduled|datum|zeit|hour|_at$|^t$|^dt$|^day$", re.IGNORECASE)
CLOCK = re.compile(r"^[0-2]?[0-9][:.][0-5][0-9]([:.][0-5][0-9]([.,][0-9]+)?)?( ?[AaPp][Mm])?$")
DAY = 86_400 * 10**9
OFFSET = re.compile(r"([+-])([0-9]{2}):?([0-9]{2})?$")
PARTS = {
    **dict.fromkeys(("year", "yr", "yyyy"), "year"),
    **dict.fromkeys(("month", "mo", "mon", "mm"), "month"),
    **dict.fromkeys(("day", "dd", "dom"), "day"),
    **dict.fromkeys(("hour", "hr", "hh"), "hour"),
    **dict.fromkeys(("minute", "min", "mi"), "minute"),
    **dict.fromkeys(("second", "sec", "ss"), "second"),
}
PLACES = (
    *("Europe/Berlin", "Europe/London", "Europe/Athens", "America/New_York", "America/Chicago", "America/Denver"),
    *("America/Los_Angeles", "Asia/Kolkata", "Asia/Shanghai", "Asia/Tokyo", "Australia/Sydney", "America/Sao_Paulo"),
)
SHIFTS = ("UTC", *(f"Etc/GMT{-hours:+d}" for hours in (*range(1, 15), *range(-1, -13, -1))))
Instants = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """How rows are dated.

    Attributes:
        keys: of `pipeline.source`: time, time_format, timezone, ...
        columns: those that it takes. instant_R: of each row; valid_R: whether it has one.
        seen: from what this is guessed. doubts: (what is unsure, which key to change).
    """

    keys: dict[str, Any]
    columns: tuple[str, ...]
    instant_R: Instants
    valid_R: NDArray[np.bool_]
    seen: str
    doubts: tuple[tuple[str, str], ...]

    @property
    def source(self) -> Source:
        """The section, without a path."""
        return Source.model_validate({"path": "sample", **self.keys})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    keys: dict[str, Any]
    columns: tuple[str, ...]
    seen: str
    doubts: tuple[tuple[str, str], ...] = ()
    naive: bool = True  # without an offset


def guess_times(columns: Mapping[str, Column], day_R: Instants | None) -> Times | None:
    """Guesses when rows were; None where no column says it.

    Args:
        day_R: of each row, the ordinal of the date in its file's name; None where names have none.
    """
    forms = list(_forms(columns))
    forms = list(filter(None, (_with_origin(form, columns, day_R) for form in forms)))
    if not forms:
        return None
    decoded = [(form, *_decoded(form, columns)) for form in forms]
    form, times, valid = max(decoded, key=lambda decode: _likely(*decode))
    others = [other.columns[0] for other in forms if not set(other.columns) & set(form.columns)]
    if others:
        named = f"{', '.join(others)} {'holds' if len(others) == 1 else 'hold'} times too"
        form = replace(form, doubts=(*form.doubts, (named, "pipeline.source.time")))
    return _in_zone(form, columns, times, valid, day_R)


def _with_origin(form: _Form, columns: Mapping[str, Column], day_R: Instants | None) -> _Form | None:
    """The form, where numbers have no date with the midnight by which each is of its file's date; None if there is none."""
    if "time_origin" not in form.keys or day_R is None:
        return form
    times, valid = _decoded(form, columns)
    days = (times[valid] - midnight(dt.date.fromisoformat(ORIGIN), "UTC")) // DAY
    begins, count = np.unique(day_R[valid] - days, return_counts=True)
    if not len(begins) or count.max() < VALID * count.sum():
        return None
    origin = dt.date.fromordinal(int(begins[count.argmax()]))
    doubts = form.doubts[1:]  # the midnight is known
    seen = f"{form.seen}, by the dates of the files from the midnight of {origin} on"
    return replace(form, keys={**form.keys, "time_origin": str(origin)}, doubts=doubts, seen=seen)


def _decoded(form: _Form, columns: Mapping[str, Column], **keys: Any) -> tuple[Instants, NDArray[np.bool_]]:
    commas = any(columns[name].dialect.decimal == "," for name in form.columns)
    dialect: dict[str, Any] = {"csv": {"separator": ";", "decimal": ","}} if commas else {}
    source = Source.model_validate({"path": "sample", **dialect, **form.keys, **keys})
    return instants([columns[name].series for name in form.columns], source, None)


def _likely(form: _Form, times: Instants, valid: NDArray[np.bool_]) -> tuple[bool, bool, float, float]:
    """How likely a form is the time of a row: with a time of day, by its name, in order, and by its place."""
    known = times[valid]
    clock = bool((known % DAY != 0).any())
    order = float((np.diff(known) >= 0).mean()) if len(known) > 1 else 1.0
    return clock, bool(NAMED.search(form.columns[0])), round(order, 1), float(valid.mean())


def _forms(columns: Mapping[str, Column]) -> Iterator[_Form]:
    """Yields every way to read times from the columns."""
    days: list[_Form] = []
    for column in columns.values():
        form = _typed(column) or _written(column) or _number(column)
        if form is not None:
            yield form
            days += [form] if _has_no_clock(form, column) else []
    clocks = [column for column in columns.values() if _is_clock(column)]
    if days and clocks:
        yield from _joined(days[0], clocks[0], columns)
    parts = {PARTS[name.strip().lower()]: name for name in columns if name.strip().lower() in PARTS}
    if {"year", "month", "day"} <= parts.keys() and all(columns[name].is_whole for name in parts.values()):
        yield _in_parts({name: parts[name] for name in PARTS.values() if name in parts})
    elif days and "hour" in parts and columns[parts["hour"]].is_whole and len(days[0].columns) == 1:
        clock: dict[str, str] = {name: parts[name] for name in ("hour", "minute", "second") if name in parts}
        named = {"date": days[0].columns[0], **clock}
        keys: dict[str, Any] = {**days[0].keys, "time": named}
        yield replace(_in_parts(named), keys=keys)


def _in_parts(named: dict[str, str]) -> _Form:
    chosen = {name: column for name, column in named.items() if name in TimeParts.model_fields}
    if "hour" not in chosen or ("second" in chosen and "minute" not in chosen):
        chosen = {name: column for name, column in chosen.items() if name not in ("minute", "second")}
    listed = ", ".join(chosen.values())
    return _Form(keys={"time": chosen}, columns=tuple(chosen.values()), seen=f"in parts: {listed}")


def _typed(column: Column) -> _Form | None:
    kind = column.series.dtype
    if not (isinstance(kind, pl.Datetime) or kind == pl.Date) or column.series.null_count() == len(column.series):
        return None
    zoned = isinstance(kind, pl.Datetime) and kind.time_zone is not None
    seen = f"the file's type is {kind}"
    return _Form(keys={"time": column.name}, columns=(column.name,), seen=seen, naive=not zoned)


def _written(column: Column) -> _Form | None:
    """The form of a column of texts: ISO 8601, or a strptime pattern that all of some of them have."""
    if not column.is_text:
        return None
    texts = column.texts.drop_nulls().unique(maintain_order=True)
    some = texts.gather_every(max(1, len(texts) // SOME)).to_list()[: 2 * SOME]
    if not some or not any(re.search(r"[0-9][-/.: T][0-9A-Za-z]|^[0-9]{8}", text) for text in some[:5]):
        return None
    naive = not all(text.endswith("Z") or OFFSET.search(text) for text in some[:5] if len(text) > 10)
    iso = _Form(keys={"time": column.name}, columns=(column.name,), seen=f"as in {some[0]!r}", naive=naive)
    if _decoded(iso, {column.name: column})[1].mean() >= VALID * _share(column):
        return iso
    patterns = [form for form in forms_of(_usual(some), None) if form != "%Y%m%d" or _are_dates(some)]
    if not patterns:
        return None
    form, doubts = _day_or_month_first(patterns, some)
    seen = f"of the form {form}, as in {some[0]!r}"
    pattern_form = _Form(keys={"time": column.name, "time_format": form}, columns=iso.columns, seen=seen, doubts=doubts)
    good = _decoded(pattern_form, {column.name: column})[1].mean() >= VALID * _share(column)
    return pattern_form if good else None


def _share(column: Column) -> float:
    return 1 - column.texts.null_count() / max(1, len(column.texts))


def _usual(texts: Sequence[str]) -> list[str]:
    """The texts that look like most do: digits and letters at the same places. A few may be no times."""
    shapes = [re.sub("[A-Za-z]+", "a", re.sub("[0-9]+", "0", text)) for text in texts]
    usual = max(set(shapes), key=shapes.count)
    return [text for text, shape in zip(texts, shapes, strict=True) if shape == usual]


def _are_dates(texts: Sequence[str]) -> bool:
    return all(text[:2] in ("19", "20") for text in texts)


def _day_or_month_first(patterns: Sequence[str], texts: Sequence[str]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The pattern by which times lie closest together, for 01/02/2024 says itself nothing of what is the month."""
    turned = [form for form in patterns if sorted(form) == sorted(patterns[0])]  # the same in another order
    spans = {form: _span(form, texts) for form in turned}
    best = min(turned, key=spans.__getitem__)
    doubtful = [form for form in turned if form != best and spans[form] < 2 * spans[best]]
    if not doubtful:
        return best, ()
    return best, ((f"{texts[0]!r} may also be of the form {doubtful[0]}", "pipeline.source.time_format"),)


def _span(form: str, texts: Sequence[str]) -> float:
    usual = [dt.datetime.strptime(text, form) for text in _usual(texts)]
    return sum(abs((after - before).total_seconds()) for before, after in pairwise(usual))


def _number(column: Column) -> _Form | None:
    """Numbers since 1970, or with a name of times, from a small one on."""
    numbers = column.numbers
    if numbers is None or not len(values := numbers.values.drop_nulls()):
        return None
    digits = len(str(int(abs(float(values[0])))))
    steps = values.diff().drop_nulls()
    ordered = not len(steps) or float((steps >= 0).mean()) >= VALID  # type: ignore[arg-type]
    low, high = (float(end) for end in (values.min(), values.max()))  # type: ignore[arg-type]
    unit = DIGITS.get(digits, DIGITS.get(digits + 1, "") if digits == 9 else "")
    scale = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}.get(unit, 0)
    begin, end = (dt.datetime.combine(day, dt.time(), dt.UTC).timestamp() * scale for day in (FIRST, LAST))
    named = bool(NAMED.search(column.name))
    if scale and begin <= low and high <= end and (named or ordered):
        keys = {"time": column.name, "time_format": unit}
        seen = f"numbers of {unit} since 1970, by their {digits} digits"
        return _Form(keys=keys, columns=(column.name,), seen=seen, naive=False)
    if (
        not named
        or not ordered
        or low < 0
        or PARTS.get(column.name.strip().lower())
        or values.n_unique() < len(values) / 20
    ):
        return None
    doubts = (
        (f"{column.name} counts from an unknown midnight, here {ORIGIN}", "pipeline.source.time_origin"),
        ("its unit is taken for seconds", "pipeline.source.time_format"),
    )
    keys = {"time": column.name, "time_format": "s", "time_origin": ORIGIN}
    seen = f"numbers that grow from {low:g} to {high:g}"
    return _Form(keys=keys, columns=(column.name,), seen=seen, doubts=doubts, naive=False)


def _has_no_clock(form: _Form, column: Column) -> bool:
    if "time_format" in form.keys and form.keys["time_format"] in DIGITS.values():
        return False
    times, valid = _decoded(form, {column.name: column})
    return bool((times[valid] % DAY == 0).all())


def _is_clock(column: Column) -> bool:
    texts = column.texts.drop_nulls()
    if not len(texts):
        return False
    if column.series.dtype == pl.Time:
        return True
    return column.is_text and float(texts.str.contains(CLOCK.pattern).mean()) >= VALID  # type: ignore[arg-type]


def _joined(day: _Form, clock: Column, columns: Mapping[str, Column]) -> Iterator[_Form]:
    """Yields the form of a column of dates and one of times of day."""
    both = (day.columns[0], clock.name)
    dates, clocks = columns[both[0]].texts.head(SOME).to_list(), clock.texts.head(SOME).to_list()
    texts = [f"{a} {b}" for a, b in zip(dates, clocks, strict=True) if a and b]
    seen = f"a date and a time of day, as in {texts[0]!r}"
    iso = _Form(keys={"time": list(both)}, columns=both, seen=seen)
    if "time_format" not in day.keys and _decoded(iso, columns)[1].mean() >= VALID:
        yield iso
        return
    for form in forms_of(_usual(texts), None):
        if form.startswith(day.keys.get("time_format", "%Y-%m-%d")):
            pattern_form = replace(iso, keys={**iso.keys, "time_format": form}, doubts=day.doubts)
            if _decoded(pattern_form, columns)[1].mean() >= VALID:
                yield pattern_form
                return


def _in_zone(
    form: _Form, columns: Mapping[str, Column], times: Instants, valid: NDArray[np.bool_], day_R: Instants | None
) -> Times:
    """Adds the zone: by offsets, by the dates in files' names, and by nothing else."""
    name, seen, doubts = "UTC", form.seen, list(form.doubts)
    marks = [] if form.naive else list(_offsets(columns[form.columns[0]], times, valid))
    kind = columns[form.columns[0]].series.dtype
    if isinstance(kind, pl.Datetime) and kind.time_zone in available_timezones():
        name = str(kind.time_zone)
    elif marks:
        name, certain = _zone_of_offsets(marks)
        offsets = sorted({_spelled(offset) for _, offset in marks})
        seen += f"; offset {', '.join(offsets)}"
        if not certain:
            doubts.append((f"dates are those of {name}, by the offset {offsets[0]}", "pipeline.source.timezone"))
    elif not form.naive and day_R is not None:
        name = _zone_of_dates(times, valid, day_R)
        seen += "; their dates are those in the files' names" if name != "UTC" else ""
    elif form.naive:
        doubts.append(("times have no offset and are taken for UTC", "pipeline.source.timezone"))
    keys = {**form.keys, "timezone": name}
    times, valid = _decoded(replace(form, keys=keys), columns)
    if day_R is not None and _closes(times, valid, day_R, name):
        keys["time_stamps"] = "end"
        seen += "; its last time is the next midnight, so times end what they measure"
        times, valid = _decoded(replace(form, keys=keys), columns)
    return Times(keys=keys, columns=form.columns, instant_R=times, valid_R=valid, seen=seen, doubts=tuple(doubts))


def _offsets(column: Column, times: Instants, valid: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yields (instant in seconds, offset in seconds) of some rows whose text tells it, where one is not 0."""
    if not column.is_text:
        return
    places = np.flatnonzero(valid)
    for place in places[:: max(1, len(places) // SOME)].tolist():
        match = OFFSET.search(column.texts[place] or "")
        if match and len(column.texts[place]) > 10:
            seconds = int(match[2]) * 3600 + int(match[3] or 0) * 60
            yield int(times[place]) // 10**9, -seconds if match[1] == "-" else seconds


def _spelled(offset: int) -> str:
    return f"{'-' if offset < 0 else '+'}{abs(offset) // 3600:02}:{abs(offset) // 60 % 60:02}"


def _zone_of_offsets(marks: Sequence[tuple[int, int]]) -> tuple[str, bool]:
    """Returns (the first zone that has these offsets, whether no other is likely)."""
    steady = len({offset for _, offset in marks}) == 1
    if steady and marks[0][1] == 0:
        return "UTC", True
    for name in (*(SHIFTS if steady else ()), *PLACES, *sorted(available_timezones())):
        if all(_offset(name, at) == offset for at, offset in marks):
            return name, steady and max(marks)[0] - min(marks)[0] > 300 * 86_400
    return "UTC", False


def _offset(name: str, at: int) -> int:
    delta = dt.datetime.fromtimestamp(at, zone(name)).utcoffset()
    assert delta is not None
    return int(delta.total_seconds())


def _zone_of_dates(times: Instants, valid: NDArray[np.bool_], day_R: Instants) -> str:
    """The first zone in which the first and last rows of each date are of that date; UTC where none is."""
    at_R, of_R = times[valid] // 10**9, day_R[valid]
    ends = {
        dt.date.fromordinal(day): (at_R[of_R == day].min(), at_R[of_R == day].max()) for day in np.unique(of_R).tolist()
    }
    for name in (*SHIFTS, *PLACES):
        tz = zone(name)
        if all(dt.datetime.fromtimestamp(int(at), tz).date() == date for date, both in ends.items() for at in both):
            return name
    return "UTC"


def _closes(times: Instants, valid: NDArray[np.bool_], day_R: Instants, name: str) -> bool:
    """Whether every row of another date than its file's is of the next midnight, and none of its own."""
    days, place_R = np.unique(day_R[valid], return_inverse=True)
    edges = [
        (midnight(dt.date.fromordinal(day), name), midnight(dt.date.fromordinal(day + 1), name))
        for day in days.tolist()
    ]
    own, after = np.asarray(edges, dtype=np.int64).reshape(-1, 2)[place_R].T
    at = times[valid]
    outside = (at < own) | (at >= after)
    return bool(outside.any() and (at[outside] == after[outside]).all() and not (at == own).any())
