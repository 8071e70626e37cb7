"""Training dates of which nothing was observed: refused where that is all, said where it is one feature or some nodes."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dateshard.cli import run
from dateshard.shardstore.commit import StoreWriter, load_sources

SPLIT = {"train": "..2024-03-02", "validation": "2024-03-03"}
TRAIN = [dt.date(2024, 3, 1), dt.date(2024, 3, 2)]
NOTHING = "no value of any feature (speed, volume) was observed in the training data (2024-03-01..2024-03-02)"


@pytest.fixture
def world(make_world: Callable[..., Any]) -> Any:
    return make_world(3, split=SPLIT, training={"epochs": 1, "batch_size": 64})


def without(world: Any, *names: str, nodes: tuple[str, ...] = ("n0", "n1", "n2"), dates: list[dt.date] = TRAIN) -> None:
    """Writes dates of which the given features have no value at the given nodes."""
    for date in dates:
        lines = ["time,node,speed,vehicles\n"]
        for at, node, speed, volume in world.rows[date]:
            time = dt.datetime.fromtimestamp(at / 1e9, dt.UTC).isoformat()
            bare = node in nodes
            lines.append(
                f"{time},{node},{'' if speed is None or (bare and 'speed' in names) else speed},"
                f"{'' if bare and 'volume' in names else volume}\n"
            )
        world.dump(date).write_text("".join(lines))


def prepare(world: Any, *words: str) -> int:
    return run(["preprocess", "-c", str(world.config_file()), "--workers", "1", *words])


def test_training_dates_without_any_value_are_refused_and_nothing_is_committed(
    world: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    without(world, "speed", "volume")
    rows = sum(len(world.rows[date]) for date in TRAIN)
    assert prepare(world) == 65
    told = capsys.readouterr().err
    assert told.startswith(
        f"Error: {world.dump(TRAIN[0])}: {NOTHING}: {rows:,} rows of them are kept, and none holds one."
    )
    for cause in ("pipeline.features", "source.csv.missing", "outside", "wide.value"):
        assert cause in told
    assert "dateshard preprocess" in told
    assert told.count("\n") == 1
    assert not list(world.store.glob("manifests/*"))
    assert prepare(world) == 65  # what was measured is found again, and no more is said of it
    assert NOTHING in capsys.readouterr().err
    assert run(["train", "-c", str(world.config_file())]) == 4
    for date in TRAIN:
        world.write(date)
    assert prepare(world) == 0
    assert "no value" not in capsys.readouterr().out


def test_what_made_the_values_missing_is_counted(world: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("speed", "volume"):
        world.tree["pipeline"]["features"][name] |= {"range": [1000, 2000], "outside": "null"}
    assert prepare(world) == 65
    told = capsys.readouterr().err
    assert " values were outside of the declared range [1000, 2000]: made missing" in told


@pytest.mark.parametrize("words", [(), ("--refit-statistics",), ("--force",)])
def test_a_rerun_that_leaves_no_training_value_changes_no_generation(
    world: Any, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    world.prepare()
    without(world, "speed", "volume")
    assert prepare(world, *words) == 65
    assert NOTHING in capsys.readouterr().err
    assert world.open().generation == 1
    assert len(list(world.store.glob("manifests/*"))) == 2


def test_one_date_of_several_may_lose_its_values(world: Any, capsys: pytest.CaptureFixture[str]) -> None:
    world.prepare()
    without(world, "speed", "volume", dates=TRAIN[:1])
    assert prepare(world, str(TRAIN[0])) == 0
    told = capsys.readouterr().out
    assert "nothing was observed on 2024-03-01" in told
    assert "on the training dates" not in told


def test_a_feature_without_a_training_value_is_said_whenever_preprocess_is_called(
    world: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    without(world, "speed")
    said = "no value of speed was observed in the training data (2024-03-01..2024-03-02): as a target train refuses it"
    for _ in range(2):
        assert prepare(world) == 0
        assert f"warning: {said}" in capsys.readouterr().out
    assert prepare(world, "--json") == 0
    assert any(said in note for note in json.loads(capsys.readouterr().out)["notes"])


def test_values_that_come_later_are_not_scaled_by_the_frozen_statistics_and_that_is_said(
    world: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    without(world, "speed")
    world.prepare()
    world.write(TRAIN[0])
    assert prepare(world) == 0
    said = "the frozen statistics hold no value of speed, so it is not scaled, though the training data has it now"
    told = capsys.readouterr().out
    assert f"warning: {said}. Run: dateshard preprocess --refit-statistics -c {world.config_file()}" in told
    assert "no value of speed was observed" not in told
    assert prepare(world, "--refit-statistics") == 0
    assert said not in capsys.readouterr().out


def test_nodes_without_a_training_value_are_counted_where_each_has_its_own_scale(
    world: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    without(world, "speed", nodes=("n1", "n2"))
    without_scale = "speed has no value in the training data at 2 of 3 nodes: they are scaled as all nodes together"
    assert prepare(world) == 0
    assert without_scale not in capsys.readouterr().out
    world.tree["pipeline"]["features"]["speed"]["scale_per"] = "node"
    assert prepare(world) == 0
    assert f"warning: {without_scale}" in capsys.readouterr().out


def test_counts_observe_what_holds_no_value(world: Any) -> None:
    world.tree["pipeline"]["features"] = {"speed": {}, "rows": {"aggregate": "count"}}
    without(world, "speed")
    finished = world.prepare()
    assert finished.unobserved[0].startswith("no value of speed was observed")
    assert finished.failed == {}


def test_a_store_of_an_older_version_without_any_training_value_says_so_and_goes_on(
    world: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dateshard.pipeline.execution import merging

    without(world, "speed", "volume")
    with monkeypatch.context() as before:
        before.setattr(merging, "refuse_nothing_observed", lambda *_: None)
        assert world.prepare().generation == 1
    said = "warning: no value of speed, volume was observed in the training data"
    assert prepare(world) == 0
    assert said in capsys.readouterr().out
    sources = load_sources(world.store, 1)
    bare = {date: row._replace(observed=None, weight=None) for date, row in sources.dates.items()}
    sources = replace(sources, dates=bare)  # as a version before 0051 wrote it
    with StoreWriter(world.store) as writer:
        writer.commit(world.open().manifest, sources, writer.current()[0])
    assert prepare(world) == 0
    assert said in capsys.readouterr().out  # by the statistics alone
