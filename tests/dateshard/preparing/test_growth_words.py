"""What plan, preprocess, status and train say of a dataset that grows day by day: dates in no split, missing days."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import World, make_rows

Run = Callable[..., Any]
Make = Callable[..., World]
SHARES = {"train": 0.5, "validation": 0.25, "test": 0.25}


def append(world: World, *days: int) -> None:
    """More dumps of March 2024."""
    for day in days:
        date = dt.date(2024, 3, day)
        world.rows[date] = make_rows(date, "UTC", ["n0", "n1", "n2"], 1)
        world.write(date)


def said(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.removeprefix("note: ").startswith(start)]


@pytest.fixture
def grown(make_world: Make) -> World:
    """Four dates prepared with shares, and the fifth, which came a day later, too."""
    world = make_world(4, split=SHARES, training={"epochs": 1, "batch_size": 16})
    world.config_file()
    world.prepare()
    append(world, 5)
    return world


def test_an_appended_date_that_frozen_shares_leave_out_is_told_by_every_command(grown: World, ds: Run) -> None:
    line = "1 date is in no split: 2024-03-05. Use preprocess --resplit, or rolling ranges"
    assert said(ds("plan", "-c", "config.yaml").out, "1 date is") == [line]
    assert said(ds("preprocess", "-c", "config.yaml", "--workers", "1").out, "1 date is") == [line]
    assert said(ds("preprocess", "-c", "config.yaml").out, "1 date is") == [line]  # as long as it is true
    assert said(ds("status", "-c", "config.yaml").out, "1 date is") == [line]
    assert said(ds("train", "-c", "config.yaml").out, "1 date is") == [f"note: {line}"]
    for command in ("plan", "status"):
        assert ds(command, "-c", "config.yaml", "--json").document["in_no_split"] == ["2024-03-05"]
    ds("preprocess", "-c", "config.yaml", "--resplit", "-q")
    for command in ("plan", "status", "preprocess", "train"):
        assert "in no split" not in ds(command, "-c", "config.yaml").out


def test_dates_that_ranges_leave_out_are_told_in_one_line_and_resplit_is_not_offered(make_world: Make, ds: Run) -> None:
    world = make_world(12, split={"train": "2024-03-01..2024-03-06", "validation": "2024-03-09"})
    world.tree["pipeline"]["exclude"] = ["2024-03-07"]
    config = str(world.config_file())
    line = "4 dates are in no split: 2024-03-08, 2024-03-10..2024-03-12. pipeline.split leaves them out"
    assert said(ds("preprocess", "-c", config, "--workers", "1").out, "4 dates are") == [line]
    assert said(ds("plan", "-c", config).out, "4 dates are") == [line]
    assert said(ds("train", "-c", config, "--max-steps", "1").out, "4 dates are") == [f"note: {line}"]
    assert not said(ds("status", "2024-03-08", "-c", config).out, "4 dates are")


def test_shares_that_are_meant_to_leave_dates_out_do_not_offer_a_resplit(make_world: Make, ds: Run) -> None:
    world = make_world(10, split={"train": 0.5, "validation": 0.1})
    (line,) = said(ds("plan", "-c", str(world.config_file())).out, "4 dates are")
    assert line == "4 dates are in no split: 2024-03-07..2024-03-10. pipeline.split leaves them out"


def test_many_ranges_without_a_split_stay_one_short_line(make_world: Make, ds: Run) -> None:
    train = [f"2024-03-{day:02d}" for day in range(1, 21, 2)]
    world = make_world(20, split={"train": train})
    (line,) = said(ds("plan", "-c", str(world.config_file())).out, "10 dates are")
    assert line.startswith("10 dates are in no split: 2024-03-02, 2024-03-04, 2024-03-06, ...")


def test_the_starter_takes_new_dates_in_by_itself(make_world: Make, ds: Run) -> None:
    ds("init")
    from dateshard.settings import load_settings

    split = load_settings(["configs/mydata.yaml"], []).preparing().split
    assert split is not None
    world = make_world(20, split=split.model_dump())
    world.prepare()
    append(world, 21)
    world.prepare()
    manifest = world.open().manifest
    assert manifest.split == {
        "train": ((dt.date(2024, 3, 1), dt.date(2024, 3, 7)),),
        "validation": ((dt.date(2024, 3, 8), dt.date(2024, 3, 14)),),
        "test": ((dt.date(2024, 3, 15), dt.date(2024, 3, 21)),),
    }


def test_rolling_ranges_that_need_more_dates_say_how_many(make_world: Make, ds: Run) -> None:
    world = make_world(9, split={"train": "..latest-14", "validation": "latest-13..latest-7", "test": "last:7"})
    error = ds("plan", "-c", str(world.config_file()), code=2).err
    assert "pipeline.split names no training date that exists: there are 9 dates, 2024-03-01..2024-03-09" in error
    assert "..latest-14 needs 15" in error


def test_missing_days_are_one_line_in_plan_preprocess_and_status(make_world: Make, ds: Run) -> None:
    world = make_world(12, gaps=(2, 5, 6), split={"train": "2024-03-01.."})
    world.tree["pipeline"]["exclude"] = ["2024-03-09"]
    config = str(world.config_file())
    line = "3 days are missing: 2024-03-03, 2024-03-06..2024-03-07. No window reaches over them"
    for command in ("plan", "preprocess", "status"):
        assert said(ds(command, "-c", config).out, "3 days are") == [line]
    for command in ("plan", "status", "preprocess"):
        assert ds(command, "-c", config, "--json").document["missing_days"] == [
            "2024-03-03",
            "2024-03-06",
            "2024-03-07",
        ]
    append(world, 3, 6, 7)
    assert "missing:" not in ds("preprocess", "-c", config).out


def test_a_day_that_its_zone_does_not_have_is_not_missing(make_world: Make, ds: Run) -> None:
    days = [dt.date(2011, 12, 29), dt.date(2011, 12, 31)]
    world = make_world(days, zone="Pacific/Apia", split={"train": "2011-12-01.."})
    assert "missing:" not in ds("plan", "-c", str(world.config_file())).out


def test_every_other_day_missing_for_years_is_a_short_line(make_world: Make, ds: Run) -> None:
    world = make_world(
        [dt.date(2024, 3, 1), dt.date(2024, 3, 3), dt.date(2024, 3, 5), dt.date(2024, 3, 7), dt.date(2040, 1, 1)]
    )
    (line,) = said(ds("plan", "-c", str(world.config_file())).out, "5,")
    assert line.startswith("5,780 days are missing: 2024-03-02, 2024-03-04, 2024-03-06, .... No")


def test_duplicates_and_lost_readings_are_told_with_dates_and_columns(make_world: Make, ds: Run) -> None:
    """In the doubled hour, times without an offset fall on one instant: a reading is lost."""
    days = [dt.date(2024, 10, day) for day in (26, 27, 28)]
    world = make_world(days, zone="Europe/Berlin", split={"train": "2024-10-26..2024-10-28"})
    world.tree["pipeline"]["source"] |= {"ambiguous": "earliest"}
    for day in days:
        texts = [f"{day}T{hour:02d}:30:00,n0,{hour}.5,7\n" for hour in range(24)]
        again = {26: [texts[4]], 27: [f"{day}T02:30:00,n0,9.5,7\n"], 28: [texts[5], f"{day}T05:30:00,n0,9.5,8\n"]}[
            day.day
        ]
        world.dump(day).write_text("".join(["time,node,speed,vehicles\n", *texts[:3], *again, *texts[3:]]))
    config = str(world.config_file())
    out = ds("preprocess", "-c", config, "--workers", "1").out
    assert "\n  duplicates  4  left out, the last row of a node and instant stays: 2024-10-26..2024-10-28\n" in out
    assert "\n  conflicting  3  of them had other values: 2024-10-27..2024-10-28 (speed 3, vehicles 2)\n" in out
    rows = ds("preprocess", "-c", config, "--json", "--force", "--workers", "1").document["rows"]
    assert rows["by_date"]["2024-10-27"]["duplicates"] == {"dropped": 1, "conflicting": 1, "columns": {"speed": 1}}
    assert "duplicates" not in ds("preprocess", "-c", config).out
