"""A trace of LLM requests in memory: when each came, how many tokens went in and how many came out.

A file is read in one pass, in blocks of some MB; what stays is 17 bytes a row. Rows that cannot be used are counted by reason.

Legend: R records, in the order of time (of equal times in the order of the file).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dateshard.pipeline.raw.clocks.times import Spelling, instants
from dateshard.pipeline.raw.formats import Kind, RaggedRowBlock, Request, RowBlock, reader_of
from dateshard.pipeline.source import Source
from dateshard.requests.trace_format import UNITS, TraceFormat, dialect_of, format_of
from dateshard.shardstore.errors import DumpError, UsageError, Where, counted
from dateshard.shardstore.times.calendar import midnight

ORIGIN = dt.date(2001, 1, 1)  # a Monday; times that count from the trace's own begin are put after its midnight
UNIX = 5 * 10**17  # nanoseconds: larger times count from 1970, smaller ones from the trace's own begin
MOST_TOKENS = 10_000_000  # of a request: more is no number of tokens
HOLE_SECONDS, HOLE_GAPS = 3600.0, 50.0  # a gap is a hole if longer than this, and than so many of the 99 % gap
REASONS = (
    "",
    "no readable time",
    "no readable tokens",
    "negative tokens",
    f"more than {MOST_TOKENS:,} tokens",
    "no input tokens",
    "failed (no output tokens)",
    "another number of fields than the header",
)
NO_TIME, OTHER_FIELDS = 1, len(REASONS) - 1
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeScale:
    """How a trace writes its times.

    Attributes:
        unit: of numbers; None where times are instants. origin: the date at whose midnight (UTC) numbers begin.
    """

    unit: str | None
    origin: dt.date | None

    @property
    def start(self) -> int:
        """Nanoseconds since 1970 of the instant that the trace writes as 0."""
        return 0 if self.origin is None else midnight(self.origin, "UTC")

    def written(self, instant: int) -> float | dt.datetime:
        """An instant as the trace writes it: a number of its unit, or a datetime in UTC."""
        if self.unit is None:
            return dt.datetime.fromtimestamp(instant // 1000 / 1e6, dt.UTC)
        return (instant - self.start) / UNITS[self.unit]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingCounts:
    """What became of a trace's rows.

    Attributes:
        dropped: {reason: sampled rows that were left out}. unsorted: rows that came before an earlier one.
        tied: records with the time of the one before.
    """

    raw: int
    sampled: int
    kept: int
    dropped: Mapping[str, int]
    unsorted: int
    tied: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The usable records of a trace, the newest of which may be chosen.

    Attributes:
        time_R: nanoseconds since 1970 (of a trace that counts from its own begin: since the origin's midnight).
        input_R, output_R: tokens of the request and of the response.
        columns: of the file: time, input tokens, output tokens.
        first: place of the first record of the sample; records before it serve the models of intervals alone.
    """

    file: str
    format: str
    columns: tuple[str, str, str]
    scale: TimeScale
    time_R: Integers
    input_R: NDArray[np.int32]
    output_R: NDArray[np.int32]
    first: int
    counts: ReadingCounts

    def __len__(self) -> int:
        return len(self.time_R)

    @property
    def sample(self) -> Trace:
        """The sampled records alone."""
        chosen = slice(self.first, None)
        return Trace(
            file=self.file,
            format=self.format,
            columns=self.columns,
            scale=self.scale,
            time_R=self.time_R[chosen],
            input_R=self.input_R[chosen],
            output_R=self.output_R[chosen],
            first=0,
            counts=self.counts,
        )

    def hole_starts(self) -> Integers:
        """Returns the places of the records that come after a hole: a time in which no record was written."""
        gap_R = np.diff(self.time_R) / 1e9
        if not len(gap_R):
            return np.zeros(0, dtype=np.int64)
        return np.flatnonzero(gap_R > max(HOLE_SECONDS, HOLE_GAPS * float(np.quantile(gap_R, 0.99)))) + 1


def read_trace(
    path: str | Path,
    sample_size: int | None = None,
    columns: Mapping[str, str] | None = None,
    unit: str | None = None,
    origin: dt.date = ORIGIN,
    num_rows: int | None = None,
) -> Trace:
    """Reads a trace in one pass.

    Memory: 17 bytes a row, thrice while rows are sorted; and a block of text.

    Args:
        sample_size: the newest so many records are the sample; None: all of them.
        columns: {time, input, output: the file's column}, where its header is not a known one.
        unit: of times that are numbers. origin: the date at whose midnight they begin, if they are small.
        num_rows: only the first so many rows; None: all.

    Raises:
        UsageError: a wrong argument. DumpError: the file cannot be read, or none of its rows can be used.
    """
    if sample_size is not None and sample_size < 1:
        raise UsageError(f"a sample of {sample_size} records is none", todo="Give --sample-size 1 or more")
    file = Path(path)
    form = format_of(file, columns, unit)
    blocks = _Blocks(form, origin)
    kinds: dict[str, Kind] = {form.time: "time", form.input: "number", form.output: "number"}
    request = Request(columns=kinds, csv=dialect_of(file), ragged=True)
    parts = [blocks.decode(block) for block in _first(reader_of(file, "auto")(file, request), num_rows)]
    time_R, input_R, output_R, why_R = (np.concatenate(column) for column in zip(*parts, strict=True))
    parts.clear()
    unsorted = int((np.diff(time_R[(why_R != NO_TIME) & (why_R != OTHER_FIELDS)]) < 0).sum())
    if unsorted:
        order = np.argsort(time_R, kind="stable")
        time_R, input_R, output_R, why_R = (column[order] for column in (time_R, input_R, output_R, why_R))
    return _cleaned(str(path), form, blocks.scale, (time_R, input_R, output_R, why_R), (sample_size, unsorted))


def _first(blocks: Iterator[RowBlock], num_rows: int | None) -> Iterator[RowBlock]:
    """Yields blocks until they hold so many rows; the last one is cut."""
    left = num_rows
    for block in blocks:
        if left is not None and len(block.frame) >= left:
            head = replace(block, frame=block.frame.head(left), row_R=block.row_R[:left], bad={})
            yield replace(head, texts=head.texts.head(left)) if isinstance(head, RaggedRowBlock) else head
            return
        left = None if left is None else left - len(block.frame)
        yield block


Columns = tuple[Integers, NDArray[np.int32], NDArray[np.int32], NDArray[np.int8]]


def _cleaned(file: str, form: TraceFormat, scale: TimeScale, columns: Columns, asked: tuple[int | None, int]) -> Trace:
    """The trace without the rows that cannot be used."""
    (time_R, input_R, output_R, why_R), (size, unsorted) = columns, asked
    raw = len(time_R)
    low = 0 if size is None else max(0, raw - size)
    per_reason = np.bincount(why_R[low:], minlength=len(REASONS))
    good_R = why_R == 0
    first = int(good_R[:low].sum())
    kept = time_R[good_R]
    tied = int((np.diff(kept[first:]) == 0).sum())
    dropped = {REASONS[code]: int(count) for code, count in enumerate(per_reason.tolist()) if code and count}
    if first == len(kept):
        why = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
        what = f"none of its {counted(raw - low, 'row')} can be used: {why}"
        raise DumpError(what, where=Where(file=file), todo="Check what its columns hold, or name others with --columns")
    counts = ReadingCounts(
        raw=raw, sampled=raw - low, kept=len(kept) - first, dropped=dropped, unsorted=unsorted, tied=tied
    )
    return Trace(
        file=file,
        format=form.name,
        columns=form.columns,
        scale=scale,
        time_R=kept,
        input_R=input_R[good_R],
        output_R=output_R[good_R],
        first=first,
        counts=counts,
    )


class _Blocks:
    """Decodes the blocks of one file; the first time of it says how all are written."""

    def __init__(self, form: TraceFormat, origin: dt.date) -> None:
        self.form, self.origin, self.spelling = form, origin, Spelling()
        self.source: Source | None = None

    @property
    def scale(self) -> TimeScale:
        """How the file writes its times."""
        assert self.source is not None, "a block was decoded"
        if self.source.time_format == "iso":
            return TimeScale(unit=None, origin=None)
        return TimeScale(unit=self.form.unit, origin=self.source.time_origin)

    def decode(self, block: RowBlock) -> Columns:
        """Returns times, input tokens, output tokens, and why a row cannot be used (0: it can)."""
        frame = block.frame
        times = frame[self.form.time]
        if self.source is None:
            self.source = source_of(times, self.form, self.origin)
        time_R, valid_R = instants([times], self.source, None, self.spelling)
        columns = usable(time_R, valid_R, *(frame[name].to_numpy() for name in (self.form.input, self.form.output)))
        if isinstance(block, RaggedRowBlock):
            columns[-1][block.texts.is_not_null().to_numpy()] = OTHER_FIELDS
        return columns


def usable(time_R: Integers, valid_R: NDArray[np.bool_], *tokens: NDArray[np.float64]) -> Columns:
    """Whole numbers of tokens beside their times, and why a row cannot be used (a place in `REASONS`; 0: it can)."""
    input_R, output_R = (
        np.nan_to_num(np.where(column == np.floor(column), column, np.nan), nan=-0.5) for column in tokens
    )
    low_R, high_R = np.minimum(input_R, output_R), np.maximum(input_R, output_R)
    unreadable_R = (input_R == -0.5) | (output_R == -0.5)
    tests = (~valid_R, unreadable_R, low_R < 0, high_R > MOST_TOKENS, input_R == 0, output_R == 0)
    why_R = np.select(tests, range(1, len(tests) + 1), 0).astype(np.int8)
    clean = [np.where(why_R == 0, column, 0).astype(np.int32) for column in (input_R, output_R)]
    return np.where(valid_R, time_R, np.iinfo(np.int64).min), clean[0], clean[1], why_R


def source_of(times: pl.Series, form: TraceFormat, origin: dt.date) -> Source:
    """How times are read: numbers from 1970 if they are that large, else from the origin; texts and typed ones as they are."""
    column = {"path": "", "time": form.time}
    if times.dtype.is_temporal():
        return Source.model_validate(column)
    numbers = times.cast(pl.String, strict=False).cast(pl.Float64, strict=False).drop_nulls()
    if not len(numbers) and times.null_count() < len(times):
        return Source.model_validate(column)
    large = bool(len(numbers)) and abs(float(numbers[0])) * UNITS[form.unit] >= UNIX
    return Source.model_validate({**column, "time_format": form.unit, "time_origin": None if large else origin})
