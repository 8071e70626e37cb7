"""Forecasts of the load of an interval some intervals ahead, each from what was known then.

A predictor is a function of past intervals: it is given the load of all, and answers for those from `first` on; for interval k
it looks at none after k - lead - 1. Any function of that form can be judged.

Legend: K intervals of the trace, J of them held out (from `first` on), L lags.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import polars as pl

from dateshard.service.fleet.fleet_load import Load
from dateshard.shardstore.scaling.transform import Floats

DAY, WEEK = 86_400, 7 * 86_400
HALF_LIVES = (300, 600, 1200, 2400, 4800)  # seconds after which a load weighs half in the EWMA
SIDES = (0, 120, 300, 600, 900, 1800)  # seconds around the same time before
LAGS, PENALTY = 15, 1.0


class LoadPredictor(Protocol):
    """Returns [J]: the work to be expected in each held-out interval, known `lead` intervals before it begins."""

    def __call__(self, load: Load, lead: int) -> Floats: ...


def filled(load: Load) -> Floats:
    """Returns [K] work, in holes the mean of what was seen before the held-out part."""
    seen = load.seen_K[: load.first]
    mean = float(load.interval_work[: load.first][seen].mean()) if seen.any() else 0.0
    return np.where(load.seen_K, load.interval_work, mean)


def same_time_before(load: Load, lead: int) -> Floats:
    """Takes the load of a week before; of a day before where the trace was shorter then; else the last known one.

    It is averaged over the time around, as long on each side as had the smallest error before the held-out part.
    """
    work_K = filled(load)
    place_K = np.arange(len(work_K))
    known_K = place_K - lead - 1
    week_K, day_K = (place_K - seconds // load.interval for seconds in (WEEK, DAY))
    before_K = np.where(week_K >= 0, week_K, np.where(day_K >= 0, day_K, known_K))
    sums_K = np.concatenate([[0.0], np.cumsum(work_K)])

    def around(seconds: int) -> Floats:
        side = seconds // load.interval
        high_K = np.maximum(0, np.minimum(before_K + side, known_K))
        low_K = np.clip(before_K - side, 0, high_K)
        return np.asarray((sums_K[high_K + 1] - sums_K[low_K]) / (high_K + 1 - low_K))

    return _best_before(load, lead, [around(seconds) for seconds in SIDES])


def ewma(load: Load, lead: int) -> Floats:
    """The exponentially weighted mean of the load so far, with the half-life that did best before the held-out part."""
    work = pl.Series(filled(load))
    known_K = np.maximum(0, np.arange(len(work)) - lead - 1)
    means = [work.ewm_mean(half_life=seconds / load.interval, adjust=False).to_numpy() for seconds in HALF_LIVES]
    return _best_before(load, lead, [mean_K[known_K] for mean_K in means])


def _best_before(load: Load, lead: int, forecasts: list[Floats]) -> Floats:
    """Chooses the forecast [K] with the smallest squared error before the held-out part, and returns that part [J] of it."""
    early = np.flatnonzero(load.seen_K[: max(1, load.first - lead)])
    early = early[len(early) // 2 :]
    errors = [float(((each[early] - load.interval_work[early]) ** 2).mean()) for each in forecasts]
    return forecasts[int(np.argmin(errors))][load.first :]


def ridge(load: Load, lead: int) -> Floats:
    """A ridge regression on the last loads, their mean of an hour, the same time before, and the hour of the day."""
    work_K = filled(load)
    place_K = np.arange(len(work_K))
    sums_K = np.concatenate([[0.0], np.cumsum(work_K)])
    known_K = place_K - lead - 1
    hour = max(1, 3600 // load.interval)
    lags = [work_K[np.maximum(0, known_K - back)] for back in range(LAGS)]
    low_K, high_K = np.maximum(0, known_K + 1 - hour), np.maximum(1, known_K + 1)
    lags.append((sums_K[high_K] - sums_K[low_K]) / np.maximum(1, high_K - low_K))
    for seconds in (DAY, WEEK):
        back = seconds // load.interval
        if back < load.first // 2:
            lags.append(work_K[np.maximum(0, np.minimum(place_K - back, known_K))])
    turn_K = load.times / 1e9 % DAY / DAY * 2 * np.pi
    inputs = np.stack([*lags, np.sin(turn_K), np.cos(turn_K), np.sin(2 * turn_K), np.cos(2 * turn_K)], axis=1)
    fitted = np.flatnonzero(load.seen_K[: load.first] & (known_K[: load.first] >= min(LAGS, load.first // 4)))
    mean, spread = inputs[fitted].mean(axis=0), inputs[fitted].std(axis=0) + 1e-12
    scaled, middle = (inputs - mean) / spread, work_K[fitted].mean()
    gram = scaled[fitted].T @ scaled[fitted] + PENALTY * np.eye(scaled.shape[1])
    weights = np.linalg.solve(gram, scaled[fitted].T @ (work_K[fitted] - middle))
    forecast: Floats = np.maximum(0.0, scaled[load.first :] @ weights + middle)
    return forecast


BASELINES: dict[str, LoadPredictor] = {"same time last week": same_time_before, "EWMA": ewma, "ridge": ridge}
