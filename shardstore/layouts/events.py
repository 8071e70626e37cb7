"""The layout of events: records as they come, one after the other, each with its instant.

    row     0    1    2    3    4         values [T, 1, F], time [T] beside them
    cut     a    a    a    b    b         cuts = [0, 3], cut_names = ["a", "b"]
    time    9    10   14   8    11        in order inside a cut; another cut begins anew

Without a column of cuts the records of a date are one piece, in the order of time. With one they are ordered by (cut, time,
row), and a cut ends with its date.

Legend: T records of the date, F features, R records of a stretch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dateshard.shardstore.layouts.feature import CALENDAR, Feature
from dateshard.shardstore.layouts.records import (
    NO_DUPLICATES,
    Records,
    Reduced,
    Reduction,
    Stretch,
    arrange,
    without_earlier,
)
from dateshard.shardstore.scaling.transform import Floats, Integers

SECOND = 1e9  # nanoseconds
Column = TypeVar("Column", Floats, Integers)


def reduce(stretches: Iterable[Stretch], to: Reduction) -> Reduced:
    """Orders a date's records and makes the columns that follow from their instants.

    Memory: the records' columns twice.
    """
    kept, duplicates = list[Records](), NO_DUPLICATES
    for stretch, records in stretches:
        order, again = without_earlier(records, arrange(records, stretch, len(to.names)), to)
        kept.append(records.at(order))
        duplicates = duplicates.and_of(again)
    joined = _joined(kept)
    starts = cut_starts(joined.node_R)
    beside: dict[str, NDArray[np.generic]] = {"time": joined.time_R}
    if to.keep_places:
        beside["place"] = _there(joined.place_R)
    if to.cut:
        beside["cuts"] = starts
        beside["cut_names"] = encode_names([to.names[code] for code in joined.node_R[starts].tolist()])
    values_TF = np.empty((len(joined.time_R), len(to.features)))
    for place, feature in enumerate(to.features):
        values_TF[:, place] = _column(joined, place, feature, starts, None if to.cut else to.day.end)
    last = int(joined.time_R.max()) if len(joined.time_R) else None
    return Reduced(
        values_TNF=values_TF[:, None, :], nodes=to.nodes, duplicates=duplicates, last=last, resets={}, beside=beside
    )


def _joined(pieces: Sequence[Records]) -> Records:
    """The records of all stretches, by (cut, instant, row)."""
    if len(pieces) == 1:
        return pieces[0]
    node_R = np.concatenate([piece.node_R for piece in pieces])
    order = np.argsort(node_R, kind="stable")  # stretches follow each other in time
    time_R = np.concatenate([piece.time_R for piece in pieces])[order]
    columns = [
        None if column is None else np.concatenate([_there(piece.values[place]) for piece in pieces])[order]
        for place, column in enumerate(pieces[0].values)
    ]
    place_R = None
    if pieces[0].place_R is not None:
        place_R = np.concatenate([_there(piece.place_R) for piece in pieces])[order]
    return Records(time_R, node_R[order], tuple(columns), place_R)


def _there(column: Column | None) -> Column:
    assert column is not None, "all stretches have the columns of the first"
    return column


@dataclass(frozen=True, slots=True)
class Cuts:
    """The pieces of a date that no window crosses: the row at which each begins [C], and their names."""

    starts: Integers
    names: tuple[str, ...]


def cut_starts(cut_T: Integers | NDArray[np.int32]) -> Integers:
    """Returns the rows at which a cut begins, [C], of each row's cut [T]."""
    return np.flatnonzero(np.append(True, cut_T[1:] != cut_T[:-1])) if len(cut_T) else np.zeros(0, np.int64)


def encode_names(names: Sequence[str]) -> NDArray[np.uint8]:
    """Returns the names of a date's cuts as a JSON list in UTF-8."""
    text = json.dumps(list(names), ensure_ascii=False, separators=(",", ":"))
    return np.frombuffer(text.encode(), dtype=np.uint8)


def decode_names(encoded: NDArray[np.uint8]) -> list[str]:
    """The inverse of `encode_names`.

    Raises:
        ValueError: no list of names.
    """
    names = json.loads(encoded.tobytes().decode())
    if not isinstance(names, list) or not {*map(type, names)} <= {str}:
        raise ValueError(names)
    return names


def _column(records: Records, place: int, feature: Feature, starts: Integers, day_end: int | None) -> Floats:
    """A feature's column [T]. `day_end`: until when there are records, None where a cut ends with its last one."""
    column = records.values[place]
    if feature.aggregate == "gap":
        return _gaps(records.time_R, starts)
    if feature.aggregate == CALENDAR:
        return np.zeros(len(records.time_R))  # what the date says is put there afterwards
    if feature.ahead:
        return _ahead(records.time_R, column, feature, starts, day_end)
    assert column is not None, "only a gap, or a count ahead, works without a column; the configuration holds this"
    return column


def _gaps(time_T: Integers, starts: Integers) -> Floats:
    """Seconds since the record before, NaN for the first of a date or cut."""
    gap_T = np.diff(time_T, prepend=time_T[:1]) / SECOND
    gap_T[starts] = np.nan
    return gap_T


def _ahead(time_T: Integers, column: Floats | None, feature: Feature, starts: Integers, day_end: int | None) -> Floats:
    """What the records in [t, t + ahead) amount to, t being each record's own instant: so it is one of them.

    NaN where the interval is not over by the end of the date, or of its cut, which ends with its last record: how many
    records would have come is not known. Sums run over offsets from the date's first value, so that they stay exact.
    """
    stop_T = np.empty(len(time_T), dtype=np.int64)
    whole_T = np.empty(len(time_T), dtype=bool)
    for low, high in pairwise([*starts.tolist(), len(time_T)]):
        times = time_T[low:high]
        stop_T[low:high] = low + np.searchsorted(times, times + feature.ahead)
        whole_T[low:high] = times + feature.ahead <= (times[-1] if day_end is None else day_end)
    here_T = np.arange(len(time_T))
    seen_T = np.ones(len(time_T), dtype=bool) if column is None else ~np.isnan(column)
    total = np.append(0, np.cumsum(seen_T))
    count_T = total[stop_T] - total[here_T]
    if feature.aggregate == "count":
        return np.where(whole_T, count_T.astype(np.float64), np.nan)
    assert column is not None, "only a count works without a column; the configuration holds this"
    if feature.aggregate == "last":
        latest = np.maximum.accumulate(np.where(seen_T, here_T, -1))[stop_T - 1]
        return np.where(whole_T & (latest >= here_T), column[latest], np.nan)
    pivot = column[seen_T.argmax()] if seen_T.any() else 0.0
    sums = np.append(0.0, np.cumsum(np.where(seen_T, column - pivot, 0.0)))
    offset_T = sums[stop_T] - sums[here_T]
    with np.errstate(invalid="ignore", divide="ignore"):
        value_T = offset_T / count_T + pivot if feature.aggregate == "mean" else offset_T + count_T * pivot
    return np.where(whole_T & (count_T > 0), value_T, np.nan)
