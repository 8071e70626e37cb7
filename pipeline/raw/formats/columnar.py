"""Parquet and Arrow IPC (files and streams). Their types are kept for times and turned into ours for the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from dateshard.pipeline.raw.formats import (
    Kind,
    ListedRowBlock,
    NamePlaces,
    Request,
    RowBlock,
    as_names,
    read_rows,
    with_numbers,
)
from dateshard.pipeline.raw.formats.packed import misnamed
from dateshard.shardstore.errors import DumpError, NoRowsError, shorten

ARROW_MAGIC = b"ARROW1"
BUFFER_BYTES = 1 << 16
KNOWN_TYPES = (  # of others polars knows nothing, or ends in a panic
    *(pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal128, pa.types.is_null),
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    *(pa.types.is_timestamp, pa.types.is_date, pa.types.is_time),
)


def read_parquet(path: Path, request: Request) -> Iterator[RowBlock]:
    """Rows of a Parquet file. Memory: a page and BUFFER_BYTES a column, whatever the row groups' size.

    Raises:
        DumpError: damaged, a missing column, or a column of a type that is no number or text.
    """
    with _faults(path, request), pq.ParquetFile(path, page_checksum_verification=True) as file:
        header = list(file.schema_arrow.names)
        kinds = request.resolve(path, header)
        texts = [name for name, kind in kinds.items() if kind == "text"]
        _refuse_types(file.schema_arrow, kinds, path, request)
        if not file.metadata.num_rows:
            raise _no_row(path, request)
        streamed = {"pre_buffer": False, "buffer_size": BUFFER_BYTES}  # else a whole row group is read ahead
        with pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=texts, **streamed) as again:
            batches = again.iter_batches(read_rows(len(kinds)), columns=list(kinds), use_threads=False)
            yield from _pieces(_validated(batches, list(kinds)), path, kinds, places_only=request.places_only)


def read_arrow(path: Path, request: Request) -> Iterator[RowBlock]:
    """Rows of an Arrow IPC file or stream.

    Raises:
        DumpError: as for Parquet.
    """
    with _faults(path, request), open(path, "rb") as stream:
        is_file = stream.read(len(ARROW_MAGIC)) == ARROW_MAGIC
        stream.seek(0)
        with (pa.ipc.open_file if is_file else pa.ipc.open_stream)(stream) as reader:
            kinds = request.resolve(path, list(reader.schema.names))
            _refuse_types(reader.schema, kinds, path, request)
            batches = (reader.get_batch(k) for k in range(reader.num_record_batches)) if is_file else iter(reader)
            empty = True
            for piece in _pieces(_validated(batches, list(kinds)), path, kinds, places_only=request.places_only):
                empty = False
                yield piece
            if empty:
                raise _no_row(path, request)


def _validated(batches: Iterator[Any], names: list[str]) -> Iterator[Any]:
    """Yields the wanted columns of each batch, validated in full.

    IPC files carry no checksum, pages of Parquet not always: offsets that lead out of their buffers would be read as
    they are, and bytes that are no UTF-8 end in a panic."""
    for batch in batches:
        chosen = batch.select(names)
        chosen.validate(full=True)
        yield chosen


def _pieces(batches: Iterator[Any], path: Path, kinds: dict[str, Kind], *, places_only: bool) -> Iterator[RowBlock]:
    row, lists, named = 1, dict[str, tuple[Any, pl.Series | None]](), [k for k, kind in kinds.items() if kind == "text"]
    for batch in batches:
        if not batch.num_rows:
            continue
        columns = dict(zip(batch.schema.names, map(_with_known_zone, batch.columns), strict=True))
        places = {name: of for name in named if (of := _places(columns[name], lists, name))}
        bare = pa.table({name: column for name, column in columns.items() if name not in places})
        frame = pl.from_arrow(bare)  # without the schema's metadata: polars panics where that is damaged
        assert isinstance(frame, pl.DataFrame)
        texts = [name for name in named if name not in places]
        kept = {} if places_only and frame.width else places  # a frame without a column has no rows
        listed = [of.texts().alias(name) for name, of in kept.items()]
        frame = frame.with_columns([as_names(frame[name]) for name in texts] + listed)
        frame, bad = with_numbers(frame.select(name for name in kinds if name in frame.columns), kinds)
        rows = np.arange(row, row + len(frame), dtype=np.int64)
        yield ListedRowBlock(path, frame, rows, bad, places=places)
        row += len(frame)


def _places(column: Any, known: dict[str, tuple[Any, pl.Series | None]], name: str) -> NamePlaces | None:
    """A column that is kept as places in a list of texts, as such; None for another.

    Args:
        known: the list of each column before, as the file has it and as texts: mostly that of the next batch too.
    """
    kind = column.type
    if not isinstance(kind, pa.DictionaryType) or kind.value_type not in (pa.string(), pa.large_string()):
        return None
    listed, names = known.get(name, (None, None))
    if listed is None or not column.dictionary.equals(listed):
        names = pl.Series(name, pl.from_arrow(column.dictionary), dtype=pl.String)
        names = names if names.n_unique() == len(names) else None
        known[name] = column.dictionary, names
    if names is None:
        return None
    indices = pl.Series(pl.from_arrow(column.indices))  # what pyarrow computes with takes 50 MB
    indices = indices.cast(pl.Int32).fill_null(-1) if column.indices.null_count else indices
    return NamePlaces(indices.to_numpy().astype(np.int32, copy=False), names)


def _with_known_zone(column: Any) -> Any:
    """Timestamps of a zone that polars knows: an instant stays the same, so an offset such as `+05:30` becomes UTC."""
    kind = column.type
    if not pa.types.is_timestamp(kind) or kind.tz is None:
        return column
    try:
        ZoneInfo(kind.tz)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return column.cast(pa.timestamp(kind.unit, "UTC"))
    return column


def _refuse_types(schema: pa.Schema, kinds: dict[str, Kind], path: Path, request: Request) -> None:
    for name in kinds:
        kind = schema.field(name).type
        plain = kind.value_type if isinstance(kind, pa.DictionaryType) else kind
        if not any(known(plain) for known in KNOWN_TYPES):
            where, todo = request.where(path, column=name), "Write it as numbers, text or times"
            raise DumpError(f"the column's type is {shorten(str(kind))}", where=where, todo=todo)


def _no_row(path: Path, request: Request) -> NoRowsError:
    return NoRowsError("no row", where=request.where(path), todo="Write the dump again, or remove it")


@contextmanager
def _faults(path: Path, request: Request) -> Iterator[None]:
    try:
        if wrong := misnamed(path):
            raise DumpError(wrong[0], where=request.where(path), todo=wrong[1])
        yield
    except (MemoryError, pl.exceptions.PanicException) as error:
        what = "more memory than there is" if isinstance(error, MemoryError) else shorten(str(error))
        raise DumpError(f"cannot be read: {what}", where=request.where(path), todo="Write the dump again") from None
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError, ValueError) as error:
        text = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        what = f"cannot be read: {getattr(error, 'strerror', None) or text}"
        raise DumpError(what, where=request.where(path), todo="Write the dump again") from None
