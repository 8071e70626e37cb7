"""A forecast of records: of each that is given, or of those that come after the last of each cut.

With horizon 0 the targets are the records' own (a column of a table, the joint angles at the instants of sensor readings):
every record is forecast whose piece is as long as the model's history. With a horizon it is the records after the last one.

    record of a piece   0  1  2  3  4  5  6      history 3, horizon 0
    windows             [0  1  2][3  4  5]       and [4 5 6], of which record 6 is new

Legend: B windows, H history, P target steps, S records that are forecast, T records, K targets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from dateshard.judging.forecast import Forecast, KnownHistory, most_unknown, notes_of_dumps
from dateshard.judging.forecast_table import Made, frame_of
from dateshard.pipeline.account import total
from dateshard.pipeline.recent.recent_records import RecentRecords, RecordsOfDate, RecordSource
from dateshard.shardstore.commands import by_door
from dateshard.shardstore.errors import DumpError, Where, counted
from dateshard.shardstore.times.calendar import day_of_records, record_codes
from dateshard.shardstore.times.instants import date_at
from dateshard.trainer.assessment.forecaster import Forecaster
from dateshard.trainer.assessment.intervals import Intervals

Integers = NDArray[np.int64]
PADDING = -1  # in place of a record, where an interval of time holds fewer than there is room for


@dataclass(frozen=True, slots=True)
class RecordWindows:
    """RecordWindows over records.

    Attributes:
        rows_BH: the records of their histories, or `PADDING`. new_BP: which of their targets are to be forecast.
        now_B: the instant that their first target is taken to have, where that is a record that has not come.
    """

    rows_BH: Integers
    new_BP: NDArray[np.bool_]
    now_B: Integers


@dataclass(slots=True, kw_only=True)
class Tally:
    """What a forecast rests on, counted date by date."""

    inputs: list[int]
    dates: list[RecordsOfDate] = field(default_factory=list)
    cells: int = 0
    observed: int = 0
    count: int = 0
    begin: int | None = None
    end: int | None = None
    longest: int = 0
    left_out: int = 0

    def add(self, date: RecordsOfDate) -> None:
        """Counts a date; its records are not kept."""
        records = date.records
        seen = records.observed_TNF[..., self.inputs]
        self.cells += seen.size
        self.observed += int(seen.sum())
        self.count += len(records)
        if len(records):
            first, last = int(records.time_T.min()), int(records.time_T.max())
            self.begin = first if self.begin is None else min(self.begin, first)
            self.end = last if self.end is None else max(self.end, last)
        self.dates.append(replace(date, records=records.at(slice(0, 0))))

    def history(self) -> KnownHistory:
        """What was counted."""
        return KnownHistory(
            begin=self.begin,
            end=self.end,
            num_steps=self.count,
            dates=tuple(date.day.date for date in self.dates),
            last=self.dates[-1].last if self.dates[-1].account is not None else None,
            observed=self.observed / max(1, self.cells),
            rows=total({date.day.date: date.account for date in self.dates if date.account is not None}),
            unknown_categories=most_unknown([date.unknown_categories for date in self.dates]),
        )


def forecast_records(
    forecaster: Forecaster, source: RecordSource, intervals: Intervals | None, until: int | None, place: Where
) -> Forecast:
    """The forecast of a source's records, or of those after them.

    Memory: one date's records, and a row of the table for each record, target and step.

    Args:
        until: the first instant of which nothing is known.
        place: where the records come from, for messages.

    Raises:
        DumpError: no piece of the records is as long as the model's history.
    """
    tally, frames, num_windows = Tally(inputs=list(forecaster.columns.inputs)), list[pl.DataFrame](), 0
    windows_of = _windows_after if forecaster.window.horizon else _windows_within
    for records, windows in windows_of(forecaster, source, until, tally):
        num_windows += len(windows.rows_BH)
        frames.append(_table(forecaster, records, windows, intervals))
    if not frames:
        raise _too_short(forecaster, tally, place)
    history, frame = tally.history(), pl.concat(frames)
    notes = notes_of_dumps(history)
    if tally.left_out:
        what = f"of cuts or pieces shorter than the {_needed(forecaster)} that the model looks back"
        left = f"{counted(tally.left_out, 'record is', 'records are')} not forecast: {what}."
        if forecaster.window.horizon:
            left = (
                f"After {counted(tally.left_out, 'cut')} nothing is forecast: its last records are too few or too old."
            )
        notes.insert(0, left)
    targets = len(forecaster.targets)
    return Forecast(frame=frame, history=history, begin=history.begin, num_steps=frame.height // targets, notes=notes)


def _needed(forecaster: Forecaster) -> str:
    return counted(forecaster.window.needed if forecaster.window.horizon else forecaster.window.history, "record")


def _too_short(forecaster: Forecaster, tally: Tally, place: Where) -> DumpError:
    if forecaster.window.interval and tally.count:
        seconds = forecaster.window.interval / 1e9
        what = (
            f"none of its {counted(tally.count, 'record')} lies in the {seconds:g} s before the instant of the forecast"
        )
        return DumpError(what, where=place, todo=f"Give an earlier {by_door('--until', 'until')}, or leave it out")
    longest = (
        f"the longest piece has {counted(tally.longest, 'record')}, and the model looks back {_needed(forecaster)}"
    )
    return DumpError(
        longest if tally.count else "no record is there",
        where=place,
        todo=f"Name more with {by_door('--history', 'history')}",
    )


def _windows_within(
    forecaster: Forecaster, source: RecordSource, until: int | None, tally: Tally
) -> Iterator[tuple[RecentRecords, RecordWindows]]:
    """Yields each date's records with windows that cover them, every record once."""
    history, joins = forecaster.window.history, forecaster.dataset.manifest.layout != "table"
    held, before, waiting = None, None, 0  # the last records of the date before; how many of them no window covered yet
    for name in source.dates:
        date = source.read(name).until(until)
        tally.add(date)
        records, fresh = date.records, 0
        if held is not None and before == date.day.start and joins and records.cut_T is None:
            records, fresh = records.after(held), len(held) - waiting
            tally.left_out -= waiting
        made = [_covering(piece, max(piece.start, fresh), history) for piece in records.pieces()]
        tally.longest = max(tally.longest, *(piece.stop - piece.start for piece in records.pieces()), 0)
        waiting = sum(
            max(0, piece.stop - max(piece.start, fresh)) for piece in records.pieces() if _length(piece) < history
        )
        tally.left_out += waiting
        if any(len(rows) for rows, _ in made):
            rows, new = (np.concatenate(parts) for parts in zip(*made, strict=True))
            yield records, RecordWindows(rows, new, records.time_T[rows[:, -1]])
        kept = len(records) if len(records) < history else history - 1
        held, before = records.at(slice(len(records) - kept, None)), date.day.end


def _length(piece: slice) -> int:
    return int(piece.stop - piece.start)


def _covering(piece: slice, first: int, history: int) -> tuple[Integers, NDArray[np.bool_]]:
    """Returns the windows ([B, H] rows, which of them are new) that cover the rows of a piece from `first` on."""
    nominal = np.arange(first, piece.stop, history) if _length(piece) >= history else np.zeros(0, dtype=np.int64)
    rows_BH = np.minimum(nominal, piece.stop - history)[:, None] + np.arange(history)
    return rows_BH, rows_BH >= nominal[:, None]


def _windows_after(
    forecaster: Forecaster, source: RecordSource, until: int | None, tally: Tally
) -> Iterator[tuple[RecentRecords, RecordWindows]]:
    """Yields the last records, with the window at the end of each of their pieces."""
    window = forecaster.window
    records = _last_records(forecaster, source, until, tally)
    if records is None:
        return
    rows, now = list[Integers](), list[int]()
    for piece in records.pieces():
        time_T = records.time_T[piece]
        instant = int(time_T[-1]) if until is None else until
        low = max(0, len(time_T) - window.history)
        if window.interval:
            low = max(low, int(np.searchsorted(time_T, instant - window.interval)))
        own = np.arange(piece.start + low, piece.stop)
        tally.longest = max(tally.longest, len(own))
        if len(own) < window.needed:
            tally.left_out += 1
            continue
        rows.append(np.concatenate([np.full(window.history - len(own), PADDING), own]))
        now.append(instant)
    if rows:
        every = np.ones((len(rows), window.horizon), dtype=bool)
        yield records, RecordWindows(np.stack(rows), every, np.array(now))


def _last_records(
    forecaster: Forecaster, source: RecordSource, until: int | None, tally: Tally
) -> RecentRecords | None:
    """The records of the last date that has any, with those of dates before it as far as the history goes over midnight."""
    window, records, begin = forecaster.window, None, 0
    for name in reversed(source.dates):
        date = source.read(name).until(until)
        if not len(date.records):
            continue
        if records is not None and date.day.end != begin:
            break
        tally.add(date)
        records = date.records if records is None else records.after(date.records)
        begin = date.day.start
        enough = len(records) >= window.history
        if window.interval:
            enough |= int(records.time_T[0]) < int(records.time_T[-1]) - window.interval
        if records.cut_T is not None or enough:
            break
    tally.dates.reverse()
    return records


def _table(
    forecaster: Forecaster, records: RecentRecords, windows: RecordWindows, intervals: Intervals | None
) -> pl.DataFrame:
    """The rows of some windows' new targets, in the order in which the records stand in their file."""
    window, size = forecaster.window, forecaster.config.training.batch_size
    scaled, quantiles = list[NDArray[np.float32]](), list[NDArray[np.float32]]()
    chances = list[dict[str, NDArray[np.float64]]]()
    for low in range(0, len(windows.rows_BH), size):
        outputs = _ask(forecaster, records, windows, slice(low, low + size))
        new = windows.new_BP[low : low + size]
        for held, asked in ((scaled, forecaster.numbers_in(outputs)), (quantiles, forecaster.quantiles_in(outputs))):
            if asked is not None:
                held.append(asked[new])
        chances.append({name: share[new] for name, share in forecaster.chances(outputs).items()})
    of_window, step = np.nonzero(windows.new_BP)
    row_S = windows.rows_BH[:, -1][of_window] if window.horizon else windows.rows_BH[of_window, step]
    known_BH = (windows.rows_BH != PADDING) & records.observed_TNF[windows.rows_BH][..., forecaster.columns.inputs].any(
        (2, 3)
    )
    known_S = known_BH.any(1)[of_window]
    shown = records.at(row_S)
    order = np.arange(len(row_S))
    if shown.row_T is not None and shown.file_T is not None:
        order = np.lexsort((step, shown.row_T, np.unique(shown.file_T.astype(str), return_inverse=True)[1]))
    shown, step, known_S = shown.at(order), step[order], known_S[order]
    made = Made(
        forecaster=forecaster,
        horizon_P=step + 1 if window.horizon else np.zeros(len(step), dtype=np.int64),
        instant_P=shown.time_T,
        scaled_PNT=np.concatenate(scaled)[order] if scaled else None,
        quantiles_PNTQ=np.concatenate(quantiles)[order] if quantiles else None,
        chances={name: np.concatenate([each[name] for each in chances])[order] for name in chances[0]},
        reach_2PNT=None if intervals is None else intervals.now.ends_2PNF[:, step],
        known_PNK=np.repeat(known_S, len(forecaster.targets)).reshape(len(step), 1, -1),
    )
    return frame_of(made, _where(shown))


def _where(records: RecentRecords) -> dict[str, pl.Series]:
    """The columns date, file, row and cut, as far as they are known."""
    count = len(records)
    files = pl.Series([None] * count if records.file_T is None else records.file_T.tolist(), dtype=pl.String)
    rows = pl.Series([None] * count if records.row_T is None else records.row_T, dtype=pl.Int64)
    columns = {"date": pl.Series(records.date_T).cast(pl.Date), "file": files, "row": rows}
    return columns if records.cut_T is None else columns | {"cut": pl.Series(records.cut_T.tolist(), dtype=pl.String)}


def _ask(
    forecaster: Forecaster, records: RecentRecords, windows: RecordWindows, chosen: slice
) -> Mapping[str, torch.Tensor]:
    """All outputs of the model for some windows."""
    rows_BH, now_B = windows.rows_BH[chosen], windows.now_B[chosen]
    there_BH = rows_BH != PADDING
    values, known = records.values_TNF[rows_BH], records.observed_TNF[rows_BH]
    values[~there_BH], known[~there_BH] = 0.0, False
    code_BH = np.where(there_BH, records.code_T[rows_BH], 0)
    zone_name = forecaster.dataset.manifest.timezone
    code_B = [
        int(record_codes(day_of_records(date_at(now, zone_name), zone_name), np.array([now]), zone_name)[0])
        for now in now_B.tolist()
    ]
    later = np.repeat(np.array(code_B, dtype=np.int32)[:, None], forecaster.window.horizon, axis=1)
    return forecaster.outputs_of(values, np.concatenate([code_BH, later], axis=1).astype(np.int32), known)
