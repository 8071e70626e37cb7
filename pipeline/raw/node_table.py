"""The node table."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np

from dateshard.pipeline.config import NodeTable
from dateshard.shardstore.errors import UsageError, Where, refuse_special
from dateshard.shardstore.frozen import Nodes

HEADER_ROWS = 1


def read_nodes(table: NodeTable) -> Nodes:
    """The node table, sorted by name.

    Raises:
        UsageError: missing file or column, an empty or repeated name, a position that is no number.
    """
    path = Path(table.table)
    try:
        refuse_special(path)
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        lacking = isinstance(error, FileNotFoundError | NotADirectoryError)
        what = "the node table does not exist" if lacking else f"the node table cannot be read: {error.strerror}"
        todo = "Correct pipeline.nodes.table, or the folder you are in"
        raise UsageError(what, where=Where(file=str(path)), todo=todo) from None
    except (UnicodeDecodeError, csv.Error) as error:
        what = "not UTF-8" if isinstance(error, UnicodeDecodeError) else f"not a readable CSV: {error}"
        raise UsageError(what, where=Where(file=str(path)), todo="Correct the table") from None
    header = list(rows[0]) if rows else []
    for column in (table.id, *table.position):
        if column not in header:
            from dateshard.pipeline.raw.formats import no_column

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
