"""Pieces of a file with their rows' instants; readings that a clock has twice are told apart by the order of the rows.

Where a clock goes back, a node's readings do so once: 02:00, 02:30, 02:00, 02:30. The rows before that are of the first
hour, those from there on of the second. A node whose readings go back never, or more than once, tells nothing: its rows of
that hour have no time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dateshard.pipeline.raw.clocks.times import Instants, Spelling, Valid, changes_offset, instants
from dateshard.pipeline.raw.formats import ListedRowBlock, RaggedRowBlock, RowBlock, texts_in
from dateshard.pipeline.source import Source
from dateshard.shardstore.times.calendar import Day

APART = 6 * 3600 * 10**9  # two doubled hours are further apart than this, the readings of one are not


def with_instants(
    pieces: Iterator[RowBlock], source: Source, day: Day | None
) -> Iterator[tuple[RowBlock, Instants, Valid]]:
    """Yields a file's pieces, each with its rows' instants and whether they have one.

    Under `ambiguous: infer` the rows of a doubled hour come last: what they are is known at the end of the file.

    Memory: a piece, and the rows of doubled hours.

    Args:
        day: the date that the rows should be of; None if they are of many.
    """
    if source.time is None:
        assert day is not None, "rows without a time are not cut into dates"
        for piece in pieces:
            yield piece, np.full(len(piece.row_R), day.start), np.ones(len(piece.row_R), dtype=np.bool_)
        return
    spelling, held = Spelling(), _Held(source)
    infer = source.ambiguous == "infer" and (day is None or changes_offset(day, source.timezone))
    later = source.model_copy(update={"ambiguous": "latest"})
    for piece in pieces:
        columns = [piece.frame[name] for name in source.time_columns]
        times, valid = instants(columns, source, day, spelling)
        if not infer:
            yield piece, times, valid
            continue
        seconds, _ = instants(columns, later, day, spelling)
        doubled = valid & (times != seconds)
        if not doubled.any():
            yield piece, times, valid
            continue
        held.add(_rows(piece, doubled), times[doubled], seconds[doubled])
        if not doubled.all():
            yield _rows(piece, ~doubled), times[~doubled], valid[~doubled]
    yield from held.told_apart()


def _rows(piece: RowBlock, chosen: NDArray[np.bool_]) -> RowBlock:
    mask = pl.Series(chosen)
    bad = {name: texts.filter(mask) for name, texts in piece.bad.items()}
    rows = replace(piece, frame=piece.frame.filter(mask), row_R=piece.row_R[chosen], bad=bad)
    if isinstance(rows, ListedRowBlock):
        listed = {name: replace(of, place_R=of.place_R[chosen]) for name, of in rows.places.items()}
        return replace(rows, places=listed)
    return replace(rows, texts=rows.texts.filter(mask)) if isinstance(rows, RaggedRowBlock) else rows


@dataclass(slots=True)
class _Held:
    """Rows of doubled hours, in file order: with the instants that they may be."""

    source: Source
    pieces: list[RowBlock] = field(default_factory=list)
    earlier: list[Instants] = field(default_factory=list)
    later: list[Instants] = field(default_factory=list)

    def add(self, piece: RowBlock, earlier: Instants, later: Instants) -> None:
        self.pieces.append(piece)
        self.earlier.append(earlier)
        self.later.append(later)

    def told_apart(self) -> Iterator[tuple[RowBlock, Instants, Valid]]:
        """The rows with the instants that they are."""
        if not self.pieces:
            return
        earlier_R, later_R = np.concatenate(self.earlier), np.concatenate(self.later)
        second_R, valid_R = second_hour(earlier_R, _groups(earlier_R, self._nodes()))
        times_R, at = np.where(second_R, later_R, earlier_R), 0
        for piece in self.pieces:
            rows = slice(at, at + len(piece.row_R))
            yield piece, times_R[rows], valid_R[rows]
            at += len(piece.row_R)

    def _nodes(self) -> pl.Series | None:
        if self.source.who is None:
            return None
        return pl.concat([texts_in(piece, self.source.who) for piece in self.pieces])


def _groups(times_R: Instants, nodes: pl.Series | None) -> NDArray[np.int64]:
    """A number for each row: the same for rows of one node in one doubled hour."""
    order = np.argsort(times_R, kind="stable")
    hour_R = np.empty(len(order), dtype=np.int64)
    hour_R[order] = np.cumsum(np.diff(times_R[order], prepend=times_R[order[0]]) > APART)
    if nodes is None:
        return hour_R
    node_R = nodes.rank("dense").fill_null(0).cast(pl.Int64).to_numpy()
    return node_R * (int(hour_R.max()) + 1) + hour_R


def second_hour(reading_R: Instants, group_R: Sequence[int] | NDArray[np.int64]) -> tuple[Valid, Valid]:
    """Returns (whether a reading is of the second hour, whether that can be told) of rows in file order."""
    order = np.argsort(group_R, kind="stable")
    group, reading = np.asarray(group_R)[order], reading_R[order]
    same = np.append(False, group[1:] == group[:-1])
    back = same & np.append(False, reading[1:] <= reading[:-1])
    starts = np.flatnonzero(~same)
    passed = np.cumsum(back)
    passed -= np.repeat(passed[starts], np.diff(np.append(starts, len(group))))  # times that the group went back so far
    often = np.repeat(np.add.reduceat(back.astype(np.int64), starts), np.diff(np.append(starts, len(group))))
    second_R, valid_R = np.empty(len(order), dtype=bool), np.empty(len(order), dtype=bool)
    second_R[order], valid_R[order] = passed > 0, often == 1
    return second_R, valid_R
