"""How good intervals are, in fixed memory: what share of the targets they cover, how wide they are, and two proper scores.

Of an interval [l, u] at `level` = 1 - a and a target y:

    width     u - l
    winkler   u - l + 2 / a x (how far y lies beyond the nearer end; 0 inside)    the interval score, Gneiting & Raftery 2007
    pinball   mean over the levels a/2, 1/2, 1 - a/2 of (y - q) x level where y >= q, else (q - y) x (1 - level)

All of them are means over observed targets that have an interval; in both scores lower is better.

Legend: B batch, P target steps (p some of them), N nodes, F numeric targets, G groups: steps, nodes or hours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dateshard.trainer.metrics.raw_errors import HOURS
from dateshard.trainer.metrics.sums import CHUNK, Floats, finite, finite_values
from dateshard.trainer.metrics.units import Units

SUMS = ("count", "inside", "width", "winkler", "pinball")
FIGURES = ("coverage", "width", "winkler", "pinball")


@dataclass(slots=True, kw_only=True)
class IntervalScores:
    """Sums of one predictor's interval scores over one split, in scaled and in raw units.

    Memory: 5 x (2 P + N + 24) x F float64, and some float64 arrays of `CHUNK` cells.

    Attributes:
        crossed: quantiles that did not rise with their level and were sorted, of so many triples `of`.
    """

    level: float
    units: Units
    scaled: Floats
    steps: Floats
    nodes: Floats
    hours: Floats
    crossed: int = 0
    of: int = 0
    _hours_seen: bool = field(default=False)

    @staticmethod
    def none(level: float, units: Units, num_steps: int) -> IntervalScores:
        """Returns scores of nothing yet."""
        num_nodes, features = units.shift_raw_NF.shape
        scaled, steps, nodes, hours = (
            np.zeros((len(SUMS), groups, features)) for groups in (num_steps, num_steps, num_nodes, HOURS)
        )
        return IntervalScores(level=level, units=units, scaled=scaled, steps=steps, nodes=nodes, hours=hours)

    def add(
        self,
        quantiles_3BPNF: Floats,
        target: torch.Tensor,
        observed: torch.Tensor | None,
        hours_BP: NDArray[np.int64] | None,
    ) -> None:
        """Adds a batch of scaled low ends, medians and high ends, NaN where there is no interval."""
        target_BPNF = target.detach().cpu().numpy().astype(np.float64)
        seen: NDArray[np.bool_] = np.logical_not(np.isnan(quantiles_3BPNF).any(axis=0))
        if observed is not None:
            seen &= observed.cpu().numpy()
        self._hours_seen |= hours_BP is not None
        size = max(1, CHUNK // max(1, seen[:, 0].size))
        for low in range(0, seen.shape[1], size):
            steps = slice(low, low + size)
            hours = None if hours_BP is None else hours_BP[:, steps].ravel()
            self._add(steps, quantiles_3BPNF[:, :, steps], target_BPNF[:, steps], seen[:, steps], hours)

    def _add(
        self,
        steps: slice,
        quantiles_3BpNF: Floats,
        target_BpNF: Floats,
        seen: NDArray[np.bool_],
        hours: NDArray[np.int64] | None,
    ) -> None:
        given = np.concatenate([quantiles_3BpNF, target_BpNF[None]])
        raw = self.units.raw(torch.from_numpy(given)).numpy()
        inside = (raw[3] >= raw[0] - self.units.rounding_NF) & (raw[3] <= raw[2] + self.units.rounding_NF)
        for row, term in enumerate(_terms(given, inside, seen, self.level)):
            self.scaled[row, steps] += np.einsum("bpnf->pf", term)
        for row, term in enumerate(_terms(raw, inside, seen, self.level)):
            term_pNF = term.sum(0)
            self.steps[row, steps] += np.einsum("pnf->pf", term_pNF)
            self.nodes[row] += term_pNF.sum(0)
            if hours is not None:
                np.add.at(self.hours[row], hours, np.einsum("bpnf->bpf", term).reshape(-1, term.shape[-1]))

    def report(self, features: Sequence[str], nodes: Sequence[str]) -> dict[str, Any] | None:
        """Returns the means overall (scaled), by feature, step, node and hour; None where nothing counts."""
        if not self.scaled[0].any():
            return None
        places = {name: slice(index, index + 1) for index, name in enumerate(features)}
        whole = slice(None)
        raw = _means(self.steps, whole) if len(features) == 1 else dict.fromkeys(("count", *FIGURES))
        return {
            "level": self.level,
            "crossed": self.crossed,
            "of": self.of,
            "scaled": {
                **_means(self.scaled, whole),
                "by_feature": {name: _means(self.scaled, place) for name, place in places.items()},
            },
            "raw": {**raw, "by_feature": {name: _means(self.steps, place) for name, place in places.items()}},
            "by_horizon": [_means(self.scaled[:, step : step + 1], whole) for step in range(self.scaled.shape[1])],
            "by_node": {"nodes": list(nodes), **_columns(self.nodes, features)},
            "by_hour": {"hours": list(range(HOURS)), **_columns(self.hours, features)} if self._hours_seen else None,
        }


def _terms(given_4BpNF: Floats, inside: NDArray[np.bool_], seen: NDArray[np.bool_], level: float) -> Sequence[Floats]:
    """Returns one array for each of `SUMS`, 0 where nothing counts."""
    low, median, high, target = given_4BpNF
    tail = (1 - level) / 2
    beyond = np.maximum(low - target, 0.0) + np.maximum(target - high, 0.0)
    pinball = sum(
        np.where(target >= end, (target - end) * share, (end - target) * (1 - share))
        for end, share in ((low, tail), (median, 0.5), (high, 1 - tail))
    )
    terms = (np.ones_like(target), inside.astype(np.float64), high - low, high - low + beyond / tail, pinball / 3)
    return [np.where(seen, term, 0.0) for term in terms]


def _means(sums_5GF: Floats, features: slice) -> dict[str, float | None]:
    count, *sums = (float(total) for total in sums_5GF[:, :, features].sum((1, 2)))
    means = [finite(total / count) if count else None for total in sums]
    return {"count": int(count), **dict(zip(FIGURES, means, strict=True))}


def _columns(sums_5GF: Floats, features: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """Returns {feature: {figure: its values by group}}."""
    count_GF = sums_5GF[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        means = sums_5GF[1:] / count_GF
    return {
        name: {
            "count": count_GF[:, place].astype(np.int64).tolist(),
            **{figure: finite_values(means[row, :, place]) for row, figure in enumerate(FIGURES)},
        }
        for place, name in enumerate(features)
    }
