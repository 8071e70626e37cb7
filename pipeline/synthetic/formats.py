"""Writes the same rows in every format: a writer per suffix, and other cuts and shapes of the rows in front of it.

Writers take frames one after the other, so that memory is that of one frame, and write the same bytes every time.
"""

from __future__ import annotations

import datetime as dt
import gzip
import io
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from dateshard.pipeline.synthetic.city import City, sensors
from dateshard.pipeline.synthetic.readings import records
from dateshard.pipeline.synthetic.truth import FEATURES, SECOND, STEP_SECONDS, day

ISO = "%Y-%m-%dT%H:%M:%S%:z"
Frames = Iterable[pl.DataFrame]
Writer = Callable[[Frames, IO[bytes]], None]


def in_text(frame: pl.DataFrame) -> pl.DataFrame:
    """Timestamps as ISO 8601 with the zone's offset; few times are formatted, and then taken for all rows."""
    if frame.is_empty() or not isinstance(frame["timestamp"].dtype, pl.Datetime):
        return frame.with_columns(pl.col("timestamp").cast(pl.String))
    times = frame.select(pl.col("timestamp").unique(maintain_order=True))
    texts = times.with_columns(text=pl.col("timestamp").dt.strftime(ISO))
    joined = frame.select("timestamp").join(texts, on="timestamp", how="left", maintain_order="left")
    return frame.with_columns(timestamp=joined["text"])


def _write_csv(frames: Frames, file: IO[bytes]) -> None:
    for number, frame in enumerate(frames):
        file.write(in_text(frame).write_csv(include_header=number == 0).encode())


def _write_json_lines(frames: Frames, file: IO[bytes]) -> None:
    for frame in frames:
        in_text(frame).write_ndjson(file)


def _gzipped(write: Writer) -> Writer:
    def compress(frames: Frames, file: IO[bytes]) -> None:
        with gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed:
            write(frames, packed)  # type: ignore[arg-type]

    return compress


class _StaysOpen(io.RawIOBase):
    """Keeps a file open that belongs to the caller: pyarrow closes what it writes to."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._file.write(data)


def _zstd(write: Writer) -> Writer:
    def compress(frames: Frames, file: IO[bytes]) -> None:
        with pa.CompressedOutputStream(pa.PythonFile(_StaysOpen(file), "w"), "zstd") as packed:
            write(frames, packed)

    return compress


def _write_tables(frames: Frames, open_writer: Callable[[Any], Any]) -> None:
    tables = (frame.to_arrow(compat_level=pl.CompatLevel.oldest()) for frame in frames)
    first = next(tables)
    with open_writer(first.schema) as writer:
        for table in chain([first], tables):
            writer.write_table(table)


def _write_parquet(frames: Frames, file: IO[bytes]) -> None:
    _write_tables(frames, lambda schema: pq.ParquetWriter(file, schema, compression="zstd"))


def _write_arrow(frames: Frames, file: IO[bytes]) -> None:
    _write_tables(frames, lambda schema: pa.ipc.new_file(file, schema))


FORMATS: dict[str, Writer] = {
    "csv": _write_csv,
    "csv.gz": _gzipped(_write_csv),
    "csv.zst": _zstd(_write_csv),
    "jsonl": _write_json_lines,
    "jsonl.gz": _gzipped(_write_json_lines),
    "parquet": _write_parquet,
    "arrow": _write_arrow,
}


def encode(frame: pl.DataFrame, suffix: str = "csv") -> bytes:
    """One frame as a file of that format."""
    buffer = io.BytesIO()
    FORMATS[suffix]([frame], buffer)
    return buffer.getvalue()


def write_rows(city: City, date: dt.date, file: IO[bytes], suffix: str = "csv") -> None:
    """One date's records into an open file."""
    FORMATS[suffix](records(city, date), file)


def write(frames: Frames, path: Path, suffix: str) -> Path:
    """Writes frames one after the other into a new file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "xb") as file:
        FORMATS[suffix](frames, file)
    return path


def write_long(city: City, dates: Iterable[dt.date], folder: Path, suffix: str = "csv") -> list[Path]:
    """Writes `{date}.csv`: a file a date, a row a record."""
    return [write(records(city, date), folder / f"{date}.{suffix}", suffix) for date in dates]


def write_one(city: City, dates: Iterable[dt.date], path: Path, suffix: str = "csv") -> Path:
    """One big file of all dates."""
    return write(chain.from_iterable(records(city, date) for date in dates), path, suffix)


def write_wide(city: City, dates: Iterable[dt.date], folder: Path, suffix: str = "csv") -> list[Path]:
    """Writes `speed/{date}.csv` and `vehicles/{date}.csv`: a row a step, a column a sensor."""
    written = []
    for date in dates:
        for feature in FEATURES:
            frames = (wide(city, frame, feature) for frame in records(city, date))
            written.append(write(frames, folder / feature / f"{date}.{suffix}", suffix))
    return written


def write_hours(city: City, dates: Iterable[dt.date], folder: Path, suffix: str = "csv") -> list[Path]:
    """Writes `{date}/{hour}.csv`: a folder a date; hours are counted from the date's midnight, so that 25 of them fit."""
    written = []
    for date in dates:
        for hour, frame in _hours(city, date):
            written.append(write([frame], folder / str(date) / f"{hour:02d}.{suffix}", suffix))
    return written


def _hours(city: City, date: dt.date) -> Iterator[tuple[int, pl.DataFrame]]:
    start = day(city, date).start
    for frame in records(city, date):
        hour = ((frame["timestamp"].dt.epoch("us") * 1000 - start) // (3600 * SECOND)).alias("hour")
        for (number,), rows in frame.with_columns(hour).partition_by("hour", as_dict=True, maintain_order=True).items():
            yield int(number), rows.drop("hour")


def wide(city: City, frame: pl.DataFrame, feature: str) -> pl.DataFrame:
    """A row a step that has a record, a column a sensor, null where it has none."""
    names = sensors(city).names
    times = frame["timestamp"].unique(maintain_order=True)
    rows = (frame["timestamp"].dt.epoch("s") // STEP_SECONDS).rle_id().to_numpy()
    columns = frame["sensor_id"].cast(pl.Enum(list(names))).to_physical().to_numpy()
    cells = np.full((len(times), len(names)), np.nan)
    cells[rows, columns] = frame[feature].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    values = pl.from_numpy(cells, schema=list(names)).fill_nan(None).cast(frame[feature].dtype)
    return values.insert_column(0, times)
