"""The plan: states with reasons, only what is not fresh, and nothing written."""

from __future__ import annotations

import datetime as dt
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from dateshard.pipeline.config import MEASURE_CODE
from dateshard.pipeline.planning.plan import Plan, Wish, staged_key
from dateshard.pipeline.planning.preview import look
from dateshard.pipeline.planning.remarks import change_text
from dateshard.shardstore.identity import identity

FIRST = dt.date(2024, 3, 1)
SPLIT = {"train": "..2024-03-06", "validation": "2024-03-07.."}


@pytest.fixture
def world(make_world: Callable[..., Any]) -> Any:
    """Eight dates, six of them for training, prepared once."""
    made = make_world(8, split=SPLIT, missing=0.6)
    made.prepare()
    return made


def plan_of(world: Any, **wish: Any) -> Plan:
    return look(world.settings.preparing(), world.store, Wish(**wish))[0]


def states(world: Any, **wish: Any) -> Counter[str]:
    return Counter(plan.state for plan in plan_of(world, **wish).dates)


def change(world: Any, date: dt.date) -> None:
    world.rows[date] = world.rows[date][:-3]
    world.write(date)


def settings(world: Any, **features: dict[str, Any]) -> None:
    for name, values in features.items():
        world.tree["pipeline"]["features"][name] |= values


def test_after_a_preprocess_every_date_is_fresh_and_nothing_is_to_do(world: Any) -> None:
    plan = plan_of(world)
    assert states(world) == {"fresh": 8}
    assert (plan.to_measure, plan.to_normalise, plan.merge, plan.warnings) == ([], [], "", ())


def test_before_the_first_preprocess_every_date_is_missing(make_world: Callable[..., Any]) -> None:
    made = make_world(3)
    plan = plan_of(made)
    assert states(made) == {"missing": 3}
    assert len(plan.to_measure) == len(plan.to_normalise) == 3
    assert plan.merge == "no statistics yet"
    assert not made.store.exists()


def test_a_plan_writes_nothing(world: Any, tree_of: Any) -> None:
    change(world, FIRST)
    before = tree_of(world.folder, times=True)
    names = sorted(str(path) for path in world.folder.rglob("*"))
    for wish in ({}, {"force": True}, {"refit": True}, {"resplit": True}, {"dates": frozenset([FIRST])}):
        plan_of(world, **wish)
    assert tree_of(world.folder, times=True) == before
    assert sorted(str(path) for path in world.folder.rglob("*")) == names


def test_a_staged_key_is_the_identity_of_what_it_is_made_of() -> None:
    made_of = ["0123456789abcdef" * 2, "fedcba9876543210", MEASURE_CODE]
    assert staged_key(*made_of[:2]) == identity(made_of)


def test_a_plan_is_a_function_of_what_it_looks_at(world: Any) -> None:
    change(world, FIRST)
    assert plan_of(world) == plan_of(world)


def test_a_changed_dump_makes_its_date_stale_and_warns_about_the_statistics(world: Any) -> None:
    change(world, FIRST)
    plan = plan_of(world)
    assert [(p.date, p.state) for p in plan.dates if p.state != "fresh"] == [(FIRST, "stale(dump)")]
    assert plan.dates[0].reason.startswith("dump changed (")
    assert [p.date for p in plan.to_measure] == [p.date for p in plan.to_normalise] == [FIRST]
    assert plan.merge == ""
    (warning,) = plan.warnings
    assert "2024-03-01 is a training date: the frozen statistics are kept, unless --refit-statistics" in warning
    change(world, max(world.rows))
    assert len(plan_of(world).warnings) == 1  # a validation date moves no statistics


def test_a_change_of_a_few_bytes_is_told_in_bytes() -> None:
    assert change_text(35_190, 35_214) == "35,190 B -> 35,214 B"
    assert change_text(1_234_000_000, 1_300_000_000) == "1.2 GB -> 1.3 GB"


def test_a_touched_dump_with_the_same_bytes_stays_fresh(world: Any) -> None:
    world.write(FIRST)
    assert states(world) == {"fresh": 8}


@pytest.mark.parametrize("how", ["written anew", "its old time put back", "another in its place"])
def test_a_dump_of_the_same_size_with_other_bytes_is_seen(world: Any, how: str) -> None:
    path = world.dump(FIRST)
    before, data = path.stat(), path.read_bytes()
    written = path.with_name("other") if how == "another in its place" else path
    written.write_bytes(data[:-2] + (b"8" if data[-2:-1] != b"8" else b"9") + data[-1:])
    if how != "written anew":
        os.utime(written, ns=(before.st_atime_ns, before.st_mtime_ns))
    written.replace(path)
    assert path.stat().st_size == before.st_size
    assert states(world) == {"fresh": 7, "stale(dump)": 1}
    world.prepare()
    assert states(world) == {"fresh": 8}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("speed", {"fill": "zero", "fill_limit": None}),
        ("speed", {"fill_limit": 1}),
        ("volume", {"scale": "none"}),
        ("volume", {"scale_per": "node"}),
    ],
)
def test_a_changed_fill_or_scale_rescales_all_and_reads_no_dump(world: Any, name: str, values: dict[str, Any]) -> None:
    statistics = world.open().manifest.statistics
    settings(world, **{name: values})
    plan = plan_of(world)
    assert states(world) == {"stale(config)": 8}
    assert (len(plan.to_measure), len(plan.to_normalise), plan.merge) == (0, 8, "")
    finished = world.prepare()
    assert (finished.measured, finished.failed) == (0, {})
    assert finished.written + finished.unchanged == 8
    assert finished.written > 0
    assert world.open().manifest.statistics == statistics
    assert states(world) == {"fresh": 8}


@pytest.mark.parametrize(
    "values", [{"aggregate": "sum"}, {"aggregate": "last"}, {"column": "vehicles"}, {"aggregate": "count"}]
)
def test_a_changed_aggregate_or_column_makes_all_stale_and_refits(world: Any, values: dict[str, Any]) -> None:
    statistics = world.open().manifest.statistics
    settings(world, speed=values)
    plan = plan_of(world)
    assert states(world) == {"stale(config)": 8}
    assert (len(plan.to_measure), len(plan.to_normalise)) == (8, 8)
    assert plan.merge == "settings of the statistics changed"
    assert world.prepare().written == 8
    assert world.open().manifest.statistics != statistics
    assert states(world) == {"fresh": 8}


def test_a_changed_step_or_zone_is_committed_whole(world: Any) -> None:
    world.tree["pipeline"]["step"] = "30m"
    assert world.prepare(dates=frozenset([FIRST])).written == 8  # one generation has one step
    assert {day.num_steps for day in world.open().days} == {48}
    assert states(world) == {"fresh": 8}


def test_settings_that_change_no_bytes_make_nothing_stale(world: Any) -> None:
    before = world.open().manifest
    world.tree["pipeline"]["source"]["max_bad_fraction"] = 0.5
    world.tree["pipeline"]["split"] = {"train": "..2024-03-06", "test": "2024-03-07.."}
    plan = plan_of(world)
    assert states(world) == {"fresh": 8}
    assert (plan.to_measure, plan.to_normalise, plan.merge) == ([], [], "")
    finished = world.prepare()
    assert (finished.measured, finished.written, finished.unchanged) == (0, 0, 0)
    after = world.open().manifest
    assert after.dates == before.dates
    assert sorted(after.split) == ["test", "train"]


def test_a_moved_training_range_keeps_the_statistics_and_says_so(world: Any) -> None:
    world.tree["pipeline"]["split"] = {**SPLIT, "train": "..2024-03-05"}
    moved, warning, left_out = plan_of(world).warnings
    assert moved == "The split moves: train 2024-03-01..2024-03-06 -> 2024-03-01..2024-03-05."
    assert "the frozen statistics are those of the old one, unless --refit-statistics" in warning
    assert left_out == "1 date is in no split: 2024-03-06. pipeline.split leaves it out"
    assert plan_of(world, refit=True).merge == "--refit-statistics"


def test_fractions_stay_frozen_until_resplit(world: Any) -> None:
    world.tree["pipeline"]["split"] = {"train": 0.5, "validation": 0.5}
    world.prepare(resplit=True)
    first = plan_of(world).split
    for day in range(9, 13):
        date = dt.date(2024, 3, day)
        world.rows[date] = [(t + (day - 1) * 86400 * 10**9, *rest) for t, *rest in world.rows[FIRST]]
        world.write(date)
    assert plan_of(world).split == first
    assert plan_of(world, resplit=True).split["train"] == ((FIRST, dt.date(2024, 3, 6)),)


def test_excluded_dates_and_dates_without_a_dump_are_left_alone(world: Any) -> None:
    world.dump(dt.date(2024, 3, 2)).unlink()
    world.tree["pipeline"]["exclude"] = ["2024-03-03"]
    asked = dt.date(2024, 5, 5)
    plan = {p.date: p for p in plan_of(world, dates=frozenset([FIRST, asked])).dates}
    assert plan[dt.date(2024, 3, 2)].state == "no-dump"
    assert plan[dt.date(2024, 3, 2)].reason == "the dump is gone, its shard stays"
    assert plan[dt.date(2024, 3, 3)].state == "excluded"
    assert (plan[asked].state, plan[asked].reason) == ("no-dump", f"no dump: {world.dump(asked)}")
    world.prepare()
    assert dt.date(2024, 3, 2) in world.open().manifest.dates
    assert dt.date(2024, 3, 3) not in world.open().manifest.dates
    world.tree["pipeline"]["exclude"] = []
    assert world.prepare().measured == 0  # it comes back from its staged array
    assert dt.date(2024, 3, 3) in world.open().manifest.dates


def test_a_date_alone_on_a_fresh_store_measures_all_training_dates_and_shards_only_its_own(
    make_world: Callable[..., Any],
) -> None:
    made = make_world(8, split=SPLIT)
    wish = {"dates": frozenset([FIRST])}
    plan = plan_of(made, **wish)
    assert (len(plan.to_measure), len(plan.to_normalise)) == (6, 1)
    assert plan.warnings == ("5 more dates are measured: the statistics are merged over all training dates.",)
    made.prepare(**wish)
    assert list(made.open().manifest.dates) == [FIRST]
    assert states(made) == {"fresh": 1, "measured": 5, "missing": 2}
    statistics = made.open().manifest.statistics
    assert made.prepare().measured == 2
    assert made.open().manifest.statistics == statistics


def test_a_failed_training_date_makes_the_statistics_provisional_until_it_is_mended(world: Any) -> None:
    fresh = world.open().manifest
    world.tree["dataset"] = "second"
    world.dump(FIRST).write_text("time,node\n")
    assert list(world.prepare().failed) == [FIRST]
    manifest = world.open().manifest
    assert manifest.failed == manifest.provisional == (FIRST,)
    assert states(world) == {"failed": 1, "fresh": 7}
    assert plan_of(world).merge == ""
    assert list(world.prepare().failed) == [FIRST]  # tried again, refused again, nothing else is touched
    assert world.open().manifest == manifest
    world.write(FIRST)
    assert plan_of(world).merge == "training dates that failed are tried again: 2024-03-01"
    assert world.prepare().failed == {}
    mended = world.open().manifest
    assert (mended.failed, mended.provisional) == ((), ())
    assert (mended.statistics, mended.dates) == (fresh.statistics, fresh.dates)


def test_a_failed_date_is_told_with_its_fault_until_its_dump_or_its_settings_change(world: Any) -> None:
    def why() -> str:
        return next(plan.reason for plan in plan_of(world).dates if plan.date == FIRST)

    changed = "the dump or its settings changed since it failed"
    world.tree["dataset"] = "second"
    world.dump(FIRST).write_text("time,node\n")
    world.prepare()
    assert "there is no column" in why()
    world.dump(FIRST).write_text("time,node,speed\n")
    assert why() == changed
    world.prepare()
    assert "there is no column 'vehicles'" in why()
    settings(world, speed={"aggregate": "sum"})
    assert why() == changed


def test_a_provisional_date_may_be_mended_by_tolerance_excluded_or_removed(world: Any) -> None:
    for dataset in ("tolerated", "excluded", "removed"):
        world.tree["dataset"] = dataset
        world.write(FIRST)
        with open(world.dump(FIRST), "a") as file:
            file.write("never,n0,1,1\n")
        world.prepare()
        assert world.open().manifest.provisional == (FIRST,)
        if dataset == "tolerated":
            generation = world.open().generation
            world.tree["pipeline"]["source"]["max_bad_fraction"] = 1e-6  # too little: it fails again
            assert list(world.prepare().failed) == [FIRST]
            assert world.open().generation == generation
            world.tree["pipeline"]["source"]["max_bad_fraction"] = 0.1
        elif dataset == "excluded":
            world.tree["pipeline"]["exclude"] = ["2024-03-01"]
        else:
            world.dump(FIRST).unlink()
        assert world.prepare().failed == {}
        manifest = world.open().manifest
        assert (manifest.failed, manifest.provisional) == ((), ())
        assert (FIRST in manifest.dates) == (dataset == "tolerated")
        assert world.open().statistics.sources[0][0] == (FIRST if dataset == "tolerated" else dt.date(2024, 3, 2))
        world.tree["pipeline"]["source"]["max_bad_fraction"] = 0
        world.tree["pipeline"]["exclude"] = []


def test_a_rerun_that_fails_keeps_the_dates_older_shard(world: Any) -> None:
    before = world.open().manifest
    world.dump(FIRST).write_text("")
    assert list(world.prepare().failed) == [FIRST]
    after = world.open().manifest
    assert after.dates == before.dates
    assert (after.failed, after.provisional) == ((FIRST,), ())
    world.write(FIRST)
    assert world.prepare().failed == {}
    assert world.open().manifest == before
