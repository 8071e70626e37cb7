"""The node table."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from dateshard.pipeline.source import NodeTable
from dateshard.shardstore.errors import UsageError, Where, refuse_special
from dateshard.shardstore.frozen import Nodes
from dateshard.shardstore.identity import nothing_to_collect
from dateshard.shardstore.scaling.transform import Floats

HEADER_ROWS = 1


def read_nodes(table: NodeTable) -> Nodes:
    """The node table, sorted by name.

    Raises:
        UsageError: missing file or column, an empty or repeated name, a position that is no number.
    """
    path = Path(table.table)
    try:
        refuse_special(path)
        with open(path, newline="", encoding="utf-8-sig") as file, nothing_to_collect():
            reader = csv.reader(file)
            first, rows = next(reader, []), list(filter(None, reader))
    except OSError as error:
        lacking = isinstance(error, FileNotFoundError | NotADirectoryError)
        what = "the node table does not exist" if lacking else f"the node table cannot be read: {error.strerror}"
        todo = "Correct pipeline.nodes.table, or the folder you are in"
        raise UsageError(what, where=Where(file=str(path)), todo=todo) from None
    except (UnicodeDecodeError, csv.Error) as error:
        what = "not UTF-8" if isinstance(error, UnicodeDecodeError) else f"not a readable CSV: {error}"
        raise UsageError(what, where=Where(file=str(path)), todo="Correct the table") from None
    header = list(dict.fromkeys(first)) if rows else []
    columns = (table.id, *table.position)
    for column in columns:
        if column not in header:
            from dateshard.pipeline.raw.formats import no_column

            raise UsageError(no_column(column, header), where=Where(file=str(path)), todo="Correct pipeline.nodes")
    places = {name: place for place, name in enumerate(first)}
    names, *texts = _columns(rows, [places[column] for column in columns])
    axes = [_coordinates(column) for column in texts]
    known = [axis for axis in axes if axis is not None]
    if not all(names) or len(set(names)) < len(names) or len(known) < len(axes):
        raise _first_fault(zip(names, *texts, strict=True), path, columns)
    order = sorted(range(len(names)), key=names.__getitem__)  # as by UTF-8 bytes: both go by code points
    positions_NP = np.stack(known, axis=1) if known else np.empty((len(names), 0))
    return Nodes(tuple(map(names.__getitem__, order)), table.position, positions_NP[order])


def _columns(rows: Sequence[Sequence[Any]], places: list[int]) -> list[list[Any]]:
    """The texts at some places of all rows, None where a row ends before it."""
    if min(map(len, rows)) <= max(places):
        rows = [[*row, *[None] * (max(places) + 1 - len(row))] for row in rows]
    return [list(map(itemgetter(place), rows)) for place in places]


def _coordinates(texts: Sequence[Any]) -> Floats | None:
    """An empty or lacking one is NaN; None where one is no finite number."""
    if not all(texts):
        filled = np.asarray(texts, dtype=object)
        filled[~filled.astype(bool)] = "nan"
        texts = filled.tolist()
    try:
        values = np.asarray(list(map(float, texts)), dtype=np.float64)
    except ValueError:
        return None
    return None if np.isinf(values).any() else values


def _first_fault(rows: Iterable[tuple[Any, ...]], path: Path, columns: tuple[str, ...]) -> UsageError:
    """What is wrong with a faulty table, at the first row that has a fault."""
    named = set[str]()
    for number, (name, *position) in enumerate(rows, start=HEADER_ROWS + 1):
        if not name or name in named:
            what = "the node's name is repeated" if name else "the node has no name"
            where = Where(file=str(path), column=columns[0], row=number, value=name)
            return UsageError(what, where=where, todo="Correct the table")
        named.add(name)
        for column, text in zip(columns[1:], position, strict=True):
            if _coordinates([text]) is None:
                where = Where(file=str(path), column=column, row=number, value=text)
                return UsageError("the position is not a number", where=where, todo="Correct the table")
    raise AssertionError("a table without a fault")
