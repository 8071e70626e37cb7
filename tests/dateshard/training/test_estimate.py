"""estimate: its figures are those of the readers that a training then opens, and `auto` takes what the budget holds."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dateshard.cli import run
from dateshard.trainer.setup import make_session
from tests.kit.events import FIRST, NS, event_world, in_order, make_records

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
    assert [row["days"] for row in table] == [1, 2, 3, 7]  # two buffers of 4 days and 3 save nothing
    for row in table[:-1]:
        reader = reader_of(world, days_per_batch=row["days"])
        assert reader.resident_bytes == row["resident_bytes"]
        assert -(-7 // row["days"]) == row["blocks"]
    assert reader_of(world, shuffle="global").resident_bytes == table[-1]["resident_bytes"]
    assert all(row["resident_bytes"] < table[-1]["resident_bytes"] for row in table[:-1])
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


def test_windows_whose_interval_overflows_are_told_of_each_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dates = [FIRST + dt.timedelta(days=day) for day in range(3)]
    records = {date: make_records(date, 40, ("a", "b"), 5) for date in dates}
    split = {"train": f"{dates[0]}..{dates[1]}", "validation": str(dates[2])}
    made = event_world(
        tmp_path, records, cut=True, split=split, window={"history": "2h", "most": 2, "horizon": 1}, loading=LOADING
    )
    made.config_file()
    assert not made.prepare().failed
    monkeypatch.chdir(tmp_path)
    lengths: dict[str, list[int]] = {"train": [], "validation": []}
    for date in dates:
        rows = in_order(records[date], cut=True)
        for place, row in enumerate(rows):
            before = [other for other in rows[:place] if other.cut == row.cut and other.time >= row.time - 7200 * NS]
            lengths["validation" if date == dates[2] else "train"] += [len(before)] if before else []
    document = told(capsys)
    for name, of in lengths.items():
        more = sum(length > 2 for length in of)
        assert 0 < more < len(of) == document["windows"][name]
        assert document["overflow"][name] == {"windows": more, "share": more / len(of)}
    assert run(["estimate", "-c", "config.yaml"]) == 0
    train = document["overflow"]["train"]
    shown = capsys.readouterr().out
    assert "windows of\tmore than 2 records in 2h\tshare" in shown
    assert f"train\t{train['windows']}\t{100 * train['share']:.1f} %" in shown
    assert all(row["windows"] == 0 for row in told(capsys, "trainer.window.most=40")["overflow"].values())
    counted = told(capsys, "trainer.window={history: 2, most: null, horizon: 1}")
    assert counted["overflow"] is None
