"""The ways to feed an epoch: the reader's policies, and two that hold arrays of windows, as scripts do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import UsageError
from dateshard.trainer.config import Loading, Trainer
from dateshard.trainer.data.batch import Batch, BatchForm
from dateshard.trainer.data.loaded_dates import CODE_BITS, LoadedDates, WindowArrays
from dateshard.trainer.data.reader import Reader
from dateshard.trainer.data.split_runs import members
from dateshard.trainer.setup import choose_columns, window_of

RAM, DATES = "all in RAM", "date-batched"
POLICIES = ("streaming", "blocks", "mapped")
WAYS = (RAM, DATES, *POLICIES)


class Feed(Protocol):
    """Gives an epoch's batches, each valid until the next."""

    def batches(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch."""
        ...


def config_of(way: str, config: Trainer) -> Trainer:
    """The configuration that a way trains with: all windows, a step a batch, the order of its policy.

    The reader of the two that hold arrays is not used, so it is made `mapped`, which takes no memory.
    """
    loading = config.loading
    if way == "streaming":
        loading = Loading(policy="streaming", memory_budget=loading.memory_budget, prefetch=loading.prefetch)
    else:
        policy = "blocks" if way == "blocks" else "mapped"
        loading = loading.model_copy(update={"policy": policy})
    training = {"accumulate": 1, "sample_size": None, "drop_last": False, "max_steps": None}
    metrics = config.metrics.model_copy(update={"custom": None})
    return config.model_copy(
        update={"loading": loading, "training": config.training.model_copy(update=training), "metrics": metrics}
    )


def feed_of(way: str, config: Trainer, train: Reader, days_per_batch: int) -> Feed:
    """What feeds the epoch that way; `train` is the reader of `config_of(way)`.

    Raises:
        UsageError: the model asks for what no array of windows holds.
    """
    if way in POLICIES:
        return train
    refuse_unheld(train.wanted)
    return DateBatches(
        loaded=loaded_dates(config, train.dataset),
        wanted=train.wanted,
        batch_size=config.training.batch_size,
        seed=config.training.seed,
        days=len(train.dataset.days) if way == RAM else days_per_batch,
        stack=way == RAM,
    )


def refuse_unheld(wanted: BatchForm) -> None:
    """Refuses a model that asks for more than windows and their time codes.

    Raises:
        UsageError: names what it asks for.
    """
    asked = {
        "which cells of the history were observed": wanted.known,
        "features that are known ahead": bool(wanted.futures),
        "histories that are an interval of time": bool(wanted.window.interval),
    }
    if reason := next((name for name, needs in asked.items() if needs), ""):
        raise UsageError(f"the model needs {reason}, which is not in arrays of windows", todo="Train from shards")


def loaded_dates(config: Trainer, dataset: Dataset) -> LoadedDates:
    """The training windows as `DateBatchedLoader` loads them; nothing is read yet."""
    columns = choose_columns(config, dataset)
    own = {"train": members(dataset, "train")}
    return LoadedDates(dataset, window_of(config), columns.inputs, columns.targets, own)


def stacked_bytes(loaded: LoadedDates) -> int:
    """Bytes that all training windows take, copied window by window; the rows that they are copied from are not in it."""
    window, dataset = loaded.window, loaded.dataset
    count = sum(run.count for run in loaded.runs(range(len(dataset.days)), "train"))
    nodes, steps = dataset.manifest.num_nodes, window.target_steps
    cells = window.history * len(loaded.inputs) * 4 + steps * len(loaded.targets) * (5 if loaded.mask else 4)
    return count * (cells * nodes + (window.history + steps) * 8)


@dataclass(slots=True, kw_only=True)
class DateBatches:
    """Loads some dates, trains on their windows in a shuffled order, clears them, loads the next: the loop of a notebook.

    Args:
        stack: copy every window, as `np.stack` does; else windows are views of the loaded rows.
    """

    loaded: LoadedDates
    wanted: BatchForm
    batch_size: int
    seed: int
    days: int
    stack: bool = False

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Windows of each batch of dates, shuffled among themselves."""
        count, random = len(self.loaded.dataset.days), np.random.default_rng((self.seed, epoch))
        for first in range(0, count, self.days):
            self.loaded.load(range(first, min(first + self.days, count)))
            windows = self.loaded.arrays("train")
            if self.stack:
                windows = stacked(windows, mask=self.loaded.mask)
                self.loaded.clear()
            order = random.permutation(len(windows.x_SHNF))
            for low in range(0, len(order), self.batch_size):
                yield self._batch(windows, order[low : low + self.batch_size])
            self.loaded.clear()

    def _batch(self, windows: WindowArrays, chosen: NDArray[np.int64]) -> Batch:
        codes: Any = None
        if self.wanted.codes:
            ahead = windows.yte_SP2[chosen][:, : self.wanted.window.horizon]  # horizon 0: they are those of the history
            codes = np.concatenate([windows.xte_SH2[chosen], ahead], axis=1)
            codes = torch.from_numpy((codes[..., 0] << CODE_BITS) + codes[..., 1])
        return Batch(
            history_BHNF=torch.from_numpy(windows.x_SHNF[chosen]),
            target_BPNF=torch.from_numpy(windows.y_SPNF[chosen]),
            observed_BPNF=torch.from_numpy(windows.observed_SPNF[chosen]) if self.loaded.mask else None,
            codes_BW=codes,
        )


def stacked(windows: WindowArrays, *, mask: bool) -> WindowArrays:
    """Copies windows with `np.stack`, so that overlapping ones share nothing; the mask only where something is missing."""
    names = ["x_SHNF", "y_SPNF", "xte_SH2", "yte_SP2", *(["observed_SPNF"] if mask else [])]
    copies = {name: np.stack(list(getattr(windows, name))) for name in names} if len(windows.x_SHNF) else {}
    return replace(windows, **copies)
