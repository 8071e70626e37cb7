"""Models beside baselines on the same windows, none dropped, in scaled and in raw units.

Legend: B batch, H history, P target steps, N nodes, F target features.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from shardstore.dataset import Dataset
from shardstore.errors import UsageError
from trainer.batch import Batch, Wanted
from trainer.config import Trainer
from trainer.forecast import Forecast, of_model
from trainer.gram import windows_of
from trainer.guesses import Guess, guesses
from trainer.metrics import EpochMetrics, Form
from trainer.metrics.epoch import with_raw
from trainer.metrics.raw import hours_of
from trainer.models.ridge import Grid, Ridge, fit, told
from trainer.objective import make_heads
from trainer.order import Order, Window
from trainer.permutation import key
from trainer.ranking import Ranking, cell_errors, mean_errors
from trainer.session import (
    Columns,
    choose_columns,
    class_counts,
    evaluation_shuffle,
    form_of,
    make_reader,
    order_of,
    shuffle_of,
    targets_of,
    window_of,
)
from trainer.shown import Drawn, mapped
from trainer.table import Evaluation, Row
from trainer.units import Units

KNOWN = re.compile(r"mean|majority|repeat|seasonal:[1-9]\d*|ridge(:[1-9]\d*)?")
Numbers = Callable[[Batch], torch.Tensor]  # -> [B, P, N, F], the numeric targets alone


@dataclass(frozen=True, slots=True)
class Setting:
    """What all predictors of one evaluation share.

    Attributes:
        columns: its targets are the numeric ones alone, in the order of their heads.
        targets: places of all targets among the features, in the order of the configuration.
    """

    config: Trainer
    dataset: Dataset
    columns: Columns
    window: Window
    split: str
    form: Form
    targets: tuple[int, ...]


def evaluate(
    config: Trainer, dataset: Dataset, *, split: str, baselines: Sequence[str], model: tuple[str, nn.Module] | None
) -> Evaluation:
    """One pass over the split's windows, all predictors beside each other.

    Memory: one batch and what is counted of each predictor. Ridge is fitted on the training windows first.

    Raises:
        UsageError: the split has no window, or a baseline does not exist or reaches back too far.
    """
    setting = _setting(config, dataset, split)
    order = _order(config, dataset, setting.window, split)
    if not order.num_windows:
        splits = ", ".join(dataset.manifest.split)
        raise UsageError(
            f"split '{split}' has no window", todo=f"Name another with --split ({splits}), or set pipeline.split"
        )
    notes = list[str]()
    names = _fitting(baselines, setting, notes)
    units = setting.form.units
    assert units is not None, "form_of always gives them"
    reach, forecasts = _baselines(names, setting, units, notes)
    _refuse_reach(order, reach, setting.window)
    if model:
        forecasts[model[0]] = of_model(model[1], setting.form.heads, setting.columns.inputs, setting.window)
        if isinstance(model[1], Ridge):
            named = [target.name for target in setting.form.targets]  # as configured: the order of its weights
            notes.extend(f"{model[0]}: {part}" for part in told(named, model[1].tunings()))
    rivals = Rivals(reach, forecasts, model[0] if model else None)
    counted, ranking = _accumulate(setting, order, rivals)
    rows = [
        _row(name, part, setting, is_model=model is not None and name == model[0]) for name, part in counted.items()
    ]
    categorical = [setting.form.targets[head.targets[0]].name for head in setting.form.categorical]
    errors = [row.sampled["error"] for row in rows if row.sampled and row.sampled["error"]]
    notes += [f"metrics.custom: {error}" for error in dict.fromkeys(errors)]
    result = Evaluation(split, order.num_windows, setting.columns.target_names, rows, notes, categorical)
    if model:
        chosen = [name for name in (model[0], result.best_baseline) if name is not None]
        beside = {name: forecasts[name] for name in chosen}
        reader = make_reader(mapped(config), dataset, order, _wanted(setting, reach))
        result.shown.extend(Drawn(reader, setting.form, setting.targets, beside).windows(ranking.chosen()))
    return result


@dataclass(frozen=True, slots=True)
class Rivals:
    """All that forecast the same windows.

    Attributes:
        reach: steps of history that the one that looks back furthest needs. model: which of them is ranked by window.
    """

    reach: int
    forecasts: dict[str, Forecast]
    model: str | None


def _setting(config: Trainer, dataset: Dataset, split: str) -> Setting:
    columns = choose_columns(config, dataset)
    targets = targets_of(config, dataset, columns)
    form = form_of(config, dataset, columns, targets, make_heads(config.training, targets))
    assert form.units is not None, "form_of always gives them"
    form = replace(form, shift_F=form.units.shift_scaled_F.numpy())
    names = [columns.target_names[place] for place in form.numbers]
    numbers = Columns(columns.inputs, tuple(columns.targets[place] for place in form.numbers), names)
    return Setting(config, dataset, numbers, window_of(config), split, form, columns.targets)


def _fitting(baselines: Sequence[str], setting: Setting, notes: list[str]) -> list[str]:
    """The baselines that apply to these targets and this window; `mean` brings `majority` along for categories."""
    names = list(baselines)
    if setting.form.categorical and "mean" in names and "majority" not in names:
        names.insert(names.index("mean") + 1, "majority")
    if not setting.window.horizon and any(name not in ("mean", "majority") for name in names):
        if unknown := [name for name in names if not KNOWN.fullmatch(name)]:
            raise _unknown(unknown[0])
        names = [name for name in names if name in ("mean", "majority")]
        notes.append("horizon 0: the baselines that forecast (repeat, seasonal, ridge) do not apply")
    if not setting.form.numbers:
        names = [name for name in names if name.partition(":")[0] not in ("mean", "ridge")]
    return names


def _baselines(
    names: Sequence[str], setting: Setting, units: Units, notes: list[str]
) -> tuple[int, dict[str, Forecast]]:
    """(steps of history that they need, {name: forecast})."""
    reach, forecasts = setting.window.history, dict[str, Forecast]()
    places = {}
    for head in setting.form.categorical:
        place, target = setting.targets[head.targets[0]], setting.form.targets[head.targets[0]]
        places[head.name] = (place, class_counts(setting.dataset, place, len(target.categories)))
    for name in names:
        chosen = guesses(name, places, setting.window.target_steps, setting.window.history) if places else None
        numbers: tuple[int, Numbers] | None = None
        if setting.form.numbers and not (name == "majority" and places):
            numbers = _baseline(name, setting, units, notes)
        elif chosen is None:
            raise _unknown(name)
        season = int(name.partition(":")[2] or 1) if name.startswith("seasonal:") else 1
        reach = max(reach, numbers[0] if numbers else season)
        forecasts[name] = _joined(setting.form, numbers[1] if numbers else None, chosen or {})
    return reach, forecasts


def _joined(form: Form, numbers: Numbers | None, chosen: Mapping[str, Guess]) -> Forecast:
    """A baseline's forecast by head: its numbers cut by their heads, and its guesses."""
    sizes = {head.name: len(head.targets) for head in form.heads if head.loss != "cross_entropy"}

    def forecast(batch: Batch) -> dict[str, torch.Tensor]:
        told = {name: guess(batch) for name, guess in chosen.items()}
        if numbers is not None:
            parts = torch.split(numbers(batch), list(sizes.values()), dim=-1)
            told |= dict(zip(sizes, parts, strict=True))
        return told

    return forecast


def _row(name: str, counted: EpochMetrics, setting: Setting, *, is_model: bool) -> Row:
    features = setting.columns.target_names
    told = {target: part for target, part in counted.classes_by_target().items() if part["count"]}
    return Row(
        name,
        "model" if is_model else "baseline",
        counted.sums.report(features),
        counted.raw.report(features, setting.dataset.nodes.names) if counted.raw else {},
        told,
        counted.sampled(),
        counted.loss() if is_model else None,
    )


def _order(config: Trainer, dataset: Dataset, window: Window, split: str) -> Order:
    shuffle = evaluation_shuffle(shuffle_of(config, dataset, window))
    return order_of(dataset, split, window, config.training.batch_size, shuffle, None)


def _refuse_reach(order: Order, reach: int, window: Window) -> None:
    """A seasonal baseline may look further back than the model; every window must have that history."""
    most = _history_of(order, window)
    if reach > most:
        raise UsageError(
            f"a baseline looks {reach} steps back, and the first windows of this split have {most} steps before them",
            todo="Name a shorter season in --baselines, or raise trainer.window.history",
        )


def _history_of(order: Order, window: Window) -> int:
    """Steps that lie before every window's forecast: at least the model's own history."""
    return max(window.history, min((run.first for run in order.runs), default=0))


def within_reach(
    config: Trainer, dataset: Dataset, split: str, baselines: Sequence[str]
) -> tuple[list[str], list[str]]:
    """(the baselines that every window of the split has history for, a note for each other).

    A date that is missing begins a new stretch, whose first windows have no more than the model's history before them.
    """
    window = window_of(config)
    kept, notes, most = list[str](), list[str](), _history_of(_order(config, dataset, window, split), window)
    for name in baselines:
        match = re.fullmatch(r"(?:seasonal|ridge):([1-9]\d*)", name)
        if match and window.horizon and int(match[1]) > most:
            notes.append(f"{name} left out: the first windows have {most:,} steps before them")
        else:
            kept.append(name)
    return kept, notes


def _wanted(setting: Setting, reach: int) -> Wanted:
    """Batches hold all features and `reach` steps of history."""
    window = Window(reach, setting.window.horizon, setting.window.stride) if setting.window.horizon else setting.window
    return Wanted(window, tuple(range(len(setting.dataset.features))), setting.targets, codes=True)


@torch.no_grad()
def _accumulate(setting: Setting, order: Order, rivals: Rivals) -> tuple[dict[str, EpochMetrics], Ranking]:
    """What is counted of every predictor, and how the windows rank by the model's errors."""
    window, wanted = setting.window, _wanted(setting, rivals.reach)
    reader = make_reader(setting.config, setting.dataset, order, wanted)
    form, floor = setting.form, setting.config.metrics.mape_floor
    counted = {}
    for name in rivals.forecasts:
        empty = EpochMetrics.empty(form, num_windows=order.num_windows, thorough=True)
        counted[name] = with_raw(empty, floor)
    stretch = max(1, window.target_steps // window.stride)
    ranking = Ranking(order.num_windows, stretch, key(setting.config.training.seed, 6))
    begin, step_ns = wanted.window.history if window.horizon else 0, setting.dataset.manifest.step
    for number, batch in enumerate(reader.batches(0)):
        hours = hours_of(batch.codes_BW, begin, window.target_steps, step_ns)
        for name, forecast in rivals.forecasts.items():
            predicted, found = forecast(batch), {}
            if name == rivals.model:
                found = {head.name: head.sums(predicted[head.name], batch) for head in form.heads}
                if (cells := cell_errors(form, predicted, batch)) is not None:
                    ranking.add(order.positions(number), mean_errors(cells, (1, 2, 3)))
            counted[name].add(predicted, batch, found, order.positions(number))
            counted[name].add_raw(predicted, batch, hours)
    return counted, ranking


def _baseline(name: str, setting: Setting, units: Units, notes: list[str]) -> tuple[int, Numbers]:
    """(steps of history that it needs, forecast)."""
    targets, steps = list(setting.columns.targets), setting.window.target_steps
    if name == "repeat":
        return 1, lambda batch: batch.history_BHNF[:, -1:, :, targets].expand(-1, steps, -1, -1)
    if name == "mean":
        return 1, lambda batch: units.mean_scaled_NF.expand(batch.size, steps, -1, -1)
    if match := re.fullmatch(r"seasonal:([1-9]\d*)", name):
        season = int(match[1])
        back = [step % season - season for step in range(steps)]  # the last season, repeated over the horizon
        return season, lambda batch: batch.history_BHNF[:, back][..., targets]
    if match := re.fullmatch(r"ridge(?::([1-9]\d*))?", name):
        reach = int(match[1] or setting.window.history)
        return reach, _fitted_ridge(name, reach, setting, notes)
    raise _unknown(name)


def _unknown(name: str) -> UsageError:
    if name == "majority":
        return UsageError("baseline 'majority' is for categorical targets, and there is none", todo="Take mean")
    return UsageError(
        f"there is no baseline '{name}'", todo="Choose from repeat, mean, majority, seasonal:STEPS, ridge, ridge:STEPS"
    )


def _fitted_ridge(name: str, reach: int, setting: Setting, notes: list[str]) -> Numbers:
    """Ridge on the targets' own history, up to `reach` steps of it, tuned on validation."""
    window, targets, config = setting.window, setting.columns.targets, setting.config.model
    ridge = Ridge(reach, window.horizon, tuple(range(len(targets))))
    train, held = (windows_of(setting.dataset, split, window, targets, reach) for split in ("train", "validation"))
    if not train.runs:
        what = f"baseline '{name}': no training window has {reach} steps of history"
        raise UsageError(what, todo="Name a shorter one in --baselines, or leave it out")
    grid = Grid(config.penalties, config.histories, config.normalisations)
    chosen = fit(ridge, train, held, grid, lambda: False)
    notes.extend(f"{name}: {part}" for part in told(setting.columns.target_names, ridge.tunings()))
    if any(one.errors for one in chosen):
        notes.append(f"{name}: the best of {len(grid.tunings(reach))} on validation, for each target")
    else:
        notes.append(f"{name}: no validation windows to choose on")
    for target, one in zip(setting.columns.target_names, chosen, strict=True):
        if one.longest < reach:
            notes.append(f"{name}: {target}: equations of more than {one.longest} steps of history exceed 1 GiB")
    return lambda batch: ridge(batch.history_BHNF[:, -reach:][..., list(targets)])
