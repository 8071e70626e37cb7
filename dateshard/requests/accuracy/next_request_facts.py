"""What is measured of a model of the next request on held-out requests: coverage, errors, and its baselines beside.

Legend: W windows, F the three values of a request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dateshard.requests.accuracy import response_given_input
from dateshard.requests.accuracy.followed import Followed, coverage, follow, reach_to_json, winkler
from dateshard.requests.accuracy.held_out import HeldOut, held_out
from dateshard.requests.accuracy.plot_arrays import plot_arrays
from dateshard.requests.accuracy.simple_baselines import explained, forecasts
from dateshard.requests.trace import Trace
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import UsageError
from dateshard.shardstore.scaling.transform import Floats, untransform
from dateshard.trainer.assessment.forecaster import Forecaster

VALUES = ("gap", "request_tokens", "response_tokens")
DRAWN = 2000  # of the last test requests: what plots show
Facts = dict[str, Any]


def measured(forecaster: Forecaster, sample: Trace, level: float) -> tuple[Facts, dict[str, NDArray[Any]]]:
    """Forecasts the held-out requests and measures; returns (facts in JSON, arrays for plots).

    Args:
        sample: the records that the dataset was made of.
    """
    validation, test = held_out(forecaster, "validation"), held_out(forecaster, "test")
    assert (sample.time_R[test.place_W] == test.time_W).all(), "records stand in the dataset as in the trace"
    followed, truth_WF = follow(validation, test, level), test.truth_WPF[:, 0]
    raw = _raw(forecaster.dataset)
    raw_WF, raw_forecast_WF = raw(truth_WF), raw(test.predicted_WPF[:, 0])
    low_WF, high_WF = (test.predicted_WPF[:, 0] + end_F for end_F in followed.plain_2F)
    facts = {
        "kind": "next request",
        "level": level,
        "calibration": followed.calibration,
        "test": len(test),
        "coverage": _named(coverage(truth_WF, followed.low_WF, followed.high_WF)),
        "winkler": _named(winkler(truth_WF, followed.low_WF, followed.high_WF, level)),
        "plain_coverage": _named(coverage(truth_WF, low_WF, high_WF)),
        "plain_winkler": _named(winkler(truth_WF, low_WF, high_WF, level)),
        "r2": _named(explained(truth_WF, test.predicted_WPF[:, 0])),
        "r2_raw": _named(explained(raw_WF, raw_forecast_WF)),
        "median_absolute_error": _named(_median_error(raw_WF, raw_forecast_WF)),
        "baselines": _baselines(sample, validation, test),
        "reach": reach_to_json(followed.reach),
        "response_given_input": _response_given_input(sample, validation, test, level),
    }
    return facts, _drawn(test, followed, raw) | plot_arrays(sample)


def refuse_leak(facts: Mapping[str, Any], most: float | None) -> None:
    """Refuses a model that explains more of a value, or of its logarithm, than the past can tell.

    A column that tells only the large values shows in the values themselves, one that tells the others in the logarithm.

    Raises:
        UsageError: naming the value; some column knows what is to be forecast.
    """
    if most is None:
        return
    shares = [*facts["r2_raw"].items()]
    shares += [(f"the logarithm of {name}", share) for name, share in facts["r2"].items()]
    for name, share in shares:
        if share is not None and share > most:
            what = f"the model explains {share:.1%} of the variance of {name} on held-out requests, and {most:.1%} is the most"
            todo = "Look for a column that is written after the request it belongs to, or raise --most-r2"
            raise UsageError(what, todo=todo)


def _raw(dataset: Dataset) -> Any:
    """Returns what turns scaled values [W, F] into raw ones."""
    transforms = [feature.transform for feature in dataset.features]
    return lambda scaled: np.maximum(untransform(dataset.scale.undo(scaled[:, None, :])[:, 0], transforms), 0.0)


def _named(values_F: Floats) -> dict[str, float | None]:
    """Returns {value: number}, None where it is no number."""
    return {name: value if np.isfinite(value) else None for name, value in zip(VALUES, values_F.tolist(), strict=True)}


def _median_error(truth_WF: Floats, forecast_WF: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        median_F: Floats = np.asarray(np.nanmedian(np.abs(truth_WF - forecast_WF), axis=0))
    return median_F


def log_series(trace: Trace) -> Floats:
    """The logarithms (log1p) of gap, request tokens and response tokens, [R, 3]; the first gap is NaN."""
    gap_R = np.diff(trace.time_R, prepend=trace.time_R[:1]) / 1e9
    series: Floats = np.log1p(np.stack([gap_R, trace.input_R, trace.output_R], axis=1))
    series[0, 0] = np.nan
    return series


def _baselines(sample: Trace, validation: HeldOut, test: HeldOut) -> dict[str, Any]:
    """Returns {baseline: {value: {r2, median_absolute_error}}} on the test requests."""
    series_RF, place_W = log_series(sample), test.place_W
    made = forecasts(series_RF, sample.time_R, place_W, place_W, int(validation.place_W[0]))
    truth_WF = np.where(np.isnan(test.truth_WPF[:, 0]), np.nan, series_RF[place_W])
    rows = {}
    for name, forecast_WF in made.items():
        r2 = _named(explained(truth_WF, forecast_WF))
        error = _named(_median_error(np.expm1(truth_WF), np.expm1(forecast_WF)))
        rows[name] = {value: {"r2": r2[value], "median_absolute_error": error[value]} for value in VALUES}
    return rows


def _response_given_input(sample: Trace, validation: HeldOut, test: HeldOut, level: float) -> dict[str, Any]:
    edges = (int(validation.place_W[0]), int(test.place_W[0]))
    return response_given_input.fit(sample.input_R, sample.output_R, edges, level).to_json()


def _drawn(test: HeldOut, followed: Followed, raw: Any) -> dict[str, NDArray[Any]]:
    """The last test requests in raw units, and which values lay inside of all of them."""
    truth_WF, chosen = test.truth_WPF[:, 0], slice(-DRAWN, None)
    inside_WF = (truth_WF >= followed.low_WF) & (truth_WF <= followed.high_WF)
    plain = test.predicted_WPF[:, 0] + followed.plain_2F[:, None]
    return {
        "time": test.time_W[chosen],
        "truth": raw(truth_WF[chosen]),
        "forecast": raw(test.predicted_WPF[chosen, 0]),
        "low": raw(followed.low_WF[chosen]),
        "high": raw(followed.high_WF[chosen]),
        "inside": inside_WF.astype(np.uint8),
        "plain_inside": ((truth_WF >= plain[0]) & (truth_WF <= plain[1])).astype(np.uint8),
        "inside_time": test.time_W,
    }
