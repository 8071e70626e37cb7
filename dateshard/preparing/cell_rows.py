"""Which rows of a dump fell into cells of a date's shard, which keeps none of that: the dump is read again.

Legend: R records.
"""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from dateshard.pipeline.memory_shares import FREE_SHARE
from dateshard.preparing.dump_rows import dump_rows, dumped
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.layouts.records import Records

MOST_ROWS = 20  # of a cell


@dataclass(frozen=True, slots=True)
class Cell:
    """A place in a date's shard."""

    step: int
    node: int
    feature: int


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row of a dump: its file, its number there as an editor shows it, and what it has in the feature's column."""

    file: str
    row: int
    value: float | str | None


@dataclass(frozen=True, slots=True)
class CellRows:
    """The rows that fell into a cell, `count` of them; at most MOST_ROWS are kept, those with the oddest values first."""

    rows: tuple[RawRow, ...] = ()
    count: int = 0


def rows_of_cells(dataset: Dataset, date: dt.date, cells: Sequence[Cell]) -> list[CellRows]:
    """The rows of a date's dump that fell into some cells, in the order of the cells.

    Memory: as preparing the date.

    Raises:
        DateshardError: the dump is gone or has changed, or would be read in another way than then.
    """
    if dataset.manifest.layout != "grid":
        return _records(dataset, date, cells)
    from dateshard.pipeline.raw.decode import decode

    source = dumped(dataset, date)
    budget = int(FREE_SHARE * psutil.virtual_memory().available)
    with tempfile.TemporaryDirectory(prefix="dateshard-") as folder:
        given = (source.dump.files, date, source.config, None, budget, Path(folder) / "records")
        decoded = decode(*given, keep_places=True)
        names = {name: place for place, name in enumerate(decoded.nodes)}
        picked = [list[tuple[float, RawRow]]() for _ in cells]
        day = dataset.manifest.day(date)
        for _, records in decoded.stretches():
            step_R = (records.time_R - day.start) // day.step
            for rows, cell in zip(picked, cells, strict=True):
                node = names.get(dataset.nodes.names[cell.node], -1)
                here = np.flatnonzero((step_R == cell.step) & (records.node_R == node))
                column = records.values[cell.feature]
                kept = here if column is None else here[~np.isnan(column[here])]
                files, file_R, row_R = decoded.places.of_all(_places(records)[kept])
                oddness_R = _oddness(records, node, cell.feature, kept)
                words = decoded.categories.get(cell.feature)
                for place, file, row, oddness in zip(kept, file_R, row_R, oddness_R, strict=True):
                    number = None if column is None else float(column[place])
                    value = number if words is None or number is None else words[int(number)]
                    rows.append((float(oddness), RawRow(files[file], int(row), value)))
    return [_kept(rows) for rows in picked]


def _records(dataset: Dataset, date: dt.date, cells: Iterable[Cell]) -> list[CellRows]:
    """The row of each cell where every record is a step."""
    known = dump_rows(dataset, date)
    return [
        CellRows((RawRow(known.files[known.file_T[cell.step]], int(known.row_T[cell.step]), None),), 1)
        for cell in cells
    ]


def _places(records: Records) -> np.ndarray:
    assert records.place_R is not None, "it was asked for"
    return records.place_R


def _oddness(records: Records, node: int, feature: int, chosen: np.ndarray) -> np.ndarray:
    """How far the values of some records lie from the median of their node."""
    column = records.values[feature]
    if column is None or not len(chosen):
        return np.zeros(len(chosen))
    odd: np.ndarray = np.abs(column[chosen] - np.nanmedian(column[records.node_R == node]))
    return odd


def _kept(rows: list[tuple[float, RawRow]]) -> CellRows:
    ordered = sorted(rows, key=lambda pair: (-pair[0], pair[1].file, pair[1].row))
    return CellRows(tuple(row for _, row in ordered[:MOST_ROWS]), len(rows))
