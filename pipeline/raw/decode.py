"""One date's dump -> records: who, when and which values, every row accounted for."""

from __future__ import annotations

import datetime as dt
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dateshard.pipeline.config import FeatureConfig, Pipeline
from dateshard.pipeline.raw.bad_rows import NO_NUMBER, NO_TEXT, OTHER_DATE, BadRows, nameless
from dateshard.pipeline.raw.clocks.doubled_hours import with_instants
from dateshard.pipeline.raw.clocks.times import Instants, Valid, not_a_time, whole_times, written_times
from dateshard.pipeline.raw.codes import Codes
from dateshard.pipeline.raw.dumps import ONE_NODE, node_of
from dateshard.pipeline.raw.formats import (
    Kind,
    NamePlaces,
    Request,
    RowBlock,
    as_floats,
    places_in,
    reader_of,
    texts_in,
)
from dateshard.pipeline.raw.object_files import held, shown
from dateshard.pipeline.raw.row_counts import RowCounts
from dateshard.pipeline.raw.spill import Chunk, Spool
from dateshard.pipeline.raw.strangers import Strangers
from dateshard.pipeline.source import UNITS, Source
from dateshard.shardstore.errors import DumpError, NoRowsError, Where, counted
from dateshard.shardstore.identity import ReadHash
from dateshard.shardstore.layouts.records import Records
from dateshard.shardstore.times.calendar import Day


@dataclass(slots=True)
class RowPlaces:
    """Where the rows of a dump stand: (file, row) of the n-th row of all its files."""

    starts: list[int] = field(default_factory=list)
    pieces: list[tuple[Path, int, int, NDArray[np.int64] | None]] = field(default_factory=list)
    total: int = 0

    def add(self, piece: RowBlock) -> None:
        """Notes the next piece; costs a few bytes where its rows follow each other."""
        first, last = int(piece.row_R[0]), int(piece.row_R[-1])
        gaps = None if last - first == len(piece.row_R) - 1 else piece.row_R
        self.starts.append(self.total)
        self.pieces.append((piece.path, first, last, gaps))
        self.total += len(piece.row_R)

    def of(self, place: int) -> tuple[Path, int]:
        """Returns (file, row number) of a row."""
        index = bisect_right(self.starts, place) - 1
        path, first, _, gaps = self.pieces[index]
        offset = place - self.starts[index]
        return path, first + offset if gaps is None else int(gaps[offset])

    def of_all(self, place_R: NDArray[np.int64]) -> tuple[tuple[str, ...], NDArray[np.int64], NDArray[np.int64]]:
        """Returns (files, each row's place among these [R], its number in that file [R])."""
        files = {path: number for number, path in enumerate(dict.fromkeys(path for path, *_ in self.pieces))}
        piece_R = np.searchsorted(np.array(self.starts), place_R, side="right") - 1
        row_R = np.empty(len(place_R), dtype=np.int64)
        for number, (_, first, _, gaps) in enumerate(self.pieces):
            own = piece_R == number
            offset = place_R[own] - self.starts[number]
            row_R[own] = first + offset if gaps is None else gaps[offset]
        return tuple(map(shown, files)), np.array([files[path] for path, *_ in self.pieces])[piece_R], row_R


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """One date's records with the date's own node list (sorted by bytes)."""

    day: Day
    nodes: tuple[str, ...]
    rows: RowCounts
    places: RowPlaces
    spool: Spool
    code_place: NDArray[np.int64]
    column_places: tuple[int | None, ...]  # of each feature's raw column, None where records are counted
    categories: Mapping[
        int, Sequence[str]
    ]  # {place of a categorical feature: names that its column's values are places in}
    hashes: Mapping[Path, ReadHash]  # of files that were hashed as they were read
    strangers: tuple[str, ...] = ()  # some of the nodes that the table lacks

    def stretches(self) -> Iterator[tuple[Day, Records]]:
        """Yields (part of the day, its records), once."""
        for day, chunk in self.spool.stretches():
            values = tuple(None if place is None else chunk.values_FR[place] for place in self.column_places)
            yield day, Records(chunk.time_R, self._node_of(chunk.code_R), values, chunk.place_R)

    def _node_of(self, code_R: NDArray[np.int32]) -> NDArray[np.int32]:
        """Returns each record's place in the node list [R]: its code where the list is the node table's."""
        same = np.array_equal(self.code_place, np.arange(len(self.code_place)))
        return code_R if same else self.code_place.astype(np.int32)[code_R]


def decode(
    files: Sequence[Path],
    date: dt.date,
    config: Pipeline,
    table_nodes: tuple[str, ...] | None,
    budget_bytes: int,
    folder: Path,
    *,
    keep_places: bool = False,
) -> Decoded:
    """Reads one date's files in the given order.

    Memory: `budget_bytes` of records (beyond it they are spilled into `folder`), and a block of a file.

    Args:
        keep_places: whether each record keeps its place among the rows; those that may be refused always do.

    Raises:
        DumpError: nothing usable, wrong structure, or too many bad rows; names the first one. NoRowsError: no row.
    """
    with held(files) as here:
        return _decode(here, date, config, table_nodes, _Spooled(budget_bytes, folder, keep_places=keep_places))


@dataclass(frozen=True, slots=True)
class _Spooled:
    """Where records go, and whether each keeps its place."""

    budget_bytes: int
    folder: Path
    keep_places: bool


def _decode(
    files: Sequence[Path], date: dt.date, config: Pipeline, table_nodes: tuple[str, ...] | None, to: _Spooled
) -> Decoded:
    day = config.day(date)
    codes, faults, places = Codes(table_nodes), BadRows(config.source.shown_date(date), config.source), RowPlaces()
    columns = config.raw_columns()
    texts = {column: Codes(None) for column in sorted(config.categorical_columns())}
    hashes = dict[Path, ReadHash]()
    request = replace(request_of(config, date), places_only=True, hashes=hashes)
    asked = to.keep_places or config.source.duplicates == "refuse"
    spool = Spool(day, len(columns), to.budget_bytes, to.folder, places=asked)
    used = np.zeros(0, dtype=bool)
    empty: NoRowsError | None = None
    for path in files:
        known = ColumnCodes(columns, codes, texts, one_node(path, config.source))
        pieces = reader_of(path, config.source.format)(path, request)
        timed = with_instants(pieces, config.source, day)
        try:
            for piece, times, valid in timed:
                chunk = _accept(piece, (times, valid), day, config, known, faults, places.total if asked else None)
                places.add(piece)
                used = _seen(used, chunk.code_R, len(codes.names))
                spool.put(chunk)
        except NoRowsError as error:
            empty = empty or error
        finally:  # a refused file is closed now, not when its generators are collected
            for stream in (timed, pieces):
                getattr(stream, "close", lambda: None)()
    if empty is not None:  # one file without rows among others that have some may be one that was cut
        raise empty if not faults.read else DumpError(empty.what, where=empty.where, todo=empty.todo)
    strangers = tuple(sorted(codes.strangers))
    rows = faults.rows(config.source.max_bad_fraction, Strangers.of(strangers, codes.names))
    names, code_place = codes.final(used)
    feature_columns = [config.column_of(name) for name in config.features]
    column_places = tuple(None if name is None else columns.index(name) for name in feature_columns)
    categories = {k: texts[name].names for k, name in enumerate(feature_columns) if name in texts}
    return Decoded(
        day=day,
        nodes=names,
        rows=rows,
        places=places,
        spool=spool,
        code_place=code_place,
        column_places=column_places,
        categories=categories,
        hashes=hashes,
        strangers=strangers,
    )


def request_of(config: Pipeline, date: dt.date | None) -> Request:
    """The columns that the configuration needs of a file."""
    source = config.source
    kinds: dict[str, Kind] = dict.fromkeys(source.time_columns, "time")
    if source.wide is None:
        kinds |= {source.who: "text"} if source.who is not None else {}
        kinds |= dict.fromkeys(config.raw_columns(), "number")
        kinds |= dict.fromkeys(config.categorical_columns(), "text")
    others, numeric_time = source.wide.nodes if source.wide else None, source.time_format in UNITS
    return Request(
        columns=kinds,
        csv=source.csv,
        others=others,
        numeric_time=numeric_time,
        ragged=source.keeps_ragged_rows,
        date=source.shown_date(date),
        keys=_keys(config),
    )


def _keys(config: Pipeline) -> dict[str, str]:
    """Returns {column: the key that names it}."""
    source, columns = config.source, {name: config.column_of(name) for name in config.features}
    keys = {column: f"pipeline.features.{name}" for name, column in columns.items() if column is not None}
    if source.cut is not None:
        keys[source.cut] = "pipeline.source.cut (leave it out if the records have no sessions or subjects)"
    elif source.node is not None:
        keys[source.node] = "pipeline.source.node (leave it out if there is only one node)"
    return keys | dict.fromkeys(source.time_columns, "pipeline.source.time")


def _seen(used: NDArray[np.bool_], code_R: NDArray[np.int32], num_names: int) -> NDArray[np.bool_]:
    wider = np.zeros(num_names, dtype=bool)
    wider[: len(used)] = used
    wider[code_R] = True
    return wider


@dataclass(frozen=True, slots=True)
class ColumnCodes:
    """Raw columns that features read, and the codes of names as they are met.

    Codes are of nodes, and of texts by column; `one_node` is that of the file that is read, if no column names any."""

    names: Sequence[str]
    nodes: Codes
    texts: Mapping[str, Codes]
    one_node: str | None = None


def one_node(path: Path, source: Source) -> str | None:
    """The node of all rows of a file, from its path or the configuration; None where columns name nodes.

    Raises:
        DumpError: the path does not match the one that names nodes.
    """
    if source.who is not None or source.wide is not None:
        return None
    if not source.node_in_path:
        return source.node_name or ONE_NODE
    if (name := node_of(path, source.path)) is None:
        what, todo = f"the path names no node as in {source.path}", "Move the file to a path that names its node"
        raise DumpError(what, where=Where(file=str(path)), todo=todo)
    if any("\ud800" <= char <= "\udfff" for char in name):
        what, todo = "its path names the node, and that name is not UTF-8", "Rename it"
        raise DumpError(what, where=Where(file=str(path)), todo=todo)
    return name


def _accept(
    piece: RowBlock,
    timed: tuple[Instants, Valid],
    day: Day,
    config: Pipeline,
    columns: ColumnCodes,
    faults: BadRows,
    place: int | None,
) -> Chunk:
    """Makes a chunk of a piece's rows that stand, and counts the others by their fault.

        row  time              node  speed        times (ns)  code  speed
        2    2024-03-01T00:10  a     61.5     ->  ...600e9    0     61.5
        3    2024-03-01T00:10  b     n/a          rejected: not a number (or NaN, if that is made missing)
        4    2024-03-02T00:00  a     58.0         rejected: of another date

    Codes are places in the names as they were met; a row's number stays known through `RowPlaces` alone, by its place
    among all rows of the dump, which begin with `place` here (None: nobody will ask).
    """
    source, frame = config.source, piece.frame
    faults.begin(piece)
    (times, valid), written = timed, written_times(frame, source)
    whole = partial(whole_times, frame, source)
    values = (
        {}
        if source.wide
        else _numbers(piece, config, [name for name in columns.names if name not in columns.texts], faults)
    )
    faults.reject(source.faults.bad_time, not_a_time(source), written.name, written, ~valid, whole)
    if len(times) and (times.min() < day.start or times.max() >= day.end):
        outside = valid & ((times < day.start) | (times >= day.end))
        faults.reject(source.faults.other_date, OTHER_DATE, written.name, written, outside, whole)
    if source.wide is not None:
        return _melt(piece, config, columns.nodes, faults, times, place)
    code_R = _node_codes(piece, source, columns, faults)
    for name, known in columns.texts.items():
        if name in piece.bad:
            texts = piece.bad[name]
            _fault(source.faults.bad_number, NO_TEXT, name, texts, texts.is_not_null().to_numpy(), faults)
        codes = known.of(texts_in(piece, name)) if (listed := places_in(piece, name)) is None else known.at(listed)
        values[name] = np.where(codes < 0, np.nan, codes.astype(np.float64))
    keep = ~faults.rejected
    place_R = None if place is None else np.arange(place, place + len(keep), dtype=np.int64)
    if keep.all():
        return Chunk(times, code_R, place_R, tuple(values[name] for name in columns.names))
    kept_R = None if place_R is None else place_R[keep]
    return Chunk(times[keep], code_R[keep], kept_R, tuple(values[name][keep] for name in columns.names))


def _node_codes(piece: RowBlock, source: Source, columns: ColumnCodes, faults: BadRows) -> NDArray[np.int32]:
    """Returns [R] codes of the nodes; a row without one, or of one that the table lacks, has -1 and is rejected."""
    if columns.one_node is None:
        assert source.who is not None
        column, names = source.who, partial(texts_in, piece, source.who)
        if column in piece.bad:
            texts = piece.bad[column]
            faults.reject(source.faults.missing_node, NO_TEXT, column, texts, texts.is_not_null().to_numpy())
        places = places_in(piece, column)
        if _has_nameless(names()) if places is None else _lists_nameless(places):
            without = (names().fill_null("") == "").to_numpy()
            faults.reject(source.faults.missing_node, nameless(source), column, names(), without)
        code_R = columns.nodes.of(names()) if places is None else columns.nodes.at(places)
    else:
        only, column = pl.Series([columns.one_node]), "{node}" if source.node_in_path else "node_name"
        code_R = np.repeat(columns.nodes.of(only), len(piece.row_R))
        names = partial(only.new_from_index, 0, len(code_R))
    if (unknown := code_R < 0).any():
        faults.reject(source.faults.unknown_node, "of an unknown node", column, names(), unknown)
    return code_R


def _has_nameless(names: pl.Series) -> bool:
    """Whether some name is none."""
    return bool(names.null_count() or (names == "").any())


def _lists_nameless(places: NamePlaces) -> bool:
    """Whether a row may be of no node."""
    return bool((places.place_R < 0).any()) or _has_nameless(places.names)


def _numbers(
    piece: RowBlock, config: Pipeline, columns: Sequence[str], faults: BadRows
) -> dict[str, NDArray[np.float64]]:
    """Float64 values by column, NaN where missing; values that are none, or not finite, by their policies."""
    values_by_column, ranges = {}, config.ranges()
    for name in columns:
        column = piece.frame[name]
        values = as_floats(column)
        if name in piece.bad:
            texts = piece.bad[name]
            _fault(config.source.faults.bad_number, NO_NUMBER, name, texts, texts.is_not_null().to_numpy(), faults)
        infinite = np.isinf(values)
        if infinite.any():
            _fault(config.source.faults.not_finite, "not finite", name, column, infinite, faults)
            values = np.where(infinite, np.nan, values)
        declared = ranges.get(name) or (ranges.get(config.source.wide.value) if config.source.wide else None)
        values_by_column[name] = values if declared is None else _within(values, declared, name, column, faults)
    return values_by_column


def _fault(policy: str, reason: str, name: str, texts: pl.Series, bad: NDArray[np.bool_], faults: BadRows) -> None:
    if policy == "null":
        faults.change(f"{reason}: made missing", bad)
    else:
        faults.reject(policy, reason, name, texts, bad)


def _within(
    values: NDArray[np.float64], declared: FeatureConfig, name: str, column: pl.Series, faults: BadRows
) -> NDArray[np.float64]:
    """The values with those outside of the declared range as its policy says."""
    assert declared.bounds is not None
    low, high = declared.bounds
    outside = (values < low) | (values > high)
    if not outside.any():
        return values
    reason = f"outside of the declared range [{low:g}, {high:g}]"
    if declared.outside == "clip":
        faults.change(f"{reason}: moved to the bound", outside)
        return np.clip(values, low, high)
    if declared.outside == "null":
        faults.change(f"{reason}: made missing", outside)
        return np.where(outside, np.nan, values)
    faults.reject(declared.outside, reason, name, column, outside)
    return values


def _melt(
    piece: RowBlock, config: Pipeline, codes: Codes, faults: BadRows, times: NDArray[np.int64], place: int | None
) -> Chunk:
    """Makes records of a wide piece, row by row and column by column; empty cells are no records.

    row  time   s1    s2            time   code  value
    2    00:00  61.5  58.0      ->  00:00  0     61.5
    3    00:05        57.0          00:00  1     58.0
                                    00:05  1     57.0
    """
    names = [name for name in piece.frame.columns if name not in config.source.time_columns]
    if not names:
        what = f"no column matches pipeline.source.wide.nodes '{config.source.wide.nodes}'"  # type: ignore[union-attr]
        raise DumpError(
            what, where=Request(columns={}, date=faults.date).where(piece.path, row=1), todo="Correct the pattern"
        )
    code_N = codes.of(pl.Series("node", names, dtype=pl.String))
    if (code_N < 0).any() and config.source.faults.unknown_node == "refuse":
        where = Request(columns={}, date=faults.date).where(piece.path, column=names[int((code_N < 0).argmax())], row=1)
        todo = "Correct the dump or the node table, or set pipeline.source.faults.unknown_node: drop"
        raise DumpError(f"the column is no node of the table{_alike(codes)}", where=where, todo=todo)
    unknown = [name for name, code in zip(names, code_N.tolist(), strict=True) if code < 0]
    names = [name for name, code in zip(names, code_N.tolist(), strict=True) if code >= 0]
    code_N = code_N[code_N >= 0]
    values = _numbers(piece, config, names, faults)
    for name in unknown:
        column = piece.frame[name]
        faults.change("of an unknown node: left out", column.is_not_nan().fill_null(value=False).to_numpy())
    if not names:
        where, todo = (
            Request(columns={}, date=faults.date).where(piece.path, row=1),
            "Correct the dump or the node table",
        )
        raise DumpError(f"no column is a node of the table{_alike(codes)}", where=where, todo=todo)
    keep = ~faults.rejected
    matrix_RN = np.stack([values[name][keep] for name in names], axis=1)
    present = ~np.isnan(matrix_RN)
    row_R, node_R = np.nonzero(present)
    place_R = None if place is None else (np.flatnonzero(keep) + place)[row_R]
    return Chunk(times[keep][row_R], code_N[node_R], place_R, (matrix_RN[present],))


def _alike(codes: Codes) -> str:
    unknown = Strangers.of(codes.strangers, codes.names)
    return f": it has {counted(unknown.count, 'unknown one')}{unknown.hint()}" if unknown.alike else ""
