"""Windows of a split for a training loop of one's own: the batches of `dateshard train`, in its order, resumable at any."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from dateshard.notebooks.loop_position import LoopPosition
from dateshard.notebooks.shared_epoch import SharedEpoch, iteration_of
from dateshard.notebooks.single_windows import SingleWindows, WindowSampler
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import UsageError, Where
from dateshard.shardstore.manifest import SPLITS
from dateshard.trainer.binding import data_identity
from dateshard.trainer.config import Trainer
from dateshard.trainer.data.batch import Batch, BatchForm
from dateshard.trainer.data.order import Order, Window
from dateshard.trainer.data.reader import Reader
from dateshard.trainer.data.shuffle import Shuffle
from dateshard.trainer.data.split_runs import longest_piece
from dateshard.trainer.setup import (
    choose_columns,
    evaluation_shuffle,
    make_reader,
    order_of,
    refuse_unready,
    shuffle_of,
    window_of,
)


class Windows(IterableDataset[Batch]):
    """Batches of a split's windows: `for batch in windows:` is an epoch, the next `for` the next one.

    A batch's tensors, of B windows, H history steps, P target steps, N nodes, F features:

        history_BHNF    float32, scaled: the inputs
        target_BPNF     float32, scaled
        observed_BPNF   bool: the targets that were observed; the others are filled, and belong in no loss. None: all
        known_BHNF      bool: the same of the history
        codes_BW        int32, step of the local day x 8 + weekday (Monday 0), of history and horizon
        future_BPNF     float32, scaled: features that are known ahead, at the target steps; None: there are none

    They are views into one of two buffers: a batch is valid until the next but one, `batch.copy()` for as long as it is held;
    `batch.tensors()` is a dict of them, `batch.to(device)` moves them.

    The epochs, their batches and the order in them are those of `dateshard train` with the same settings, whether blocks or
    maps are read, and by however many processes.

    `DataLoader(windows, batch_size=None, num_workers=n)` divides the batches: worker k gives k, k + n, ..., and the loader puts
    them into the order above; where it stands only its loop knows, which counts and calls `set_epoch(epoch, batch)` to go on.

    Memory: as `dateshard train`: at most 2 GiB of blocks, and two batches. In a worker `policy: auto` is `mapped`.

    Attributes:
        inputs, targets, futures: names of the last axes of `history`, `target` and `future`.
    """

    def __init__(self, dataset: Dataset, split: str, config: Trainer, *, shuffle: bool, rank: int, world: int) -> None:
        refuse_unready(dataset)
        _refuse_rank(rank, world, config.training.batch_size)
        if split not in SPLITS:
            raise UsageError(f"there is no split '{split}'", todo=f"There are {', '.join(SPLITS)}")
        self._made = (dataset.root, dataset.generation, split, config, shuffle, rank, world)
        columns, window, names = choose_columns(config, dataset), window_of(config), dataset.feature_names
        self.inputs, self.targets, self.futures = (
            [names[place] for place in places] for places in (columns.inputs, columns.targets, columns.futures)
        )
        self._dataset, self._config, self._rank, self._world = dataset, config, rank, world
        spread = shuffle_of(config, dataset, window)
        spread = spread if shuffle else evaluation_shuffle(spread)
        training = config.training
        order = order_of(dataset, split, window, training.batch_size, spread, training.seed if shuffle else None)
        self._order = replace(order, drop_last=training.drop_last)
        self._form = BatchForm(
            window=window,
            inputs=columns.inputs,
            targets=columns.targets,
            futures=columns.futures,
            codes=True,
            known=True,
        )
        if not self._order.num_windows:
            raise _no_window(dataset, split, self._order, window)
        self._bound = _bound(dataset, split, self._order, window, spread) | {
            "inputs": self.inputs,
            "targets": self.targets,
        }
        self._position = LoopPosition()
        self._reader: tuple[int, Reader] | None = None  # and the process that opened it
        self._iteration = 0
        self._shared, self._worker_process = SharedEpoch(), 0

    def __len__(self) -> int:
        """Batches of an epoch."""
        return self._order.num_batches

    def __repr__(self) -> str:
        split, count, size = self._bound["split"], self._order.num_windows, self._order.batch_size
        return f"Windows of {split}: {count:,} in {len(self):,} batches of {size:,}, at epoch {self.epoch}, batch {self.batch}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened_again, (*self._made, self._position, self._shared)

    @property
    def num_windows(self) -> int:
        """Windows of an epoch, over all ranks."""
        return self._order.num_windows

    @property
    def num_anchors(self) -> int:
        """Windows that the split has, whether an epoch gives them or not."""
        return self._order.num_anchors

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        return self._position.next_batch(len(self))[0]

    @property
    def batch(self) -> int:
        """The number in its epoch of the next batch."""
        return self._position.next_batch(len(self))[1]

    def set_epoch(self, epoch: int, batch: int | None = None) -> None:
        """Lets the next iteration give this epoch, from number `batch` on.

        Without `batch` from its first one, or, where a loaded state lies in that epoch, from there."""
        self._position.set(epoch, batch)
        self._shared.set(epoch)

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        if info is None:
            return self._batches()
        begun = self._begin(info.id)  # at once: a loader asks for the state before the first batch
        return (batch.copy() for batch in self._batches(begun, info.num_workers))

    def _begin(self, worker: int) -> tuple[int, int]:
        """Begins an iteration in a worker; a worker that stays counts its epochs itself."""
        iteration = iteration_of(worker)
        if self._worker_process != os.getpid():
            self._worker_process, epoch = os.getpid(), self._shared.begin(iteration)
            if self._position.begun or epoch != self._position.epoch:
                self._position = LoopPosition(epoch)
        begun = self._position.begin(worker)
        self._shared.set(begun[0], iteration)
        return begun

    def _batches(self, begun: tuple[int, int] | None = None, workers: int = 1) -> Iterator[Batch]:
        """This worker's batches; a batch counts as done as soon as it is given."""
        if begun is None:
            begun = self._position.begin()
            self._shared.set(begun[0] + 1)
        epoch, first = begun
        self._iteration += 1
        mine, reader = self._iteration, self._own_reader()
        given = reader.batches(epoch, first, self._rank, self._world, workers)
        for number, batch in zip(range(first, len(self), workers), given, strict=True):
            self._position.reach(epoch, number + workers)
            yield batch
            if mine != self._iteration:
                what = "another iteration over these windows has begun, and a reader gives one at a time"
                raise UsageError(what, todo="Call dateshard.open(...).windows(...) once for each loop")

    def _own_reader(self) -> Reader:
        """This process's reader: no thread and no buffer of another one's is used."""
        if self._reader is None or self._reader[0] != os.getpid():
            config, loading = self._config, self._config.loading
            if get_worker_info() is not None and loading.policy == "auto":
                config = config.model_copy(update={"loading": loading.model_copy(update={"policy": "mapped"})})
            self._reader = os.getpid(), make_reader(config, self._dataset, self._order, self._form)
        return self._reader[1]

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch stands, and what the order is bound to: plain values.

        In the process that iterates: a DataLoader's workers have their own, which torchdata's StatefulDataLoader collects."""
        info = get_worker_info()
        epoch, batch = self._position.next_batch(None if info else len(self))
        return {"epoch": epoch, "batch": batch, "bound": self._bound_here()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Lets the next iteration begin at the batch after the last one that was given when the state was taken.

        Raises:
            UsageError: the state is of other data, another window, seed or batch size; names all that differs.
        """
        info = get_worker_info()
        self._position = LoopPosition.of(state, self._bound_here())
        self._shared.set(self._position.epoch, iteration_of(info.id) if info else 0)

    def _bound_here(self) -> dict[str, Any]:
        """What a position is bound to; in a worker also the share of the batches that is its own."""
        info = get_worker_info()
        return self._bound if info is None else {**self._bound, "worker": info.id, "workers": info.num_workers}

    def map_style(self) -> SingleWindows:
        """All windows of the split by number, in date order, as a map-style torch Dataset."""
        return SingleWindows(self)

    def batch_sampler(self) -> WindowSampler:
        """The numbers of the windows of each batch, in the order in which this object gives them."""
        return WindowSampler(self._order, self._bound, LoopPosition(self.epoch, self.batch), self._rank, self._world)

    def mapped_reader(self) -> Reader:
        """A reader of any windows."""
        return Reader(self._dataset, self._order, self._form, policy="mapped")


def make_windows(
    dataset: Dataset, split: str, trainer: Mapping[str, Any], *, shuffle: bool, rank: int, world: int
) -> Windows:
    """Windows by the keys of a configuration's half of the trainer."""
    from dateshard.settings import validate

    config = validate({"dataset": dataset.manifest.dataset, "trainer": dict(trainer)}).trainer
    return Windows(dataset, split, config, shuffle=shuffle, rank=rank, world=world)


def _opened_again(
    root: Any, generation: int, split: str, config: Trainer, shuffle: bool, rank: int, world: int, *at: Any
) -> Windows:
    """What a pickle of windows is: where they lie, and how far their loop is."""
    windows = Windows(Dataset.open(root, generation), split, config, shuffle=shuffle, rank=rank, world=world)
    windows._position, windows._shared = at
    return windows


def _bound(dataset: Dataset, split: str, order: Order, window: Window, spread: Shuffle) -> dict[str, Any]:
    """What decides which windows are at which place of which batch."""
    sections = {"data": data_identity(dataset).to_json(), "window": asdict(window), "order": asdict(spread)}
    flat = {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()}
    return flat | {
        "split": split,
        "seed": order.seed,
        "batch_size": order.batch_size,
        "drop_last": order.drop_last,
    }


def _refuse_rank(rank: int, world: int, batch_size: int) -> None:
    if not 0 <= rank < world:
        raise UsageError(f"rank is one of 0 .. world - 1 (got rank {rank}, world {world})")
    if batch_size < world:
        what = f"a batch of {batch_size:,} windows leaves some of {world:,} ranks without one"
        raise UsageError(what, todo="Raise batch_size, which counts the windows of all ranks")


def _no_window(dataset: Dataset, split: str, order: Order, window: Window) -> UsageError:
    where = Where(file=str(dataset.root))
    if order.num_anchors:
        what = f"an epoch would have no batch: {order.num_anchors:,} windows do not fill one of {order.batch_size:,}"
        return UsageError(what, where=where, todo="Lower batch_size, or leave drop_last out")
    longest, unit = longest_piece(dataset, split, window), "steps" if dataset.manifest.step else "records"
    what = f"no window of {split} fits: the longest {longest.kind} has {longest.num_steps:,} {unit}, "
    what += f"a window takes {window.needed + window.reach:,}"
    return UsageError(what, where=where, todo="Shorten history or horizon, prepare more dates, or check pipeline.split")
