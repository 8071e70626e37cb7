"""The same rows in every format, dialect and division give the same bytes: shards, statistics, nodes and manifest."""

from __future__ import annotations

import datetime as dt
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pyarrow as pa
import pytest

from dateshard.cli import run

ZONE = "America/New_York"
DATES = [
    dt.date(2013, 3, 9),
    dt.date(2013, 3, 10),
    dt.date(2013, 3, 11),
    dt.date(2013, 3, 12),
]  # the second has 23 hours
SPLIT = {"train": "2013-03-09..2013-03-11", "validation": "2013-03-12"}
SCHEMA = {"time": pl.String, "node": pl.String, "speed": pl.Float64, "vehicles": pl.Float64}


@pytest.fixture
def world(make_world: Callable[..., Any]) -> Any:
    return make_world(DATES, zone=ZONE, nodes=["n0", "Straße", "站"], split=SPLIT)


def frame_of(world: Any, date: dt.date, zone: str | None = ZONE) -> pl.DataFrame:
    """A date's rows with times as ISO texts in a zone; None: as they stand on the local clock."""
    rows = []
    for instant, node, speed, volume in world.rows[date]:
        at = dt.datetime.fromtimestamp(instant / 1e9, ZoneInfo(zone or ZONE))
        rows.append(((at.replace(tzinfo=None) if zone is None else at).isoformat(), node, speed, volume))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def everything(world: Any) -> pl.DataFrame:
    return pl.concat([frame_of(world, date) for date in DATES])


def wide(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.pivot("node", index="time", values="speed", maintain_order=True)


def as_csv(frame: pl.DataFrame, path: Path) -> None:
    frame.write_csv(path)


def as_dialect(frame: pl.DataFrame, path: Path) -> None:
    """Semicolons, decimal commas, quotes, GB18030, carriage returns, other columns in another order."""
    lines = ['"remark";"speed";"time";"vehicles";"node"']
    for time, node, speed, volume in frame.iter_rows():
        number = "k.A." if speed is None else repr(speed).replace(".", ",")
        lines.append(f'"a; ""b""";{number};"{time}";{repr(volume).replace(".", ",")};"{node}"')
    path.write_bytes("\r\n".join([*lines, ""]).replace("Straße", "Strasse").encode("gb18030"))


def as_gzip(frame: pl.DataFrame, path: Path) -> None:
    path.write_bytes(gzip.compress(frame.write_csv().encode()))


def as_zstd(frame: pl.DataFrame, path: Path) -> None:
    with pa.output_stream(str(path), compression="zstd") as stream:
        stream.write(frame.write_csv().encode())


def as_json_lines(frame: pl.DataFrame, path: Path) -> None:
    frame.write_ndjson(path)


def as_parquet(frame: pl.DataFrame, path: Path) -> None:
    frame.write_parquet(path, row_group_size=50)


def as_typed_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Instants as timestamps, nodes as categories, counts as integers."""
    times = pl.col("time").str.to_datetime("%Y-%m-%dT%H:%M:%S%#z", time_zone="UTC").dt.cast_time_unit("ms")
    frame.with_columns(times, pl.col("node").cast(pl.Categorical), pl.col("vehicles").cast(pl.Int32)).write_parquet(
        path
    )


def as_arrow(frame: pl.DataFrame, path: Path) -> None:
    frame.write_ipc(path)


def as_arrow_stream(frame: pl.DataFrame, path: Path) -> None:
    frame.write_ipc_stream(path)


def as_folder(frame: pl.DataFrame, path: Path) -> None:
    path.mkdir()
    third = len(frame) // 3
    frame[:third].write_csv(path / "a.csv")
    frame[third : 2 * third].write_parquet(path / "b.parquet")
    as_gzip(frame[2 * third :], path / "c.csv.gz")
    (path / "_SUCCESS").touch()


def reference(world: Any, committed: Any) -> dict[str, bytes]:
    """What the world's own CSVs give, prepared in this process."""
    world.prepare()
    return {name: data for name, data in committed(world).items() if not name.endswith(".sources.json")}


def prepared(world: Any, committed: Any, source: dict[str, Any] | None = None) -> dict[str, bytes]:
    """What the command line makes of the world, without the sources file (it says how the input was written)."""
    base = {"path": world.tree["pipeline"]["source"]["path"], "time": "time", "timezone": ZONE, "node": "node"}
    world.tree["pipeline"]["source"] = base | (source or {})
    if world.tree["pipeline"]["source"].get("wide"):
        del world.tree["pipeline"]["source"]["node"]
    if world.store.exists():
        world.store.rename(world.folder / f"away{len(list(world.folder.glob('away*')))}")
    world.run("preprocess", "-c", str(world.config_file()), "--workers", "1")
    return {name: data for name, data in committed(world).items() if not name.endswith(".sources.json")}


FORMATS: dict[str, tuple[str, Callable[[pl.DataFrame, Path], None], dict[str, Any]]] = {
    "csv": ("{date}.csv", as_csv, {}),
    "gzip": ("{date:%Y%m%d}.csv.gz", as_gzip, {}),
    "zstd": ("{date}.csv.zst", as_zstd, {}),
    "jsonl": ("{date}.jsonl", as_json_lines, {}),
    "parquet": ("{date}.parquet", as_parquet, {}),
    "typed parquet": ("{date}.parquet", as_typed_parquet, {}),
    "hive": ("date={date}/part-0.parquet", as_parquet, {}),
    "arrow": ("{date}.arrow", as_arrow, {}),
    "arrow stream": ("{date}.arrow", as_arrow_stream, {}),
    "folder": ("{date}", as_folder, {}),
    "named format": ("{date}.dat", as_csv, {"format": "csv"}),
    "dotted format": ("{date}.dat", as_csv, {"format": "dateshard.pipeline.raw.formats.csv:read"}),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_of_a_file_a_date_gives_the_same_bytes(world: Any, committed: Any, name: str) -> None:
    expected = reference(world, committed)
    pattern, write, more = FORMATS[name]
    for date in DATES:
        path = world.folder / "other" / pattern.replace("{date}", str(date)).replace("{date:%Y%m%d}", f"{date:%Y%m%d}")
        path.parent.mkdir(parents=True, exist_ok=True)
        write(frame_of(world, date), path)
    assert prepared(world, committed, {"path": f"other/{pattern}", **more}) == expected


def test_a_dialect_gives_the_same_bytes(world: Any, committed: Any) -> None:
    for date, rows in world.rows.items():
        world.rows[date] = [(at, node.replace("Straße", "Strasse"), x, y) for at, node, x, y in rows]
        world.write(date)
    expected = reference(world, committed)
    (world.folder / "other").mkdir()
    for date in DATES:
        as_dialect(frame_of(world, date), world.folder / "other" / f"{date}.txt")
    csv = {"separator": ";", "decimal": ",", "encoding": "gb18030", "missing": ["", "k.A."]}
    assert prepared(world, committed, {"path": "other/{date}.txt", "csv": csv}) == expected


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
@pytest.mark.parametrize("shuffled", [False, True], ids=["in order", "shuffled"])
def test_one_big_file_is_cut_into_dates_and_gives_the_same_bytes(
    world: Any, committed: Any, suffix: str, shuffled: bool
) -> None:
    expected = reference(world, committed)
    frame = everything(world)
    write = {"csv": as_csv, "parquet": as_parquet, "jsonl": as_json_lines}[suffix]
    write(frame.sample(fraction=1, shuffle=True, seed=1) if shuffled else frame, world.folder / f"all.{suffix}")
    assert prepared(world, committed, {"path": f"all.{suffix}"}) == expected


@pytest.mark.parametrize("suffix", ["csv", "parquet", "arrow"])
@pytest.mark.parametrize("big", [False, True], ids=["by date", "one file"])
def test_a_column_a_node_gives_the_same_bytes(world: Any, committed: Any, suffix: str, big: bool) -> None:
    world.tree["pipeline"]["features"] = {"speed": {"fill": "forward", "fill_limit": 3}}
    expected = reference(world, committed)
    write = {"csv": as_csv, "parquet": as_parquet, "arrow": as_arrow}[suffix]
    (world.folder / "other").mkdir()
    for date in DATES:
        write(wide(frame_of(world, date)), world.folder / "other" / f"{date}.{suffix}")
    if big:
        write(wide(everything(world)), world.folder / f"all.{suffix}")
    path = f"all.{suffix}" if big else f"other/{{date}}.{suffix}"
    assert prepared(world, committed, {"path": path, "wide": {"value": "speed"}}) == expected


TIMES: dict[str, tuple[Callable[[pl.Expr], pl.Expr], dict[str, Any]]] = {
    "s": (lambda ns: ns // 10**9, {"time_format": "s"}),
    "ms": (lambda ns: ns // 10**6, {"time_format": "ms"}),
    "us": (lambda ns: ns // 10**3, {"time_format": "us"}),
    "ns": (lambda ns: ns, {"time_format": "ns"}),
    "fractions of a second": (lambda ns: (ns // 10**9).cast(pl.String) + ".000", {"time_format": "s"}),
    "seconds from the first day": (
        lambda ns: (ns - int(dt.datetime(2013, 3, 9, 5, tzinfo=dt.UTC).timestamp()) * 10**9) // 10**9,
        {"time_format": "s", "time_origin": "2013-03-09"},
    ),
    "pattern": (
        lambda ns: ns.cast(pl.Datetime("ns")).dt.to_string("%d.%m.%Y %H:%M:%S +0000"),
        {"time_format": "%d.%m.%Y %H:%M:%S %z"},
    ),
    "Z": (lambda ns: ns.cast(pl.Datetime("ns")).dt.to_string("%Y-%m-%dT%H:%MZ"), {}),
}


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
@pytest.mark.parametrize("name", TIMES)
def test_every_spelling_of_time_gives_the_same_bytes(world: Any, committed: Any, name: str, suffix: str) -> None:
    expected = reference(world, committed)
    spell, more = TIMES[name]
    (world.folder / "other").mkdir()
    for date in DATES:
        instants = pl.Series("time", [row[0] for row in world.rows[date]], dtype=pl.Int64)
        frame = frame_of(world, date).with_columns(instants).with_columns(spell(pl.col("time")).alias("time"))
        {"csv": as_csv, "parquet": as_parquet, "jsonl": as_json_lines}[suffix](
            frame, world.folder / "other" / f"{date}.{suffix}"
        )
    assert prepared(world, committed, {"path": f"other/{{date}}.{suffix}", **more}) == expected


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_local_clocks_in_one_column_or_two_give_the_same_bytes(world: Any, committed: Any, suffix: str) -> None:
    expected = reference(world, committed)
    (world.folder / "other").mkdir()
    (world.folder / "apart").mkdir()
    write = {"csv": as_csv, "parquet": as_parquet}[suffix]
    for date in DATES:
        local = frame_of(world, date, None)
        write(local, world.folder / "other" / f"{date}.{suffix}")
        apart = local.with_columns(pl.col("time").str.head(10).alias("day"), pl.col("time").str.tail(8).alias("clock"))
        write(apart.drop("time"), world.folder / "apart" / f"{date}.{suffix}")
    assert prepared(world, committed, {"path": f"other/{{date}}.{suffix}"}) == expected
    assert prepared(world, committed, {"path": f"apart/{{date}}.{suffix}", "time": ["day", "clock"]}) == expected


def test_a_date_that_does_not_fit_is_spilled_and_gives_the_same_bytes(
    world: Any, committed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dateshard.pipeline import arrays

    for date, rows in world.rows.items():
        world.rows[date] = rows + [(at, node, 1.0, 2.0) for at, node, _, _ in rows[::7]]  # the later one wins
        world.write(date)
    expected = reference(world, committed)
    world.store.rename(world.folder / "whole")
    monkeypatch.setattr(arrays, "record_budget", lambda *_: 2000)
    world.prepare()
    found = {name: data for name, data in committed(world).items() if not name.endswith(".sources.json")}
    assert found == expected


def test_a_big_file_that_grows_leaves_its_earlier_dates_fresh(world: Any, committed: Any) -> None:
    everything(world)[:-60].write_csv(world.folder / "all.csv")
    prepared(world, committed, {"path": "all.csv"})
    everything(world).write_csv(world.folder / "all.csv")
    config = str(world.config_file())
    planned = world.run("plan", "-c", config, "--json")
    assert "it will be divided again" in json.loads(planned.stdout)["warnings"][0]
    document = json.loads(world.run("preprocess", "-c", config, "--json", "--workers", "1").stdout)
    assert 1 <= document["measured"] < len(DATES)
    assert len(list((world.store / "cut").iterdir())) == 1
    again = json.loads(world.run("preprocess", "-c", config, "--json").stdout)
    assert (again["measured"], again["written"]) == (0, 0)


def test_a_folder_without_a_date_in_its_path_is_one_table_and_that_is_said(
    world: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, path in (
        ("raw", "raw/{date}.csv"),
        ("raw/*.csv", "raw/{date}.csv"),
        ("short", "short/{date:%Y%m%d}.csv"),
    ):
        (world.folder / "short").mkdir(exist_ok=True)
        for date in DATES if name == "short" else ():
            (world.folder / "short" / f"{date:%Y%m%d}.csv").write_bytes(world.dump(date).read_bytes())
        world.tree["pipeline"]["source"]["path"] = str(world.folder / name)
        world.tree["dataset"] = "".join(letter for letter in name if letter.isalpha())
        words = ["-c", str(world.config_file())]
        told = (
            f"{world.folder / name} has no {{date}} in it: its {len(DATES)} files are read as one table of many dates. "
        )
        told += f"For a dump a date write pipeline.source.path: {world.folder / path}\n"
        assert run(["plan", *words]) == 0
        said = capsys.readouterr().out
        assert told in said
        assert "no dump matches" not in said
        assert run(["preprocess", *words, "--workers", "1", "-q"]) == 0
        assert capsys.readouterr().out.startswith(told)
        assert run(["plan", *words]) == 0
        assert "has no {date}" not in capsys.readouterr().out  # cut, and known


def test_a_damaged_spill_is_cut_again(world: Any, committed: Any) -> None:
    everything(world).write_csv(world.folder / "all.csv")
    expected = prepared(world, committed, {"path": "all.csv"})
    spill = next((world.store / "cut").glob("*/*.arrow"))
    data = bytearray(spill.read_bytes())
    data[len(data) // 2] ^= 1
    spill.chmod(0o644)
    spill.write_bytes(data)
    world.run("preprocess", "-c", str(world.config_file()), "--force", "--workers", "1")
    assert {n: d for n, d in committed(world).items() if not n.endswith(".sources.json")} == expected
