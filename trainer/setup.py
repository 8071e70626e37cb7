"""Makes everything that a training process needs of a dataset and a configuration. Nothing here runs a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dateshard.shardstore.commands import command, to_run
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import StoreError, UsageError, Where, counted
from dateshard.trainer.binding import bound, environment
from dateshard.trainer.bounds import refuse_bounds
from dateshard.trainer.config import Loading, RunsShuffle, Trainer
from dateshard.trainer.data.batch import BatchForm, on_host
from dateshard.trainer.data.block_sizes import Sizing
from dateshard.trainer.data.order import Order, Window
from dateshard.trainer.data.permutation import key
from dateshard.trainer.data.reader import Reader
from dateshard.trainer.data.shuffle import Shuffle, resolve_shuffle
from dateshard.trainer.data.split_runs import longest_piece, rows_of, runs_of
from dateshard.trainer.data.window_sample import WindowSample
from dateshard.trainer.devices import device as devices
from dateshard.trainer.devices.acceleration import compile_forward, refuse_unresident
from dateshard.trainer.devices.mesh import Mesh
from dateshard.trainer.devices.precision import refuse_uncomputed
from dateshard.trainer.devices.shares import sizes_of
from dateshard.trainer.devices.unshared import refuse_unshared
from dateshard.trainer.memory.memory_need import Counts, needed, refuse_too_large
from dateshard.trainer.metrics import EpochMetrics, Form
from dateshard.trainer.metrics import custom as own_metrics
from dateshard.trainer.metrics.judged_figure import refuse_strange_judge
from dateshard.trainer.metrics.sample import SamplePlan
from dateshard.trainer.metrics.units import Units
from dateshard.trainer.models import build, num_parameters
from dateshard.trainer.models.own import failure_in_training, refuse_unfit
from dateshard.trainer.models.shape import Edges, Shape, Static
from dateshard.trainer.optimization.count_likelihood import CountScale
from dateshard.trainer.optimization.count_targets import refuse_no_counts
from dateshard.trainer.optimization.loss_scale import LossScale
from dateshard.trainer.optimization.objective import Head, Target, make_heads
from dateshard.trainer.optimization.optimizer import make_optimizer
from dateshard.trainer.optimization.own_loss import refuse_other_steps
from dateshard.trainer.optimization.solved import refuse_solved
from dateshard.trainer.session import Session, State

NEAR = 100.0  # a mean up to here leaves R2 eleven digits without a shift, and saves its pass over the targets


@dataclass(frozen=True, slots=True)
class Selected:
    """Inputs and targets as names and as positions among the dataset's features.

    `futures`: the features that are known ahead, where there are steps ahead.
    """

    inputs: tuple[int, ...]
    targets: tuple[int, ...]
    target_names: list[str]
    futures: tuple[int, ...] = ()

    @property
    def targets_in_inputs(self) -> tuple[int, ...]:
        """Each target's place among the inputs, -1 where it is none."""
        return tuple(self.inputs.index(t) if t in self.inputs else -1 for t in self.targets)


def choose_columns(config: Trainer, dataset: Dataset) -> Selected:
    """Selects the input and target columns.

    Raises:
        UsageError: a feature that the dataset does not have; a window that its layout does not have.
    """
    if dataset.manifest.layout == "table" and (wrong := config.window.wrong_for_rows):
        raise UsageError(
            f"trainer.window {wrong}", where=Where(file=str(dataset.root)), todo="Correct the configuration"
        )
    names = dataset.feature_names
    here = (
        set(config.targets or ()) if not config.window.horizon else set()
    )  # with horizon 0 an input would be the answer
    past = tuple(feature.name for feature in dataset.features if not feature.ahead and feature.name not in here)
    known = tuple(feature.name for feature in dataset.features if feature.future)
    wanted = (config.inputs or past, config.targets or tuple(name for name in names if name not in known))
    for option, chosen in zip(("inputs", "targets"), wanted, strict=True):
        for name in chosen:
            if name not in names:
                what = f"trainer.{option}: the dataset has no feature '{name}' (it has {', '.join(names)})"
                raise UsageError(what, where=Where(file=str(dataset.root)), todo="Correct the configuration")
    if not wanted[0]:
        what = (
            "no feature is left as an input: one that looks ahead cannot be an input, nor can a target with horizon 0"
        )
        raise UsageError(
            what, where=Where(file=str(dataset.root)), todo="Name trainer.inputs, or fewer trainer.targets"
        )
    refuse_bounds(config, dataset)
    _refuse_to_look_ahead(config, dataset)
    inputs, targets = (tuple(names.index(name) for name in chosen) for chosen in wanted)
    futures = tuple(names.index(name) for name in known) if config.window.horizon else ()
    return Selected(inputs, targets, list(wanted[1]), futures)


def _refuse_to_look_ahead(config: Trainer, dataset: Dataset) -> None:
    """Refuses to give a model what its records' future holds.

    Raises:
        UsageError: an input that looks ahead, or a target that does where targets lie in the history.
    """
    ahead = [feature.name for feature in dataset.features if feature.ahead]
    if named := [name for name in config.inputs or () if name in ahead]:
        what = f"trainer.inputs: '{named[0]}' looks ahead, at what comes after its record"
        raise UsageError(what, todo="Leave it out: a feature that looks ahead can only be a target")
    if named := [
        feature.name for feature in dataset.features if feature.future and feature.name in (config.targets or ())
    ]:
        what = f"trainer.targets: '{named[0]}' is known ahead (pipeline.features.{named[0]}.future)"
        raise UsageError(what, todo="Leave it out: what is known need not be forecast")
    targets = [name for name in config.targets or ahead if name in ahead]
    if targets and not config.window.horizon and config.window.steps > 1:
        what = f"trainer.targets: '{targets[0]}' looks ahead, and with horizon 0 its records lie in the history"
        raise UsageError(what, todo="Set trainer.window.horizon: 1, or history: 1")


def refuse_unready(dataset: Dataset) -> None:
    """Refuses a dataset that is not whole.

    Raises:
        StoreError: failed dates, or statistics that lack a training date; names the command that mends it.
    """
    manifest = dataset.manifest
    if manifest.failed:
        dates = " ".join(map(str, manifest.failed[:5])) + (" ..." if len(manifest.failed) > 5 else "")
        kind = "its statistics are provisional, and " if manifest.provisional else ""
        raise StoreError(
            f"{kind}{counted(len(manifest.failed), 'date')} of this dataset failed: {dates}",
            where=Where(file=str(dataset.root)),
            todo=f"Mend them: {command('preprocess', '--only', 'failed', config=True)}; or leave them out: pipeline.exclude",
        )
    if manifest.provisional:
        raise StoreError(
            f"the statistics are provisional: they lack {', '.join(map(str, manifest.provisional[:5]))}",
            where=Where(file=str(dataset.root)),
            todo=to_run("preprocess", "--refit-statistics", config=True),
        )


def window_of(config: Trainer) -> Window:
    """The configured window."""
    window = config.window
    return Window(window.steps, window.horizon, window.stride, window.interval)


def shuffle_of(config: Trainer, dataset: Dataset, window: Window) -> Shuffle:
    """Resolves `loading.shuffle` from the training split of the data, never from the machine."""
    loading = config.loading
    if loading.days_per_batch == "auto":
        return sizing_of(config, dataset, window).largest(loading.memory_budget)
    return _resolve(config, dataset, window, loading.days_per_batch)


def _resolve(config: Trainer, dataset: Dataset, window: Window, days_per_batch: int | None) -> Shuffle:
    loading = config.loading
    days = [day for day in dataset.days if dataset.manifest.split_of(day.date) == "train"]
    setting: str | tuple[int, int] = "dates" if loading.policy == "streaming" else "auto"
    if loading.policy != "streaming":
        chosen = loading.shuffle
        setting = (chosen.days_per_run, chosen.runs_per_block) if isinstance(chosen, RunsShuffle) else chosen
    num_steps = sum(day.num_steps for day in days)
    return resolve_shuffle(setting, days_per_batch, window, num_steps, len(days), dataset.row_values * 4)


def sizing_of(config: Trainer, dataset: Dataset, window: Window) -> Sizing:
    """What the sizes of blocks are computed from."""
    plain = config.model_copy(update={"loading": Loading(prefetch=config.loading.prefetch)})  # of an `auto` shuffle

    def order(shuffle: Shuffle) -> Order:
        return order_of(dataset, "train", window, config.training.batch_size, shuffle, config.training.seed)

    return Sizing(
        dataset=dataset,
        window=window,
        config=config,
        order_of=order,
        shuffle_of_days=lambda days: _resolve(plain, dataset, window, days),
    )


def order_of(
    dataset: Dataset, split: str, window: Window, batch_size: int, shuffle: Shuffle, seed: int | None
) -> Order:
    """The order of one split; `seed` None keeps date order (evaluation)."""
    runs = runs_of(dataset, split, window, shuffle.days_per_run)
    return Order(
        runs=tuple(runs),
        stride=window.stride,
        batch_size=batch_size,
        runs_per_block=shuffle.runs_per_block,
        seed=seed,
        shuffle_runs=shuffle.shuffle_runs,
    )


def training_order(config: Trainer, dataset: Dataset, window: Window, shuffle: Shuffle) -> Order:
    """The order of the training split, of `training.sample_size` windows of it where that is set."""
    training = config.training
    order = order_of(dataset, "train", window, training.batch_size, shuffle, training.seed)
    if config.model.name == "ridge":  # solved from all windows at once
        return order
    size = training.sample_size
    whole = size is None or size >= order.num_anchors
    sample = None if whole or size is None else WindowSample(order.num_anchors, size, training.seed)
    return replace(order, sample=sample, drop_last=training.drop_last)


def evaluation_shuffle(shuffle: Shuffle) -> Shuffle:
    """Date order in blocks no larger than training's."""
    return shuffle if shuffle.days_per_run is None else Shuffle(shuffle.days_per_run, 1, shuffle_runs=False)


def make_reader(
    config: Trainer,
    dataset: Dataset,
    order: Order,
    wanted: BatchForm,
    share: int = 1,
    device: torch.device | None = None,
) -> Reader:
    """A reader as `trainer.loading` says.

    Args:
        share: processes of this machine among which the memory budget is divided.
        device: that trains on its batches; None: its batches stay on the host, wherever training's would lie.
    """
    policy = {"streaming": "blocks"}.get(config.loading.policy, config.loading.policy)
    loading, far = config.loading, device is not None and device.type != "cpu"
    resident = partial(devices.bytes_on, device) if far and device is not None else on_host
    return Reader(
        dataset,
        order,
        wanted,
        policy=policy,
        memory_budget=loading.memory_budget // share,
        prefetch=loading.prefetch,
        memory=devices.pinned_bytes if far else on_host,
        resident=resident if loading.resident_on and device is not None else None,
    )


def shape_of(dataset: Dataset, columns: Selected, heads: Sequence[Head], window: Window) -> Shape:
    """What the model must fit."""
    of_target = {place: head for head in heads for place in head.targets}
    each = [of_target[place] for place in range(len(columns.targets))]
    channels = tuple((len(head.channels) // len(head.targets), head.values_a_target) for head in each)
    return Shape(
        window=window,
        num_nodes=dataset.manifest.num_nodes,
        num_known_nodes=dataset.manifest.num_frozen_nodes if dataset.manifest.keeps_unknown else None,
        num_inputs=len(columns.inputs),
        num_outputs=sum(count for count, _ in channels),
        targets_in_inputs=columns.targets_in_inputs,
        steps_per_day=dataset.steps_per_day,
        input_codes=_codes_of(dataset, columns.inputs),
        target_codes=_codes_of(dataset, columns.targets),
        target_channels=channels,
        future_codes=_codes_of(dataset, columns.futures),
        columns=(1,) * len(columns.inputs) if dataset.manifest.layout == "table" else (),
        heads={head.name: head.channels for head in heads},
        static={name: Static.of(column) for name, column in dataset.static.items()},
        edges=Edges.of(dataset.edges) if dataset.manifest.edges else None,
    )


def _codes_of(dataset: Dataset, places: Sequence[int]) -> tuple[int, ...]:
    """How many codes each feature has, code 0 included; 0 for numbers."""
    counts = []
    for feature in (dataset.features[place] for place in places):
        categories = dataset.vocabularies.names[feature.name] if feature.categorical else ()
        counts.append(len(categories) + 1 if categories else 0)
    return tuple(counts)


def targets_of(config: Trainer, dataset: Dataset, columns: Selected) -> list[Target]:
    """The targets with their categories; classes are counted over the training dates where weights ask for it."""
    training = config.training
    asked = [training.class_weights, *(head.class_weights for head in (training.losses or {}).values())]
    targets = []
    for place in columns.targets:
        categories = target_of(dataset, place).categories
        counts = class_counts(dataset, place, len(categories)) if categories and "balanced" in asked else ()
        targets.append(replace(target_of(dataset, place), class_counts=counts))
    return targets


def target_of(dataset: Dataset, place: int) -> Target:
    """A feature as a target, with its categories or its scale."""
    feature = dataset.features[place]
    if feature.categorical:
        return Target(feature.name, dataset.vocabularies.names[feature.name])
    pivot, delta, spread = (
        torch.from_numpy(array[:, place].copy())
        for array in (dataset.scale.pivot_NF, dataset.scale.delta_NF, dataset.scale.spread_NF)
    )
    return Target(feature.name, scale=CountScale(pivot, delta, spread, feature.transform == "log1p"))


def class_counts(dataset: Dataset, place: int, num_categories: int) -> tuple[int, ...]:
    """How often each code of a categorical feature was observed in the training dates, or cuts, date by date."""
    counts = np.zeros(num_categories + 1, dtype=np.int64)
    for day in dataset.days:
        if dataset.manifest.split_of(day.date) == "train":
            values, seen = dataset.read_day(day)
            if (inside := rows_of(dataset, day, "train")) is not None:
                seen[~inside] = False
            counts += np.bincount(values[..., place][seen[..., place]].astype(np.int64), minlength=len(counts))
    return tuple(counts.tolist())


def form_of(
    config: Trainer, dataset: Dataset, columns: Selected, targets: Sequence[Target], heads: Sequence[Head]
) -> Form:
    """What is counted of these targets.

    Raises:
        UsageError: `metrics.custom` cannot be imported.
    """
    asked, size = config.metrics, config.training.batch_size
    plan = SamplePlan(
        config.training.seed, asked.buffer.train * size, asked.buffer.evaluation * size, asked.buffer_bytes
    )
    form = Form(
        heads=tuple(heads),
        targets=tuple(targets),
        num_steps=window_of(config).target_steps,
        num_nodes=dataset.manifest.num_nodes,
    )
    units = Units(dataset, [columns.targets[place] for place in form.numbers])
    shift = units.shift_scaled_F.numpy()
    far = bool((np.abs(shift) > NEAR).any())
    custom = own_metrics.load(asked.custom) if asked.custom else None
    return replace(form, units=units, shift_F=shift if far else None, plan=plan, custom=custom)


def make_session(config: Trainer, dataset: Dataset, checkpoints: Path, mesh: Mesh | None = None) -> Session:
    """A session at the very start: model drawn from the seed, readers open, nothing trained.

    Args:
        mesh: the processes that train together; None: this one alone.

    Raises:
        StoreError: the dataset is not ready. UsageError: the configuration does not fit it.
    """
    mesh = mesh or Mesh()
    refuse_unready(dataset)
    refuse_unshared(config, mesh.world)
    columns, window = choose_columns(config, dataset), window_of(config)
    shuffle = shuffle_of(config, dataset, window)
    targets = targets_of(config, dataset, columns)
    heads = make_heads(config.training, targets)
    refuse_solved(config, heads)
    refuse_strange_judge(config.metrics.judge, heads)
    refuse_other_steps(config.training.weights, window.target_steps)
    refuse_no_counts(dataset, columns.targets, targets, heads)
    device = devices.choose(config.training.device, mesh.local_rank if mesh.world > 1 else None)
    batch_size = config.training.batch_size
    order = training_order(config, dataset, window, shuffle)
    held = order_of(dataset, "validation", window, batch_size, evaluation_shuffle(shuffle), None)
    _refuse_empty(config, order, dataset, window)
    mask = any(dataset.has_mask(day.date) for day in dataset.days)
    counts = Counts(
        windows=order.num_windows,
        row_values=dataset.row_values,
        mask=mask,
        readers=2 if held.runs else 1,
        processes=mesh.local,
    )
    refuse_too_large(config, lambda other: needed(other, shape_of(dataset, columns, heads, window_of(other)), counts))
    if config.training.micro_batches:
        devices.compute_in_one_thread()
    devices.reseed(key(config.training.seed, 4))
    model = _checked_model(config, shape_of(dataset, columns, heads, window), device)
    uses = {name: bool(getattr(model, f"uses_{name}", False)) for name in ("codes", "known")}
    futures = columns.futures if getattr(model, "uses_future", False) else ()
    wanted = BatchForm(window=window, inputs=columns.inputs, targets=columns.targets, futures=futures, **uses)
    orders = [order, *([held] if held.runs else [])]
    readers = [make_reader(config, dataset, each, wanted, mesh.local, device) for each in orders]
    refuse_unresident(readers, config, device, mesh.local)
    if config.training.compile:
        compile_forward(model, device)
    return Session(
        config=config,
        model=model,
        train=readers[0],
        validation=readers[1] if held.runs else None,
        checkpoints=checkpoints,
        bound=bound(config, dataset, shuffle),
        environment=environment(
            device, 1 if config.training.micro_batches else mesh.world, compiled=config.training.compile
        ),
        device=device,
        mesh=mesh,
        heads=heads,
        state=State(loss_scale=LossScale() if config.training.precision == "fp16" else None),
        metrics=EpochMetrics.empty(
            form_of(config, dataset, columns, targets, heads), num_windows=order.num_windows, epoch=0
        ),
        optimizer=make_optimizer(config.training, model.parameters()),
    )


def _checked_model(config: Trainer, shape: Shape, device: torch.device) -> nn.Module:
    """The model of the configuration, on its device, tried on two windows of zeros."""
    model = build(shape, config.model).to(device)
    refuse_unfit(model, shape, config.model.name)
    if not num_parameters(model) and config.model.name != "ridge":
        what = f"the model '{config.model.name}' has no parameter that could be trained"
        raise UsageError(what, todo=f"Give it some; to evaluate baselines: {command('evaluate', config=True)}")
    refuse_uncomputed(model, shape, config, device)
    return model


def refuse_batch_of_one(session: Session) -> None:
    """Refuses a batch of one window where the model cannot train on it.

    Raises:
        UsageError: the model cannot train on one window (BatchNorm), and an epoch has a batch of one; names the key.
    """
    config, order, dataset = session.config, session.train.order, session.train.dataset
    training, last = config.training, order.num_batches - 1
    reached = training.max_steps is None or training.max_steps * training.accumulate > last
    shares = training.micro_batches or session.mesh.world
    batches = {order.windows_in(0, 1)} | ({order.windows_in(last, 1)} if reached else set())
    if session.optimizer is None or not any(1 in sizes_of(batch, shares) for batch in batches):
        return
    shape = shape_of(dataset, choose_columns(config, dataset), session.heads, window_of(config))
    if not (why := failure_in_training(session.model, shape, 1)):
        return
    where = f"the last batch of an epoch has one window ({order.num_windows:,} in batches of {order.batch_size:,})"
    todo = "Set trainer.training.drop_last: true, which leaves it out, or another batch_size"
    if order.batch_size == 1:
        where, todo = "every batch has one window", "Set trainer.training.batch_size to 2 or more, and drop_last: true"
    if shares > 1:
        kind = "micro-batches" if training.micro_batches else "processes"
        where = f"a batch ({order.num_windows:,} windows in batches of {order.batch_size:,}) is cut for {shares} {kind}"
        todo = f"Set trainer.training.batch_size to {2 * shares} or more, and drop_last: true"
    raise UsageError(f"the model '{config.model.name}' cannot train on a batch of one: {why}; {where}", todo=todo)


def _refuse_empty(config: Trainer, order: Order, dataset: Dataset, window: Window) -> None:
    if order.num_windows:
        return
    manifest = dataset.manifest
    if not any(manifest.split_of(date) == "train" for date in manifest.dates):
        ranges = ", ".join(f"{low}..{high}" for low, high in manifest.split.get("train", ()))
        what, todo = f"none of its training dates ({ranges}) is prepared", to_run("preprocess", config=True)
        raise StoreError(what, where=Where(file=str(dataset.root)), todo=todo)
    if order.num_anchors:
        few = counted(
            order.sample.size if order.sample else order.num_anchors, "training window does", "training windows do"
        )
        what = f"an epoch would have no batch: its {few} not fill one of {order.batch_size:,}"
        todo = "Lower trainer.training.batch_size, or set trainer.training.drop_last: false"
        raise UsageError(f"{what}, and trainer.training.drop_last leaves a short one out", todo=todo)
    longest = longest_piece(dataset, "train", window)
    history = config.window.history if window.interval else f"{window.history:,}"
    shape = f"history {history}, horizon {window.horizon:,}"
    raise UsageError(
        f"no training window fits (trainer.window: {shape}): the longest {longest.kind} has {longest.num_steps:,} "
        f"{'steps' if dataset.manifest.step else 'records'}, and a window takes {window.needed + window.reach:,}",
        where=Where(file=str(dataset.root)),
        todo="Shorten trainer.window, prepare more dates, or check pipeline.split",
    )
