"""The node table."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from dateshard.pipeline.source import NodeTable
from dateshard.shardstore.errors import UsageError, Where, refuse_special
from dateshard.shardstore.frozen import Nodes
from dateshard.shardstore.frozen.static_columns import StaticTable
from dateshard.shardstore.identity import nothing_to_collect
from dateshard.shardstore.scaling.transform import Floats

HEADER_ROWS = 1


@dataclass(frozen=True, slots=True)
class NodeRows:
    """The content of a node table, sorted by name."""

    nodes: Nodes
    static: StaticTable


def read_nodes(table: NodeTable) -> NodeRows:
    """Reads the node table.

    Raises:
        UsageError: missing file or column, an empty or repeated name, a position that is no number, a static column of
            numbers and texts.
    """
    assert table.table is not None
    assert table.id is not None
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
    columns = (table.id, *table.position, *table.static)
    for column in columns:
        if column not in header:
            from dateshard.pipeline.raw.formats import no_column

            raise UsageError(no_column(column, header), where=Where(file=str(path)), todo="Correct pipeline.nodes")
    places = {name: place for place, name in enumerate(first)}
    names, *texts = _columns(rows, [places[column] for column in columns])
    texts, static = texts[: len(table.position)], texts[len(table.position) :]
    axes = [_coordinates(column) for column in texts]
    known = [axis for axis in axes if axis is not None]
    if not all(names) or len(set(names)) < len(names) or len(known) < len(axes):
        raise _first_fault(zip(names, *texts, strict=True), path, columns[: 1 + len(texts)])
    order = sorted(range(len(names)), key=names.__getitem__)  # as by UTF-8 bytes: both go by code points
    positions_NP = np.stack(known, axis=1) if known else np.empty((len(names), 0))
    nodes = Nodes(tuple(map(names.__getitem__, order)), table.position, positions_NP[order])
    numbers, words = dict[str, list[float | None]](), dict[str, list[str | None]]()
    for column, cells in zip(table.static, static, strict=True):
        filled = [None if not cell or not cell.strip() or cell.strip().lower() == "nan" else cell for cell in cells]
        if column in table.categorical or (values := _numbers(filled, column, path)) is None:
            words[column] = [filled[row] for row in order]
        else:
            numbers[column] = [values[row] for row in order]
    return NodeRows(nodes, StaticTable(nodes.names, numbers, words))


def _numbers(cells: Sequence[str | None], column: str, path: Path) -> list[float | None] | None:
    """The numbers of a static column; None for one of texts alone.

    Raises:
        UsageError: numbers and texts in one column, at the first cell that is not like the first value.
    """
    values = [None if cell is None or (known := _coordinates([cell])) is None else float(known[0]) for cell in cells]
    fits = [value is not None for cell, value in zip(cells, values, strict=True) if cell is not None]
    if all(fits):
        return values
    if not any(fits):
        return None
    number, cell = next((k, cell) for k, cell in enumerate(cells) if cell is not None and values[k] is None)
    where = Where(file=str(path), column=column, row=number + HEADER_ROWS + 1, value=cell)
    todo = f"Correct the table, or name it in pipeline.nodes.categorical: [{column}]"
    raise UsageError("a number is expected, as in other rows of the column", where=where, todo=todo)


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
