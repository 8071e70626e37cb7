"""The intervals of an evaluation's predictors, scored on the same windows: the model's, and those of the user's functions.

The model's are the conformal ones that `predict` gives, each as it stood when its window was forecast; a function's are the
quantiles that it returned. Both lie within the bounds of their feature.

Legend: B batch, P target steps, N nodes, F numeric targets, Q low end, median and high end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from dateshard.trainer.assessment.baselines import Setting
from dateshard.trainer.assessment.intervals import Floats, Intervals, IntervalWalk, missed_of
from dateshard.trainer.assessment.own_rival import RivalQuantiles
from dateshard.trainer.assessment.quantiles import RawQuantiles, around, outer_of
from dateshard.trainer.data.batch import Batch
from dateshard.trainer.data.order import Order
from dateshard.trainer.metrics.epoch import numbers_of
from dateshard.trainer.metrics.interval_scores import IntervalScores

RAW = "quantiles as the model gives them"  # no name of a predictor
Truth = tuple[torch.Tensor, torch.Tensor | None, NDArray[np.int64] | None]  # targets, what was observed, hours


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervalled:
    """All that have intervals, by name.

    Attributes:
        model: the name of the model, and its intervals; None without any.
        own: what the user's functions returned for the batch that they were asked last.
        bounds_2NF: scaled, of the numeric targets; None where no feature has a bound.
        reader: of the model's quantiles.
    """

    model: tuple[str, Intervals] | None = None
    own: Mapping[str, RivalQuantiles] = field(default_factory=dict)
    bounds_2NF: torch.Tensor | None = None
    reader: RawQuantiles | None = None


class IntervalJudge:
    """Scores of intervals over the windows of an order, batch by batch; memory does not grow with them."""

    def __init__(self, setting: Setting, order: Order, intervalled: Intervalled) -> None:
        self.setting, self.intervalled = setting, intervalled
        self.sums: dict[str, IntervalScores] = {}
        self.walk: IntervalWalk | None = None
        self.model_2BPNF: Floats | None = None  # ends of the model's intervals of the batch that came last, scaled
        if intervalled.model is not None:
            begin, level = intervalled.model[1].begin, intervalled.model[1].level
            self.walk = IntervalWalk(setting.dataset, order, setting.window, begin, level)
        self.before = {name: (own.crossed, own.of) for name, own in intervalled.own.items()}

    def add(
        self,
        name: str,
        predicted: Mapping[str, torch.Tensor],
        batch: Batch,
        hours_BP: NDArray[np.int64] | None,
        positions: range,
        outputs: Mapping[str, torch.Tensor],
    ) -> None:
        """Adds the intervals of one predictor for a batch, if it has any; `outputs`: all that the model gave."""
        form, model = self.setting.form, self.intervalled.model
        numbers = numbers_of(form, predicted, batch)
        if numbers is None:
            return
        forecast, target, observed = numbers
        quantiles_QBPNF: Floats | None = None
        if name in self.intervalled.own:
            quantiles_QBPNF = self.intervalled.own[name].last_QBPNF
        elif model is not None and name == model[0] and self.walk is not None and hours_BP is not None:
            middle = forecast.numpy().astype(np.float64)
            outer = self._outer(outputs, forecast, (target, observed, hours_BP))
            missed = missed_of(forecast, target, observed, outer)
            low_BPNF, high_BPNF = around(self.walk(missed, hours_BP, positions), outer)
            quantiles_QBPNF = np.stack([middle + low_BPNF, middle, middle + high_BPNF])
            self.model_2BPNF = self._bounded(quantiles_QBPNF[::2])
        if quantiles_QBPNF is not None:
            self._score(name, self.setting.level, quantiles_QBPNF, (target, observed, hours_BP))

    def _outer(
        self, outputs: Mapping[str, torch.Tensor], forecast: torch.Tensor, truth: Truth
    ) -> NDArray[np.float32] | None:
        """Returns the model's outer quantiles less its forecast, and scores them as they are."""
        reader = self.intervalled.reader
        if reader is None or not reader.levels:
            return None
        quantiles = reader.scaled(outputs, reader.levels).numpy()
        if (level := reader.levels[-1] - reader.levels[0]) > 0:
            low, high, middle = quantiles[..., 0], quantiles[..., -1], forecast.numpy()
            self._score(RAW, level, np.stack([low, middle, high]).astype(np.float64), truth)
        return outer_of(quantiles, forecast.numpy())

    def _score(self, name: str, level: float, quantiles_QBPNF: Floats, truth: Truth) -> None:
        if name not in self.sums:
            form = self.setting.form
            assert form.units is not None, "form_of always gives them"
            self.sums[name] = IntervalScores.none(level, form.units, form.num_steps)
        self.sums[name].add(self._bounded(quantiles_QBPNF), *truth)

    def _bounded(self, values: Floats) -> Floats:
        bounds = self.intervalled.bounds_2NF
        return values if bounds is None else np.clip(values, *bounds.numpy())

    def scores(self) -> Mapping[str, IntervalScores]:
        """Returns the scores of all that have intervals, with how many of a function's quantiles crossed."""
        for name, own in self.intervalled.own.items():
            if name in self.sums:
                crossed, of = self.before[name]
                self.sums[name].crossed, self.sums[name].of = own.crossed - crossed, own.of - of
        return self.sums
