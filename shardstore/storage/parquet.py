"""A shard as tidy rows in one Parquet file: for polars, duckdb, pandas, and whoever else reads Parquet.

    time                 timestamp in UTC, ns          one row a step and node, ordered by step, then node
    node                 text, dictionary encoded
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

from shardstore.storage import About, Arrays

CODE = 1
KEY = b"dateshard"
LEVEL = 3  # of zstd
KEYS = ("time", "node")


def columns(features: Sequence[str]) -> list[str]:
    """All columns, in order."""
    return [*KEYS, *features, *map(mask_column, features)]


def mask_column(feature: str) -> str:
    """Where a feature's cells were observed."""
    return f"{feature}_observed"


def encode(arrays: Arrays, about: About, date: dt.date) -> memoryview:
    """Memory: a copy of the date's arrays, and 12 bytes a row."""
    names = [feature.name for feature in about.features]
    table = pa.table(_rows(arrays, about), names=columns(names))
    described = {
        **about.to_json(),
        "format": CODE,
        "date": str(date),
        "shape": list(arrays["values"].shape),
        "masked": "observed" in arrays,
    }
    metadata = {KEY: json.dumps(described, sort_keys=True, ensure_ascii=False).encode()}
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata(metadata),
        sink,
        compression="zstd",
        compression_level=LEVEL,
        use_dictionary=list(KEYS),
        column_encoding=dict.fromkeys(names, "BYTE_STREAM_SPLIT"),
    )
    return memoryview(sink.getvalue())


def _rows(arrays: Arrays, about: About) -> list[pa.Array]:
    values_TNF, observed_TNF = arrays["values"], arrays.get("observed")
    steps, nodes, _ = values_TNF.shape
    time = pa.array(np.repeat(arrays["time"].astype("<i8"), nodes)).cast(pa.timestamp("ns", "UTC"))
    codes = pa.array(np.tile(np.arange(nodes, dtype=np.int32), steps))
    found = [time, pa.DictionaryArray.from_arrays(codes, pa.array(about.nodes, pa.string()))]
    found += [pa.array(_flat(values_TNF, index)) for index in range(len(about.features))]
    if observed_TNF is None:
        return [*found, *(pa.array(np.ones(steps * nodes, bool)) for _ in about.features)]
    return [*found, *(pa.array(_flat(observed_TNF, index)) for index in range(len(about.features)))]


def _flat(array_TNF: NDArray[Any], index: int) -> NDArray[Any]:
    return np.ascontiguousarray(array_TNF[..., index]).reshape(-1)


def decode(data: memoryview) -> dict[str, NDArray[Any]]:
    """Memory: the date's arrays, and a copy of them.

    Raises:
        ValueError: no Parquet, or other columns, rows or metadata than `encode` writes.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(pa.py_buffer(data)))
        described = json.loads((file.schema_arrow.metadata or {})[KEY])
        steps, nodes, count = described["shape"]
        names = [feature["name"] for feature in described["features"]]
        if file.schema_arrow.names != columns(names) or (count, steps * nodes) != (len(names), file.metadata.num_rows):
            raise ValueError(file.schema_arrow.names)
        table = file.read(use_threads=False)
    except (pa.ArrowException, OSError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"no Parquet file of a date: {error}") from None
    time_TN = _numpy(table["time"].cast(pa.int64())).reshape(steps, nodes)
    if not (time_TN == time_TN[:, :1]).all():
        raise ValueError("rows are not ordered by time")
    found: dict[str, NDArray[Any]] = {"values": _stack(table, names, (steps, nodes), np.float32)}
    found["time"] = np.ascontiguousarray(time_TN[:, 0]) if nodes else np.empty(0, np.int64)
    if described["masked"]:
        found["observed"] = _stack(table, [mask_column(name) for name in names], (steps, nodes), np.bool_)
    return found


def _stack(table: pa.Table, names: Sequence[str], shape: tuple[int, int], dtype: type) -> NDArray[Any]:
    """[T, N, F] of F columns; ValueError for a null or another type."""
    stacked: NDArray[Any] = np.empty((*shape, len(names)), dtype)
    for index, name in enumerate(names):
        column = _numpy(table[name])
        if column.dtype != dtype:
            raise ValueError(f"{name} is {column.dtype}")
        stacked[..., index] = column.reshape(shape)
    return stacked


def _numpy(column: pa.ChunkedArray) -> NDArray[Any]:
    if column.null_count:
        raise ValueError("a row is null")
    found: NDArray[Any] = column.to_numpy()
    return found
