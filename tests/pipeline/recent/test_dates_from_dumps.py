"""Dates that are decoded from their dumps when they are read: equal to shards of preprocess, and nothing is written."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dateshard.pipeline.recent import dates_from_dumps
from dateshard.pipeline.recent.dates_from_dumps import DumpDataset, open_dumps
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import DumpError, FailedDatesError, UsageError

SPLIT = {"train": "..2024-03-30", "validation": "2024-03-31", "test": "2024-04-01.."}
FEATURES: dict[str, Any] = {
    "speed": {"aggregate": "mean", "fill": "forward", "fill_limit": 3, "scale_per": "node"},
    "volume": {"column": "vehicles", "aggregate": "sum", "fill": "zero", "transform": "log1p"},
    "middle": {"column": "speed", "aggregate": "mean", "fill": "mean", "scale": "robust"},
    "most": {"column": "vehicles", "aggregate": "max", "scale": "minmax", "fill": "none", "clip": [-1.0, 1.0]},
    "rows": {"aggregate": "count", "scale": "none"},
    "kind": {"categorical": True},
}


@pytest.fixture
def world(make_world: Callable[..., Any]) -> Any:
    """Five dates around a day of 23 hours, with every kind of scale and fill; nothing is prepared."""
    made = make_world(5, first="2024-03-29", zone="Europe/Berlin", missing=0.6, split=SPLIT)
    made.tree["pipeline"]["features"] = FEATURES
    for date in made.rows:
        with_kinds(made, date)
    return made


def with_kinds(world: Any, date: dt.date) -> None:
    """Gives a date's rows a category each, some of which no other date has."""
    header, *lines = world.dump(date).read_text().splitlines()
    kinds = ["wet", "dry", f"only {date}", ""]
    rows = [f"{line},{kinds[number % 4]}" for number, line in enumerate(lines)]
    world.dump(date).write_text("\n".join([f"{header},kind", *rows]) + "\n")


def opened(world: Any, statistics: Dataset | None = None, name: str = "world") -> DumpDataset:
    return open_dumps(name, world.settings.preparing(), world.store, statistics, num_workers=1)


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same(mine: Dataset, shards: Dataset) -> None:
    assert [day.date for day in mine.days] == [day.date for day in shards.days]
    assert (mine.days, mine.segments, mine.nodes.names) == (shards.days, shards.segments, shards.nodes.names)
    for day in shards.days:
        for ours, theirs in zip(mine.read_day(day), shards.read_day(day), strict=True):
            assert ours.tobytes() == theirs.tobytes(), day.date
        written = shards.arrays(day.date)
        ours_too = mine.arrays(day.date, tuple(written))
        assert all(np.array_equal(ours_too[name], written[name]) for name in written)
    total = shards.segments[0].num_steps
    spans = []
    for dataset in (mine, shards):
        shape = (total + 7, dataset.manifest.num_nodes, len(dataset.features))
        values, observed = np.empty(shape, np.float32), np.empty(shape, np.bool_)
        codes, times = np.empty(total + 7, np.int32), np.empty(total + 7, np.int64)
        dataset.read_span(0, -7, total, values, observed, codes, times)
        spans.append([array.tobytes() for array in (values, observed, codes, times)])
    assert spans[0] == spans[1]


def test_one_pass_over_the_dumps_gives_the_bits_of_the_shards_and_writes_nothing(world: Any) -> None:
    before = files_of(world.folder)
    mine = opened(world)
    values = [mine.read_day(day) for day in mine.days]
    assert len(values) == 5
    assert files_of(world.folder) == before
    world.prepare()
    shards = world.open()
    assert mine.statistics.id == shards.statistics.id
    assert mine.manifest.split == shards.manifest.split
    same(mine, shards)


def test_what_a_preprocess_that_was_cut_off_measured_is_measured_by_the_pass_too(world: Any) -> None:
    world.prepare()
    shards = world.open()
    for path in (world.store / "CURRENT", *(world.store / "manifests").iterdir()):
        path.unlink()
    assert opened(world).statistics.id == shards.statistics.id


def test_dates_without_a_shard_are_scaled_as_the_committed_ones_which_are_mapped(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = [dt.date(2024, 3, 31), dt.date(2024, 4, 1), dt.date(2024, 4, 2)]
    texts = {date: world.dump(date).read_bytes() for date in late}
    for date in late:
        world.dump(date).unlink()
    world.prepare()
    for date in late:
        world.dump(date).write_bytes(texts[date])
    decoded, before = list[dt.date](), files_of(world.store)
    stage = dates_from_dumps.Raw.stage
    monkeypatch.setattr(
        dates_from_dumps.Raw, "stage", lambda self, date, *a: decoded.append(date) or stage(self, date, *a)
    )
    mine = opened(world)
    read = [mine.read_day(day) for day in mine.days]
    assert len(read) == 5
    assert decoded == late
    assert files_of(world.store) == before
    world.prepare()
    same(mine, world.open())


def test_a_dump_that_changed_since_it_was_prepared_is_decoded(world: Any) -> None:
    world.prepare()
    date = dt.date(2024, 4, 1)
    world.rows[date] = world.rows[date][:-5]
    world.write(date)
    with_kinds(world, date)
    mine = opened(world)
    assert list(mine.raw.dumps) == [date]
    world.prepare()
    same(mine, world.open())


def test_the_statistics_of_another_dataset_are_taken_where_they_are_given(world: Any) -> None:
    world.prepare()
    known = world.open()
    world.tree["dataset"] = "other"
    mine = opened(world, known, "other")
    assert len(mine.raw.dumps) == 5
    assert mine.manifest.dataset == "other"
    same(mine, known)


def test_statistics_of_other_settings_are_refused_with_the_command(world: Any) -> None:
    world.prepare()
    known = world.open()
    world.tree["pipeline"]["features"] = {**FEATURES, "speed": {"aggregate": "mean", "fill": "zero"}}
    with pytest.raises(UsageError, match="fill, transform"):
        opened(world, known)
    with pytest.raises(UsageError, match="preprocess"):
        opened(world)


def with_new_nodes(world: Any, date: dt.date) -> None:
    """Gives a date three nodes that no other date has."""
    world.rows[date] += [(instant, f"m{node}", speed, volume) for instant, node, speed, volume in world.rows[date]]
    world.write(date)
    with_kinds(world, date)


def test_nodes_that_training_never_saw_stand_where_preprocess_puts_them(world: Any) -> None:
    world.tree["pipeline"]["nodes"] = {"unknown": "keep"}
    with_new_nodes(world, dt.date(2024, 4, 1))
    mine = opened(world)
    assert mine.nodes.names == ("n0", "n1", "n2", "mn0", "mn1", "mn2")
    world.prepare()
    same(mine, world.open())


def test_a_node_that_no_committed_date_has_is_refused_by_name_where_it_would_be_kept(world: Any) -> None:
    world.tree["pipeline"]["nodes"] = {"unknown": "keep"}
    world.prepare()
    with_new_nodes(world, date := dt.date(2024, 4, 1))
    mine = opened(world)
    with pytest.raises(DumpError, match=r"on no list yet.*preprocess") as error:
        mine.read_day(mine.manifest.day(date))
    assert "mn" in str(error.value)


def test_a_split_that_nobody_named_leaves_an_almost_empty_last_date_out_of_the_validation(world: Any) -> None:
    world.tree["pipeline"]["split"] = None
    header, first, *_ = world.dump(date := dt.date(2024, 4, 2)).read_text().splitlines()
    world.dump(date).write_text(f"{header}\n{first}\n")
    mine = opened(world)
    assert mine.manifest.split_of(date) != "validation"
    world.prepare()
    same(mine, world.open())


def test_a_dump_that_changes_after_the_opening_is_refused_by_name(world: Any) -> None:
    mine = opened(world)
    date = dt.date(2024, 4, 1)
    world.dump(date).write_bytes(world.dump(date).read_bytes() + b"\n")
    with pytest.raises(DumpError, match="changed while it was read") as error:
        mine.read_day(mine.manifest.day(date))
    assert f"{date}.csv" in str(error.value)


def test_at_most_two_decoded_dates_are_held_and_none_is_decoded_twice_in_order(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, decoded = opened(world), list[dt.date]()
    stage = dates_from_dumps.Raw.stage
    monkeypatch.setattr(
        dates_from_dumps.Raw, "stage", lambda self, date, *a: decoded.append(date) or stage(self, date, *a)
    )
    dates = [day.date for day in mine.days]
    for low in range(0, mine.segments[0].num_steps - 30, 20):
        values = np.empty((30, 3, len(FEATURES)), np.float32)
        mine.read_span(0, low, low + 30, values, np.empty(values.shape, np.bool_))
        assert len(mine._decoded) <= 2
    assert decoded == dates[: len(decoded)]
    assert len(decoded) >= 4


def test_dates_without_a_row_are_dropped_and_faulty_ones_are_named(world: Any) -> None:
    world.tree["pipeline"]["source"]["empty_date"] = "drop"
    world.dump(dt.date(2024, 3, 30)).write_text("time,node,speed,vehicles,kind\n")
    mine = opened(world)
    world.prepare()
    same(mine, world.open())
    world.tree["dataset"] = "again"
    world.dump(dt.date(2024, 3, 29)).write_text("time,node,speed\n")
    with pytest.raises(FailedDatesError, match=r"1 date cannot be read: 2024-03-29.*2024-03-29\.csv"):
        opened(world)


def test_a_file_of_many_dates_is_refused_until_it_is_divided(world: Any) -> None:
    whole = world.folder / "whole.csv"
    dumps = [world.dump(date).read_text().splitlines() for date in sorted(world.rows)]
    whole.write_text("\n".join([dumps[0][0], *(line for dump in dumps for line in dump[1:])]) + "\n")
    world.tree["pipeline"]["source"]["path"] = str(whole)
    with pytest.raises(UsageError, match=r"not divided by date yet.*preprocess"):
        opened(world)
    world.prepare()
    known = world.open()
    mine = opened(world, known)
    assert len(mine.raw.dumps) == 5
    same(mine, known)


def test_a_node_table_closed_to_others_static_columns_and_edges_are_as_prepared(world: Any) -> None:
    (world.folder / "nodes.csv").write_text("node,x,y,lanes\nn2,1.0,2.0,4\nn0,3.0,,1\nn9,5.0,6.0,2\n")
    (world.folder / "edges.csv").write_text("from,to,weight\nn0,n2,0.5\nn9,n0,1.5\n")
    table = {"table": str(world.folder / "nodes.csv"), "id": "node", "position": ["x", "y"], "static": ["lanes"]}
    world.tree["pipeline"]["nodes"] = {**table, "edges": str(world.folder / "edges.csv")}
    world.tree["pipeline"]["calendar"] = {"country": "DE"}
    world.tree["pipeline"]["source"]["max_bad_fraction"] = 0.9
    mine = opened(world)
    world.prepare()
    shards = world.open()
    same(mine, shards)
    assert np.array_equal(mine.nodes.positions_NP, shards.nodes.positions_NP, equal_nan=True)
    assert mine.edges.index_2E.tolist() == shards.edges.index_2E.tolist()
    assert mine.static.keys() == shards.static.keys() == {"lanes"}
