"""Time columns -> instants in int64 nanoseconds since 1970 UTC.

Texts of one width, as nearly all dumps have them, are taken apart in numpy (a tenth of polars' time, see `iso_words`);
what is not of that form goes through polars, and what that refuses is no time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dateshard.pipeline.raw.clocks.iso_words import readings as clock_readings
from dateshard.pipeline.raw.clocks.time_parts import readings
from dateshard.pipeline.source import UNITS, Source, TimeParts
from dateshard.pipeline.spelling.patterns import read_pattern
from dateshard.shardstore.times.calendar import Day, day_of, midnight

Instants = NDArray[np.int64]
Valid = NDArray[np.bool_]
SECOND, MINUTE, HOUR, DAY = 10**9, 60 * 10**9, 3600 * 10**9, 86400 * 10**9
CHUNK = 1 << 14  # rows taken apart at once: their bytes stay in the cache
YEAR = r"(?:167[89]|16[89][0-9]|1[7-9][0-9]{2}|2[01][0-9]{2}|22[0-5][0-9]|226[01])"  # those that int64 holds whole
DATE = YEAR + r"-[0-9]{2}-[0-9]{2}"
OFFSET = r"(?:Z|[+-][0-9]{2}(?::?[0-9]{2})?)"
ISO = re.compile(DATE + r"(?P<t>[T ])[0-9]{2}:[0-9]{2}(?P<s>:[0-5][0-9](?P<f>\.[0-9]{1,9})?)?(?P<z>" + OFFSET + ")?")
BARE = f"^{DATE}$"
HOUR_24 = rf"^{DATE}[T ]24:00(?::00(?:\.0{{1,9}})?)?{OFFSET}?$"
LONGEST = 2**63 - 2 * DAY  # nanoseconds that a typed time may be away from 1970, on any clock
YEAR_2069, CENTURY = (36160 * DAY, 36525 * DAY), 36525 * DAY
LARGEST = 2**62  # far outside any date, far inside int64


@dataclass(slots=True)
class Spelling:
    """How a file writes its ISO times, which is how it writes its first one.

    A row that is written otherwise has no time, wherever the file was cut into pieces: `05:00` on a clock is never
    taken for `05:00Z`.

    Attributes:
        sample: the file's first time; empty until one was met.
        bare: whether a bare date, which is a midnight, came before it.
    """

    sample: str = ""
    bare: bool = False


def instants(
    columns: Sequence[pl.Series], source: Source, day: Day | None, spelling: Spelling | None = None
) -> tuple[Instants, Valid]:
    """Each row's instant, and whether it has one. Where a time closes what it measures, the nanosecond before it.

    Args:
        columns: one column of times, or a column of dates and one of times of day, or one for each part.
        day: the date that the rows should be of, which makes local times cheap; None if they are of many.
        spelling: the file's, which its first piece sets.
    """
    times, valid = _stamps(columns, source, day, spelling or Spelling())
    return (times - 1 if source.time_stamps == "end" else times), valid


def _stamps(
    columns: Sequence[pl.Series], source: Source, day: Day | None, spelling: Spelling
) -> tuple[Instants, Valid]:
    if isinstance(source.time, TimeParts):
        form = None if source.time_format == "iso" else read_pattern(source.time_format).form
        parts = dict(zip(source.time.columns(), map(_in_range, columns), strict=True))
        return _local(readings(parts, form, midnight=source.time_stamps == "end"), source)
    column = columns[0] if len(columns) == 1 else _together(_in_range(columns[0]), _in_range(columns[1]), source)
    if source.time_format in UNITS:
        return _counted(_in_range(column), source)
    if isinstance(column.dtype, pl.Datetime):
        return _typed(column, UNITS[column.dtype.time_unit], source)
    if column.dtype == pl.Date:
        return _typed(column, DAY, source)
    texts = column.cast(pl.String, strict=False)
    if source.time_format != "iso":
        return _by_pattern(texts, source)
    return _iso(texts, source, day, spelling)


def not_a_time(source: Source) -> str:
    """Why a row's time is none, in words."""
    if source.time_format == "iso":
        return "not a time (ISO 8601 like the first of its file, unambiguous in its zone)"
    if source.time_format in UNITS:
        return f"not a time (a number of {source.time_format})"
    return f"not a time (of the form {source.time_format}, unambiguous in its zone)"


def written_times(frame: pl.DataFrame, source: Source) -> pl.Series:
    """Each row's time as messages show it, under the name of its column; of several columns all, in their order."""
    if source.time is None:
        return pl.Series("", [], dtype=pl.String).extend_constant("", len(frame))
    if len(source.time_columns) == 1:
        return frame[source.time_columns[0]]
    parts = frame.select(pl.concat_str(pl.col(source.time_columns).cast(pl.String).fill_null(""), separator=" "))
    return parts.to_series().alias(" ".join(source.time_columns))


def whole_times(frame: pl.DataFrame, source: Source) -> pl.Series:
    """Each row's time in one text, as it is read."""
    if isinstance(source.time, tuple):
        return _together(frame[source.time[0]], frame[source.time[1]], source)
    return written_times(frame, source)


def _in_range(column: pl.Series) -> pl.Series:
    """Typed times that int64 holds in nanoseconds, null for the others: polars wraps them, or ends in a panic."""
    if isinstance(column.dtype, pl.Datetime):
        most = LONGEST // UNITS[column.dtype.time_unit]
    elif column.dtype == pl.Date:
        most = LONGEST // DAY
    else:
        return column
    return column.set(column.to_physical().cast(pl.Int64).is_between(-most, most).not_(), None)


def shown(times: pl.Series, at: int) -> str | None:
    """A value as messages show it; a typed time beyond all calendars as the number that the file holds."""
    column = times.slice(at, 1)
    if column.null_count():
        return None
    if column.dtype.is_temporal() and _in_range(column).null_count():
        return str(column.to_physical()[0])
    return str(column[0])


def _together(date: pl.Series, clock: pl.Series, source: Source) -> pl.Series:
    """Joins `2024-03-01` and `07:05` to `2024-03-01T07:05`, or with what stands between the two in a pattern."""
    joint = "T" if source.time_format == "iso" else read_pattern(source.time_format).joint
    return (date.cast(pl.String) + joint + clock.cast(pl.String)).alias(clock.name)


def _numpy(values: pl.Series) -> tuple[Instants, Valid]:
    return values.fill_null(0).to_numpy().astype(np.int64, copy=False), values.is_not_null().to_numpy()


def _counted(column: pl.Series, source: Source) -> tuple[Instants, Valid]:
    """Numbers since 1970 or since a local midnight, exact: fractions go through decimals, never through floats."""
    unit, start = UNITS[source.time_format], 0
    if source.time_origin is not None:
        start = day_of(source.time_origin, source.timezone, HOUR // 2).start
    if not column.dtype.is_integer():
        texts = column.cast(pl.String, strict=False)
        texts = texts.str.replace(",", ".", literal=True) if source.csv.decimal == "," else texts
        decimals = texts.cast(pl.Decimal(38, 9), strict=False)
        scaled = (decimals * unit).cast(pl.Decimal(38, 0), strict=False).cast(pl.Int64, strict=False)
        values, valid = _numpy(scaled)
        valid = valid & (np.abs(values) < LARGEST)
        return values + start, valid
    values, valid = _numpy(column.cast(pl.Int64, strict=False))
    valid = valid & (np.abs(values) < LARGEST // unit)
    return np.where(valid, values, 0) * unit + start, valid


def _typed(column: pl.Series, unit: int, source: Source) -> tuple[Instants, Valid]:
    """Instants of typed times, of which polars keeps `unit` nanoseconds in one; those that int64 does not hold are none."""
    zoned = isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone is not None
    counts, most = column.to_physical(), LONGEST // unit
    valid = counts.is_not_null().to_numpy() if counts.null_count() else np.ones(len(counts), dtype=np.bool_)
    count = counts.fill_null(0).to_numpy() if counts.null_count() else counts.to_numpy()
    if len(count) and (count.max() > most or count.min() < -most):
        valid = valid & (count <= most) & (count >= -most)
        count = np.where(valid, count, 0)
    times = count.astype(np.int64) * unit
    if zoned or source.timezone == "UTC":
        return times, valid
    return _local(pl.Series(times) if valid.all() else pl.Series(times).set(pl.Series(~valid), None), source)


def _local(naive_ns: pl.Series, source: Source) -> tuple[Instants, Valid]:
    """Clock readings of the source's zone, as nanoseconds since 1970 on that clock -> instants."""
    if source.timezone == "UTC":
        return _numpy(naive_ns)
    clock = naive_ns.cast(pl.Datetime("ns"))
    fold: Any = {"refuse": "null", "infer": "earliest"}.get(source.ambiguous, source.ambiguous)
    placed = clock.dt.replace_time_zone(source.timezone, ambiguous=fold, non_existent="null")
    return _numpy(placed.dt.convert_time_zone("UTC").dt.epoch("ns"))


def _by_pattern(texts: pl.Series, source: Source) -> tuple[Instants, Valid]:
    pattern, late = read_pattern(source.time_format), None
    if source.time_stamps == "end" and pattern.midnight is not None:
        late = texts.str.contains(pattern.midnight).fill_null(value=False)
        texts = texts.str.replace(pattern.midnight, "${1}00${2}") if late.any() else texts
    if pattern.fraction is not None:
        texts = texts.str.replace(*pattern.fraction)
    texts = texts + pattern.added if pattern.added else texts
    parsed = _parsed(texts, pattern.form, zoned=pattern.zoned)
    if pattern.short_year:  # Python's years of two digits begin with 1969, chrono's with 1970
        after = parsed.is_between(*YEAR_2069, closed="left")
        parsed = parsed.zip_with(~after, parsed - CENTURY)
    if late is not None and late.any():
        parsed = parsed + late.cast(pl.Int64) * DAY
    return _numpy(parsed) if pattern.zoned else _local(parsed, source)


def _parsed(texts: pl.Series, form: str, *, zoned: bool) -> pl.Series:
    """Nanoseconds since 1970 of texts, null where they are none: beyond int64 polars gives another year in silence."""
    zone = "UTC" if zoned else None
    coarse = texts.str.to_datetime(form, strict=False, time_unit="us", time_zone=zone)
    fine = coarse.cast(pl.Datetime("ns", zone), strict=False)
    if "f" in form:  # more than six decimals
        parsed = texts.str.to_datetime(form, strict=False, time_unit="ns", time_zone=zone)
        fine = parsed.set(fine.is_null(), None)
    return fine.dt.epoch("ns")


def _iso(texts: pl.Series, source: Source, day: Day | None, spelling: Spelling) -> tuple[Instants, Valid]:
    texts = _without_hour_24(texts) if source.time_stamps == "end" else texts
    if not spelling.sample:
        _learn(texts, spelling)
    if not (sample := spelling.sample):
        return _bare_dates(texts, source)
    naive, valid = _fixed_width(texts, sample)
    if naive is None:
        return _iso_slow(texts, sample, source)
    offset = _constant_offset(sample, source, day)
    if offset is None:
        clock = pl.Series(naive).set(pl.Series(~valid), None)
        result, placed = _local(clock, source)
    else:
        result, placed = naive - offset, valid
    rest = np.flatnonzero(~valid)
    if len(rest):  # of another width or with an offset, or no time at all
        result[rest], placed_rest = _iso_slow(texts[rest], sample, source)
        placed = placed.copy()
        placed[rest] = placed_rest
    return result, placed


def _learn(texts: pl.Series, spelling: Spelling) -> None:
    """Takes the file's first time, and whether a bare date stands before it: then no time of the file has an offset."""
    first = next(iter(texts.head(1).to_list()), None)
    if first and not spelling.bare and ISO.fullmatch(first):
        spelling.sample = str(first)
        return
    some = texts.drop_nulls()
    bare, whole = some.str.contains(BARE).arg_true(), some.str.contains(f"^(?:{ISO.pattern})$").arg_true()
    if len(bare) and (not len(whole) or bare[0] < whole[0]):
        spelling.bare = True
    local = f"^(?:{ISO.pattern.replace(f'(?P<z>{OFFSET})?', '')})$"
    alike = some.str.contains(local).arg_true() if spelling.bare else whole
    spelling.sample = str(some[alike[0]]) if len(alike) else ""


def _bare_dates(texts: pl.Series, source: Source) -> tuple[Instants, Valid]:
    """The instants at which dates begin in the source's zone: a midnight that it skips is the instant of its jump."""
    dates = texts.set(~texts.str.contains(BARE), None).str.to_date("%Y-%m-%d", strict=False)
    begin = {date: midnight(date, source.timezone) for date in dates.unique().drop_nulls().to_list()}
    return _numpy(dates.replace_strict(begin, default=None, return_dtype=pl.Int64))


def _without_hour_24(texts: pl.Series) -> pl.Series:
    """Changes `2024-03-01T24:00` to `2024-03-02T00:00`."""
    places = texts.str.contains(HOUR_24).arg_true()
    if not len(places):
        return texts
    late = texts.gather(places)
    dates = late.str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False).dt.offset_by("1d").dt.to_string("%Y-%m-%d")
    return texts.scatter(places, dates + late.str.slice(10, 1) + "00" + late.str.slice(13))


def _iso_slow(texts: pl.Series, sample: str, source: Source) -> tuple[Instants, Valid]:
    """Through polars, which takes more for a time than ISO 8601 does (a 61st second, another minus): asked first."""
    match = ISO.fullmatch(sample)
    assert match is not None
    clock = "[0-9]{2}:[0-9]{2}" + (r":[0-5][0-9](?:\.[0-9]{1,9})?" if match["s"] else "")
    alike = texts.str.contains(f"^{DATE}{match['t']}{clock}{OFFSET if match['z'] else ''}$")
    form = f"%Y-%m-%d{match['t']}%H:%M" + (":%S%.f" if match["s"] else "")
    form += "%#z" if match["z"] else ""
    zone = "UTC" if match["z"] else None
    parsed = texts.set(~alike, None).str.to_datetime(form, strict=False, time_unit="ns", time_zone=zone).dt.epoch("ns")
    if match["z"]:
        return _numpy(parsed)
    times, valid = _local(parsed, source)
    bare = texts.str.contains(BARE).fill_null(value=False).to_numpy()
    if bare.any():
        times, valid = times.copy(), valid.copy()
        times[bare], valid[bare] = _bare_dates(texts.filter(bare), source)
    return times, valid


def _constant_offset(sample: str, source: Source, day: Day | None) -> int | None:
    """Nanoseconds that the clock is ahead of UTC in all rows: UTC, or a day of 24 hours whose offset never changes.

    A row of another date would get another offset, but on one clock it stays outside of the date: it is refused anyway.
    """
    if ISO.fullmatch(sample)["z"] == "Z" or source.timezone == "UTC":  # type: ignore[index]
        return 0
    if day is None:
        return None
    offsets = _offsets(day, source.timezone)
    return offsets.pop() if len(offsets) == 1 else None


def changes_offset(day: Day, zone: str) -> bool:
    """Whether the clock is put back or forward on a date."""
    return len(_offsets(day, zone)) > 1


def _offsets(day: Day, zone: str) -> set[int]:
    marks = np.linspace(day.start, day.end - 1, 49).astype(np.int64)  # no zone changes twice within half an hour
    return {_offset(int(mark), ZoneInfo(zone)) for mark in marks}


def _offset(instant: int, zone: ZoneInfo) -> int:
    import datetime as dt

    delta = dt.datetime.fromtimestamp(instant // SECOND, zone).utcoffset()
    assert delta is not None
    return int(delta.total_seconds()) * SECOND


def _fixed_width(texts: pl.Series, sample: str) -> tuple[Instants | None, Valid]:
    """Clock readings of all texts of the sample's form, None if the form is another; False where a text differs.

    Only forms without an offset or with `Z` are taken apart here.
    """
    match = ISO.fullmatch(sample)
    nothing = np.zeros(len(texts), dtype=bool)
    if match is None or match["z"] not in (None, "Z") or texts.null_count():
        return None, nothing
    matrix = _bytes(texts, len(sample))
    if matrix is None:
        return None, nothing
    naive, valid = np.empty(len(matrix), dtype=np.int64), np.empty(len(matrix), dtype=bool)
    digits = len(match["f"]) - 1 if match["f"] else 0
    for start in range(0, len(matrix), CHUNK):
        chunk = slice(start, start + CHUNK)
        naive[chunk], valid[chunk] = clock_readings(matrix[chunk], sample, digits, seconds=bool(match["s"]))
    return naive, valid


def _bytes(texts: pl.Series, width: int) -> NDArray[np.uint8] | None:
    """Returns [R, width] bytes of texts that all have that width, None otherwise."""
    if not bool((texts.str.len_bytes() == width).all()):
        return None
    array = texts.rechunk().to_arrow()
    if str(array.type) != "large_string":
        array = array.cast("large_string")
    buffers = array.buffers()
    offsets = np.frombuffer(buffers[1], dtype=np.int64)[array.offset :]
    data = np.frombuffer(buffers[2], dtype=np.uint8)[offsets[0] : offsets[0] + len(array) * width]
    return data.reshape(len(array), width)
