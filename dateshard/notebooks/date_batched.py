"""Date-batched loading: some dates of a prepared dataset in memory at a time, as arrays of windows."""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dateshard.notebooks.dumps_opened import dumps_of
from dateshard.notebooks.opened import open_dataset
from dateshard.notebooks.stages import preprocess
from dateshard.pipeline.generation_settings import settings_of
from dateshard.settings import validate
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import NotThereError, UsageError, Where
from dateshard.shardstore.manifest import SPLITS
from dateshard.shardstore.times.calendar import collapse, parse_date
from dateshard.terminal.screen import size
from dateshard.trainer.config import parse_bytes
from dateshard.trainer.data.loaded_dates import LoadedDates, WindowArrays
from dateshard.trainer.data.split_runs import members
from dateshard.trainer.devices.device import empty_cache
from dateshard.trainer.setup import choose_columns, window_of

if TYPE_CHECKING:
    from dateshard.notebooks.configured import Config
    from dateshard.pipeline.config import Pipeline

Date = str | int | dt.date
Four = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32], NDArray[np.int32]]


class DateBatchedLoader:
    """Windows of some dates at a time, for a training loop of one's own.

        loader = dateshard.DateBatchedLoader("traffic", history=12, horizon=12, days_per_batch=2)
        for first, last in loader.date_batches:
            loader.load_data_for_date_range(first, last)
            trainX, trainY, trainXTE, trainYTE = loader.get_train_data()
            ...
            loader.clear_data()

    A window belongs to the dates of its first target step; its history, and what is left of its horizon, may lie in the dates
    around them, so that none is lost between two batches. Values are scaled by the dataset's one set of statistics.

    The arrays are read-only views over one copy of the steps, in which overlapping windows share their memory:
    `trainX[indices]` copies the windows of a batch. Where a date is missing among those that are loaded, or records are cut,
    windows are stacked instead. After `clear_data` and the next load, arrays that were handed out before read as zeros.

    Memory: the loaded dates, 4 bytes a value and 1 more where anything is missing (`bytes_of_batch`). From dumps two
    decoded dates stay beside them, also after `clear_data`, for the next batch reads them again.

    Attributes:
        date_batches: (first, last) of each batch as `20250919`, in date order.
        nodes: names of axis 2. positions: [nodes, axes] of the node table, or None.
        inputs, targets: names of the last axis of X and of Y.
        split: {train|validation|test: its dates}. Without a split in the configuration the last batch is the validation,
            or the last date where one batch holds all.
        dataset: what the trainer reads.
    """

    def __init__(
        self,
        dataset: str | Path | None = None,
        *,
        config: Config | None = None,
        from_dumps: bool = False,
        statistics: str | Path | None = None,
        workers: int | None = None,
        history: int = 12,
        horizon: int = 12,
        stride: int = 1,
        inputs: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
        days_per_batch: int | str = "auto",
        memory_budget: int | str = "2GiB",
    ) -> None:
        """Opens a prepared dataset by its name or folder.

        Args:
            config: instead of the dataset, the configuration of one: dates that have no fresh shard are prepared first.
            from_dumps: prepare nothing: such dates are decoded when they are loaded, to the same values. Where nothing is
                prepared at all, one pass over all dumps measures the statistics first.
            statistics: with `from_dumps`, a dataset that was prepared with these settings, by its name, its folder or a
                `statistics.json` in it: no pass, and no shard is read.
            workers: processes that prepare dates, or pass over them; None: one a core.
            history, horizon: steps; with horizon 0 the targets lie on the history's own steps.
            stride: steps between windows.
            days_per_batch: dates of a batch; `auto`: as many as the budget holds.
            memory_budget: bytes, or a text such as 2GiB, for the loaded dates of a batch under `auto`.

        Raises:
            NotThereError: nothing was prepared under that name. UsageError: what does not fit, with what would.
        """
        chosen: dict[str, Any] = {"from_dumps": from_dumps, "statistics": statistics, "workers": workers}
        self.dataset, settings = _opened(dataset, config, **chosen)
        _refuse_without_dates(self.dataset)
        name = self.dataset.manifest.dataset
        window: dict[str, Any] = {"history": history, "horizon": horizon, "stride": stride}
        asked = validate({"dataset": name, "trainer": {"window": window, "inputs": inputs, "targets": targets}}).trainer
        columns, names = choose_columns(asked, self.dataset), self.dataset.feature_names
        self.inputs, self.targets = [names[place] for place in columns.inputs], columns.target_names
        days = self.dataset.days
        every = {split: members(self.dataset, split) for split in SPLITS}
        self._loaded = LoadedDates(self.dataset, window_of(asked), columns.inputs, columns.targets, every)
        budget = parse_bytes(memory_budget) if isinstance(memory_budget, str) else memory_budget
        self.days_per_batch = self._largest(budget) if days_per_batch == "auto" else int(days_per_batch)
        if self.days_per_batch < 1:
            raise UsageError(f"days_per_batch is 1 or more (got {days_per_batch})")
        self._batches = self._cut(self.days_per_batch)
        if settings.split is None:
            last = len(days) - 1
            held = self._batches[-1] if len(self._batches) > 1 else range(last, last + 1)  # never all there is
            inside = [day in held for day in range(len(days))]
            kept = [not own and day < held.start for day, own in enumerate(inside)]
            self._loaded.members = {"train": kept, "validation": inside, "test": [False] * len(days)}

    def __repr__(self) -> str:
        count, each = len(self._batches), self.days_per_batch
        windows = ", ".join(f"{split} {len(dates)}" for split, dates in self.split.items())
        return f"DateBatchedLoader of {self.dataset.manifest.dataset}: {count} batches of {each} dates ({windows})"

    @property
    def date_batches(self) -> list[tuple[str, str]]:
        """Returns (first, last) of each batch, as `20250919`."""
        dates = [day.date for day in self.dataset.days]
        return [(f"{dates[own.start]:%Y%m%d}", f"{dates[own.stop - 1]:%Y%m%d}") for own in self._batches]

    @property
    def nodes(self) -> list[str]:
        """Names of axis 2, the same in every batch."""
        return list(self.dataset.nodes.names)

    @property
    def positions(self) -> NDArray[np.float64] | None:
        """Positions [nodes, axes] of the node table; None where there is none."""
        nodes = self.dataset.nodes
        return nodes.positions_NP if nodes.axes else None

    @property
    def split(self) -> dict[str, list[dt.date]]:
        """The dates of each split that has any."""
        dates = [day.date for day in self.dataset.days]
        chosen = {
            name: [date for date, own in zip(dates, member, strict=True) if own]
            for name, member in self._loaded.members.items()
        }
        return {name: own for name, own in chosen.items() if own}

    @property
    def bytes_of_batch(self) -> int:
        """Bytes of the largest batch."""
        return max(map(self._loaded.bytes_of, self._batches), default=0)

    def load_data(self) -> None:
        """Loads every date at once."""
        self._loaded.load(range(len(self.dataset.days)))

    def load_data_for_date_range(self, start: Date, end: Date) -> None:
        """Loads the dates from `start` to `end`, both included, as 20250919, 2025-09-19 or dates.

        Raises:
            UsageError: the first is after the last. NotThereError: none of them is in the dataset.
            DamagedError: a file is not what was committed.
        """
        first, last = parse_date(start), parse_date(end)
        if first > last:
            raise UsageError(f"the range ends before it begins: {first}..{last}", todo="Name the earlier date first")
        chosen = [place for place, day in enumerate(self.dataset.days) if first <= day.date <= last]
        if not chosen:
            known = [day.date for day in self.dataset.days]
            raise NotThereError(
                f"no date from {first} to {last} is in the dataset", todo=f"There are {collapse(known)}"
            )
        self._loaded.load(range(chosen[0], chosen[-1] + 1))

    def get_train_data(self) -> Four:
        """Returns trainX [S, history, nodes, inputs], trainY [S, horizon, nodes, targets], and their time codes.

        trainXTE [S, history, 2] and trainYTE [S, horizon, 2] hold the step of the day and the weekday (0: Monday), int32.
        Empty arrays, with a warning that names the dates, where the loaded dates hold no window of the split."""
        return self._four("train")

    def get_val_data(self) -> Four:
        """Returns what `get_train_data` does, of the validation."""
        return self._four("validation")

    def get_test_data(self) -> Four:
        """Returns what `get_train_data` does, of the test split."""
        return self._four("test")

    def observed(self, split: str = "train") -> NDArray[np.bool_]:
        """Which targets were observed, [S, horizon, nodes, targets]; the others are filled, and belong in no loss."""
        return self._windows(split).observed_SPNF

    def clear_data(self) -> None:
        """Gives the memory of the loaded dates back to the system, and empties the accelerator's cache."""
        self._loaded.clear()
        empty_cache()

    @contextmanager
    def loaded(self, start: Date, end: Date) -> Iterator[DateBatchedLoader]:
        """Loads a range for a `with` block, and clears it afterwards."""
        self.load_data_for_date_range(start, end)
        try:
            yield self
        finally:
            self.clear_data()

    def _four(self, split: str) -> Four:
        windows = self._windows(split)
        if not len(windows.x_SHNF):
            held, own = [self.dataset.days[day].date for day in self._loaded.days], self.split.get(split, [])
            of = f"its dates are {collapse(own)}" if own else "it has no dates"
            of += ", too short a stretch for one" if set(own) & set(held) else ""
            warnings.warn(f"no window of {split} begins in the loaded dates {collapse(held)}: {of}", stacklevel=3)
        return windows.x_SHNF, windows.y_SPNF, windows.xte_SH2, windows.yte_SP2

    def _windows(self, split: str) -> WindowArrays:
        if split not in self._loaded.members:
            raise UsageError(f"there is no split '{split}'", todo=f"There are {', '.join(SPLITS)}")
        if not len(self._loaded.days):
            todo = "Call load_data_for_date_range, or load_data for all of them"
            raise UsageError("no dates are loaded", todo=todo)
        return self._loaded.arrays(split)

    def _cut(self, days_per_batch: int) -> list[range]:
        count = len(self.dataset.days)
        return [range(first, min(first + days_per_batch, count)) for first in range(0, count, days_per_batch)]

    def _largest(self, budget: int) -> int:
        """The most dates whose batches the budget holds."""
        low, high = 1, len(self.dataset.days)
        if (least := max(map(self._loaded.bytes_of, self._cut(1)), default=0)) > budget:
            what = f"one date takes {size(least)} of memory, memory_budget allows {size(budget)}"
            raise UsageError(what, todo="Raise memory_budget, or leave inputs out")
        while low < high:
            middle = (low + high + 1) // 2
            fits = max(map(self._loaded.bytes_of, self._cut(middle)), default=0) <= budget
            low, high = (middle, high) if fits else (low, middle - 1)
        return low


def _refuse_without_dates(dataset: Dataset) -> None:
    if dataset.manifest.undated:
        raise UsageError("the rows of this dataset have no date", todo="Read it with dateshard.open, or train on it")
    if not dataset.days:
        what, todo = (
            "no date of it is prepared",
            "Prepare them, or read dumps: DateBatchedLoader(config=FILE, from_dumps=True)",
        )
        raise NotThereError(what, where=Where(file=str(dataset.root)), todo=todo)


def _opened(
    dataset: str | Path | None,
    config: Config | None,
    *,
    from_dumps: bool,
    statistics: str | Path | None,
    workers: int | None,
) -> tuple[Dataset, Pipeline]:
    """What is read, and the settings that it is prepared with.

    Raises:
        UsageError: arguments that contradict each other.
    """
    if (dataset is None) == (config is None):
        todo = 'As in DateBatchedLoader("traffic") or DateBatchedLoader(config="configs/traffic.yaml")'
        raise UsageError("give a dataset or a configuration", todo=todo)
    if config is None and (from_dumps or statistics is not None):
        raise UsageError("from_dumps and statistics need a configuration", todo="Give config=FILE too")
    if statistics is not None and not from_dumps:
        raise UsageError("statistics are of dates that are read from dumps", todo="Give from_dumps=True too")
    if config is not None and from_dumps:
        return dumps_of(config, statistics, workers)
    prepared = preprocess(config, workers=workers, progress=False) if config is not None else None
    opened = (prepared or open_dataset(dataset or "")).dataset
    return opened, settings_of(opened)
