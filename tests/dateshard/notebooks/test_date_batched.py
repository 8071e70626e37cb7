"""Date-batched loading: every window once, value by value as plain numpy cuts it, and the memory is really given back."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

import dateshard
from dateshard.shardstore.errors import NotThereError, UsageError
from dateshard.trainer.data.loaded_dates import Arena
from dateshard.trainer.memory.process_memory import private_bytes

SPLIT = {"train": "..2024-03-05", "validation": "2024-03-06", "test": "2024-03-07.."}
STEPS = 24


@pytest.fixture
def world(make_world: Callable[..., Any]) -> Any:
    """Seven dates of 24 steps, no split named."""
    made = make_world(7, missing=0.3)
    made.prepare()
    return made


def whole(world: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(values [T, N, F], observed, time codes [T, 2]) of all dates, one after the other."""
    dataset = world.open()
    values, observed = (
        np.concatenate(arrays) for arrays in zip(*(dataset.read_day(day) for day in dataset.days), strict=True)
    )
    hours = np.tile(np.arange(STEPS), len(dataset.days))
    weekday = np.repeat([day.date.weekday() for day in dataset.days], STEPS)
    return values, observed, np.stack([hours, weekday], axis=1)


def test_seven_days_by_two_give_batches_of_two_two_two_and_one(world: Any) -> None:
    loader = dateshard.DateBatchedLoader(world.store, history=5, horizon=3, days_per_batch=2)
    edges = [("20240301", "20240302"), ("20240303", "20240304"), ("20240305", "20240306"), ("20240307", "20240307")]
    assert loader.date_batches == edges
    assert loader.nodes == ["n0", "n1", "n2"]
    assert loader.positions is None
    assert loader.split["validation"] == [dt.date(2024, 3, 7)]


@pytest.mark.parametrize(("history", "horizon", "stride"), [(5, 3, 1), (30, 26, 1), (4, 0, 1), (3, 2, 5)])
def test_every_window_comes_once_as_numpy_cuts_it(world: Any, history: int, horizon: int, stride: int) -> None:
    """A window over the border of a batch is not lost, and no target of training lies in the validation."""
    values, observed, codes = whole(world)
    options: dict[str, Any] = {"inputs": ["speed", "volume"], "targets": ["volume"]} if horizon else {}
    options |= {} if horizon else {"inputs": ["speed"], "targets": ["volume"]}
    loader = dateshard.DateBatchedLoader(
        world.store, history=history, horizon=horizon, stride=stride, days_per_batch=2, **options
    )
    places = [0, 1] if horizon else [0]
    border, end = 6 * STEPS, 7 * STEPS
    first = history if horizon else history - 1
    reach, seen = horizon or 1, []
    for begin, stop in loader.date_batches[:-1]:
        loader.load_data_for_date_range(begin, stop)
        x, y, xte, yte = loader.get_train_data()
        own = [
            a
            for a in range(first, border - reach + 1, stride)
            if int(begin[-2:]) - 1 <= a // STEPS <= int(stop[-2:]) - 1
        ]
        assert len(x) == len(own)
        for k, anchor in enumerate(own):
            start = anchor - history if horizon else anchor - history + 1
            target = slice(anchor, anchor + horizon) if horizon else slice(start, start + history)
            assert np.array_equal(x[k], values[start : start + history][..., places])
            assert np.array_equal(y[k], values[target][..., 1:])
            assert np.array_equal(loader.observed()[k], observed[target][..., 1:])
            assert np.array_equal(xte[k], codes[start : start + history])
            assert np.array_equal(yte[k], codes[target])
        seen += own
        loader.clear_data()
    assert seen == list(range(first, border - reach + 1, stride))
    loader.load_data_for_date_range(*loader.date_batches[-1])
    with nullcontext() if horizon < STEPS else pytest.warns(UserWarning, match="03-07, too short a stretch for one"):
        held = loader.get_val_data()[0]
    low = border if horizon else border + history - 1
    low += -(low - first) % stride
    assert len(held) == len(range(low, end - reach + 1, stride))


def test_windows_on_both_sides_of_a_missing_date_are_stacked_and_none_crosses_it(make_world: Any) -> None:
    made = make_world(7, gaps=(2,), missing=0.3, split=SPLIT)
    made.prepare()
    loader = dateshard.DateBatchedLoader(made.store, history=5, horizon=3, days_per_batch=4)
    loader.load_data_for_date_range("2024-03-02", 20240304)
    x, y, _, _ = loader.get_train_data()
    values, _, _ = whole(made)
    starts = [*range(19, 48 - 5 - 2), *range(48, 48 + STEPS - 5)]
    assert len(x) == len(starts)
    assert np.array_equal(x, np.stack([values[s : s + 5] for s in starts]))
    assert np.array_equal(y, np.stack([values[s + 5 : s + 8] for s in starts]))


def test_the_loop_of_the_notes_trains_and_its_validation_is_the_last_batch(world: Any) -> None:
    data_loader = dateshard.DateBatchedLoader(world.store, history=6, horizon=2, days_per_batch=2)
    date_batches = data_loader.date_batches
    model = torch.nn.Linear(6 * 3 * 2, 2 * 3 * 2)
    optimizer, losses = torch.optim.Adam(model.parameters(), 0.01), []

    def train_current_batch(trainX: Any, trainY: Any) -> None:
        for low in range(0, len(trainX), 16):
            rows = np.arange(low, min(low + 16, len(trainX)))
            x, y = torch.from_numpy(trainX[rows]), torch.from_numpy(trainY[rows])
            loss = torch.nn.functional.mse_loss(model(x.flatten(1)), y.flatten(1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())

    for _ in range(4):
        for batch_start, batch_end in date_batches[:-1]:
            data_loader.load_data_for_date_range(batch_start, batch_end)
            trainX, trainY, trainXTE, trainYTE = data_loader.get_train_data()
            train_current_batch(trainX, trainY)
            data_loader.clear_data()
            torch.cuda.empty_cache()
    data_loader.load_data_for_date_range(date_batches[-1][0], date_batches[-1][1])
    valX, valY, valXTE, valYTE = data_loader.get_val_data()
    assert (valX.shape, valY.shape) == ((STEPS - 1, 6, 3, 2), (STEPS - 1, 2, 3, 2))
    assert [array.shape[1:] for array in (trainXTE, trainYTE, valXTE, valYTE)] == [(6, 2), (2, 2)] * 2
    assert np.mean(losses[-6:]) < np.mean(losses[:6])


def test_memory_is_given_back_though_somebody_holds_the_arrays(world: Any) -> None:
    arena, before = Arena(), private_bytes()
    array = arena.empty((64, 1 << 20), np.uint8)
    array += 1
    taken = private_bytes() - before
    assert taken >= 60 << 20  # whatever else this process gave back meanwhile
    arena.release()
    assert private_bytes() - before <= 0.05 * taken
    assert not array[::8, ::4096].any()
    loader = dateshard.DateBatchedLoader(world.store, history=5, horizon=3, days_per_batch=2)
    loader.load_data()
    x = loader.get_train_data()[0]
    assert loader._loaded.arena.num_bytes >= 7 * STEPS * 3 * 2 * 4
    assert x.any()
    loader.clear_data()
    assert loader._loaded.arena.num_bytes == 0
    assert not x.any()


def test_auto_takes_as_many_dates_as_the_budget_holds(world: Any) -> None:
    loader = dateshard.DateBatchedLoader(world.store, history=5, horizon=3)
    assert loader.days_per_batch == 7
    by_two = dateshard.DateBatchedLoader(world.store, history=5, horizon=3, days_per_batch=2).bytes_of_batch
    small = dateshard.DateBatchedLoader(world.store, history=5, horizon=3, memory_budget=by_two)
    assert (small.days_per_batch, small.bytes_of_batch) == (2, by_two)
    small.load_data_for_date_range(*small.date_batches[0])
    small.get_train_data()
    assert small._loaded.arena.num_bytes <= by_two
    with pytest.raises(UsageError, match=r"one date takes [\d.]+ kB of memory, memory_budget allows 100 B"):
        dateshard.DateBatchedLoader(world.store, memory_budget=100)


def test_a_configuration_is_prepared_first_and_its_split_is_kept(make_world: Any) -> None:
    made = make_world(7, split=SPLIT)
    loader = dateshard.DateBatchedLoader(config=made.tree, workers=1, history=5, horizon=3, days_per_batch=3)
    assert [len(dates) for dates in loader.split.values()] == [5, 1, 1]
    with loader.loaded("2024-03-04", "2024-03-07"):
        counts = [len(get()[0]) for get in (loader.get_train_data, loader.get_val_data, loader.get_test_data)]
    assert counts == [2 * STEPS - 2, STEPS - 2, STEPS - 2]


def test_what_does_not_fit_is_said_with_what_would(world: Any) -> None:
    loader = dateshard.DateBatchedLoader(world.store, history=5, horizon=3, days_per_batch=2)
    with pytest.raises(UsageError, match="no dates are loaded"):
        loader.get_train_data()
    with pytest.raises(
        NotThereError, match=r"no date from 2025-01-01 to 2025-01-02 .* There are 2024-03-01\.\.2024-03-07"
    ):
        loader.load_data_for_date_range("20250101", "20250102")
    with pytest.raises(UsageError, match="the range ends before it begins"):
        loader.load_data_for_date_range("20240303", "20240301")
    loader.load_data_for_date_range("20240301", "20240302")
    with pytest.warns(
        UserWarning, match=r"no window of validation .* 2024-03-01\.\.2024-03-02: its dates are 2024-03-07"
    ):
        assert len(loader.get_val_data()[0]) == 0
    for call in (lambda: dateshard.DateBatchedLoader(), lambda: dateshard.DateBatchedLoader("x", config={})):
        with pytest.raises(UsageError, match="give a dataset or a configuration"):
            call()
    with pytest.raises(UsageError, match="has no feature 'height'"):
        dateshard.DateBatchedLoader(world.store, inputs=["height"])
    with pytest.raises(UsageError, match="days_per_batch is 1 or more"):
        dateshard.DateBatchedLoader(world.store, days_per_batch=0)


def every_window(loader: dateshard.DateBatchedLoader) -> list[torch.Tensor]:
    """All that a loader gives, batch by batch, split by split."""
    arrays = list[torch.Tensor]()
    for first, last in loader.date_batches:
        loader.load_data_for_date_range(first, last)
        for split in ("train", "validation"):
            four = {"train": loader.get_train_data, "validation": loader.get_val_data}[split]()
            arrays += [torch.from_numpy(array.copy()) for array in (*four, loader.observed(split))]
        loader.clear_data()
    return arrays


@pytest.mark.filterwarnings("ignore:no window of")
def test_windows_straight_from_dumps_are_those_of_shards(make_world: Callable[..., Any]) -> None:
    """By a pass that measures, by the statistics of what is committed, and by those of a file; nothing is written."""
    world = make_world(5, missing=0.3)
    options: dict[str, Any] = {"history": 30, "horizon": 26, "days_per_batch": 2}
    measured = dateshard.DateBatchedLoader(config=world.tree, from_dumps=True, workers=1, **options)
    mine = every_window(measured)
    assert not (world.folder / "data").exists()
    world.prepare()
    shards = dateshard.DateBatchedLoader(world.store, **options)
    theirs = every_window(shards)
    assert (measured.date_batches, measured.split, measured.nodes) == (shards.date_batches, shards.split, shards.nodes)
    (file,), store = world.store.glob("statistics/*/statistics.json"), world.store
    world.tree["dataset"] = "other"
    for statistics in (store, file):
        given = dateshard.DateBatchedLoader(config=world.tree, from_dumps=True, statistics=statistics, **options)
        assert len(given.dataset.days) == 5
    pairs = [*zip(mine, theirs, strict=True), *zip(every_window(given), theirs, strict=True)]
    assert sum(len(array) for array in theirs) > 100
    assert all(torch.equal(ours, other) for ours, other in pairs)
    assert not world.store.exists()


def test_statistics_of_a_file_that_lies_alone_are_refused(world: Any) -> None:
    (file,) = world.store.glob("statistics/*/statistics.json")
    alone = world.folder / "statistics.json"
    alone.write_bytes(file.read_bytes())
    with pytest.raises(NotThereError, match=r"do not say of which nodes.*the folder of its dataset"):
        dateshard.DateBatchedLoader(config=world.tree, from_dumps=True, statistics=alone)


def test_one_batch_of_all_dates_still_has_something_to_train_on(world: Any) -> None:
    loader = dateshard.DateBatchedLoader(world.store, days_per_batch="auto")
    assert len(loader.date_batches) == 1
    assert {name: len(dates) for name, dates in loader.split.items()} == {"train": 6, "validation": 1}


def test_statistics_without_a_date_and_files_that_are_not_there_are_refused(make_world: Callable[..., Any]) -> None:
    made = make_world(1)
    dateshard.measure_statistics(made.tree, workers=1)
    with pytest.raises(NotThereError, match=r"no date of it is prepared.*from_dumps=True"):
        dateshard.DateBatchedLoader(made.store)
    with pytest.raises(NotThereError, match=r"gone/statistics\.json: no such file.*statistics --measure"):
        dateshard.DateBatchedLoader(config=made.tree, from_dumps=True, statistics="gone/statistics.json")


@pytest.mark.parametrize(
    ("options", "todo"),
    [({"from_dumps": True}, "config=FILE"), ({"statistics": "x"}, "config=FILE")],
)
def test_dumps_need_a_configuration(world: Any, options: dict[str, Any], todo: str) -> None:
    with pytest.raises(UsageError, match=todo):
        dateshard.DateBatchedLoader(world.store, **options)
    with pytest.raises(UsageError, match="from_dumps=True"):
        dateshard.DateBatchedLoader(config=world.tree, statistics="x")
