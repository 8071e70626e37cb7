"""Records of events and of tables that are decoded from their dumps: equal to shards, and trained on as they are."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dateshard
from dateshard.pipeline.recent.dates_from_dumps import open_dumps
from dateshard.shardstore.errors import NoRowsError, UsageError
from tests.dateshard.training.test_training_from_dumps import trained
from tests.kit.events import event_world, make_records
from tests.pipeline.recent.test_dates_from_dumps import same

DATES = [dt.date(2024, 3, 1) + dt.timedelta(days=day) for day in range(4)]
BY_DATE = {"train": "..2024-03-02", "validation": "2024-03-03", "test": "2024-03-04"}
SCALED: dict[str, Any] = {"value": {"scale": "zscore"}}
FROM_DUMPS = {"policy": "streaming", "from_dumps": True}


def records_world(folder: Path, kind: str, split: Any = BY_DATE, **trainer: Any) -> Any:
    """Four dates of records: `events`, events in `sessions`, or a dated `table`."""
    records = {date: make_records(date, 60, ("a", "b", "c"), 1) for date in DATES}
    rows = {"window": {"history": 1, "horizon": 0}, "inputs": ["value"], "targets": ["value"]}
    trainer |= rows if kind == "table" else {}
    world = event_world(folder, records, cut=kind == "sessions", features=SCALED, split=split, **trainer)
    if kind == "table":
        world.tree["pipeline"]["layout"] = "table"
    return world


@pytest.mark.parametrize("kind", ["events", "sessions", "table"])
def test_records_from_dumps_are_those_of_the_shards(tmp_path: Path, kind: str) -> None:
    world = records_world(tmp_path, kind)
    mine = open_dumps("world", world.settings.preparing(), world.store, num_workers=1)
    world.prepare()
    shards = world.open()
    assert mine.statistics.id == shards.statistics.id
    same(mine, shards)
    for day in shards.days:
        ours, theirs = mine.cuts(day), shards.cuts(day)
        assert (ours.starts.tolist(), ours.names) == (theirs.starts.tolist(), theirs.names)
        assert np.array_equal(mine.times(day), shards.times(day))


@pytest.mark.parametrize(
    ("kind", "split"),
    [("sessions", {"by": "session", "train": ["a", "b"], "validation": ["c"]}), ("table", BY_DATE)],
)
def test_a_run_trains_on_records_without_a_shard_as_on_their_shards(tmp_path: Path, kind: str, split: Any) -> None:
    world = records_world(tmp_path, kind, split, loading=FROM_DUMPS)
    late = world.dump(DATES[3] if kind == "sessions" else DATES[1])
    text = late.read_text()
    late.unlink()
    world.prepare()
    late.write_text(text)
    dumps, judged = trained(world, "dumps"), figures("dumps", kind)
    assert dateshard.Run("dumps").replay(3).document["equal"] is None  # of a run that wrote no metrics
    world.prepare()
    world.tree["trainer"]["loading"] = {"policy": "streaming"}
    shards = trained(world, "shards")
    assert all(torch.equal(dumps[key], shards[key]) for key in dumps)
    assert figures("shards", kind) == judged


def figures(name: str, kind: str) -> list[Any]:
    """What evaluate says of a run, and of sessions what comes next."""
    run = dateshard.Run(name)
    ahead = run.predict().to_dicts() if kind == "sessions" else []
    return [run.evaluate("validation").document["rows"], ahead]


def test_a_dump_of_records_that_holds_none_is_named_or_left_out_as_in_preprocess(tmp_path: Path) -> None:
    world = records_world(tmp_path, "events", loading=FROM_DUMPS)
    late = world.dump(DATES[3])
    late.unlink()
    world.prepare()
    late.write_text("time,session,value\n")
    with pytest.raises(NoRowsError, match=r"2024-03-04\.csv"):
        open_dumps("world", world.settings.preparing(), world.store)
    world.tree["pipeline"]["source"]["empty_date"] = "drop"
    assert len(open_dumps("world", world.settings.preparing(), world.store).days) == 3


def test_statistics_are_not_measured_where_records_are_divided(tmp_path: Path) -> None:
    world = records_world(tmp_path, "sessions", {"by": "session", "train": 0.7, "test": 0.3})
    with pytest.raises(UsageError, match=r"pipeline\.split\.by: session.*preprocess"):
        open_dumps("world", world.settings.preparing(), world.store)
