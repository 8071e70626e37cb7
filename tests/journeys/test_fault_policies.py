"""What becomes of a row with a fault is what its policy says: exact counts, exact cells, and no other cell moves."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dateshard.shardstore.commit import sources_path
from dateshard.shardstore.identity import unseal
from dateshard.shardstore.measured import load_arrays
from tests.conftest import World

Make = Callable[..., World]
NODES = ["n0", "n1", "n2"]
RANGE = "outside of the declared range [-50, 150]"
TIME = "not a time (ISO 8601 like the first of its file, unambiguous in its zone)"

FAULTS = {  # (the row that takes the place of node n1's at 07:20, why it is refused, settings that name the policy)
    "other_fields": ("{time},n1,60.0", "of another number of fields", ("refuse", "drop")),
    "bad_time": ("noon,n1,60.0,4.0", TIME, ("refuse", "drop")),
    "other_date": ("2031-01-01T07:20:00+00:00,n1,60.0,4.0", "of another date", ("refuse", "drop")),
    "missing_node": ("{time},,60.0,4.0", "without a node", ("refuse", "drop")),
    "unknown_node": ("{time},n9,60.0,4.0", "of an unknown node", ("refuse", "drop")),
    "bad_number": ("{time},n1,fast,4.0", "not a number", ("refuse", "drop", "null")),
    "not_finite": ("{time},n1,-inf,4.0", "not finite", ("refuse", "drop", "null")),
    "range": ("{time},n1,170.0,4.0", RANGE, ("refuse", "drop", "null", "clip")),
}
CASES = [(fault, policy) for fault, (_, _, policies) in FAULTS.items() for policy in policies]


def world_of(make_world: Make, dates: list[dt.date], policies: dict[str, str], **source: Any) -> World:
    """Full dates of three nodes, every cell with three records, range and table declared."""
    world = make_world(dates, missing=0, split={"train": f"..{dates[1]}", "test": f"{dates[2]}.."})
    table = world.folder / "nodes.csv"
    table.write_text("id\n" + "\n".join(NODES) + "\n")
    faults = {name: policy for name, policy in policies.items() if name != "range"}
    world.tree["pipeline"]["nodes"] = {"table": str(table), "id": "id"}
    world.tree["pipeline"]["source"] |= {"faults": faults, **source}
    speed = {"aggregate": "sum", "range": [-50, 150], "outside": policies.get("range", "refuse")}
    world.tree["pipeline"]["features"] = {"speed": speed, "vehicles": {"aggregate": "sum"}}
    for date in dates:
        start = int(dt.datetime.combine(date, dt.time(), dt.UTC).timestamp()) * 10**9
        steps = [start + k * 20 * 60 * 10**9 for k in range(72)]
        world.rows[date] = [(at, node, 1.0 + n, 10.0) for at in steps for n, node in enumerate(NODES)]
        world.write(date)
    return world


def spoil(world: World, date: dt.date, line: str, row: int = 72) -> int:
    """Replaces a row (by number as an editor shows it): by default node n1's at 07:40."""
    lines = world.dump(date).read_text().splitlines()
    time, node = lines[row - 1].split(",")[:2]
    assert node == "n1"
    lines[row - 1] = line.format(time=time)
    world.dump(date).write_text("\n".join(lines) + "\n")
    return row


def staged(world: World, date: dt.date) -> np.ndarray[Any, Any]:
    """[T, N, F] raw cells of a committed date."""
    source = sources(world)["dates"][str(date)]
    return load_arrays(world.store / "staged" / str(date) / source["staged"])[0]


def sources(world: World) -> dict[str, Any]:
    path = sources_path(world.store, world.open().generation)
    content: dict[str, Any] = unseal(path.read_bytes(), str(path))
    return content


def prepare(world: World, *words: str, code: int = 0) -> dict[str, Any]:
    done = world.run("preprocess", "-c", str(world.config_file()), "--workers", "1", "--json", *words, code=code)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def cells_expected(fault: str, policy: str) -> np.ndarray[Any, Any]:
    """[24, 3, 2] sums of three records a cell, and what the one faulty record of (7, n1) leaves."""
    cells = np.empty((24, 3, 2))
    cells[..., 0], cells[..., 1] = [3.0, 6.0, 9.0], 30.0
    if policy in ("refuse", "drop"):
        cells[7, 1] = [4.0, 20.0]
    elif policy == "null":
        cells[7, 1] = [4.0, 24.0]
    else:
        cells[7, 1] = [4.0 + 150.0, 24.0]
    return cells


@pytest.mark.parametrize("kind", ["refuse", "drop", "null", "clip"])
def test_a_policy_counts_exactly_and_leaves_exactly_these_cells(make_world: Make, kind: str) -> None:
    chosen = [fault for fault, policy in CASES if policy == kind]
    dates = [dt.date(2024, 3, 1) + dt.timedelta(days=k) for k in range(3 + len(chosen))]
    world = world_of(make_world, dates, dict.fromkeys(chosen, kind), max_bad_fraction=1 / 216)
    for fault, date in zip(chosen, dates[3:], strict=True):
        spoil(world, date, FAULTS[fault][0])
    document = prepare(world)
    assert document["failed"] == {}
    for fault, date in zip(chosen, dates[3:], strict=True):
        reason, rows = FAULTS[fault][1], document["rows"]["by_date"][str(date)]
        ending = {"null": ": made missing", "clip": ": moved to the bound"}.get(kind)
        expected = {"read": 216, "accepted": 216, "rejected": {}, "changed": {reason + ending: 1}} if ending else {
            "read": 216, "accepted": 215, "rejected": {reason: 1}, "changed": {}
        }  # fmt: skip
        assert {key: rows[key] for key in expected} == expected, fault
        assert rows["duplicates"].pop("columns") == {}
        assert sources(world)["dates"][str(date)]["rows"] == rows
        assert np.array_equal(staged(world, date), cells_expected(fault, kind)), fault
    said = world.run("preprocess", "-c", str(world.config_file()), "--force", "--workers", "1").stdout
    for group in ("rejected", "changed"):
        for reason, count in document["rows"][group].items():
            assert f"  {group}  {count}  {reason}\n" in said


def test_refused_rows_up_to_the_fraction_pass_and_one_more_refuses_dropped_ones_never_do(make_world: Make) -> None:
    dates = [dt.date(2024, 3, 1) + dt.timedelta(days=k) for k in range(6)]
    world = world_of(make_world, dates, {"not_finite": "drop"}, max_bad_fraction=6 / 216)
    for number, date in zip((6, 7), dates[3:5], strict=True):
        for k in range(number):
            spoil(world, date, "{time},n1,fast,4.0", 6 + 3 * k)
    for k in range(50):
        spoil(world, dates[5], "{time},n1,inf,4.0", 6 + 3 * k)
    document = prepare(world, code=3)
    assert list(document["failed"]) == [str(dates[4])]
    assert (
        "row 6, column 'speed', value 'fast': the row is not a number (7 rows are rejected of 216)"
        in (document["failed"][str(dates[4])]["message"])
    )
    by_date = document["rows"]["by_date"]
    assert by_date[str(dates[3])]["rejected"] == {"not a number": 6}
    assert by_date[str(dates[5])]["rejected"] == {"not finite": 50}
    assert document["rows"]["rejected"] == {"not a number": 6, "not finite": 50}


def test_a_changed_value_of_a_row_that_another_fault_drops_is_not_counted(make_world: Make) -> None:
    dates = [dt.date(2024, 3, 1) + dt.timedelta(days=k) for k in range(4)]
    world = world_of(
        make_world, dates, {"range": "clip", "bad_number": "null", "bad_time": "drop", "unknown_node": "drop"}
    )
    spoil(world, dates[3], "noon,n1,170.0,fast")
    spoil(world, dates[3], "{time},n9,fast,4.0", 75)
    spoil(world, dates[3], "{time},n1,170.0,fast", 78)
    rows = prepare(world)["rows"]["by_date"][str(dates[3])]
    assert rows["rejected"] == {TIME: 1, "of an unknown node": 1}
    assert rows["changed"] == {f"{RANGE}: moved to the bound": 1, "not a number: made missing": 1}


def test_a_date_of_which_every_row_is_dropped_is_refused_with_all_reasons(make_world: Make) -> None:
    dates = [dt.date(2024, 3, 1) + dt.timedelta(days=k) for k in range(4)]
    world = world_of(make_world, dates, {"unknown_node": "drop", "bad_time": "drop"})
    world.dump(dates[3]).write_text(
        "time,node,speed,vehicles\nnoon,n1,1,1\n2024-03-04T00:00Z,n9,1,1\n2024-03-04T00:00Z,n8,1,1\n"
    )
    failed = prepare(world, code=3)["failed"]
    assert failed[str(dates[3])]["message"] == (
        f"{world.dump(dates[3])}, date {dates[3]}: no row is left of 3: 1 {TIME}; 2 of an unknown node. "
        "Correct the dump, or remove it; pipeline.source.empty_date: drop leaves such dates out"
    )


def test_a_failed_date_is_merged_again_when_its_policy_changes_and_not_otherwise(make_world: Make) -> None:
    dates = [dt.date(2024, 3, 1) + dt.timedelta(days=k) for k in range(4)]
    world = world_of(make_world, dates, {})
    bad = dates[0]  # a training date: the statistics lack it
    spoil(world, bad, "noon,n1,1,1")
    first = prepare(world, code=3)
    provisional = world.open().manifest
    assert provisional.provisional == (bad,)
    again = prepare(world, code=3)
    assert (again["failed"], again["generation"], again["measured"]) == (first["failed"], first["generation"], 0)
    prepare(world, "pipeline.source.duplicates=last", code=3)
    assert world.open().manifest == provisional
    plan = json.loads(
        world.run("plan", "-c", str(world.config_file()), "--json", "pipeline.source.faults.bad_time=drop").stdout
    )
    assert plan["merge"] == f"training dates that failed are tried again: {bad}"
    still = world.run("preprocess", "-c", str(world.config_file()), "pipeline.source.faults.bad_number=drop", code=3)
    assert f"training dates that failed are tried again: {bad}." in still.stderr + still.stdout
    assert "mended" not in still.stderr + still.stdout  # it fails again
    mended = prepare(world, "pipeline.source.faults.bad_time=drop")
    assert (mended["measured"], mended["failed"]) == (1, {})
    after = world.open().manifest
    assert (after.provisional, after.failed) == ((), ())
    assert after.statistics != provisional.statistics
    assert prepare(world)["generation"] == mended["generation"]  # a stricter policy undoes nothing that is committed


def test_files_of_a_folder_that_are_no_data_or_lead_nowhere_are_named(make_world: Make) -> None:
    dates = [dt.date(2024, 3, 1) + dt.timedelta(days=k) for k in range(7)]
    world = world_of(make_world, dates, {})
    folder = world.folder / "parts"
    for date in dates:
        (folder / str(date) / "deep").mkdir(parents=True)
        data = world.dump(date).read_bytes().splitlines(keepends=True)
        (folder / str(date) / "a.csv").write_bytes(b"".join(data[:100]))
        (folder / str(date) / "deep" / "b.csv").write_bytes(b"".join([data[0], *data[100:]]))
    (folder / str(dates[2]) / "_SUCCESS").touch()
    (folder / str(dates[2]) / ".b.csv.crc").write_bytes(b"crc")
    (folder / str(dates[2]) / "_temporary").mkdir()
    (folder / str(dates[2]) / "_temporary" / "half.csv").write_text("time,no")
    (folder / str(dates[3]) / "c.csv.bak").write_text("time,node,speed,vehicles\n")
    (folder / str(dates[4]) / "c.csv").symlink_to("nowhere.csv")
    (folder / str(dates[5]) / "readme.txt").write_text("Measured by hand.\n")
    for path in sorted((folder / str(dates[6])).rglob("*.csv")):
        path.unlink()
    world.tree["pipeline"]["source"]["path"] = str(folder / "{date}")
    document = prepare(world, code=3)
    failed = {date: found["message"] for date, found in document["failed"].items()}
    assert sorted(failed) == [str(date) for date in dates[3:]]
    assert f"{folder / str(dates[3]) / 'c.csv.bak'}: no format is known by its suffix" in failed[str(dates[3])]
    assert f"{folder / str(dates[4]) / 'c.csv'}, date {dates[4]}: cannot be read: No such file" in failed[str(dates[4])]
    assert f"{folder / str(dates[5]) / 'readme.txt'}, date {dates[5]}, row 1, column 'time'" in failed[str(dates[5])]
    assert failed[str(dates[6])].startswith(f"{folder / str(dates[6])}, date {dates[6]}: the folder holds no file. ")
    assert document["rows"]["by_date"][str(dates[2])]["read"] == 216


def test_two_big_files_with_other_columns_are_cut_as_one(make_world: Make, tmp_path: Path) -> None:
    dates = [dt.date(2024, 3, 1) + dt.timedelta(days=k) for k in range(4)]
    world = world_of(make_world, dates, {})
    prepare(world)
    expected = {date: entry.parts[0].id for date, entry in world.open().manifest.dates.items()}
    rows = [line for date in dates for line in world.dump(date).read_text().splitlines()[1:]]
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "a.csv").write_text("time,node,speed,vehicles\n" + "\n".join(rows[::2]) + "\n")
    swapped = [",".join([f"note {k}", *reversed(row.split(","))]) for k, row in enumerate(rows[1::2])]
    (tmp_path / "big" / "b.csv").write_text("note,vehicles,speed,node,time\n" + "\n".join(swapped) + "\n")
    world.tree["dataset"], world.tree["pipeline"]["source"]["path"] = "other", str(tmp_path / "big" / "*.csv")
    assert prepare(world)["rows"]["cut"]["read"] == len(rows)
    assert {date: entry.parts[0].id for date, entry in world.open().manifest.dates.items()} == expected
    (tmp_path / "big" / "b.csv").write_text("note,vehicles,velocity,node,time\n" + "\n".join(swapped) + "\n")
    done = world.run("preprocess", "-c", str(world.config_file()), code=65)
    assert f"{tmp_path / 'big' / 'b.csv'}, row 1, column 'speed': there is no column 'speed'" in done.stderr
