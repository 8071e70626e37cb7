"""Rows with faults: which, how many by reason, what becomes of them, and where the first refused one stands."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.formats import Piece
from pipeline.rows import Rows
from pipeline.strangers import NO_STRANGERS, Strangers
from pipeline.times import shown
from shardstore.errors import DumpError, NoRowsError, Where


@dataclass(frozen=True, slots=True)
class _First:
    path: Path
    row: int
    reason: str
    column: str
    value: str | None


class Faults:
    """Counts over all pieces of a dump; `begin` a piece, then name its faults one after the other."""

    def __init__(self, date: dt.date | None) -> None:
        self.date = date
        self.read = self.bad = self.num_rejected = 0
        self.rejected_by: dict[str, int] = {}
        self.changed_by: dict[str, int] = {}
        self.rejected: NDArray[np.bool_] = np.zeros(0, dtype=bool)
        self._first: _First | None = None
        self._changes: list[tuple[str, NDArray[np.bool_]]] = []

    def begin(self, piece: Piece) -> None:
        """The piece that the next faults are of."""
        self._settle()
        self._piece = piece
        self.read += len(piece.row_R)
        self.rejected = np.zeros(len(piece.row_R), dtype=bool)

    def reject(self, policy: str, reason: str, column: str, values: pl.Series, bad: NDArray[np.bool_]) -> None:
        """Leaves out the rows of `bad` that no earlier reason did; with policy `refuse` they count as bad rows."""
        fresh = bad & ~self.rejected
        count = int(fresh.sum())
        if not count:
            return
        self.rejected |= fresh
        self.num_rejected += count
        self.rejected_by[reason] = self.rejected_by.get(reason, 0) + count
        if policy == "refuse":
            self.bad += count
            place = int(fresh.argmax())
            row = int(self._piece.row_R[place])
            first = self._first
            if first is None or (self._piece.path == first.path and row < first.row):
                self._first = _First(self._piece.path, row, reason, column, shown(values, place))

    def change(self, reason: str, bad: NDArray[np.bool_]) -> None:
        """Counts values that are changed, of rows that stay: another fault of theirs may still be named."""
        if bad.any():
            self._changes.append((reason, bad))

    def _settle(self) -> None:
        for reason, bad in self._changes:
            if count := int((bad & ~self.rejected).sum()):
                self.changed_by[reason] = self.changed_by.get(reason, 0) + count
        self._changes = []

    def rows(self, max_bad_fraction: float, unknown: Strangers = NO_STRANGERS) -> Rows:
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
        alike = f"; {unknown.count:,} unknown nodes{unknown.hint()}" if unknown.alike else ""
        if first and (too_many or not accepted):
            where = Where(str(first.path), self.date, first.column, first.row, first.value or "")
            more = f" ({self.bad:,} rows are rejected of {self.read:,})" if self.bad > 1 else ""
            raise (DumpError if too_many else NoRowsError)(
                f"the row is {first.reason}{more}{alike}",
                where=where,
                todo="Correct the dump, allow a share of such rows (pipeline.source.max_bad_fraction), "
                "or say what becomes of them (pipeline.source.faults)",
            )
        if self.read and not accepted:
            why = "; ".join(f"{count:,} {reason}" for reason, count in self.rejected_by.items())
            what, todo = f"no row is left of {self.read:,}: {why}{alike}", "Correct the dump, or remove it"
            raise NoRowsError(what, where=Where(str(self._piece.path), self.date), todo=todo)
        return Rows(self.read, accepted, dict(self.rejected_by), dict(self.changed_by))
