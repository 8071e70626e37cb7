"""Models beside baselines on the same windows, none dropped, in scaled and in raw units.

Legend: B batch, H history, P target steps, N nodes, F target features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from dateshard.shardstore.commands import command
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import UsageError, counted
from dateshard.trainer.assessment.baseline_comparison import Measure
from dateshard.trainer.assessment.baselines import (
    BATCH_BYTES,
    DAY_NS,
    Baselines,
    Setting,
    order_to_judge,
    refuse_reach,
    window_bytes,
)
from dateshard.trainer.assessment.evaluation import Evaluation, Row
from dateshard.trainer.assessment.example_windows import Drawn, DrawnEnds, mapped
from dateshard.trainer.assessment.forecaster import Forecast, bounded, of_model
from dateshard.trainer.assessment.interval_judge import RAW, IntervalJudge, Intervalled
from dateshard.trainer.assessment.intervals import Intervals
from dateshard.trainer.assessment.paired import ErrorsByUnit, compare, units_of
from dateshard.trainer.assessment.period import Period, TimelessPeriod
from dateshard.trainer.assessment.quantiles import RawQuantiles
from dateshard.trainer.assessment.ranking import Ranking, cell_errors, mean_errors
from dateshard.trainer.bounds import points_within, scaled_bounds
from dateshard.trainer.config import Trainer, code_of_baseline
from dateshard.trainer.data.order import Order
from dateshard.trainer.data.permutation import key
from dateshard.trainer.data.window_dates import InstantOf
from dateshard.trainer.data.window_sample import WindowSample
from dateshard.trainer.metrics import EpochMetrics
from dateshard.trainer.metrics.epoch import with_raw
from dateshard.trainer.metrics.interval_scores import IntervalScores
from dateshard.trainer.metrics.raw_errors import hours_of
from dateshard.trainer.models.ridge import Ridge, tuning_notes
from dateshard.trainer.optimization.objective import make_heads
from dateshard.trainer.setup import Selected, choose_columns, form_of, make_reader, targets_of, window_of

LEVEL = 0.9  # of intervals, where none is asked for
TWIN = 1e-6  # relative difference of two errors that are those of one map
APART = 1.5  # ratio of a baseline's errors from which on the splits are said to differ in difficulty


def evaluate(
    config: Trainer,
    dataset: Dataset,
    *,
    split: str,
    baselines: Sequence[str],
    model: tuple[str, nn.Module] | None,
    intervals: Intervals | None = None,
) -> Evaluation:
    """One pass over the split's windows, all predictors beside each other.

    Memory: one batch and what is counted of each predictor. Ridge is fitted on the training windows first. With
    `baseline_windows` a second pass over a sample of windows judges the user's own functions, and all others again.

    Args:
        intervals: the model's; without them quantiles of baselines are judged at `LEVEL`.

    Raises:
        UsageError: the split has no window, or a baseline does not exist or reaches back too far.
    """
    setting = _setting(config, dataset, split, LEVEL if intervals is None else intervals.level)
    order = order_to_judge(config, dataset, setting.window, split)
    if not order.num_windows:
        splits = ", ".join(dataset.manifest.split)
        raise UsageError(
            f"split '{split}' has no window", todo=f"Name another with --split ({splits}), or set pipeline.split"
        )
    made = Baselines.of(baselines, setting)
    notes, forecasts = made.notes, made.forecasts
    refuse_reach(order, made.reach, setting.window)
    most = BATCH_BYTES // window_bytes(dataset, made.reach, setting.window)
    order = replace(order, batch_size=max(1, min(order.batch_size, most)))
    if model:
        forecasts[model[0]] = of_model(model[1], setting.form.heads, setting.columns.inputs, setting.window)
        if isinstance(model[1], Ridge):
            named = [target.name for target in setting.form.targets]  # as configured: the order of its weights
            notes.extend(f"{model[0]}: {note}" for note in tuning_notes(named, model[1].tunings()))
    bounds = scaled_bounds(config, dataset, setting.columns.targets)
    forecasts = {name: bounded(forecast, setting.form.heads, bounds) for name, forecast in forecasts.items()}
    intervalled = Intervalled(
        model=(model[0], intervals) if model and intervals else None,
        own={name: own.quantiles for name, own in made.own.items()},
        bounds_2NF=bounds,
        reader=RawQuantiles.of(config, dataset, setting.form.heads, setting.columns.targets),
    )
    rivals = Rivals(made.reach, forecasts, model[0] if model else None, intervalled)
    few = _sampled(order, config, rivals, notes)
    ridge = bool(model and isinstance(model[1], Ridge))
    follow = Period.of(dataset, order, setting.window, setting.form, setting.scored) if model else None
    result, ranking, ends = _table(setting, order, rivals if few is None else rivals.quick, ridge=ridge, follow=follow)
    sample = None if few is None else _table(setting, few, rivals, ridge=ridge)[0]
    unseen = _of_unseen_nodes(setting, order, rivals.quick if few is not None else rivals)
    rows = result.rows + (sample.rows if sample else [])
    _refuse_blind(rows, split, order.num_windows, notes)
    if sample is not None and not any(map(_observed, sample.rows)):
        notes.append(
            f"no target of the {counted(sample.windows, 'window')} of the sample was observed: raise baseline_windows"
        )
    errors = [row.sampled["error"] for row in rows if row.sampled and row.sampled["error"]]
    notes += [f"metrics.custom: {error}" for error in dict.fromkeys(errors)]
    difficulty = _difficulty(made.errors, split, result.rows)
    notes += _apart(difficulty)
    result = replace(result, notes=notes, difficulty=difficulty, sample=sample, unseen=unseen)
    if model:
        result.shown.extend(_drawn(setting, order, rivals, result.best_baseline, ends).windows(ranking.chosen()))
    return result


def _of_unseen_nodes(setting: Setting, order: Order, rivals: Rivals) -> Evaluation | None:
    """The table of the nodes that training never saw; None where there are none, or no target of them was observed."""
    manifest = setting.dataset.manifest
    if not manifest.num_new_nodes:
        return None
    apart = replace(setting, scored=slice(manifest.num_frozen_nodes, None))
    table = replace(_table(apart, order, rivals, ridge=False)[0], unseen_nodes=manifest.num_new_nodes)
    return table if any(map(_observed, table.rows)) else None


def _drawn(setting: Setting, order: Order, rivals: Rivals, best_baseline: str | None, ends: DrawnEnds) -> Drawn:
    """What draws windows of the model and the best baseline."""
    beside = {name: rivals.forecasts[name] for name in (rivals.model, best_baseline) if name is not None}
    given = None if rivals.model is None else beside[rivals.model]
    if rivals.model is not None:
        outputs, heads, bounds = beside[rivals.model], setting.form.heads, rivals.intervalled.bounds_2NF
        beside[rivals.model] = lambda batch: points_within(outputs(batch), heads, bounds)
    return Drawn(
        reader=make_reader(mapped(setting.config), setting.dataset, order, setting.wanted(rivals.reach)),
        form=setting.form,
        targets=setting.targets,
        forecasts=beside,
        instant_of=rivals.instant_of(setting, order),
        ends=ends,
        level=setting.level,
        quantiles=rivals.intervalled.reader,
        outputs=given,
    )


def _horizon_days(setting: Setting) -> int:
    """Dates after the anchor's own that one window's targets may reach over, at least one."""
    return max(1, math.ceil(setting.window.target_steps * setting.dataset.manifest.step / DAY_NS))


def _sampled(order: Order, config: Trainer, rivals: Rivals, notes: list[str]) -> Order | None:
    """The windows on which slow baselines are judged, spread evenly over the split; None: all of them."""
    size = config.baseline_windows
    if size is None or size >= order.num_windows:
        return None
    if rivals.quick.forecasts.keys() == rivals.forecasts.keys():
        notes.append("baseline_windows is for functions of your own, and there is none: every row is of all windows")
        return None
    return replace(order, sample=WindowSample(order.num_windows, size, config.training.seed))


def _table(
    setting: Setting, order: Order, rivals: Rivals, *, ridge: bool, follow: Period | TimelessPeriod | None = None
) -> tuple[Evaluation, Ranking, DrawnEnds]:
    """Judges all rivals on the same windows; returns how these rank by the model's errors too, and its intervals.

    Args:
        ridge: the model is a trained ridge: the baseline that is the same map is no rival.
        follow: keeps what the model forecast over time, where time goes by.
    """
    counted, by_unit, ranking, scores, ends = _accumulate(setting, order, rivals, follow)
    rows = [_row(name, metrics, setting, is_model=name == rivals.model) for name, metrics in counted.items()]
    nodes = setting.dataset.nodes.names
    intervals = {name: score.report(setting.columns.target_names, nodes) for name, score in scores.items()}
    rows = [replace(row, interval=intervals.get(row.name)) for row in rows]
    own = {row.name: intervals.get(RAW) for row in rows if row.kind == "model"}
    rows = [
        row if row.interval is None else replace(row, interval=row.interval | {"own": own.get(row.name)})
        for row in rows
    ]
    manifest = setting.dataset.manifest
    result = Evaluation(
        split=setting.split,
        windows=order.num_windows,
        features=setting.columns.target_names,
        rows=rows,
        notes=[],
        categorical=[setting.form.targets[head.targets[0]].name for head in setting.form.categorical],
        twins=_twins(rows) if ridge else [],
        measure=measure_of(setting.config),
        history=setting.window.history,
        split_by=manifest.cut if manifest.split_cuts else None,
        by_row=manifest.by_row,
    )
    if rivals.model is not None:
        days = None if manifest.split_cuts else _horizon_days(setting)
        for row in result.rivals:
            result.comparisons.extend(compare(by_unit[rivals.model], by_unit[row.name], row.name, days, result.measure))
        if follow is not None and any(map(_observed, rows)):
            beside = [name for name in (rivals.model, result.best_baseline) if name is not None]
            figures = {name: raw for name in beside if (raw := counted[name].raw) is not None}
            result = replace(result, period=follow.report(figures))
    return result, ranking, ends


def measure_of(config: Trainer) -> Measure:
    """The error of numbers that decides a verdict: the absolute one if that is what judges, else the squared one."""
    return "mae" if config.metrics.judge == "mae" else "mse"


def _refuse_blind(rows: Sequence[Row], split: str, num_windows: int, notes: list[str]) -> None:
    """Notes numeric targets that no cell of was observed.

    Raises:
        UsageError: no cell of any target was.
    """
    if rows and not any(map(_observed, rows)):
        what = f"not one target of the {counted(num_windows, 'window')} of split '{split}' was observed: nothing can be judged"
        todo = f"Name another with --split, or look at its dates: {command('inspect', split, config=True)}"
        raise UsageError(what, todo=todo)
    for row in rows[:1]:
        blind = [name for name, errors in row.scaled["by_feature"].items() if not errors["count"]]
        notes += [f"{name}: no cell of it was observed on the dates of split '{split}'" for name in blind]


def _observed(row: Row) -> bool:
    return bool(row.scaled["count"] or row.classes)


@dataclass(frozen=True, slots=True)
class Rivals:
    """All that forecast the same windows.

    Attributes:
        reach: steps of history that the one that looks back furthest needs.
        model: which of them gives all its outputs, has a loss, and is ranked by window; the others give points.
        intervalled: those that have intervals, and the bounds of all numbers.
    """

    reach: int
    forecasts: dict[str, Forecast]
    model: str | None
    intervalled: Intervalled = field(default_factory=Intervalled)

    @property
    def quick(self) -> Rivals:
        """The rivals that are built in, and the model."""
        quick = {name: forecast for name, forecast in self.forecasts.items() if code_of_baseline(name) is None}
        return replace(self, forecasts=quick)

    def instant_of(self, setting: Setting, order: Order) -> InstantOf | None:
        """When the steps of windows are, where a function of the user's own is told."""
        if any(code_of_baseline(name) is not None for name in self.forecasts):
            return InstantOf(setting.dataset, order, setting.wanted(self.reach).window)
        return None


def _setting(config: Trainer, dataset: Dataset, split: str, level: float) -> Setting:
    columns = choose_columns(config, dataset)
    targets = targets_of(config, dataset, columns)
    form = form_of(config, dataset, columns, targets, make_heads(config.training, targets))
    assert form.units is not None, "form_of always gives them"
    form = replace(form, shift_F=form.units.shift_scaled_F.numpy())
    names = [columns.target_names[place] for place in form.numbers]
    numbers = Selected(columns.inputs, tuple(columns.targets[place] for place in form.numbers), names, columns.futures)
    return Setting(
        config=config,
        dataset=dataset,
        columns=numbers,
        window=window_of(config),
        split=split,
        form=form,
        targets=columns.targets,
        scored=slice(dataset.manifest.num_frozen_nodes) if dataset.manifest.num_new_nodes else None,
        level=level,
    )


def _row(name: str, counted: EpochMetrics, setting: Setting, *, is_model: bool) -> Row:
    features = setting.columns.target_names
    by_target = {target: report for target, report in counted.classes_by_target().items() if report["count"]}
    return Row(
        name=name,
        kind="model" if is_model else "baseline",
        scaled=counted.sums.report(features),
        raw=counted.raw.report(features, setting.dataset.nodes.names) if counted.raw else {},
        classes=by_target,
        sampled=counted.sampled(),
        loss=counted.loss() if is_model else None,
    )


def _twins(rows: Sequence[Row]) -> list[str]:
    """The ridges whose errors are those of a trained ridge, but for the last digits: they are the same map."""
    mine = next(row.scaled for row in rows if row.kind == "model")
    ridges = (row for row in rows if row.kind == "baseline" and row.name.partition(":")[0] == "ridge")
    return [
        row.name for row in ridges if all(math.isclose(row.scaled[k], mine[k], rel_tol=TWIN) for k in ("mse", "mae"))
    ]


def _difficulty(errors: Mapping[str, float], split: str, rows: Sequence[Row]) -> dict[str, float]:
    """Returns {split: squared error of the ridge}, of those that it was fitted and chosen on and of the one that is judged."""
    judged = next((row.scaled["mse"] for row in rows if row.name == "ridge"), None)
    return dict(errors) if judged is None else {**errors, split: judged}


def _apart(difficulty: Mapping[str, float]) -> list[str]:
    """A note where the splits differ much in how hard they are to forecast."""
    if len(difficulty) < 2 or max(difficulty.values()) <= APART * min(difficulty.values()):
        return []
    errors = ", ".join(f"{split} {error:.3g}" for split, error in difficulty.items())
    return [f"the splits differ in difficulty (squared error of ridge: {errors}), so their losses cannot be compared"]


@torch.no_grad()
def _accumulate(
    setting: Setting, order: Order, rivals: Rivals, follow: Period | TimelessPeriod | None
) -> tuple[dict[str, EpochMetrics], dict[str, ErrorsByUnit], Ranking, Mapping[str, IntervalScores], DrawnEnds]:
    """What is counted of every predictor, its errors by date or cut, how windows rank, scores and ends of intervals."""
    window, wanted = setting.window, setting.wanted(rivals.reach)
    reader = make_reader(setting.config, setting.dataset, order, wanted)
    form, floor = setting.form, setting.config.metrics.mape_floor
    counted = {}
    for name in rivals.forecasts:
        empty = EpochMetrics.empty(form, num_windows=order.num_windows, thorough=True)
        counted[name] = with_raw(empty, floor)
    num_units, unit_of = units_of(setting.dataset, order, setting.split)
    by_unit = {name: ErrorsByUnit(form, num_units) for name in rivals.forecasts}
    stretch = max(1, window.target_steps // window.stride)
    ranking = Ranking(order.num_windows, stretch, key(setting.config.training.seed, 6))
    judge, ends = IntervalJudge(setting, order, rivals.intervalled), DrawnEnds()
    begin, step_ns = wanted.window.history if window.horizon else 0, setting.dataset.code_length
    instant_of = rivals.instant_of(setting, order)
    for number, batch in enumerate(reader.batches(0)):
        if instant_of is not None:
            batch = instant_of.on(batch, order.positions(number))
        hours = hours_of(batch.codes_BW, begin, window.target_steps, step_ns)
        unit_B = unit_of(order.positions(number))
        given, batch = batch, setting.judged(batch)
        for name, forecast in rivals.forecasts.items():
            predicted, losses, cells = forecast(given), {}, None
            outputs = predicted
            if name == rivals.model:
                losses = {head.name: head.sums(predicted[head.name], batch) for head in form.heads}
                predicted = points_within(predicted, form.heads, rivals.intervalled.bounds_2NF)
                if (cells := cell_errors(form, predicted, batch)) is not None:
                    ranking.add(order.positions(number), mean_errors(cells, (1, 2, 3)))
            counted[name].add(predicted, batch, losses, order.positions(number))
            counted[name].add_raw(predicted, batch, hours)
            by_unit[name].add(predicted, batch, unit_B)
            judge.add(name, predicted, batch, hours, order.positions(number), outputs)
            if cells is not None and judge.model_2BPNF is not None:
                ends.add(ranking, order.positions(number), cells, judge.model_2BPNF)
            if follow is not None and name == rivals.model:
                follow.add(order.positions(number), predicted, batch, judge.model_2BPNF)
    return counted, by_unit, ranking, judge.scores(), ends
