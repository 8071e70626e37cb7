"""The key of the configuration that reads times which were refused, as far as some of them show it."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Sequence
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl

from dateshard.pipeline.raw.clocks.times import instants
from dateshard.pipeline.source import UNITS, Source
from dateshard.shardstore.times.calendar import midnight

DATES = (
    *("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y%m%d", "%d-%b-%Y"),
    *("%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%d %b %Y", "%d %B %Y", "%B %d, %Y"),
)
CLOCKS = (
    "",
    "%H:%M",
    "%H:%M:%S",
    "%H:%M:%S.%f",
    "%I:%M %p",
    "%I:%M:%S %p",
    "%H.%M",
    "%H.%M.%S",
    "%H%M",
    "%H%M%S",
    "%H",
)
JOINTS = (" ", "T", "")
DIGITS = {10: "s", 13: "ms", 16: "us", 19: "ns"}  # of instants of this century


def of_bad_times(texts: Sequence[str], source: Source, date: dt.date | None) -> str:
    """Suggests settings for texts that are no times."""
    if not texts or not isinstance(source.time, str | tuple):
        return ""
    alone = source.model_copy(update={"time": "time"})
    if source.time_format == "iso" and _are_times(texts, alone):
        return ""  # they are written in another way than the first of their file
    if source.time_stamps == "start" and not _are_times(texts, alone) and _are_times(texts, alone, time_stamps="end"):
        return "The hour 24 closes its date: set pipeline.source.time_stamps: end"
    if source.time_format in UNITS:
        return _unit(texts, source, date)
    if source.ambiguous == "refuse" and _are_times(texts, alone, ambiguous="earliest"):
        named = f"The clock of {source.timezone} has that time twice"
        return f"{named}: set pipeline.source.ambiguous: infer, if rows stand in order, or earliest or latest"
    if source.timezone != "UTC" and _are_times(texts, alone, timezone="UTC"):
        return _one_clock(texts, alone)
    form = next(forms_of(texts, date), "")
    form = form.replace("T", " ") if isinstance(source.time, tuple) else form  # nothing stands between two columns
    return f"Set pipeline.source.time_format: {form!r}" if form else _unit(texts, source, date)


def of_other_dates(texts: Sequence[str], source: Source, date: dt.date | None) -> str:
    """Suggests settings for times of another date than their dump's."""
    if not texts or date is None or not isinstance(source.time, str | tuple):
        return ""
    alone = source.model_copy(update={"time": "time"})
    times, valid = instants([pl.Series("time", texts)], alone, None)
    end = midnight(date + dt.timedelta(days=1), source.timezone)
    if source.time_stamps == "start" and valid.all() and bool((times == end).all()):
        return "Its last time is the next midnight: set pipeline.source.time_stamps: end"
    return _unit(texts, source, date) if source.time_format in UNITS else ""


def _are_times(texts: Sequence[str], source: Source, **change: str) -> bool:
    _, valid = instants([pl.Series("time", texts)], source.model_copy(update=change), None)
    return bool(valid.all())


def _unit(texts: Sequence[str], source: Source, date: dt.date | None) -> str:
    """Numbers of another unit: the one by which they are of the dump's date, or that has so many digits."""
    numbers = [re.match(r"[0-9]+", text) for text in texts]
    lengths = {len(number[0]) if number else 0 for number in numbers}
    unit = DIGITS.get(lengths.pop()) if len(lengths) == 1 and source.time_origin is None else None
    if unit is None or unit == source.time_format:
        return ""
    times, _ = instants(
        [pl.Series("time", texts)], source.model_copy(update={"time": "time", "time_format": unit}), None
    )
    dates = {dt.datetime.fromtimestamp(int(at) / 1e9, ZoneInfo(source.timezone)).date() for at in np.asarray(times)}
    fits = date is None or dates == {date}
    return f"They are numbers of {unit}: set pipeline.source.time_format: {unit}" if fits else ""


def _one_clock(texts: Sequence[str], source: Source) -> str:
    """Times that the zone skips, or skips and has twice: the file may be of a clock that is never put forward."""
    series, zone = [pl.Series("time", texts)], ZoneInfo(source.timezone)
    times, _ = instants(series, source.model_copy(update={"timezone": "UTC"}), None)
    _, twice = instants(series, source.model_copy(update={"ambiguous": "earliest"}), None)
    midnights = [dt.datetime.combine(dt.datetime.fromtimestamp(int(at) / 1e9, dt.UTC), dt.time(), zone) for at in times]
    hours, rest = divmod(min(at.utcoffset() or dt.timedelta() for at in midnights), dt.timedelta(hours=1))
    if rest:
        return ""
    steady = f"Etc/GMT{-hours:+d}" if hours else "UTC"
    skipped = "skips some of those times and has others twice" if twice.any() else "skips that time"
    return (
        f"The clock of {source.timezone} {skipped}. "
        f"For one that is never put forward, set pipeline.source.timezone: {steady}"
    )


def forms_of(texts: Sequence[str], date: dt.date | None) -> Iterator[str]:
    """Patterns that all of the texts have; of a date, where one is known."""
    for form in (f"{day}{joint}{clock}" for day in DATES for clock in CLOCKS for joint in (JOINTS if clock else ("",))):
        try:
            parsed = [dt.datetime.strptime(text, form) for text in texts]
        except ValueError:
            continue
        if date is None or all(at.date() == date for at in parsed):
            yield form
