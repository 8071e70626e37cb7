"""Dates of 23, 23.5, 24.5 and 25 hours, a date that never was and a midnight that a zone skips, through the command line.

What a date's steps are is told by zoneinfo alone: every minute whose local date is the date.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from dateshard.shardstore.commit import sources_path
from dateshard.shardstore.identity import unseal
from dateshard.shardstore.measured import load_arrays
from dateshard.shardstore.storage import zarr_raw
from tests.conftest import World

Make = Callable[..., World]
MINUTE = dt.timedelta(minutes=1)
NODES = ["n0", "n1"]


@dataclass(frozen=True)
class Zone:
    """Dates around a change, their hours, the step in minutes, and the minutes of repeated clock readings a date."""

    name: str
    hours: dict[str, float]
    step: int
    repeated: dict[str, int]


ZONES = [
    Zone(
        "America/New_York",
        {"2024-03-09": 24, "2024-03-10": 23, "2024-03-11": 24, "2024-11-02": 24, "2024-11-03": 25, "2024-11-04": 24},
        60,
        {"2024-11-03": 60},
    ),
    Zone(
        "Australia/Lord_Howe",
        {"2024-04-06": 24, "2024-04-07": 24.5, "2024-04-08": 24, "2024-10-05": 24, "2024-10-06": 23.5, "2024-10-07": 24},
        30,
        {"2024-04-07": 30},
    ),
    Zone("Pacific/Apia", {"2011-12-28": 24, "2011-12-29": 24, "2011-12-31": 24, "2012-01-01": 24}, 60, {}),
    Zone(  # the clock jumps from midnight to one, and from midnight back to eleven
        "America/Sao_Paulo",
        {"2018-02-16": 24, "2018-02-17": 25, "2018-02-18": 24, "2018-11-03": 24, "2018-11-04": 23, "2018-11-05": 24},
        20,
        {"2018-02-17": 60},
    ),
]  # fmt: skip


def instants_of(date: dt.date, zone: str, step: int) -> list[dt.datetime]:
    """Instants of the date's steps: every `step` minutes from its first one on."""
    at = dt.datetime.combine(date, dt.time(), dt.UTC) - dt.timedelta(hours=26)
    minutes = (at + k * MINUTE for k in range(76 * 60))
    return [minute for minute in minutes if minute.astimezone(ZoneInfo(zone)).date() == date][::step]


def ns(at: dt.datetime) -> int:
    return int(at.timestamp()) * 10**9


def world_of(make_world: Make, zone: Zone, spell: Callable[[dt.datetime], str], **source: Any) -> World:
    """A dump a date: at every step one record of each node, whose speed is its number."""
    dates = [dt.date.fromisoformat(text) for text in zone.hours]
    world = make_world(1, zone=zone.name)
    for old in world.folder.glob("raw/*"):
        old.unlink()
    world.tree["pipeline"] |= {
        "step": f"{zone.step}m",
        "features": {"speed": {"aggregate": "last"}},
        "split": {"train": [str(date) for date in dates]},
    }
    world.tree["pipeline"]["source"] |= source
    for date in dates:
        lines = ["time,node,speed"]
        for k, at in enumerate(instants_of(date, zone.name, zone.step)):
            lines += [f"{spell(at)},{node},{k}" for node in NODES]
        world.dump(date).write_text("\n".join([*lines, ""]))
    return world


def prepare(world: World, *words: str, code: int = 0) -> dict[str, Any]:
    done = world.run("preprocess", "-c", str(world.config_file()), "--workers", "1", "--json", *words, code=code)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def cells(world: World, date: dt.date) -> Any:
    """[T] raw speeds of the first node."""
    path = sources_path(world.store, world.open().generation)
    key = unseal(path.read_bytes(), str(path))["dates"][str(date)]["staged"]
    return load_arrays(world.store / "staged" / str(date) / key)[0][:, 0, 0]


def check_steps(world: World, zone: Zone) -> None:
    """T, instants and values of every shard are those that zoneinfo gives."""
    dataset = world.open()
    assert sorted(map(str, dataset.manifest.dates)) == sorted(zone.hours)
    for text, hours in zone.hours.items():
        date = dt.date.fromisoformat(text)
        steps, entry = instants_of(date, zone.name, zone.step), dataset.manifest.dates[date]
        assert (entry.num_steps, entry.start) == (len(steps), ns(steps[0]))
        assert entry.num_steps * zone.step == hours * 60
        shard = world.store / "shards" / text / entry.parts[0].id
        assert np.fromfile(shard / zarr_raw.chunk_file("time"), dtype="<i8").tolist() == [ns(at) for at in steps]


def local(zone: Zone) -> Callable[[dt.datetime], str]:
    return lambda at: at.astimezone(ZoneInfo(zone.name)).strftime("%Y-%m-%d %H:%M:%S")


@pytest.mark.parametrize("zone", ZONES, ids=lambda zone: zone.name)
def test_offsets_and_instants_fill_every_step_of_every_date(make_world: Make, zone: Zone) -> None:
    world = world_of(make_world, zone, lambda at: at.astimezone(ZoneInfo(zone.name)).isoformat())
    assert prepare(world)["rows"]["rejected"] == {}
    check_steps(world, zone)
    for text in zone.hours:
        date = dt.date.fromisoformat(text)
        assert cells(world, date).tolist() == list(range(len(instants_of(date, zone.name, zone.step))))
    for date in world.folder.glob("raw/*"):  # the same as instants
        rows = [line.split(",") for line in date.read_text().splitlines()]
        instants = [str(int(dt.datetime.fromisoformat(time).timestamp())) for time, _, _ in rows[1:]]
        lines = [",".join(rows[0]), *(",".join([at, *row[1:]]) for at, row in zip(instants, rows[1:], strict=True))]
        date.write_text("\n".join([*lines, ""]))
    before = world.open().manifest.dates
    assert prepare(world, "pipeline.source.time_format=s")["rows"]["rejected"] == {}
    assert world.open().manifest.dates == before


@pytest.mark.parametrize("zone", ZONES, ids=lambda zone: zone.name)
@pytest.mark.parametrize("ambiguous", ["earliest", "latest"])
def test_clock_readings_that_come_twice_are_the_earlier_or_the_later(
    make_world: Make, zone: Zone, ambiguous: str
) -> None:
    world = world_of(make_world, zone, local(zone), ambiguous=ambiguous)
    assert prepare(world)["rows"]["rejected"] == {}
    check_steps(world, zone)
    for text in zone.hours:
        date = dt.date.fromisoformat(text)
        steps = instants_of(date, zone.name, zone.step)
        readings = [at.astimezone(ZoneInfo(zone.name)).replace(tzinfo=None, fold=0) for at in steps]
        twice = [readings.count(reading) > 1 for reading in readings]
        assert sum(twice) * zone.step == 2 * zone.repeated.get(text, 0)
        first = [reading not in readings[:k] for k, reading in enumerate(readings)]
        chosen = [not again or (one == (ambiguous == "earliest")) for again, one in zip(twice, first, strict=True)]
        last = {reading: k for k, reading in enumerate(readings)}  # the later record in file order stays
        expected = [last[reading] if here else np.nan for reading, here in zip(readings, chosen, strict=True)]
        assert np.array_equal(cells(world, date), expected, equal_nan=True)


def test_clock_readings_that_come_twice_or_never_are_counted_where_nothing_says_which(make_world: Make) -> None:
    zone = ZONES[0]
    world = world_of(make_world, zone, local(zone), max_bad_fraction=1)
    skipped, twice = dt.date(2024, 3, 10), dt.date(2024, 11, 3)
    with world.dump(skipped).open("a") as file:
        file.write("2024-03-10 02:00:00,n0,9\n2024-03-10 02:59:59,n1,9\n2024-03-10 03:00:00,n0,3\n")
    by_date = prepare(world)["rows"]["by_date"]
    reason = "not a time (ISO 8601 like the first of its file, unambiguous in its zone)"
    expected = {str(skipped): {reason: 2}, str(twice): {reason: 4}}
    assert {date: rows["rejected"] for date, rows in by_date.items() if rows["rejected"]} == expected
    assert np.flatnonzero(np.isnan(cells(world, twice))).tolist() == [1, 2]
    for date, row, value in ((skipped, 48, "2024-03-10 02:00:00"), (twice, 4, "2024-11-03 01:00:00")):
        world.tree["dataset"] = f"strict{date.month}"
        failed = prepare(world, "pipeline.source.max_bad_fraction=0", code=3)["failed"]
        assert f"row {row}, column 'time', value '{value}': the row is {reason}" in failed[str(date)]["message"]


def test_a_step_that_does_not_divide_a_date_is_refused_in_one_sentence(make_world: Make) -> None:
    zone = ZONES[1]
    world = world_of(make_world, zone, lambda at: at.isoformat())
    document = prepare(world, "pipeline.step=1h", code=3)
    assert {date: found["message"] for date, found in document["failed"].items()} == {
        f"2024-{day}": f"date 2024-{day}: a step of 3600 s does not divide this date's {hours} hours in "
        "Australia/Lord_Howe. Choose a step that divides every day's length, or the time zone UTC"
        for day, hours in (("04-07", 24.5), ("10-06", 23.5))
    }
    assert document["dates"] == 4
    for step in ("10m", "30m"):
        world.tree["dataset"] = f"at{step}"
        assert prepare(world, f"pipeline.step={step}")["failed"] == {}


def test_a_dump_of_a_date_that_never_was_is_refused_and_its_neighbours_join(make_world: Make) -> None:
    zone = ZONES[2]
    world = world_of(make_world, zone, local(zone))
    world.dump(dt.date(2011, 12, 30)).write_text("time,node,speed\n2011-12-30 12:00:00,n0,1\n")
    document = prepare(world, code=3)
    message = document["failed"]["2011-12-30"]["message"]
    assert message.startswith("date 2011-12-30: the date does not exist in Pacific/Apia")
    manifest = world.open().manifest
    before, after = manifest.dates[dt.date(2011, 12, 29)], manifest.dates[dt.date(2011, 12, 31)]
    assert before.start + before.num_steps * manifest.step == after.start
    assert len(world.open().segments) == 1
