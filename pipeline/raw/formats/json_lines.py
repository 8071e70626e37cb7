"""JSON Lines: one object a row. A key that a row lacks is a missing value."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dateshard.pipeline.raw.formats import Kind, Request, RowBlock, with_numbers
from dateshard.pipeline.raw.formats.text import blocks, count_of
from dateshard.pipeline.source import Csv
from dateshard.shardstore.errors import DumpError, NoRowsError, counted, shorten

Types = dict[str, type[pl.DataType]]
ESCAPED = re.compile(rb"\\u(?:[dD][89a-fA-F]|0000)")  # a half of a pair, or NUL: polars mends the one in silence
WRONG = re.compile("[\0\ud800-\udfff]")


def read(path: Path, request: Request) -> Iterator[RowBlock]:
    """Rows of a JSON Lines file; the columns are the keys that any of its rows has.

    Where the first row lacks a wanted one, the file is read twice up to the row that has it; a wide dump is read twice.

    Raises:
        DumpError: names the row that is no JSON object, or repeats a key.
    """
    plain = Csv(quote=None, encoding=request.csv.encoding, final_newline=request.csv.final_newline)
    unquoted = Request(columns=request.columns, csv=plain, hashes=request.hashes, date=request.date)
    file, row = None, 1
    for block in blocks(path, unquoted):
        if file is None and block.strip():
            number, line = next((k, line) for k, line in enumerate(block.split(b"\n"), start=row) if line.strip())
            keys = list(_object(line, path, request, number))
            keys += _later_keys(path, unquoted, request, set(keys))
            file = _File(path, request, request.resolve(path, keys))
        if block.strip():
            assert file is not None
            yield _decode(block, file, row)
        row += count_of(block, b"\n")
    if file is None:
        raise NoRowsError("no row", where=request.where(path), todo="Write the dump again, or remove it")


def _later_keys(path: Path, unquoted: Request, request: Request, known: set[str]) -> list[str]:
    """Lists wanted keys that the first row lacks and any other has. A row that is no object is told when it is decoded."""
    wide, later = request.others, list[str]()
    left = {name: json.dumps(name, ensure_ascii=False).encode() for name in request.columns if name not in known}
    for block in blocks(path, replace(unquoted, hashes=None)) if left or wide is not None else ():
        for line in block.split(b"\n"):
            if wide is None and b"\\" not in line and not any(text in line for text in left.values()):
                continue
            with suppress(ValueError, RecursionError):
                parsed = json.loads(line)
                new = [key for key in parsed if key not in known] if isinstance(parsed, dict) else []
                later += [key for key in new if key in left or (wide is not None and fnmatchcase(key, wide))]
                known.update(new)
                left = {name: text for name, text in left.items() if name not in known}
        if not left and wide is None:
            break
    return later


@dataclass(frozen=True, slots=True)
class _File:
    """What all blocks of a file share."""

    path: Path
    request: Request
    kinds: dict[str, Kind]


def _decode(block: bytes, file: _File, row: int) -> RowBlock:
    kinds = file.kinds
    types: Types = {name: pl.Float64 if kind == "number" else pl.String for name, kind in kinds.items()}
    if file.request.numeric_time:
        types |= {name: pl.Int64 for name, kind in kinds.items() if kind == "time"}
    try:
        frame = _parse(block, types)
    except pl.exceptions.PolarsError:
        frame = _parse_texts(block, file, row)
    rows = np.arange(row, row + count_of(block, b"\n"), dtype=np.int64)
    if len(frame) != len(rows):  # blank lines
        rows = np.fromiter(_lines(block, row), dtype=np.int64)
    if len(frame) != len(rows):
        what, where = f"{counted(len(rows), 'row')} became {len(frame):,}", file.request.where(file.path, row=row)
        raise DumpError(what, where=where, todo="Correct the dump")
    _refuse_characters(block, file, row)
    _refuse_repeated(block, file, frame, row)
    frame, bad = with_numbers(frame, kinds)
    frame, nested = _without_nested(frame, block, file, row)
    return RowBlock(file.path, frame, rows, bad | nested)


def _without_nested(
    frame: pl.DataFrame, block: bytes, file: _File, row: int
) -> tuple[pl.DataFrame, dict[str, pl.Series]]:
    """The frame without objects and lists in text columns, which polars takes for their text; and these, by column."""
    nested_by_name: dict[str, pl.Series] = {}
    for name in [name for name, kind in file.kinds.items() if kind == "text"]:
        nested = (frame[name].str.starts_with("{") | frame[name].str.starts_with("[")).fill_null(value=False)
        if not nested.any():
            continue
        lines = list(_lines(block, row).items())
        for at in nested.arg_true().to_list():
            value = _object(lines[at][1], file.path, file.request, lines[at][0]).get(name)
            nested[at] = isinstance(value, dict | list)
        if nested.any():
            nested_by_name[name] = frame[name].set(~nested, None)
    shown = (frame[name].set(texts.is_not_null(), None) for name, texts in nested_by_name.items())
    return frame.with_columns(shown), nested_by_name


def _lines(block: bytes, row: int) -> dict[int, bytes]:
    """Returns {row number: line} without the blank ones."""
    return {number: line for number, line in enumerate(block.split(b"\n"), start=row) if line.strip()}


def _parse(block: bytes, types: Types) -> pl.DataFrame:
    return pl.read_ndjson(io.BytesIO(block), schema=types)


def _parse_texts(block: bytes, file: _File, row: int) -> pl.DataFrame:
    """All columns as text: what is no number or time is told by its row later. true and false are 1 and 0."""
    types: Types = dict.fromkeys(file.kinds, pl.String)
    try:
        frame = _parse(block, types)
    except pl.exceptions.PolarsError:
        lines = _lines(block, row)
        for number, line in lines.items():
            _object(line, file.path, file.request, number)
        number, fault = _first_unreadable(lines, types)
        what, where = f"not JSON: {shorten(fault)}", file.request.where(file.path, row=number)
        raise DumpError(what, where=where, todo="Correct the dump") from None
    numbers = [name for name, kind in file.kinds.items() if kind == "number"]
    return frame.with_columns(_without_booleans(frame[name], block, file, row) for name in numbers)


def _without_booleans(texts: pl.Series, block: bytes, file: _File, row: int) -> pl.Series:
    """Replaces true and false by 1 and 0; the texts "true" and "false" stay what they are."""
    named = texts.is_in(["true", "false"])
    if not named.any():
        return texts
    if b'"true"' in block or b'"false"' in block:
        lines = list(_lines(block, row).items())
        for at in named.arg_true().to_list():
            value = _object(lines[at][1], file.path, file.request, lines[at][0]).get(texts.name)
            named[at] = isinstance(value, bool)
    return texts.zip_with(~named.fill_null(value=False), texts.replace({"true": "1", "false": "0"}))


def _first_unreadable(lines: Mapping[int, bytes], types: Types) -> tuple[int, str]:
    """Finds (row, why) of the first line that polars does not read though it is JSON for Python, by halving."""
    rows, low, high, fault = list(lines), 0, len(lines), ""
    while high - low > 1:
        middle = (low + high) // 2
        try:
            _parse(b"".join(lines[row] + b"\n" for row in rows[low:middle]), types)
            low = middle
        except pl.exceptions.PolarsError:
            high = middle
    try:
        _parse(lines[rows[low]] + b"\n", types)
    except pl.exceptions.PolarsError as error:
        fault = str(error)
    return rows[low], fault


def _object(line: bytes, path: Path, request: Request, row: int, twice: str | None = None) -> dict[str, Any]:
    """The object of one line, as the json module reads it; `twice` names a key that must not be repeated in it."""
    where, repeated = request.where(path, row=row), False

    def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        repeated = sum(key == twice for key, _ in pairs) > 1  # the outermost object comes last
        return dict(pairs)

    try:
        parsed = json.loads(line.decode(), parse_constant=_refuse_constant, object_pairs_hook=note)
    except (ValueError, RecursionError) as error:
        raise DumpError(f"not JSON: {error}", where=where, todo="Correct the dump") from None
    if not isinstance(parsed, dict):
        raise DumpError("the row is not a JSON object", where=where, todo="Correct the dump")
    if repeated:
        raise DumpError(f"the key '{shorten(twice or '')}' is repeated", where=where, todo="Correct the dump")
    return parsed


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it has no {name} (write null)")


def _refuse_characters(block: bytes, file: _File, row: int) -> None:
    if not ESCAPED.search(block):
        return
    for number, line in _lines(block, row).items():
        parsed = _object(line, file.path, file.request, number) if ESCAPED.search(line) else {}
        for name in file.kinds:
            text = parsed.get(name)
            if isinstance(text, str) and WRONG.search(text):
                what = "a NUL character" if "\0" in text else "half of a surrogate pair"
                where = file.request.where(file.path, column=name, row=number)
                raise DumpError(what, where=where, todo="Correct the dump")


def _refuse_repeated(block: bytes, file: _File, frame: pl.DataFrame, row: int) -> None:
    """Refuses a row in which a key comes twice: polars takes the first value, other readers the last.

    Keys are counted, first those of the same length and last character; only of one that stands more often than the
    block has values and nulls every row is looked at.
    """
    data = np.frombuffer(block, dtype=np.uint8)
    quotes = np.flatnonzero(data == ord('"'))
    after = data[quotes + 1]  # a block ends with a newline
    blanks = bool((after <= ord(" ")).any())  # perhaps before a colon
    closing = np.flatnonzero(after == ord(":"))
    ends = quotes[closing]
    length, last = ends - quotes[np.maximum(closing - 1, 0)] - 1, data[ends - 1]
    for name in frame.columns:
        text = json.dumps(name, ensure_ascii=False).encode()[1:-1]
        at = ends[(length == len(text)) & (last == text[-1])] if text else ends
        values = len(frame) - frame[name].null_count()
        if len(at) > values:
            for k, character in enumerate(reversed(text), start=1):
                at = at[data[at - k] == character]
        repeated = len(at) > values and len(at) > values + _nulls(data, at)
        if repeated or blanks or b"\\" in text:
            for number, line in _lines(block, row).items():
                _object(line, file.path, file.request, number, twice=name)


def _nulls(data: NDArray[np.uint8], at: NDArray[np.int64]) -> int:
    """How many of the keys that end there are followed by null: no other value begins with an n."""
    value = data[at + 2]
    value = np.where(value == ord(" "), data[np.minimum(at + 3, len(data) - 1)], value)
    return int(np.count_nonzero(value == ord("n")))
