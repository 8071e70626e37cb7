"""What is measured of a model of minutes on held-out ones, and the quantiles of an interval's sums that follow from it.

A model forecasts the requests and tokens of each of the next minutes. Those of an interval are sums over its minutes (of a
minute that it holds in part, that share), and how far such sums were off on held-out minutes gives the quantiles: the
error of a sum f is measured in units of sqrt(f + a x f^2), the deviation of a negative binomial, so that quiet and busy hours
share their errors. Means of tokens are off by a factor.

Legend: W windows, P target minutes, Q levels; 3: requests, input tokens, output tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dateshard.requests.accuracy.held_out import HeldOut, held_out
from dateshard.requests.accuracy.simple_baselines import forecasts
from dateshard.requests.trace_dumps import MINUTE, TOKENS, MinuteCounts
from dateshard.shardstore.scaling.transform import Floats, untransform
from dateshard.trainer.assessment.forecaster import Forecaster

LENGTH, LEAD = 60.0, 180.0  # seconds, where nothing else is asked for
LEVELS = (0.1, 0.5, 0.9)
KEPT = 20_000  # held-out windows that are kept with the model at most
COUNT, MEANS = "count", ("mean_input", "mean_output")


@dataclass(frozen=True, slots=True)
class SumErrors:
    """The errors of an interval's sums on held-out windows.

    Attributes:
        a_3: of the deviation of a sum. scores_3: errors in deviations, sorted, each [W]; factors_2: of the means.
    """

    a_3: Floats
    scores_3: tuple[Floats, ...]
    factors_2: tuple[Floats, ...]

    @staticmethod
    def of(forecast_W3: Floats, truth_W3: Floats) -> SumErrors:
        """The errors of these sums."""
        forecast_W3 = np.maximum(forecast_W3, 1e-9)
        missed_W3 = truth_W3 - forecast_W3
        with np.errstate(invalid="ignore", divide="ignore"):
            a_3 = np.maximum(0.0, (missed_W3**2 - forecast_W3).mean(axis=0) / (forecast_W3**2).mean(axis=0))
        scores = missed_W3 / _deviation(forecast_W3, a_3)
        some = truth_W3[:, 0] > 0
        means = truth_W3[some, 1:] / truth_W3[some, :1], forecast_W3[some, 1:] / forecast_W3[some, :1]
        factors = means[0] / np.maximum(means[1], 1e-9)
        return SumErrors(
            a_3, tuple(np.sort(column) for column in scores.T), tuple(np.sort(column) for column in factors.T)
        )

    def quantiles(self, forecast_3: Floats, levels: Sequence[float]) -> Floats:
        """Returns [3, Q] quantiles of the sums: whole numbers, as many as have their level at or below them; never negative."""
        forecast_3 = np.maximum(forecast_3, 1e-9)
        score_3Q = np.stack([_quantile(scores, levels) for scores in self.scores_3])
        quantile_3Q = forecast_3[:, None] + score_3Q * _deviation(forecast_3, self.a_3)[:, None]
        return np.maximum(0.0, np.floor(quantile_3Q + 1e-9))

    def mean_quantiles(self, forecast_3: Floats, levels: Sequence[float]) -> Floats:
        """Returns [2, Q] quantiles of the mean input and output tokens of a request."""
        means = forecast_3[1:] / max(float(forecast_3[0]), 1e-9)
        return np.stack(
            [mean * _quantile(factors, levels) for mean, factors in zip(means, self.factors_2, strict=True)]
        )


def _deviation(forecast: Floats, a_3: Floats) -> Floats:
    deviation: Floats = np.sqrt(forecast + a_3 * forecast**2)
    return deviation


def _quantile(sorted_values: Floats, levels: Sequence[float]) -> Floats:
    """Quantiles of sorted values, each with the next larger one (as split conformal has it); 1 of none."""
    if not len(sorted_values):
        return np.ones(len(levels))
    place = np.asarray(levels) * (len(sorted_values) + 1) - 1
    quantiles: Floats = np.interp(place, np.arange(len(sorted_values)), sorted_values)
    return quantiles


def weights_of(length: float, lead: float, num_minutes: int) -> Floats:
    """How much of each target minute lies in the interval, [P]."""
    begin = np.arange(num_minutes) * 60.0
    inside: Floats = np.clip(np.minimum(begin + 60, lead + length) - np.maximum(begin, lead), 0, 60) / 60
    return inside


def measured(forecaster: Forecaster, minutes: MinuteCounts) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Forecasts the held-out minutes and measures; returns (facts in JSON, arrays that quantiles are made of)."""
    validation, test = held_out(forecaster, "validation"), held_out(forecaster, "test")
    dataset = forecaster.dataset
    transforms = [feature.transform for feature in dataset.features]

    def raw(scaled_WP3: Floats) -> Floats:
        return np.maximum(untransform(dataset.scale.undo(scaled_WP3[:, :, None, :])[:, :, 0], transforms), 0.0)

    forecast = [raw(each.predicted_WPF) for each in (validation, test)]
    truth = [np.rint(raw(each.truth_WPF)) for each in (validation, test)]
    weights_P = weights_of(LENGTH, LEAD, forecast[0].shape[1])
    sums = [[np.einsum("wpf,p->wf", each, weights_P) for each in both] for both in (forecast, truth)]
    whole = [np.isfinite(each).all(axis=1) for each in sums[1]]
    errors = SumErrors.of(sums[0][0][whole[0]], sums[1][0][whole[0]])
    facts = {
        "kind": "interval",
        "windows": len(validation) + len(test),
        "test": int(whole[1].sum()),
        "at": {"length": LENGTH, "lead": LEAD},
        "coverage": _covered(errors, sums[0][1][whole[1]], sums[1][1][whole[1]]),
        "error": _errors(minutes, test, validation, (sums[0][1], sums[1][1])),
    }
    time = np.concatenate([validation.time_W, test.time_W])
    kept = spread(len(time))
    joined = [np.concatenate(both)[kept].astype(np.float32) for both in (forecast, truth)]
    return facts, {"forecast": joined[0], "truth": joined[1], "time": time[kept]}


def spread(count: int) -> slice:
    """Every so manieth of so many windows, so that at most `KEPT` span all of them."""
    return slice(None, None, max(1, -(-count // KEPT)))


def _covered(errors: SumErrors, forecast_W3: Floats, truth_W3: Floats) -> dict[str, Any]:
    """Returns {level: {what: share of test windows at or below that quantile}}, and how many lay between the outer ones.

    Whole numbers often equal a quantile, zeros above all: `inside` counts those that equal the lowest one, `above` does not.
    Of quantiles that hold, the distance of the outer levels lies between the two. The errors are those of validation.
    """
    below: dict[str, Any] = {}
    quantiles_W3Q = np.stack([errors.quantiles(each, LEVELS) for each in forecast_W3])
    for place, level in enumerate(LEVELS):
        share = (truth_W3 <= quantiles_W3Q[:, :, place] + 1e-9).mean(axis=0)
        below[f"{level:g}"] = dict(zip(TOKENS, share.tolist(), strict=True))
    inside_W3 = (truth_W3 >= quantiles_W3Q[:, :, 0] - 1e-9) & (truth_W3 <= quantiles_W3Q[:, :, -1] + 1e-9)
    below["inside"] = dict(zip(TOKENS, inside_W3.mean(axis=0).tolist(), strict=True))
    above_W3 = inside_W3 & (truth_W3 > quantiles_W3Q[:, :, 0] + 1e-9)
    below["above"] = dict(zip(TOKENS, above_W3.mean(axis=0).tolist(), strict=True))
    return below


def _errors(
    minutes: MinuteCounts, test: HeldOut, validation: HeldOut, sums: tuple[Floats, Floats]
) -> dict[str, dict[str, float | None]]:
    """Returns {model or baseline: {what: mean absolute error}} of a minute three minutes ahead, on the test windows."""
    steps = round(LEAD / 60)
    target_W = np.searchsorted(minutes.time_M, test.time_W + steps * MINUTE)
    known_W = np.searchsorted(minutes.time_M, test.time_W)
    fits_W = (target_W < len(minutes.time_M)) & (target_W - known_W == steps) & (known_W > 0)
    fits_W &= np.isfinite(sums[1]).all(axis=1)
    train = int(np.searchsorted(minutes.time_M, validation.time_W[0]))
    made = forecasts(minutes.values_M3.astype(np.float64), minutes.time_M, known_W[fits_W], target_W[fits_W], train)
    truth_W3 = sums[1][fits_W]
    rows = {"model": np.abs(sums[0][fits_W] - truth_W3).mean(axis=0)}
    rows |= {name: np.nanmean(np.abs(forecast - truth_W3), axis=0) for name, forecast in made.items()}
    return {name: dict(zip(TOKENS, error.tolist(), strict=True)) for name, error in rows.items()}
