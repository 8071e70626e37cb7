"""Dates without a row: they fail and block training, or are dropped by `pipeline.source.empty_date: drop`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dateshard.pipeline.planning.plan import Wish
from dateshard.pipeline.planning.preview import look
from dateshard.shardstore.errors import DumpError, UsageError
from dateshard.trainer.setup import refuse_unready

Make = Callable[..., Any]
HEADER = "time,node,speed,vehicles\n"
DAYS = [dt.date(2024, 3, day) for day in range(1, 9)]
SPLIT = {"train": "..latest-3", "validation": "latest-2..latest-1", "test": "latest"}


def emptied(world: Any, date: dt.date, how: str) -> None:
    if how == "header":
        world.dump(date).write_text(HEADER)
    elif how == "nothing":
        world.dump(date).write_text("")
    elif how == "of other dates":
        world.tree["pipeline"]["source"]["faults"] = {"other_date": "drop"}
        world.dump(date).write_text(HEADER + "2024-01-01T00:00:00+00:00,n0,1.0,1.0\n")
    elif how == "bad, and allowed":
        world.tree["pipeline"]["source"]["max_bad_fraction"] = 1
        world.dump(date).write_text(HEADER + "never,n0,1.0,1.0\n")
    else:
        world.dump(date).unlink()
        world.dump(date).mkdir()
        (world.dump(date) / "_SUCCESS").touch()


def plan_of(world: Any) -> Any:
    return look(world.settings.preparing(), world.store, Wish())[0]


@pytest.fixture
def world(make_world: Make) -> Any:
    made = make_world(8, split=SPLIT, missing=0.6)
    made.tree["pipeline"]["source"]["empty_date"] = "drop"
    return made


KINDS = ["header", "nothing", "of other dates", "bad, and allowed", "empty folder"]


@pytest.mark.parametrize("how", KINDS)
def test_a_date_without_rows_is_left_out_and_comes_back_with_its_dump(world: Any, how: str) -> None:
    world.prepare()
    world.tree["dataset"] = "other"
    emptied(world, DAYS[2], how)
    finished = world.prepare()
    assert (finished.failed, list(finished.dropped)) == ({}, [DAYS[2]])
    manifest = world.open().manifest
    assert (manifest.failed, manifest.provisional) == ((), ())
    assert sorted(manifest.dates) == [date for date in DAYS if date != DAYS[2]]
    refuse_unready(world.open())
    (left_out,) = [p for p in plan_of(world).dates if p.state != "fresh"]
    assert (left_out.date, left_out.state) == (DAYS[2], "excluded")
    assert "pipeline.source.empty_date" in left_out.reason
    again = world.prepare()
    assert (again.measured, again.written, again.unchanged, again.generation) == (0, 0, 0, finished.generation)
    assert world.prepare(force=True).generation == finished.generation
    if world.dump(DAYS[2]).is_dir():
        (world.dump(DAYS[2]) / "_SUCCESS").unlink()
        world.dump(DAYS[2]).rmdir()
    world.write(DAYS[2])
    assert world.prepare(refit=True).failed == {}
    back, world.tree["dataset"] = world.open().manifest, "world"
    assert (back.dates, back.statistics) == (world.open().manifest.dates, world.open().manifest.statistics)


@pytest.mark.parametrize("how", KINDS)
def test_without_the_setting_it_fails_and_the_message_names_it(world: Any, how: str) -> None:
    del world.tree["pipeline"]["source"]["empty_date"]
    emptied(world, DAYS[2], how)
    finished = world.prepare()
    assert list(finished.failed) == [DAYS[2]]
    assert str(finished.failed[DAYS[2]]).endswith("pipeline.source.empty_date: drop leaves such dates out")
    world.tree["pipeline"]["source"]["empty_date"] = "drop"
    finished = world.prepare()
    assert (finished.failed, list(finished.dropped)) == ({}, [DAYS[2]])
    assert (world.open().manifest.failed, world.open().manifest.provisional) == ((), ())
    world.tree["pipeline"]["source"]["empty_date"] = "fail"
    assert list(world.prepare().failed) == [DAYS[2]]


def test_rows_that_are_refused_are_no_empty_date(world: Any) -> None:
    world.dump(DAYS[2]).write_text(HEADER + "never,n0,1.0,1.0\n")
    assert list(world.prepare().failed) == [DAYS[2]]


def test_the_split_is_of_the_dates_that_have_rows_at_once(world: Any) -> None:
    """The newest dump is the one that is written last, and the one that is empty: it must not become the test date."""
    emptied(world, DAYS[7], "header")
    emptied(world, DAYS[6], "header")
    finished = world.prepare()
    assert world.open().manifest.split == {
        "train": ((DAYS[0], DAYS[2]),),
        "validation": ((DAYS[3], DAYS[4]),),
        "test": ((DAYS[5], DAYS[5]),),
    }
    assert [date for date, _ in world.open().statistics.sources] == DAYS[:3]
    assert world.prepare().generation == finished.generation
    assert plan_of(world).remarks == ()


def test_a_committed_date_whose_dump_becomes_empty_leaves_the_dataset(world: Any) -> None:
    world.prepare()
    statistics = world.open().manifest.statistics
    emptied(world, DAYS[1], "header")
    finished = world.prepare()
    assert (list(finished.dropped), finished.failed) == ([DAYS[1]], {})
    manifest = world.open().manifest
    assert DAYS[1] not in manifest.dates
    assert manifest.statistics == statistics
    assert "The frozen statistics still include 2024-03-02" in " ".join(plan_of(world).warnings)
    world.prepare(refit=True)
    assert [date for date, _ in world.open().statistics.sources] == [DAYS[0], *DAYS[2:5]]
    assert "rest on" not in " ".join(plan_of(world).warnings)


def test_an_empty_part_of_a_date_that_has_rows_fails_it_whatever_is_set(make_world: Make, tmp_path: Path) -> None:
    made = make_world(3)
    made.tree["pipeline"]["source"] |= {"path": str(tmp_path / "raw/{date}*.csv"), "empty_date": "drop"}
    (tmp_path / f"raw/{DAYS[0]}-b.csv").write_text(HEADER)
    assert "a header but no row" in str(made.prepare().failed[DAYS[0]])
    for date in DAYS[:3]:
        made.dump(date).write_text(HEADER)
    with pytest.raises(DumpError, match="no training date could be measured"):
        made.prepare()


def test_a_split_that_is_left_without_a_training_date_is_refused(make_world: Make) -> None:
    made = make_world(3, split={"train": str(DAYS[0]), "validation": str(DAYS[1])})
    made.tree["pipeline"]["source"]["empty_date"] = "drop"
    emptied(made, DAYS[0], "header")
    with pytest.raises(UsageError, match="names no training date that exists"):
        made.prepare()


def test_what_was_left_out_is_told_and_status_is_well(
    world: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dateshard.cli import run

    monkeypatch.chdir(world.folder)
    config = str(world.config_file())
    for date in DAYS[2:5]:
        emptied(world, date, "header")
    assert run(["preprocess", "-c", config, "--workers", "1"]) == 0
    out = capsys.readouterr().out
    assert "3 dates without rows are left out (empty_date: drop): 2024-03-03..2024-03-05" in out
    assert out.count("2024-03-03") == 1
    assert run(["status", "-c", config]) == 0
    assert run(["preprocess", "2024-03-04", "-c", config]) == 0
    assert "2024-03-04: no row" in capsys.readouterr().out
    assert run(["clean", "-c", config]) == 0
    assert run(["preprocess", "-c", config, "--json", "dataset=more", "--workers", "1"]) == 0
    assert '"dropped": {\n  "2024-03-03": "' in capsys.readouterr().out
