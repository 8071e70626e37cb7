"""Windows over events, value by value against plain Python: cuts, intervals of time, horizon 0, midnight, both policies."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dateshard.shardstore.errors import UsageError
from dateshard.trainer.config import Trainer
from dateshard.trainer.data.batch import BatchForm
from dateshard.trainer.data.order import Window
from dateshard.trainer.data.split_runs import num_overflowing, runs_of
from dateshard.trainer.setup import make_reader, make_session, order_of, shuffle_of, window_of
from tests.conftest import World
from tests.kit.events import FIRST, NS, Record, event_world, in_order, make_records

DATES = [FIRST + dt.timedelta(days=k) for k in range(4)]
CUTS = ("a", "b", "ü", "one")
SPLIT = {"train": f"{DATES[0]}..{DATES[2]}", "validation": str(DATES[3])}


def world_of(tmp_path: Path, *, cut: bool, count: int = 40, **window: Any) -> tuple[World, dict[dt.date, list[Record]]]:
    records = {date: make_records(date, count, CUTS[:3], 5) for date in DATES}
    records[DATES[1]].append(Record(records[DATES[1]][3].time, "one", 99.0))  # a cut of one record
    world = event_world(tmp_path, records, cut=cut, split=SPLIT, window=window)
    assert not world.prepare().failed
    return world, records


def expected(
    records: dict[dt.date, list[Record]], dates: list[dt.date], window: Window, *, cut: bool
) -> dict[tuple[float, ...], tuple[list[float], list[bool]]]:
    """{values of the targets: (values of the history, which of it is no padding)} of all windows of a split."""
    made: dict[tuple[float, ...], tuple[list[float], list[bool]]] = {}
    pieces: list[list[tuple[Record, bool]]] = []  # whether a record belongs to the split
    for date in DATES:
        rows = [(row, date in dates) for row in in_order(records[date], cut=cut)]
        if cut:
            pieces += [[pair for pair in rows if pair[0].cut == name] for name in {row.cut for row, _ in rows}]
        elif pieces:
            pieces[0] += rows
        else:
            pieces.append(rows)
    for piece in pieces:
        for anchor in range(len(piece)):
            targets = (
                piece[anchor : anchor + window.horizon]
                if window.horizon
                else piece[anchor - window.before : anchor + 1]
            )
            history = piece[max(0, anchor - window.history) : anchor] if window.horizon else targets
            if window.interval:
                begin = piece[anchor][0].time - window.interval
                history = [pair for pair in history if pair[0].time >= begin]
            lacks = not history or (not window.interval and len(history) < window.history)
            if lacks or len(targets) < window.target_steps or not all(member for _, member in targets):
                continue
            padding = window.history - len(history)
            values = [0.0] * padding + [row.value for row, _ in history]
            made[tuple(row.value for row, _ in targets)] = values, [False] * padding + [True] * len(history)
    return made


def served(
    world: World, split: str, *, shuffled: bool, **loading: Any
) -> dict[tuple[float, ...], tuple[list[float], list[bool]]]:
    """The same of a reader, each window once."""
    dataset = world.open()
    config = Trainer.model_validate({**world.tree["trainer"], "loading": loading})
    window = window_of(config)
    order = order_of(dataset, split, window, 16, shuffle_of(config, dataset, window), 7 if shuffled else None)
    form = BatchForm(window=window, inputs=(0,), targets=(0,), codes=True, known=True)
    reader = make_reader(config, dataset, order, form, device=torch.device("cpu"))
    assert (reader.policy == "resident") == ("resident_on" in loading)
    made: dict[tuple[float, ...], tuple[list[float], list[bool]]] = {}
    for batch in reader.batches(0):
        known = np.ones(batch.history_BHNF.shape, bool) if batch.known_BHNF is None else batch.known_BHNF.numpy()
        for row in range(batch.size):
            key = tuple(batch.target_BPNF[row, :, 0, 0].tolist())
            assert key not in made
            made[key] = batch.history_BHNF[row, :, 0, 0].tolist(), known[row, :, 0, 0].tolist()
    assert len(made) == order.num_windows
    return made


WINDOWS = [
    {"history": 5, "horizon": 2},
    {"history": 3, "horizon": 0},
    {"history": "2h", "most": 4, "horizon": 1},
    {"history": "20m", "most": 30, "horizon": 2},
]
LOADINGS: list[dict[str, Any]] = [
    {"policy": "mapped", "shuffle": "global"},
    {"policy": "blocks", "shuffle": "global"},
    {"policy": "blocks", "shuffle": {"days_per_run": 1, "runs_per_block": 2}},
    {"policy": "blocks", "shuffle": "dates"},
    {"resident_on": "device", "shuffle": "dates"},
]


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: f"{window['history']}-{window['horizon']}")
def test_windows_hold_just_the_records_of_their_own_piece(tmp_path: Path, cut: bool, window: dict[str, Any]) -> None:
    world, records = world_of(tmp_path, cut=cut, **window)
    shape = window_of(Trainer.model_validate(world.tree["trainer"]))
    for split, dates in (("train", DATES[:3]), ("validation", DATES[3:])):
        wanted = expected(records, dates, shape, cut=cut)
        assert len(wanted) > 5
        for loading in LOADINGS:
            for shuffled in (True, False):
                assert served(world, split, shuffled=shuffled, **loading) == wanted


def test_runs_of_one_date_are_one_run_of_dates(tmp_path: Path) -> None:
    world, _ = world_of(tmp_path, cut=True, history=2, horizon=1)
    dataset = world.open()
    config = Trainer.model_validate({**world.tree["trainer"], "loading": {"shuffle": "dates"}})
    window = window_of(config)
    order = order_of(dataset, "train", window, 16, shuffle_of(config, dataset, window), 7)
    assert len(order.runs) > 6
    dates = [{dataset.days[order.runs[run].first_day].date for run in block} for block in order.epoch(0).blocks]
    assert dates == [{DATES[0]}, {DATES[1]}, {DATES[2]}]


@pytest.mark.parametrize(
    ("window", "says"),
    [
        ({"history": 50, "horizon": 1}, "the longest cut by 'session' has 1"),
        ({"history": "1ms", "most": 8, "horizon": 1}, "the longest piece without a gap of more than 0.001 s has"),
    ],
)
def test_no_window_is_an_error_that_names_the_longest_piece(tmp_path: Path, window: dict[str, Any], says: str) -> None:
    records = {date: [Record(*row) for row in make_records(date, 30, CUTS[:3], 3)] for date in DATES}
    distinct = {date: [row for row in rows if rows[0].time != row.time] for date, rows in records.items()}
    world = event_world(tmp_path, distinct, cut=True, split=SPLIT, window=window)
    assert not world.prepare().failed
    with pytest.raises(UsageError) as caught:
        make_session(Trainer.model_validate(world.tree["trainer"]), world.open(), tmp_path / "run")
    assert says in str(caught.value)


def test_a_history_by_interval_needs_room_and_a_unit(tmp_path: Path) -> None:
    for window, says in (
        ({"history": "30s"}, "needs most"),
        ({"history": "30x", "most": 3}, "not an interval of time"),
        ({"history": 3, "most": 3}, "most applies only where history is an interval"),
        ({"history": "30s", "most": 3, "horizon": 0}, "horizon 0"),
    ):
        with pytest.raises(ValueError, match=says):
            Trainer.model_validate({"window": window})
    assert Trainer.model_validate({"window": {"history": "30"}}).window.history == 30


def test_time_codes_are_those_of_the_records_own_seconds(tmp_path: Path) -> None:
    world, records = world_of(tmp_path, cut=True, history=2, horizon=1)
    dataset = world.open()
    for day in dataset.days:
        rows = in_order(records[day.date], cut=True)
        assert dataset.times(day).tolist() == [row.time for row in rows]
        seconds = [(row.time // NS) % 86_400 for row in rows]
        assert dataset.codes(day).tolist() == [second * 8 + day.date.weekday() for second in seconds]


@pytest.mark.parametrize("most", [1, 2, 30])
def test_windows_with_more_records_than_there_is_room_for_are_counted(tmp_path: Path, most: int) -> None:
    world, records = world_of(tmp_path, cut=True, history="2h", most=most, horizon=1)
    dataset, window = world.open(), window_of(Trainer.model_validate(world.tree["trainer"]))
    wide = replace(window, history=60)
    lengths = [sum(known) for _, known in expected(records, DATES[:3], wide, cut=True).values()]
    runs = runs_of(dataset, "train", window, None)
    assert num_overflowing(dataset, runs, window) == sum(length > most for length in lengths)
    assert (num_overflowing(dataset, runs, window) > 0) == (most < 30)
