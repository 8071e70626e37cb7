"""One dump -> typed columns: every fault is named with file, date, row, column and value; nothing passes in silence."""

from __future__ import annotations

import datetime as dt
import gzip
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.raw.clocks.times import instants
from dateshard.pipeline.raw.decode import decode
from dateshard.pipeline.raw.dumps import find_dumps, is_one_file
from dateshard.pipeline.raw.formats import text
from dateshard.pipeline.raw.node_table import read_nodes
from dateshard.pipeline.raw.row_counts import RowCounts
from dateshard.pipeline.source import NodeTable, Source
from dateshard.shardstore import identity
from dateshard.shardstore.errors import DumpError, UsageError
from dateshard.shardstore.identity import hash_file
from dateshard.shardstore.layouts.records import Records
from dateshard.shardstore.times.calendar import Day

DATE = dt.date(2024, 3, 1)
HEADER = "time,node,speed,vehicles\n"
GOOD = [f"2024-03-01T{hour:02d}:00:00+00:00,n{hour % 3},{hour}.5,{hour}\n" for hour in range(24)]
PLENTY = 1 << 30


@dataclass(frozen=True)
class Got:
    """A decoded dump, all its records at once."""

    day: Day
    nodes: tuple[str, ...]
    rows: RowCounts
    records: Records


Read = Callable[..., Got]


@pytest.fixture
def config() -> Callable[..., Pipeline]:
    def make(**source: Any) -> Pipeline:
        given = {"path": "raw/{date}.csv", "time": "time", "node": "node", **source}
        features = {"speed": {}, "volume": {"column": "vehicles", "aggregate": "sum"}}
        return Pipeline.model_validate({"source": given, "step": "1h", "features": features})

    return make


@pytest.fixture
def read(tmp_path: Path, config: Callable[..., Pipeline]) -> Read:
    """read(lines or bytes, date=..., nodes=..., **source settings) -> Got."""

    def from_lines(given: list[str] | bytes, date: dt.date = DATE, nodes: Any = None, **source: Any) -> Got:
        path = tmp_path / f"{date}.csv"
        path.write_bytes(given if isinstance(given, bytes) else (HEADER + "".join(given)).encode())
        decoded = decode([path], date, config(**source), nodes, PLENTY, tmp_path / "spilled")
        [(day, records)] = decoded.stretches()
        return Got(day, decoded.nodes, decoded.rows, records)

    return from_lines


def replaced(row: int, text: str) -> list[str]:
    """Good lines with the one that an editor shows as `row` replaced."""
    return [text + "\n" if number == row else line for number, line in enumerate(GOOD, start=2)]


def times_of(texts: list[str | None], zone: str = "UTC") -> list[int | None]:
    """Instants of texts, None where one is no time."""
    source = Source(path="{date}", time="time", node="node", timezone=zone)
    found, valid = instants([pl.Series("time", texts, dtype=pl.String)], source, None)
    return [int(at) if good else None for at, good in zip(found, valid, strict=True)]


def test_good_rows_are_read_in_file_order(read: Read) -> None:
    decoded = read(GOOD)
    assert decoded.nodes == ("n0", "n1", "n2")
    assert decoded.rows.read == decoded.rows.accepted == 24
    assert decoded.rows.rejected == {}
    hours = (decoded.records.time_R - decoded.day.start) // (3600 * 10**9)
    assert hours.tolist() == list(range(24))
    assert decoded.records.node_R.tolist() == [hour % 3 for hour in range(24)]
    speed, volume = decoded.records.values
    assert speed is not None
    assert volume is not None
    assert speed.tolist() == [hour + 0.5 for hour in range(24)]
    assert volume.tolist() == list(range(24))


@pytest.mark.parametrize(
    ("row", "line", "words"),
    [
        (5, "2024-03-01T03:00:00+00:00,n0,fast,3", ["row 5, column 'speed', value 'fast'", "not a number"]),
        (5, "2024-03-01T03:00:00+00:00,n0,1,3.x", ["row 5, column 'vehicles', value '3.x'", "not a number"]),
        (7, "2024-03-02T00:00:00+00:00,n0,1,3", ["row 7, column 'time', value '2024-03-02T00:00", "another date"]),
        (2, "2024-02-29T23:59:59+00:00,n0,1,3", ["row 2", "another date"]),
        (2, "yesterday,n0,1,3", ["row 2, column 'time', value 'yesterday'", "not a time"]),
        (9, ",n0,1,3", ["row 9, column 'time', value ''", "not a time"]),
        (9, "2024-03-01T03:00:00+00:00,,1,3", ["row 9, column 'node', value ''", "without a node"]),
        (9, '2024-03-01T03:00:00+00:00,"",1,3', ["row 9, column 'node', value ''", "without a node"]),
        (25, "2024-03-01T03:00:00+00:00,n0,inf,3", ["row 25, column 'speed', value 'inf'", "not finite"]),
        (25, "2024-03-01T03:00:00+00:00,n0,-1e999,3", ["row 25, column 'speed'", "not finite"]),
        (6, "2024-03-01T03:00:00+00:00,n0,1", ["row 6", "3 fields, the header 4"]),
        (6, "2024-03-01T03:00:00+00:00,n0,1,2,3", ["row 6", "5 fields, the header 4"]),
        (6, '2024-03-01T03:00:00+00:00,"n0",1', ["row 6", "3 fields, the header 4"]),
        (6, '2024-03-01T03:00:00+00:00,"n0,1,3', ["row 6"]),
    ],
)
def test_a_faulty_row_is_named_with_its_place_and_value(read: Read, row: int, line: str, words: list[str]) -> None:
    with pytest.raises(DumpError) as caught:
        read(replaced(row, line))
    message = str(caught.value)
    assert f"{DATE}.csv, date {DATE}" in message
    for word in words:
        assert word in message
    assert "\n" not in message
    assert caught.value.todo


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (HEADER.encode(), "a header but no row"),
        ((HEADER + "".join(GOOD))[:-1].encode(), "does not end with a newline"),
        ((HEADER + "".join(GOOD)).encode()[:-9], "does not end with a newline"),
        (("time,node,spede,vehicles\n" + "".join(GOOD)).encode(), "no column 'speed'; did you mean 'spede'?"),
        (("time,node,x,vehicles\n" + "".join(GOOD)).encode(), "no column 'speed'; it has time, node, x, vehicles"),
        (("time,node,speed,speed\n" + "".join(GOOD)).encode(), "column 'speed': the column is repeated"),
        (HEADER.encode() + b"2024-03-01T00:00:00Z,caf\xe9,1,2\n", "row 2: not UTF-8"),
        (HEADER.encode() + GOOD[0].encode() + b"2024-03-01T00:00:00Z,n0,\xff,2\n", "row 3: not UTF-8"),
        (b"time,node,sp\xffed,vehicles\n", "the header is not UTF-8"),
        (b"\n\n\n", "no column 'time'"),
    ],
)
def test_a_file_of_wrong_structure_is_refused_whole(read: Read, content: bytes, words: str) -> None:
    with pytest.raises(DumpError) as caught:
        read(content)
    assert words in str(caught.value)
    assert f"{DATE}.csv, date {DATE}" in str(caught.value)
    assert caught.value.todo


def test_an_unclosed_quote_before_megabytes_of_rows_is_one_error_sentence(read: Read) -> None:
    with pytest.raises(DumpError) as caught:
        read([*replaced(6, '2024-03-01T03:00:00+00:00,"n0,1,3'), *GOOD * 300])
    assert "\n" not in str(caught.value)


def test_byte_order_mark_carriage_returns_quotes_and_other_columns_are_read(read: Read) -> None:
    plain = read(GOOD)
    text = "other,time,vehicles,speed,node\n"
    for line in GOOD:
        time, node, speed, volume = line.strip().split(",")
        text += f'"a, ""b""",{time},{volume},{speed},"{node}"\n'
    other = read(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert other.rows == plain.rows
    assert other.nodes == plain.nodes
    for a, b in zip(other.records.values, plain.records.values, strict=True):
        assert a is not None
        assert np.array_equal(a, b)  # type: ignore[arg-type]


def test_nan_and_empty_values_are_missing_and_not_rejected(read: Read) -> None:
    lines = [f"2024-03-01T00:00:0{k}Z,n0,{text},1\n" for k, text in enumerate(["nan", "NaN", "", '""', "1"])]
    decoded = read(lines)
    assert decoded.rows.accepted == 5
    assert decoded.records.values[0] is not None
    assert np.isnan(decoded.records.values[0]).tolist() == [True] * 4 + [False]
    with_fault = read([*lines, "2024-03-01T00:01:00Z,n0,fast,1\n"], max_bad_fraction=0.2)
    assert with_fault.rows.accepted == 5  # another row's fault changes nothing about them
    assert with_fault.rows.rejected == {"not a number": 1}


def test_rows_read_are_those_accepted_and_those_rejected_by_reason(read: Read) -> None:
    lines = replaced(4, "2024-03-01T03:00:00+00:00,n0,fast,3")
    lines[6] = "2024-03-02T03:00:00+00:00,n0,inf,3\n"  # two faults, counted once
    lines[8] = "2024-03-02T03:00:00+00:00,n0,1,3\n"
    lines[9] = "soon,n0,1,3\n"
    lines[10] = "2024-03-01T03:00:00+00:00,x,1,3\n"
    decoded = read(lines, nodes=("n0", "n1", "n2"), max_bad_fraction=0.3)
    assert decoded.rows.read == 24
    assert decoded.rows.accepted == 19
    assert sorted(decoded.rows.rejected.values()) == [1, 1, 1, 1, 1]
    assert decoded.rows.read == decoded.rows.accepted + sum(decoded.rows.rejected.values())
    assert len(decoded.records.time_R) == 19


def test_more_rejected_rows_than_allowed_refuse_the_date_and_name_the_first(read: Read) -> None:
    lines = replaced(20, "2024-03-01T03:00:00+00:00,n0,fast,3")
    lines[1] = "2024-03-02T03:00:00+00:00,n0,1,3\n"
    assert read(lines, max_bad_fraction=2 / 24).rows.accepted == 22
    with pytest.raises(DumpError, match=r"row 3, .*another date \(2 rows are rejected of 24\)"):
        read(lines, max_bad_fraction=1 / 24)


def test_a_date_without_any_good_row_is_refused_whatever_is_allowed(read: Read) -> None:
    with pytest.raises(DumpError, match="24 rows are rejected of 24"):
        read([line.replace("2024-03-01T", "2024-03-02T") for line in GOOD], max_bad_fraction=1)


def test_a_bad_first_time_does_not_condemn_the_rows_after_it(read: Read) -> None:
    decoded = read(replaced(2, "unknown,n0,1,3"), max_bad_fraction=0.1)
    assert decoded.rows.accepted == 23


def test_an_unknown_node_is_named_where_there_is_a_table(read: Read) -> None:
    with pytest.raises(DumpError, match=r"row 4, column 'node', value 'n2': the row is of an unknown node"):
        read(GOOD, nodes=("n0", "n1"))
    assert read(GOOD, nodes=("n0", "n1", "n2", "never")).nodes == ("n0", "n1", "n2", "never")


def test_nodes_found_are_those_of_accepted_rows_sorted_by_their_bytes(read: Read) -> None:
    lines = [f"2024-03-01T00:00:00Z,{name},1,1\n" for name in ("é", "b", "Z", "a", "日")]
    lines.append("2024-03-02T00:00:00Z,rejected,1,1\n")
    assert read(lines, max_bad_fraction=0.5).nodes == ("Z", "a", "b", "é", "日")


def test_a_record_of_a_wide_file_knows_its_row_in_whatever_block_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "BLOCK_BYTES", 64)
    lines = [f"2024-03-01T{hour:02d}:00:00Z,{hour},{hour or ''}\n" for hour in range(20)]
    (tmp_path / "x.csv").write_text("time,n0,n1\n" + "".join(lines))
    wide = {"path": "{date}", "time": "time", "wide": {"value": "speed"}, "duplicates": "refuse"}
    config = Pipeline.model_validate({"source": wide, "step": "1h", "features": {"speed": {}}})
    decoded = decode([tmp_path / "x.csv"], DATE, config, None, PLENTY, tmp_path / "spilled")
    assert len(decoded.places.pieces) > 5
    [(_, records)] = decoded.stretches()
    assert records.place_R is not None
    assert records.values[0] is not None
    rows_ = [decoded.places.of(int(place))[1] for place in records.place_R]
    assert rows_ == [int(value) + 2 for value in records.values[0]]
    assert len(rows_) == 39


def test_local_times_are_read_in_the_zone_of_the_dataset(read: Read) -> None:
    date = dt.date(2013, 3, 10)
    lines = ["2013-03-10 01:59:59,n0,1,1\n", "2013-03-10 03:00:00,n0,1,1\n"]
    times = read(lines, date, timezone="America/New_York").records.time_R
    assert (times[1] - times[0]) == 10**9  # 02:00 to 03:00 was skipped


@pytest.mark.parametrize(
    ("date", "time"), [(dt.date(2013, 3, 10), "2013-03-10 02:30:00"), (dt.date(2013, 11, 3), "2013-11-03 01:30:00")]
)
def test_a_local_time_that_is_skipped_or_repeated_is_rejected(read: Read, date: dt.date, time: str) -> None:
    with pytest.raises(DumpError, match=r"row 3, column 'time', value '.*unambiguous in its zone"):
        read([f"{date} 00:30:00,n0,1,1\n", f"{time},n0,1,1\n"], date, timezone="America/New_York")


@pytest.mark.parametrize(
    "style",
    [
        "%Y-%m-%dT%H:%M:%S+00:00",
        "%Y-%m-%d %H:%M:%SZ",
        "%Y-%m-%dT%H:%MZ",
        "%Y-%m-%dT%H:%M:%S.250Z",
        "%Y-%m-%dT%H:%M:%S+0000",
        "%Y-%m-%d %H:%M",
        "%Y-%m-%dT%H:%M:%S",
    ],
)
def test_spellings_of_iso_times_are_read(style: str) -> None:
    moments = [dt.datetime(2024, 3, 1, hour, 30, tzinfo=dt.UTC) for hour in range(3)]
    found = times_of([at.strftime(style) for at in moments])
    fraction = 250_000_000 if ".250" in style else 0
    assert found == [int(at.timestamp()) * 10**9 + fraction for at in moments]


def test_every_date_of_the_calendar_is_a_time_and_no_other() -> None:
    """Of a century that is no leap year, one that is, and what lies around them."""
    years = (1700, 1896, *range(1899, 1902), *range(1999, 2002), 2023, 2024, 2100)
    texts, moments = [], []
    for year, month, date in itertools.product(years, range(14), range(33)):
        texts.append(f"{year}-{month:02d}-{date:02d}T05:00:00Z")
        try:
            moments.append(int(dt.datetime(year, month, date, 5, tzinfo=dt.UTC).timestamp()) * 10**9)
        except ValueError:
            moments.append(None)
    assert times_of(texts) == moments
    alone = [texts.index(f"{date}T05:00:00Z") for date in ("1900-02-29", "1900-03-01", "2000-02-29", "2023-02-29")]
    for at in alone:  # all rows of one date are judged at once
        assert times_of([texts[at]] * 2) == [moments[at]] * 2


def test_offsets_may_differ_from_row_to_row() -> None:
    found = times_of(["2024-03-01T01:00:00+01:00", "2024-02-29T19:00:00-05:00"])
    assert len(set(found)) == 1


def test_nanoseconds_are_kept() -> None:
    (found,) = times_of(["2024-03-01T00:00:00.123456789Z"])
    assert found is not None
    assert found % 10**9 == 123456789


def test_no_time_at_all_is_all_null() -> None:
    assert times_of([None, None]) == [None, None]


def test_dumps_are_found_by_the_date_in_their_name(tmp_path: Path) -> None:
    for name in ("20240301.csv", "20240302.csv", "2024030.csv", "readme.csv", "20240303.txt"):
        (tmp_path / name).touch()
    found = find_dumps(str(tmp_path / "{date:%Y%m%d}.csv"))
    assert list(found) == [dt.date(2024, 3, 1), dt.date(2024, 3, 2)]
    (tmp_path / "day=2024-03-05").mkdir()
    (tmp_path / "day=2024-03-05" / "part[1].csv").touch()
    assert list(find_dumps(str(tmp_path / "day={date}" / "part[1].csv"))) == [dt.date(2024, 3, 5)]


def test_files_of_a_date_may_go_on_after_it(tmp_path: Path) -> None:
    for name in ("2024-03-01.csv", "2024-03-01-b.csv", "20240302_b.csv"):
        (tmp_path / name).touch()
    found = find_dumps(str(tmp_path / "{date}*.csv"))
    assert {date: [Path(file).name for file in files] for date, (_, files) in found.items()} == {
        dt.date(2024, 3, 1): ["2024-03-01-b.csv", "2024-03-01.csv"]
    }
    assert list(find_dumps(str(tmp_path / "{date:%Y%m%d}*.csv"))) == [dt.date(2024, 3, 2)]


def test_two_dumps_of_one_date_and_a_path_without_a_date_are_refused(tmp_path: Path) -> None:
    (tmp_path / "2024-03-01.csv").touch()
    (tmp_path / "2024-3-1.csv").touch()
    with pytest.raises(UsageError, match=r"two dumps of 2024-03-01: .*2024-03-01.csv and .*2024-3-1.csv"):
        find_dumps(str(tmp_path / "{date}.csv"))
    assert is_one_file("raw/all.csv")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no column 'id'"),
        (b"id,lat,lon\n", "no column 'id'"),
        (b"name,lat,lon\na,1,2\n", "no column 'id'"),
        (b"id,lat,lon\na,1,2\na,1,2\n", "row 3, column 'id', value 'a': the node's name is repeated"),
        (b"id,lat,lon\n,1,2\n", "row 2, column 'id', value '': the node has no name"),
        (b"id,lat,lon\na,north,2\n", "row 2, column 'lat', value 'north': the position is not a number"),
        (b"id,lat,lon\na,inf,2\n", "row 2, column 'lat', value 'inf': the position is not a number"),
        (b"id,lat,lon\n\xff,1,2\n", "not UTF-8"),
        (b"name,lat,lon\na,1,2,3\n", "no column 'id'"),
        (b"lat,lon,id\n1,2,a\n\n1\n", "row 3, column 'id': the node has no name"),
        (b"id,lat,lon\na,1,2\nb,1_0,x\na,1,2\n", "row 3, column 'lon', value 'x': the position is not a number"),
    ],
)
def test_a_faulty_node_table_is_refused_with_the_place(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "nodes.csv").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_nodes(NodeTable(table=str(tmp_path / "nodes.csv"), id="id", position=("lat", "lon")))
    assert words in str(caught.value)
    assert "nodes.csv" in str(caught.value)


def test_a_node_table_is_sorted_and_an_empty_coordinate_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "nodes.csv").write_text("lon,id,lat\n1,b,2\n3,a,\n")
    nodes = read_nodes(NodeTable(table=str(tmp_path / "nodes.csv"), id="id", position=("lat", "lon"))).nodes
    assert nodes.names == ("a", "b")
    assert nodes.axes == ("lat", "lon")
    assert np.array_equal(nodes.positions_NP, [[np.nan, 3], [2, 1]], equal_nan=True)
    with pytest.raises(UsageError, match="does not exist"):
        read_nodes(NodeTable(table="nowhere.csv", id="id"))


def test_a_feature_of_the_time_or_node_column_is_refused_by_the_configuration() -> None:
    source = {"path": "raw/{date}.csv", "time": "time", "node": "node"}
    for column in ("time", "node"):
        features = {"rows": {"column": column, "aggregate": "count"}}
        with pytest.raises(ValueError, match=f"'{column}'"):
            Pipeline.model_validate({"source": source, "step": "1h", "features": features})


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.csv.gz"])
def test_a_text_is_hashed_as_it_is_read_and_read_again_only_where_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path, rows = tmp_path / name, "time,node,speed\n2024-03-01 05:00,a,1\n"
    rows = '{"time": "2024-03-01 05:00", "node": "a", "speed": 1}\n' if ".jsonl" in name else rows
    path.write_bytes(gzip.compress(rows.encode()) if name.endswith(".gz") else rows.encode())
    source = {"path": "{date}", "time": "time", "node": "node"}
    config = Pipeline.model_validate({"source": source, "step": "1h", "features": {"speed": {}}})
    decoded = decode([path], dt.date(2024, 3, 1), config, None, 1 << 30, tmp_path / "spilled")
    if name.endswith(".gz"):  # what is decoded of it are other bytes than those that are its hash
        assert not decoded.hashes
        return
    wanted, read = hash_file(path), list[Path]()

    def hash_again(path: Path) -> tuple[int, str]:
        read.append(path)
        return hash_file(path)

    monkeypatch.setattr(identity, "hash_file", hash_again)
    assert (decoded.hashes[path].of(path), read) == (wanted[1], [])
    path.write_bytes(path.read_bytes() + b"\n")
    assert decoded.hashes[path].of(path) == hash_file(path)[1] != wanted[1]
    assert read == [path]
