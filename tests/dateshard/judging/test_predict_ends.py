"""A history ends at its last observed step, wherever it is read from; what it says nothing of has no interval."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from typing import Any

import pytest

from dateshard.cli import run
from tests.conftest import World, build_world

Run = Callable[..., Any]
DAYS = [dt.date(2024, 3, day) for day in range(1, 8)]
LAST = DAYS[-1]
HOUR = 3600 * 10**9
FEATURES: dict[str, Any] = {
    "speed": {},
    "volume": {"column": "vehicles", "aggregate": "sum"},
    "rows": {"aggregate": "count"},
}


def hour(row: Any) -> int:
    return int(row[0] // HOUR % 24)


def unfinished(rows: list[Any]) -> list[Any]:
    """Up to 20 o'clock, and then rows without a value, as a template of the day has them."""
    return [row for row in rows if hour(row) < 20]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Seven dates and a run trained on the first five. Of the last two n1 has no row, and n2 no speed; the last ends at 20."""
    folder = tmp_path_factory.mktemp("ends")
    split = {"train": "..2024-03-04", "validation": "2024-03-05"}
    trainer = {"window": {"history": 12, "horizon": 3}, "model": {"name": "nlinear"}, "training": {"epochs": 1}}
    world = build_world(folder, len(DAYS), split=split, missing=0.0, **trainer)
    world.tree["pipeline"]["features"] = FEATURES
    for date in DAYS[-2:]:
        rows = [(at, node, None if node == "n2" else speed, volume) for at, node, speed, volume in world.rows[date]]
        world.rows[date] = [row for row in rows if row[1] != "n1"]
        world.rows[date] = unfinished(world.rows[date]) if date == LAST else world.rows[date]
        world.write(date)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        world.config_file()
        assert run(["preprocess", "-c", "config.yaml", "--workers", "1", "-q"]) == 0
        assert run(["train", "-c", "config.yaml", "--run", "a", "-q"]) == 0
    return world


@pytest.fixture
def here(prepared: World, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(prepared.folder)
    return prepared


def test_a_day_that_is_not_over_ends_at_its_last_observed_step_wherever_it_is_read_from(here: World, ds: Run) -> None:
    latest = ds("predict", "a", "--at", "latest", "--json")
    dumps = ds("predict", "a", "--history", "raw/{date}.csv", "--json")
    assert latest.document["first_forecast"] == dumps.document["first_forecast"] == "2024-03-07T20:00:00+00:00"
    assert latest.document["forecasts"] == dumps.document["forecasts"]
    assert "The last value is of 2024-03-07T19:00:00+00:00" in latest.err
    assert "--at 2024-03-08: the date is over" in latest.err
    over = ds("predict", "a", "--at", "2024-03-08", "--json").document
    assert over["first_forecast"] == "2024-03-08T00:00:00+00:00"
    until = ds("predict", "a", "--history", "raw/{date}.csv", "--until", "2024-03-07", "--json").document
    assert until["forecasts"] == over["forecasts"]


def test_rows_without_a_value_do_not_reach_a_history_further(here: World, tmp_path: Any, ds: Run) -> None:
    """A template of the whole day, filled in as it goes; a date after it of which nothing is filled in yet."""
    for date in DAYS:
        (tmp_path / f"{date}.csv").write_text(here.dump(date).read_text())
    blank = [f"2024-03-07T{at}:00:00Z,n0,,\n" for at in (20, 21, 22, 23)]
    (tmp_path / f"{LAST}.csv").write_text(here.dump(LAST).read_text() + "".join(blank))
    (tmp_path / "2024-03-08.csv").write_text("time,node,speed,vehicles\n2024-03-08T00:00:00Z,n0,,\n")
    uncounted = {name: feature for name, feature in FEATURES.items() if name != "rows"}
    pipeline = here.tree["pipeline"] | {"features": uncounted}
    (tmp_path / "two.yaml").write_text(json.dumps(here.tree | {"dataset": "two", "pipeline": pipeline}))
    assert run(["preprocess", "-c", str(tmp_path / "two.yaml"), "--workers", "1", "-q"]) == 0
    assert run(["train", "-c", str(tmp_path / "two.yaml"), "--run", "two", "-q"]) == 0
    found = ds("predict", "two", "--history", str(tmp_path / "{date}.csv"), "--json").document
    assert found["first_forecast"] == "2024-03-07T20:00:00+00:00"
    empty = ds("predict", "two", "--history", str(tmp_path / "2024-03-08.csv"), code=65)
    assert "no cell was observed in it" in empty.err


def test_what_the_history_says_nothing_of_is_named_and_has_no_interval(here: World, ds: Run) -> None:
    done = ds("predict", "a", "--at", "latest", "--json")
    assert done.document["history"]["silent_nodes"] == {"speed": ["n1", "n2"], "volume": ["n1"], "rows": ["n1"]}
    assert "2 nodes have no value of speed in the history: n1, n2." in done.err
    assert "1 node has no value of volume, rows in the history: n1." in done.err
    for row in done.document["forecasts"]:
        silent = row["node"] in done.document["history"]["silent_nodes"].get(row["feature"], [])
        assert row["value"] is not None
        assert (row["low"] is None) == (row["high"] is None) == silent, row


def test_a_target_that_is_no_input_is_known_where_any_input_is(here: World, ds: Run) -> None:
    given = ["trainer.targets=[rows]", "trainer.inputs=[speed, rows]", "trainer.model={name: mlp, hidden_units: [4]}"]
    assert run(["train", "-c", "config.yaml", "--run", "own", "-q", *given]) == 0
    assert ds("predict", "own", "--at", "latest", "--json").document["history"]["silent_nodes"] == {"rows": ["n1"]}
    given = ["trainer.targets=[volume]", "trainer.inputs=[speed, rows]", given[-1]]
    assert run(["train", "-c", "config.yaml", "--run", "other", "-q", *given]) == 0
    told = ds("predict", "other", "--at", "latest", "--json").document["history"]["silent_nodes"]
    assert told == {"volume": ["n1", "n2"]}
