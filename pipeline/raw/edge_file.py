"""The file of edges between nodes: CSV or Parquet with the columns from, to and, if edges have one, weight."""

from __future__ import annotations

import csv
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from dateshard.shardstore.errors import UsageError, Where, refuse_special
from dateshard.shardstore.frozen.edges import EdgeList
from dateshard.shardstore.identity import nothing_to_collect
from dateshard.shardstore.layouts.category_codes import sorted_names

ENDS, WEIGHT = ("from", "to"), "weight"
PARQUET = (".parquet", ".pq")
LARGEST = float(np.finfo(np.float32).max)
HEADER_ROWS = 1


@dataclass(frozen=True, slots=True)
class EdgeRows:
    """The content of a file of edges. `rows`: {node: (column, row) that names it first}."""

    path: Path
    edges: EdgeList
    rows: dict[str, tuple[str, int]]

    def refuse_unknown(self, nodes: Collection[str]) -> None:
        """Refuses an edge of a node that the dataset does not have.

        Raises:
            UsageError: naming the node with its row.
        """
        known = set(nodes)
        for name, (column, row) in self.rows.items():
            if name not in known:
                what = "the edge is of a node that the dataset does not have"
                where = Where(file=str(self.path), column=column, row=row, value=name)
                raise UsageError(what, where=where, todo="Correct the file, or pipeline.nodes.edges")


def read_edges(file: str) -> EdgeRows:
    """Reads and checks a file of edges.

    Raises:
        UsageError: a missing file, column or name, a pair that comes twice, a weight that is no finite number; names
            the row.
    """
    path = Path(file)
    try:
        refuse_special(path)
        columns = _of_parquet(path) if path.suffix in PARQUET else _of_csv(path)
    except OSError as error:
        lacking = isinstance(error, FileNotFoundError | NotADirectoryError)
        what = "the file of edges does not exist" if lacking else f"the file of edges cannot be read: {error.strerror}"
        todo = "Correct pipeline.nodes.edges, or the folder you are in"
        raise UsageError(what, where=Where(file=str(path)), todo=todo) from None
    for column in ENDS:
        if column not in columns:
            from dateshard.pipeline.raw.formats import no_column

            what = no_column(column, list(columns))
            raise UsageError(what, where=Where(file=str(path)), todo="Name the columns from, to and weight")
    sources, targets = (list(map(_name, columns[column])) for column in ENDS)
    weights = columns.get(WEIGHT, [1.0] * len(sources))
    return _checked(path, sources, targets, weights)


def _checked(path: Path, sources: Sequence[str], targets: Sequence[str], weights: Sequence[Any]) -> EdgeRows:
    def refuse(what: str, row: int, column: str, value: Any) -> NoReturn:
        where = Where(file=str(path), column=column, row=row + HEADER_ROWS + 1, value=str(value))
        raise UsageError(what, where=where, todo="Correct the file")

    if not sources:
        raise UsageError("the file of edges has no edge", where=Where(file=str(path)), todo="Leave it out")
    pairs, rows, numbers = set[tuple[str, str]](), dict[str, tuple[str, int]](), list[float]()
    for row, (source, target, weight) in enumerate(zip(sources, targets, weights, strict=True)):
        for column, name in zip(ENDS, (source, target), strict=True):
            if not name:
                refuse("the edge names no node", row, column, name)
            rows.setdefault(name, (column, row + HEADER_ROWS + 1))
        if (source, target) in pairs:
            refuse(f"the edge from '{source}' to '{target}' comes twice", row, ENDS[1], target)
        pairs.add((source, target))
        if (number := _number(weight)) is None:
            refuse("the weight is not a finite number", row, WEIGHT, weight)
        numbers.append(number)
    nodes = sorted_names(rows)
    place = {name: number for number, name in enumerate(nodes)}
    index_2E = np.array([[place[name] for name in ends] for ends in (sources, targets)], dtype=np.int64)
    order_E = np.lexsort((index_2E[1], index_2E[0]))
    weights_E = np.array(numbers, dtype=np.float32)
    return EdgeRows(path, EdgeList(nodes, index_2E[:, order_E], weights_E[order_E]), rows)


def _number(weight: Any) -> float | None:
    try:
        number = float(weight)
    except (TypeError, ValueError):
        return None
    return number if abs(number) <= LARGEST else None


def _name(value: Any) -> str:
    """The name of a node; a whole number has one name, whatever its type."""
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _of_csv(path: Path) -> dict[str, list[Any]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file, nothing_to_collect():
            reader = csv.reader(file)
            header, rows = next(reader, []), list(filter(None, reader))
    except (UnicodeDecodeError, csv.Error) as error:
        what = "not UTF-8" if isinstance(error, UnicodeDecodeError) else f"not a readable CSV: {error}"
        raise UsageError(what, where=Where(file=str(path)), todo="Correct the file") from None
    return {name: [row[place] if place < len(row) else None for row in rows] for place, name in enumerate(header)}


def _of_parquet(path: Path) -> dict[str, list[Any]]:
    import pyarrow as pa  # takes 0.3 s, and few datasets have edges
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except pa.ArrowException as error:
        what = f"not readable as Parquet: {str(error).splitlines()[0]}"
        raise UsageError(what, where=Where(file=str(path)), todo="Correct the file") from None
    return {name: table[name].to_pylist() for name in (*ENDS, WEIGHT) if name in table.column_names}
