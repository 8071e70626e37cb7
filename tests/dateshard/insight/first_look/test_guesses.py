"""What a look at files as people have them guesses: the keys of the configuration, and what it says it is unsure of."""

from __future__ import annotations

import datetime as dt
import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from ruamel.yaml import YAML

from dateshard.insight.first_look import text_sample
from dateshard.insight.first_look.look import Guess, look_at
from dateshard.shardstore.errors import DumpError, UsageError

Run = Callable[..., Any]
START = dt.datetime(2024, 2, 20)


def every(minutes: float, count: int) -> Iterator[tuple[dt.datetime, float]]:
    """Times, and a value that changes with the hour."""
    chance = random.Random(3)
    for k in range(count):
        at = START + k * dt.timedelta(minutes=minutes)
        yield at, 20 + 9 * math.sin(at.hour / 4) + chance.random()


def household(folder: Path) -> None:
    """UCI's household power: a date and a time of day, semicolons, `?`."""
    rows = (
        f"{at.day}/{at.month}/{at.year};{at:%H:%M:%S};{'?' if at.minute == 30 else f'{v:.3f}'}\n"
        for at, v in every(10, 900)
    )
    (folder / "power.txt").write_text("Date;Time;Power\n" + "".join(rows))


def beijing(folder: Path) -> None:
    """Beijing's PM2.5: a time in parts, a counter of rows, NA, a text."""
    rows = (
        f"{k},{at.year},{at.month},{at.day},{at.hour},{'NA' if k % 40 == 3 else round(v)},{'NW' if k % 3 else 'SE'}\n"
        for k, (at, v) in enumerate(every(60, 24 * 12))
    )
    (folder / "prsa.csv").write_text("No,year,month,day,hour,pm2.5,cbwd\n" + "".join(rows))


def detectors(folder: Path) -> None:
    """PeMS: no header, a file a day, American dates, whole numbers that name nodes, columns without a value."""
    for day in range(4):
        times = [START + dt.timedelta(days=day, minutes=5 * k) for k in range(0, 288, 2)]
        rows = (f"{at:%m/%d/%Y %H:%M:%S},{s},N,0.4,{50 + (at.hour * s) % 17},,\n" for at in times for s in (1100, 1103))
        (folder / f"d11_{times[0]:%Y_%m_%d}.txt").write_text("".join(rows))


def stations(folder: Path) -> None:
    """A file a station in Latin-1, with decimal commas, a sentinel, points in times of day, and separators at the end."""
    for number, station in enumerate(("Aachen", "Köln")):
        lines = ["Datum;Uhrzeit;Wärme °C;Wind;;\n"]
        for k, (at, v) in enumerate(every(60, 24 * 6)):
            wind = "-9999" if k % 50 == 7 else f"{3 + number + v / 9:.1f}".replace(".", ",")
            lines.append(f"{at:%d.%m.%Y;%H.%M};{f'{v:.1f}'.replace('.', ',')};{wind};;\n")
        (folder / f"{station}.csv").write_bytes("".join(lines).encode("latin-1"))


def electricity(folder: Path) -> None:
    """UCI's electricity: a column a meter, and none of the names is that of the time."""
    names = [f"MT_{k:03}" for k in range(1, 6)]
    rows = (
        f'"{at}";' + ";".join(f"{k * v:.2f}".replace(".", ",") for k in range(1, 6)) + "\n"
        for at, v in every(60, 24 * 8)
    )
    (folder / "LD2011.txt").write_text('"";' + ";".join(f'"{name}"' for name in names) + "\n" + "".join(rows))


def logger(folder: Path) -> None:
    """Comments above, a row of units, a footer, and no newline at the end."""
    rows = (f"{at:%Y-%m-%d %H:%M},{v:.1f},{v + 20:.1f}\n" for at, v in every(60, 24 * 8))
    (folder / "export.csv").write_text("# Site: X\ntime,t,rh\n,degC,%\n" + "".join(rows) + "Total;192 rows")


def american(folder: Path) -> None:
    """The month first, twelve hours, an index without a name."""
    rows = (f"{k},{at:%m/%d/%Y %I:%M:%S %p},{100 * v:.0f}\n" for k, (at, v) in enumerate(every(60, 24 * 30)))
    (folder / "pjm.csv").write_text(",Datetime,MW\n" + "".join(rows))


def meters(folder: Path) -> None:
    """Readings that never fall, of two meters, one below the other."""
    rows = (
        f"{at:%Y-%m-%dT%H:%M:%SZ},m{m},{1000 * m + k + v / 40:.2f}\n"
        for m in (2, 1)
        for k, (at, v) in enumerate(every(60, 240))
    )
    (folder / "kwh.csv").write_text("stamp,meter,kwh\n" + "".join(rows))


def berlin(folder: Path) -> None:
    """Seconds since 1970 in files of local dates."""
    for day in range(1, 4):
        begin = dt.datetime(2024, 7, day, tzinfo=dt.timezone(dt.timedelta(hours=2))).timestamp()
        rows = (f"{begin + 900 * k:.0f},{50 + k % 7}\n" for k in range(96))
        (folder / f"2024-07-{day:02}.csv").write_text("unix,load\n" + "".join(rows))


def closing(folder: Path) -> None:
    """Times that end what they measure: the last of a date is the next midnight."""
    for day in range(4):
        rows = (f"{at + dt.timedelta(days=day, minutes=15)},{v:.2f}\n" for at, v in every(15, 96))
        (folder / f"{(START + dt.timedelta(days=day)):%Y%m%d}.csv").write_text("time,load\n" + "".join(rows))


def parquet(folder: Path) -> None:
    """A folder a date, types, nulls and a sentinel, a number that names the device."""
    for day in range(4):
        at = [START + dt.timedelta(days=day, hours=k // 2) for k in range(48)]
        warm = [None if k == 5 else -9999.0 if k == 7 else 20.0 + k % 11 for k in range(48)]
        frame = pl.DataFrame({"ts": at, "device": [1, 2] * 24, "warm": warm, "unit": ["C"] * 48})
        place = folder / f"date={at[0]:%Y-%m-%d}"
        place.mkdir()
        frame.with_columns(pl.col("ts").dt.replace_time_zone("Europe/Berlin")).write_parquet(place / "part-0.parquet")


def access(folder: Path) -> None:
    """JSON Lines of events at any instant, with an object and a text."""
    chance, at, lines = random.Random(5), 1.7e9, list[str]()
    for _ in range(600):
        at += chance.expovariate(1 / 400)
        row = {
            "timestamp": round(at, 2),
            "user": f"u{chance.randrange(9)}",
            "bytes": chance.randrange(9000),
            "meta": {"a": 1},
        }
        lines.append(json.dumps(row))
    (folder / "access.jsonl").write_text("\n".join(lines))


def requests(folder: Path) -> None:
    """Events on a clock of whole seconds, some of them at one: that is no step, and no user is a node."""
    chance, at, rows = random.Random(7), 1.7e9, list[str]()
    for _ in range(3000):
        at += chance.expovariate(1 / 3)
        rows.append(f"{at:.0f},u{chance.randrange(9)},{chance.randrange(9000)}\n")
    (folder / "trace.csv").write_text("time,user,tokens\n" + "".join(rows))


def nodes_in_folders(folder: Path) -> None:
    """A folder a date, a file a node."""
    for day in range(4):
        at = START + dt.timedelta(days=day)
        (folder / f"{at:%Y%m%d}").mkdir()
        for node in ("A1", "B2"):
            rows = (f"{at + dt.timedelta(minutes=30 * k)},{k % 9 + day}\n" for k in range(48))
            (folder / f"{at:%Y%m%d}" / f"{node}.csv").write_text("time,v\n" + "".join(rows))


def months(folder: Path) -> None:
    """A file a month."""
    for month in (1, 2):
        rows = (
            f"2024-{month:02}-{1 + k // 24:02} {k % 24:02}:00,{z},{k % 24 + z}\n"
            for k in range(24 * 28)
            for z in (4, 7)
        )
        (folder / f"taxi_2024-{month:02}.csv").write_text("pickup_datetime,zone_id,trips\n" + "".join(rows))


def chinese(folder: Path) -> None:
    rows = (f"{at:%Y/%m/%d %H:%M},{s},{v:.0f}\n" for at, v in every(60, 24 * 5) for s in ("东门", "西门"))
    (folder / "x.csv").write_bytes(("时间,站点,流量\n" + "".join(rows)).encode("gb18030"))


def businessdays(folder: Path) -> None:
    days = (START + dt.timedelta(days=k) for k in range(200))
    rows = (f"{at:%Y-%m-%d},{100 + at.day * 7 % 13}\n" for at in days if at.weekday() < 5)
    (folder / "stock.csv").write_text("Date,Close\n" + "".join(rows))


def devices(folder: Path) -> None:
    """Readings at no regular distance, of named sensors."""
    chance, rows = random.Random(1), list[str]()
    for second in range(0, 4 * 86_400, 60):
        at = START + dt.timedelta(seconds=second + chance.randrange(60))
        rows.append(f"{at}\t{chance.choice('abc')}\t{20 + chance.random():.2f}\t3.3\n")
    (folder / "iot.tsv").write_text("when\tsensor\twarm\tbattery\n" + "".join(rows))


Wanted = dict[str, Any]
CASES: dict[Callable[[Path], None], Wanted] = {
    household: {"source.csv": {"separator": ";", "missing": ["", "?"]}, "source.time": ["Date", "Time"],
                "source.time_format": "%d/%m/%Y %H:%M:%S", "step": "10m", "features": ["Power"]},
    beijing: {"source.time": {"year": "year", "month": "month", "day": "day", "hour": "hour"}, "step": "1h",
              "source.csv": {"missing": ["", "NA"]}, "features": ["pm2.5"]},
    detectors: {"source.path": "raw/d11_{date:%Y_%m_%d}.txt", "source.node": "column_2", "step": "10m",
                "source.time_format": "%m/%d/%Y %H:%M:%S", "features": ["column_5"]},
    stations: {"source.path": "raw/{node}.csv", "source.csv.decimal": ",", "source.csv.encoding": "latin-1",
               "source.csv.missing": ["", "-9999"], "source.time_format": "%d.%m.%Y %H.%M",
               "features": ["Wärme °C", "Wind"], "step": "1h"},
    electricity: {"source.wide": {"value": "value", "nodes": "MT_*"}, "source.time": "time", "source.csv.skip_rows": 1},
    logger: {"source.csv": {"comment": "#", "skip_rows": [3], "skip_footer": 1, "final_newline": False},
             "features": ["t", "rh"]},
    american: {"source.time_format": "%m/%d/%Y %I:%M:%S %p", "step": "1h", "features": ["MW"],
               "window": {"history": 168, "horizon": 24}},
    meters: {"source.node": "meter", "features.kwh": {"aggregate": "difference"}},
    berlin: {"source.time_format": "s", "source.timezone": "Etc/GMT-2", "source.path": "raw/{date}.csv"},
    closing: {"source.time_stamps": "end", "source.path": "raw/{date:%Y%m%d}.csv"},
    parquet: {"source.timezone": "Europe/Berlin", "source.node": "device", "step": "1h", "features": ["warm"],
              "features.warm.outside": "null", "source.path": "raw/date={date}/part-0.parquet"},
    access: {"layout": "events", "source.time_format": "s", "features": ["gap", "bytes"],
             "source.csv": {"final_newline": False}},
    requests: {"layout": "events", "source.time_format": "s", "features": ["gap", "tokens"]},
    nodes_in_folders: {"source.path": "raw/{date:%Y%m%d}/{node}.csv", "step": "30m"},
    months: {"source.path": "raw/*.csv", "source.node": "zone_id", "step": "1h"},
    chinese: {"source.csv": {"encoding": "gb18030"}, "source.node": "站点", "source.time_format": "%Y/%m/%d %H:%M"},
    businessdays: {"step": "1d", "window": {"history": 3, "horizon": 1}},
    devices: {"source.node": "sensor", "features": ["warm"], "step": "10m"},
}  # fmt: skip


def guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]) -> Guess:
    monkeypatch.chdir(tmp_path)
    Path("raw").mkdir()
    write(Path("raw"))
    files = list(Path("raw").iterdir())
    return look_at(files[0] if len(files) == 1 and files[0].is_file() else Path("raw"), Path())


def at_key(tree: Any, key: str) -> Any:
    """A section's value; of `features` alone their names."""
    for word in key.split("."):
        tree = tree[word]
    return list(tree) if key == "features" else tree


@pytest.mark.parametrize("write", CASES, ids=lambda write: write.__name__)
def test_a_look_finds_how_files_are_written(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = YAML(typ="safe").load(guess(tmp_path, monkeypatch, write).text)
    sections = tree["pipeline"] | {"window": tree["trainer"]["window"]}
    assert {key: at_key(sections, key) for key in CASES[write]} == CASES[write]


def test_a_clock_of_whole_seconds_is_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "layout: events" in (text := guess(tmp_path, monkeypatch, requests).text)
    assert "rows come at no regular distance" in text


def test_what_is_unsure_is_told_with_the_key_that_changes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doubts = {key: doubt for doubt, key in guess(tmp_path, monkeypatch, stations).doubts}
    assert doubts["pipeline.source.timezone"] == "times have no offset and are taken for UTC"
    assert doubts["pipeline.source.csv.missing"] == "-9999 is taken for a missing value"
    assert "pipeline.source.path" in doubts


def test_of_a_large_file_some_is_read_and_its_last_date_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"WHOLE_BYTES": 20_000, "HEAD_BYTES": 10_000, "PIECE_BYTES": 1_000}
    for name, size in sizes.items():
        monkeypatch.setattr(text_sample, name, size)
    amounts = list[int]()
    really = text_sample._read
    monkeypatch.setattr(text_sample, "_read", lambda stream, size: amounts.append(size) or really(stream, size))
    rows = "".join(f"{at}Z,{v:.2f}\n" for at, v in every(5, 288 * 60))
    text = guess(tmp_path, monkeypatch, lambda raw: (raw / "x.csv").write_text("time,v\n" + rows) and None).text
    assert len(rows) > 20 * sum(amounts)
    assert "2024-02-20..2024-04-19" in text
    assert "step: 5m" in text
    assert "last:9" in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "raw/x.csv: the file is empty"),
        ("v\n1\n2\n3\n", "there is no time, and no two columns"),
        ("a,b\n", "raw/x.csv: a header but no row"),
    ],
)
def test_a_file_in_which_nothing_can_be_forecast_is_refused(
    text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DumpError, match=words):
        guess(tmp_path, monkeypatch, lambda raw: (raw / "x.csv").write_text(text) and None)


def test_a_place_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file or folder"):
        look_at(tmp_path / "none", tmp_path)


def test_a_configuration_that_is_there_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ds: Run) -> None:
    monkeypatch.chdir(tmp_path)
    meters(tmp_path)
    first = ds("init", "--from", "kwh.csv").out
    assert "wrote configs/kwh.yaml" in first
    assert "kept configs/kwh.yaml: it was there before\n" in ds("init", "--from", "kwh.csv").out
    Path("configs/kwh.yaml").write_text("mine\n")
    assert "it was there before, and differs" in ds("init", "--from", "kwh.csv").out
    assert Path("configs/kwh.yaml").read_text() == "mine\n"


def test_a_place_that_no_configuration_can_name_is_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ds: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my {data}").mkdir()
    closing(Path("my {data}"))
    refused = ds("init", "--from", "my {data}", code=2).err
    assert "configs/my_data.yaml:6:5: pipeline.source.path: '{data}' is not a placeholder" in refused
    assert list(Path("configs").iterdir()) == []


def test_rows_that_preprocess_will_refuse_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "".join(f"{at},{v:.2f}{',9' if k % 20 == 7 else ''}\n" for k, (at, v) in enumerate(every(5, 300)))
    look = guess(tmp_path, monkeypatch, lambda raw: (raw / "x.csv").write_text("time,v\n" + rows) and None)
    doubt = dict(map(reversed, look.doubts))["the file"]
    assert doubt == (
        "preprocess will refuse a file: raw/x.csv: the row has 3 fields, the header 2. Correct the dump, "
        "or leave such rows out with pipeline.source.faults.other_fields: drop"
    )


def test_a_few_rows_of_another_number_of_fields_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "".join(f"{at},{v:.2f}{',9' if k in (20, 80) else ''}\n" for k, (at, v) in enumerate(every(5, 300)))
    look = guess(tmp_path, monkeypatch, lambda raw: (raw / "x.csv").write_text("time,v\n" + rows) and None)
    source = YAML(typ="safe").load(look.text)["pipeline"]["source"]
    assert source["faults"] == {"other_fields": "drop"}
    assert "2 rows have another number of fields than the header" in look.text
    assert not [doubt for doubt in look.doubts if doubt[1] == "the file"]


@pytest.mark.parametrize("share", [4, 60])
@pytest.mark.parametrize("comma", [True, False])
def test_numbers_with_a_mark_between_thousands_are_read_by_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, comma: bool, share: int
) -> None:
    german = str.maketrans(",.", ".,") if comma else {}
    rows = (
        f"{at};{f'{v + (1000 if k % share == 1 else 0):,.2f}'.translate(german)};{f'{v:.1f}'.translate(german)}\n"
        for k, (at, v) in enumerate(every(60, 24 * 12))
    )
    text = "time;load;warm\n" + "".join(rows)
    look = guess(tmp_path, monkeypatch, lambda raw: (raw / "x.csv").write_text(text) and None)
    keys = YAML(typ="safe").load(look.text)["pipeline"]
    assert keys["source"]["csv"] == {"separator": ";"} | (
        {"decimal": ",", "thousands": "."} if comma else {"thousands": ","}
    )
    assert list(keys["features"]) == ["load", "warm"]
    assert not [doubt for doubt in look.doubts if "thousands" in doubt[0]]


@pytest.mark.parametrize(
    ("values", "keys"),
    [
        (['"1,250"', '"12,125"', "980"], {"thousands": ","}),
        (['"0,125"', '"12,125"', "980"], {}),  # decimals of a file whose separator is a comma: no key reads them
        (["1 250.5", "12\u202f125", "980"], {"thousands": " "}),
    ],
)
def test_a_mark_between_thousands_is_guessed_where_it_can_be_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: list[str], keys: dict[str, str]
) -> None:
    rows = (f"{at},{values[k % 3]},{v:.2f}\n" for k, (at, v) in enumerate(every(60, 24 * 12)))
    text = "time,load,warm\n" + "".join(rows)
    look = guess(tmp_path, monkeypatch, lambda raw: (raw / "x.csv").write_text(text) and None)
    assert YAML(typ="safe").load(look.text)["pipeline"]["source"].get("csv", {}) == keys
    unsure = [doubt for doubt, key in look.doubts if key == "pipeline.source.csv.thousands"]
    assert unsure == (["numbers such as '1,250' are read as thousands"] if keys == {"thousands": ","} else [])


def nines(first: float, second: float, count: int = 3) -> Callable[[Path], None]:
    """Two columns, a number of values up to about 28 times a factor; some of each are -999."""

    def write(raw: Path) -> None:
        rows = (
            f"{at},{-999 if k % 90 < count and k > 90 else v * first},{-999 if k % 100 < count and k > 90 else v * second}\n"
            for k, (at, v) in enumerate(every(60, 24 * 12))
        )
        (raw / "x.csv").write_text("time,a,b\n" + "".join(rows))

    return write


def test_what_one_column_tells_to_be_missing_is_missing_in_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = guess(tmp_path, monkeypatch, nines(1, -70)).text
    tree = YAML(typ="safe").load(text)["pipeline"]
    assert tree["source"]["csv"]["missing"] == ["", "-999"]
    assert tree["features"]["a"] == tree["features"]["b"] == {"fill": "forward", "fill_limit": 12}
    assert "# -999" not in text


@pytest.mark.parametrize(("second", "marked"), [(70, True), (-70, False), (500, True)])
def test_nines_below_zero_that_come_again_are_missing_where_nothing_else_is_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: float, marked: bool
) -> None:
    text = guess(tmp_path, monkeypatch, nines(second, second)).text
    assert ("-999" in str(YAML(typ="safe").load(text)["pipeline"]["source"].get("csv", {}))) == marked


def test_own_data_and_an_example_are_not_one_request(ds: Run) -> None:
    assert "--from is for your own data" in ds("init", "--from", ".", "--example", "traffic", code=2).err
