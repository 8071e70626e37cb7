"""A step that is shorter than the spacing of the records is told, with the one that fits."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dateshard.cli import run
from dateshard.shardstore.coverage.spacing import spelled, steps_apart

SECOND = 10**9


def seen_at(steps: list[int], length: int = 288, nodes: int = 3) -> np.ndarray:
    seen = np.zeros((length, nodes), dtype=bool)
    seen[steps] = True
    return seen


def test_the_distance_of_observed_cells_is_found_through_holes_and_jitter() -> None:
    generator = np.random.default_rng(0)
    hourly = seen_at([*range(0, 288, 12)])
    assert steps_apart(hourly) == 12
    assert steps_apart(hourly & (generator.random(hourly.shape) > 0.3)) == 12
    jittered = [12 * hour + int(generator.integers(-1, 2)) for hour in range(1, 24)]
    assert steps_apart(seen_at(jittered)) in (11, 12)
    assert steps_apart(seen_at([5])) is None


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4, 0.8, 1.0])
def test_cells_at_no_regular_distance_say_nothing(share: float) -> None:
    assert steps_apart(np.random.default_rng(1).random((288, 20)) < share) == 1


@pytest.mark.parametrize(
    ("seconds", "text"), [(300, "5m"), (3600, "1h"), (86_400, "1d"), (5400, "90m"), (0.5, "500ms")]
)
def test_a_spacing_is_spelled_as_a_step(seconds: float, text: str) -> None:
    assert spelled(int(seconds * SECOND)) == text


@pytest.fixture
def world(make_world: Callable[..., Any]) -> Any:
    """Three dates of hourly records."""
    made = make_world(3, missing=0.0, training={"epochs": 1, "batch_size": 64})
    for date, rows in made.rows.items():
        made.rows[date] = [row for row in rows if row[0] // SECOND % 3600 == 0]
        made.write(date)
    made.tree["pipeline"]["features"] = {"speed": {}, "rows": {"aggregate": "count"}}
    return made


def test_hourly_records_in_steps_of_five_minutes_are_told_everywhere(
    world: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    world.tree["pipeline"]["step"] = "5m"
    config = str(world.config_file())
    told = "8 % of the cells are observed: records come every 1h, and a step is 5m. Set pipeline.step: 1h"
    for words in (["preprocess", "--workers", "1"], ["preprocess"], ["plan"], ["status"], ["inspect"]):
        assert run([*words, "-c", config]) == 0
        assert told in capsys.readouterr().out, words
    for words, key in ((["preprocess"], "notes"), (["plan"], "warnings"), (["inspect"], "warnings")):
        assert run([*words, "-c", config, "--json"]) == 0
        assert told in json.loads(capsys.readouterr().out)[key]


@pytest.mark.parametrize("step", ["1h", "2h"])
def test_a_step_that_fits_is_not_told(world: Any, step: str, capsys: pytest.CaptureFixture[str]) -> None:
    world.tree["pipeline"]["step"] = step
    assert run(["preprocess", "--workers", "1", "-c", str(world.config_file())]) == 0
    assert "pipeline.step" not in capsys.readouterr().out


def test_one_record_a_day_wants_a_step_of_a_day(world: Any) -> None:
    for date, rows in world.rows.items():
        world.rows[date] = rows[:3]
        world.write(date)
    assert world.prepare().short_step.endswith("records come every 1d, and a step is 1h. Set pipeline.step: 1d")


def test_a_feature_that_comes_more_seldom_than_another_is_not_told(world: Any) -> None:
    world.tree["pipeline"]["features"] = {"speed": {}, "volume": {"column": "vehicles", "aggregate": "sum"}}
    for date, rows in world.rows.items():
        world.rows[date] = [(at, n, s if at // SECOND % 14400 == 0 else None, v) for at, n, s, v in rows]
        world.write(date)
    assert world.prepare().short_step == ""
    assert dt.date(2024, 3, 1) in world.open().manifest.dates
