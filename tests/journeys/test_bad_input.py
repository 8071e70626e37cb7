"""Bad dumps through the real command line: one sentence each, the other dates go on, the exit code tells."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from dateshard.shardstore.dataset import Dataset

HEADER = "time,node,speed,vehicles"
Make = Callable[..., Any]


def prepare(world: Any, *words: str, code: int | None = 0) -> CompletedProcess[str]:
    done: CompletedProcess[str] = world.run(
        "preprocess", "-c", str(world.config_file()), "--workers", "1", *words, code=code
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done


def lines_of(world: Any, date: dt.date) -> list[str]:
    found: list[str] = world.dump(date).read_text().splitlines()
    return found


def put(world: Any, date: dt.date, row: int, line: str) -> None:
    """Replaces the line that an editor shows as `row`."""
    lines = lines_of(world, date)
    lines[row - 1] = line
    world.dump(date).write_text("\n".join(lines) + "\n")


def with_table(world: Any) -> Any:
    table = world.folder / "nodes.csv"
    table.write_text("id\nn0\nn1\nn2\n")
    world.tree["pipeline"]["nodes"] = {"table": str(table), "id": "id"}
    return world


def bytes_for(world: Any, date: dt.date) -> tuple[list[tuple[str, bytes, list[str]]], str]:
    """(name, content of the dump, words of the sentence) of every fault that a file can have."""
    good, day = world.dump(date).read_bytes(), f"{date}T05:00:00"
    head, *rows = good.splitlines(keepends=True)

    def line(row: int, text: str) -> bytes:
        return b"".join([head, *rows[: row - 2], text.encode() + b"\n", *rows[row - 1 :]])

    return [
        ("empty", b"", ["the file is empty"]),
        ("header only", head, ["a header but no row"]),
        ("cut", good[:-7], ["does not end with a newline: it may have been cut"]),
        ("missing column", good.replace(b"speed", b"sped", 1), ["row 1, column 'speed'", "did you mean 'sped'?"]),
        ("repeated column", good.replace(b"vehicles", b"speed", 1), ["column 'speed': the column is repeated"]),
        ("wrong type", line(9, f"{day}-05:00,n0,fast,1"), ["row 9, column 'speed', value 'fast'", "not a number"]),
        ("infinite", line(9, f"{day}-05:00,n0,inf,1"), ["row 9, column 'speed', value 'inf'", "not finite"]),
        ("no time", line(9, "noon,n0,1,1"), ["row 9, column 'time', value 'noon'", "not a time (ISO 8601"]),
        ("other date", line(9, "2013-05-05T05:00:00-05:00,n0,1,1"), ["row 9", "'2013-05-05T05:00", "another date"]),
        ("unknown node", line(9, f"{day}-05:00,n9,1,1"), ["row 9, column 'node', value 'n9'", "unknown node"]),
        ("no node", line(9, f"{day}-05:00,,1,1"), ["row 9, column 'node', value ''", "without a node"]),
        ("few fields", line(9, f"{day}-05:00,n0,1"), ["row 9: the row has 3 fields, the header 4"]),
        ("many fields", line(9, f"{day}-05:00,n0,1,1,1"), ["row 9: the row has 5 fields, the header 4"]),
        ("open quote", line(9, f'{day}-05:00,"n0,1,1'), ["row 9"]),
        ("not UTF-8", good.replace(rows[7], b"\xff" + rows[7]), ["row 9: not UTF-8"]),
    ], day


def test_every_fault_is_one_sentence_with_its_place_and_the_other_dates_go_on(make_world: Make) -> None:
    skipped, repeated = dt.date(2013, 3, 10), dt.date(2013, 11, 3)
    dates = [dt.date(2013, 2, 1) + dt.timedelta(days=k) for k in range(20)] + [skipped, repeated]
    world = with_table(make_world(dates, zone="America/New_York", split={"train": "..2013-02-05"}))
    gap, missing_value = dates[5], dates[3]
    world.dump(gap).unlink()
    put(world, missing_value, 4, f"{missing_value}T00:05:00-05:00,n0,nan,1")
    expected: dict[dt.date, list[str]] = {}
    for k, date in enumerate(dates[6:20]):
        faults, _ = bytes_for(world, date)
        _, content, words = faults[k]
        world.dump(date).write_bytes(content)
        expected[date] = words
    faults, _ = bytes_for(world, dates[2])  # the last one, in a training date
    world.dump(dates[2]).write_bytes(faults[14][1])
    expected[dates[2]] = faults[14][2]
    for date, text in ((skipped, f"{skipped} 02:30:00"), (repeated, f"{repeated} 01:30:00")):
        local = [f"{date} 00:{k:02d}:00,n0,1,1" for k in range(5)]
        world.dump(date).write_text("\n".join([HEADER, *local, f"{text},n0,1,1"]) + "\n")
        expected[date] = [f"row 7, column 'time', value '{text}'", "unambiguous in its zone"]

    done = prepare(world, code=3)
    told = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith("failed")}
    assert done.stderr == ""
    assert sorted(told) == sorted(map(str, expected))
    for date, words in expected.items():
        line = told[str(date)]
        assert f"{world.dump(date)}, date {date}" in line
        for word in words:
            assert word in line, (date, line)
        assert any(todo in line for todo in ("orrect the dump", "Write the dump"))
        assert len(line) < 500
    assert f"{len(expected)} failed: " in done.stdout
    assert "Correct what the messages above say, then run: dateshard preprocess -c " in done.stdout
    dataset = Dataset.open(world.store)
    assert sorted(dataset.manifest.dates) == sorted(set(dates) - set(expected) - {gap})
    assert gap not in dataset.manifest.failed  # a gap is no fault
    status = world.run("status", "-c", str(world.config_file()), "--json", code=4)
    states = {row["date"]: row for row in json.loads(status.stdout)["dates"]}
    assert {date for date, row in states.items() if row["state"] == "failed"} == set(told)
    assert all(row["reason"] in told[date] for date, row in states.items() if row["state"] == "failed")

    for date in expected:  # mended, and only those are read again
        world.write(date)
    document = json.loads(prepare(world, "--json").stdout)
    assert (document["measured"], document["failed"]) == (len(expected), {})
    assert document["dates"] == len(dates) - 1


def test_tolerated_rows_are_counted_by_reason(make_world: Make) -> None:
    world = with_table(make_world(3, missing=0))
    date = min(world.rows)
    for row, line in ((5, "x,n0,1,1"), (6, "y,n0,1,1"), (7, f"{date}T01:00Z,n9,1,1"), (8, f"{date}T01:00:00Z,n0,?,1")):
        put(world, date, row, line)
    done = prepare(world, "--json", code=3)
    document = json.loads(done.stdout)
    assert list(document["failed"]) == [str(date)]
    assert "row 5" in document["failed"][str(date)]["message"]
    assert "(4 rows are rejected of 216)" in document["failed"][str(date)]["message"]
    document = json.loads(prepare(world, "--json", "pipeline.source.max_bad_fraction=0.05").stdout)
    rows = document["rows"]
    assert rows["read"] == 216
    assert rows["read"] == rows["accepted"] + sum(rows["rejected"].values())
    assert sorted(rows["rejected"].values()) == [1, 3]  # a time without the seconds that the others have is none
    assert Dataset.open(world.store).manifest.provisional == ()
    again = json.loads(prepare(world, "--json", "pipeline.source.max_bad_fraction=0.05").stdout)
    assert (again["measured"], again["written"], again["generation"]) == (0, 0, document["generation"])


def test_a_failed_training_date_stops_training_until_it_is_mended_or_excluded(make_world: Make) -> None:
    world = make_world(6, split={"train": "..2024-03-04", "validation": "2024-03-05.."})
    config, bad = str(world.config_file()), dt.date(2024, 3, 2)
    world.dump(bad).write_text("")
    done = prepare(world, code=3)
    assert done.stdout.count("the file is empty") == 1
    plan = world.run("plan", "-c", config).stdout
    assert f"provisional: the statistics lack {bad}, which failed" in plan
    refused = world.run("train", "-c", config, code=4)
    assert refused.stderr.startswith("Error: ")
    assert refused.stderr.count("\n") == 1
    assert str(bad) in refused.stderr
    assert f"dateshard preprocess --only failed -c {config}" in refused.stderr
    assert not (world.folder / "data" / "runs").exists()

    provisional = Dataset.open(world.store).manifest

    world.tree["pipeline"]["exclude"] = [str(bad)]
    prepare(world)
    excluded = Dataset.open(world.store).manifest
    assert (excluded.failed, excluded.provisional) == ((), ())
    assert excluded.statistics == provisional.statistics

    world.tree["pipeline"]["exclude"], world.tree["dataset"] = [], "second"
    prepare(world, code=3)
    world.write(bad)
    assert (
        f"failed\t{bad}\t1\tthe dump or its settings changed since it failed"
        in world.run("status", "-c", str(world.config_file()), code=4).stdout
    )
    assert "merged over 4 training dates" in prepare(world, "--only", "failed").stdout  # as train said
    after = Dataset.open(world.store).manifest
    assert (after.failed, after.provisional, len(after.dates)) == ((), (), 6)
    assert after.statistics != excluded.statistics
    world.run("train", "-c", str(world.config_file()), "--epochs", "1", "-q")


def refused(world: Any, *words: str, code: int) -> str:
    """The one line that a command says on stderr."""
    done: CompletedProcess[str] = world.run(*words, code=code)
    assert done.stderr.startswith(("Error: ", "Usage: "))
    assert "Traceback" not in done.stdout + done.stderr
    return done.stderr


def test_nothing_usable_ends_with_65_and_the_first_reason(make_world: Make) -> None:
    world = make_world(2)
    config = str(world.config_file())
    for date in world.rows:
        world.dump(date).write_text("time,node\n1,2\n")
    done = prepare(world, code=65)
    assert done.stderr.startswith("Error: no training date could be measured, so there are no statistics. Correct the")
    assert (done.stdout + done.stderr).count("there is no column") == 1
    assert "2 dates failed for the same reason as 2024-03-01: 2024-03-01..2024-03-02" in done.stdout
    document = json.loads(prepare(world, "--json", code=65).stdout)
    assert document["error"]["kind"] == "dump"
    assert document["error"]["exit_code"] == 65
    assert "there is no column" in document["error"]["message"]
    said = refused(world, "preprocess", "-c", config, "pipeline.source.path=raw/none/{date}.csv", code=65)
    assert "no dump matches the path" in said
    assert "no committed dataset here" in refused(world, "train", "-c", config, code=4)
    assert f"dateshard preprocess -c {config}" in refused(world, "verify", "-c", config, code=4)


def test_a_wrong_configuration_ends_with_2_and_all_its_faults(make_world: Make, tmp_path: Path) -> None:
    world = make_world(2)
    config = str(world.config_file())
    said = refused(world, "preprocess", "-c", config, "pipeline.step=5x", "trainer.seed=1", code=2)
    assert "override: pipeline.step: '5x' is not a step" in said
    assert "override: trainer.seed: unknown key" in said
    (tmp_path / "raw" / "2024-3-1.csv").write_text(HEADER + "\n")
    said = refused(world, "plan", "-c", config, code=2)
    assert "two dumps of 2024-03-01: " in said
    assert said.count("\n") == 1
    (tmp_path / "raw" / "2024-3-1.csv").unlink()
    absent = ("preprocess", "-c", config, "pipeline.source.path=raw/x.csv")
    assert "raw/x.csv: no dump matches the path" in refused(world, *absent, code=65)
    assert "node table does not exist" in refused(
        world, "plan", "-c", config, "pipeline.nodes={table: no.csv, id: id}", code=2
    )
    assert "is in train and in test" in refused(
        world, "plan", "-c", config, "pipeline.split={train: ..2024-03-02, test: 2024-03-02}", code=2
    )
    assert "is not a date" in refused(world, "plan", "-c", config, "someday", code=2)
    assert "the states are" in refused(world, "preprocess", "-c", config, "--only", "fialed", code=2)
    assert not world.store.exists() or not (world.store / "CURRENT").exists()


@pytest.mark.parametrize(
    ("words", "code"), [(("2025-01",), 65), (("last:0",), 65), (("latest", "--exclude", "latest"), 0)]
)
def test_a_selector_that_matches_no_date_does_nothing(make_world: Make, words: tuple[str, ...], code: int) -> None:
    world = make_world(3)
    world.prepare()
    before = world.open().generation
    done = prepare(world, *words, "--force", code=code)
    assert ("nothing to do: generation 1" in done.stdout) == (code == 0)
    assert world.open().generation == before
