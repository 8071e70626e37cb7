"""When a row is: times in parts, times that close what they measure, bare dates, hours that a clock has twice."""

from __future__ import annotations

import datetime as dt
import io
import itertools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.raw.clocks.doubled_hours import second_hour
from dateshard.pipeline.raw.formats import text
from dateshard.pipeline.source import TimeParts
from dateshard.shardstore.errors import DumpError
from tests.conftest import World
from tests.kit import states
from tests.pipeline.conftest import Read

Dump = Callable[..., Read]
Make = Callable[..., World]
BERLIN = "Europe/Berlin"
FALL = "2023-10-29"  # 02:00 to 03:00 comes twice
NO_TIME = "not a time (ISO 8601 like the first of its file, unambiguous in its zone)"


def refused(read: Dump, data: str, **source: Any) -> str:
    with pytest.raises(DumpError) as caught:
        read(data, **source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def hours(read: Dump, data: str, **source: Any) -> list[str]:
    """UTC times of day, `03-02` before those of the next date."""
    return [at[11:16] if at[:10] == source.get("date", "2024-03-01") else at[5:16] for at in read(data, **source).clock]


PARTS = {"year": "y", "month": "m", "day": "d", "hour": "h", "minute": "min", "second": "s"}


def test_seconds_have_the_decimal_mark_of_their_file(read_dump: Dump) -> None:
    data = "time;node;speed\n18000,25;n;1\n18000,75;n;2\n"
    dialect = {"separator": ";", "decimal": ","}
    assert read_dump(data, csv=dialect, time_format="s", time_origin="2024-03-01").clock == ["2024-03-01T05:00:00"] * 2


@pytest.mark.parametrize(
    ("parts", "rows", "expected"),
    [
        (["year", "month", "day", "hour"], ["2024,3,1,5", "2024,03,01,05", "2024.0,3.0,1.0, 5 "], "05:00:00"),
        (["year", "month", "day"], ["2024,3,1"], "00:00:00"),
        (["year", "month", "day", "hour", "minute", "second"], ["2024,3,1,5,30,7", "2024,3,1,5,30,7.25"], "05:30:07"),
    ],
)
def test_a_time_in_parts_is_read_from_its_columns(
    read_dump: Dump, parts: list[str], rows: list[str], expected: str
) -> None:
    columns = {part: PARTS[part] for part in parts}
    data = ",".join([*columns.values(), "node", "speed"]) + "\n" + "".join(f"{row},n,1\n" for row in rows)
    assert read_dump(data, time=columns).clock == [f"2024-03-01T{expected}"] * len(rows)
    numbers = dict(zip(columns.values(), map(json.loads, rows[0].split(",")), strict=True))
    row = json.dumps({**numbers, "node": "n", "speed": 1}) + "\n"
    assert read_dump(row, "x.jsonl", time=columns).clock == [f"2024-03-01T{expected}"]


@pytest.mark.parametrize(
    "row",
    [
        "2023,2,29,5",
        "2024,13,1,5",
        "2024,3,0,5",
        "2024,3,1,24",
        "2024,3,1,5.5",
        "2024,3,1,",
        "2024,3,1,noon",
        "24,3,1,5",
    ],
)
def test_parts_that_make_no_time_are_named_together(read_dump: Dump, row: str) -> None:
    data = f"year,month,day,hour,node,speed\n2024,3,1,4,n,1\n{row},n,1\n2024,3,1,6,n,1\n"
    message = refused(read_dump, data, time={part: part for part in ("year", "month", "day", "hour")})
    assert f"row 3, column 'year month day hour', value '{row.replace(',', ' ')}': the row is {NO_TIME}" in message


def test_a_column_of_dates_and_one_of_hours_make_a_time(read_dump: Dump) -> None:
    data = "date,hour,node,speed\n2024-03-01,5,n,1\n2024-03-01,17,n,2\n"
    assert hours(read_dump, data, time={"date": "date", "hour": "hour"}) == ["05:00", "17:00"]
    american = data.replace("2024-03-01", "03/01/2024")
    assert hours(read_dump, american, time={"date": "date", "hour": "hour"}, time_format="%m/%d/%Y") == [
        "05:00",
        "17:00",
    ]
    assert "row 2, column 'date hour', value '03/01/2024 5'" in refused(
        read_dump, american, time={"date": "date", "hour": "hour"}
    )


def test_parts_are_readings_of_the_clock_of_the_source(read_dump: Dump) -> None:
    data = "date,hour,node,speed\n" + "".join(f"{FALL},{hour},n,{hour}\n" for hour in (0, 1, 2, 2, 3))
    parts = {"date": "date", "hour": "hour"}
    found = read_dump(data, date=FALL, time=parts, timezone=BERLIN, ambiguous="infer")
    assert [at[5:16] for at in found.clock] == [
        "10-28T22:00",
        "10-28T23:00",
        "10-29T02:00",
        "10-29T00:00",
        "10-29T01:00",
    ]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({}, "needs date, or year, month and day"),
        ({"date": "a", "year": "b"}, "needs date, or year, month and day"),
        ({"year": "a", "month": "b"}, "needs date, or year, month and day"),
        ({"date": "a", "minute": "b"}, "minute with hour alone"),
        ({"date": "a", "hour": "b", "second": "c"}, "second with minute"),
        ({"date": "a", "hour": "a"}, "stand in one column, 'a'"),
    ],
)
def test_parts_that_can_make_no_time_are_refused_by_the_configuration(parts: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TimeParts(**parts)


@pytest.mark.parametrize("form", ["s", "%Y-%m-%d %H"])
def test_parts_take_the_pattern_of_a_date_alone(form: str) -> None:
    source = {"path": "{date}", "time": {"date": "d", "hour": "h"}, "time_format": form}
    with pytest.raises(ValueError, match=r"must be that of time.date|stand in one column"):
        Pipeline.model_validate({"source": source, "step": "1h", "features": {"v": {}}})


SPELL: dict[str, tuple[Callable[[int], str], dict[str, Any]]] = {  # the end of hour k + 1 of 2024-03-01
    "iso": (lambda k: f"2024-03-{1 + (k + 1) // 24:02d} {(k + 1) % 24:02d}:00", {}),
    "iso, 24:00": (lambda k: f"2024-03-01T{k + 1:02d}:00:00", {}),
    "iso with an offset, 24:00": (lambda k: f"2024-03-01T{k + 1:02d}:00:00.000Z", {}),
    "pattern": (lambda k: f"{1 + (k + 1) // 24}.3.2024 {(k + 1) % 24}.00", {"time_format": "%d.%m.%Y %H.%M"}),
    "pattern, 24:00": (lambda k: f"Mar 1 2024 at {k + 1}:00:00.0", {"time_format": "%b %d %Y at %H:%M:%S.%f"}),
    "pattern of an hour": (lambda k: f"20240301{k + 1:02d}", {"time_format": "%Y%m%d%H"}),
    "seconds": (lambda k: str(1709251200 + 3600 * (k + 1)), {"time_format": "s"}),
    "two columns": (lambda k: f"2024-03-01,{k + 1:02d}:00", {"time": ["a", "b"]}),
    "parts": (lambda k: f"2024-03-01,{k + 1}", {"time": {"date": "a", "hour": "b"}}),
}


@pytest.mark.parametrize("name", SPELL)
def test_the_last_record_of_a_date_belongs_to_the_date_that_it_measures(read_dump: Dump, name: str) -> None:
    spell, source = SPELL[name]
    columns = "a,b" if "time" in source else "time"
    data = f"{columns},node,speed\n" + "".join(f"{spell(k)},n,{k}\n" for k in range(24))
    found = read_dump(data, time_stamps="end", **source)
    assert found.clock == [f"2024-03-01T{k:02d}:59:59" for k in range(24)]
    assert found.values["speed"] == list(range(24))
    assert "set pipeline.source.time_stamps: end" in refused(read_dump, data, **source) or name in (
        "parts",
        "pattern of an hour",
    )


def test_an_hour_of_24_with_minutes_is_no_time(read_dump: Dump) -> None:
    for form, good, bad in (
        ("iso", "2024-03-01 05:00", "2024-03-01 24:05"),
        ("%H:%M %d.%m.%Y", "05:00 1.3.2024", "24:05 1.3.2024"),
    ):
        data = f"time,node,speed\n{good},n,1\n{bad},n,2\n"
        assert "row 3" in refused(read_dump, data, time_stamps="end", time_format=form)
    data = "time,node,speed\n2024-02-30 24:00,n,1\n2024-03-01 24:00,n,1\n"
    assert read_dump(data, time_stamps="end", max_bad_fraction=0.5).rows.accepted == 1


def test_ends_of_intervals_give_the_bytes_of_their_beginnings(make_world: Make) -> None:
    """In files a date, and in one file of all, which the last record's date does not enter."""
    world = make_world(3, zone=BERLIN)
    for date, rows in world.rows.items():
        world.rows[date] = [row for row in rows if row[0] % (3600 * 10**9) == 0]
        world.write(date)
    world.prepare()
    expected = shards(world)
    lines = ["time,node,speed,vehicles\n"]
    for date in world.rows:
        begin = world.dump(date).read_text().splitlines()[1:]
        ends = [
            (dt.datetime.fromisoformat(line.split(",")[0]) + dt.timedelta(hours=1), line.split(",", 1)[1])
            for line in begin
        ]
        day = [f"{at.replace(tzinfo=None)},{rest}\n" for at, rest in ends]
        world.dump(date).write_text("".join([lines[0], *day]))
        lines += day
    world.tree["pipeline"]["source"]["time_stamps"] = "end"
    world.store.rename(world.folder / "away")
    assert not world.prepare().failed
    assert shards(world) == expected
    (world.folder / "all.csv").write_text("".join(lines))
    world.tree["pipeline"]["source"]["path"] = str(world.folder / "all.csv")
    world.store.rename(world.folder / "again")
    assert sorted(world.prepare().manifest.dates) == sorted(world.rows)  # type: ignore[union-attr]
    assert shards(world) == expected


def shards(world: World) -> dict[str, bytes]:
    return {name: data for name, data in states.committed(world.store).items() if name.startswith("shards/")}


BARE = "time,node,speed\n2024-03-01,n,1\n2024-03-01 00:05:00,n,2\n2024-03-01 05:00:00,n,3\n"


@pytest.mark.parametrize("block", [text.BLOCK_BYTES, 40])
def test_a_bare_date_is_midnight(read_dump: Dump, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(text, "BLOCK_BYTES", block)
    assert hours(read_dump, BARE) == ["00:00", "00:05", "05:00"]
    lines = BARE.splitlines(keepends=True)
    assert hours(read_dump, "".join([lines[0], lines[2], lines[1], lines[3]])) == ["00:05", "00:00", "05:00"]
    assert hours(read_dump, "".join(lines[:2])) == ["00:00"]
    found = read_dump("time,node,speed\n2013-10-20,n,1\n", date="2013-10-20", timezone="America/Sao_Paulo")
    assert found.clock == ["2013-10-20T03:00:00"]  # it begins at 01:00, summer time
    assert read_dump("time,node,speed\n2024-02-30,n,1\n2024-03-01,n,1\n", max_bad_fraction=0.5).rows.rejected == {
        NO_TIME: 1
    }
    assert hours(read_dump, "time,node,speed\n2024-03-02,n,1\n", time_stamps="end") == ["23:59"]


@pytest.mark.parametrize("block", [text.BLOCK_BYTES, 40])
def test_a_bare_date_and_times_with_an_offset_never_stand_in_one_file(
    read_dump: Dump, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(text, "BLOCK_BYTES", block)
    lines = ["2024-03-01,bare,1\n", "2024-03-01 05:00:00Z,zoned,1\n", "2024-03-01 06:00:00,local,1\n"]
    accepted = {
        "012": ["bare", "local"],
        "102": ["zoned"],
        "021": ["bare", "local"],
        "120": ["zoned"],
        "201": ["local", "bare"],
    }
    for order, nodes in accepted.items():
        data = "time,node,speed\n" + "".join(lines[int(k)] for k in order)
        assert read_dump(data, max_bad_fraction=0.9).nodes == nodes


def fall(stamps: list[tuple[str, str]]) -> str:
    return "time,node,speed\n" + "".join(f"{FALL} {clock},{node},{k}\n" for k, (clock, node) in enumerate(stamps))


HALF_HOURS = [f"{hour:02d}:{minute:02d}" for hour in (0, 1, 2, 2, 3, 4) for minute in (0, 30)]


@pytest.mark.parametrize("block", [text.BLOCK_BYTES, 60])
@pytest.mark.parametrize("by_node", [True, False])
@pytest.mark.parametrize("suffix", ["date", "all"])
def test_a_doubled_hour_is_told_apart_by_the_order_of_a_nodes_rows(
    read_dump: Dump, monkeypatch: pytest.MonkeyPatch, make_world: Make, block: int, by_node: bool, suffix: str
) -> None:
    monkeypatch.setattr(text, "BLOCK_BYTES", block)
    rows = [(clock, node) for clock in HALF_HOURS for node in "ab"]
    rows = [(clock, node) for node in "ab" for clock in HALF_HOURS] if by_node else rows
    expected = [
        f"{day}T{h:02d}:{m:02d}"
        for day, h in [("10-28", 22), ("10-28", 23), *(("10-29", h) for h in range(4))]
        for m in (0, 30)
    ]
    if suffix == "date":
        found = read_dump(fall(rows), date=FALL, timezone=BERLIN, ambiguous="infer")
        records = list(zip(found.nodes, found.clock, found.values["speed"], strict=True))
        for name in "ab":
            mine = sorted((at[5:16], int(value)) for node, at, value in records if node == name)
            assert [at for at, _ in mine] == expected
            assert [value for _, value in mine] == [k for k, (_, node) in enumerate(rows) if node == name]
        assert found.rows.read == found.rows.accepted == len(rows)
        return
    world = make_world(1, zone=BERLIN)
    (world.folder / "all.csv").write_text(fall(rows))
    world.tree["pipeline"] |= {"step": "30m", "split": None, "features": {"speed": {}}}
    world.tree["pipeline"]["source"] |= {"path": str(world.folder / "all.csv"), "ambiguous": "infer"}
    done = world.prepare()
    assert (done.rows["read"], done.rows["accepted"]) == (len(rows), len(rows))
    assert done.rows["by_date"][FALL]["duplicates"]["dropped"] == 0


def test_a_doubled_hour_of_a_parquet_file_is_told_apart_as_that_of_its_text(read_dump: Dump) -> None:
    """Its nodes are places in a list, which go with their rows."""
    data, file = fall([(clock, node) for clock in HALF_HOURS for node in "ab"]), io.BytesIO()
    pl.read_csv(data.encode(), schema_overrides={"time": pl.String}).write_parquet(file)
    source = {"date": FALL, "timezone": BERLIN, "ambiguous": "infer"}
    assert read_dump(file.getvalue(), "x.parquet", **source) == read_dump(data, **source)


def test_an_order_that_tells_nothing_is_refused(read_dump: Dump) -> None:
    source = {"date": FALL, "timezone": BERLIN, "ambiguous": "infer"}
    once = [("01:30", "a"), ("02:00", "a"), ("02:30", "a"), ("03:00", "a")]
    assert "row 3, column 'time', value '2023-10-29 02:00'" in refused(read_dump, fall(once), **source)
    thrice = [("02:00", "a"), ("02:00", "a"), ("02:00", "a"), ("03:00", "a")]
    assert "(3 rows are rejected of 4)" in refused(read_dump, fall(thrice), **source)
    found = read_dump(fall([*once, ("02:00", "b"), ("02:00", "b")]), faults={"bad_time": "drop"}, **source)
    assert found.rows.rejected == {NO_TIME: 2}
    assert [at[11:16] for node, at in zip(found.nodes, found.clock, strict=True) if node == "b"] == ["00:00", "01:00"]


def test_the_order_of_ends_of_intervals_tells_a_doubled_hour_too(read_dump: Dump) -> None:
    stamps = [*(f"{FALL} {hour:02d}:00" for hour in (1, 2, 2, 3)), f"{FALL} 24:00"]
    data = "time,node,speed\n" + "".join(f"{at},a,{k}\n" for k, at in enumerate(stamps))
    found = read_dump(data, date=FALL, timezone=BERLIN, ambiguous="infer", time_stamps="end")
    shown = sorted(zip((at[5:16] for at in found.clock), found.values["speed"], strict=True))
    assert shown == [
        ("10-28T22:59", 0.0),
        ("10-28T23:59", 1.0),
        ("10-29T00:59", 2.0),
        ("10-29T01:59", 3.0),
        ("10-29T22:59", 4.0),
    ]


def test_a_date_with_an_ordinary_clock_is_read_once(read_dump: Dump, monkeypatch: pytest.MonkeyPatch) -> None:
    from dateshard.pipeline.raw.clocks import doubled_hours

    calls, honest = list[str](), doubled_hours.instants
    monkeypatch.setattr(doubled_hours, "instants", lambda *given: (calls.append(""), honest(*given))[1])
    read_dump("time,node,speed\n2024-03-01 05:00,a,1\n", timezone=BERLIN, ambiguous="infer")
    assert len(calls) == 1


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=24))
def test_the_second_hour_begins_where_a_group_goes_back_for_the_only_time(rows: list[tuple[int, int]]) -> None:
    group, reading = np.asarray(rows).T
    second, valid = second_hour(reading, group)
    for name in set(group.tolist()):
        mine = [k for k in range(len(rows)) if group[k] == name]
        back = [k for before, k in itertools.pairwise(mine) if reading[k] <= reading[before]]
        assert all(bool(valid[k]) == (len(back) == 1) for k in mine)
        assert not back or [bool(second[k]) for k in mine] == [k >= back[0] for k in mine]


SEEN: list[tuple[str, dict[str, Any], str]] = [
    (f"{FALL} 02:30", {"date": FALL, "timezone": BERLIN}, "ambiguous: infer, if rows stand in order, or earliest or latest"),
    ("2024-03-31 02:30", {"date": "2024-03-31", "timezone": BERLIN}, "put forward, set pipeline.source.timezone: Etc/GMT-1"),
    ("01/03/2024 5:00 AM", {}, "Set pipeline.source.time_format: '%d/%m/%Y %I:%M %p'"),
    ("03/01/2024 5:00 AM", {}, "Set pipeline.source.time_format: '%m/%d/%Y %I:%M %p'"),
    ("2024-3-1 5:00", {}, "Set pipeline.source.time_format: '%Y-%m-%d %H:%M'"),
    ("1709269200", {}, "set pipeline.source.time_format: s"),
    ("1709269200000", {"time_format": "s"}, "set pipeline.source.time_format: ms"),
    ("1709269200", {"time_format": "ms"}, "set pipeline.source.time_format: s"),
]  # fmt: skip


@pytest.mark.parametrize(("at", "source", "words"), SEEN)
def test_times_that_another_key_reads_are_answered_with_it(
    read_dump: Dump, at: str, source: dict[str, Any], words: str
) -> None:
    message = refused(read_dump, f"time,node,speed\n{at},n,1\n{at},m,2\n", **source)
    assert message.endswith(f"{words}, or correct the dump")


def test_records_of_steps_below_a_second_fall_into_their_own_cells(make_world: Make) -> None:
    world = make_world(2, nodes=["a"])
    del world.tree["pipeline"]["source"]["node"]
    lines = [f"05:00:{k // 4:02d}.{k % 4 * 250:03d},{k}" for k in range(100)]
    for date in world.rows:
        world.dump(date).write_text("".join(["time,speed\n", *(f"{date}T{line}\n" for line in lines)]))
    world.tree["pipeline"] |= {"step": "250ms", "features": {"speed": {"scale": "none"}}}
    world.prepare()
    dataset, first = world.open(), 5 * 3600 * 4
    values, seen = np.empty((104, 1, 1), dtype=np.float32), np.empty((104, 1, 1), dtype=bool)
    dataset.read(min(world.rows), slice(first - 2, first + 102), values)
    dataset.read_observed(min(world.rows), slice(first - 2, first + 102), seen)
    assert values[2:-2, 0, 0].tolist() == list(range(100))
    assert np.flatnonzero(~seen[:, 0, 0]).tolist() == [0, 1, 102, 103]


def test_a_time_of_two_columns_is_shown_whole(read_dump: Dump) -> None:
    message = refused(
        read_dump,
        "day,clock,node,speed\n31.03.2024,02.30,n,1\n",
        date="2024-03-31",
        time=["day", "clock"],
        time_format="%d.%m.%Y %H.%M",
        timezone=BERLIN,
    )
    assert "column 'day clock', value '31.03.2024 02.30'" in message


def test_the_pattern_of_two_columns_has_a_blank_between_its_halves(read_dump: Dump) -> None:
    data, source = "day,clock,node,speed\n31.03.2024,04.30,n,1\n", {"date": "2024-03-31", "time": ["day", "clock"]}
    assert "Set pipeline.source.time_format: '%d.%m.%Y %H.%M', or" in refused(read_dump, data, **source)
    assert read_dump(data, time_format="%d.%m.%Y %H.%M", **source).rows.accepted == 1
