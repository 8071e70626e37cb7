"""A number that often stands for a missing value is named, with the keys that read it, and only where it is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dateshard.cli import run

SPLIT = {"train": "..2024-03-02", "validation": "2024-03-03"}


def prepared(world: Any, capsys: pytest.CaptureFixture[str]) -> str:
    assert run(["preprocess", "-c", str(world.config_file()), "--workers", "1"]) == 0
    return capsys.readouterr().out


def test_a_sentinel_among_the_training_values_is_warned_of_until_it_is_named_as_missing(
    make_world: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    world = make_world(3, split=SPLIT, missing=0)
    world.tree["pipeline"]["features"] = {name: {"column": "speed", "aggregate": "min"} for name in ("speed", "other")}
    assert "often means" not in prepared(world, capsys)
    header, first, *rest = world.dump(min(world.rows)).read_text().splitlines()
    fields = first.split(",")
    fields[header.split(",").index("speed")] = "-9999.0"
    world.dump(min(world.rows)).write_text("\n".join([header, ",".join(fields), *rest, ""]))
    world.tree["pipeline"]["source"]["duplicates"] = "last"
    world.tree["dataset"] = "second"
    said = prepared(world, capsys)
    assert said.count("often means that there is none") == 1
    assert "warning: -9999 stands among the training values of speed, other, and often" in said
    assert 'set pipeline.source.csv.missing: ["", "-9999"]' in said
    world.tree["pipeline"]["source"]["csv"] = {"missing": ["", "-9999.0"]}
    world.tree["dataset"] = "third"
    assert "often means" not in prepared(world, capsys)


@pytest.mark.parametrize(("most", "named"), [(998, False), (999, True), (20, False)])
def test_a_positive_one_is_named_only_where_it_is_far_from_all_others(
    make_world: Callable[..., Any], capsys: pytest.CaptureFixture[str], most: int, named: bool
) -> None:
    world = make_world(3, split=SPLIT, missing=0)
    world.tree["pipeline"]["features"] = {"volume": {"column": "vehicles", "aggregate": "max"}}
    header, first, *rest = world.dump(min(world.rows)).read_text().splitlines()
    fields = first.split(",")
    fields[header.split(",").index("vehicles")] = str(most)
    world.dump(min(world.rows)).write_text("\n".join([header, ",".join(fields), *rest, ""]))
    assert ("999 stands among" in prepared(world, capsys)) is named


def test_a_range_that_ends_at_nines_is_no_sentinel(
    make_world: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    world = make_world(3, split=SPLIT, missing=0)
    world.tree["pipeline"]["features"] = {"volume": {"column": "vehicles", "range": [999, None], "outside": "clip"}}
    assert "often means" not in prepared(world, capsys)  # a constant, at 999
