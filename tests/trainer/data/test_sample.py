"""A sample of the training windows: even, without a list, the same under every shuffle and every way of reading."""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from dateshard.shardstore.times.calendar import segments
from dateshard.trainer.data.order import Order, Window, make_runs
from dateshard.trainer.data.window_sample import WindowSample
from dateshard.trainer.setup import make_session
from tests.trainer.data.test_order import DAYS, LENGTHS, MEMBERS, SHUFFLES, batches_of, order_of

Make = Callable[..., Any]
SIZES = [(1, 1), (2, 1), (7, 3), (24, 23), (100, 99), (365, 7), (1000, 333), (4096, 64), (6361, 5000)]


@pytest.mark.parametrize(("total", "size"), SIZES)
def test_a_sample_has_so_many_different_windows_in_date_order_and_counts_them(total: int, size: int) -> None:
    for seed in (0, 7, 123):
        sample = WindowSample(total, size, seed)
        windows = sample.windows(np.arange(size))
        assert len(windows) == size
        assert (np.diff(windows) > 0).all()
        assert windows.min() >= 0
        assert windows.max() < total
        counted = [int((windows < edge).sum()) for edge in range(total + 1)]
        assert sample.below(np.arange(total + 1)).tolist() == counted
        some = np.array([size - 1, 0])
        np.testing.assert_array_equal(sample.windows(some), windows[some])


@pytest.mark.parametrize(("total", "size"), [(10, 4), (48, 2), (7, 6)])
def test_every_window_is_as_likely_as_any_other(total: int, size: int) -> None:
    """Chi square over seeds, below what chance passes once in 1e9; a grid with a fixed phase fails by far."""
    seeds, counts = 3000, np.zeros(total)
    for seed in range(seeds):
        counts[WindowSample(total, size, seed).windows(np.arange(size))] += 1
    expected = seeds * size / total
    chi = float(((counts - expected) ** 2 / expected).sum())
    assert chi < total + 6 * (2 * total) ** 0.5 + 30


def test_hours_of_the_day_are_all_drawn_though_cells_are_as_long_as_a_day() -> None:
    """A grid of every 24th window would see one hour alone."""
    hours = WindowSample(24 * 300, 300, 7).windows(np.arange(300)) % 24
    assert len(set(hours.tolist())) == 24
    assert np.bincount(hours).max() < 40


def test_every_stretch_of_dates_gives_its_share() -> None:
    windows = WindowSample(10_000, 1000, 3).windows(np.arange(1000))
    shares = np.bincount(windows // 1000)
    assert shares.min() >= 99
    assert shares.max() <= 101


def test_a_sample_of_a_billion_windows_takes_no_memory_for_them() -> None:
    sample = WindowSample(10**12, 10**9, 7)
    tracemalloc.start()
    windows = sample.windows(np.arange(10**9 - 100, 10**9))
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()
    assert (np.diff(windows) > 0).all()
    assert windows.max() < 10**12
    assert sample.below(windows).tolist() == list(range(10**9 - 100, 10**9))
    assert sample.below(windows + 1).tolist() == list(range(10**9 - 99, 10**9 + 1))


def sampled(order: Order, size: int) -> Order:
    return dataclasses.replace(order, sample=WindowSample(order.num_anchors, size, 7))


@pytest.mark.parametrize("size", [1, 3, 40, 120])
@pytest.mark.parametrize("member", MEMBERS.values(), ids=MEMBERS)
def test_the_same_windows_come_under_every_shuffle_once_an_epoch(member: Sequence[bool], size: int) -> None:
    window, found = Window(5, 2), []
    for shuffle in SHUFFLES:
        whole = order_of(window, member, shuffle)
        order = sampled(whole, min(size, whole.num_anchors))
        for epoch in (0, 1):
            batches = list(batches_of(order, epoch))
            assert len(batches) == order.num_batches
            flat = [w for batch in batches for w in batch]
            assert len(flat) == len(set(flat)) == order.num_windows == order.sample.size
            found.append(set(flat))
    assert all(windows == found[0] for windows in found)
    everything = {w for batch in batches_of(whole, 0) for w in batch}
    assert found[0] <= everything


def test_a_sample_is_shuffled_anew_every_epoch_and_reached_directly() -> None:
    order = sampled(order_of(Window(12, 6), MEMBERS["all"], (1, 3), batch=3), 90)
    first, second = (list(batches_of(order, epoch)) for epoch in (0, 1))
    assert first != second
    assert [next(batches_of(order, 1, number)) for number in range(order.num_batches)] == second
    in_date_order = [w for batch in batches_of(dataclasses.replace(order, seed=None), 0) for w in batch]
    assert in_date_order == sorted(in_date_order)


def test_blocks_of_which_the_sample_has_nothing_are_no_blocks() -> None:
    runs = tuple(make_runs(DAYS, segments(DAYS), [True] * len(DAYS), Window(3, 1), 1))
    order = sampled(Order(runs=runs, stride=1, batch_size=4, runs_per_block=1, seed=7, shuffle_runs=False), 4)
    assert len(LENGTHS) > 4
    assert 1 <= len(order.epoch(0).blocks) <= 4


WAYS = [
    {"policy": "mapped"},
    {"policy": "blocks", "prefetch": True},
    {"policy": "blocks", "prefetch": False},
    {"policy": "auto", "memory_budget": 1},
]


@pytest.mark.parametrize("shuffle", ["global", {"days_per_run": 1, "runs_per_block": 2}, "dates"], ids=str)
def test_no_policy_changes_a_batch_of_a_sample(make_world: Make, copy_of: Make, tmp_path: Any, shuffle: Any) -> None:
    training = {"epochs": 1, "batch_size": 4, "sample_size": 30}
    world = make_world(9, gaps=(4,), split={"train": "2024-03-01..2024-03-09"}, training=training)
    world.prepare()
    reference: list[Any] | None = None
    for way in WAYS:
        world.tree["trainer"]["loading"] = {"shuffle": shuffle, **way}
        served = make_session(world.settings.trainer, world.open(), tmp_path).train
        batches = [copy_of(batch) for batch in served.batches(1)]
        assert sum(len(batch[0]) for batch in batches) == 30
        reference = reference or batches
        for number, batch in enumerate(batches):
            for part, wanted in zip(batch, reference[number], strict=True):
                np.testing.assert_array_equal(part, wanted)
            for part, wanted in zip(copy_of(next(iter(served.batches(1, start=number)))), batch, strict=True):
                np.testing.assert_array_equal(part, wanted)


def test_a_sample_as_large_as_the_split_is_the_split_and_validation_is_never_sampled(
    make_world: Make, tmp_path: Any
) -> None:
    split = {"train": "2024-03-01..2024-03-05", "validation": "2024-03-06"}
    world = make_world(6, split=split, training={"epochs": 1, "batch_size": 8, "sample_size": 20})
    world.prepare()
    part = make_session(world.settings.trainer, world.open(), tmp_path)
    world.tree["trainer"]["training"]["sample_size"] = None
    whole = make_session(world.settings.trainer, world.open(), tmp_path)
    assert (part.train.order.num_windows, part.train.order.num_batches) == (20, 3)
    assert part.validation.order == whole.validation.order
    world.tree["trainer"]["training"]["sample_size"] = whole.train.order.num_windows
    assert make_session(world.settings.trainer, world.open(), tmp_path).train.order == whole.train.order
    assert part.bound.settings["training.sample_size"] == 20
