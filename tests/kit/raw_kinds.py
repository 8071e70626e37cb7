"""The rows that are mutated, in every format that the pipeline reads."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tests.kit.raw_oracle import csv_rows, json_rows

ROWS = 24
DIALECT = {"separator": ";", "decimal": ",", "encoding": "latin-1"}


@dataclass(frozen=True)
class Kind:
    """A format: how the rows are written, how files of it are mutated, and what reads them independently."""

    name: str
    suffix: str
    write: Callable[[pl.DataFrame], bytes]
    textual: bool = False
    source: dict[str, Any] = field(default_factory=dict)
    rows: Callable[[bytes], Iterator[dict[str, Any]]] | None = None
    packed: Callable[[bytes], bytes] | None = None


def frame() -> pl.DataFrame:
    """Rows with columns that nobody reads on both sides, texts of all lengths, a missing value and a quote."""
    random = np.random.default_rng(8)
    nodes = ["a", "nœud 2", 'say "x"', "b,c", "站"]
    speed = [None if k == 5 else round(float(random.normal(60, 12)), 2) for k in range(ROWS)]
    columns: dict[str, Any] = {
        "id": list(range(100, 100 + ROWS)),
        "time": [f"2024-03-01T{k:02d}:{k * 2:02d}:30Z" for k in range(ROWS)],
        "node": [nodes[k % len(nodes)] for k in range(ROWS)],
        "speed": speed,
        "vehicles": [int(x) for x in random.integers(0, 1 << 40, ROWS)],
        "note": ["", "x y", "two\nlines", "z"] * (ROWS // 4),
    }
    return pl.DataFrame(columns)


def _csv(rows: pl.DataFrame) -> bytes:
    return rows.write_csv().encode()


def _plain_csv(rows: pl.DataFrame) -> bytes:
    """Without a quote or a column that nobody reads: the path that counts separators only."""
    names = pl.col("node").str.replace_all(r'[",]', "")
    return rows.with_columns(names).select("time", "node", "speed", "vehicles").write_csv().encode()


def _json(rows: pl.DataFrame) -> bytes:
    return rows.write_ndjson().encode()


def _utf16(rows: pl.DataFrame) -> bytes:
    return rows.write_csv().encode("utf-16")


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def _zstd(data: bytes) -> bytes:
    packed: bytes = pa.compress(data, codec="zstd", asbytes=True)
    return packed


def _wide(rows: pl.DataFrame) -> bytes:
    return rows.pivot("node", index="time", values="speed", maintain_order=True).write_csv().encode()


def _semicolons(rows: pl.DataFrame) -> bytes:
    text = rows.write_csv(separator=";", decimal_comma=True, quote_style="non_numeric")
    return text.replace("站", "zhan").replace("œ", "oe").encode("latin-1")


def _parquet(**options: Any) -> Callable[[pl.DataFrame], bytes]:
    def write(rows: pl.DataFrame) -> bytes:
        buffer = io.BytesIO()
        pq.write_table(rows.to_arrow(), buffer, row_group_size=10, **options)
        return buffer.getvalue()

    return write


def _typed(rows: pl.DataFrame) -> pl.DataFrame:
    times = pl.col("time").str.to_datetime("%Y-%m-%dT%H:%M:%S%#z", time_zone="UTC")
    return rows.with_columns(times, pl.col("node").cast(pl.Categorical))


def _arrow(rows: pl.DataFrame, *, stream: bool) -> bytes:
    buffer, table = io.BytesIO(), _typed(rows).to_arrow(compat_level=pl.CompatLevel.oldest())
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(buffer, table.schema) as writer:
        writer.write_table(table, max_chunksize=10)
    return buffer.getvalue()


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("csv", "csv", _csv, textual=True, rows=csv_rows),
        Kind("csv plain", "csv", _plain_csv, textual=True, rows=csv_rows),
        Kind("csv dialect", "csv", _semicolons, textual=True, source={"csv": DIALECT}),
        Kind("csv utf-16", "csv", _utf16, source={"csv": {"encoding": "utf-16"}}),
        Kind("csv wide", "csv", _wide, textual=True, source={"wide": {"value": "speed"}}),
        Kind("csv.gz", "csv.gz", _csv, textual=True, rows=csv_rows, packed=_gzip),
        Kind("csv.zst", "csv.zst", _csv, textual=True, rows=csv_rows, packed=_zstd),
        Kind("jsonl", "jsonl", _json, textual=True, rows=json_rows),
        Kind("jsonl.gz", "jsonl.gz", _json, textual=True, rows=json_rows, packed=_gzip),
        Kind("parquet", "parquet", _parquet(compression="zstd")),
        Kind("parquet plain", "parquet", _parquet(compression="NONE", use_dictionary=False)),
        Kind("parquet typed", "parquet", lambda rows: _parquet(write_page_checksum=True)(_typed(rows))),
        Kind("arrow", "arrow", lambda rows: _arrow(rows, stream=False)),
        Kind("arrow stream", "arrow", lambda rows: _arrow(rows, stream=True)),
    )
}  # fmt: skip
