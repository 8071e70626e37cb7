"""One date's dump -> typed columns; rejected rows are counted by reason and located.

polars decodes, with declared types only: without a schema a single `nan` turns a column into text and 2^63 into
another type. Structure that polars accepts in silence (a file cut in its last row, rows with too few fields, repeated
column names) is checked here.
"""

from __future__ import annotations

import csv
import datetime as dt
import difflib
import glob
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.config import NodeTable, Pipeline
from shardstore.calendar import Day, day_of, parse_step
from shardstore.errors import DumpError, UsageError, Where
from shardstore.frozen import Nodes
from shardstore.layouts.grid import Records

HEADER_ROWS = 1  # row numbers in messages count the header, as an editor does
LIKE_A_TIME = r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d"


@dataclass(frozen=True, slots=True)
class Rows:
    """What became of a dump's rows: read = accepted + the sum of rejected."""

    read: int
    accepted: int
    rejected: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decoded:
    """One date's records with the date's own node list (sorted by bytes)."""

    day: Day
    nodes: tuple[str, ...]
    records: Records
    row_R: NDArray[np.int64]  # each record's row number in the dump, for messages
    rows: Rows


def find_dumps(pattern: str) -> dict[dt.date, Path]:
    """Dates and files that match a path with `{date}` or `{date:%Y%m%d}` in it.

    Raises:
        UsageError: no placeholder in the path, or two files of one date.
    """
    match = re.search(r"\{date(?::([^}]+))?\}", pattern)
    if not match:
        raise UsageError(
            f"pipeline.source.path '{pattern}' has no {{date}} in it", todo="Write it as data/raw/NAME/{date}.csv"
        )
    style = match[1] or "%Y-%m-%d"
    before, after = pattern[: match.start()], pattern[match.end() :]
    found: dict[dt.date, Path] = {}
    for name in sorted(glob.glob(glob.escape(before) + "*" + glob.escape(after))):
        try:
            date = dt.datetime.strptime(name[len(before) : len(name) - len(after)], style).date()
        except ValueError:
            continue
        if date in found:
            raise UsageError(f"two dumps of {date}: {found[date]} and {name}", todo="Keep one of them")
        found[date] = Path(name)
    return found


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
            raise UsageError(_no_column(column, header), where=Where(file=str(path)), todo="Correct pipeline.nodes")
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


def _no_column(column: str, header: Sequence[str]) -> str:
    near = difflib.get_close_matches(column, header, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else f"; it has {', '.join(header)}" if header else ""
    return f"there is no column '{column}'{hint}"


def decode(path: Path, date: dt.date, config: Pipeline, table_nodes: tuple[str, ...] | None) -> Decoded:
    """Reads one date's CSV.

    Memory: the needed columns of the file, decoded. Rejected rows are dropped and counted up to
    `source.max_bad_fraction` of all rows.

    Raises:
        DumpError: nothing usable, wrong structure, or too many rejected rows; names the first one.
    """
    day = day_of(date, config.source.timezone, parse_step(config.step))
    by_kind: dict[bool, set[str]] = {True: set(), False: set()}
    for name, feature in config.features.items():
        if (column := config.column_of(name)) is not None:
            by_kind[feature.categorical].add(column)
    names = by_kind[False]
    frame, numbers = _read_csv(path, date, config, sorted(names), sorted(by_kind[True] - names))
    faults = _Faults(path, date, len(frame))
    for column in numbers:
        texts = frame[column]
        frame = frame.with_columns(texts.cast(pl.Float64, strict=False))
        faults.reject("not a number", column, texts, texts.is_not_null() & frame[column].is_null())
    for column in sorted(names):
        faults.reject("not finite", column, frame[column].cast(pl.String), frame[column].is_infinite())
    times = parse_times(frame[config.source.time], config.source.timezone)
    texts = frame[config.source.time]
    faults.reject("not a time (ISO 8601, unambiguous in its zone)", config.source.time, texts, times.is_null())
    instants = times.fill_null(0).to_numpy()
    outside = (instants < day.start) | (instants >= day.end)
    faults.reject("of another date", config.source.time, texts, pl.Series(outside) & times.is_not_null())
    nodes, codes = _node_codes(frame[config.source.node], table_nodes, faults.rejected)
    reason = "without a node" if table_nodes is None else "of an unknown node"
    faults.reject(reason, config.source.node, frame[config.source.node], pl.Series(codes < 0))
    faults.refuse_too_many(config.source.max_bad_fraction)
    return _accepted(frame, config, day, nodes, instants, codes, faults)


def _accepted(
    frame: pl.DataFrame,
    config: Pipeline,
    day: Day,
    nodes: tuple[str, ...],
    instants: NDArray[np.int64],
    codes: NDArray[np.int64],
    faults: _Faults,
) -> Decoded:
    keep = ~faults.rejected
    columns: list[NDArray[np.float64] | None] = []
    categories: dict[int, tuple[str, ...]] = {}
    for index, (name, feature) in enumerate(config.features.items()):
        column = config.column_of(name)
        if column is not None and feature.categorical:
            categories[index], places = _node_codes(frame[column], None, faults.rejected)
            columns.append(np.where(places < 0, np.nan, places.astype(np.float64))[keep])
        else:
            columns.append(None if column is None else frame[column].fill_null(float("nan")).to_numpy()[keep])
    records = Records(instants[keep].astype(np.int64), codes[keep], tuple(columns), categories)
    row_R = np.flatnonzero(keep) + HEADER_ROWS + 1
    return Decoded(day, nodes, records, row_R, Rows(len(keep), int(keep.sum()), dict(faults.counts)))


class _Faults:
    """Rejected rows of one dump: which, how many by reason, and where the first one stands."""

    def __init__(self, path: Path, date: dt.date, num_rows: int) -> None:
        self.path, self.date = path, date
        self.rejected: NDArray[np.bool_] = np.zeros(num_rows, dtype=bool)
        self.counts: dict[str, int] = {}
        self.first: tuple[int, str, str, str | None] | None = None

    def reject(self, reason: str, column: str, texts: pl.Series, bad: pl.Series) -> None:
        """Rejects the rows of `bad` that no earlier reason rejected."""
        fresh = bad.fill_null(False).to_numpy() & ~self.rejected
        if not fresh.any():
            return
        row = int(fresh.argmax())
        if self.first is None or row < self.first[0]:
            self.first = (row, reason, column, texts[row])
        self.counts[reason] = self.counts.get(reason, 0) + int(fresh.sum())
        self.rejected |= fresh

    def refuse_too_many(self, max_bad_fraction: float) -> None:
        """Raises DumpError when more rows are rejected than allowed, naming the first."""
        bad, total = int(self.rejected.sum()), len(self.rejected)
        if self.first is None or (bad <= max_bad_fraction * total and bad < total):
            return
        row, reason, column, value = self.first
        where = Where(str(self.path), self.date, column, row + HEADER_ROWS + 1, value or "")
        rows = "1 row is" if bad == 1 else f"{bad:,} rows are"
        raise DumpError(
            f"the row is {reason}" + (f" ({rows} rejected of {total:,})" if bad > 1 else ""),
            where=where,
            todo="Correct the dump, or allow a share of rejected rows with pipeline.source.max_bad_fraction",
        )


def _node_codes(
    column: pl.Series, table_nodes: tuple[str, ...] | None, rejected: NDArray[np.bool_]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The date's node list (the table's, or that of its accepted rows) and each record's position in it, -1 for none."""
    if table_nodes is None:
        named = column.filter(pl.Series(~rejected)).drop_nulls().unique()
        table_nodes = tuple(sorted(named.to_list(), key=str.encode))
    codes = column.cast(pl.Enum(list(table_nodes)), strict=False).to_physical().cast(pl.Int64).fill_null(-1)
    return table_nodes, codes.to_numpy()


def parse_times(texts: pl.Series, zone_name: str) -> pl.Series:
    """ISO 8601 texts -> int64 nanoseconds since 1970 UTC, null where a text is no time.

    The first value that looks like a time decides whether all carry an offset. A local time that a zone skips or repeats is null.
    """
    first = texts.filter(texts.str.contains(LIKE_A_TIME)).head(1).to_list()
    if not first:
        return pl.Series(texts.name, [None] * len(texts), dtype=pl.Int64)
    sample = str(first[0])
    between = "T" if "T" in sample else " "
    seconds = "" if re.search(r"[T ]\d\d:\d\d($|[Z+-])", sample) else ":%S%.f"
    clock = f"%Y-%m-%d{between}%H:%M{seconds}"
    if re.search(r"(Z|[+-]\d\d:?\d\d)$", sample):
        parsed = texts.str.to_datetime(clock + "%#z", strict=False, time_unit="ns", time_zone="UTC")
    else:
        local = texts.str.to_datetime(clock, strict=False, time_unit="ns")
        parsed = local.dt.replace_time_zone(zone_name, ambiguous="null", non_existent="null")
        parsed = parsed.dt.convert_time_zone("UTC")
    return parsed.dt.epoch("ns")


def _read_csv(
    path: Path, date: dt.date, config: Pipeline, numeric: list[str], texts: list[str]
) -> tuple[pl.DataFrame, list[str]]:
    """The needed columns, and those numeric ones that had to be read as text because a value is no number."""
    header = _check_structure(path, date)
    needed = [config.source.time, config.source.node, *numeric, *texts]
    for column in needed:
        if column not in header:
            todo = "Correct the dump, or the column's name in the configuration"
            raise DumpError(_no_column(column, header), where=Where(str(path), date, column, row=1), todo=todo)
    try:
        frame = _decode(path, needed, dict.fromkeys(numeric, pl.Float64))
        as_text: list[str] = []
    except pl.exceptions.PolarsError as error:
        _locate(path, date, header, error)
        try:
            frame, as_text = _decode(path, needed, {}), numeric
        except pl.exceptions.PolarsError as again:
            raise DumpError(
                f"not a readable CSV: {str(again).splitlines()[0]}",
                where=Where(str(path), date),
                todo="Correct the dump",
            ) from None
    if frame.is_empty():
        raise DumpError("a header but no row", where=Where(str(path), date), todo="Write the dump again, or remove it")
    _check_field_count(path, date, header, len(frame))
    return frame, as_text


def _decode(path: Path, columns: Sequence[str], types: dict[str, type[pl.DataType]]) -> pl.DataFrame:
    schema = {column: types.get(column, pl.String) for column in columns}
    return pl.read_csv(path, columns=list(columns), schema_overrides=schema, infer_schema=False, null_values="")


def _check_structure(path: Path, date: dt.date) -> list[str]:
    """The header of a file that has one, ends with a newline, is UTF-8 and repeats no column."""
    where = Where(str(path), date)
    try:
        with open(path, "rb") as file:
            head = file.readline(1 << 20)
            file.seek(0, 2)
            size = file.tell()
            file.seek(max(0, size - 1))
            last = file.read(1)
    except OSError as error:
        raise DumpError(f"cannot be read: {error.strerror}", where=where, todo="Write the dump again") from None
    if size == 0:
        raise DumpError("the file is empty", where=where, todo="Write the dump again, or remove it")
    if last != b"\n":
        raise DumpError(
            "the file does not end with a newline: it may have been cut", where=where, todo="Write the dump again"
        )
    try:
        header = next(csv.reader([head.decode("utf-8-sig")]), [])
    except UnicodeDecodeError:
        raise DumpError("the header is not UTF-8", where=where, todo="Write the dump as UTF-8") from None
    if repeated := sorted({column for column in header if header.count(column) > 1}):
        raise DumpError(
            "the column is repeated", where=Where(str(path), date, repeated[0], row=1), todo="Correct the dump"
        )
    return header


def _check_field_count(path: Path, date: dt.date, header: list[str], num_rows: int) -> None:
    """Rows with too few fields pass polars in silence: the separators are counted; a file with quotes is walked."""
    commas, quotes = _count(path, b","), _count(path, b'"')
    if quotes or commas != (len(header) - 1) * (num_rows + HEADER_ROWS):
        _locate(path, date, header, None)


def _count(path: Path, byte: bytes) -> int:
    with open(path, "rb") as file:
        return sum(chunk.count(byte) for chunk in iter(lambda: file.read(1 << 22), b""))


def _locate(path: Path, date: dt.date, header: list[str], error: Exception | None) -> None:
    """Walks the file row by row and raises DumpError at the first row of wrong structure; returns if there is none."""
    number = 0
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.reader(file), start=1):
                if row and len(row) != len(header):
                    what = f"the row has {len(row)} fields, the header {len(header)}"
                    raise DumpError(what, where=Where(str(path), date, row=number), todo="Correct the dump")
    except UnicodeDecodeError:
        raise DumpError(
            "not UTF-8", where=Where(str(path), date, row=_first_bad_row(path)), todo="Write the dump as UTF-8"
        ) from error
    except csv.Error as fault:  # a quote that is never closed swallows the rows after it
        what = f"not a readable CSV from here on: {fault}"
        raise DumpError(what, where=Where(str(path), date, row=number + 1), todo="Correct the dump") from None


def _first_bad_row(path: Path) -> int:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 0
