"""JSON Lines: one object a row. A key that a row lacks is a missing value."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.formats import Kind, Piece, Request, with_numbers
from pipeline.formats.text import blocks
from shardstore.errors import DumpError

Types = dict[str, type[pl.DataType]]


def read(path: Path, request: Request) -> Iterator[Piece]:
    """Rows of a JSON Lines file; the columns are the keys of its first row.

    Raises:
        DumpError: names the row that is no JSON object.
    """
    unquoted = Request(request.columns, request.csv.model_copy(update={"quote": None}), date=request.date)
    kinds: dict[str, Kind] | None = None
    row = 1
    for block in blocks(path, unquoted):
        lines = block.splitlines()
        rows = np.asarray([row + k for k, line in enumerate(lines) if line.strip()], dtype=np.int64)
        if len(rows):
            if kinds is None:
                first = _object(lines[int(rows[0]) - row], path, request, int(rows[0]))
                kinds = request.resolve(path, list(first))
            yield _decode(block, lines, path, request, kinds, rows)
        row += len(lines)
    if kinds is None:
        raise DumpError("no row", where=request.where(path), todo="Write the dump again, or remove it")


def _decode(
    block: bytes, lines: list[bytes], path: Path, request: Request, kinds: dict[str, Kind], rows: np.ndarray[Any, Any]
) -> Piece:
    types: Types = {name: pl.Float64 if kind == "number" else pl.String for name, kind in kinds.items()}
    if request.numeric_time:
        types |= {name: pl.Int64 for name, kind in kinds.items() if kind == "time"}
    try:
        frame = _parse(block, types)
    except pl.exceptions.PolarsError as error:
        for k, line in enumerate(lines):
            if line.strip():
                _object(line, path, request, int(rows[0]) + k)
        try:
            frame = _parse(block, dict.fromkeys(kinds, pl.String))
        except pl.exceptions.PolarsError:
            what = f"not readable JSON Lines: {str(error).splitlines()[0]}"
            raise DumpError(what, where=request.where(path, row=int(rows[0])), todo="Correct the dump") from None
    frame, bad = with_numbers(frame, kinds)
    return Piece(path, frame, rows, bad)


def _parse(block: bytes, types: Types) -> pl.DataFrame:
    return pl.read_ndjson(io.BytesIO(block), schema=types)


def _object(line: bytes, path: Path, request: Request, row: int) -> dict[str, Any]:
    where = request.where(path, row=row)
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DumpError(f"not JSON: {error}", where=where, todo="Correct the dump") from None
    if not isinstance(found, dict):
        raise DumpError("the row is no JSON object", where=where, todo="Correct the dump")
    return found
