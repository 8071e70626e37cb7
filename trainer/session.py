"""From a dataset and a configuration to everything that a training process needs. Nothing here runs a step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shardstore.dataset import Dataset
from shardstore.errors import StoreError, UsageError, Where
from trainer import device as devices
from trainer.batch import Wanted
from trainer.config import RunsShuffle, Trainer
from trainer.loop import Session, State, make_optimizer
from trainer.metrics import Sums
from trainer.models import Shape, build
from trainer.order import Order, Window, make_runs
from trainer.permutation import key
from trainer.reader import Reader
from trainer.run import bound, environment
from trainer.shuffle import Shuffle, resolve_shuffle


@dataclass(frozen=True, slots=True)
class Columns:
    """Inputs and targets as names and as positions among the dataset's features."""

    inputs: tuple[int, ...]
    targets: tuple[int, ...]
    target_names: list[str]

    @property
    def targets_in_inputs(self) -> tuple[int, ...]:
        """Each target's place among the inputs, -1 where it is none."""
        return tuple(self.inputs.index(t) if t in self.inputs else -1 for t in self.targets)


def choose_columns(config: Trainer, dataset: Dataset) -> Columns:
    """Raises:
    UsageError: a feature that the dataset does not have.
    """
    names = dataset.feature_names
    wanted = (config.inputs or tuple(names), config.targets or tuple(names))
    for option, chosen in zip(("inputs", "targets"), wanted, strict=True):
        for name in chosen:
            if name not in names:
                what = f"trainer.{option}: the dataset has no feature '{name}' (it has {', '.join(names)})"
                raise UsageError(what, where=Where(file=str(dataset.root)), todo="Correct the configuration")
    inputs, targets = (tuple(names.index(name) for name in chosen) for chosen in wanted)
    return Columns(inputs, targets, list(wanted[1]))


def refuse_unready(dataset: Dataset) -> None:
    """Raises:
    StoreError: failed dates, or statistics that lack a training date; names the command that mends it.
    """
    manifest = dataset.manifest
    if manifest.failed:
        dates = " ".join(map(str, manifest.failed[:5])) + (" ..." if len(manifest.failed) > 5 else "")
        kind = "its statistics are provisional, and " if manifest.provisional else ""
        raise StoreError(
            f"{kind}{len(manifest.failed)} date(s) of this dataset failed: {dates}",
            where=Where(file=str(dataset.root)),
            todo="Mend them: dateshard preprocess --only failed -c CONFIG; or leave them out: pipeline.exclude",
        )
    if manifest.provisional:
        raise StoreError(
            f"the statistics are provisional: they lack {', '.join(map(str, manifest.provisional[:5]))}",
            where=Where(file=str(dataset.root)),
            todo="Run: dateshard preprocess -c CONFIG --refit-statistics",
        )


def window_of(config: Trainer) -> Window:
    """The configured window."""
    return Window(config.window.history, config.window.horizon, config.window.stride)


def shuffle_of(config: Trainer, dataset: Dataset, window: Window) -> Shuffle:
    """Resolves `loading.shuffle` from the training split of the data, never from the machine."""
    loading = config.loading
    days = [day for day in dataset.days if dataset.manifest.split_of(day.date) == "train"]
    setting: str | tuple[int, int] = "dates" if loading.policy == "streaming" else "auto"
    if loading.policy != "streaming":
        chosen = loading.shuffle
        setting = (chosen.days_per_run, chosen.runs_per_block) if isinstance(chosen, RunsShuffle) else chosen
    num_steps = sum(day.num_steps for day in days)
    return resolve_shuffle(setting, loading.days_per_batch, window, num_steps, len(days), dataset.row_values * 4)


def order_of(
    dataset: Dataset, split: str, window: Window, batch_size: int, shuffle: Shuffle, seed: int | None
) -> Order:
    """The order of one split; `seed` None keeps date order (evaluation)."""
    member = [dataset.manifest.split_of(day.date) == split for day in dataset.days]
    runs = make_runs(dataset.days, dataset.segments, member, window, shuffle.days_per_run)
    return Order(tuple(runs), window.stride, batch_size, shuffle.runs_per_block, seed, shuffle.shuffle_runs)


def evaluation_shuffle(shuffle: Shuffle) -> Shuffle:
    """Date order in blocks no larger than training's."""
    return shuffle if shuffle.days_per_run is None else Shuffle(shuffle.days_per_run, 1, shuffle_runs=False)


def make_reader(config: Trainer, dataset: Dataset, order: Order, wanted: Wanted) -> Reader:
    """A reader as `trainer.loading` says."""
    policy = {"streaming": "blocks"}.get(config.loading.policy, config.loading.policy)
    loading = config.loading
    return Reader(dataset, order, wanted, policy=policy, memory_budget=loading.memory_budget, prefetch=loading.prefetch)


def shape_of(config: Trainer, dataset: Dataset, columns: Columns, window: Window) -> Shape:
    """What the model must fit."""
    steps_per_day = 86_400_000_000_000 // dataset.manifest.step
    nodes = dataset.manifest.num_nodes
    places = columns.targets_in_inputs
    return Shape(window, nodes, len(columns.inputs), len(columns.targets), places, max(1, steps_per_day))


def make_session(config: Trainer, dataset: Dataset, checkpoints: Path) -> Session:
    """A session at the very start: model drawn from the seed, readers open, nothing trained.

    Raises:
        StoreError: the dataset is not ready. UsageError: the configuration does not fit it.
    """
    refuse_unready(dataset)
    columns, window = choose_columns(config, dataset), window_of(config)
    shuffle = shuffle_of(config, dataset, window)
    device = devices.choose(config.training.device)
    devices.reseed(key(config.training.seed, 4))
    model = build(shape_of(config, dataset, columns, window), config.model).to(device)
    wanted = Wanted(window, columns.inputs, columns.targets, codes=bool(model.uses_codes))
    batch_size = config.training.batch_size
    order = order_of(dataset, "train", window, batch_size, shuffle, config.training.seed)
    held = order_of(dataset, "validation", window, batch_size, evaluation_shuffle(shuffle), None)
    _refuse_empty(order, dataset, window)
    return Session(
        config=config,
        model=model,
        train=make_reader(config, dataset, order, wanted),
        validation=make_reader(config, dataset, held, wanted) if held.runs else None,
        checkpoints=checkpoints,
        bound=bound(config, dataset, shuffle),
        environment=environment(device),
        device=device,
        state=State(),
        sums=Sums.zeros(window.target_steps, len(columns.targets)),
        optimizer=make_optimizer(config, model),
    )


def _refuse_empty(order: Order, dataset: Dataset, window: Window) -> None:
    if order.num_windows:
        return
    manifest = dataset.manifest
    if not any(manifest.split_of(date) == "train" for date in manifest.dates):
        ranges = ", ".join(f"{low}..{high}" for low, high in manifest.split.get("train", ()))
        what, todo = f"none of its training dates ({ranges}) is prepared", "Run: dateshard preprocess -c CONFIG"
        raise StoreError(what, where=Where(file=str(dataset.root)), todo=todo)
    longest = max((segment.num_steps for segment in dataset.segments), default=0)
    raise UsageError(
        f"no training window of {window.length} steps fits: the longest stretch of joined dates has {longest} steps",
        where=Where(file=str(dataset.root)),
        todo="Shorten trainer.window, prepare more dates, or check pipeline.split",
    )
