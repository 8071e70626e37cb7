"""Response tokens of a request whose own input tokens are known, and whether they tell anything of them.

A regression in the logarithm: of what was known before alone (the mean of the last responses), and of that with the
request's own input, as twenty steps of equally many requests each, because the relation need not rise. The verdict is the
gain in R2 on test requests, which none of it has seen, with an interval over their blocks.

Legend: R requests, K regressors, B blocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dateshard.requests.accuracy.simple_baselines import HALF_LIFE
from dateshard.shardstore.scaling.transform import Floats

BINS = 20
PENALTY = 1.0
BLOCKS = 20  # of test requests: their gains give the interval of the verdict
TELLS = 0.01  # a gain in R2 below it is none, however sure


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseModel:
    """Forecasts response tokens from input tokens.

    Attributes:
        edges_K: input tokens at which a step begins. weights_K: of the mean of recent responses, then of each step.
        before_r2, with_r2: share of the variance that is explained on the test requests, without the input and with it.
        gain: their difference, as (value, low, high) at 95 %.
        low, high: what the interval adds, in the logarithm, at `level`; `coverage`: the share of test requests inside.
    """

    edges_K: Floats
    weights_K: Floats
    before_r2: float
    with_r2: float
    gain: tuple[float, float, float]
    low: float
    high: float
    level: float
    coverage: float

    @property
    def tells(self) -> bool:
        """Whether the input tells anything of the response."""
        return self.gain[1] > 0 and self.gain[0] >= TELLS

    @property
    def verdict(self) -> str:
        """The verdict as a sentence."""
        figures = f"R2 {self.before_r2:.3f} without, {self.with_r2:.3f} with it; gain {self.gain[1]:.3f} to {self.gain[2]:.3f}"
        if self.tells:
            return f"a request's input tokens tell something of its response tokens ({figures})"
        return f"a request's input tokens tell nothing of its response tokens ({figures})"

    def predict(self, request_tokens: float, recent: Floats) -> tuple[float, float, float]:
        """Returns response tokens and their interval: (value, low, high).

        Args:
            recent: response tokens of the last requests, in their order.
        """
        regressors = _regressors(np.array([request_tokens]), np.array([_recent(recent)]), self.edges_K)
        value = float(regressors[0] @ self.weights_K)
        each = np.maximum(0.0, np.expm1([value, value + self.low, value + self.high]))
        return float(each[0]), float(each[1]), float(each[2])

    def to_json(self) -> dict[str, Any]:
        """Returns the model with its verdict in JSON."""
        return {
            "edges": self.edges_K.tolist(),
            "weights": self.weights_K.tolist(),
            "before_r2": self.before_r2,
            "with_r2": self.with_r2,
            "gain": list(self.gain),
            "low": self.low,
            "high": self.high,
            "level": self.level,
            "coverage": self.coverage,
        }

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> ResponseModel:
        """The inverse of `to_json`."""
        known = dict(content)
        edges, weights, gain = known.pop("edges"), known.pop("weights"), known.pop("gain")
        return ResponseModel(
            edges_K=np.array(edges), weights_K=np.array(weights), gain=(gain[0], gain[1], gain[2]), **known
        )


def fit(
    input_R: NDArray[np.integer], output_R: NDArray[np.integer], edges: tuple[int, int], level: float
) -> ResponseModel:
    """Fits on the first requests, takes the interval from the next ones, and judges on the rest.

    Args:
        edges: places at which the validation requests and the test requests begin.
    """
    truth_R, recent_R = np.log1p(output_R.astype(np.float64)), _recent_of_each(output_R)
    train, test = slice(0, edges[0]), slice(edges[1], None)
    edges_K = np.unique(np.quantile(input_R[train], np.linspace(0, 1, BINS + 1)[1:-1]))
    with_RK = _regressors(input_R.astype(np.float64), recent_R, edges_K)
    before_RK = np.stack([recent_R, np.ones(len(recent_R))], axis=1)
    weights_K, before_K = _solved(with_RK[train], truth_R[train]), _solved(before_RK[train], truth_R[train])
    error_R, before_R = truth_R - with_RK @ weights_K, truth_R - before_RK @ before_K
    held = slice(edges[0], edges[1])
    low, high = np.quantile(error_R[held], [(1 - level) / 2, (1 + level) / 2]).tolist()
    inside = (error_R[test] >= low) & (error_R[test] <= high)
    variance = float(truth_R[test].var()) or 1.0
    gain_R = (before_R[test] ** 2 - error_R[test] ** 2) / variance
    return ResponseModel(
        edges_K=edges_K,
        weights_K=weights_K,
        before_r2=1 - float((before_R[test] ** 2).mean()) / variance,
        with_r2=1 - float((error_R[test] ** 2).mean()) / variance,
        gain=_with_interval(gain_R),
        low=low,
        high=high,
        level=level,
        coverage=float(inside.mean()),
    )


def _regressors(input_R: Floats, recent_R: Floats, edges_K: Floats) -> Floats:
    """The mean of recent responses, and which step the input is in: [R, K]."""
    step_R = np.searchsorted(edges_K, input_R, side="right")
    return np.concatenate([recent_R[:, None], np.eye(len(edges_K) + 1)[step_R]], axis=1)


def _recent_of_each(output_R: NDArray[np.integer]) -> Floats:
    """The mean of the logarithms of the responses before each request; of the first one 0."""
    kept, value, recent_R = 0.5 ** (1 / HALF_LIFE), 0.0, np.zeros(len(output_R))
    for place, log in enumerate(np.log1p(output_R.astype(np.float64)).tolist()):
        recent_R[place] = value
        value = log if place == 0 else kept * value + (1 - kept) * log
    return recent_R


def _recent(output_R: Floats) -> float:
    """What `_recent_of_each` gives of the request after these."""
    return float(_recent_of_each(np.append(output_R[-20 * HALF_LIFE :], 0).astype(np.int64))[-1])


def _solved(regressors_RK: Floats, truth_R: Floats) -> Floats:
    gram = regressors_RK.T @ regressors_RK + PENALTY * np.eye(regressors_RK.shape[1])
    weights_K: Floats = np.asarray(np.linalg.solve(gram, regressors_RK.T @ truth_R), dtype=np.float64)
    return weights_K


def _with_interval(gain_R: Floats) -> tuple[float, float, float]:
    """The mean gain with its 95 % interval over blocks, whose requests resemble each other."""
    edges = np.linspace(0, len(gain_R), min(BLOCKS, len(gain_R)) + 1).astype(int).tolist()
    means = [float(gain_R[low:high].mean()) for low, high in pairwise(edges)]
    mean, deviation = float(gain_R.mean()), stdev(means) if len(means) > 1 else math.inf
    half = 2.093 * deviation / math.sqrt(len(means))  # Student's t of 19 degrees of freedom
    return mean, mean - half, mean + half
