"""CSV in its dialects. polars decodes with declared types only; what it accepts in silence is checked here.

Without a schema a single `nan` turns a column into text and 2^63 into another type. Rows with too few fields are padded
with nulls, numbers with a decimal point pass as decimal commas: both are found before polars reads a block.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.formats import Kind, Piece, Request, with_numbers
from pipeline.formats.text import blocks, count_of, row_ends
from pipeline.source import Csv
from shardstore.errors import DumpError

HEADER_ROWS = 1
Types = Mapping[str, type[pl.DataType]]


@dataclass(frozen=True, slots=True)
class _File:
    """What all blocks of a file share."""

    path: Path
    request: Request
    header: tuple[str, ...]
    kinds: Mapping[str, Kind]

    @property
    def dialect(self) -> Csv:
        return self.request.csv


def read(path: Path, request: Request) -> Iterator[Piece]:
    """Rows of a CSV with a header. Blank lines are no rows, but count as lines.

    Memory: a block of text and what is decoded of it.

    Raises:
        DumpError: names the row that has another number of fields, is not UTF-8 or not readable.
    """
    file, row = None, HEADER_ROWS + 1
    for block in blocks(path, request):
        if file is None:
            head, block = _split_header(block, request.csv)
            header = _header(head, path, request)
            file = _File(path, request, header, request.resolve(path, header))
        if block:
            count, blank = _check_fields(block, file, row)
            kept = _without(block, blank, request.csv) if len(blank) else block
            rows = np.delete(np.arange(row, row + count, dtype=np.int64), blank)
            if len(rows):
                yield _decode(kept, file, rows)
            row += count
    if row == HEADER_ROWS + 1:
        where = request.where(path)
        raise DumpError("a header but no row", where=where, todo="Write the dump again, or remove it")


def _split_header(block: bytes, dialect: Csv) -> tuple[str, bytes]:
    end = int(row_ends(block[: 1 << 20], (dialect.quote or "\0").encode())[0])  # a block ends with a whole row
    return block[:end].decode(errors="replace").rstrip("\r"), block[end + 1 :]


def _header(text: str, path: Path, request: Request) -> tuple[str, ...]:
    if "\ufffd" in text:
        where = request.where(path, row=1)
        raise DumpError(
            "the header is not UTF-8", where=where, todo="Correct the dump, or set pipeline.source.csv.encoding"
        )
    return tuple(next(_walk(text, request.csv), []))


def _walk(text: str, dialect: Csv) -> Iterator[list[str]]:
    stream = io.StringIO(text, newline="")
    if dialect.quote is None:
        return csv.reader(stream, delimiter=dialect.separator, quoting=csv.QUOTE_NONE)
    return csv.reader(stream, delimiter=dialect.separator, quotechar=dialect.quote)


def _check_fields(block: bytes, file: _File, row: int) -> tuple[int, NDArray[np.int64]]:
    """(rows with the blank ones, positions of the blank ones) of a block in which every row has all fields."""
    quote = file.dialect.quote.encode() if file.dialect.quote else b""
    separator = file.dialect.separator.encode()
    if quote and quote in block:
        ends = row_ends(block, quote)
        separators = _outside_quotes(block, separator, quote)
    else:
        ends, separators = None, count_of(block, separator)
    count = count_of(block, b"\n") if ends is None else len(ends)
    blank = np.empty(0, dtype=np.int64)
    if separators != (len(file.header) - 1) * count:  # a blank line has none
        blank = _blank_rows(block, ends)
        if separators != (len(file.header) - 1) * (count - len(blank)):
            _locate(block, file, row)
    return count, blank


def _outside_quotes(block: bytes, separator: bytes, quote: bytes) -> int:
    data = np.frombuffer(block, dtype=np.uint8)
    found = np.flatnonzero(data == separator[0]) if len(separator) == 1 else np.empty(0, np.int64)
    quotes = np.flatnonzero(data == quote[0])
    return int((np.searchsorted(quotes, found) % 2 == 0).sum())


# A row with one field only has no separator either; dumps have a time and a value at least.
def _blank_rows(block: bytes, ends: NDArray[np.int64] | None) -> NDArray[np.int64]:
    if ends is None:
        ends = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n"))
    starts = np.concatenate([[0], ends[:-1] + 1])
    length = ends - starts
    first = np.frombuffer(block, dtype=np.uint8)[starts]
    return np.flatnonzero((length == 0) | ((length == 1) & (first == ord("\r"))))


def _without(block: bytes, blank: NDArray[np.int64], dialect: Csv) -> bytes:
    ends = row_ends(block, (dialect.quote or "\0").encode())  # a block has no NUL byte
    starts = np.concatenate([[0], ends[:-1] + 1])
    gone = set(blank.tolist())
    return b"".join(block[a : b + 1] for i, (a, b) in enumerate(zip(starts, ends, strict=True)) if i not in gone)


def _locate(block: bytes, file: _File, row: int) -> None:
    """Walks a block row by row and raises DumpError at the first of wrong structure; returns if there is none."""
    try:
        text = block.decode()
    except UnicodeDecodeError as error:
        at = file.request.where(file.path, row=row + block.count(b"\n", 0, error.start))
        raise DumpError("not UTF-8", where=at, todo="Correct the dump, or set pipeline.source.csv.encoding") from None
    number = row
    try:
        for number, fields in enumerate(_walk(text, file.dialect), start=row):
            if fields and len(fields) != len(file.header):
                what = f"the row has {len(fields)} fields, the header {len(file.header)}"
                raise DumpError(what, where=file.request.where(file.path, row=number), todo="Correct the dump")
    except csv.Error as fault:
        what, at = f"not a readable CSV from here on: {fault}", file.request.where(file.path, row=number + 1)
        raise DumpError(what, where=at, todo="Correct the dump") from None


def _decode(block: bytes, file: _File, rows: NDArray[np.int64]) -> Piece:
    numbers = [name for name, kind in file.kinds.items() if kind == "number"]
    as_text = file.dialect.decimal == ","  # polars would take a decimal point as well
    types: dict[str, type[pl.DataType]] = {} if as_text else dict.fromkeys(numbers, pl.Float64)
    if file.request.numeric_time:
        types |= {name: pl.Int64 for name, kind in file.kinds.items() if kind == "time"}
    try:
        frame = _parse(block, file, types)
    except pl.exceptions.PolarsError as error:
        _locate(block, file, int(rows[0]))
        try:
            frame = _parse(block, file, {})
        except pl.exceptions.PolarsError:
            what, at = (
                f"not a readable CSV: {str(error).splitlines()[0]}",
                file.request.where(file.path, row=int(rows[0])),
            )
            raise DumpError(what, where=at, todo="Correct the dump, or pipeline.source.csv") from None
    if len(frame) != len(rows):
        what = f"{len(rows):,} rows became {len(frame):,}: a stray quote or line end"
        raise DumpError(what, where=file.request.where(file.path, row=int(rows[0])), todo="Correct the dump")
    if as_text:
        frame = frame.with_columns(_decimal_points(frame[name]) for name in numbers)
    frame, bad = with_numbers(frame, file.kinds)
    return Piece(file.path, frame, rows, bad)


def _decimal_points(texts: pl.Series) -> pl.Series:
    """`1,5` -> `1.5`; a text with a point in it stays no number (`1.234` might be a thousand)."""
    return texts.str.replace(".", "?", literal=True).str.replace(",", ".", literal=True)


def _parse(block: bytes, file: _File, types: Types) -> pl.DataFrame:
    """The wanted columns; those without a type in `types` as text."""
    places = [index for index, name in enumerate(file.header) if name in file.kinds]
    schema = {str(index): types.get(name, pl.String) for index, name in enumerate(file.header)}
    frame = pl.read_csv(
        block,
        has_header=False,
        schema=schema,
        columns=places,
        infer_schema=False,
        separator=file.dialect.separator,
        quote_char=file.dialect.quote,
        null_values=list(file.dialect.missing),
    )
    return frame.rename({str(index): file.header[index] for index in places})
