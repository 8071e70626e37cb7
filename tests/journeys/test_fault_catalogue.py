"""Every registered defect of raw data through the real command line: the exact sentence, the exact counts, in every format.

A fault of rows is refused with its first row, or counted; a fault of the whole file is refused; the rest changes nothing
or exactly what it says. Expectations come from the clean rows and the spoiled ones, never from the pipeline.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import polars as pl
import pytest

from dateshard.pipeline.synthetic import FAULTS, City, Spoiled, encode, node_table, spoil, whole_date
from dateshard.pipeline.synthetic.formats import wide
from dateshard.shardstore.commit import sources_path
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.identity import unseal
from tests.conftest import World

ZONE = "Europe/Berlin"
CITY = City(num_sensors=4, seed=6, timezone=ZONE, short_lived=0, outages=0)
TRAIN = [dt.date(2024, 5, day) for day in (1, 2, 3)]
REPEATED = dt.date(2024, 10, 27)  # 25 hours: an hour of its clock comes twice
NO_TIME = "not a time (ISO 8601 like the first of its file, unambiguous in its zone)"
FAST, MANY = "outside of the declared range [0, 200]", "outside of the declared range [0, 100000]"
ALIKE = {
    "unknown_nodes": "; 3 unknown nodes, 1 of which looks like a known one: 'S00000' like 's00000'",
    "quoted_newline": "; 4 unknown nodes, 4 of which look like known ones: 's00000\\n' like 's00000'",
}
TWICE = (
    "The clock of Europe/Berlin has that time twice: set pipeline.source.ambiguous: infer, if rows stand in order, or "
    "earliest or latest, or correct the dump"
)
TODO = (
    "Correct the dump, allow a share of such rows (pipeline.source.max_bad_fraction), "
    "or say what becomes of them (pipeline.source.faults)"
)
AGAIN, DUMP = "Write the dump again", "Correct the dump"
EXCLUDE = (
    f"{DUMP}, or leave the rows out with pipeline.source.faults.other_fields: drop, "
    "or the date with pipeline.exclude: [{date}]"
)
LEAVE_OUT = "pipeline.source.empty_date: drop leaves such dates out"
ENCODING = "Correct the dump, or set pipeline.source.csv.encoding"

ROWS = {  # (why a row is refused, the column that is named)
    "rows_of_another_date": ("of another date", "timestamp"),
    "unknown_nodes": ("of an unknown node", "sensor_id"),
    "missing_node": ("without a node", "sensor_id"),
    "not_a_number": ("not a number", "speed"),
    "infinite_values": ("not finite", "speed"),
    "huge_values": (FAST, "speed"),
    "out_of_range": (FAST, "speed"),
    "negative_values": (MANY, "vehicles"),
    "too_large_integer": (MANY, "vehicles"),
    "bad_times": (NO_TIME, "timestamp"),
    "ambiguous_times": (NO_TIME, "timestamp"),
    "quoted_newline": ("of an unknown node", "sensor_id"),
}
HEADER = "timestamp, sensor_id, speed, vehicles"
COLUMN = "Correct the dump, or pipeline.features.speed"
WHOLE = {  # (place in the file, what, what to do); {row} is the first line that differs, {last} the last one
    "header_only": ("", "a header but no row", f"{AGAIN}, or remove it; {LEAVE_OUT}"),
    "missing_column": (
        ", row 1, column 'speed'",
        "there is no column 'speed'; it has timestamp, sensor_id, vehicles",
        COLUMN,
    ),
    "renamed_column": (", row 1, column 'speed'", "there is no column 'speed'; did you mean 'sped'?", COLUMN),
    "cut_file": (", row {last}", "the file does not end with a newline: it may have been cut", "{cut}"),
    "no_final_newline": (", row {last}", "the file does not end with a newline: it may have been cut", "{cut}"),
    "empty_file": ("", "the file is empty", f"{AGAIN}, or remove it; {LEAVE_OUT}"),
    "utf_16": (
        ", row 1",
        "the file is UTF-16, not UTF-8",
        "Write the dump as UTF-8, or set pipeline.source.csv.encoding: utf-16",
    ),
    "semicolons": (
        ", row 1, column 'timestamp'",
        "there is no column 'timestamp'; it has timestamp;sensor_id;speed;vehicles",
        'Row 1 names it. Set pipeline.source.csv.separator: ";"',
    ),
    "duplicate_column": (", row 1, column 'speed'", "the column is repeated", DUMP),
    "invalid_utf8": (", row {row}", "not UTF-8", ENCODING),
    "nul_byte": (", row {row}", "a NUL byte", DUMP),
    "short_rows": (", row {row}", "the row has 3 fields, the header 4", EXCLUDE),
    "long_rows": (", row {row}", "the row has 5 fields, the header 4", EXCLUDE),
    "truncated_gzip": (
        "",
        "the compressed file is damaged or cut: Compressed file ended before the end-of-stream marker was reached",
        AGAIN,
    ),
    "corrupt_gzip": ("", "the compressed file is damaged or cut: ", AGAIN),
    "cut_parquet": ("", "cannot be read: ", AGAIN),
    "flipped_parquet": ("", "cannot be read: ", AGAIN),
}
SAME = {"reordered_columns", "other_types", "shuffled_rows", "byte_order_mark", "crlf", "equal_duplicates"}
VALUES = {"conflicting_duplicates", "nan_values", "constant_column", "null_column"}
ALSO = ("csv.gz", "csv.zst", "jsonl", "parquet", "arrow")


@dataclass(frozen=True)
class Case:
    """One fault in one format, as the dump of a date of its own."""

    name: str
    suffix: str
    date: dt.date
    spoiled: Spoiled
    clean: pl.DataFrame

    @property
    def read(self) -> int:
        return len(self.spoiled.content) if isinstance(self.spoiled.content, pl.DataFrame) else len(self.clean)

    @property
    def lost_in_json(self) -> bool:
        """JSON has no such numbers: they are written as null."""
        return self.suffix == "jsonl" and self.name == "infinite_values"

    def path(self, world: World) -> Path:
        return world.folder / "raw" / f"{self.date}.{self.suffix}"

    def first_line(self) -> int:
        """Number of the first line that differs from the clean file's."""
        lines, clean = self.spoiled.data().split(b"\n"), encode(self.clean).split(b"\n")
        return next(k for k, line in enumerate(lines, start=1) if line != clean[k - 1])

    def first_row(self) -> tuple[int, str]:
        """Number of the first row that is refused, and the value that is named."""
        column = ROWS[self.name][1]
        if isinstance(self.spoiled.content, bytes):
            row = self.first_line()
            return row, self.clean[column][row - 2] + "\n"
        found = self.spoiled.content[column]
        if self.name == "ambiguous_times":
            odd = found.str.slice(11, 2) == "02"
        elif self.name == "bad_times":
            odd = ~found.str.contains(r"^2024-05|^2024-06|^2024-07|^2024-08")
        else:
            odd = found.cast(pl.String).ne_missing(self.clean[column].cast(pl.String))
        row = int(odd.arg_true()[0])
        value = found.cast(pl.Float64)[row] if found.dtype.is_numeric() else found[row]
        if isinstance(value, dt.datetime) and self.suffix in ("csv", "csv.gz", "csv.zst", "jsonl"):
            value = value.isoformat()
        return row + (2 if self.suffix.startswith("csv") else 1), "" if value is None else str(value)

    def sentence(self, world: World) -> str:
        """What the command says when it refuses the date."""
        place = f"failed  {self.date}  {self.path(world)}, date {self.date}"
        if self.name in ROWS:
            row, value = self.first_row()
            reason, column = ROWS[self.name]
            many = f"({self.spoiled.rows:,} rows are rejected of {self.read:,})"
            where = f"row {row:,}, column '{column}', value {value!r}"
            alike = f"{ALIKE[self.name]}. Name them alike in all dumps" if self.name in ALIKE else ""
            todo = TWICE if self.name == "ambiguous_times" else TODO
            return f"{place}, {where}: the row is {reason} {many}{alike}. {todo}"
        where, what, todo = WHOLE[self.name]
        if "{row}" in where:
            where = where.format(row=f"{self.first_line():,}")
        if "{last}" in where:
            last = self.spoiled.data().count(b"\n") + 1
            where = where.format(last=f"{last:,}")
            todo = f"{AGAIN}, or set pipeline.source.csv.final_newline: false"
        stop = "" if what.endswith("?") else "."
        return f"{place}{where}: {what}{stop} {todo.format(date=self.date)}"


def cases(suffixes: tuple[str, ...], names: list[str] | None = None) -> list[Case]:
    """A case a fault and format; the clock's repeated hour on its own date, in the first format only."""
    made, date = [], dt.date(2024, 5, 6)
    for suffix in suffixes:
        for name in names or FAULTS:
            if name == "ambiguous_times" and suffix != suffixes[0]:
                continue
            on = REPEATED if name == "ambiguous_times" else date
            spoiled = spoil(CITY, on, name)
            if isinstance(spoiled.content, bytes) and suffix != "csv":
                continue
            suffix_of = spoiled.suffix if isinstance(spoiled.content, bytes) else suffix
            made.append(Case(name, suffix_of, on, spoiled, whole_date(CITY, on)))
            date += dt.timedelta(days=on == date)
    return made


def world_of(folder: Path, chosen: list[Case], **source: Any) -> World:
    """The city's training dates, and a date a case."""
    node_table(CITY).write_csv(folder / "nodes.csv")
    (folder / "raw").mkdir()
    for date in TRAIN:
        (folder / "raw" / f"{date}.csv").write_bytes(encode(whole_date(CITY, date)))
    pipeline = {
        "source": {
            "path": str(folder / "raw" / "{date}.*"),
            "time": "timestamp",
            "timezone": ZONE,
            "node": "sensor_id",
            **source,
        },
        "nodes": {"table": str(folder / "nodes.csv"), "id": "sensor_id", "position": ["latitude", "longitude"]},
        "step": "5m",
        "features": {"speed": {"range": [0, 200]}, "vehicles": {"aggregate": "sum", "range": [0, 100000]}},
        "split": {"train": f"{TRAIN[0]}..{TRAIN[-1]}", "test": "2024-05-04.."},
    }
    world = World(folder, {"dataset": "city", "pipeline": pipeline, "trainer": {"model": {"name": "ridge"}}})
    for case in chosen:
        case.path(world).write_bytes(case.spoiled.data(case.suffix))
    return world


def preprocess(world: World, *words: str, code: int = 0) -> CompletedProcess[str]:
    done = world.run("preprocess", "-c", str(world.config_file()), "--workers", "1", *words, code=code)
    assert "Traceback" not in done.stdout + done.stderr
    return done


def sources(world: World) -> dict[str, Any]:
    path = sources_path(world.store, world.open().generation)
    content: dict[str, Any] = unseal(path.read_bytes(), str(path))
    return content


def shards(world: World) -> dict[dt.date, str]:
    """Ids of the dates' shards."""
    return {date: entry.parts[0].id for date, entry in Dataset.open(world.store).manifest.dates.items()}


def clean_shards(folder: Path, chosen: list[Case]) -> dict[dt.date, str]:
    """The same of the clean rows, as the pipeline makes them of plain CSV."""
    folder.mkdir()
    world = world_of(folder, [Case(c.name, "csv", c.date, Spoiled(c.clean, 0), c.clean) for c in chosen])
    assert world.prepare().failed == {}
    return shards(world)


def test_every_registered_fault_has_an_expectation() -> None:
    assert set(ROWS) | set(WHOLE) | SAME | VALUES == set(FAULTS)
    assert sum(map(len, (ROWS, WHOLE, SAME, VALUES))) == len(FAULTS)


def test_every_fault_is_refused_in_its_exact_sentence_and_the_other_dates_are_committed(tmp_path: Path) -> None:
    chosen = cases(("csv",))
    world = world_of(tmp_path, chosen)
    done = preprocess(world, code=3)
    told = {date: f"failed  {date}  {failure['what']}" for date, failure in sources(world)["failed"].items()}
    shown = [line for line in done.stdout.splitlines() if line.startswith("failed")]
    assert set(shown) < set(told.values())
    assert len(shown) == len(told) - 1  # two are cut off, and read by the same key
    assert "2 dates failed for the same reason as 2024-05-27: 2024-05-27..2024-05-28" in done.stdout
    bad = [case for case in chosen if case.name in {**ROWS, **WHOLE}]
    assert sorted(told) == sorted(str(case.date) for case in bad)
    for case in bad:
        expected, line = case.sentence(world), told[str(case.date)]
        if case.name in ("corrupt_gzip", "cut_parquet", "flipped_parquet"):  # what the library says stands in between
            begin, end = expected.split(": ", 1)[0], expected.rsplit(". ", 1)[1]
            assert line.startswith(f"{begin}: {WHOLE[case.name][1]}")
            assert line.endswith(f". {end}")
            assert len(line) < 400
        else:
            assert line == expected
    kept = sorted({*TRAIN, *(case.date for case in chosen)} - {case.date for case in bad})
    assert sorted(world.open().manifest.dates) == kept
    assert done.stderr == ""


@pytest.mark.parametrize("suffixes", [("csv",), ALSO], ids=["csv", "other formats"])
def test_faults_that_are_allowed_are_counted_exactly_and_harmless_ones_change_no_byte(
    tmp_path: Path, suffixes: tuple[str, ...]
) -> None:
    names = [name for name in FAULTS if name not in WHOLE and (suffixes == ("csv",) or name != "ambiguous_times")]
    chosen = cases(suffixes, names)
    assert len(chosen) >= len(suffixes) * 17
    world = world_of(tmp_path, chosen, max_bad_fraction=0.2)
    document = json.loads(preprocess(world, "--json").stdout)
    by_date, clean = document["rows"]["by_date"], clean_shards(tmp_path / "clean", chosen)
    found, kept = shards(world), sources(world)["dates"]
    total = {"read": 0, "rejected": dict[str, int]()}
    for case in chosen:
        rows = by_date[str(case.date)]
        reason = ROWS[case.name][0] if case.name in ROWS and not case.lost_in_json else None
        assert rows["rejected"] == ({reason: case.spoiled.rows} if reason else {}), case.name
        assert (rows["read"], rows["changed"]) == (case.read, {})
        assert rows["accepted"] == case.read - sum(rows["rejected"].values())
        repeated = case.spoiled.rows if case.name.endswith("duplicates") else 0
        conflicts = repeated if case.name.startswith("conflicting") else 0
        columns = rows["duplicates"].pop("columns")
        assert bool(columns) == bool(conflicts)
        assert all(0 < count <= conflicts for count in columns.values())
        assert rows["duplicates"] == {"dropped": repeated, "conflicting": conflicts}
        assert (found[case.date] == clean[case.date]) == (case.name in SAME), case.name
        assert kept[str(case.date)]["rows"] == rows
    for rows in by_date.values():
        total["read"] += rows["read"]
        for reason, count in rows["rejected"].items():
            total["rejected"][reason] = total["rejected"].get(reason, 0) + count
    assert {key: document["rows"][key] for key in total} == total
    assert document["rows"]["read"] == document["rows"]["accepted"] + sum(total["rejected"].values())
    again = preprocess(world, "--force").stdout
    for reason, count in total["rejected"].items():
        assert f"  rejected  {count:,}  {reason}\n" in again
    assert f"{total['read']:,} rows read, {sum(total['rejected'].values()):,} rejected; " in again


def test_other_formats_name_the_same_row_column_and_value(tmp_path: Path) -> None:
    names = [name for name in (*ROWS, "missing_column", "renamed_column") if name != "ambiguous_times"]
    chosen = [case for case in cases(ALSO, names) if not case.lost_in_json]
    world = world_of(tmp_path, chosen)
    done = preprocess(world, code=3)
    told = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith("failed")}
    assert told == {str(case.date): case.sentence(world) for case in chosen}


def test_one_file_of_many_dates_counts_the_same_and_tells_what_belongs_to_no_date(tmp_path: Path) -> None:
    names = [name for name in ROWS if name not in ("ambiguous_times", "rows_of_another_date", "quoted_newline")]
    chosen = cases(("csv",), names)
    world = world_of(tmp_path, [], max_bad_fraction=0.2)
    parts = [encode(whole_date(CITY, date)) for date in TRAIN] + [case.spoiled.data() for case in chosen]
    header = parts[0].split(b"\n", 1)[0]
    (tmp_path / "all.csv").write_bytes(
        b"\n".join([header, *(part.split(b"\n", 1)[1].rstrip(b"\n") for part in parts), b""])
    )
    world.tree["pipeline"]["source"]["path"] = str(tmp_path / "all.csv")
    done = preprocess(world, "--json")
    rows = json.loads(done.stdout)["rows"]
    lost = {NO_TIME: 5}
    assert rows["cut"] == {"read": rows["read"], "accepted": rows["read"] - 5, "rejected": lost, "changed": {}}
    assert rows["read"] == sum(part.count(b"\n") - 1 for part in parts)
    assert rows["read"] == rows["accepted"] + sum(rows["rejected"].values())
    for case in chosen:
        expected = {} if case.name == "bad_times" else {ROWS[case.name][0]: 5}
        assert rows["by_date"][str(case.date)]["rejected"] == expected, case.name
    assert sources(world)["cut"] == {"files": [str(tmp_path / "all.csv")], "rows": rows["cut"]}
    assert f"{rows['read']:,} rows divided into {len(TRAIN) + len(chosen)} dates, 5 {NO_TIME}" in done.stderr
    world.tree["pipeline"]["source"]["max_bad_fraction"] = 0
    (tmp_path / "all.csv").write_bytes((tmp_path / "all.csv").read_bytes() + b"noon,s00000,1,1\n")
    refused = preprocess(world, code=65).stderr
    assert refused.startswith(f"Error: {tmp_path / 'all.csv'}, row ")
    assert (
        f"column 'timestamp', value 'noon': the row is {NO_TIME} (6 rows are rejected of {rows['read'] + 1:,})"
        in refused
    )
    assert world.open().generation == 1


def test_a_column_a_node_counts_values_outside_and_columns_of_no_node(tmp_path: Path) -> None:
    names = ["infinite_values", "huge_values", "out_of_range", "nan_values", "reordered_columns", "null_column"]
    chosen = cases(("csv",), names)
    world = world_of(tmp_path, [], max_bad_fraction=1, faults={"unknown_node": "drop"})
    del world.tree["pipeline"]["source"]["node"], world.tree["pipeline"]["features"]["vehicles"]
    world.tree["pipeline"]["source"] |= {"wide": {"value": "speed"}, "path": str(tmp_path / "wide" / "{date}.csv")}
    (tmp_path / "wide").mkdir()
    frames = {date: whole_date(CITY, date) for date in TRAIN}
    for case in chosen:
        assert isinstance(case.spoiled.content, pl.DataFrame)
        frames[case.date] = case.spoiled.content.select("timestamp", "sensor_id", "speed", "vehicles")
    for date, frame in frames.items():
        table = wide(CITY, frame, "speed").with_columns(x9=pl.int_range(pl.len()).cast(pl.Float64))
        table[::-1].write_csv(tmp_path / "wide" / f"{date}.csv", datetime_format="%Y-%m-%dT%H:%M:%S%:z")
    rows = json.loads(preprocess(world, "--json").stdout)["rows"]
    for case in chosen:
        found, steps = rows["by_date"][str(case.date)], frames[case.date]["timestamp"].n_unique()
        odd = {*frames[case.date].filter(pl.col("speed").fill_nan(None).abs() > 200)["timestamp"]}
        reason = {ROWS[case.name][0]: len(odd)} if case.name in ROWS else {}
        assert (found["read"], found["rejected"]) == (steps, reason), case.name
        assert found["changed"] == {"of an unknown node: left out": steps - len(odd)}


@pytest.mark.parametrize("name", ["constant_column", "null_column"])
def test_a_column_that_is_constant_or_empty_in_all_of_training_divides_by_nothing(tmp_path: Path, name: str) -> None:
    world = world_of(tmp_path, [])
    for date in TRAIN:
        (tmp_path / "raw" / f"{date}.csv").write_bytes(spoil(CITY, date, name).data())
    later = dt.date(2024, 5, 4)
    (tmp_path / "raw" / f"{later}.csv").write_bytes(encode(whole_date(CITY, later)))
    document = json.loads(preprocess(world, "--json").stdout)
    assert document["failed"] == {}
    named = any(note.startswith("no value of speed was observed in the training data") for note in document["notes"])
    assert named == (name == "null_column")
    dataset = world.open()
    for date in TRAIN:
        values = dataset.map(date)
        assert values is not None
        assert (values[..., 0] == 0).all()
        assert np.isfinite(values).all()
    raw = whole_date(CITY, later).drop_nulls().row(0, named=True)
    step, node = 0, dataset.nodes.names.index(raw["sensor_id"])
    values = dataset.map(later)
    assert values is not None
    assert np.isfinite(values).all()
    expected = raw["speed"] - (50.0 if name == "constant_column" else 0.0)  # a spread of 1
    assert values[step, node, 0] == pytest.approx(expected, rel=1e-6)
