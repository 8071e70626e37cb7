"""The history that a predictor is given: a frame of pandas or polars with the columns of a trace, as records.

Rows are read and refused as those of a trace are: by the same code, so that the model sees what training saw.

Legend: R records, in the order of time.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dateshard.pipeline.raw.clocks.times import Spelling, instants
from dateshard.pipeline.raw.formats import as_numbers
from dateshard.pipeline.source import Source
from dateshard.requests.trace import Integers, TimeScale, Trace, read_trace, usable
from dateshard.requests.trace_format import HISTORY, KNOWN, ROLES, UNITS, TraceFormat, header_of, of_header
from dateshard.shardstore.errors import DumpError, UsageError

TRIED, HOURS_TRIED = 2000, 2 * 3600 * 10**9  # the history of a file: records at least, nanoseconds at least
Instant = float | int | str | dt.datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHistory:
    """The usable records of a frame.

    Attributes:
        num_rows: of the frame, whether they can be used or not.
    """

    time_R: Integers
    input_R: NDArray[np.int32]
    output_R: NDArray[np.int32]
    num_rows: int

    def __len__(self) -> int:
        return len(self.time_R)


class HistoryReader:
    """Reads histories as a model's own trace was read.

    Args:
        trace: what a packed model says of its trace: `columns`, `unit`, `origin`.
    """

    def __init__(self, trace: Mapping[str, Any]) -> None:
        origin = trace["origin"]
        self.scale = TimeScale(unit=trace["unit"], origin=None if origin is None else dt.date.fromisoformat(origin))
        time, taken, given = trace["columns"]
        self.own = TraceFormat(name="own", time=time, input=taken, output=given, unit=trace["unit"] or "s")

    def read(self, frame: Any, newest: int | None = None, seconds: float | None = None) -> RequestHistory:
        """The usable records of a frame.

        Args:
            newest: only so many rows, the newest, are looked at. seconds: only rows that are not older than the newest by
                more than that, and the newest older ones: how far a history reaches is known by them.

        Raises:
            UsageError: it is no frame, or lacks columns.
        """
        table = as_polars(frame)
        form = self._form(table.columns)
        table = table.select(form.columns)
        num_rows, times = len(table), table[form.time]
        if times.dtype.is_numeric() and num_rows:
            table = _newest(table, form, newest, None if seconds is None else seconds * 1e9 / UNITS[self.own.unit])
        time_R, valid_R = instants([table[form.time]], self._source(table[form.time], form), None, Spelling())
        tokens = [as_numbers(table[name])[0].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in form.columns[1:]]
        time_R, input_R, output_R, why_R = usable(time_R, valid_R, *tokens)
        good_R = np.flatnonzero(why_R == 0)
        if (np.diff(time_R[good_R]) < 0).any():
            good_R = good_R[np.argsort(time_R[good_R], kind="stable")]
        return RequestHistory(
            time_R=time_R[good_R], input_R=input_R[good_R], output_R=output_R[good_R], num_rows=num_rows
        )

    def file(self, path: Path, num_rows: int | None = None) -> pl.DataFrame:
        """The last records of a trace's file, as a frame."""
        header = header_of(path)
        columns = dict(zip(ROLES, self._form([*header]).columns, strict=True))
        trace = read_trace(path, None, columns, self.own.unit, num_rows=num_rows)
        return frame_of(trace)

    def instant(self, written: Instant) -> int:
        """Nanoseconds of an instant as the trace writes it.

        Raises:
            UsageError: it is no time.
        """
        times = pl.Series("now", [written])
        time, valid = instants([times], self._source(times, self.own), None, Spelling())
        if not valid[0]:
            raise UsageError(f"'{written}' is no time of this trace", todo="Write it as the trace writes its times")
        return int(time[0])

    def _form(self, columns: list[str]) -> TraceFormat:
        if {*self.own.columns} <= {*columns}:
            return self.own
        if any({*known.columns} <= {*columns} for known in KNOWN):
            return of_header(columns, Path("history"))
        try:
            return of_header(columns, Path("history"))
        except DumpError as error:
            what = f"the history lacks a column: {error.what}"
            raise UsageError(what, todo=f"Give the columns {', '.join(HISTORY)}") from None

    def _source(self, times: pl.Series, form: TraceFormat) -> Source:
        column: dict[str, Any] = {"path": "", "time": form.time}
        if times.dtype.is_temporal() or (times.dtype == pl.String and self.scale.unit is None):
            return Source.model_validate(column)
        return Source.model_validate({**column, "time_format": self.own.unit, "time_origin": self.scale.origin})


def as_polars(frame: Any) -> pl.DataFrame:
    """A frame of pandas or polars, or a mapping of columns, as one of polars.

    Raises:
        UsageError: it is none of these.
    """
    if isinstance(frame, pl.DataFrame):
        return frame
    if isinstance(frame, pl.LazyFrame):
        return frame.collect()
    try:
        columns = frame.columns if hasattr(frame, "columns") else frame
        return pl.DataFrame({str(name): _series(str(name), frame[name]) for name in columns})
    except (TypeError, KeyError, AttributeError, pl.exceptions.PolarsError) as error:
        what = f"a history is a frame of pandas or polars, and this is a {type(frame).__name__}"
        todo = f"Give a frame with the columns {', '.join(HISTORY)}"
        raise UsageError(what, todo=todo) from error


def _series(name: str, column: Any) -> pl.Series:
    values = column.to_numpy() if hasattr(column, "to_numpy") else column
    if getattr(getattr(column, "dt", None), "tz", None) is not None:  # of pandas, whose numpy form is of objects
        values = column.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()
    return pl.Series(name, values, strict=False)


def _newest(table: pl.DataFrame, form: TraceFormat, newest: int | None, span: float | None) -> pl.DataFrame:
    """The newest rows of a table whose times are numbers, in the order in which they stand."""
    times = table[form.time].cast(pl.Float64)
    if span is not None:
        latest = times.max()
        assert latest is None or isinstance(latest, float), "a number, or none at all"
        older = None if latest is None else times.filter(times < latest - span).max()
        return table if older is None else table.filter(times >= older)
    if newest is None or newest >= len(table):
        return table
    if times.is_sorted():
        return table.tail(newest)
    bound = times.sort()[-newest]
    return table.filter(times >= bound)


def frame_of(trace: Trace) -> pl.DataFrame:
    """The last records of a trace as a predictor takes them: two hours of them, and two thousand at least."""
    low = max(0, min(len(trace) - TRIED, int(trace.time_R.searchsorted(trace.time_R[-1] - HOURS_TRIED))))
    written = [trace.scale.written(time) for time in trace.time_R[low:].tolist()]
    return pl.DataFrame({HISTORY[0]: written, HISTORY[1]: trace.input_R[low:], HISTORY[2]: trace.output_R[low:]})
