"""Windows for anyone's loop: the batches of training, exact at any position, alone and behind torch's DataLoader."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import dateshard
from dateshard.notebooks.windows import Windows
from dateshard.shardstore.errors import UsageError
from dateshard.trainer.data import order
from dateshard.trainer.data.batch import Batch
from dateshard.trainer.setup import make_session

SPLIT = {"train": "..2024-03-05", "validation": "2024-03-06", "test": "2024-03-07.."}
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Seven dates of 24 steps; nothing in these tests writes to it."""
    from tests.conftest import build_world

    world = build_world(tmp_path_factory.mktemp("world"), 7, missing=0.3, split=SPLIT)
    world.prepare()
    return world


@pytest.fixture
def windows(store: Any) -> Callable[..., Windows]:
    """windows(split="train", ...) -> Windows of history 12, horizon 6, 7 batches of 16 an epoch."""

    def opened(split: str = "train", **options: Any) -> Windows:
        return dateshard.open(store.store).windows(split, 12, 6, **{"batch_size": 16, **options})

    return opened


def copies(batches: Iterable[Batch]) -> list[Tensors]:
    return [batch.copy().tensors() for batch in batches]


def same(given: Iterable[Tensors], wanted: Iterable[Tensors]) -> bool:
    """Whether both are the same batches in the same order, to the bit."""
    pairs = list(zip(given, wanted, strict=True))
    assert pairs
    return all(a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in pairs)


@pytest.mark.parametrize("loading", [{}, {"days_per_batch": 2}, {"policy": "streaming"}, {"policy": "mapped"}])
def test_epochs_are_those_of_a_training_with_the_same_settings(
    store: Any, windows: Callable[..., Windows], loading: dict[str, Any]
) -> None:
    tree = {**store.tree, "trainer": {**store.tree["trainer"], "loading": loading}}
    config = type(store)(store.folder, tree).settings.trainer
    session = make_session(config, store.open(), store.folder)
    own = windows(**loading)
    for epoch in range(2):
        for given, wanted in zip(own, session.train.batches(epoch), strict=True):
            assert torch.equal(given.history_BHNF, wanted.history_BHNF)
            assert torch.equal(given.target_BPNF, wanted.target_BPNF)
            assert given.observed_BPNF is not None
            assert wanted.observed_BPNF is not None
            assert torch.equal(given.observed_BPNF, wanted.observed_BPNF)
    assert session.validation is not None
    held = windows("validation", shuffle=False, **loading)
    for given, wanted in zip(held, session.validation.batches(0), strict=True):
        assert torch.equal(given.target_BPNF, wanted.target_BPNF)


def test_a_batch_holds_what_its_names_say(store: Any, windows: Callable[..., Windows]) -> None:
    """The first window in date order, as numpy cuts it."""
    batch = next(iter(windows(shuffle=False, inputs=["volume"], targets=["speed"]))).tensors()
    day = dateshard.open(store.store).read("2024-03-01")
    assert np.array_equal(batch["history"][0], day.values[:12, :, 1:])
    assert np.array_equal(batch["target"][0], day.values[12:18, :, :1])
    assert np.array_equal(batch["observed"][0], day.observed[12:18, :, :1])
    assert np.array_equal(batch["known"][0], day.observed[:12, :, 1:])
    assert batch["codes"][0].tolist() == [hour * 8 + 4 for hour in range(18)]  # a Friday
    assert "future" not in batch


def test_a_batch_is_valid_until_the_next_but_one_and_a_copy_stays(windows: Callable[..., Windows]) -> None:
    batches = iter(windows())
    first = next(batches)
    kept = first.copy()
    next(batches)
    assert torch.equal(first.history_BHNF, kept.history_BHNF)
    next(batches)
    assert not torch.equal(first.history_BHNF, kept.history_BHNF)


@pytest.mark.parametrize("done", [0, 1, 3, 6, 7, 10])
@pytest.mark.parametrize("policy", ["blocks", "mapped"])
def test_a_state_continues_at_the_very_next_batch(windows: Callable[..., Windows], done: int, policy: str) -> None:
    """`done` batches were given: 7 are an epoch."""
    straight = windows(days_per_batch=2)
    whole = [*copies(straight), *copies(straight)]
    stopped = windows(days_per_batch=2)
    loops = (batch for _ in range(2) for batch in stopped)
    for _ in islice(loops, done):
        pass
    state = json.loads(json.dumps(stopped.state_dict()))
    assert (state["epoch"], state["batch"]) == divmod(done, 7)
    resumed = windows(days_per_batch=2, policy=policy)
    resumed.load_state_dict(state)
    assert (resumed.epoch, resumed.batch) == divmod(done, 7)
    rest = [batch for _ in range(resumed.epoch, 2) for batch in copies(resumed)]
    assert same(rest, whole[done:])


def test_each_loop_is_the_next_epoch_even_after_one_that_was_left(windows: Callable[..., Windows]) -> None:
    wanted = windows()
    epochs = [copies(wanted) for _ in range(3)]
    own = windows()
    assert same(islice(copies(own), 2), epochs[0][:2])
    for _ in islice(own, 3):
        pass
    assert same(copies(own), epochs[2])
    own.set_epoch(1)
    assert same(copies(own), epochs[1])
    own.set_epoch(0, 5)
    assert same(copies(own), epochs[0][5:])


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"seed": 8}, "seed"),
        ({"batch_size": 8}, "batch_size"),
        ({"stride": 2}, "window.stride"),
        ({"shuffle": False}, "seed"),
        ({"split": "test"}, "split"),
        ({"inputs": ["speed"]}, "inputs"),
        ({"days_per_batch": 2}, "order.days_per_run"),
        ({"drop_last": True}, "drop_last"),
    ],
)
def test_a_state_of_other_windows_is_refused_by_name(
    windows: Callable[..., Windows], changed: dict[str, Any], named: str
) -> None:
    state = windows().state_dict()
    with pytest.raises(UsageError, match=f"{named}: state .*, now "):
        windows(**changed).load_state_dict(state)


def test_a_state_of_data_that_changed_is_refused(make_world: Callable[..., Any]) -> None:
    world = make_world(7, split=SPLIT)
    world.prepare()
    state = dateshard.open(world.store).windows("train", 12, 6).state_dict()
    world.rows[next(iter(world.rows))].pop()
    world.write(next(iter(world.rows)))
    world.prepare()
    with pytest.raises(UsageError, match=r"data\.generation: state 1, now 2"):
        dateshard.open(world.store).windows("train", 12, 6).load_state_dict(state)
    dateshard.open(world.store, 1).windows("train", 12, 6).load_state_dict(state)


@pytest.mark.parametrize("state", [{}, {"epoch": -1, "batch": 0}, {"epoch": 0, "batch": "1"}])
def test_what_is_no_state_is_refused(windows: Callable[..., Windows], state: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="no state of windows"):
        windows().load_state_dict(state)


def test_two_loops_at_once_over_the_same_windows_are_refused(windows: Callable[..., Windows]) -> None:
    own = windows(days_per_batch=2)
    with pytest.raises(UsageError, match="another iteration over these windows has begun"):
        for _ in zip(own, own, strict=True):
            pass


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rank": 2, "world": 2}, "rank is one of"),
        ({"batch_size": 2, "world": 3}, "ranks without one"),
        ({"split": "trial"}, "no split 'trial'"),
        ({"inputs": ["sped"]}, "no feature 'sped'"),
        ({"batch_size": 0}, "batch_size"),
        ({"policy": "block"}, "policy"),
        ({"batch_size": 200, "drop_last": True}, "an epoch would have no batch"),
    ],
)
def test_what_does_not_fit_is_refused_when_windows_are_opened(
    windows: Callable[..., Windows], options: dict[str, Any], match: str
) -> None:
    with pytest.raises(UsageError, match=match):
        windows(**options)


def test_a_window_longer_than_the_split_is_refused_with_the_steps_there_are(store: Any) -> None:
    with pytest.raises(UsageError, match="no window of validation fits: the longest stretch of joined dates has 168"):
        dateshard.open(store.store).windows("validation", 200, 6)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_same_batches(windows: Callable[..., Windows], world: int) -> None:
    shares = [copies(windows(rank=rank, world=world)) for rank in range(world)]
    for number, whole in enumerate(copies(windows())):
        for rank, share in enumerate(shares):
            assert torch.equal(share[number]["history"], whole["history"][rank::world])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_keeps_the_order_over_its_workers(windows: Callable[..., Windows], workers: int) -> None:
    """Seven batches over two workers, and from the middle of an epoch. Without workers they are views, as in a loop."""
    wanted = windows()
    epochs = [copies(wanted) for _ in range(3)]
    own = windows()
    loader: DataLoader[Batch] = DataLoader(own, batch_size=None, num_workers=workers)
    assert len(loader) == 7
    own.set_epoch(1)
    for epoch in epochs[1:]:
        torch.manual_seed(1)  # as some programs do before every epoch
        assert same(copies(loader), epoch)
    own.set_epoch(1, 3)
    assert same(copies(loader), epochs[1][3:])
    assert same(copies(loader), epochs[2])


def test_a_reader_reaches_every_nth_batch_of_a_long_epoch(
    windows: Callable[..., Windows], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of one window, and the order is computed 64 of them at a time."""
    monkeypatch.setattr(order, "DRAWN_WINDOWS", 1)
    own = windows(batch_size=1)
    assert len(own) == 103
    reader = own.mapped_reader()
    whole = copies(reader.batches(0))
    for start, every in ((0, 3), (5, 7), (70, 2)):
        assert same(copies(reader.batches(0, start, every=every)), whole[start::every])


def test_workers_started_anew_give_the_next_epoch_after_a_loop_without_them(windows: Callable[..., Windows]) -> None:
    own = windows()
    epochs = [copies(own) for _ in range(3)]
    own.set_epoch(0)
    assert same(copies(own), epochs[0])
    loader: DataLoader[Batch] = DataLoader(own, batch_size=None, num_workers=2)
    assert same(copies(loader), epochs[1])


def test_workers_that_stay_go_on_to_the_next_epoch(windows: Callable[..., Windows]) -> None:
    wanted = windows()
    epochs = [copies(wanted) for _ in range(3)]
    loader: DataLoader[Batch] = DataLoader(windows(), batch_size=None, num_workers=2, persistent_workers=True)
    for epoch in epochs:
        assert same(copies(loader), epoch)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("options", [{}, {"days_per_batch": 2}, {"rank": 1, "world": 3}, {"shuffle": False}])
def test_single_windows_and_their_sampler_give_the_same_batches(
    windows: Callable[..., Windows], workers: int, options: dict[str, Any]
) -> None:
    own = windows(**options)
    epochs = [copies(own) for _ in range(2)]
    own = windows(**options)
    sampler = own.batch_sampler()
    loader = DataLoader(own.map_style(), batch_sampler=sampler, num_workers=workers)
    for epoch in epochs[: 1 if workers else 2]:
        assert same(loader, epoch)
    sampler.set_epoch(1, 4)
    assert same(loader, epochs[1][4:])


def test_a_sampler_keeps_its_place_in_a_state(windows: Callable[..., Windows]) -> None:
    own = windows()
    lists = list(own.batch_sampler())
    stopped, resumed = own.batch_sampler(), own.batch_sampler()
    assert list(islice(stopped, 3)) == lists[:3]
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    assert list(resumed) == lists[3:]
    with pytest.raises(UsageError, match="seed: state 7, now 8"):
        windows(seed=8).batch_sampler().load_state_dict(stopped.state_dict())


def test_a_list_of_windows_is_one_gather(windows: Callable[..., Windows], monkeypatch: pytest.MonkeyPatch) -> None:
    items = windows().map_style()
    first = items[0]
    from dateshard.trainer.data.mapped import MappedDates

    calls, gather = [], MappedDates.gather
    monkeypatch.setattr(MappedDates, "gather", lambda *args: (calls.append(len(args[3])), gather(*args))[1])
    given = items.__getitems__([5, 0, -1])
    assert calls == [3]
    assert len(items) == 5 * 24 - 12 - 5
    assert all(torch.equal(given[1][name], first[name]) for name in first)
    assert torch.equal(given[2]["target"], items[len(items) - 1]["target"])
    with pytest.raises(IndexError, match=f"no window {len(items)}"):
        items[len(items)]


def test_pickles_are_small_and_open_the_dataset_again(windows: Callable[..., Windows]) -> None:
    own = windows()
    for _ in islice(own, 3):
        pass
    items = own.map_style()
    items[0]
    text = pickle.dumps(items)
    assert len(text) < 5000
    again = pickle.loads(text)
    assert torch.equal(again[7]["history"], items[7]["history"])
    resumed = pickle.loads(pickle.dumps(own))
    assert resumed.state_dict() == own.state_dict()
