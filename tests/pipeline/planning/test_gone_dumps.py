"""Dates whose dump is gone, and copies that a mend leaves beside damaged folders."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dateshard.shardstore.errors import DamagedError
from dateshard.shardstore.scaling.partials import PartialStatistics
from dateshard.shardstore.scaling.statistics import Statistics

Make = Callable[..., Any]


@pytest.mark.parametrize("change", ["aggregate", "step", "feature"])
def test_a_gone_dump_measured_with_other_settings_leaves_the_dataset_and_is_told(make_world: Make, change: str) -> None:
    world = make_world(5)
    world.prepare()
    gone = sorted(world.rows)[1]
    world.dump(gone).unlink()
    features = world.tree["pipeline"]["features"]
    if change == "aggregate":
        features["speed"]["aggregate"] = "count"
    elif change == "step":
        world.tree["pipeline"]["step"] = "30m"
    else:
        features["more"] = {"column": "speed", "aggregate": "last"}
    finished = world.prepare()
    assert list(finished.failed) == [gone]
    assert "its dump is gone" in str(finished.failed[gone])
    dataset = world.open()
    assert gone not in dataset.manifest.dates
    assert gone not in [date for date, _ in dataset.statistics.sources]
    assert not [error for _, error in dataset.verify(full=True) if error]


def test_a_gone_dump_follows_a_change_of_scale_from_its_staged_array(make_world: Make) -> None:
    world = make_world(4)
    world.prepare()
    gone = sorted(world.rows)[1]
    world.dump(gone).unlink()
    world.tree["pipeline"]["features"]["speed"]["fill_limit"] = 1
    assert world.prepare().failed == {}
    assert gone in world.open().manifest.dates


def test_changed_fractions_are_resolved_again_and_grown_data_keep_theirs(make_world: Make) -> None:
    world = make_world(10, split={"train": 0.5, "validation": 0.5})
    world.prepare()
    first = world.open().manifest.split
    world.tree["pipeline"]["split"] = {"train": 0.8, "validation": 0.2}
    world.prepare()
    dates = sorted(world.rows)
    assert world.open().manifest.split["train"] == ((dates[0], dates[7]),) != first["train"]


def test_a_mended_copy_serves_the_generation_that_names_the_damaged_one(make_world: Make) -> None:
    world = make_world(3)
    world.prepare()
    before = world.open()
    day = before.days[1]
    whole = np.empty((day.num_steps, 3, 2), dtype=np.float32)
    before.read(day.date, slice(None), whole)
    shard = world.store / "shards" / str(day.date) / before.manifest.dates[day.date].parts[0].id
    chunk = shard / "values" / "0.0.0"
    chunk.chmod(0o644)
    data = bytearray(chunk.read_bytes())
    data[5] ^= 1
    chunk.write_bytes(data)
    out = np.empty_like(whole)
    with pytest.raises(DamagedError):
        world.open(before.generation).read(day.date, slice(None), out)
    world.prepare(dates=frozenset({day.date}), force=True)
    old = world.open(before.generation)
    assert world.open().generation > old.generation
    old.read(day.date, slice(None), out)
    assert np.array_equal(out, whole)
    assert np.array_equal(np.asarray(old.map(day.date)), whole)


def test_a_deviation_of_rounding_alone_is_that_of_a_constant() -> None:
    values = np.full((24, 1, 1), (0.1 + 0.1 + 0.1) / 3)
    values[::2] = 0.1
    partial = PartialStatistics.of(values)
    day = dt.date(2024, 1, 1)
    assert Statistics.of(["a"], [(day, partial)]).scale([("zscore", "feature")]).spread_NF.item() == 1.0
    spread = PartialStatistics.of(1e9 + 1e-3 * np.random.default_rng(0).normal(size=(24, 1, 1)))
    assert Statistics.of(["a"], [(day, spread)]).scale([("zscore", "feature")]).spread_NF.item() < 2e-3


def test_nodes_that_training_never_saw_are_told(make_world: Make) -> None:
    world = make_world(4)
    last = sorted(world.rows)[-1]
    world.rows[last] = [(t, "new" if node == "n0" else node, s, v) for t, node, s, v in world.rows[last]]
    world.write(last)
    told = world.run("preprocess", "-c", str(world.config_file())).stdout
    assert f"unknown nodes are left out: up to 1 on {last}" in told


def test_commits_are_grouped_and_each_is_a_whole_generation(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from dateshard.pipeline.execution import normalising

    monkeypatch.setattr(normalising, "GROUP_DATES", 2)
    world = make_world(5)
    world.prepare()
    assert world.open().generation == 3
    assert [len(world.open(number).manifest.dates) for number in (1, 2, 3)] == [2, 4, 5]
    assert not [error for _, error in world.open(1).verify() if error]


def test_a_dump_that_changes_while_it_is_read_is_refused(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from dateshard.pipeline.raw import decode as decoding
    from dateshard.pipeline.raw.decode import decode as real

    world = make_world(3)
    first = sorted(world.rows)[0]

    def decode(files: Any, *rest: Any, **more: Any) -> Any:
        decoded = real(files, *rest, **more)
        (path,) = files
        if path == world.dump(first):
            path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[-1])
        return decoded

    monkeypatch.setattr(decoding, "decode", decode)
    failed = world.prepare().failed
    assert list(failed) == [first]
    assert "changed while it was read" in str(failed[first])
