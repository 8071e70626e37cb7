"""Counts bad rows by reason, says what becomes of them, and where the first refused one stands."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dateshard.pipeline.config import OUTSIDE
from dateshard.pipeline.raw.clocks.time_remedies import of_bad_times, of_other_dates
from dateshard.pipeline.raw.clocks.times import not_a_time, shown
from dateshard.pipeline.raw.formats import RaggedRowBlock, RowBlock, remedies
from dateshard.pipeline.raw.row_counts import RowCounts
from dateshard.pipeline.raw.strangers import NO_STRANGERS, Strangers
from dateshard.pipeline.source import Source
from dateshard.shardstore.errors import DumpError, NoRowsError, Where, counted

NO_NUMBER, OTHER_DATE = "not a number", "of another date"
NO_TEXT, OTHER_FIELDS = "an object or a list, not a text", "of another number of fields"
CORRECT = (
    "Correct the dump, allow a share of such rows (pipeline.source.max_bad_fraction), "
    "or say what becomes of them (pipeline.source.faults)"
)


def nameless(source: Source) -> str:
    """What is wrong with a row that names no node, or no cut where records are cut."""
    return f"without a value of '{source.cut}' (source.cut)" if source.cut else "without a node"


@dataclass(frozen=True, slots=True, kw_only=True)
class _First:
    path: Path
    row: int
    reason: str
    column: str | None
    value: str | None


@dataclass(slots=True, kw_only=True)
class _Seen:
    """What bad rows have in common: by it the key is found that reads them.

    Attributes:
        reasons: of all of them.
        texts: what they are refused for, some of it; `values`: how many.
        empty: whether each lacks the value that it is refused for.
        first_row, last_row, paths: where they stand.
    """

    reasons: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)
    values: int = 0
    empty: bool = True
    first_row: int = 0
    last_row: int = 0
    paths: set[Path] = field(default_factory=set)

    def add(self, piece: RowBlock, reason: str, values: pl.Series, places: NDArray[np.int64]) -> None:
        """Rows of one piece with one fault."""
        bad = values.gather(places.tolist())
        self.reasons.add(reason)
        self.values += len(bad)
        self.empty &= bad.null_count() == len(bad)
        if len(self.texts) <= remedies.MOST_MARKERS:
            some = bad.drop_nulls().unique().head(remedies.MOST_MARKERS + 1)
            self.texts |= {text for place in range(len(some)) if (text := shown(some, place)) is not None}
        self.first_row = self.first_row or int(piece.row_R[places[0]])
        self.last_row = int(piece.row_R[places[-1]])
        self.paths.add(piece.path)


class BadRows:
    """Counts over all pieces of a dump; `begin` a piece, then name its faults one after the other."""

    def __init__(self, date: dt.date | None, source: Source) -> None:
        self.date, self._source = date, source
        self.read = self.bad = self.num_rejected = 0
        self.rejected_by: dict[str, int] = {}
        self.changed_by: dict[str, int] = {}
        self.rejected: NDArray[np.bool_] = np.zeros(0, dtype=bool)
        self._first: _First | None = None
        self._seen = _Seen()
        self._first_row = 0  # of the first file
        self._ragged: DumpError | None = None  # the first one
        self._changes: list[tuple[str, NDArray[np.bool_]]] = []

    def begin(self, piece: RowBlock) -> None:
        """The piece that the next faults are of."""
        self._settle()
        self._first_row = self._first_row or int(piece.row_R[0])
        self._piece = piece
        self.read += len(piece.row_R)
        self.rejected = np.zeros(len(piece.row_R), dtype=bool)
        if isinstance(piece, RaggedRowBlock):
            self._ragged, texts = self._ragged or piece.error, piece.texts
            self.reject(self._source.faults.other_fields, OTHER_FIELDS, None, texts, texts.is_not_null().to_numpy())

    def reject(
        self,
        policy: str,
        reason: str,
        column: str | None,
        values: pl.Series,
        bad: NDArray[np.bool_],
        whole: Callable[[], pl.Series] | None = None,
    ) -> None:
        """Leaves out the rows of `bad` that no earlier reason did; with policy `refuse` they count as bad rows.

        Args:
            values: as messages show them. whole: all that each row was judged by, where that is more.
        """
        if not bad.any():
            return
        fresh = bad & ~self.rejected
        count = int(fresh.sum())
        if not count:
            return
        self.rejected |= fresh
        self.num_rejected += count
        self.rejected_by[reason] = self.rejected_by.get(reason, 0) + count
        if policy == "refuse":
            self.bad += count
            self._seen.add(self._piece, reason, whole() if whole else values, np.flatnonzero(fresh))
            place = int(fresh.argmax())
            row = int(self._piece.row_R[place])
            first = self._first
            if first is None or (self._piece.path == first.path and row < first.row):
                self._first = _First(
                    path=self._piece.path, row=row, reason=reason, column=column, value=shown(values, place)
                )

    def change(self, reason: str, bad: NDArray[np.bool_]) -> None:
        """Counts values that are changed, of rows that stay: another fault of theirs may still be named."""
        if bad.any():
            self._changes.append((reason, bad))

    def _settle(self) -> None:
        for reason, bad in self._changes:
            if count := int((bad & ~self.rejected).sum()):
                self.changed_by[reason] = self.changed_by.get(reason, 0) + count
        self._changes = []

    def rows(self, max_bad_fraction: float, unknown: Strangers = NO_STRANGERS) -> RowCounts:
        """The account of all pieces.

        Args:
            unknown: nodes that rows were left out for.

        Raises:
            DumpError: more bad rows than allowed; names the first one. NoRowsError: no row is left.
        """
        self._settle()
        first = self._first
        accepted = self.read - self.num_rejected
        too_many = self.bad > max_bad_fraction * self.read
        alike = f"; {counted(unknown.count, 'unknown node')}{unknown.hint()}" if unknown.alike else ""
        if first and (too_many or not accepted):
            where = Where(
                file=str(first.path), date=self.date, column=first.column, row=first.row, value=first.value or ""
            )
            more = f" ({self.bad:,} rows are rejected of {self.read:,})" if self.bad > 1 else ""
            remedy = self._remedy(first)
            todo = f"{remedy}, or correct the dump" if remedy else CORRECT
            what, kind = f"the row is {first.reason}", DumpError if too_many else NoRowsError
            if self._ragged and first.reason == OTHER_FIELDS:
                what, where, todo = self._ragged.what, replace(where, value=None), self._ragged.todo
            raise kind(f"{what}{more}{alike}", where=where, todo=todo)
        if self.read and not accepted:
            why = "; ".join(f"{count:,} {reason}" for reason, count in self.rejected_by.items())
            mend = "Correct it, or the dump" if OUTSIDE in self.rejected_by else "Correct the dump, or remove it"
            what, todo = f"no row is left of {self.read:,}: {why}{alike}", mend
            raise NoRowsError(what, where=Where(file=str(self._piece.path), date=self.date), todo=todo)
        return RowCounts(self.read, accepted, dict(self.rejected_by), dict(self.changed_by))

    def _remedy(self, first: _First) -> str:
        """The key that reads the bad rows, where what they have in common shows it."""
        seen, units = self._seen, self.bad == 1 and first.row == self._first_row
        if self._source.cut and seen.reasons == {nameless(self._source)} and not units:
            return "Set pipeline.source.faults.missing_node: drop, which leaves out rows that no cut is named for"
        if seen.reasons == {NO_NUMBER} and (
            remedy := remedies.of_decimals(seen.texts, seen.values, first.path, self._source.csv)
            or remedies.of_thousands(seen.texts, seen.values, first.path, self._source.csv)
        ):
            return remedy
        if seen.reasons == {NO_NUMBER} and (not units or remedies.are_markers(seen.texts)):
            remedy = remedies.of_markers(seen.texts, seen.values, first.path, self._source.csv.missing)
            if remedy:
                return remedy
        if remedy := self._time_remedy():
            return remedy
        if len(seen.paths) > 1 or any(text[:1].isdigit() for text in seen.texts):
            return ""
        if units:
            return remedies.of_units(first.row, first.path)
        timeless = seen.reasons == {not_a_time(self._source)}
        together = timeless and seen.last_row - seen.first_row + 1 == self.bad < self.read
        if together and seen.last_row == int(self._piece.row_R[-1]) and first.path == self._piece.path:
            return remedies.of_footer(self.bad, first.path, empty=seen.empty)
        return ""

    def _time_remedy(self) -> str:
        texts = sorted(self._seen.texts)
        if self._seen.reasons == {not_a_time(self._source)}:
            return of_bad_times(texts, self._source, self.date)
        return of_other_dates(texts, self._source, self.date) if self._seen.reasons == {OTHER_DATE} else ""
