"""Errors in the units of the data, by target step, node and hour of day, relative ones, and their quantiles.

For evaluations only: a few times the cost of the scaled sums, and nothing of it is needed while weights are learned.

Legend: B batch, P target steps (p some of them), N nodes, F target features, W window, K bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dateshard.shardstore.scaling.histogram import NUM_BINS, ZERO, bins_of, representatives
from dateshard.trainer.metrics.sums import Floats, Sums, finite, finite_values
from dateshard.trainer.metrics.units import Units

HOURS = 24
LARGEST = 3.0e38  # an error beyond float32's end counts as this one
QUANTILES = (0.5, 0.9, 0.99)


@dataclass(slots=True)
class ErrorCounts:
    """How many errors of each feature lie in the bin of each 16-bit float (`dateshard.shardstore.scaling.histogram`).

    Memory: 512 kB a feature. Counts are integers: the same whatever the order, and two add up exactly.
    """

    counts_FK: NDArray[np.int64]

    @staticmethod
    def none(num_features: int) -> ErrorCounts:
        """Nothing seen yet."""
        return ErrorCounts(np.zeros((num_features, NUM_BINS), dtype=np.int64))

    def add(self, errors: Floats, observed: NDArray[np.bool_] | None) -> None:
        """Adds [B, p, N, F] errors; those that are no numbers are left out."""
        for feature, counts in enumerate(self.counts_FK):
            cells = errors[..., feature]
            seen = np.isfinite(cells) if observed is None else np.isfinite(cells) & observed[..., feature]
            bins = bins_of(np.clip(cells[seen], -LARGEST, LARGEST))
            if bins.size:
                counted = np.bincount(bins)
                counts[: len(counted)] += counted

    def quantile(self, feature: int, share: float) -> float | None:
        """The absolute error that `share` of them do not exceed, within 0.4 %; None where there is none.

        It is the bin of the least error whose rank is at least share x count (`inverted_cdf` of numpy).
        """
        counts = self.counts_FK[feature]
        upto = np.cumsum(counts[ZERO:] + counts[ZERO - 1 :: -1])
        if not upto[-1]:
            return None
        rank = max(1, int(np.ceil(share * upto[-1])))
        return float(representatives(np.asarray([ZERO + int(np.searchsorted(upto, rank))]))[0])


@dataclass(slots=True)
class Relative:
    """Sums of |y|, and of |error| / |y| where |y| is not below the floor, by target step; `values_3PF`, float64.

    Attributes:
        floor_NF: raw units; nearer to 0 a percentage says nothing, and what rounding left of a 0 would be divided by. It
            is infinite for a target whose training values have both signs: the size of an angle or of an error is not
            its distance from 0.
    """

    floor_NF: Floats
    values_3PF: Floats  # sum of |y|, sum of |error| / |y|, how many of these

    def add(self, steps: slice, absolute: Floats, target: Floats, observed: NDArray[np.bool_] | None) -> None:
        """Adds [B, p, N, F] errors of some steps without their sign (0 where nothing was observed) and targets."""
        size = np.abs(target)
        if observed is not None:
            size *= observed
        counted = size >= self.floor_NF
        share = np.divide(absolute, size, out=np.zeros_like(size), where=counted)
        for row, values in enumerate((size, share, counted)):
            self.values_3PF[row, steps] += np.einsum("bpnf->pf", values, dtype=np.float64)

    def metrics(self, sums: dict[str, Any], step: slice, feature: slice) -> dict[str, float | None]:
        """WAPE, MAPE (shares: 0.05 is 5 %), and how many targets MAPE leaves out."""
        size, share, counted = (float(summed) for summed in self.values_3PF[:, step, feature].sum((1, 2)))
        total = sums["mae"] * sums["count"] if sums["mae"] is not None else None
        return {
            "wape": finite(total / size) if total is not None and size else None,
            "mape": finite(share / counted) if counted else None,
            "mape_left_out": int(sums["count"] - counted),
        }


@dataclass(slots=True, kw_only=True)
class RawFigures:
    """All errors in raw units of one predictor over one split.

    Memory: 6 x (P + N + 24) x F float64, 512 kB a feature for the quantiles, and a few batches in float64.
    """

    units: Units
    sums: Sums
    nodes: Sums
    hours: Sums
    relative: Relative
    errors: ErrorCounts
    _hours_seen: bool = field(default=False)

    @staticmethod
    def none(units: Units, num_steps: int, floor: float) -> RawFigures:
        """Nothing seen yet."""
        num_nodes, features = units.shift_raw_NF.shape
        floor_NF = np.where(units.both_signs_F, np.inf, np.maximum(floor, units.rounding_NF))
        relative = Relative(floor_NF, np.zeros((3, num_steps, features), dtype=np.float64))
        steps, nodes, hours = (Sums.zeros(groups, features) for groups in (num_steps, num_nodes, HOURS))
        return RawFigures(
            units=units, sums=steps, nodes=nodes, hours=hours, relative=relative, errors=ErrorCounts.none(features)
        )

    def add(
        self,
        forecast: torch.Tensor,
        target: torch.Tensor,
        observed: torch.Tensor | None,
        hours_BP: NDArray[np.int64] | None,
    ) -> None:
        """Adds [B, P, N, F] scaled forecasts and targets; `hours_BP`: hour of the local day of each target step."""
        raw, mask = self.units.raw(target.cpu()), None if observed is None else observed.cpu().numpy()
        shift = self.units.shift_raw_NF.numpy()
        for steps, terms in self.sums.cells.terms(self.units.raw(forecast.detach().cpu()), raw, observed, shift):
            hours = None if hours_BP is None else hours_BP[:, steps].ravel()
            for row, term in terms:
                self._add_term(row, steps, term, hours)
                seen = None if mask is None else mask[:, steps]
                if row == 1:
                    self.errors.add(term, seen)
                elif row == 2:
                    self.relative.add(steps, term, raw[:, steps].numpy(), seen)
        if observed is None:
            self._count(len(target), hours_BP)

    def _add_term(self, row: int, steps: slice, term: Floats, hours: NDArray[np.int64] | None) -> None:
        term_PNF = np.add.reduce(term, axis=0)
        self.sums.add_term(row, steps, term_PNF)
        self.nodes.values_6GF[row] += np.add.reduce(term_PNF, axis=0)
        if hours is not None:
            self._hours_seen = True
            by_step = np.einsum("bpnf->bpf", term).reshape(-1, term.shape[-1])
            for feature in range(by_step.shape[1]):
                self.hours.values_6GF[row, :, feature] += np.bincount(hours, by_step[:, feature], minlength=HOURS)

    def _count(self, windows: int, hours_BP: NDArray[np.int64] | None) -> None:
        """The counts of a batch without a mask."""
        steps, nodes = self.sums.values_6GF.shape[1], self.nodes.values_6GF.shape[1]
        self.sums.values_6GF[0] += windows * nodes
        self.nodes.values_6GF[0] += windows * steps
        if hours_BP is not None:
            self.hours.values_6GF[0] += nodes * np.bincount(hours_BP.ravel(), minlength=HOURS)[:, None]

    def report(self, features: list[str], nodes: Sequence[str]) -> dict[str, Any]:
        """Overall, by feature (with quantiles), by target step, by node and by hour of day."""
        everything = slice(None)
        report = self.sums.report(features)
        report |= self.relative.metrics(report, everything, everything)
        for index, name in enumerate(features):
            figures = report["by_feature"][name]
            figures |= self.relative.metrics(figures, everything, slice(index, index + 1))
            figures["error_quantiles"] = {
                f"p{share * 100:g}": self.errors.quantile(index, share) for share in QUANTILES
            }
        for step, figures in enumerate(report["by_horizon"]):
            figures |= self.relative.metrics(figures, slice(step, step + 1), everything)
        report["by_step"] = _columns(self.sums, features)
        report["by_node"] = {"nodes": list(nodes), **_columns(self.nodes, features)}
        report["by_hour"] = (
            {"hours": list(range(HOURS)), **_columns(self.hours, features)} if self._hours_seen else None
        )
        return report


def _columns(sums: Sums, features: list[str]) -> dict[str, dict[str, list[Any]]]:
    """Returns {feature: {figure: its values by group}}: thousands of nodes stay a few lists."""
    by_feature = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        for index, name in enumerate(features):
            count, error, absolute, squared, moved, moved_squared = sums.values_6GF[:, :, index]
            spread = moved_squared - moved * moved / count
            r2 = np.where(spread > 0, 1 - squared / spread, np.nan)
            figures = {"mae": absolute / count, "rmse": np.sqrt(squared / count), "bias": error / count, "r2": r2}
            rows = {key: finite_values(column) for key, column in figures.items()}
            by_feature[name] = {"count": count.astype(np.int64).tolist(), **rows}
    return by_feature


def hours_of(codes_BW: torch.Tensor | None, history: int, num_steps: int, step_ns: int) -> NDArray[np.int64] | None:
    """Returns [B, P]: the hour of the local day of each target step, of time codes (step of day x 8 + weekday).

    Args:
        history: steps before the first target step. step_ns: nanoseconds of a step.
    """
    if codes_BW is None:
        return None
    codes = codes_BW[:, history : history + num_steps].cpu().numpy().astype(np.int64)
    hours: NDArray[np.int64] = (codes >> 3) * step_ns // 3_600_000_000_000
    return hours % HOURS
