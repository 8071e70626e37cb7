"""Intervals of the next request that follow the errors, walked over held-out requests, beside plain split conformal ones.

The walk is that of `predict` (`dateshard.trainer.assessment.adaptation`): it begins with the validation requests, and what
is measured is measured on the test requests, each with the interval as it stood before that request came. Plain split
conformal intervals, whose width the validation errors fix for good, are measured beside them.

Legend: W windows in the order of time, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dateshard.requests.accuracy.held_out import HeldOut
from dateshard.shardstore.scaling.transform import Floats
from dateshard.trainer.assessment.adaptation import DAY_NS, LocalError, Reach, Walk, starting

RECENT = 500  # errors after which one weighs half among the recent ones
PER_RECENT_DAY = DAY_NS // RECENT  # a walk reckons in steps of a length; so long, a day has that many of them
NO_HOUR = 0  # of all requests: where thousands come in an hour, what came lately says more than the hour of the day
RATE = (
    0.02  # of the correction: 0.05 makes intervals 0.2-0.5 % wider on drifting and steady data alike, 0.01 lags behind
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """The ends of intervals of test requests in scaled units, and where the walk left them.

    Attributes:
        low_WF, high_WF: of the followed intervals. plain_2F: what split conformal adds below and above, for good.
    """

    low_WF: Floats
    high_WF: Floats
    plain_2F: Floats
    reach: Reach
    level: float
    calibration: int


def follow(validation: HeldOut, test: HeldOut, level: float) -> Followed:
    """Walks over the validation and then the test windows.

    Args:
        level: the share of values that shall lie inside.
    """
    walk = Walk(reach=_calibrated(validation, level), level=level, step=PER_RECENT_DAY, rate=RATE)
    _walked(walk, validation, 0)
    low_WF, high_WF = _walked(walk, test, len(validation))
    return Followed(
        low_WF=test.predicted_WPF[:, 0] + low_WF,
        high_WF=test.predicted_WPF[:, 0] + high_WF,
        plain_2F=split_conformal(validation, level),
        reach=walk.finish(),
        level=level,
        calibration=len(validation) + len(test),
    )


def _calibrated(validation: HeldOut, level: float) -> Reach:
    """The ends that hold on the validation windows as a whole, in their mean error."""
    begin = starting(1, 1, validation.truth_WPF.shape[2])
    size_F = np.nanmean(np.abs(validation.truth_WPF - validation.predicted_WPF)[:, 0], axis=0)
    ends_2F = split_conformal(validation, level) / np.where(size_F > 0, size_F, 1.0)
    ends_2F = np.stack([np.minimum(ends_2F[0], 0.0), np.maximum(ends_2F[1], 0.0)])
    return Reach(ends_2PNF=ends_2F[:, None, None, :], local=begin.local)


def _walked(walk: Walk, windows: HeldOut, first: int) -> tuple[Floats, Floats]:
    """Returns the low and high ends of each window [W, F], as they stood before its target came."""
    hour_W1 = np.full((len(windows), 1), NO_HOUR)
    missed_1WPNF = (windows.truth_WPF - windows.predicted_WPF).astype(np.float32)[None, :, :, None]
    anchor_W = np.arange(first, first + len(windows))
    ends_2WPNF = walk.of_batch(anchor_W, hour_W1, missed_1WPNF)
    return ends_2WPNF[0, :, 0, 0], ends_2WPNF[1, :, 0, 0]


def split_conformal(validation: HeldOut, level: float) -> Floats:
    """The ends of plain split conformal intervals [2, F]: quantiles of the validation errors, the same for all time."""
    missed_WF = (validation.truth_WPF - validation.predicted_WPF)[:, 0]
    count = len(missed_WF)
    high = min(1.0, np.ceil((count + 1) * (1 + level) / 2) / count)
    ends: Floats = np.nanquantile(missed_WF, [1 - high, high], axis=0)
    return ends


def coverage(truth_WF: Floats, low_WF: Floats, high_WF: Floats) -> Floats:
    """The share of observed values inside the intervals, [F]."""
    inside_WF = (truth_WF >= low_WF) & (truth_WF <= high_WF)
    share_F: Floats = inside_WF.sum(axis=0) / np.maximum(1, np.isfinite(truth_WF).sum(axis=0))
    return share_F


def winkler(truth_WF: Floats, low_WF: Floats, high_WF: Floats, level: float) -> Floats:
    """The mean Winkler score, [F]: the width, and 2 / (1 - level) times what lies beyond an end; lower is better."""
    beyond_WF = np.maximum(low_WF - truth_WF, 0) + np.maximum(truth_WF - high_WF, 0)
    score_F: Floats = np.nanmean(high_WF - low_WF + 2 / (1 - level) * beyond_WF, axis=0)
    return score_F


def reach_to_json(reach: Reach) -> dict[str, Any]:
    """The state of a walk, in JSON."""
    assert reach.local is not None, "a followed interval has local errors"
    arrays = (reach.ends_2PNF, reach.local.hours_2GNF, reach.local.recent_2F)
    return dict(zip(("ends", "hours", "recent"), (array.tolist() for array in arrays), strict=True))


def reach_of_json(content: Mapping[str, Any]) -> Reach:
    """The inverse of `reach_to_json`."""
    local = LocalError(hours_2GNF=np.array(content["hours"]), recent_2F=np.array(content["recent"]))
    return Reach(ends_2PNF=np.array(content["ends"]), local=local)
