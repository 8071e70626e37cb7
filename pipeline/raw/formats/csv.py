"""CSV in its dialects. polars decodes with declared types only; what it accepts in silence is checked here.

Without a schema a single `nan` turns a column into text and 2^63 into another type. Rows with too few fields are padded
with nulls, numbers with a decimal point pass as decimal commas: both are found before polars reads a block.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dateshard.pipeline.raw.formats import Kind, RaggedRowBlock, Request, RowBlock, remedies, with_numbers
from dateshard.pipeline.raw.formats.header import NO_QUOTE, STRAY, Header, fields_of, read_header
from dateshard.pipeline.raw.formats.numbers import with_points
from dateshard.pipeline.raw.formats.text import blocks, count_of, row_ends
from dateshard.pipeline.source import Csv
from dateshard.shardstore.errors import DumpError, NoRowsError, counted, shorten

LONE_RETURN = re.compile(r"\r(?!\n)")
Types = Mapping[str, type[pl.DataType]]


@dataclass(frozen=True, slots=True)
class _File:
    """What all blocks of a file share."""

    path: Path
    request: Request
    named: Header
    kinds: Mapping[str, Kind]

    @property
    def header(self) -> tuple[str, ...]:
        return self.named.names

    @property
    def dialect(self) -> Csv:
        return self.request.csv


def read(path: Path, request: Request) -> Iterator[RowBlock]:
    """Rows of a CSV. Blank lines are no rows, but count as lines.

    Memory: a block of text and what is decoded of it.

    Raises:
        DumpError: names the row that is not UTF-8 or not readable, or has another number of fields (if such are refused).
    """
    texts = blocks(path, request)
    header = read_header(texts, path, request)
    file = _File(path, request, header, _kinds(header, path, request))
    row, empty = header.row + 1, True
    for block in chain([header.rest], texts):
        if block:
            count, decoded = _rows_of(block, file, row)
            if decoded is not None:
                empty = False
                yield decoded
            row += count
    if empty:
        where = request.where(path)
        what = "a header but no row" if request.csv.columns is None else "no row"
        raise NoRowsError(what, where=where, todo="Write the dump again, or remove it")


def _rows_of(block: bytes, file: _File, row: int, *, exact: bool = False) -> tuple[int, RowBlock | None]:
    """Returns (rows of a block with the blank ones, those that are not blank).

    Args:
        exact: each row is looked at, also where all together have as many fields as they should.
    """
    count, blank, ragged = _check_fields(block, file, row, exact=exact)
    rest = block if ragged is None else ragged.rest
    kept = _without(rest, blank, file.dialect) if len(blank) else rest
    rows = np.arange(row, row + count, dtype=np.int64)
    rows = np.delete(rows, blank) if len(blank) else rows
    if not len(rows):
        return count, None
    try:
        decoded = _decode(kept, file, rows)
    except DumpError:
        if exact or not file.request.ragged:
            raise
        return _rows_of(block, file, row, exact=True)
    if ragged is None:
        return count, decoded
    texts = ragged.texts.gather(np.delete(np.arange(count), blank))
    return count, RaggedRowBlock(
        path=file.path, frame=decoded.frame, row_R=rows, bad=decoded.bad, texts=texts, error=ragged.error
    )


def _kinds(header: Header, path: Path, request: Request) -> dict[str, Kind]:
    try:
        return request.resolve(path, header.names, header.row)
    except DumpError as error:
        todo = remedies.of_header(header, request) or error.todo
        raise DumpError(error.what, where=error.where, todo=todo) from None


@dataclass(frozen=True, slots=True)
class _RaggedRows:
    """The rows of a block that have another number of fields.

    Attributes:
        texts: what stands in them, null for all other rows, the blank ones too. rest: the block with empty fields in
            their place. error: what to say of the first one.
    """

    texts: pl.Series
    rest: bytes
    error: DumpError


def _check_fields(
    block: bytes, file: _File, row: int, *, exact: bool
) -> tuple[int, NDArray[np.int64], _RaggedRows | None]:
    """Returns (rows with the blank ones, positions of the blank ones, those of another number of fields) of a block.

    polars tells a row with more fields only where all columns are read, and one with fewer never.
    """
    quote = file.dialect.quote.encode() if file.dialect.quote else b""
    separator, wanted = file.dialect.separator.encode(), len(file.header) - 1
    quoted = bool(quote) and quote in block
    if not exact and not quoted and len(file.kinds) == len(file.header) and b"\r" not in block:
        count = count_of(block, b"\n")
        if count_of(block, separator) == wanted * count:
            return count, np.empty(0, dtype=np.int64), None
    data = np.frombuffer(block, dtype=np.uint8)
    quotes = np.flatnonzero(data == ord(quote)) if quoted else np.empty(0, dtype=np.int64)
    ends, separator_places = _outside(data, b"\n", quotes), _outside(data, separator, quotes)
    if b"\r" in block:
        _refuse_lone_return(data, _outside(data, b"\r", quotes), ends, file, row)
    if quoted:
        _refuse_stray_quote(data, quotes, ends, file, row)
    blank = _blank_rows(data, ends)
    separators = np.diff(np.searchsorted(separator_places, ends), prepend=0)
    separators[blank] = wanted  # a blank line has none
    if (separators != wanted).any():
        wrong = np.flatnonzero(separators != wanted)
        todo = _todo(block, ends, wrong, file, row)
        error = _other_fields(int(separators[wrong[0]]) + 1, file, row + int(wrong[0]), todo)
        if file.request.ragged and wanted:
            return len(ends), blank, _without_ragged(block, ends, wrong, separator * wanted, error)
        _locate(block, file, np.arange(row, row + len(ends), dtype=np.int64), todo)
        raise error
    return len(ends), blank, None


def _without_ragged(
    block: bytes, ends: NDArray[np.int64], wrong: NDArray[np.int64], empty: bytes, error: DumpError
) -> _RaggedRows:
    """Puts `empty` fields in the place of the wrong rows, and keeps what stood in them."""
    texts: list[str | None] = [None] * len(ends)
    pieces, at = list[bytes](), 0
    for k in wrong.tolist():
        start, end = int(ends[k - 1]) + 1 if k else 0, int(ends[k])
        texts[k] = block[start:end].decode(errors="replace").rstrip("\r")
        pieces += [block[at:start], empty]
        at = end
    return _RaggedRows(pl.Series(texts, dtype=pl.String), b"".join([*pieces, block[at:]]), error)


def _outside(data: NDArray[np.uint8], character: bytes, quotes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of a character outside quotes; the block begins and ends outside."""
    places = np.flatnonzero(data == ord(character))
    return places[np.searchsorted(quotes, places) % 2 == 0] if len(quotes) else places


def _refuse_lone_return(
    data: NDArray[np.uint8], returns: NDArray[np.int64], ends: NDArray[np.int64], file: _File, row: int
) -> None:
    """Some readers end a row at a carriage return without a newline, some take it for a character, some drop it."""
    lone = returns[data[returns + 1] != ord("\n")]  # a block ends with a newline
    if len(lone):
        where = file.request.where(file.path, row=row + int(np.searchsorted(ends, lone[0])))
        raise DumpError("a carriage return without a newline", where=where, todo="Correct the dump")


def _refuse_stray_quote(
    data: NDArray[np.uint8], quotes: NDArray[np.int64], ends: NDArray[np.int64], file: _File, row: int
) -> None:
    """Every second quote closes what the one before opened, only where each stands at an edge of its field.

    Else rows between two stray quotes are one field: in a column that nobody reads they would be gone in silence.
    """
    quote, separator = (ord(character or "\0") for character in (file.dialect.quote, file.dialect.separator))
    opens, closes = quotes[0::2], quotes[1::2]
    before, after = data[np.maximum(opens - 1, 0)], data[closes + 1]
    at_start = (opens == 0) | np.isin(before, (separator, ord("\n"), quote))
    at_end = np.isin(after, (separator, ord("\n"), ord("\r"), quote))
    if at_start.all() and at_end.all():
        return
    wrong = int(min(np.append(opens[~at_start], len(data))[0], np.append(closes[~at_end], len(data))[0]))
    what = STRAY if wrong in opens[~at_start] else "text after a closing quote"
    where = file.request.where(file.path, row=row + int(np.searchsorted(ends, wrong)))
    raise DumpError(what, where=where, todo=NO_QUOTE)


def _todo(block: bytes, ends: NDArray[np.int64], wrong: NDArray[np.int64], file: _File, row: int) -> str:
    """What to do about rows with another number of fields, as the rows from the first such one on show it."""
    first, starts = int(wrong[0]), np.concatenate([[0], ends[:-1] + 1])
    some = range(first, min(len(ends), first + remedies.MOST_LINES))
    lines = [block[starts[k] : ends[k]].decode(errors="replace").rstrip("\r") for k in some]
    remedy = remedies.of_fields(lines, wrong - first, row + first, file.named, file.dialect)
    few = wrong + row if 2 * len(wrong) < len(ends) else wrong[:0]  # else it is no matter of single rows
    return remedy or f"Correct the dump{remedies.to_leave_out(few.tolist(), file.request)}"


def _other_fields(count: int, file: _File, row: int, todo: str) -> DumpError:
    names = "the header" if file.dialect.columns is None else "pipeline.source.csv.columns"
    what = f"the row has {count} fields, {names} {len(file.header)}"
    return DumpError(what, where=file.request.where(file.path, row=row), todo=todo)


# A row with one field only has no separator either; dumps have a time and a value at least.
def _blank_rows(data: NDArray[np.uint8], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    starts = np.concatenate([[0], ends[:-1] + 1])
    length = ends - starts
    return np.flatnonzero((length == 0) | ((length == 1) & (data[starts] == ord("\r"))))


def _without(block: bytes, blank: NDArray[np.int64], dialect: Csv) -> bytes:
    ends = row_ends(block, (dialect.quote or "\0").encode())  # a block has no NUL byte
    starts = np.concatenate([[0], ends[:-1] + 1])
    gone = set(blank.tolist())
    return b"".join(block[a : b + 1] for i, (a, b) in enumerate(zip(starts, ends, strict=True)) if i not in gone)


def _locate(block: bytes, file: _File, rows: NDArray[np.int64], todo: str = "Correct the dump") -> None:
    """Walks a block row by row and raises DumpError at the first of wrong structure; returns if there is none.

    Args:
        rows: the number of each of its rows, blank ones too if they are in the block.
        todo: about a row of another number of fields.
    """
    try:
        text = LONE_RETURN.sub(" ", block.decode())  # for csv it ends a row, for us it is a character
    except UnicodeDecodeError as error:
        at = file.request.where(file.path, row=_row_at(rows, block.count(b"\n", 0, error.start)))
        raise DumpError("not UTF-8", where=at, todo="Correct the dump, or set pipeline.source.csv.encoding") from None
    index = 0
    try:
        for index, fields in enumerate(fields_of(text, file.dialect), start=1):
            if fields and len(fields) != len(file.header):
                raise _other_fields(len(fields), file, _row_at(rows, index - 1), todo)
    except csv.Error as fault:
        what, at = f"not a readable CSV from here on: {fault}", file.request.where(file.path, row=_row_at(rows, index))
        raise DumpError(what, where=at, todo="Correct the dump") from None


def _row_at(rows: NDArray[np.int64], index: int) -> int:
    """The number of a row; beyond the last one, where a reader of CSV sees more rows than there are, counted on."""
    last = len(rows) - 1
    return int(rows[min(index, last)]) + max(0, index - last)


def _decode(block: bytes, file: _File, rows: NDArray[np.int64]) -> RowBlock:
    numbers = [name for name, kind in file.kinds.items() if kind == "number"]
    as_text = file.dialect.decimal == "," or file.dialect.thousands is not None  # polars would take a point as well
    types: dict[str, type[pl.DataType]] = {} if as_text else dict.fromkeys(numbers, pl.Float64)
    if file.request.numeric_time:
        types |= {name: pl.Int64 for name, kind in file.kinds.items() if kind == "time"}
    try:
        frame = _parse(block, file, types)
    except pl.exceptions.PolarsError:
        frame = _parse_texts(block, file, rows)
    if len(frame) != len(rows):
        _locate(block, file, rows)
        what = f"{counted(len(rows), 'row')} became {len(frame):,}: a stray quote or line end"
        raise DumpError(what, where=file.request.where(file.path, row=int(rows[0])), todo="Correct the dump")
    written = frame
    if as_text:
        frame = frame.with_columns(with_points(frame[name], file.dialect) for name in numbers)
    frame, bad = with_numbers(frame, file.kinds)
    if as_text:  # what is no number is named as the file has it
        bad = {name: written[name].zip_with(texts.is_not_null(), texts) for name, texts in bad.items()}
    return RowBlock(file.path, frame, rows, bad)


def _parse_texts(block: bytes, file: _File, rows: NDArray[np.int64]) -> pl.DataFrame:
    """All columns as text: what is no number or time is told by its row later."""
    try:
        return _parse(block, file, {})
    except pl.exceptions.PolarsError as error:
        _locate(block, file, rows)
        what, at = f"not a readable CSV: {shorten(str(error))}", file.request.where(file.path, row=int(rows[0]))
        raise DumpError(what, where=at, todo="Correct the dump, or pipeline.source.csv") from None


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
