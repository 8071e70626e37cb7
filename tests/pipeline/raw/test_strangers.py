"""Nodes are known by their names: a whole number is one name in every typed column, and near misses are told."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dateshard.cli import run
from dateshard.pipeline.planning.plan import Plan, Wish
from dateshard.pipeline.planning.preview import look
from dateshard.pipeline.raw.codes import Codes
from dateshard.pipeline.raw.formats import NamePlaces, Request, reader_of
from dateshard.pipeline.raw.strangers import Strangers

Make = Callable[..., Any]
LAST = dt.date(2024, 3, 4)
SPLIT = {"train": "..2024-03-03", "validation": str(LAST)}
KINDS = {"node": "text", "kind": "text"}


@pytest.fixture
def world(make_world: Make) -> Any:
    return make_world(4, nodes=["7", "8", "9"], split=SPLIT, missing=0.0)


def rename(world: Any, spell: Callable[[str], str]) -> None:
    """The nodes of the last date as another program writes them."""
    world.rows[LAST] = [(at, spell(node), *values) for at, node, *values in world.rows[LAST]]
    world.write(LAST)


def as_parquet(world: Any, date: dt.date, kind: Any) -> None:
    """A date's dump with its nodes in a column of numbers."""
    rows = [(at, node, speed, volume) for at, node, speed, volume in world.rows[date]]
    columns = pl.DataFrame(rows, schema=["time", "node", "speed", "vehicles"], orient="row")
    node = columns["node"].cast(pl.Float64).cast(kind)
    time = columns["time"].cast(pl.Datetime("ns", "UTC"))
    world.dump(date).unlink(missing_ok=True)
    columns.with_columns(node, time).write_parquet(world.dump(date).with_suffix(".parquet"))


@pytest.mark.parametrize("spell", ["{}.0", " {}", "00{}", "{} ", "+{}", "\uff10{}"])
def test_a_date_of_unknown_nodes_alone_fails_and_says_what_they_look_like(world: Any, spell: str) -> None:
    rename(world, spell.format)
    done = world.prepare()
    assert list(done.failed) == [LAST]
    assert LAST not in done.manifest.dates
    told = str(done.failed[LAST])
    assert f"column 'node', value {spell.format(7)!r}: none of the date's rows is of a known node" in told
    assert f"3 unknown ones, 3 of which look like known ones: {spell.format(7)!r} like '7'. Name them alike" in told


def test_preprocess_says_so_and_ends_with_3(world: Any, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["preprocess", "-c", str(world.config_file()), "--json", "--workers", "1"]
    rename(world, "{}.0".format)
    assert run(command) == 3
    assert "7.0' like '7'" in json.loads(capsys.readouterr().out)["failed"][str(LAST)]["message"]
    rename(world, lambda node: node if node == "8.0" else node.removesuffix(".0"))
    assert run(command) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["unknown_nodes"] == {
        str(LAST): {"count": 1, "first": "8.0", "alike": 1, "example": ["8.0", "8"]}
    }
    hint = "up to 1 on 2024-03-04, 1 of which looks like a known one: '8.0' like '8'. Name them alike in all dumps"
    assert f"unknown nodes are left out: {hint}" in err


def test_of_nodes_that_look_like_none_the_first_is_named(world: Any) -> None:
    rename(world, lambda node: "x" if node == "8" else node)
    assert world.prepare().unknown_nodes == {LAST: Strangers(1, first="x")}
    assert Strangers(1, first="x").hint() == ", such as 'x'"
    rename(world, lambda node: f"y{node}")
    assert "it has 3 unknown ones, such as 'y7'. If these nodes are new" in str(world.prepare().failed[LAST])


@pytest.mark.parametrize(
    ("name", "known"),
    [("N7", "n7"), ("sensor_007", "sensor_7"), ("7.00", "7"), ("e\u0301", "\u00e9"), ("-3.0", "-3"), ("0", "00")],
)
def test_near_misses_differ_in_case_zeros_blanks_or_unicode_form(name: str, known: str) -> None:
    assert Strangers.of([name, "x"], ["a", known, "z"]) == Strangers(2, 1, (name, known), min(name, "x"))


@pytest.mark.parametrize(("name", "known"), [("7.5", "7"), ("70", "7"), ("1.07", "1.7"), ("n7", "7")])
def test_other_names_are_no_near_misses(name: str, known: str) -> None:
    assert Strangers.of([name], [known]) == Strangers(1, first=name)


def test_names_that_look_the_same_are_shown_by_their_characters() -> None:
    assert r"'e\u0301' like '\xe9'" in Strangers.of(["e\u0301"], ["\u00e9"]).hint()


def test_near_misses_of_a_node_table_are_told_whatever_becomes_of_their_rows(world: Any) -> None:
    (world.folder / "nodes.csv").write_text("id\n7\n8\n9\n")
    world.tree["pipeline"]["nodes"] = {"table": str(world.folder / "nodes.csv"), "id": "id"}
    rename(world, lambda node: f"{node}.0" if node == "8" else node)
    assert "1 unknown node, 1 of which looks like a known one: '8.0' like '8'" in str(world.prepare().failed[LAST])
    world.tree["pipeline"]["source"]["faults"] = {"unknown_node": "drop"}
    assert world.prepare().unknown_nodes == {LAST: Strangers(1, 1, ("8.0", "8"), "8.0")}
    rename(world, lambda node: f"{node}.0" if node != "8.0" else node)
    assert "no row is left" in (told := str(world.prepare().failed[LAST]))
    assert "3 of which look like known ones: '7.0' like '7'" in told


def test_columns_of_a_wide_dump_are_told_likewise(make_world: Make) -> None:
    world = make_world(1)
    (world.folder / "nodes.csv").write_text("id\n7\n")
    world.tree["pipeline"]["nodes"] = {"table": str(world.folder / "nodes.csv"), "id": "id"}
    world.tree["pipeline"]["source"] |= {"node": None, "wide": {"value": "v", "nodes": "*"}}
    world.tree["pipeline"]["features"] = {"v": {}}
    date = next(iter(world.rows))
    world.dump(date).write_text(f"time,7.0\n{date}T00:00:00Z,1\n")
    with pytest.raises(Exception, match="no training date") as error:
        world.prepare()
    assert "the column is no node of the table: it has 1 unknown one, 1 of which looks like a known one: '7.0'" in str(
        error.value.__cause__
    )


@pytest.mark.parametrize("kind", [pl.Float64, pl.Float32, pl.Int32, pl.Decimal(10, 2)])
def test_a_whole_number_is_one_node_in_every_typed_column(world: Any, kind: Any) -> None:
    """pandas makes floats of whole numbers as soon as one is missing."""
    world.tree["pipeline"]["source"]["path"] = str(world.folder / "raw" / "{date}.parquet")
    for date in world.rows:
        as_parquet(world, date, kind if date == LAST else pl.Int64)
    done = world.prepare()
    assert (done.failed, done.unknown_nodes) == ({}, {})
    assert world.open().nodes.names == ("7", "8", "9")
    assert not world.open().has_mask(LAST)


def test_texts_of_typed_columns_are_whole_numbers_or_as_they_were_and_nan_is_none(tmp_path: Path) -> None:
    values = [7.0, 7.5, -0.0, float("nan"), None, 1e20, float("inf")]
    wanted = ["7", "7.5", "0", None, None, "100000000000000000000", "inf"]
    table = pa.table(
        {"node": pa.array(values, pa.float64()), "kind": pa.array(values, pa.float64()).dictionary_encode()}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "a.jsonl").write_text('{"node": 7.0, "kind": 7}\n{"node": 7.5, "kind": "7.0"}\n')
    for name in ("a.parquet", "a.arrow"):
        (piece,) = reader_of(tmp_path / name, "auto")(tmp_path / name, Request(columns=KINDS))  # type: ignore[arg-type]
        assert piece.frame["node"].to_list() == piece.frame["kind"].to_list() == wanted
    (piece,) = reader_of(tmp_path / "a.jsonl", "auto")(tmp_path / "a.jsonl", Request(columns=KINDS))  # type: ignore[arg-type]
    assert piece.frame.to_dict(as_series=False) == {"node": ["7", "7.5"], "kind": ["7", "7.0"]}


def plan_of(world: Any) -> Plan:
    return look(world.settings.preparing(), world.store, Wish())[0]


def before(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As a version was that named 7.0 of a typed column 7.0."""
    from dateshard.pipeline.planning import plan
    from dateshard.pipeline.raw import cut_index, dumps
    from dateshard.pipeline.raw.formats import columnar

    monkeypatch.setattr(plan, "TYPED_CODE", 1)
    monkeypatch.setattr(dumps, "TYPED_CODE", 1)
    monkeypatch.setattr(cut_index, "TYPED_CODE", 2)
    monkeypatch.setattr(columnar, "as_names", lambda column: column.cast(pl.String))
    return monkeypatch


@pytest.mark.parametrize("whole", [False, True])
def test_a_store_of_typed_dumps_is_measured_again_with_its_statistics(world: Any, whole: bool) -> None:
    """Its nodes are others, so its statistics must be: new dates would be strangers to the old ones."""
    raw = world.folder / "raw"
    world.tree["pipeline"]["source"]["path"] = str(raw / "{date}.parquet")
    for date in world.rows:
        as_parquet(world, date, pl.Float64)
    if whole:
        pl.concat([pl.read_parquet(path) for path in sorted(raw.glob("*.parquet"))]).write_parquet(raw / "all.parquet")
        world.tree["pipeline"]["source"]["path"] = str(raw / "all.parquet")
    with pytest.MonkeyPatch.context() as patch:
        before(patch)
        world.prepare()
        assert world.open().nodes.names == ("7.0", "8.0", "9.0")
        old, settings = world.open(), world.settings.preparing()
    if not whole:
        plan = plan_of(world)
        assert {date.state for date in plan.dates} == {"stale(code)"}
        assert plan.merge
    done = world.prepare()
    assert (done.measured, done.failed) == (4, {})
    assert world.open().nodes.names == ("7", "8", "9")
    assert (np.asarray(old.map(LAST)) == np.asarray(world.open().map(LAST))).all()
    plan = plan_of(world)
    assert (plan.to_measure, plan.merge) == ([], "")
    from dateshard.pipeline.generation_settings import refuse_other_settings

    refuse_other_settings(settings, old)  # of a run that is pinned to it: it may still be asked


def test_a_store_of_text_dumps_stays_fresh(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world.prepare()
    before(monkeypatch)
    assert {date.state for date in plan_of(world).dates} == {"fresh"}
    assert plan_of(world).merge == ""


def test_a_name_in_a_file_s_list_that_no_row_has_is_no_stranger() -> None:
    names = pl.Series(["a", "x", "b", None])
    codes = Codes(("a", "b"))
    assert codes.at(NamePlaces(np.array([2, 0, -1, 3, 2], np.int32), names)).tolist() == [1, 0, -1, -1, 1]
    assert not codes.strangers
    assert codes.at(NamePlaces(np.array([1, 0], np.int32), names)).tolist() == [-1, 0]
    assert list(codes.strangers) == ["x"]
