"""One accumulator for training, validation and test: losses, errors, categories and a sample of one pass.

Legend: B batch, P target steps, N nodes, F numeric targets, T targets, H heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from dateshard.trainer.data.batch import Batch
from dateshard.trainer.metrics.classes import Classes
from dateshard.trainer.metrics.custom import Custom
from dateshard.trainer.metrics.raw_errors import RawFigures
from dateshard.trainer.metrics.sample import MetricSample, SamplePlan, epoch_seed
from dateshard.trainer.metrics.sums import Floats, Sums, finite
from dateshard.trainer.metrics.units import Units
from dateshard.trainer.optimization.objective import Head, Summed, Target


@dataclass(frozen=True, kw_only=True)
class Form:
    """What is counted.

    Attributes:
        shift_F: about the training mean of the numeric targets, in scaled units; None: 0.
        units: of the numeric targets in the order of `numbers`; where given, a user's metric sees raw values.
        plan, custom: of the sample; without a user's metric none is kept.
    """

    heads: tuple[Head, ...]
    targets: tuple[Target, ...]
    num_steps: int
    num_nodes: int = 1
    shift_F: Floats | None = None
    units: Units | None = None
    plan: SamplePlan | None = None
    custom: Custom | None = None

    @cached_property
    def numeric(self) -> tuple[Head, ...]:
        """Heads of the numeric targets."""
        return tuple(head for head in self.heads if head.loss != "cross_entropy")

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """Places of the numeric targets, in the order of their heads."""
        return tuple(target for head in self.numeric for target in head.targets)

    @cached_property
    def categorical(self) -> tuple[Head, ...]:
        """Heads of the categorical targets."""
        return tuple(head for head in self.heads if head.loss == "cross_entropy")


@dataclass(slots=True, kw_only=True)
class EpochMetrics:
    """Everything that is counted over one pass.

    Attributes:
        losses_H3: of each head its sum, its count, and how many elements there are if nothing is missing; float64.
        sums: of the targets that are numbers, scaled. classes: {head: counts} of those that are categories.
        raw: errors in raw units, None unless asked for. sample: None unless something reads it.
        thorough: score histograms too (validation and test).
    """

    form: Form
    losses_H3: torch.Tensor
    sums: Sums
    classes: dict[str, Classes]
    thorough: bool
    sample: MetricSample | None = None
    raw: RawFigures | None = None

    @staticmethod
    def empty(form: Form, *, num_windows: int = 0, epoch: int = 0, thorough: bool = False) -> EpochMetrics:
        """Nothing seen yet, of a pass over `num_windows` windows."""
        counted = {
            head.name: Classes.none(form.targets[head.targets[0]].categories, form.num_steps, scores=thorough)
            for head in form.categorical
        }
        losses = torch.zeros(len(form.heads), 3, dtype=torch.float64)
        empty = EpochMetrics(
            form=form,
            losses_H3=losses,
            sums=Sums.zeros(form.num_steps, len(form.numbers)),
            classes=counted,
            thorough=thorough,
        )
        if form.plan is not None and form.custom is not None:
            most = form.plan.evaluation if thorough else form.plan.train
            shape = (form.num_steps, form.num_nodes, len(form.targets))
            seed = epoch_seed(form.plan.seed, epoch)
            empty.sample = MetricSample(num_windows, most, form.plan.num_bytes, shape, seed)
        return empty

    def fresh(self, epoch: int = 0) -> EpochMetrics:
        """Another one for the same windows in another epoch, nothing seen yet."""
        windows = self.sample.num_windows if self.sample else 0
        return EpochMetrics.empty(self.form, num_windows=windows, epoch=epoch, thorough=self.thorough)

    def add(
        self,
        forecast: Mapping[str, torch.Tensor],
        batch: Batch,
        losses: Mapping[str, Summed],
        positions: range | None = None,
    ) -> None:
        """Adds a batch.

        Args:
            forecast: [B, P, N, channels] by head; a predictor may leave heads out.
            losses: (sum, count) of each head's loss.
            positions: of the windows in the epoch, for the sample.
        """
        cells = batch.target_BPNF.shape[:3].numel()
        for row, head in zip(self.losses_H3.numpy(), self.form.heads, strict=True):
            if head.name in losses:
                for place, number in enumerate((*losses[head.name], cells * len(head.targets))):
                    row[place] += float(number)
        for head in self.form.categorical:
            if head.name in forecast:
                place = head.targets[0]
                seen = None if batch.observed_BPNF is None else batch.observed_BPNF[..., place]
                self.classes[head.name].add(forecast[head.name], batch.target_BPNF[..., place], seen)
        numbers = numbers_of(self.form, forecast, batch)
        if numbers is not None:
            self.sums.add(*numbers, self.form.shift_F)
        if len(forecast) < len(self.form.heads):
            self.sample = None  # of a predictor that leaves targets out
        if self.sample is not None and positions is not None:
            self.sample.add(positions, _values(self.form, forecast), batch.target_BPNF, batch.observed_BPNF)

    def add_raw(self, forecast: Mapping[str, torch.Tensor], batch: Batch, hours_BP: Any) -> None:
        """Adds a batch to the errors in raw units."""
        numbers = numbers_of(self.form, forecast, batch)
        if self.raw is not None and numbers is not None:
            self.raw.add(*numbers, hours_BP)

    def loss(self) -> float | None:
        """What training minimises, over everything seen; None where nothing was observed or it is no number."""
        count, planned = (float(column) for column in self.losses_H3[:, 1:].sum(0))
        if not count:
            return None
        rows = zip(self.form.heads, self.losses_H3, strict=True)
        return finite(sum(head.weight * float(row[0] / row[2]) for head, row in rows) * planned / count)

    def losses(self) -> dict[str, float | None]:
        """Returns {head: mean of its loss over its observed elements; None where that is no number}."""
        rows = zip(self.form.heads, self.losses_H3.tolist(), strict=True)
        return {head.name: finite(total / count) if count else None for head, (total, count, _) in rows}

    def accuracy(self) -> float | None:
        """Share of right forecasts over all categorical targets; None where there is none."""
        total = (
            np.sum([counted.classes_3K.sum(1) for counted in self.classes.values()], axis=0)
            if self.classes
            else np.zeros(3)
        )
        return float(total[2] / total[0]) if total[0] else None

    def report(self) -> dict[str, Any]:
        """All of it but the raw errors: numbers also by feature and target step, categories by class."""
        names = [self.form.targets[place].name for place in self.form.numbers]
        return {
            "loss": self.loss(),
            "losses": self.losses(),
            "accuracy": self.accuracy(),
            **self.sums.report(names),
            "classes": self.classes_by_target(),
            "sampled": self.sampled(),
        }

    def classes_by_target(self) -> dict[str, dict[str, Any]]:
        """Returns {categorical target: its report}."""
        heads = self.form.categorical
        return {self.form.targets[head.targets[0]].name: self.classes[head.name].report() for head in heads}

    def sampled(self) -> dict[str, Any] | None:
        """The user's own metrics, of the sampled windows only; None without a sample.

        Memory while it runs: about four times the sample.
        """
        if self.sample is None or self.form.custom is None:
            return None
        seen = self.sample.seen
        report: dict[str, Any] = {"windows": int(seen.sum()), "of": self.sample.num_windows, "whole": self.sample.whole}
        if not report["windows"]:
            return {**report, "metrics": {}, "error": "no window is sampled: see metrics.buffer, metrics.buffer_bytes"}
        values = [tensor[seen].double() for tensor in (self.sample.target_SPNT, self.sample.forecast_SPNT)]
        if self.form.units is not None and self.form.numbers:
            places = list(self.form.numbers)
            for tensor in values:
                tensor[..., places] = self.form.units.raw(tensor[..., places])
        observed = self.sample.observed_SPNT[seen].numpy()
        return report | self.form.custom.call(values[0].numpy(), values[1].numpy(), observed)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Returns copies of its tensors, for a checkpoint; without the sample, which has a file of its own."""
        parts = {"losses": self.losses_H3.clone(), "sums": torch.from_numpy(self.sums.values_6GF.copy())}
        inner = {f"{name}//{key}": t for name, counted in self.classes.items() for key, t in counted.tensors().items()}
        return parts | inner

    def totals(self) -> list[torch.Tensor]:
        """Views of all that is a plain total, so that those of several processes can be added up in place."""
        counted = [array for classes in self.classes.values() for array in classes.totals()]
        return [self.losses_H3, *map(torch.from_numpy, [self.sums.values_6GF, *counted])]

    def join(self, totals: Sequence[torch.Tensor]) -> None:
        """Adds totals of the same pass."""
        for own, more in zip(self.totals(), totals, strict=True):
            own += more

    def clear(self) -> None:
        """Forgets its totals."""
        for own in self.totals():
            own.zero_()

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """The inverse of `tensors`."""
        self.losses_H3.copy_(tensors["losses"])
        self.sums.values_6GF[...] = tensors["sums"].numpy()
        for name, counted in self.classes.items():
            counted.load({key: tensors[f"{name}//{key}"] for key in counted.tensors()})


def with_raw(metrics: EpochMetrics, floor: float) -> EpochMetrics:
    """Returns the metrics with errors in raw units counted as well, where there are units and numbers.

    Args:
        floor: raw units; MAPE leaves targets nearer to 0 out.
    """
    form = metrics.form
    if form.units is None or not form.numbers:
        return metrics
    return replace(metrics, raw=RawFigures.none(form.units, form.num_steps, floor))


def numbers_of(
    form: Form, forecast: Mapping[str, torch.Tensor], batch: Batch
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None] | None:
    """Returns (forecast, target, observed) of numeric targets, each [B, P, N, F]; views if these are all targets."""
    if not form.numeric or any(head.name not in forecast for head in form.numeric):
        return None
    joined, places = [forecast[head.name] for head in form.numeric], list(form.numbers)
    predicted = joined[0] if len(joined) == 1 else torch.cat(joined, dim=-1)
    if places == list(range(batch.target_BPNF.shape[-1])):
        return predicted, batch.target_BPNF, batch.observed_BPNF
    observed = None if batch.observed_BPNF is None else batch.observed_BPNF[..., places]
    return predicted, batch.target_BPNF[..., places], observed


def _values(form: Form, forecast: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Returns [B, P, N, T] forecasts, of a categorical target the code of its likeliest class.

    NaN where a predictor has none."""
    some = next(iter(forecast.values())).detach()
    values = torch.full((*some.shape[:3], len(form.targets)), torch.nan, device=some.device)
    for head in form.heads:
        if head.name in forecast:
            given = forecast[head.name].detach()
            value = given[..., 1:].argmax(-1, keepdim=True) + 1 if head.loss == "cross_entropy" else given
            values[..., list(head.targets)] = value.to(values.dtype)
    return values
