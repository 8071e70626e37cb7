"""Models beside baselines on the same windows, none dropped, in scaled and in raw units.

Legend: B batch, H history, P target steps, N nodes, F target features.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from shardstore.dataset import Dataset
from shardstore.errors import UsageError
from trainer.batch import Batch, Wanted
from trainer.config import Trainer
from trainer.gram import scaled_means, windows_of
from trainer.metrics import Sums
from trainer.models.ridge import Grid, Ridge, fit, told
from trainer.order import Order, Window
from trainer.session import (
    Columns,
    choose_columns,
    evaluation_shuffle,
    make_reader,
    order_of,
    shuffle_of,
    window_of,
)

Forecast = Callable[[Batch], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: `scaled` and `raw` are reports of `Sums`."""

    name: str
    kind: str  # baseline | model
    scaled: dict[str, Any]
    raw: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The table. `beats_baselines` is None without a model."""

    split: str
    windows: int
    features: list[str]
    rows: list[Row]
    notes: list[str]

    @property
    def beats_baselines(self) -> bool | None:
        """Whether the model's scaled MSE is below every baseline's."""
        models = [row.scaled["mse"] for row in self.rows if row.kind == "model" and row.scaled["mse"] is not None]
        others = [row.scaled["mse"] for row in self.rows if row.kind == "baseline" and row.scaled["mse"] is not None]
        return min(models) < min(others) if models and others else None

    def to_json(self) -> dict[str, Any]:
        """The document that `evaluate --json` prints. Overall raw figures are null where features differ in unit."""
        rows = []
        for row in self.rows:
            one_unit = len(self.features) == 1
            raw = {
                **({k: v if one_unit else None for k, v in _overall(row.raw).items()}),
                "by_feature": row.raw["by_feature"],
            }
            scaled = {**_overall(row.scaled), "by_feature": row.scaled["by_feature"]}
            steps = [
                {"scaled": _overall(s), "raw": _overall(r) if one_unit else None}
                for s, r in zip(row.scaled["by_horizon"], row.raw["by_horizon"], strict=True)
            ]
            rows.append({"name": row.name, "kind": row.kind, "scaled": scaled, "raw": raw, "by_horizon": steps})
        return {
            "split": self.split,
            "windows": self.windows,
            "features": self.features,
            "rows": rows,
            "beats_baselines": self.beats_baselines,
            "notes": self.notes,
        }


def _overall(report: dict[str, Any]) -> dict[str, Any]:
    return {key: report[key] for key in ("count", "mse", "rmse", "mae", "bias", "r2")}


class Units:
    """Scaled -> raw for the target features: float64, the inverse of scale and transform."""

    def __init__(self, dataset: Dataset, targets: Sequence[int]) -> None:
        scale, chosen = dataset.scale, list(targets)
        self.pivot, self.delta, self.spread = (
            torch.from_numpy(part[:, chosen].copy()) for part in (scale.pivot_NF, scale.delta_NF, scale.spread_NF)
        )
        self.logs = [k for k, t in enumerate(chosen) if dataset.features[t].transform == "log1p"]
        moments = dataset.statistics.merged.over_nodes().moments_6NF[:, :, chosen]
        mean = np.broadcast_to(moments[1] + moments[2], scale.pivot_NF[:, chosen].shape)
        self.mean_scaled_NF = (torch.from_numpy(mean.copy()) - self.pivot - self.delta) / self.spread
        self.mean_raw_NF = self.raw(self.mean_scaled_NF)
        self.shift_scaled_F = torch.tensor(scaled_means(dataset, chosen), dtype=torch.float64)

    def raw(self, values: torch.Tensor) -> torch.Tensor:
        """[..., N, F] scaled -> raw."""
        raw = (values.double() * self.spread + self.delta) + self.pivot
        for feature in self.logs:
            raw[..., feature] = torch.expm1(raw[..., feature])
        return raw


@dataclass(frozen=True, slots=True)
class Setting:
    """What all predictors of one evaluation share."""

    config: Trainer
    dataset: Dataset
    columns: Columns
    window: Window
    split: str


def evaluate(
    config: Trainer, dataset: Dataset, *, split: str, baselines: Sequence[str], model: tuple[str, nn.Module] | None
) -> Evaluation:
    """One pass over the split's windows, all predictors beside each other.

    Memory: one batch and the sums. Ridge is fitted on the training windows first.

    Raises:
        UsageError: the split has no window, or a baseline does not exist or reaches back too far.
    """
    setting = Setting(config, dataset, choose_columns(config, dataset), window_of(config), split)
    order = _order(setting, split)
    if not order.num_windows:
        raise UsageError(f"split '{split}' has no window", todo="Name another with --split, or set pipeline.split")
    forecasts: dict[str, Forecast] = {}
    reach, notes = setting.window.history, list[str]()
    if not setting.window.horizon and any(name != "mean" for name in baselines):
        baselines = [name for name in baselines if name == "mean"]
        notes.append("horizon 0: the baselines that forecast (repeat, seasonal, ridge) do not apply")
    units = Units(dataset, setting.columns.targets)
    for name in baselines:
        steps, forecasts[name] = _baseline(name, setting, units, notes)
        reach = max(reach, steps)
    _refuse_reach(order, reach, setting.window)
    if model:
        forecasts[model[0]] = _of_model(model[1], setting)
        if isinstance(model[1], Ridge):
            notes.extend(f"{model[0]}: {part}" for part in told(setting.columns.target_names, model[1].tunings()))
    sums = _accumulate(setting, order, reach, forecasts, units)
    rows = [
        Row(
            name,
            "model" if model and name == model[0] else "baseline",
            *(part.report(setting.columns.target_names) for part in pair),
        )
        for name, pair in sums.items()
    ]
    return Evaluation(split, order.num_windows, setting.columns.target_names, rows, notes)


def _order(setting: Setting, split: str) -> Order:
    shuffle = evaluation_shuffle(shuffle_of(setting.config, setting.dataset, setting.window))
    return order_of(setting.dataset, split, setting.window, setting.config.training.batch_size, shuffle, None)


def _refuse_reach(order: Order, reach: int, window: Window) -> None:
    """A seasonal baseline may look further back than the model; every window must have that history."""
    short = sum(1 for run in order.runs if run.first < reach)
    if short and reach > window.history:
        raise UsageError(
            f"a baseline looks {reach} steps back, further than the first windows of {short} stretch(es) have history",
            todo="Name a shorter season in --baselines, or raise trainer.window.history",
        )


@torch.no_grad()
def _accumulate(
    setting: Setting, order: Order, reach: int, forecasts: dict[str, Forecast], units: Units
) -> dict[str, tuple[Sums, Sums]]:
    """Both sums of every predictor. Batches hold all features and `reach` steps of history."""
    window = Window(reach, setting.window.horizon, setting.window.stride) if setting.window.horizon else setting.window
    everything = tuple(range(len(setting.dataset.features)))
    wanted = Wanted(window, everything, setting.columns.targets, codes=True)
    reader = make_reader(setting.config, setting.dataset, order, wanted)
    shape = (setting.window.target_steps, len(setting.columns.targets))
    sums = {name: (Sums.zeros(*shape), Sums.zeros(*shape)) for name in forecasts}
    for batch in reader.batches(0):
        raw_target = units.raw(batch.target_BPNF)
        for name, forecast in forecasts.items():
            predicted = forecast(batch).double()
            scaled, raw = sums[name]
            scaled.add(predicted, batch.target_BPNF, batch.observed_BPNF, units.shift_scaled_F)
            raw.add(units.raw(predicted), raw_target, batch.observed_BPNF, units.mean_raw_NF)
    return sums


def _of_model(model: nn.Module, setting: Setting) -> Forecast:
    """The model with its own inputs and its own history, out of a batch that may hold more of both."""
    history, length = setting.window.history, setting.window.length
    inputs = list(setting.columns.inputs)
    device = next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
    model.eval()

    def forecast(batch: Batch) -> torch.Tensor:
        codes = batch.codes_BW[:, -length:] if batch.codes_BW is not None else None
        own = batch.history_BHNF[:, -history:][..., inputs]
        out: torch.Tensor = model(own.to(device), None if codes is None else codes.to(device))
        return out.cpu()

    return forecast


def _baseline(name: str, setting: Setting, units: Units, notes: list[str]) -> tuple[int, Forecast]:
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
    todo = "Choose from repeat, mean, seasonal:STEPS, ridge, ridge:STEPS"
    raise UsageError(f"there is no baseline '{name}'", todo=todo)


def _fitted_ridge(name: str, reach: int, setting: Setting, notes: list[str]) -> Forecast:
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
