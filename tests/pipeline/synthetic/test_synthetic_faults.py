"""Defects touch exactly the rows that they say: counted by readers of their own, and by the pipeline."""

from __future__ import annotations

import csv
import datetime as dt
import io
import zlib
from collections import Counter
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.execute import preprocess
from dateshard.pipeline.planning.plan import Wish
from dateshard.pipeline.progress_events import Finished
from dateshard.pipeline.synthetic import FAULTS, FORMATS, City, Spoiled, encode, node_table, spoil, whole_date
from dateshard.pipeline.synthetic.damage import cut

CITY = City(num_sensors=4, seed=6)
DATE = dt.date(2024, 3, 5)
CLEAN = whole_date(CITY, DATE)
UNREADABLE = {"corrupt_gzip", "cut_parquet"}
BINARY = {"truncated_gzip", "flipped_parquet", *UNREADABLE}
FIVE = {
    "equal_duplicates", "conflicting_duplicates", "rows_of_another_date", "unknown_nodes", "missing_node",
    "not_a_number", "nan_values", "infinite_values", "huge_values", "negative_values", "out_of_range", "bad_times",
    "too_large_integer", "invalid_utf8", "nul_byte", "quoted_newline", "short_rows", "long_rows",
}  # fmt: skip
ALL = {"header_only", "missing_column", "renamed_column", "empty_file", "duplicate_column", *UNREADABLE}
ONLY_WRITTEN_OTHERWISE = {
    "reordered_columns", "other_types", "shuffled_rows", "no_final_newline", "byte_order_mark", "utf_16", "crlf",
    "semicolons", "ambiguous_times",
}  # fmt: skip


def text_of(spoiled: Spoiled, name: str) -> str:
    data = spoiled.data()
    if spoiled.suffix == "csv.gz":
        data = zlib.decompressobj(31).decompress(data)
    encoding = "utf-16" if name == "utf_16" else "utf-8-sig"
    return data.decode(encoding, errors="strict" if name == "utf_16" else "surrogateescape")


def number(text: str) -> str:
    try:
        return repr(float(text))
    except ValueError:
        return text


def rows_of(text: str, *, semicolons: bool = False) -> Counter[tuple[tuple[str, str], ...]]:
    """Every row as its named fields; numbers by value, columns in any order."""
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=";" if semicolons else ",")
    header = next(lines, [])
    counted: Counter[tuple[tuple[str, str], ...]] = Counter()
    for row in lines:
        fields = [number(field.replace(",", ".") if semicolons else field) for field in row]
        names = [*header, *["?"] * len(fields)]
        counted[tuple(sorted(zip(names, fields, strict=False)))] += 1
    return counted


def touched(spoiled: Spoiled, name: str) -> int:
    """Rows changed, added or lost against the clean dump; told by the csv module alone."""
    clean = rows_of(encode(CLEAN).decode())
    found = rows_of(text_of(spoiled, name), semicolons=name == "semicolons")
    return max((clean - found).total(), (found - clean).total())


def test_the_clean_dump_has_missing_values_too() -> None:
    assert CLEAN["speed"].null_count() > 0


def test_every_fault_is_expected_to_touch_some_number_of_rows() -> None:
    counted = {"constant_column", "null_column", "cut_file", "truncated_gzip", "flipped_parquet"}
    groups = [FIVE, ALL, ONLY_WRITTEN_OTHERWISE, counted]
    assert sorted(name for group in groups for name in group) == sorted(FAULTS)


@pytest.mark.parametrize("name", sorted(set(FAULTS) - {"flipped_parquet", "ambiguous_times", *UNREADABLE}))
def test_a_fault_touches_exactly_the_rows_it_says(name: str) -> None:
    spoiled = spoil(CITY, DATE, name)
    assert touched(spoiled, name) == spoiled.rows
    if name in FIVE:
        assert spoiled.rows == 5
        assert spoil(CITY, DATE, name, many=17).rows == 17
        every = spoil(CITY, DATE, name, many=10**6)
        assert touched(every, name) == every.rows >= len(CLEAN) - CLEAN["speed"].null_count()
    elif name in ALL:
        assert spoiled.rows == len(CLEAN)
    elif name in ONLY_WRITTEN_OTHERWISE:
        assert spoiled.rows == 0


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_changes_the_dump_the_same_way_every_time(name: str) -> None:
    assert (FAULTS[name].__doc__ or "").count("\n") == 0
    assert FAULTS[name].__doc__
    spoiled = spoil(CITY, DATE, name)
    assert spoiled.data() == spoil(CITY, DATE, name).data()
    assert spoiled.data(spoiled.suffix) != encode(CLEAN, spoiled.suffix)
    if isinstance(spoiled.content, pl.DataFrame):
        for suffix in FORMATS:
            written = spoiled.data(suffix)
            assert written or (name == "header_only" and suffix == "jsonl")


@pytest.mark.parametrize(("name", "rows"), [("constant_column", 4), ("null_column", 4), ("nan_values", 4)])
def test_rows_that_are_so_already_do_not_count(name: str, rows: int) -> None:
    frame = CLEAN.head(6).with_columns(speed=pl.Series([50.0, None, 60.0, 50.0, None, 70.0]))
    spoiled = FAULTS[name](frame, CITY.stream("test"), 100)
    assert isinstance(spoiled.content, pl.DataFrame)
    assert spoiled.rows == rows == int(spoiled.content["speed"].ne_missing(frame["speed"]).sum())


def test_a_cut_at_any_byte_loses_the_rows_that_are_not_whole() -> None:
    frame = CLEAN.head(6)
    whole = encode(frame)
    lines = whole.decode().splitlines()
    for at in range(len(whole) + 1):
        spoiled = cut(frame, at)
        kept = whole[:at].decode().splitlines()
        complete = [line == lines[index] for index, line in enumerate(kept)][1:]
        assert spoiled.data() == whole[:at]
        assert spoiled.rows == len(frame) - sum(complete), at


def test_ambiguous_times_are_those_that_the_zone_has_twice() -> None:
    city = City(num_sensors=4, timezone="Europe/Berlin", lost_records=0, outages=0, short_lived=0)
    for date, rows in ((dt.date(2024, 10, 27), 2 * 12 * 4), (dt.date(2024, 3, 31), 0), (DATE, 0)):
        spoiled = spoil(city, date, "ambiguous_times")
        times = [line.split(",")[0] for line in spoiled.data().decode().splitlines()[1:]]
        repeated = [time for time, many in Counter(times).items() if many > 4]
        assert spoiled.rows == rows == 8 * len(repeated)
        assert all(len(time) == len("2024-10-27T02:00:00") for time in times)
    assert repeated == []


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_binary_file_is_damaged_wherever_it_is_hit(seed: int) -> None:
    city = City(num_sensors=4, seed=seed)
    clean = whole_date(city, DATE)
    with pytest.raises(zlib.error):
        zlib.decompress(spoil(city, DATE, "corrupt_gzip").data(), 31)
    with pytest.raises(zlib.error):
        zlib.decompress(spoil(city, DATE, "truncated_gzip").data(), 31)
    with pytest.raises((pa.ArrowInvalid, OSError)):
        pq.read_table(io.BytesIO(spoil(city, DATE, "cut_parquet").data()))
    flipped = spoil(city, DATE, "flipped_parquet")
    found = pl.from_arrow(pq.read_table(io.BytesIO(flipped.data())))
    assert isinstance(found, pl.DataFrame)
    assert found.drop("speed").equals(clean.drop("speed"))
    assert int(found["speed"].ne_missing(clean["speed"]).sum()) == flipped.rows == 1
    with pytest.raises(OSError, match="CRC"):
        pq.read_table(io.BytesIO(flipped.data()), page_checksum_verification=True)


REJECTED = [
    "rows_of_another_date", "unknown_nodes", "missing_node", "not_a_number", "infinite_values", "bad_times",
]  # fmt: skip


@pytest.mark.parametrize("name", [*REJECTED, "equal_duplicates", "conflicting_duplicates", "ambiguous_times"])
def test_the_pipeline_counts_the_rows_that_a_fault_says_it_touched(name: str, tmp_path: Path) -> None:
    city, date = (
        (CITY, DATE)
        if name != "ambiguous_times"
        else (City(num_sensors=4, timezone="Europe/Berlin"), dt.date(2024, 10, 27))
    )
    spoiled = spoil(city, date, name, many=50)
    (tmp_path / f"{date}.csv").write_bytes(spoiled.data())
    node_table(city).write_csv(tmp_path / "nodes.csv")
    source = {"path": str(tmp_path / "{date}.csv"), "time": "timestamp", "node": "sensor_id", "timezone": city.timezone}
    tree = {
        "source": {**source, "max_bad_fraction": 0.5},
        "nodes": {"table": str(tmp_path / "nodes.csv"), "id": "sensor_id", "position": ["latitude", "longitude"]},
        "step": "5m",
        "features": {"speed": {}, "vehicles": {"aggregate": "sum"}},
        "split": {"train": str(date)},
    }
    *_, done = preprocess("city", Pipeline.model_validate(tree), tmp_path / "store", Wish(), 1)
    assert isinstance(done, Finished)
    assert done.failed == {}
    clean = len(whole_date(city, date))
    duplicates = spoiled.rows if name.endswith("duplicates") else 0
    rejected = 0 if duplicates else spoiled.rows
    assert done.rows["read"] == clean + duplicates
    assert sum(done.rows["rejected"].values()) == rejected > 0 or duplicates == 50


def test_the_page_of_the_documentation_lists_every_fault() -> None:
    page = (Path(__file__).parents[3] / "docs" / "synthetic.md").read_text().splitlines()
    listed = [line for line in page if line.startswith("| `")]
    assert listed == [f"| `{name}` | {fault.__doc__} |" for name, fault in FAULTS.items()]
