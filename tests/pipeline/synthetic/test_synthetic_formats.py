"""The same rows in every format and cut, read back by polars; and the same bytes every time."""

from __future__ import annotations

import datetime as dt
import gzip
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

from dateshard.pipeline.synthetic import (
    FORMATS,
    City,
    encode,
    sensors,
    whole_date,
    write_hours,
    write_long,
    write_one,
    write_wide,
)

DATE = dt.date(2024, 10, 27)  # 25 hours
CITY = City(num_sensors=6, timezone="Europe/Berlin", first=DATE, outages=0.3)
TYPES = {"timestamp": pl.String, "sensor_id": pl.String, "speed": pl.Float64, "vehicles": pl.Int64}


def unzstd(data: bytes) -> io.BytesIO:
    return io.BytesIO(pa.CompressedInputStream(pa.BufferReader(data), "zstd").read())


READERS: dict[str, Callable[[bytes], pl.DataFrame]] = {
    "csv": lambda data: pl.read_csv(data, schema=TYPES),
    "csv.gz": lambda data: pl.read_csv(gzip.decompress(data), schema=TYPES),
    "csv.zst": lambda data: pl.read_csv(unzstd(data), schema=TYPES),
    "jsonl": lambda data: pl.read_ndjson(data, schema=TYPES),
    "jsonl.gz": lambda data: pl.read_ndjson(gzip.decompress(data), schema=TYPES),
    "parquet": lambda data: pl.read_parquet(data),
    "arrow": lambda data: pl.read_ipc(data),
}


def comparable(frame: pl.DataFrame) -> pl.DataFrame:
    """Times as instants, whatever they were written as."""
    if frame["timestamp"].dtype == pl.String:
        frame = frame.with_columns(pl.col("timestamp").str.to_datetime("%Y-%m-%dT%H:%M:%S%z", time_unit="us"))
    return frame.with_columns(pl.col("timestamp").dt.convert_time_zone("UTC"))


def read(path: Path, suffix: str) -> pl.DataFrame:
    return comparable(READERS[suffix](path.read_bytes()))


def test_every_format_has_a_reader_here() -> None:
    assert set(READERS) == set(FORMATS)


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_holds_the_same_rows(suffix: str, tmp_path: Path) -> None:
    dates = list(CITY.dates(3))
    clean = [comparable(whole_date(CITY, date)) for date in dates]
    assert clean[0]["speed"].null_count()
    assert clean[0]["timestamp"].n_unique() == 300
    for path, date, frame in zip(write_long(CITY, dates, tmp_path / "long", suffix), dates, clean, strict=True):
        assert path == tmp_path / "long" / f"{date}.{suffix}"
        assert_frame_equal(read(path, suffix), frame)
    assert_frame_equal(read(write_one(CITY, dates, tmp_path / f"all.{suffix}", suffix), suffix), pl.concat(clean))
    hours = write_hours(CITY, dates, tmp_path / "hours", suffix)
    assert [path.parent.name for path in hours] == [str(DATE)] * 25 + [str(dates[1])] * 24 + [str(dates[2])] * 24
    assert hours[24].name == f"24.{suffix}"
    assert_frame_equal(pl.concat([read(path, suffix) for path in hours]), pl.concat(clean))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_wide_files_hold_every_value_of_the_long_ones(suffix: str, tmp_path: Path) -> None:
    names = list(sensors(CITY).names)
    paths = write_wide(CITY, [DATE], tmp_path, suffix)
    assert paths == [tmp_path / feature / f"{DATE}.{suffix}" for feature in ("speed", "vehicles")]
    clean = comparable(whole_date(CITY, DATE))
    for path, feature in zip(paths, ("speed", "vehicles"), strict=True):
        schema = {"timestamp": pl.String, **dict.fromkeys(names, TYPES[feature])}
        found = comparable(pl.read_csv(path, schema=schema) if suffix == "csv" else pl.read_parquet(path))
        assert found.columns == ["timestamp", *names]
        long = found.unpivot(names, index="timestamp", variable_name="sensor_id", value_name=feature).drop_nulls()
        known = clean.select("timestamp", "sensor_id", feature).drop_nulls()
        assert_frame_equal(long.sort("timestamp", "sensor_id"), known)


def test_wide_files_have_all_columns_in_every_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = replace(CITY, outages=20.0)  # whole hours in which some sensor says nothing
    (speed, _) = write_wide(late, [DATE], tmp_path / "a")
    monkeypatch.setattr("dateshard.pipeline.synthetic.readings.ROWS_AT_ONCE", 1)
    (hourly, _) = write_wide(late, [DATE], tmp_path / "b")
    assert hourly.read_bytes() == speed.read_bytes()
    assert speed.read_text().splitlines()[1].count(",") == 6


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_same_bytes_every_time(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (one,) = write_long(CITY, [DATE], tmp_path / "a", suffix)
    assert one.read_bytes() == encode(whole_date(CITY, DATE), suffix)
    monkeypatch.setattr("time.time", lambda: 1e9)  # gzip would write down when
    (two,) = write_long(CITY, [DATE], tmp_path / "b", suffix)
    assert two.read_bytes() == one.read_bytes()


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_text_is_the_same_however_many_rows_are_written_at_once(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = write_long(CITY, [DATE], tmp_path / "a", suffix)
    monkeypatch.setattr("dateshard.pipeline.synthetic.readings.ROWS_AT_ONCE", 1)
    (two,) = write_long(CITY, [DATE], tmp_path / "b", suffix)
    assert two.read_bytes() == one.read_bytes()


def test_no_file_is_written_over(tmp_path: Path) -> None:
    (path,) = write_long(CITY, [DATE], tmp_path)
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        write_long(CITY, [DATE], tmp_path)
    assert path.read_text() == "mine"


def test_times_in_text_carry_the_offset_of_their_instant() -> None:
    lines = encode(whole_date(replace(CITY, lost_records=0, outages=0), DATE)).decode().splitlines()
    assert lines[0] == "timestamp,sensor_id,speed,vehicles"
    assert lines[1].startswith("2024-10-27T00:00:00+02:00,s00000,")
    assert lines[-1].startswith("2024-10-27T23:55:00+01:00,s00005,")
    assert sum(line.startswith("2024-10-27T02:30:00+") for line in lines) == 12  # two instants
