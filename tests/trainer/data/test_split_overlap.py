"""Windows of each split, what cuts cost and how far training reaches into other rows, against the batches themselves."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from dateshard.shardstore.dataset import Dataset
from dateshard.trainer.data.batch import BatchForm
from dateshard.trainer.data.order import Order, Window
from dateshard.trainer.data.reader import Reader
from dateshard.trainer.data.split_overlap import SplitWindows, windows_by_split
from dateshard.trainer.data.split_runs import runs_of
from tests.kit.events import FIRST, NS, event_world, make_records

DATES = [FIRST + dt.timedelta(days=k) for k in range(4)]
CUTS = ("ann", "bo", "cy", "dö")
BY = {"by": "session", "train": ["bo", "dö"], "validation": ["ann"], "test": ["cy"]}  # others lie before and between
AFTER = {"test": str(DATES[0]), "train": f"{DATES[1]}..{DATES[2]}", "validation": str(DATES[3])}  # test before train
SHAPES = [Window(3, 1), Window(4, 0), Window(5, 2, stride=9), Window(6, 2, interval=40 * 60 * NS)]


def seen_by_training(dataset: Dataset, window: Window) -> set[float]:
    """The values of all records that a training batch holds; each comes once in the data."""
    order = Order(runs=tuple(runs_of(dataset, "train", window, None)), stride=window.stride, batch_size=8, seed=1)
    seen = set[float]()
    form = BatchForm(window=window, inputs=(0,), targets=(0,), known=True)
    for batch in Reader(dataset, order, form).batches(0):
        history = batch.history_BHNF if batch.known_BHNF is None else batch.history_BHNF[batch.known_BHNF]
        seen |= {*history.ravel().tolist(), *batch.target_BPNF.ravel().tolist()}
    return seen


@pytest.mark.parametrize("window", SHAPES)
@pytest.mark.parametrize(("cut", "split"), [(True, BY), (True, AFTER), (False, AFTER)])
def test_overlap_is_the_share_of_rows_that_training_saw(
    tmp_path: Path, window: Window, cut: bool, split: dict[str, Any]
) -> None:
    records = {date: make_records(date, 50, CUTS, 11) for date in DATES}
    world = event_world(tmp_path, records, cut=cut, split=split)
    assert not world.prepare().failed
    dataset = world.open()
    by_split = {of.split: of for of in windows_by_split(dataset, window)}
    seen = seen_by_training(dataset, window)
    for name in ("validation", "test"):
        own = [
            row.value
            for date, rows in records.items()
            for row in rows
            if (row.cut in BY[name] if split is BY else dataset.manifest.split_of(date) == name)
        ]
        assert by_split[name].rows == len(own)
        assert by_split[name].overlap == pytest.approx(len(seen & set(own)) / len(own))
    assert by_split["train"].overlap is None
    if cut:
        assert {by_split["test"].overlap, by_split["validation"].overlap} == {0.0}
    elif window.horizon and not window.interval:
        assert by_split["test"].overlap  # a window of training looks back over midnight, into the test date


def test_what_is_lost_at_cuts_is_what_one_piece_would_give_more(tmp_path: Path) -> None:
    records = {date: make_records(date, 30, CUTS[:2], 3) for date in DATES[:2]}
    world = event_world(tmp_path, records, cut=True, split={"by": "session", "train": ["ann"], "validation": ["bo"]})
    assert not world.prepare().failed
    train, validation = windows_by_split(world.open(), Window(3, 2))
    counts = {name: [sum(row.cut == name for row in rows) for rows in records.values()] for name in CUTS[:2]}
    assert train == SplitWindows(
        split="train", rows=sum(counts["ann"]), windows=sum(n - 4 for n in counts["ann"]), lost=0, overlap=None
    )
    assert (validation.windows, validation.lost) == (sum(n - 4 for n in counts["bo"]), 0)
    both = event_world(
        tmp_path / "both", records, cut=True, split={"train": str(DATES[0]), "validation": str(DATES[1])}
    )
    assert not both.prepare().failed
    train, _ = windows_by_split(both.open(), Window(3, 2))
    assert (train.windows, train.lost) == (30 - 8, 4)
