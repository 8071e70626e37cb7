"""Measuring, merging and normalising: known rows in, numpy's numbers out; the same bytes every time."""

from __future__ import annotations

import datetime as dt
import math
import tracemalloc
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dateshard.pipeline.acts import merge_statistics
from dateshard.pipeline.planning.observe import AboutNodes
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import DumpError

Make = Callable[..., Any]
SPLIT = {"train": "..2024-03-06", "validation": "2024-03-07..2024-03-08", "test": "2024-03-09.."}


def grid_of(world: Any, date: dt.date, dataset: Dataset) -> np.ndarray:
    """[T, N, 2] last raw speed and summed volume of a date in plain Python."""
    day = dataset.manifest.day(date)
    cells: dict[tuple[int, int], list[tuple[float | None, float]]] = defaultdict(list)
    for instant, node, speed, volume in world.rows[date]:
        cells[(instant - day.start) // day.step, dataset.nodes.names.index(node)].append((speed, volume))
    out = np.full((day.num_steps, len(dataset.nodes.names), 2), np.nan)
    for (step, node), found in cells.items():
        speeds = [speed for speed, _ in found if speed is not None]
        if speeds:
            out[step, node, 0] = speeds[-1]
        out[step, node, 1] = math.fsum(volume for _, volume in found)
    return out


def offset_rows(world: Any, offset: float, spread: float) -> None:
    """Moves every speed to `offset` with a standard deviation of `spread`."""
    for date, rows in world.rows.items():
        world.rows[date] = [
            (t, node, None if speed is None else offset + (speed - 60) / 12 * spread, volume)
            for t, node, speed, volume in rows
        ]
        world.write(date)


@pytest.mark.parametrize("per", ["feature", "node"])
@pytest.mark.parametrize(("offset", "spread"), [(60.0, 12.0), (1e9, 1.0), (1e9, 1e-3)])
def test_shards_hold_the_training_cells_scaled_by_numpys_mean_and_std(
    make_world: Make, offset: float, spread: float, per: str
) -> None:
    world = make_world(10, split=SPLIT, missing=0.3)
    world.tree["pipeline"]["features"]["speed"] = {"aggregate": "last", "scale_per": per}
    offset_rows(world, offset, spread)
    world.prepare()
    dataset = world.open()
    grids = {date: grid_of(world, date, dataset) for date in world.rows}
    train = np.concatenate([grids[date] for date in sorted(grids) if date <= dt.date(2024, 3, 6)])
    axes = (0,) if per == "node" else (0, 1)
    centred = train[..., 0].astype(np.longdouble) - np.longdouble(offset)
    mean = np.nanmean(centred, axis=axes)
    std = np.sqrt(np.nanmean((centred - mean) ** 2, axis=axes))
    scale = dataset.scale
    found = (scale.pivot_NF[:, 0].astype(np.longdouble) - np.longdouble(offset)) + scale.delta_NF[:, 0]
    np.testing.assert_allclose(
        found.astype(float), np.broadcast_to(mean, found.shape).astype(float), atol=1e-12 * spread
    )
    np.testing.assert_allclose(scale.spread_NF[:, 0], np.broadcast_to(std, (3,)).astype(float), rtol=1e-12)
    for date, raw in grids.items():
        truth = ((raw[..., 0].astype(np.longdouble) - np.longdouble(offset)) - mean) / std
        assert np.nanmax(np.abs(scale.apply(raw)[..., 0] - truth)) < 1e-12 * max(1, np.nanmax(np.abs(truth)))
        values, observed = dataset.map(date), dataset.map(date, "observed")
        assert values is not None
        assert observed is not None
        assert np.array_equal(observed, ~np.isnan(raw))
        stored = np.where(observed[..., 0], values[..., 0], np.nan)
        np.testing.assert_allclose(stored, truth.astype(np.float32), rtol=2e-7, atol=1e-7)
        assert (values[..., 0][~observed[..., 0]] == 0).all()


def test_only_training_dates_go_into_the_statistics(make_world: Make) -> None:
    world = make_world(10, split=SPLIT)
    world.prepare()
    before = world.open().manifest
    for date in list(world.rows)[6:]:
        world.rows[date] = [(t, node, 1e6, 1e6) for t, node, _, _ in world.rows[date]]
        world.write(date)
    world.prepare(refit=True)
    after = world.open().manifest
    assert after.statistics == before.statistics
    assert [date for date in after.dates if after.dates[date] != before.dates[date]] == list(world.rows)[6:]
    first = min(world.rows)
    world.rows[first] = world.rows[first][1:]
    world.write(first)
    world.prepare(refit=True)
    assert world.open().manifest.statistics != before.statistics


@pytest.mark.parametrize("workers", [1, 2])
def test_stores_are_equal_byte_for_byte_whatever_the_workers(
    make_world: Make, tmp_path: Path, tree_of: Any, workers: int
) -> None:
    world = make_world(10, split=SPLIT, first="2013-03-05", zone="America/New_York")
    world.tree["pipeline"]["split"] = {"train": 0.6, "validation": 0.2, "test": 0.2}
    world.prepare(num_workers=1)
    world.tree["dataset"] = "other"
    world.prepare(num_workers=workers)
    one, other = (tree_of(tmp_path / "data" / "shards" / name) for name in ("world", "other"))
    assert one.keys() == other.keys()
    named = {name for name in one if one[name] != other[name]}
    assert named == {"manifests/g00000001.json"}  # which names its dataset
    content = [
        (tmp_path / "data/shards" / name / "manifests/g00000001.json").read_text() for name in ("world", "other")
    ]
    assert content[0].replace('"world"', '"other"')[:-60] == content[1][:-60]


def test_shuffled_rows_give_the_same_shards(make_world: Make) -> None:
    world = make_world(4, nodes=["a", "b"])
    world.prepare()
    before = world.open().manifest
    for seed, date in enumerate(world.rows):
        order = np.random.default_rng(seed).permutation(len(world.rows[date]))
        world.rows[date] = [world.rows[date][k] for k in order]
        world.write(date)
    assert world.prepare().measured == 4
    assert world.open().manifest == before


def with_repeats(world: Any, date: dt.date) -> None:
    """Every node's first record once more at the end, with another volume; the second again as it is."""
    rows = world.rows[date]
    world.rows[date] = [*rows, *[(t, node, speed, volume + 1) for t, node, speed, volume in rows[:3]], rows[3]]
    world.write(date)


def test_repeated_records_are_settled_as_the_configuration_says(make_world: Make) -> None:
    world = make_world(3, missing=0)
    dates = list(world.rows)
    with_repeats(world, dates[0])
    world.prepare()
    source = world_sources(world)["dates"][str(dates[0])]
    assert source["rows"]["duplicates"] == {"dropped": 4, "conflicting": 3}
    last = volume_of(world, dates[0])
    world.tree["pipeline"]["source"]["duplicates"] = "keep"
    world.prepare()
    kept = volume_of(world, dates[0])
    repeated = world.rows[dates[0]][-4:]
    assert kept - last == pytest.approx(sum(volume for *_, volume in repeated) - 3)
    world.tree["pipeline"]["source"]["duplicates"] = "refuse"
    failed = world.prepare().failed
    assert list(failed) == [dates[0]]
    assert "row 2, column 'time': a later row has the same node and instant (4 such rows)" in str(failed[dates[0]])


def world_sources(world: Any) -> dict[str, Any]:
    from dateshard.shardstore.commit import sources_path
    from dateshard.shardstore.identity import unseal

    path = sources_path(world.store, world.open().generation)
    content: dict[str, Any] = unseal(path.read_bytes(), str(path))
    return content


def volume_of(world: Any, date: dt.date) -> float:
    dataset = world.open()
    values = dataset.map(date)
    assert values is not None
    return float(dataset.scale.undo(values)[..., 1].sum())


def test_nothing_is_filled_across_midnight(make_world: Make) -> None:
    world = make_world(4, missing=0)
    first, second = list(world.rows)[:2]
    day_start = int(dt.datetime.combine(second, dt.time(), dt.UTC).timestamp()) * 10**9
    world.rows[second] = [row for row in world.rows[second] if row[0] >= day_start + 2 * 3600 * 10**9]
    world.write(second)
    world.prepare()
    dataset = world.open()
    values, observed = dataset.map(second), dataset.map(second, "observed")
    assert values is not None
    assert observed is not None
    assert not observed[:2].any()
    assert observed[2:, :, 1].all()
    assert (values[:2, :, 0] == 0).all()  # speed is carried on, but not from the evening before
    evening = dataset.map(first)
    assert evening is not None
    assert evening[-1, :, 0].all()


def test_a_changed_transform_is_taken_from_the_measured_arrays_and_reads_no_dump(make_world: Make) -> None:
    world = make_world(5, split={"train": "..2024-03-04"})
    world.prepare()
    for date in world.rows:
        world.dump(date).write_text("unreadable\n")
        world.dump(date).unlink()
    world.tree["pipeline"]["features"]["volume"]["transform"] = "log1p"
    finished = world.prepare()
    assert (finished.measured, finished.written, finished.failed) == (0, 5, {})
    mended = world.open().manifest
    for date in world.rows:
        world.write(date)
    world.tree["dataset"] = "fresh"
    world.prepare()
    assert world.open().manifest.statistics == mended.statistics
    assert world.open().manifest.dates == mended.dates


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("later", [True, False])
@pytest.mark.parametrize("parts", [1, 2, None])
def test_a_value_that_log1p_cannot_take_fails_its_date_alone(
    make_world: Make, trained: bool, later: bool, parts: int | None
) -> None:
    world = make_world(5, split={"train": "..2024-03-03", "validation": "2024-03-04.."})
    bad = dt.date(2024, 3, 2) if trained else dt.date(2024, 3, 5)
    world.tree["pipeline"]["store"] = {"nodes_per_part": parts} if parts else {}
    t, node, speed, _ = next(row for row in reversed(world.rows[bad]) if row[1] == "n2")
    world.rows[bad].append((t + 1, node, speed, -1000.0))
    world.write(bad)
    if later:
        assert world.prepare().failed == {}
    world.tree["pipeline"]["features"]["volume"]["transform"] = "log1p"
    finished = world.prepare()
    assert list(finished.failed) == [bad]
    error = finished.failed[bad]
    assert isinstance(error, DumpError)
    assert str(error).startswith(f"{world.dump(bad)}, date {bad}, column 'vehicles', value '-")
    hour = f"{dt.datetime.fromtimestamp(t / 1e9, dt.UTC):%Y-%m-%dT%H}:00:00+00:00"
    assert f"log1p takes values above -1 (feature 'volume', 1 such, at {hour}, node n2). Correct the" in str(error)
    dataset = world.open()
    assert bad not in dataset.manifest.dates
    for date in dataset.manifest.dates:
        values = dataset.map(date)
        assert values is not None
        assert np.isfinite(values).all()


def test_a_value_that_float32_cannot_hold_fails_its_date(make_world: Make) -> None:
    world = make_world(3)
    world.tree["pipeline"]["features"]["speed"]["scale"] = "none"
    bad = max(world.rows)
    world.rows[bad].append((world.rows[bad][-1][0] + 1, "n0", 1e40, 0.0))
    world.write(bad)
    finished = world.prepare()
    assert list(finished.failed) == [bad]
    assert "float32 cannot hold it (feature 'speed'" in str(finished.failed[bad])


def test_a_dump_that_cannot_be_opened_fails_its_date_alone(make_world: Make) -> None:
    world = make_world(4)
    folder, dangling = list(world.rows)[1:3]
    world.dump(folder).unlink()
    world.dump(folder).mkdir()
    world.dump(dangling).unlink()
    world.dump(dangling).symlink_to("nowhere")
    finished = world.prepare()
    assert sorted(finished.failed) == [folder, dangling]
    assert "the folder holds no file" in str(finished.failed[folder])
    assert len(world.open().days) == 2


def test_nodes_are_frozen_over_training_dates_and_later_ones_left_out(make_world: Make) -> None:
    world = make_world(4, split={"train": "..2024-03-03", "validation": "2024-03-04"})
    last = max(world.rows)
    world.rows[last] += [(world.rows[last][0][0], "never seen", 1.0, 1.0)]
    world.write(last)
    world.prepare()
    assert world.open().nodes.names == ("n0", "n1", "n2")
    first = min(world.rows)
    world.rows[first] += [(world.rows[first][0][0], "aaa", 1.0, 1.0)]
    world.write(first)
    world.prepare(refit=True)
    dataset = world.open()
    assert dataset.nodes.names == ("aaa", "n0", "n1", "n2")
    assert [entry.parts[0].nodes for entry in dataset.manifest.dates.values()] == [(0, 4)] * 4
    observed = dataset.map(last, "observed")
    assert observed is not None
    assert not observed[:, 0].any()


def test_a_node_table_orders_nodes_and_its_positions_rescale_without_a_dump(make_world: Make, tmp_path: Path) -> None:
    world = make_world(3)
    table = tmp_path / "nodes.csv"
    table.write_text("id,lat\nn2,2\nn0,0\nquiet,\nn1,1\n")
    world.tree["pipeline"]["nodes"] = {"table": str(table), "id": "id", "position": ["lat"]}
    world.tree["pipeline"]["features"]["speed"]["scale_per"] = "node"
    world.prepare()
    dataset = world.open()
    assert dataset.nodes.names == ("n0", "n1", "n2", "quiet")
    assert np.array_equal(dataset.nodes.positions_NP[:, 0], [0, 1, 2, np.nan], equal_nan=True)
    merged = dataset.statistics.merged.over_nodes().moments_6NF[:, 0, 0]
    assert dataset.scale.spread_NF[3, 0] == np.sqrt(merged[3] / merged[0])  # the quiet node has its feature's scale
    table.write_text(table.read_text().replace("n2,2", "n2,9"))
    finished = world.prepare()
    assert finished.measured == 0
    assert world.open().nodes.positions_NP[2, 0] == 9
    assert world.open().manifest.dates == dataset.manifest.dates


def test_merging_holds_one_dates_partial_statistics_at_a_time(make_world: Make) -> None:
    """Forty dates need no more than ten: at 2,000 nodes the partial statistics of a date are 192 kB."""
    nodes = [f"n{k:04d}" for k in range(2000)]
    world = make_world(40, nodes=["n0"], split={"train": "..2024-04-08"})
    for date, rows in world.rows.items():
        world.rows[date] = [(rows[0][0], node, 1.0, 2.0) for node in nodes]
        world.write(date)
    world.prepare()
    keys = {date: next((world.store / "staged" / str(date)).iterdir()).name for date in sorted(world.rows)}
    peaks = {}
    for count in (10, 39):
        tracemalloc.start()
        merge_statistics(
            world.store,
            dict(list(keys.items())[:count]),
            world.settings.preparing(),
            AboutNodes(None, None, lists=False),
        )
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[39] - peaks[10] < 500_000, peaks
