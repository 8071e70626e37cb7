"""Bounds of the dates (`pipeline.source.dates`, ranges in `pipeline.exclude`): what lies outside is left out and counted."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dateshard.cli import run
from dateshard.pipeline.planning.plan import Wish
from dateshard.pipeline.planning.preview import look
from dateshard.pipeline.recent.raw_files import raw_files
from dateshard.pipeline.source import Source
from dateshard.pipeline.splits import write_bounds
from dateshard.shardstore.errors import UsageError
from dateshard.shardstore.identity import seal, unseal
from tests.conftest import World

Make = Callable[..., World]
DAYS = [dt.date(2024, 3, day) for day in range(1, 8)]
SPLIT = {"train": "..latest-2", "validation": "latest-1..latest"}
STRAY = ["2001-01-01T00:03:00+00:00", "2098-09-11T02:23:00+00:00", "2098-09-11T02:24:00+00:00"]


def states_of(world: World) -> dict[dt.date, tuple[str, str]]:
    plan = look(world.settings.preparing(), world.store, Wish())[0]
    return {date.date: (date.state, date.reason) for date in plan.dates}


def in_one_file(world: World, stray: list[str]) -> Path:
    """All rows of the world and those of stray times in one file, which is the source from now on."""
    lines = [line for date in sorted(world.rows) for line in world.dump(date).read_text().splitlines()[1:]]
    big = world.folder / "big.csv"
    big.write_text("\n".join(["time,node,speed,vehicles", *(f"{time},n0,1.5,2.0" for time in stray), *lines, ""]))
    world.tree["pipeline"]["source"]["path"] = str(big)
    return big


@pytest.mark.parametrize("text", ["2013-01-01..2013-12-31", "..2013-12-31", "2013-01-01..", "2013-01-01"])
def test_bounds_are_written_as_they_are_read(text: str) -> None:
    source = Source.model_validate({"path": "raw/{date}.csv", "time": "t", "dates": text})
    assert source.dates is not None
    assert write_bounds(source.dates) == source.model_dump(mode="json")["dates"] == text


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("source", "2013-12-31..2013-01-01", "runs backwards"),
        ("source", "..", "is not a range of dates"),
        ("source", "..latest-14", "depends on the dates that exist"),
        ("source", "soon", "'soon' is not a date"),
        ("source", ["2013-12-31", "2014-12-31"], "is not a range of dates. Write 2013-01-01..2013-12-31"),
        ("exclude", ["2013-02-01..2013-02-07", "last:7"], "depends on the dates that exist"),
    ],
)
def test_what_is_no_range_of_plain_dates_is_refused_with_the_forms(
    make_world: Make, key: str, value: Any, message: str
) -> None:
    world = make_world(3)
    world.tree["pipeline"] |= {"exclude": value} if key == "exclude" else {}
    world.tree["pipeline"]["source"] |= {"dates": value} if key == "source" else {}
    with pytest.raises(UsageError, match=message) as error:
        _ = world.settings
    assert ("source.dates" if key == "source" else "exclude") in str(error.value)


def test_dumps_outside_of_the_bounds_are_left_out_and_bounds_that_move_rebuild_nothing(make_world: Make) -> None:
    world = make_world(7, split=SPLIT)
    source = world.tree["pipeline"]["source"]
    source["dates"] = "2024-03-03.."
    assert world.prepare().measured == 5
    whole = world.open().manifest
    assert sorted(whole.dates) == DAYS[2:]
    assert states_of(world)[DAYS[0]] == ("excluded", "outside of pipeline.source.dates")
    source["dates"] = "2024-03-04..2024-03-06"
    finished = world.prepare()
    assert (finished.measured, finished.written, finished.unchanged) == (0, 0, 0)
    assert world.open().manifest.dates == {date: whole.dates[date] for date in DAYS[3:6]}
    del source["dates"]
    assert world.prepare().measured == 2, "those that no bounds had taken in before"


@pytest.mark.parametrize("prepared", [True, False])
def test_bounds_that_leave_no_date_are_refused_and_the_dataset_stays(
    make_world: Make, capsys: pytest.CaptureFixture[str], *, prepared: bool
) -> None:
    world = make_world(3)
    if prepared:
        world.prepare()
    kept = {"pipeline.source.dates": "2042-03-01..", "pipeline.exclude": "[2024-03-01..2024-03-03]"}
    for key, value in kept.items():
        for command in ("plan", "preprocess"):
            assert run([command, "-c", str(world.config_file()), f"{key}={value}"]) == 2
            error = capsys.readouterr().err
            assert f"{key} leaves no date of those that exist: 2024-03-01..2024-03-03. Correct it" in error
    assert not prepared or len(world.open().manifest.dates) == 3
    in_one_file(world, [])
    assert run(["preprocess", "-c", str(world.config_file()), "pipeline.source.dates=2042-03-01.."]) == 65
    assert "outside of pipeline.source.dates. Correct it, or the dump" in capsys.readouterr().err


def test_ranges_stand_beside_dates_in_exclude_and_their_days_are_not_missing(make_world: Make) -> None:
    world = make_world(7, split=SPLIT, gaps=(2,))
    world.tree["pipeline"]["exclude"] = ["2024-03-02..2024-03-03", dt.date(2024, 3, 5), "..2024-01-01"]
    world.prepare()
    assert sorted(world.open().manifest.dates) == [DAYS[0], DAYS[3], DAYS[5], DAYS[6]]
    plan = look(world.settings.preparing(), world.store, Wish())[0]
    assert plan.missing_days == ()
    out = [date.date for date in plan.dates if date.state == "excluded"]
    assert out == [DAYS[1], DAYS[4]], "of a range only what has a dump is listed"


def test_rows_outside_of_the_bounds_are_counted_in_one_line_and_not_kept(
    make_world: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    world = make_world(7, split=SPLIT)
    rows = sum(map(len, world.rows.values()))
    in_one_file(world, STRAY)
    world.tree["pipeline"]["source"]["dates"] = "2024-03-01..2024-03-06"
    assert run(["preprocess", "-c", str(world.config_file()), "--workers", "1"]) == 0
    left_out = 3 + len(world.rows[DAYS[6]])
    screen = capsys.readouterr().out
    assert f"{rows + 3:,} rows divided into 6 dates, {left_out} outside of pipeline.source.dates" in screen
    assert f"  rejected  {left_out:,}  outside of pipeline.source.dates" in screen  # and no fault, which refuses here
    assert [path.stem for path in sorted(world.store.glob("cut/*/*.arrow"))] == list(map(str, DAYS[:6]))
    assert world.open().manifest.failed == ()


def test_other_bounds_cut_the_file_again_and_leave_the_dates_that_stay(make_world: Make) -> None:
    world = make_world(7, split=SPLIT)
    in_one_file(world, STRAY)
    source = world.tree["pipeline"]["source"]
    source["dates"] = "2024-01-01..2024-03-06"
    world.prepare()
    before = world.open().manifest.dates
    source["dates"] = "2024-03-02..2024-03-07"
    finished = world.prepare()
    after = world.open().manifest.dates
    assert (finished.measured, sorted(after)) == (1, DAYS[1:])
    assert all(after[date] == before[date] for date in DAYS[1:6])
    assert [date for date in states_of(world) if date not in DAYS] == []
    assert {state for state, _ in states_of(world).values()} == {"fresh"}


def test_bounds_of_the_configuration_are_no_bounds_of_a_history(make_world: Make) -> None:
    world = make_world(3)
    big = in_one_file(world, [])
    world.tree["pipeline"]["source"]["dates"] = "2024-03-01..2024-03-02"
    with raw_files([str(big)], world.settings.preparing()) as raw:
        assert sorted(raw.dumps) == DAYS[:3]


def test_a_configuration_shows_its_bounds_as_they_are_written(
    make_world: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    world = make_world(3)
    world.tree["pipeline"]["source"]["dates"] = "2024-03-01.."
    world.tree["pipeline"]["exclude"] = ["..2023-12-31", "2024-03-02"]
    assert run(["config", "show", "-c", str(world.config_file()), "--json"]) == 0
    pipeline = json.loads(capsys.readouterr().out)["settings"]["pipeline"]
    assert (pipeline["source"]["dates"], pipeline["exclude"]) == ("2024-03-01..", ["..2023-12-31", "2024-03-02"])


def test_a_handful_of_rows_years_away_is_named_with_the_bounds_that_leave_it_out(
    make_world: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    world = make_world(7)
    in_one_file(world, STRAY)
    words = (
        "3 rows are years away from all others: 2001-01-01, 2098-09-11. pipeline.source.dates: 2024-03-01..2024-03-07"
    )
    for command in (["preprocess", "--workers", "1"], ["plan"], ["status"]):
        assert run([*command, "-c", str(world.config_file())]) == 0
        assert f"{words} leaves them out" in capsys.readouterr().out
    world.tree["pipeline"]["source"]["dates"] = "2024-03-01..2024-03-07"
    run(["preprocess", "-c", str(world.config_file()), "--workers", "1"])
    assert "years away" not in capsys.readouterr().out
    assert {entry.date for entry in look(world.settings.preparing(), world.store, Wish())[0].dates} == set(DAYS)


@pytest.mark.parametrize(
    ("days", "stray", "exclude"),
    [
        (DAYS[:4], STRAY[:1], ["2001-01-01"]),
        (DAYS[:4], ["2023-12-01T00:00:00+00:00"], []),
        ([dt.date(2022, 3, 1), *DAYS[:3]], [], []),
    ],
    ids=["left out already", "near the others", "a full date after a gap of years"],
)
def test_only_a_handful_of_rows_far_away_is_named(
    make_world: Make, days: list[dt.date], stray: list[str], exclude: list[str]
) -> None:
    world = make_world(days)
    in_one_file(world, stray)
    world.tree["pipeline"]["exclude"] = exclude
    world.prepare()
    plan = look(world.settings.preparing(), world.store, Wish())[0]
    assert not any("years away" in remark for remark in plan.remarks)


def test_the_bounds_that_are_named_keep_what_is_far_away_and_full(make_world: Make) -> None:
    world = make_world([dt.date(2020, 3, 1), *DAYS[:3]])
    in_one_file(world, STRAY[:1])
    world.prepare()
    plan = look(world.settings.preparing(), world.store, Wish())[0]
    words = (
        "1 row is years away from all others: 2001-01-01. pipeline.source.dates: 2020-03-01..2024-03-03 leaves it out"
    )
    assert words in plan.remarks


def test_a_cut_of_an_earlier_version_is_read_without_the_rows_of_its_dates(make_world: Make) -> None:
    world = make_world(3)
    in_one_file(world, STRAY)
    world.prepare()
    [index] = world.store.glob("cut/*/index.json")
    content = unseal(index.read_bytes(), str(index))
    content["dates"] = {date: spill[:2] for date, spill in content["dates"].items()}
    index.write_bytes(seal({key: value for key, value in content.items() if key != "seal"}))
    found = look(world.settings.preparing(), world.store, Wish())
    assert {date.state for date in found[0].dates} == {"fresh"}
    assert not any("years away" in remark for remark in found[0].remarks)
