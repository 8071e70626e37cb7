"""The header of a CSV: the names of its columns, from its first line or from the configuration."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dateshard.pipeline.raw.formats import LONGEST_ROW, Request
from dateshard.pipeline.raw.formats.frame import is_framed
from dateshard.pipeline.raw.formats.text import row_ends
from dateshard.pipeline.source import Csv
from dateshard.shardstore.errors import DumpError

STRAY = "a quote inside an unquoted field"
NO_QUOTE = "Correct the dump, or set pipeline.source.csv.quote: null"
FURTHER = "..."  # as the last of source.csv.columns: further columns that nobody reads
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?')  # what Excel writes first, and reads
BLANK_LINES = re.compile(rb"(?:\r?\n)*")


@dataclass(frozen=True, slots=True)
class Header:
    """The names of a file's columns, and the text below them.

    Attributes:
        row: number of the line that names them; of the line before the first one where the configuration names them.
        line: that line, empty where the configuration names them.
        rest: of the first block.
    """

    names: tuple[str, ...]
    row: int
    line: str
    rest: bytes


def read_header(texts: Iterator[bytes], path: Path, request: Request) -> Header:
    """Takes the header off the first of a file's blocks. Where lines are left out, blank ones may stand above it.

    Raises:
        DumpError: it is not readable, or a line `sep=` names another separator than the configuration.
    """
    row, block = 0, b""
    for block in texts:
        row, block = _without_blank_lines(row, block, request.csv)
        if not block:
            continue
        head, rest = _split(block, request.csv)
        if row == 0 and (named := SEPARATOR_LINE.fullmatch(head)):
            _refuse_other_separator(named[1], path, request)
            row, block = _without_blank_lines(1, rest, request.csv)
            if not block:
                continue
            head, rest = _split(block, request.csv)
        if request.csv.columns is not None:
            return Header(_given(request.csv, head), row, "", block)
        return Header(_names(head, path, request, row + 1), row + 1, head, rest)
    return Header((), row + 1, "", block)


def _without_blank_lines(row: int, block: bytes, dialect: Csv) -> tuple[int, bytes]:
    """Returns (number of the last line that was taken off, the rest of the block)."""
    blank = BLANK_LINES.match(block) if is_framed(dialect) else None
    return (row + blank[0].count(b"\n"), block[blank.end() :]) if blank else (row, block)


def _split(block: bytes, dialect: Csv) -> tuple[str, bytes]:
    quote, length = (dialect.quote or "\0").encode(), 1 << 16
    while not len(ends := row_ends(block[:length], quote)):  # a block ends with a whole row, so there is one
        length *= 4
    end = int(ends[0])
    return block[:end].decode(errors="replace").rstrip("\r"), block[end + 1 :]


def _refuse_other_separator(separator: str, path: Path, request: Request) -> None:
    if separator != request.csv.separator:
        what, where = f"the file's first line names the separator {separator!r}", request.where(path, row=1)
        raise DumpError(what, where=where, todo=f"Set pipeline.source.csv.separator: {separator!r}")


def _given(dialect: Csv, first: str) -> tuple[str, ...]:
    """The names in the configuration, filled up to the number of fields of the first row where they end with `...`."""
    names = dialect.columns or ()
    if names[-1] != FURTHER:
        return names
    try:
        fields = next(fields_of(first, dialect))
    except csv.Error:  # is told with its row when the rows are read
        fields = []
    return names[:-1] + ("",) * max(0, len(fields) - len(names) + 1)


def _names(text: str, path: Path, request: Request, row: int) -> tuple[str, ...]:
    where, todo = request.where(path, row=row), "Correct the dump, or set pipeline.source.csv.encoding"
    if not text:
        return ()
    if "\ufffd" in text:
        raise DumpError("the header is not UTF-8", where=where, todo=todo)
    try:
        first, *more = fields_of(text, request.csv)
    except csv.Error as fault:
        raise DumpError(f"the header is not readable: {fault}", where=where, todo="Correct the dump") from None
    if more:
        raise DumpError(f"{STRAY} in the header", where=where, todo=NO_QUOTE)
    return tuple(first)


def fields_of(text: str, dialect: Csv) -> Iterator[list[str]]:
    """The fields of each row, as Python's csv module reads them.

    Raises, while it is read:
        csv.Error
    """
    csv.field_size_limit(LONGEST_ROW)  # of this process; the module's own limit is 128 KiB
    stream = io.StringIO(text, newline="")
    if dialect.quote is None:
        return csv.reader(stream, delimiter=dialect.separator, quoting=csv.QUOTE_NONE)
    return csv.reader(stream, delimiter=dialect.separator, quotechar=dialect.quote, strict=True)
