"""What plan and preprocess say of the frozen statistics: which dates they still include, and whether they will move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import World

Run = Callable[..., Any]
SPLIT = {"train": "..2024-03-04", "validation": "2024-03-05.."}
STILL = (
    "The frozen statistics still include 2024-03-02, which is in no split any more; --refit-statistics takes it out."
)
CONFIG = ("-c", "config.yaml")
NO_OTHER = "only if the merged statistics differ from the frozen ones"


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    made = make_world(6, split=SPLIT, missing=0.6)
    made.prepare()
    made.config_file()
    return made


def damage(world: World, name: str) -> None:
    date = sorted(world.rows)[1]
    (file,) = (world.store / "shards" / str(date) / world.open().manifest.dates[date].parts[0].id).glob(name)
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"x")


@pytest.mark.parametrize("how", ["excluded", "gone", "of no range"])
def test_a_date_that_left_is_told_as_long_as_the_statistics_rest_on_it(world: World, ds: Run, how: str) -> None:
    assert "still include" not in ds("plan", *CONFIG).out
    if how == "of no range":
        ranges = ["2024-03-01", "2024-03-03..2024-03-04"]
        world.tree["pipeline"]["split"] = {**SPLIT, "train": ranges}
    else:
        world.tree["pipeline"]["exclude"] = ["2024-03-02"]
    world.config_file()
    ds("preprocess", *CONFIG)
    if how == "gone":
        world.dump(sorted(world.rows)[1]).unlink()
        world.tree["pipeline"]["exclude"] = []
        world.config_file()
    for command in ("plan", "preprocess", "status"):
        assert STILL in ds(command, *CONFIG).out
    assert STILL in ds("status", *CONFIG, "--json").document["warnings"]
    refit = ds("plan", *CONFIG, "--refit-statistics").out
    assert "still include" not in refit
    assert NO_OTHER not in refit  # they will: they are merged over other dates
    ds("preprocess", *CONFIG, "--refit-statistics")
    assert "still include" not in ds("plan", *CONFIG).out


def test_an_excluded_date_is_told_before_it_leaves(world: World, ds: Run) -> None:
    assert STILL in ds("plan", *CONFIG, "pipeline.exclude=[2024-03-02]").out


def test_a_refit_that_changes_nothing_is_promised_with_an_if(world: World, ds: Run) -> None:
    planned = ds("plan", *CONFIG, "--refit-statistics").out
    assert f"0 dates to measure, up to 6 to normalise ({NO_OTHER}).\n" in planned
    assert "writes at most about " in planned
    done = ds("preprocess", *CONFIG, "--refit-statistics").out
    assert f"dataset world: 0 dates to measure, up to 6 to normalise ({NO_OTHER})\n" in done
    assert done.endswith("nothing to do: generation 1, 6 dates fresh\n")
    validation, training = sorted(world.rows)[5], sorted(world.rows)[0]
    world.rows[validation].pop()
    world.write(validation)
    some = f"1 date to measure, up to 6 to normalise (5 of them {NO_OTHER}).\n"
    assert some in ds("plan", *CONFIG, "--refit-statistics").out
    world.rows[training].pop()
    world.write(training)
    assert "2 dates to measure, 6 to normalise.\n" in ds("plan", *CONFIG, "--refit-statistics").out


def test_a_refit_leaves_the_shard_of_a_gone_dump_as_it_is_and_force_mends_it(world: World, ds: Run) -> None:
    world.dump(sorted(world.rows)[1]).unlink()
    again = ds("preprocess", *CONFIG, "--refit-statistics")
    assert again.out.endswith("nothing to do: generation 1, 5 dates fresh, 1 whose dump is gone\n")
    assert ds("preprocess", *CONFIG, "--refit-statistics", "--json").document["unchanged"] == 0
    assert f"up to 6 to normalise ({NO_OTHER})" in ds("plan", *CONFIG, "--refit-statistics").out
    damage(world, "values/0.0.0")
    assert "1 damaged" in ds("verify", *CONFIG, code=4).out
    assert "1 shard written" in ds("preprocess", "2024-03-02", "--force", *CONFIG).out
    assert "0 damaged" in ds("verify", *CONFIG).out
