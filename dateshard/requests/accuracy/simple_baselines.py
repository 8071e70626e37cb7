"""What a forecast of requests is compared with: the last value, means, the same time before, and a ridge regression.

All work on one series and the same targets: of each window it is said how far the series was known, and which value is
asked for.

Legend: T steps or records, F features, W windows, L lags.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dateshard.shardstore.scaling.transform import Floats

Integers = NDArray[np.int64]
DAY_NS = 86_400 * 10**9
HALF_LIFE = 20  # values after which one weighs half in the EWMA
LAGS, PENALTY = 20, 1.0  # of the ridge regression: values that it looks back, and its penalty beside standardised ones


def forecasts(
    series_TF: Floats, time_T: Integers, known_W: Integers, target_W: Integers, train: int
) -> dict[str, Floats]:
    """Returns {baseline: [W, F]}; the same time before is NaN where the series begins later.

    Args:
        series_TF: NaN where nothing was observed; such values are taken as the mean of the training part.
        known_W: so many values were known when the forecast was made. target_W: the place of the value that is asked for.
        train: so many values, the first ones, may be learned from.
    """
    mean_F = np.nanmean(series_TF[:train], axis=0)
    filled_TF = np.where(np.isnan(series_TF), mean_F, series_TF)
    sums_TF = np.cumsum(filled_TF, axis=0)
    made = {
        "last": filled_TF[known_W - 1],
        "running mean": sums_TF[known_W - 1] / known_W[:, None],
        "EWMA": _ewma(filled_TF)[known_W - 1],
    }
    for name, back in (("same time yesterday", DAY_NS), ("same time last week", 7 * DAY_NS)):
        before_W = np.searchsorted(time_T, time_T[target_W] - back, side="right") - 1
        near_W = before_W >= 0
        near_W &= time_T[target_W] - back - time_T[np.maximum(before_W, 0)] < DAY_NS // 24
        if near_W.any():
            made[name] = np.where(near_W[:, None], filled_TF[np.maximum(before_W, 0)], np.nan)
    lead = int((target_W - known_W).max(initial=0))
    if train > LAGS + lead + 2 * LAGS * series_TF.shape[1]:
        made["ridge"] = _ridge(filled_TF, known_W, lead, train)
    return made


def _ewma(series_TF: Floats) -> Floats:
    """The exponentially weighted mean up to each value, itself included."""
    kept, smooth_TF = 0.5 ** (1 / HALF_LIFE), series_TF.copy()
    for place in range(1, len(series_TF)):
        smooth_TF[place] = kept * smooth_TF[place - 1] + (1 - kept) * series_TF[place]
    return smooth_TF


def _ridge(series_TF: Floats, known_W: Integers, lead: int, train: int) -> Floats:
    """Forecasts of a ridge regression on the last values of all features, fitted on the training part."""
    fitted = np.arange(LAGS, train - lead)
    inputs = _lags(series_TF, fitted)
    mean, spread = inputs.mean(axis=0), inputs.std(axis=0) + 1e-12
    scaled, target_TF = (inputs - mean) / spread, series_TF[fitted + lead]
    middle_F = target_TF.mean(axis=0)
    gram = scaled.T @ scaled + PENALTY * np.eye(scaled.shape[1])
    weights = np.linalg.solve(gram, scaled.T @ (target_TF - middle_F))
    asked: Floats = (_lags(series_TF, known_W) - mean) / spread @ weights + middle_F
    return asked


def _lags(series_TF: Floats, known_W: Integers) -> Floats:
    """The last values before each place, [W, L x F]; where the series begins later, its first one."""
    rows = np.maximum(known_W[:, None] - np.arange(1, LAGS + 1), 0)
    lagged: Floats = series_TF[rows].reshape(len(known_W), -1)
    return lagged


def explained(truth_WF: Floats, forecast_WF: Floats) -> Floats:
    """R2, [F]: the share of the truth's variance that a forecast explains, over what was observed and forecast."""
    seen_WF = np.isfinite(truth_WF) & np.isfinite(forecast_WF)
    truth_WF, forecast_WF = np.where(seen_WF, truth_WF, np.nan), np.where(seen_WF, forecast_WF, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        middle_F = np.nanmean(truth_WF, axis=0)
        share_F: Floats = 1 - np.nansum((truth_WF - forecast_WF) ** 2, axis=0) / np.nansum(
            (truth_WF - middle_F) ** 2, axis=0
        )
    return share_F
