"""Nodes of a dump: the node table, and the codes of names in a column."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.config import NodeTable
from pipeline.formats import no_column
from shardstore.errors import UsageError, Where
from shardstore.frozen import Nodes

HEADER_ROWS = 1


def read_nodes(table: NodeTable) -> Nodes:
    """The node table, sorted by name.

    Raises:
        UsageError: missing file or column, an empty or repeated name, a position that is no number.
    """
    path = Path(table.table)
    if not path.is_file():
        raise UsageError(
            "the node table does not exist", where=Where(file=str(path)), todo="Correct pipeline.nodes.table"
        )
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        what = "not UTF-8" if isinstance(error, UnicodeDecodeError) else f"not a readable CSV: {error}"
        raise UsageError(what, where=Where(file=str(path)), todo="Correct the table") from None
    header = list(rows[0]) if rows else []
    for column in (table.id, *table.position):
        if column not in header:
            raise UsageError(no_column(column, header), where=Where(file=str(path)), todo="Correct pipeline.nodes")
    named: dict[str, list[float]] = {}
    for number, row in enumerate(rows, start=HEADER_ROWS + 1):
        name = row[table.id]
        if not name or name in named:
            what = "the node's name is repeated" if name else "the node has no name"
            raise UsageError(
                what, where=Where(str(path), column=table.id, row=number, value=name), todo="Correct the table"
            )
        named[name] = [_coordinate(row[column], path, column, number) for column in table.position]
    names = sorted(named, key=str.encode)
    positions = np.asarray([named[name] for name in names], dtype=float).reshape(len(names), len(table.position))
    return Nodes(tuple(names), table.position, positions)


def _coordinate(text: str | None, path: Path, column: str, row: int) -> float:
    try:
        value = float(text) if text else float("nan")
        if math.isinf(value):
            raise ValueError
        return value
    except ValueError:
        where = Where(str(path), column=column, row=row, value=text)
        raise UsageError("the position is not a number", where=where, todo="Correct the table") from None


class Codes:
    """Names -> codes over the pieces of a dump: places in the node table, or in the order of first appearance."""

    def __init__(self, table: tuple[str, ...] | None) -> None:
        self.closed = table is not None
        self.names: list[str] = list(table or ())
        self._known = set(self.names)
        self._type = pl.Enum(self.names)

    def of(self, column: pl.Series) -> NDArray[np.int32]:
        """[R] codes, -1 for a name that the table lacks and for none."""
        if not self.closed:
            fresh = [name for name in column.unique(maintain_order=True).to_list() if name not in self._known]
            if fresh := [name for name in fresh if name is not None]:
                self.names += fresh
                self._known.update(fresh)
                self._type = pl.Enum(self.names)
        codes = column.cast(self._type, strict=False).to_physical()
        return codes.cast(pl.Int32).fill_null(-1).to_numpy()

    def final(self, used: NDArray[np.bool_]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """(node list, place of each code in it): the table's, or the used names sorted by bytes. Unused: -1."""
        if self.closed:
            return tuple(self.names), np.arange(len(self.names), dtype=np.int64)
        chosen = sorted((name for name, seen in zip(self.names, used, strict=True) if seen), key=str.encode)
        place = {name: index for index, name in enumerate(chosen)}
        return tuple(chosen), np.asarray([place.get(name, -1) for name in self.names], dtype=np.int64)
