"""The datasets of tests/conftest.py written out in plain Python from their raw rows: a second opinion on every window.

Nothing of the code under test is used here: aggregation, fill, statistics, calendar and windows are done again, naively.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from dateshard.shardstore.dataset import Dataset
from dateshard.trainer.config import Trainer
from dateshard.trainer.data.batch import BatchForm
from dateshard.trainer.data.order import Order
from dateshard.trainer.data.reader import Reader
from dateshard.trainer.setup import evaluation_shuffle, order_of, shuffle_of, window_of

Cell = float | None


@dataclass(frozen=True)
class PlainWindow:
    """One window: float64 scaled and raw (NaN where nothing is known), which cells a raw record stands behind, codes."""

    segment: int
    anchor: int
    scaled: np.ndarray
    raw: np.ndarray
    observed: np.ndarray
    codes: np.ndarray
    history: int
    horizon: int

    @property
    def targets(self) -> slice:
        return slice(self.history, None) if self.horizon else slice(0, self.history)


class Plain:
    """A world's steps, one after the other, per segment."""

    def __init__(self, world: Any) -> None:
        self.zone = ZoneInfo(world.tree["pipeline"]["source"]["timezone"])
        self.split = world.tree["pipeline"]["split"]
        self.dates = sorted(world.rows)
        self.nodes = sorted({row[1] for date in self.dates if self.member(date, "train") for row in world.rows[date]})
        cells = {date: self._aggregate(date, world.rows[date]) for date in self.dates}
        self.moments = [self._moments(cells, feature) for feature in range(2)]
        self.segments: list[list[dict[str, Any]]] = []
        for index, date in enumerate(self.dates):
            if not index or self._midnight(date) != self._midnight(self.dates[index - 1] + dt.timedelta(days=1)):
                self.segments.append([])
            self.segments[-1] += self._steps(date, cells[date])

    def member(self, date: dt.date, split: str) -> bool:
        """Whether a date lies in one of the split's `A..B` ranges."""
        given = self.split.get(split) or []
        for text in given if isinstance(given, list) else [given]:
            first, _, last = text.partition("..")
            if dt.date.fromisoformat(first) <= date <= dt.date.fromisoformat(last or first):
                return True
        return False

    def _midnight(self, date: dt.date) -> int:
        return int(dt.datetime(date.year, date.month, date.day, tzinfo=self.zone).timestamp())

    def _aggregate(self, date: dt.date, rows: list[Any]) -> list[list[list[Cell]]]:
        """[step][node][feature]: mean speed and sum of vehicles of each hour, None where there was no value."""
        begin, end = self._midnight(date), self._midnight(date + dt.timedelta(days=1))
        cells: list[list[list[Cell]]] = []
        for hour in range(begin, end, 3600):
            inside = [row for row in rows if hour <= row[0] / 1e9 < hour + 3600]
            cells.append([])
            for node in self.nodes:
                speeds = [row[2] for row in inside if row[1] == node and row[2] is not None]
                volumes = [row[3] for row in inside if row[1] == node]
                mean = math.fsum(speeds) / len(speeds) if speeds else None
                cells[-1].append([mean, math.fsum(volumes) if volumes else None])
        return cells

    def _moments(self, cells: dict[dt.date, list[list[list[Cell]]]], feature: int) -> tuple[float, float]:
        """Mean and standard deviation of the observed cells of the training dates."""
        training = [cells[date] for date in self.dates if self.member(date, "train")]
        seen = [node[feature] for day in training for step in day for node in step if node[feature] is not None]
        mean = math.fsum(seen) / len(seen)
        return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in seen) / len(seen))

    def _steps(self, date: dt.date, cells: list[list[list[Cell]]]) -> list[dict[str, Any]]:
        steps = []
        for index, step in enumerate(cells):
            local = dt.datetime.fromtimestamp(self._midnight(date) + 3600 * index, self.zone)
            raw = [[self._speed(cells, index, node), step[node][1] or 0.0] for node in range(len(self.nodes))]
            steps.append(
                {
                    "date": date,
                    "raw": raw,
                    "observed": [[value is not None for value in node] for node in step],
                    "code": local.hour * 8 + local.weekday(),
                }
            )
        return steps

    @staticmethod
    def _speed(cells: list[list[list[Cell]]], index: int, node: int) -> float:
        """The last speed of the same date, at most three steps old."""
        for back in range(min(3, index) + 1):
            if (found := cells[index - back][node][0]) is not None:
                return found
        return math.nan

    def windows(self, split: str, history: int, horizon: int, stride: int = 1) -> list[PlainWindow]:
        """All windows of a split by the definition, in date order."""
        found = []
        before = history if horizon else history - 1
        mean, spread = (np.array([m[k] for m in self.moments]) for k in range(2))
        for number, steps in enumerate(self.segments):
            raw = np.array([step["raw"] for step in steps])
            scaled = np.nan_to_num((raw - mean) / spread)
            observed = np.array([step["observed"] for step in steps])
            codes = np.array([step["code"] for step in steps])
            inside = [self.member(step["date"], split) for step in steps]
            for anchor in range(before, len(steps), stride):
                after = anchor + (horizon or 1)
                targets = inside[anchor:after] if horizon else inside[anchor - before : after]
                if after <= len(steps) and all(targets):
                    span = slice(anchor - before, anchor - before + history + horizon)
                    parts = (scaled[span], raw[span], observed[span], codes[span])
                    found.append(PlainWindow(number, anchor, *parts, history, horizon))
        return found


@pytest.fixture
def plain() -> Callable[[Any], Plain]:
    return Plain


def open_reader(
    config: Trainer, dataset: Dataset, split: str = "train", *, shuffled: bool = True, **options: Any
) -> Reader:
    """A reader with all features and time codes, ordered as the configuration says."""
    window, features = window_of(config), tuple(range(len(dataset.features)))
    shuffle = shuffle_of(config, dataset, window)
    seed = config.training.seed if shuffled else None
    shuffle = shuffle if shuffled else evaluation_shuffle(shuffle)
    order: Order = order_of(dataset, split, window, config.training.batch_size, shuffle, seed)
    return Reader(dataset, order, BatchForm(window=window, inputs=features, targets=features, codes=True), **options)


@pytest.fixture
def reader() -> Callable[..., Reader]:
    return open_reader


def copied(batch: Any) -> tuple[np.ndarray, ...]:
    """A batch's parts as arrays of their own: history, target, observed, codes."""
    parts = (batch.history_BHNF, batch.target_BPNF, batch.observed_BPNF, batch.codes_BW)
    return tuple(part.numpy().copy() for part in parts if part is not None)


@pytest.fixture
def copy_of() -> Callable[[Any], tuple[np.ndarray, ...]]:
    return copied


@pytest.fixture
def session_of(tmp_path: Path) -> Callable[..., Any]:
    """A session on a world's store, at the very start."""
    from dateshard.trainer.setup import make_session

    def make(world: Any) -> Any:
        return make_session(world.settings.trainer, world.open(), tmp_path / "checkpoints")

    return make
