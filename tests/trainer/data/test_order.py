"""The order: every anchor once an epoch, any position directly, the same for ever."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dateshard.shardstore.times.calendar import Day, day_of, segments
from dateshard.trainer.data import order as order_module
from dateshard.trainer.data.order import EpochOrder, Order, Window, WindowBatch, make_runs
from dateshard.trainer.data.permutation import FEW, key, permute, shuffled
from dateshard.trainer.data.shuffle import Shuffle, resolve_shuffle
from dateshard.trainer.data.window_sample import WindowSample

# tests/golden/order.json pins the order of training: a checkpoint is a number of a batch, so a changed order silently
# breaks every checkpoint in the world. It must never change without a decision about the format (a new order gets a
# new number that checkpoints carry, docs/decisions). Only then: delete the file, run this test once (it fails and
# writes the file anew), read the difference, commit it with the decision.
GOLDEN = Path(__file__).parents[2] / "golden" / "order.json"
HOUR = 3_600_000_000_000
WINDOWS = [Window(12, 6), Window(12, 6, 3), Window(30, 0, 3), Window(5, 0), Window(3, 40, 7), Window(1, 1)]
SHUFFLES = [(None, None), (2, 2), (1, 3), (1, 1), (3, 1)]


def make_days(lengths: Sequence[int], gaps: Sequence[int] = ()) -> list[Day]:
    """Days of so many hours; those in `gaps` are missing."""
    days, start = [], 0
    for index, hours in enumerate(lengths):
        if index not in gaps:
            days.append(
                Day(date=dt.date(2024, 1, 1) + dt.timedelta(days=index), start=start, step=HOUR, num_steps=hours)
            )
        start += hours * HOUR
    return days


LENGTHS = [24, 24, 23, 24, 24, 25, 24, 24, 24, 24, 24, 24]
DAYS = make_days(LENGTHS, gaps=(4, 7))
MEMBERS = {
    "all": [True] * 10,
    "first six": [True] * 6 + [False] * 4,
    "around a hole": [True, True, False, True, True, False, True, False, True, True],
    "last": [False] * 9 + [True],
}


def brute_force(window: Window, member: Sequence[bool]) -> set[tuple[int, int]]:
    """(segment, anchor) by the definition, step by step."""
    found = set()
    before = window.history if window.horizon else window.history - 1
    for number, segment in enumerate(segments(DAYS)):
        inside = [member[i] for i in range(segment.first, segment.last) for _ in range(DAYS[i].num_steps)]
        for anchor in range(len(inside)):
            whole = anchor - before >= 0 and anchor + max(window.horizon, 1) <= len(inside)
            on_phase = (anchor - before) % window.stride == 0
            targets = (
                inside[anchor : anchor + window.horizon] if window.horizon else inside[anchor - before : anchor + 1]
            )
            if whole and on_phase and all(targets):
                found.add((number, anchor))
    return found


def order_of(
    window: Window,
    member: Sequence[bool],
    shuffle: tuple[int | None, int | None],
    seed: int | None = 7,
    batch: int = 16,
) -> Order:
    runs = make_runs(DAYS, segments(DAYS), member, window, shuffle[0])
    return Order(runs=tuple(runs), stride=window.stride, batch_size=batch, runs_per_block=shuffle[1], seed=seed)


def windows_of(order: Order, pieces: Sequence[WindowBatch]) -> list[tuple[int, int]]:
    """(segment, anchor) of pieces, in order."""
    return [
        (order.runs[piece.block_runs[run]].segment, int(anchor))
        for piece in pieces
        for run, anchor in zip(piece.run_K, piece.anchor_K, strict=True)
    ]


def batches_of(
    order: Order, epoch: int, start: int = 0, rank: int = 0, world: int = 1
) -> Iterator[list[tuple[int, int]]]:
    """Batches from `start` on, each as its (segment, anchor) in order."""
    for draw in order.epoch(epoch).draws(start):
        windows = [windows_of(order, [piece]) for piece in draw.pieces]
        for begin in range(draw.low, draw.high, order.batch_size):
            cut = draw.cut(begin, min(begin + order.batch_size, draw.high), rank, world)
            yield [window for number, chosen in cut for window in windows[number][chosen]]


@pytest.mark.parametrize("member", MEMBERS.values(), ids=MEMBERS)
@pytest.mark.parametrize("shuffle", SHUFFLES, ids=str)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_every_window_of_the_definition_comes_exactly_once_an_epoch(
    window: Window, shuffle: Any, member: list[bool]
) -> None:
    order, expected = order_of(window, member, shuffle), brute_force(window, member)
    assert order.num_windows == len(expected)
    for epoch in (0, 1):
        batches = list(batches_of(order, epoch))
        assert len(batches) == order.num_batches
        assert all(len(batch) == 16 for batch in batches[:-1])
        flat = [window for batch in batches for window in batch]
        assert len(flat) == len(expected)
        assert set(flat) == expected


@pytest.mark.parametrize("shuffle", SHUFFLES, ids=str)
def test_the_order_is_one_however_many_windows_are_drawn_at_a_time(
    shuffle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = order_of(Window(12, 6), MEMBERS["all"], shuffle)
    whole = list(batches_of(order, 1))
    for batches, windows in ((1, 1), (3, 1), (1, 80)):
        monkeypatch.setattr(order_module, "DRAWN_BATCHES", batches)
        monkeypatch.setattr(order_module, "DRAWN_WINDOWS", windows)
        assert len(list(order.epoch(1).draws())) > 1
        for start in (0, 2):
            assert list(batches_of(order, 1, start)) == whole[start:]


@pytest.mark.parametrize("shuffle", SHUFFLES, ids=str)
def test_without_a_seed_windows_come_in_date_order(shuffle: Any) -> None:
    order = order_of(Window(12, 6, 3), MEMBERS["all"], shuffle, seed=None)
    flat = [w for batch in batches_of(order, 3) for w in batch]
    assert flat == sorted(flat)


def test_dates_come_in_date_order_and_are_shuffled_inside() -> None:
    runs = tuple(make_runs(DAYS, segments(DAYS), MEMBERS["all"], Window(12, 6), 1))
    order = Order(runs=runs, stride=1, batch_size=16, runs_per_block=1, seed=7, shuffle_runs=False)
    flat = [w for batch in batches_of(order, 0) for w in batch]
    at = 0
    for run in runs:
        own = flat[at : at + run.count]
        assert own != sorted(own)
        assert set(own) == {(run.segment, run.first + k) for k in range(run.count)}
        at += run.count


@pytest.mark.parametrize("shuffle", SHUFFLES, ids=str)
def test_a_batch_is_the_same_reached_directly_or_counted_up_to(shuffle: Any) -> None:
    order = order_of(Window(12, 6), MEMBERS["all"], shuffle, batch=1)  # 185 batches: drawn in more than one go
    assert order.num_batches > 2 * 64
    counted = list(batches_of(order, 2))
    for number in range(0, order.num_batches, 7):
        assert next(batches_of(order, 2, number)) == counted[number]


@pytest.mark.parametrize("world", [2, 3, 5])
@pytest.mark.parametrize("shuffle", SHUFFLES, ids=str)
def test_ranks_partition_each_batch_with_stride_of_the_world(shuffle: Any, world: int) -> None:
    order = order_of(Window(12, 6, 3), MEMBERS["all"], shuffle, batch=7)
    whole = list(batches_of(order, 1))
    for rank in range(world):
        own = list(batches_of(order, 1, 0, rank, world))
        assert own == [batch[rank::world] for batch in whole]


def test_seed_and_epoch_each_change_the_order_and_nothing_else_does() -> None:
    def flat(seed: int, epoch: int, batch: int = 16) -> list[tuple[int, int]]:
        order = order_of(Window(12, 6), MEMBERS["all"], (1, 3), seed, batch)
        return [w for batch in batches_of(order, epoch) for w in batch]

    base = flat(7, 0)
    assert flat(7, 0, batch=5) == base
    assert flat(8, 0) != base
    assert flat(7, 1) != base
    assert flat(7, 0) == base


def test_a_block_holds_its_runs_and_no_other_windows() -> None:
    order = order_of(Window(12, 6), MEMBERS["all"], (2, 2))
    epoch = order.epoch(0)
    assert sorted(np.concatenate(epoch.blocks).tolist()) == list(range(len(order.runs)))
    assert all(len(block) == 2 for block in epoch.blocks[:-1])
    for number in range(len(epoch.blocks)):
        pieces = epoch.pieces(int(epoch.starts[number]), int(epoch.starts[number + 1]))
        assert {piece.block for piece in pieces} == {number}


def test_a_run_names_the_dates_that_own_its_anchors() -> None:
    window = Window(30, 6)
    runs = make_runs(DAYS, segments(DAYS), MEMBERS["all"], window, 2)
    for run in runs:
        segment = segments(DAYS)[run.segment]
        owners = [DAYS[i].date for i in range(segment.first, segment.last) for _ in range(DAYS[i].num_steps)]
        anchors = [run.first + k for k in range(run.count)]
        assert {owners[anchor] for anchor in anchors} <= {day.date for day in DAYS[run.first_day : run.last_day]}


@pytest.mark.parametrize("size", [1, 2, 5, FEW, FEW + 1, 1000, 1024, 1025, 4097, 70_001])
def test_a_permutation_is_a_bijection_of_its_range(size: int) -> None:
    for seed in (0, 1, (1 << 64) - 1):
        sent = permute(np.arange(size), size, key(seed))
        assert sent.dtype == np.int64
        np.testing.assert_array_equal(np.sort(sent), np.arange(size))
    some = np.array([size - 1, 0, size // 2])
    np.testing.assert_array_equal(permute(some, size, 9), permute(np.arange(size), size, 9)[some])


@pytest.mark.parametrize("size", [5, 300])
def test_every_index_is_about_as_likely_at_every_place(size: int) -> None:
    """Chi square of (place of index 0) over 200 x size seeds: a biased network fails by far (the 1e-9 quantile)."""
    draws = 200 * size
    counts = np.zeros(size)
    for seed in range(draws) if size == 5 else range(0, draws, 10):
        counts[permute(np.zeros(1, dtype=np.int64), size, key(seed))] += 1
    expected = counts.sum() / size
    chi = float(((counts - expected) ** 2 / expected).sum())
    assert chi < size - 1 + 6 * (2 * (size - 1)) ** 0.5 + 30


def test_the_permutation_of_a_huge_range_takes_no_memory_for_it() -> None:
    sent = permute(np.arange(100), 10**15, 5)
    assert len(set(sent.tolist())) == 100
    assert sent.min() >= 0
    assert sent.max() < 10**15


@pytest.mark.parametrize(
    ("setting", "per_batch", "expected"),
    [
        ("global", None, Shuffle(None, None)),
        ("auto", None, Shuffle(None, None)),
        ("dates", None, Shuffle(1, 1, shuffle_runs=False)),
        ((3, 4), None, Shuffle(3, 4)),
        ("auto", 5, Shuffle(5, 1)),  # eight days would be long enough
        ("auto", 16, Shuffle(8, 2)),
        ("auto", 24, Shuffle(8, 3)),
    ],
)
def test_the_shuffle_follows_from_settings_and_size(setting: Any, per_batch: int | None, expected: Shuffle) -> None:
    assert resolve_shuffle(setting, per_batch, Window(12, 12), 24 * 100, 100, 1000) == expected


def test_days_of_many_steps_are_runs_of_their_own() -> None:
    assert resolve_shuffle("auto", 2, Window(12, 12), 288 * 100, 100, 1000) == Shuffle(1, 2)


def test_auto_takes_runs_above_a_gibibyte_long_enough_for_a_small_halo() -> None:
    window, steps_a_day, row_bytes = Window(288, 144), 288, 10_000
    shuffle = resolve_shuffle("auto", None, window, steps_a_day * 400, 400, row_bytes)
    assert shuffle.days_per_run is not None
    assert (window.length - 1) / (shuffle.days_per_run * steps_a_day) <= 0.125
    assert resolve_shuffle("auto", None, window, (1 << 30) // row_bytes, 400, row_bytes) == Shuffle(None, None)


def golden() -> dict[str, Any]:
    """What is pinned: keys, small and Feistel permutations by (size, seed, epoch), and one tiny order in full."""
    drawn = {}
    for size, seed, epoch in [(5, 7, 0), (20, 7, 3), (256, 1, 0), (257, 1, 0), (10_000, 7, 2), (10**9, 123, 40)]:
        indices = np.arange(min(size, 12))
        drawn[f"size {size} seed {seed} epoch {epoch}"] = permute(indices, size, key(seed, 2, epoch, 0)).tolist()
    window = Window(4, 2, 5)
    tiny = Order(
        runs=tuple(make_runs(DAYS, segments(DAYS), MEMBERS["first six"], window, 1)),
        stride=5,
        batch_size=8,
        runs_per_block=2,
        seed=7,
    )
    return {
        "keys": {"7": str(key(7)), "7 1 0": str(key(7, 1, 0)), "0 2 5 1": str(key(0, 2, 5, 1)), "-1": str(key(-1))},
        "shuffled": {"3 9": shuffled(3, 9).tolist(), "12 key(7, 1, 0)": shuffled(12, key(7, 1, 0)).tolist()},
        "permuted": drawn,
        "sampled": {
            f"{size} of {total} seed {seed}": WindowSample(total, size, seed).windows(np.arange(min(size, 12))).tolist()
            for total, size, seed in [(30, 12, 7), (6361, 500, 7), (10**9, 10**6, 123)]
        },
        "order": {
            f"epoch {epoch}": [[list(w) for w in batch] for batch in batches_of(tiny, epoch)] for epoch in (0, 1)
        },
    }


def test_the_order_is_the_one_that_checkpoints_in_the_world_rely_on() -> None:
    found = golden()
    if not GOLDEN.exists():
        lines = [f'"{name}": {json.dumps(value)}' for name, value in found.items()]
        GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        pytest.fail(f"{GOLDEN.name} was missing and is written anew: read it, and commit it with a format decision")
    assert found == json.loads(GOLDEN.read_text())


def test_the_drawn_example_of_an_epoch_is_what_the_code_does() -> None:
    days = [day_of(dt.date(2024, 3, number), "UTC", 6 * 3600 * 10**9) for number in (1, 2, 3)]
    runs = make_runs(days, segments(days), [True] * 3, Window(2, 1), 1)
    epoch = Order(runs=tuple(runs), stride=1, batch_size=4, runs_per_block=2, seed=7).epoch(0)
    assert [block.tolist() for block in epoch.blocks] == [[2, 1], [0]]
    batches = [[piece.anchor_K.tolist() for piece in epoch.pieces(low, min(low + 4, 10))] for low in (0, 4, 8)]
    assert batches == [[[7, 8, 10, 9]], [[5, 11, 4, 6]], [[2, 3]]]
    shown = (EpochOrder.__doc__ or "").split("anchor      ")[1].split("permuted")[0]
    assert [int(word) for word in shown.replace("|", " ").split()] == [7, 8, 10, 9, 5, 11, 4, 6, 2, 3]
