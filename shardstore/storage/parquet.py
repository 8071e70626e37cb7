"""A shard as tidy rows in one Parquet file: for polars, duckdb, pandas, and whoever else reads Parquet.

    time                 timestamp in UTC, ns          one row a step and node, ordered by step, then node
    node                 text, dictionary encoded
    cut                  text, dictionary encoded      only where records are cut into pieces: that which the row is of
    <feature>            float32, scaled and filled as training reads it: no row is null
    <feature>_observed   boolean                       False where the cell was filled or is empty

The file's metadata `dateshard` is JSON: dataset, date, time zone, step, shape, ids, and each feature's scale
(`About.to_json`). Its bytes depend on the version of pyarrow; the arrays that come back do not.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dateshard.shardstore.layouts.events import cut_starts, decode_names, encode_names
from dateshard.shardstore.storage import About, Arrays

CODE = 1
KEY = b"dateshard"
LEVEL = 3  # of zstd
KEYS = ("time", "node")
CUT = "cut"
TIME = pa.timestamp("ns", "UTC")


def columns(features: Sequence[str], *, cut: bool = False) -> list[str]:
    """All columns, in order."""
    return [*KEYS, *([CUT] if cut else []), *features, *map(mask_column, features)]


def mask_column(feature: str) -> str:
    """Where a feature's cells were observed."""
    return f"{feature}_observed"


def encode(arrays: Arrays, about: About, date: dt.date) -> memoryview:
    """Encodes a date as one Parquet table; memory: a copy of the date's arrays, and 12 bytes a row."""
    names = [feature.name for feature in about.features]
    table = pa.Table.from_arrays(_rows(arrays, about), names=columns(names, cut="cuts" in arrays))
    described = {
        **about.to_json(),
        "format": CODE,
        "date": str(date),
        "shape": list(arrays["values"].shape),
        "masked": "observed" in arrays,
    } | ({"cut": True} if "cuts" in arrays else {})
    metadata = {KEY: json.dumps(described, sort_keys=True, ensure_ascii=False).encode()}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd", compression_level=LEVEL)
    return memoryview(sink.getvalue())


def _rows(arrays: Arrays, about: About) -> list[pa.Array]:
    values_TNF, observed_TNF = arrays["values"], arrays.get("observed")
    steps, nodes, count = values_TNF.shape
    time = np.repeat(arrays["time"].astype("<i8"), nodes)
    codes = _array(pa.int32(), np.tile(np.arange(nodes, dtype=np.int32), steps))
    table_columns = [_array(TIME, time), pa.DictionaryArray.from_arrays(codes, _texts(about.nodes))]
    if "cuts" in arrays:
        cut_T = np.repeat(np.arange(len(arrays["cuts"]), dtype=np.int32), np.diff(np.append(arrays["cuts"], steps)))
        names = _texts(decode_names(arrays["cut_names"]))
        table_columns.append(pa.DictionaryArray.from_arrays(_array(pa.int32(), np.repeat(cut_T, nodes)), names))
    table_columns += [_array(pa.float32(), _flat(values_TNF, index)) for index in range(count)]
    if observed_TNF is None:
        observed_TNF = np.broadcast_to(np.True_, values_TNF.shape)
    return table_columns + [_array(pa.bool_(), _flat(observed_TNF, index)) for index in range(count)]


def _flat(array_TNF: NDArray[Any], index: int) -> NDArray[Any]:
    return np.ascontiguousarray(array_TNF[..., index]).reshape(-1)


def _array(kind: pa.DataType, flat: NDArray[Any]) -> pa.Array:
    """Straight from the buffer: `pa.array` imports pandas, wherever that is installed, for half a second and 50 MB."""
    packed = np.packbits(flat, bitorder="little") if flat.dtype == np.bool_ else flat
    return pa.Array.from_buffers(kind, len(flat), [None, pa.py_buffer(packed)])


def _texts(texts: Sequence[str]) -> pa.Array:
    encoded = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.large_string(), len(encoded), buffers).cast(pa.string())


def decode(data: memoryview) -> dict[str, NDArray[Any]]:
    """Decodes a date's arrays; memory: the arrays, and a copy of them.

    Raises:
        ValueError: no Parquet, or other columns, rows or metadata than `encode` writes.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(pa.py_buffer(data)))
        described = json.loads((file.schema_arrow.metadata or {})[KEY])
        steps, nodes, count = described["shape"]
        names = [feature["name"] for feature in described["features"]]
        cut = described.get("cut", False)
        if file.schema_arrow.names != columns(names, cut=cut) or (count, steps * nodes) != (
            len(names),
            file.metadata.num_rows,
        ):
            raise ValueError(file.schema_arrow.names)
        table = file.read(use_threads=False)
    except (pa.ArrowException, OSError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"no Parquet file of a date: {error}") from None
    time_TN = _numpy(table["time"], TIME, np.int64).reshape(steps, nodes)
    if not (time_TN == time_TN[:, :1]).all():
        raise ValueError("rows are not ordered by time")
    arrays = {"values": _stack(table, names, (steps, nodes), (pa.float32(), np.float32))}
    arrays["time"] = np.ascontiguousarray(time_TN[:, 0]) if nodes else np.empty(0, np.int64)
    if cut:
        arrays |= _cuts(table[CUT], nodes)
    if described["masked"]:
        masks = [mask_column(name) for name in names]
        arrays["observed"] = _stack(table, masks, (steps, nodes), (pa.bool_(), np.bool_))
    return arrays


def _cuts(column: pa.ChunkedArray, nodes: int) -> dict[str, NDArray[Any]]:
    """The pieces that rows name; ValueError for another type."""
    if column.type != pa.dictionary(pa.int32(), pa.string()) or column.null_count:
        raise ValueError(f"a column of {column.type} with {column.null_count} nulls, not of names")
    whole = column.unify_dictionaries()
    codes_T = np.concatenate([np.asarray(chunk.indices) for chunk in whole.chunks])[::nodes]
    starts = cut_starts(codes_T)
    names = whole.chunk(0).dictionary.to_pylist()
    return {"cuts": starts, "cut_names": encode_names([names[code] for code in codes_T[starts].tolist()])}


def _stack(
    table: pa.Table, names: Sequence[str], shape: tuple[int, int], kinds: tuple[pa.DataType, type]
) -> NDArray[Any]:
    """Stacks F columns to [T, N, F]."""
    stacked: NDArray[Any] = np.empty((*shape, len(names)), kinds[1])
    for index, name in enumerate(names):
        stacked[..., index] = _numpy(table[name], *kinds).reshape(shape)
    return stacked


def _numpy(column: pa.ChunkedArray, kind: pa.DataType, dtype: type) -> NDArray[Any]:
    """Straight from the buffers, as `_array`. ValueError for a null or another type."""
    if column.type != kind or column.null_count:
        raise ValueError(f"a column of {column.type} with {column.null_count} nulls, not of {kind}")
    parts: list[NDArray[Any]] = [np.empty(0, dtype)]
    for chunk in column.chunks:
        data, rows = chunk.buffers()[1], slice(chunk.offset, chunk.offset + len(chunk))
        if dtype is np.bool_:
            parts.append(np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[rows].view(np.bool_))
        else:
            parts.append(np.frombuffer(data, dtype)[rows])
    return np.concatenate(parts)
