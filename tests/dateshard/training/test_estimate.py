"""estimate: its figures are those of the readers that a training then opens, and `auto` takes what the budget holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from dateshard.cli import run
from dateshard.trainer.setup import make_session

SPLIT = {"train": "2024-03-01..2024-03-07", "validation": "2024-03-08"}
LOADING = {"policy": "blocks"}


@pytest.fixture
def world(make_world: Callable[..., Any]) -> Any:
    made = make_world(8, split=SPLIT, loading=LOADING, window={"history": 3, "horizon": 1})
    made.prepare()
    made.config_file()
    return made


def told(capsys: pytest.CaptureFixture[str], *overrides: str) -> dict[str, Any]:
    assert run(["estimate", "-c", "config.yaml", "--json", *overrides]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def reader_of(world: Any, **loading: Any) -> Any:
    """The reader that a training with these settings opens."""
    world.tree["trainer"]["loading"] = {**LOADING, **loading}
    return make_session(world.settings.trainer, world.open(), world.folder / "checkpoints").train


def test_the_table_tells_what_readers_then_take(world: Any, capsys: pytest.CaptureFixture[str]) -> None:
    table = told(capsys)["table"]
    assert [row["days"] for row in table] == [1, 2, 3, 4, 7]
    for row in table[:-1]:
        reader = reader_of(world, days_per_batch=row["days"])
        assert reader.resident_bytes == row["resident_bytes"]
        assert -(-7 // row["days"]) == row["blocks"]
    assert reader_of(world, shuffle="global").resident_bytes == table[-1]["resident_bytes"]
    assert table[0]["reading"] > table[-1]["reading"]


def test_auto_takes_the_most_days_that_the_budget_holds(world: Any, capsys: pytest.CaptureFixture[str]) -> None:
    two = told(capsys)["table"][1]["resident_bytes"]
    found = [reader_of(world, days_per_batch="auto", memory_budget=budget) for budget in (two, two - 1, 10**9)]
    blocks = [(r.order.runs[0].last_day - r.order.runs[0].first_day) * (r.order.runs_per_block or 1) for r in found]
    assert blocks == [2, 1, 7]
    assert all(reader.resident_bytes <= budget for reader, budget in zip(found, (two, two - 1, 10**9), strict=True))
    assert told(capsys, "trainer.loading.days_per_batch=auto", f"trainer.loading.memory_budget={two}")["shuffle"] == (
        "runs of 1 day, 2 a block"
    )


def test_counts_are_those_of_the_training(world: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "trainer.training.accumulate=4", "trainer.checkpoint.save_freq=2")
    reader = reader_of(world)
    assert found["windows"]["train"] == reader.order.num_windows
    assert found["batches"] == reader.order.num_batches == 11
    assert found["steps_an_epoch"] == 3
    assert found["checkpoints"]["an_epoch"] == 6
    assert 3 * 4 * found["parameters"] < found["memory"]["snapshot"] <= found["checkpoints"]["bytes_each"]
    window_bytes = 4 * 3 * 2 * 4
    assert found["all_windows_in_memory"] == sum(found["windows"].values()) * window_bytes


def test_people_read_a_table(world: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["estimate", "-c", "config.yaml", "trainer.loading.memory_budget=10kB"]) == 0
    out = capsys.readouterr().out
    assert "days\tblocks\tresident\tread\twithin 10.0 kB\torder" in out
    assert "all 7\t1\t" in out
    assert "it fits" in out
