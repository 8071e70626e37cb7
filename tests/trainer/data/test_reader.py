"""What a batch holds: windows value by value against the raw rows, and the same batch by every way of reading it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from dateshard.shardstore.errors import UsageError
from dateshard.trainer.data import blocks, resident
from dateshard.trainer.data.batch import BatchForm
from dateshard.trainer.data.order import DateRun, Order, Window, make_runs
from dateshard.trainer.data.reader import Reader

SPLIT = {"train": "2024-03-01..2024-03-07", "validation": "2024-03-08..2024-03-09", "test": "2024-03-10"}
NEW_YORK = "America/New_York"
Make = Callable[..., Any]


@pytest.fixture
def hold(plain: Make, reader: Make) -> Make:
    """Holds a split's windows in date order, batch by batch, against the raw rows; returns the plain ones."""

    def check(world: Any, split: str = "train", policies: tuple[str, ...] = ("blocks", "mapped")) -> list[Any]:
        world.prepare()
        config, dataset = world.settings.trainer, world.open()
        window = config.window
        expected = plain(world).windows(split, window.history, window.horizon, window.stride)
        assert expected
        for policy in policies:
            served = reader(config, dataset, split, shuffled=False, policy=policy)
            assert served.order.num_windows == len(expected)
            at = 0
            for batch in served.batches(0):
                for row in range(batch.size):
                    compare(batch, row, expected[at])
                    at += 1
            assert at == len(expected)
        return expected

    return check


def compare(batch: Any, row: int, wanted: Any) -> None:
    values = wanted.scaled
    history, target = values[: wanted.history], values[wanted.targets]
    np.testing.assert_allclose(batch.history_BHNF[row], history, rtol=2e-7, atol=1e-7)
    np.testing.assert_allclose(batch.target_BPNF[row], target, rtol=2e-7, atol=1e-7)
    observed = batch.observed_BPNF[row] if batch.observed_BPNF is not None else np.ones(target.shape, bool)
    np.testing.assert_array_equal(observed, wanted.observed[wanted.targets])
    np.testing.assert_array_equal(batch.codes_BW[row], wanted.codes)


def test_windows_over_midnight_hold_the_values_of_the_raw_rows(make_world: Make, hold: Make) -> None:
    expected = hold(make_world(10, split=SPLIT))
    assert len(expected) == 7 * 24 - 12 - 6 + 1  # one segment, the whole training split
    assert any(window.anchor % 24 in range(1, 12) for window in expected)  # histories from the day before


def test_a_mask_is_true_only_where_a_raw_record_stands(make_world: Make, hold: Make) -> None:
    expected = hold(make_world(6, missing=0.6, split={"train": "2024-03-01..2024-03-05"}))
    share = np.mean([window.observed.mean() for window in expected])
    assert 0.3 < share < 0.95


def test_without_a_gap_in_the_rows_there_is_no_mask(make_world: Make, reader: Make, hold: Make) -> None:
    world = make_world(4, missing=0.0, seed=3, split={"train": "2024-03-01..2024-03-03"})
    for date, rows in world.rows.items():
        world.rows[date] = [(instant, node, 50.0 if speed is None else speed, v) for instant, node, speed, v in rows]
        world.write(date)
    hold(world)
    batch = next(iter(reader(world.settings.trainer, world.open()).batches(0)))
    assert batch.observed_BPNF is None


def test_a_date_without_gaps_among_others_is_observed_throughout(make_world: Make, hold: Make) -> None:
    """Only such a date has no mask of its own."""
    world = make_world(4, missing=0.5, split={"train": "2024-03-01..2024-03-04"})
    second = dt.date(2024, 3, 2)
    start = int(dt.datetime(2024, 3, 2, tzinfo=dt.UTC).timestamp())
    hours = [(start + hour * 3600, node) for hour in range(24) for node in ("n0", "n1", "n2")]
    world.rows[second] = [(at * 10**9, node, 60.0 + index, float(index)) for index, (at, node) in enumerate(hours)]
    world.write(second)
    expected = hold(world)
    assert any(window.observed.all() for window in expected)
    assert [world.open().has_mask(date) for date in sorted(world.rows)] == [True, False, True, True]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_history_of_many_days_reaches_back_over_the_border_and_targets_do_not(
    make_world: Make, hold: Make, split: str
) -> None:
    """A history of 7 days on a split of 1 or 2: it reaches through the other splits."""
    world = make_world(10, split=SPLIT, window={"history": 168, "horizon": 6})
    expected = hold(world, split)
    first = {"validation": 7, "test": 9}[split] * 24
    days = {"validation": 2, "test": 1}[split]
    assert [window.anchor for window in expected] == list(range(first, first + days * 24 - 5))


def test_targets_of_the_last_training_windows_stay_in_training(make_world: Make, hold: Make) -> None:
    expected = hold(make_world(10, split=SPLIT, window={"history": 24, "horizon": 24}))
    assert expected[-1].anchor == 6 * 24  # its horizon is exactly the last training date


def test_no_window_crosses_a_gap(make_world: Make, hold: Make) -> None:
    world = make_world(9, gaps=(3, 6), split={"train": "2024-03-01..2024-03-09"})
    expected = hold(world)
    counts = [sum(window.segment == segment for window in expected) for segment in range(3)]
    assert counts == [days * 24 - 17 for days in (3, 2, 2)]


def test_two_stretches_of_one_split_do_not_share_a_horizon(make_world: Make, hold: Make) -> None:
    """Training around a validation date: histories cross it, targets do not."""
    split = {"train": ["2024-03-01..2024-03-02", "2024-03-04..2024-03-05"], "validation": "2024-03-03"}
    expected = hold(make_world(5, split=split))
    anchors = {window.anchor for window in expected}
    assert max(a for a in anchors if a < 48) == 42
    assert min(a for a in anchors if a >= 48) == 72


@pytest.mark.parametrize(
    ("first", "short"), [("2013-03-08", dt.date(2013, 3, 10)), ("2013-11-01", dt.date(2013, 11, 3))]
)
def test_both_dst_days_have_their_own_length_and_codes(make_world: Make, hold: Make, first: str, short: Any) -> None:
    last = dt.date.fromisoformat(first) + dt.timedelta(days=4)
    world = make_world(5, first=first, zone=NEW_YORK, split={"train": f"{first}..{last}"})
    expected = hold(world)
    hours = 23 if short.month == 3 else 25
    assert len(expected) == 4 * 24 + hours - 17
    weekday = [window.codes % 8 == 6 for window in expected if (window.codes % 8 == 6).all()]
    assert len(weekday) == hours - 17  # windows that lie wholly on that Sunday
    ones = [list(window.codes // 8).count(1) for window in expected]
    twos = [list(window.codes // 8).count(2) for window in expected if (window.codes % 8 == 6).all()]
    assert max(twos) == (0 if hours == 23 else 1)
    assert max(ones) == (1 if hours == 23 else 2)


@pytest.mark.parametrize(
    ("first", "hours"),
    [("2013-03-09", [20, 21, 22, 23, 0, 1, 3, 4]), ("2013-11-02", [20, 21, 22, 23, 0, 1, 1, 2, 3, 4])],
)
def test_local_hours_skip_and_repeat_over_a_dst_night(
    make_world: Make, reader: Make, first: str, hours: list[int]
) -> None:
    world = make_world(3, first=first, zone=NEW_YORK, split={"train": f"{first}..{first[:-2]}28"})
    world.prepare()
    for policy in ("blocks", "mapped"):
        served = reader(world.settings.trainer, world.open(), shuffled=False, policy=policy)
        firsts = [int(code) // 8 for batch in served.batches(0) for code in batch.codes_BW[:, 0]]
        assert firsts[20 : 20 + len(hours)] == hours


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("stride", [5, 7, 30])
def test_the_phase_of_a_stride_is_fixed_by_the_segment_and_not_by_the_split(
    make_world: Make, hold: Make, split: str, stride: int
) -> None:
    expected = hold(
        make_world(10, gaps=(2,), split=SPLIT, window={"history": 12, "horizon": 6, "stride": stride}), split
    )
    assert {(window.anchor - 12) % stride for window in expected} == {0}


@pytest.mark.parametrize("stride", [1, 4])
def test_horizon_zero_puts_targets_on_the_historys_own_steps(make_world: Make, hold: Make, stride: int) -> None:
    window = {"history": 12, "horizon": 0, "stride": stride}
    expected = hold(make_world(5, split={"train": "2024-03-01..2024-03-05"}, window=window))
    assert [window.anchor for window in expected] == list(range(11, 120, stride))
    assert expected[0].targets == slice(0, 12)


def test_chosen_inputs_and_targets_are_those_columns(make_world: Make) -> None:
    world = make_world(3, split={"train": "2024-03-01..2024-03-03"})
    world.prepare()
    dataset, window = world.open(), Window(12, 6)
    order = Order(
        runs=tuple(make_runs(dataset.days, dataset.segments, [True] * 3, window, None)), stride=1, batch_size=16
    )

    def batch(inputs: tuple[int, ...], targets: tuple[int, ...]) -> Any:
        return next(iter(Reader(dataset, order, BatchForm(window=window, inputs=inputs, targets=targets)).batches(0)))

    both, turned, one = batch((0, 1), (0, 1)), batch((1, 0), (1,)), batch((1,), (0,))
    assert both.codes_BW is None
    assert torch.equal(turned.history_BHNF, both.history_BHNF[..., [1, 0]])
    assert torch.equal(turned.target_BPNF, both.target_BPNF[..., [1]])
    assert torch.equal(turned.observed_BPNF, both.observed_BPNF[..., [1]])
    assert torch.equal(one.history_BHNF, both.history_BHNF[..., [1]])
    assert torch.equal(one.target_BPNF, both.target_BPNF[..., [0]])


SHUFFLES = ["global", {"days_per_run": 2, "runs_per_block": 2}, {"days_per_run": 1, "runs_per_block": 3}, "dates"]
WAYS = [
    {"policy": "mapped"},
    {"policy": "blocks", "prefetch": True},
    {"policy": "blocks", "prefetch": False},
    {"policy": "auto", "memory_budget": 1},
    {"policy": "auto", "memory_budget": 1 << 33},
]


@pytest.mark.parametrize("shuffle", SHUFFLES, ids=str)
@pytest.mark.parametrize("window", [{"history": 12, "horizon": 6}, {"history": 30, "horizon": 0, "stride": 3}], ids=str)
def test_a_batch_is_the_same_however_it_is_reached_and_served(
    make_world: Make, reader: Make, copy_of: Make, shuffle: Any, window: Any
) -> None:
    world = make_world(
        9, gaps=(4,), split={"train": "2024-03-01..2024-03-09"}, loading={"shuffle": shuffle}, window=window
    )
    world.prepare()
    config, dataset = world.settings.trainer, world.open()
    reference: list[Any] | None = None
    for way in WAYS:
        served = reader(config, dataset, **way)
        assert served.policy == ("mapped" if "mapped" in way.values() or way.get("memory_budget") == 1 else "blocks")
        batches = [copy_of(batch) for batch in served.batches(1)]
        reference = reference or batches
        assert len(batches) == len(reference) == served.order.num_batches
        for number in range(len(reference)):
            same(batches[number], reference[number])
            same(copy_of(next(iter(served.batches(1, start=number)))), reference[number])
        assert list(served.batches(1, start=len(reference))) == []


def test_a_few_open_maps_serve_the_same_batches(make_world: Make, reader: Make, copy_of: Make) -> None:
    world = make_world(9, split={"train": "2024-03-01..2024-03-09"})
    world.prepare()
    config, dataset = world.settings.trainer, world.open()
    many, few = (reader(config, dataset, policy="mapped") for _ in range(2))
    few._source._limit = 2
    for left, right in zip(map(copy_of, many.batches(0)), few.batches(0), strict=True):
        same(left, copy_of(right))
    assert len(few._source._maps) == 2


def same(left: tuple[np.ndarray, ...], right: tuple[np.ndarray, ...]) -> None:
    assert len(left) == len(right) == 4
    for one, other in zip(left, right, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("way", WAYS[:3], ids=str)
@pytest.mark.parametrize("stride", [1, 24])
def test_the_slices_of_all_ranks_make_up_the_batch(
    make_world: Make, reader: Make, copy_of: Make, way: Any, stride: int
) -> None:
    """Stride 24: a block owns a single window, so that a rank has none at all in most blocks."""
    world = make_world(
        9,
        split={"train": "2024-03-01..2024-03-09"},
        window={"history": 12, "horizon": 6, "stride": stride},
        loading={"shuffle": {"days_per_run": 1, "runs_per_block": 1}},
        training={"batch_size": 7},
    )
    world.prepare()
    config, dataset = world.settings.trainer, world.open()
    whole = [copy_of(batch) for batch in reader(config, dataset, **way).batches(0)]
    for ranks in (2, 3):
        slices = [[copy_of(b) for b in reader(config, dataset, **way).batches(0, 0, r, ranks)] for r in range(ranks)]
        assert {len(part) for part in slices} == {len(whole)}
        for number, batch in enumerate(whole):
            for rank in range(ranks):
                same(slices[rank][number], tuple(part[rank::ranks] for part in batch))


@pytest.mark.parametrize("way", WAYS[:3], ids=str)
def test_a_batch_stays_valid_until_the_next_but_one(make_world: Make, reader: Make, copy_of: Make, way: Any) -> None:
    """Over the border of blocks too; the batch after the next one takes its place."""
    shuffle = {"shuffle": {"days_per_run": 1, "runs_per_block": 1}}
    world = make_world(6, split={"train": "2024-03-01..2024-03-06"}, loading=shuffle)
    world.prepare()
    served = reader(world.settings.trainer, world.open(), **way)
    before: tuple[Any, Any] | None = None
    places = []
    for batch in served.batches(0):
        if before is not None:
            same(copy_of(before[0]), before[1])
        before = (batch, copy_of(batch))
        places.append(batch.history_BHNF.data_ptr())
    assert places[:-2] == places[2:]
    assert len(set(places)) == 2


def test_the_first_batch_of_an_epoch_leaves_the_last_one_of_the_epoch_before_as_it_is(
    make_world: Make, reader: Make, copy_of: Make
) -> None:
    world = make_world(5, split={"train": "2024-03-01..2024-03-05"}, training={"batch_size": 35})
    world.prepare()
    served = reader(world.settings.trainer, world.open())
    assert served.order.num_batches % 2 == 1
    *_, last = served.batches(0)
    kept = copy_of(last)
    next(iter(served.batches(1)))
    same(copy_of(last), kept)


def test_the_only_block_is_read_once_and_served_in_every_epoch(make_world: Make, reader: Make, copy_of: Make) -> None:
    world = make_world(3, split={"train": "2024-03-01..2024-03-03"})
    world.prepare()
    served = reader(world.settings.trainer, world.open(), policy="blocks")
    first = [copy_of(batch) for batch in served.batches(0)]
    for path in world.store.glob("shards/*/*/values/0.0.0"):
        path.unlink()
    again = [copy_of(batch) for batch in served.batches(0)]
    assert len(first) == len(again) == served.order.num_batches
    for left, right in zip(first, again, strict=True):
        same(left, right)


def test_blocks_refuse_a_budget_that_is_too_small_and_say_what_fits(make_world: Make, reader: Make) -> None:
    world = make_world(9, split={"train": "2024-03-01..2024-03-09"})
    world.prepare()
    config, dataset = world.settings.trainer, world.open()
    needed = reader(config, dataset, policy="blocks").resident_bytes
    assert needed == 9 * 24 * (3 * 2 * 5 + 4)  # values, mask, codes
    reader(config, dataset, policy="blocks", memory_budget=needed)
    with pytest.raises(UsageError) as caught:
        reader(config, dataset, policy="blocks", memory_budget=needed - 1)
    assert f"{needed / 1e6:,.3f} MB" in caught.value.what
    assert "memory_budget" in caught.value.what
    assert "policy: mapped" in caught.value.todo


@pytest.mark.parametrize("prefetch", [True, False])
def test_buffers_of_blocks_take_what_was_announced_and_no_more(make_world: Make, reader: Make, prefetch: bool) -> None:
    shuffle = {"shuffle": {"days_per_run": 2, "runs_per_block": 1}}
    world = make_world(9, split={"train": "2024-03-01..2024-03-09"}, loading=shuffle)
    world.prepare()
    served = reader(world.settings.trainer, world.open(), policy="blocks", prefetch=prefetch)
    for _ in served.batches(0):
        pass
    taken = sum(part.nbytes for buffer in served._source._buffers for part in buffer)
    assert taken == served.resident_bytes == (2 if prefetch else 1) * (48 + 17) * (3 * 2 * 5 + 4)


def test_of_two_blocks_the_second_buffer_holds_what_the_first_leaves(
    make_world: Make, reader: Make, copy_of: Make
) -> None:
    shuffle = {"shuffle": {"days_per_run": 1, "runs_per_block": 3}}
    world = make_world(4, split={"train": "2024-03-01..2024-03-04"}, loading=shuffle)
    world.prepare()
    config, dataset = world.settings.trainer, world.open()
    served, mapped = (reader(config, dataset, policy=policy, prefetch=True) for policy in ("blocks", "mapped"))
    for epoch in range(3):
        for left, right in zip(served.batches(epoch), mapped.batches(epoch), strict=True):
            same(copy_of(left), copy_of(right))
    three, rest = (sum(part.nbytes for part in buffer) for buffer in served._source._buffers)
    assert three + rest == served.resident_bytes
    assert three > 2 * rest


def test_a_damaged_shard_stops_the_reader_wherever_it_is_read(make_world: Make, reader: Make) -> None:
    from dateshard.shardstore.errors import DamagedError

    shuffle = {"shuffle": {"days_per_run": 1, "runs_per_block": 1}}
    world = make_world(5, split={"train": "2024-03-01..2024-03-05"}, loading=shuffle)
    world.prepare()
    path = next(world.store.glob("shards/2024-03-04/*/values/0.0.0"))
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[100] ^= 4
    path.write_bytes(data)
    for way in WAYS[:3]:
        with pytest.raises(DamagedError, match="2024-03-04"):
            for _ in reader(world.settings.trainer, world.open(), **way).batches(0):
                pass


def test_a_run_reads_only_the_steps_that_its_windows_cover(make_world: Make) -> None:
    """Two dates of five, one of them short of a history: the rest of the store may be gone."""
    world = make_world(5, split={"train": "2024-03-01..2024-03-05"})
    world.prepare()
    dataset, window = world.open(), Window(12, 6)
    runs = (DateRun(segment=0, first=24, count=24, first_day=1, last_day=2),)
    for date in ("2024-03-04", "2024-03-05"):
        next(world.store.glob(f"shards/{date}/*/values/0.0.0")).unlink()
    for policy in ("blocks", "mapped"):
        served = Reader(
            dataset,
            Order(runs=runs, stride=1, batch_size=8),
            BatchForm(window=window, inputs=(0, 1), targets=(0, 1)),
            policy=policy,
        )
        assert sum(batch.size for batch in served.batches(0)) == 24


def test_a_reader_that_gave_a_share_of_its_batches_also_gives_the_whole_ones(
    make_world: Make, reader: Make, copy_of: Make
) -> None:
    world = make_world(8, split=SPLIT)
    world.prepare()
    config, dataset = world.settings.trainer, world.open()
    served, fresh = reader(config, dataset), reader(config, dataset)
    assert next(served.batches(0, rank=1, world=3)).size < config.training.batch_size
    for batch, wanted in zip(served.batches(0), fresh.batches(0), strict=True):
        for part, expected in zip(copy_of(batch), copy_of(wanted), strict=True):
            np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize("shuffle", ["global", "dates", {"days_per_run": 2, "runs_per_block": 2}], ids=str)
def test_batches_gathered_on_the_device_are_those_of_maps(
    make_world: Make, reader: Make, copy_of: Make, monkeypatch: pytest.MonkeyPatch, shuffle: Any
) -> None:
    """Of cut dates and shares too; loaded once, in chunks of any size."""
    world = make_world(9, split=SPLIT, gaps=(3,), missing=0.4, loading={"shuffle": shuffle})
    world.prepare()
    config, dataset = world.settings.trainer, world.open()
    for chunk in (1, 1000, 64 << 20):
        monkeypatch.setattr(resident, "CHUNK", chunk)
        served = reader(config, dataset, resident=lambda count: torch.full((count,), 77, dtype=torch.uint8))
        assert served.policy == "resident"
        wanted = reader(config, dataset, policy="mapped")
        for epoch, options in ((0, {}), (1, {"start": 2}), (2, {"rank": 1, "world": 3})):
            for batch, mapped in zip(served.batches(epoch, **options), wanted.batches(epoch, **options), strict=True):
                for part, expected in zip(copy_of(batch), copy_of(mapped), strict=True):
                    np.testing.assert_array_equal(part, expected)
    monkeypatch.setattr(dataset, "read_span", None)
    assert next(served.batches(3)).size == config.training.batch_size


def test_long_windows_that_are_copied_one_by_one_are_those_of_maps(
    make_world: Make, reader: Make, copy_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    shuffle = {"days_per_run": 1, "runs_per_block": 2}
    world = make_world(9, split=SPLIT, gaps=(3,), missing=0.4, loading={"shuffle": shuffle})
    world.prepare()
    config, dataset = world.settings.trainer, world.open()
    monkeypatch.setattr(blocks, "LONG_ROW", 1)
    served, wanted = reader(config, dataset, policy="blocks"), reader(config, dataset, policy="mapped")
    num_windows = []
    for options in ({}, {"rank": 1, "world": 3}):
        sizes = []
        for batch, mapped in zip(served.batches(1, **options), wanted.batches(1, **options), strict=True):
            same(copy_of(batch), copy_of(mapped))
            sizes.append(batch.size)
        num_windows.append(sum(sizes))
    assert num_windows[0] == served.order.num_windows
    assert 0 < num_windows[1] < num_windows[0]
