"""Committed shards as Parquet, CSV or npy files, one a date, for people and programs that know no shards.

Values are in raw units (scale and transform undone, float64) or as stored (scaled, float32). A cell that was not
observed is null (NaN in npy), whatever fill put into the shard. What `clip` cut stays cut.

Parquet and CSV have a row a step and node: time_utc, time_local, node, then the features; a categorical feature is
its text. Rows of a table without times have `file` and `row` in place of times: where each stands in its dump (as
`dump_row` beside a column `row` of the table's own).

npy is the array [T, N, F] itself, with <date>.time.npy (int64 ns) and axes.json beside it.

Memory: one date's values and mask, and one block of BLOCK_CELLS cells. Files appear whole or not at all.

Legend: T steps of the date, N nodes, F features, S steps of a block.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
from numpy.lib import format as npy
from numpy.typing import NDArray

from dateshard.preparing.dump_rows import DumpRows, KnownRows, has_no_times
from dateshard.preparing.raw_units import raw_units
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.disk.durable import appearing
from dateshard.shardstore.errors import UsageError, Where
from dateshard.shardstore.layouts.feature import categorical
from dateshard.shardstore.times.calendar import UNDATED_TEXT, Day
from dateshard.shardstore.times.instants import spell
from dateshard.terminal.indented import indented

BLOCK_CELLS = 1 << 18  # steps x nodes that are one row group
TIMES = ("time_utc", "time_local", "node")
Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """One date's file; `missing` counts the cells that are null, `note` says why rows of the dump are not known."""

    date: dt.date
    file: Path
    num_bytes: int
    steps: int
    missing: int
    note: str | None = None


def targets(dataset: Dataset, dates: Sequence[dt.date], to: str, folder: Path) -> list[Path]:
    """All files that an export of these dates writes."""
    names = [_name(dataset, date) for date in dates]
    paths = [folder / f"{name}.{to}" for name in names]
    if to != "npy":
        return paths
    beside = "row" if has_no_times(dataset) else "time"
    return [*paths, *(folder / f"{name}.{beside}.npy" for name in names), folder / "axes.json"]


def _name(dataset: Dataset, date: dt.date) -> str:
    return UNDATED_TEXT if dataset.manifest.undated else str(date)


def export(
    dataset: Dataset, dates: Sequence[dt.date], to: str, folder: Path, *, scaled: bool, force: bool
) -> Iterator[Exported]:
    """Writes a file a date, and yields each once it is there.

    Args:
        to: parquet, csv or npy.
        force: replace files that exist.

    Raises:
        UsageError: a file exists, or a feature has the name of a column that is made here. Nothing was written.
        NotThereError: a date that is not in the generation. Nothing was written.
        DamagedError: a shard does not verify; files of earlier dates stay.
    """
    for date in dates:
        dataset.has_mask(date)
    _refuse(dataset, dates, to, folder, force=force)
    folder.mkdir(parents=True, exist_ok=True)
    if to == "npy":
        _write_axes(dataset, folder, scaled=scaled, force=force)
    known = KnownRows(dataset) if has_no_times(dataset) else None
    for date in dates:
        day, path = dataset.manifest.day(date), folder / f"{_name(dataset, date)}.{to}"
        values, observed = dataset.read_day(day)
        rows = known.of(date) if known else None
        if to == "npy":
            numbers = values if scaled else raw_units(dataset, values)
            numbers[~observed] = np.nan
            beside = {} if known else {"time": dataset.times(day)}
            beside |= {"row": rows.row_T} if rows else {}
            files = [(folder / f"{_name(dataset, date)}.{name}.npy", array) for name, array in beside.items()]
            for file, array in (*files, (path, numbers)):
                with _new_file(file, force=force) as temporary:
                    _write_npy(temporary, array)
        else:
            index = _places(dataset, rows, len(values)) if known else _times(dataset, day, as_csv=to == "csv")
            with _new_file(path, force=force) as temporary:
                _write_table(dataset, day, values, observed, temporary, index, as_csv=to == "csv", scaled=scaled)
        yield Exported(
            date=date,
            file=path,
            num_bytes=path.stat().st_size,
            steps=len(values),
            missing=int((~observed).sum()),
            note=known.notes.pop() if known and known.notes else None,
        )


def _refuse(dataset: Dataset, dates: Sequence[dt.date], to: str, folder: Path, *, force: bool) -> None:
    own = (*(() if has_no_times(dataset) else TIMES[:2]), TIMES[2], *_cut(dataset))
    taken = [name for name in dataset.feature_names if name in own]
    if taken and to != "npy":
        raise UsageError(f"a feature has the name '{taken[0]}', which is a column here", todo="Export with --to npy")
    there = [path for path in targets(dataset, dates, to, folder) if path.exists()]
    if there and not force:
        raise UsageError(
            f"{len(there)} of the files exist",
            where=Where(file=str(there[0])),
            todo="Name another --out, or add --force",
        )


def _write_table(
    dataset: Dataset,
    day: Day,
    values_TNF: NDArray[np.float32],
    observed_TNF: NDArray[np.bool_],
    path: Path,
    index: Mapping[str, Any],
    *,
    as_csv: bool,
    scaled: bool,
) -> None:
    """Writes a date's rows, a block at a time. `index`: a column of each step, before the nodes."""
    codes = {} if scaled else categorical(dataset.features)
    schema = _schema(dataset, codes, index, as_csv=as_csv, scaled=scaled)
    names = pa.array(dataset.nodes.names)
    of_cuts = _names_of_cuts(dataset, day, len(names))
    rows = max(1, BLOCK_CELLS // max(1, len(names)))
    make = pa_csv.CSVWriter if as_csv else partial(pa_parquet.ParquetWriter, compression="zstd")
    with open(path, "wb") as file, make(file, schema) as writer:  # pyarrow opens no name that is not UTF-8
        for first in range(0, day.num_steps, rows):
            block = slice(first, first + rows)
            numbers = values_TNF[block] if scaled else raw_units(dataset, values_TNF[block])
            columns = _index(block, day, len(names), names, [*index.values()])
            columns += [cuts.slice(first * len(names), len(columns[0])) for cuts in of_cuts]
            for place, feature in enumerate(dataset.features):
                seen = observed_TNF[block, :, place].ravel()
                words = dataset.vocabularies.names[feature.name] if place in codes else None
                columns.append(_column(numbers[..., place].ravel(), seen, words))
            writer.write_table(pa.table(columns, schema=schema))


def _schema(dataset: Dataset, codes: Mapping[int, str], index: Mapping[str, Any], *, as_csv: bool, scaled: bool) -> Any:
    number = pa.float32() if scaled else pa.float64()
    fields = [*((name, column.type) for name, column in index.items()), ("node", pa.string())]
    fields += [(name, pa.string()) for name in _cut(dataset)]
    fields += [(f.name, pa.string() if k in codes else number) for k, f in enumerate(dataset.features)]
    facts = {"dateshard.dataset": dataset.manifest.dataset, "dateshard.units": "scaled" if scaled else "raw"}
    return pa.schema(fields, metadata=None if as_csv else facts)


def _places(dataset: Dataset, rows: DumpRows | None, count: int) -> dict[str, Any]:
    """The file and the row of each record of a date as Arrow arrays, null where they are not known."""
    file, row = pa.nulls(count, pa.string()), pa.nulls(count, pa.int64())
    if rows is not None:
        file, row = pa.array(rows.files, pa.string()).take(pa.array(rows.file_T)), pa.array(rows.row_T, pa.int64())
    own = (*dataset.feature_names, *_cut(dataset))
    return {f"dump_{name}" if name in own else name: column for name, column in (("file", file), ("row", row))}


def _times(dataset: Dataset, day: Day, *, as_csv: bool) -> dict[str, Any]:
    """The time of each step twice, as Arrow arrays: in UTC and in the dataset's zone (in CSV with its offset)."""
    at = dataset.times(day)
    names = ("UTC", dataset.manifest.timezone)
    if not as_csv:
        return {key: pa.array(at, pa.timestamp("ns", tz=name)) for key, name in zip(TIMES, names, strict=False)}
    utc = [spell(instant, "UTC").replace("+00:00", "Z") for instant in at.tolist()]
    local = [spell(instant, names[1]) for instant in at.tolist()]
    return {"time_utc": pa.array(utc), "time_local": pa.array(local)}


def _cut(dataset: Dataset) -> list[str]:
    """The column of the cuts, where a column of the dumps names them."""
    return [dataset.manifest.cut] if dataset.manifest.cut and not dataset.manifest.by_row else []


def _names_of_cuts(dataset: Dataset, day: Day, num_nodes: int) -> list[Any]:
    """That column, of all rows of a date."""
    if not _cut(dataset):
        return []
    cuts = dataset.cuts(day)
    of_row = np.repeat(np.arange(len(cuts.names)), np.diff([*cuts.starts, day.num_steps]) * num_nodes)
    return [pa.array(cuts.names, pa.string()).take(pa.array(of_row))]


def _index(block: slice, day: Day, num_nodes: int, names: Any, times: Sequence[Any]) -> list[Any]:
    """The columns of times and nodes: a step's nodes stand together."""
    steps = np.arange(block.start, min(block.stop, day.num_steps))
    step_R, node_R = np.repeat(steps, num_nodes), np.tile(np.arange(num_nodes), len(steps))
    return [*(column.take(pa.array(step_R)) for column in times), names.take(pa.array(node_R))]


def _column(numbers_R: Array, seen_R: NDArray[np.bool_], words: Sequence[str] | None) -> Any:
    """A feature's column, null where nothing was observed; of a category that training never saw nothing is known."""
    if words is None:
        return pa.array(numbers_R, mask=~seen_R)
    code_R = numbers_R.astype(np.int64)
    return pa.array(words, pa.string()).take(pa.array(np.maximum(code_R - 1, 0), mask=~seen_R | (code_R == 0)))


def _write_npy(path: Path, array: Array) -> None:
    """Writes an array as np.save does, which says nothing of why a disk takes no more."""
    plain = np.ascontiguousarray(array)
    with open(path, "wb") as file:
        npy.write_array_header_1_0(file, npy.header_data_from_array_1_0(plain))
        file.write(plain.data)


def _write_axes(dataset: Dataset, folder: Path, *, scaled: bool, force: bool) -> None:
    axes = {
        "axes": ["step", "node", "feature"],
        "nodes": list(dataset.nodes.names),
        "features": dataset.feature_names,
        "vocabularies": dataset.vocabularies.describe(),
        "units": "scaled" if scaled else "raw",
        "timezone": dataset.manifest.timezone,
        "missing": "NaN",
    }
    with _new_file(folder / "axes.json", force=force) as temporary:
        temporary.write_text(indented(axes, ascii_only=False), encoding="utf-8")


@contextmanager
def _new_file(path: Path, *, force: bool) -> Iterator[Path]:
    """Yields a name for a new file, which becomes `path` when all went well.

    Raises:
        UsageError: `path` exists, and is not to be replaced.
    """
    try:
        with appearing(path, over=force) as temporary:
            yield temporary
    except FileExistsError:
        raise UsageError("the file exists", where=Where(file=str(path)), todo="Add --force") from None
