"""Reads raw formats. One function each: `read(path, request)` yields a file's rows in file order, in bounded pieces.

A format is chosen by the file's suffix, by name, or by a dotted name (`my_module:read`) that keeps the same contract;
`tests/contracts/test_formats.py` is that contract.
"""

from __future__ import annotations

import datetime as dt
import difflib
import fnmatch
import importlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dateshard.pipeline.raw.formats import packed
from dateshard.pipeline.source import Csv
from dateshard.shardstore.errors import DumpError, UsageError, Where, shorten
from dateshard.shardstore.identity import ReadHash
from dateshard.shardstore.own_code import user_code

Kind = Literal["text", "number", "time"]
BLOCK_BYTES = (
    4 << 20
)  # of text decoded at once; what reading costs in memory is a small multiple (dateshard.pipeline.memory_shares)
LONGEST_ROW = 64 << 20  # more text than this without the end of a row is no row
BATCH_ROWS = 1 << 18
READ_PARTS = 16  # of such a batch, which a spill holds, one is decoded at a time: 2 MB of numbers
BATCH_COLUMNS, FEW_COLUMNS = (
    16,
    4,
)  # of a frame with more columns, batches have fewer rows, and fewer are decoded at once
DIALECT = Csv()
NAMES = "the column's name in the configuration"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is wanted of a file.

    Attributes:
        columns: {name: kind}; `time` columns keep the type that the file has, numbers in text become numbers.
        others: pattern of further columns that are read as numbers (a wide dump's nodes); None for none.
        numeric_time: the time column holds numbers.
        ragged: rows of a CSV with another number of fields than its header are kept in a `RaggedRowBlock`, and not refused.
        places_only: texts that a file keeps as places in a list need not stand in the frame too.
        hashes: takes the hash of each file that its reader read from its first byte to its last; None where nobody asks.
        date: for messages; None while a file of many dates is cut.
        keys: {name: what of the configuration names that column}, for messages.
    """

    columns: Mapping[str, Kind]
    csv: Csv = DIALECT
    others: str | None = None
    numeric_time: bool = False
    ragged: bool = False
    places_only: bool = False
    hashes: dict[Path, ReadHash] | None = None
    date: dt.date | None = None
    keys: Mapping[str, str] = field(default_factory=dict)

    def where(
        self, path: Path, *, column: str | None = None, row: int | None = None, value: str | None = None
    ) -> Where:
        """A place in the file."""
        return Where(file=str(path), date=self.date, column=column, row=row, value=value)

    def resolve(self, path: Path, header: Sequence[str], row: int = 1) -> dict[str, Kind]:
        """Returns {name: kind} of all wanted columns, in the file's order; `row` is the header's.

        Raises:
            DumpError: a column is missing or repeated.
        """
        known = set(header)
        repeated = self._repeated(path, header, row) if len(known) < len(header) else ()
        if missing := [name for name in self.columns if name not in known]:
            raise self._no_columns(missing, path, header, row)
        kinds: dict[str, Kind] = {}
        for name in header:
            if name in self.columns:
                kinds[name] = self.columns[name]
            elif self.others is not None and fnmatch.fnmatchcase(name, self.others) and name not in repeated:
                kinds[name] = "number"
        return kinds

    def _no_columns(self, missing: Sequence[str], path: Path, header: Sequence[str], row: int) -> DumpError:
        """Makes the error of missing columns: all of them at once, with the keys that name them."""
        others = f"Missing too: {_some([*map(shorten, missing[1:])])}. " if len(missing) > 1 else ""
        keys = dict.fromkeys(self.keys[name] for name in missing if name in self.keys)
        todo = f"{others}Correct the dump, or {_some([*keys]) or NAMES}"
        where = self.where(path, column=missing[0], row=row)
        return DumpError(no_column(missing[0], header), where=where, todo=todo)

    def _repeated(self, path: Path, header: Sequence[str], row: int) -> set[str]:
        """Returns the names that stand twice, and refuses a wanted column among them.

        Nobody reads those that have no name, as trailing separators make them."""
        repeated = {name for name, count in Counter(header).items() if count > 1}
        pattern = self.others
        for name in sorted(repeated):
            of_others = name != "" and pattern is not None and fnmatch.fnmatchcase(name, pattern)
            if name in self.columns or of_others:
                todo = "Correct the dump, or pipeline.source.wide.nodes" if of_others else "Correct the dump"
                raise DumpError("the column is repeated", where=self.where(path, column=name, row=row), todo=todo)
        return repeated


@dataclass(frozen=True, slots=True)
class NamePlaces:
    """A text column as its file keeps it: each row's place in a list of names, -1 for none.

    Attributes:
        place_R: int32 [R].
        names: String, each once; a place that no row has, or a name that is null, may be among them.
    """

    place_R: NDArray[np.int32]
    names: pl.Series

    def texts(self) -> pl.Series:
        """Each row's name, null for none [R]."""
        place = pl.Series(self.place_R)
        return self.names.gather(place.set(place < 0, None) if (self.place_R < 0).any() else place)


@dataclass(frozen=True, slots=True)
class RowBlock:
    """Consecutive rows of a file, the wanted columns only.

    Attributes:
        frame: `text` columns String, `number` columns Float64, `time` columns as the file has them.
        row_R: each row's number, as a person counts: a text file's header is row 1, other formats begin with row 1.
        bad: for number columns with values that are no numbers: their texts, null elsewhere. For text columns with values
            that are no text, such as a JSON object, likewise; `frame` has null there.
    """

    path: Path
    frame: pl.DataFrame
    row_R: NDArray[np.int64]
    bad: Mapping[str, pl.Series] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRowBlock(RowBlock):
    """Rows of a file that keeps texts as places in a list.

    Attributes:
        places: of those columns. `frame` has them too, unless `Request.places_only` was asked.
    """

    places: Mapping[str, NamePlaces]


@dataclass(frozen=True, slots=True, kw_only=True)
class RaggedRowBlock(RowBlock):
    """Rows of a CSV some of which have another number of fields than its header: all values of these are null.

    Attributes:
        texts: what stands in these rows, null for all others. error: what to say of the first one.
    """

    texts: pl.Series
    error: DumpError


Reader = Callable[[Path, Request], Iterator[RowBlock]]
TEXTS = {".csv": "csv", ".txt": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
OTHERS = {".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow", ".ipc": "arrow", ".feather": "arrow"}
SUFFIXES = {f"{text}{packing}": name for text, name in TEXTS.items() for packing in ("", *packed.SUFFIXES)} | OTHERS
READERS = {
    "csv": "csv:read",
    "parquet": "columnar:read_parquet",
    "jsonl": "json_lines:read",
    "arrow": "columnar:read_arrow",
}


def batch_rows(num_columns: int) -> int:
    """Rows of a frame that are held at once: at most 32 MB of numbers."""
    return max(1, BATCH_ROWS * BATCH_COLUMNS // max(num_columns, BATCH_COLUMNS))


def read_rows(num_columns: int) -> int:
    """Rows of a frame that are decoded at once: 2 MB of numbers, for each batch costs a millisecond beside them."""
    return max(1, BATCH_ROWS * BATCH_COLUMNS // READ_PARTS // max(num_columns, FEW_COLUMNS))


def suffix_of(path: Path) -> str | None:
    """The known suffix that a file's name ends with, the longest first; None for another."""
    name = path.name.lower()
    return max((suffix for suffix in SUFFIXES if name.endswith(suffix)), key=len, default=None)


def reader_of(path: Path, chosen: str) -> Reader:
    """The reader of a file.

    Raises:
        UsageError: no format of that name, or a dotted name that cannot be imported. DumpError: an unknown suffix.
    """
    if chosen == "auto":
        suffix = suffix_of(path)
        if suffix is None:
            plain = sorted({*TEXTS, *OTHERS})
            known = f"{', '.join(plain)}; texts also with {', '.join(packed.SUFFIXES)}"
            raise DumpError(
                "no format is known by its suffix",
                where=Where(file=str(path)),
                todo=f"Begin its name with _ if it is not data, set pipeline.source.format, or use one of {known}",
            )
        chosen = SUFFIXES[suffix]
    if ":" in chosen:
        return user_code.load(chosen, "pipeline.source.format")
    if chosen not in READERS:
        raise UsageError(
            f"pipeline.source.format: no format '{chosen}'", todo=f"Use auto, {', '.join(READERS)} or my_module:read"
        )
    module, _, name = READERS[chosen].partition(":")
    reader: Reader = getattr(importlib.import_module(f"dateshard.pipeline.raw.formats.{module}"), name)
    return reader


def no_column(name: str, header: Sequence[str]) -> str:
    """Tells that a column is missing: `there is no column 'speed'; did you mean 'sped'?`."""
    near = [column for column in header if column.strip().casefold() == name.strip().casefold()]
    near = near or difflib.get_close_matches(name, header, n=1)
    shown = _some([*map(shorten, header)])
    hint = f"; did you mean '{shorten(near[0])}'?" if near else f"; it has {shown}" if header else ""
    return f"there is no column '{name}'{hint}"


def _some(names: Sequence[str]) -> str:
    """Lists the first 20 names as `a, b, ...`."""
    return ", ".join([*names[:20], *(["..."] if len(names) > 20 else [])])


def as_numbers(column: pl.Series) -> tuple[pl.Series, pl.Series | None]:
    """A column of any scalar type as (Float64, texts that are no numbers or None)."""
    if column.dtype == pl.Float64:
        return column, None
    if column.dtype.is_numeric() or column.dtype == pl.Boolean:
        return column.cast(pl.Float64), None
    texts = column.cast(pl.String, strict=False)
    stripped = texts.str.strip_chars()
    values = stripped.cast(pl.Float64, strict=False)
    wrong = stripped.is_not_null() & values.is_null() & (stripped != "")  # polars' CSV takes blanks for no value
    return values, texts.set(~wrong, None) if wrong.any() else None


def as_floats(column: pl.Series) -> NDArray[np.float64]:
    """A Float64 column as an array of its own: NaN where it is null, and a positive zero for a negative one.

    Integers have no negative zero, and a value is the same whatever the format.
    """
    held = column.rechunk().to_arrow()
    present, numbers = held.buffers()
    values: NDArray[np.float64] = np.frombuffer(numbers, np.float64, len(held), 8 * held.offset) + 0.0
    if held.null_count:
        bits = np.frombuffer(present, np.uint8)[held.offset // 8 :]
        there = np.unpackbits(bits, bitorder="little")[held.offset % 8 :][: len(held)]
        values[there == 0] = np.nan
    return values


def as_names(column: pl.Series) -> pl.Series:
    """A column of any scalar type as texts. A whole number is named without a point whatever type holds it; NaN is none.

    A column of whole numbers becomes one of floats as soon as a program such as pandas has a gap in it.
    """
    if not (column.dtype.is_float() or column.dtype.is_decimal()):
        return column if column.dtype == pl.String else column.cast(pl.String)
    column = column.fill_nan(None) if column.dtype.is_float() else column
    whole = column.cast(pl.Int128, strict=False)
    same = (whole.cast(column.dtype, strict=False) == column).fill_null(value=False)
    names = whole.cast(pl.String)
    return names if (same | column.is_null()).all() else names.zip_with(same, column.cast(pl.String))


def with_numbers(frame: pl.DataFrame, kinds: Mapping[str, Kind]) -> tuple[pl.DataFrame, dict[str, pl.Series]]:
    """The frame with its `number` columns as Float64, and the texts of what is no number, by column."""
    bad: dict[str, pl.Series] = {}
    changed = []
    for name, kind in kinds.items():
        if kind == "number" and frame[name].dtype != pl.Float64:
            values, texts = as_numbers(frame[name])
            changed.append(values.alias(name))
            if texts is not None:
                bad[name] = texts
    return (frame.with_columns(changed) if changed else frame), bad


def places_in(block: RowBlock, column: str) -> NamePlaces | None:
    """A text column as places in a list, where its file keeps it so."""
    return block.places.get(column) if isinstance(block, ListedRowBlock) else None


def texts_in(block: RowBlock, column: str) -> pl.Series:
    """A text column as texts, also where the block has their places alone."""
    if column in block.frame.columns:
        return block.frame[column]
    places = places_in(block, column)
    assert places is not None, "a wanted column is in the frame, or it is listed"
    return places.texts()


Piece = RowBlock  # the name that formats of one's own were written with
