"""Counts: a Poisson or negative binomial distribution of the raw values, out of a model that works in scaled ones.

The first channel of a target is its mean: in scaled units, as any forecast, and made positive by a softplus whose unit is
the target's own spread, so that what stands around a model holds for it too. The second one of `negative_binomial` is
what makes the variance larger than the mean: mean + a x mean^2, with a = softplus(channel). All is worked out in float64 from
the logarithm of the mean: the logarithms of two factorials of 1e6 differ by less than float32 keeps of either.

Legend: B batch, P target steps, N nodes, F targets of a head, Q levels, K cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

Floats = NDArray[np.float64]
COUNTS = {"poisson": 1, "negative_binomial": 2}  # {loss: channels a target}
LEAST_A = 1e-6  # below, a negative binomial is a Poisson distribution, and 1 / a too large to subtract
MOST_LOG = 60.0  # of a mean: 1e26
SUMMED = 300.0  # means up to which probabilities are summed, and so many steps of it
SUMMED_STEPS = 2048
HALVINGS = 60


@dataclass(frozen=True, slots=True, eq=False)
class CountScale:
    """How one target is scaled, [N] float64 each, and whether its logarithm (log1p) is."""

    pivot_N: torch.Tensor
    delta_N: torch.Tensor
    spread_N: torch.Tensor
    log1p: bool

    def raw(self, scaled_BPN: torch.Tensor) -> torch.Tensor:
        """Returns the nearest count of a scaled value, 0 where it is no number."""
        value = scaled_BPN.double() * self._on(self.spread_N, scaled_BPN) + self._middle(scaled_BPN)
        return (torch.expm1(value) if self.log1p else value).nan_to_num(0.0).round().clamp(min=0)

    def scaled(self, raw_BPN: torch.Tensor) -> torch.Tensor:
        """Returns raw values as a shard has them, to the last bit."""
        value = torch.log1p(raw_BPN) if self.log1p else raw_BPN
        pivot, delta, spread = (self._on(each, raw_BPN) for each in (self.pivot_N, self.delta_N, self.spread_N))
        return (((value - pivot) - delta) / spread).float()

    def log_mean(self, channel_BPN: torch.Tensor) -> torch.Tensor:
        """Returns the logarithm of the mean that a channel in scaled units stands for; float64, never falling."""
        spread = self._on(self.spread_N, channel_BPN)
        log_value = spread.log() + _log_softplus(channel_BPN.double() + self._middle(channel_BPN) / spread)
        if not self.log1p:
            return log_value.clamp(max=MOST_LOG)
        value = log_value.clamp(max=np.log(MOST_LOG)).exp()  # log of expm1(value), for small ones too
        small = log_value - value / 2
        return value + torch.where(value < 1e-4, small, torch.log(-torch.expm1(-value.clamp(min=1e-4))))

    def _middle(self, like: torch.Tensor) -> torch.Tensor:
        return self._on(self.delta_N, like) + self._on(self.pivot_N, like)

    @staticmethod
    def _on(values_N: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return values_N.to(like.device)


def _log_softplus(x: torch.Tensor) -> torch.Tensor:
    """Returns log(log(1 + exp(x))), which is x far below 0; its gradient is finite everywhere."""
    return torch.where(x < -30, x, functional.softplus(x.clamp(min=-30)).log())


@dataclass(frozen=True, slots=True)
class CountForecast:
    """The distributions of a batch, [B, P, N, F] float64 each: logarithms of the means, and a (0: Poisson)."""

    log_mean: torch.Tensor
    a: torch.Tensor

    @staticmethod
    def of(outputs_BPNC: torch.Tensor, loss: str, scales: Sequence[CountScale]) -> CountForecast:
        """Reads the channels of a head."""
        each = outputs_BPNC.reshape(*outputs_BPNC.shape[:-1], len(scales), COUNTS[loss])
        log_mean = torch.stack([scale.log_mean(each[..., place, 0]) for place, scale in enumerate(scales)], dim=-1)
        if loss == "poisson":
            return CountForecast(log_mean, torch.zeros_like(log_mean))
        return CountForecast(log_mean, functional.softplus(each[..., 1].double()) + LEAST_A)

    def negative_log_likelihood(self, target_BPNF: torch.Tensor, scales: Sequence[CountScale]) -> torch.Tensor:
        """Returns -log p of the raw counts that scaled targets stand for."""
        count = torch.stack([scale.raw(target_BPNF[..., place]) for place, scale in enumerate(scales)], dim=-1)
        mean = self.log_mean.exp()
        if not bool(self.a.detach().any()):
            return mean - count * self.log_mean + torch.lgamma(count + 1)
        more, size = torch.log1p(self.a * mean), 1 / self.a
        log_p = torch.lgamma(count + size) - torch.lgamma(size) - torch.lgamma(count + 1)
        return -(log_p - more * size + count * (self.log_mean + self.a.log() - more))

    def means(self, scales: Sequence[CountScale]) -> torch.Tensor:
        """Returns the means, [B, P, N, F] scaled float32."""
        mean = self.log_mean.exp()
        return torch.stack([scale.scaled(mean[..., place]) for place, scale in enumerate(scales)], dim=-1)

    def quantiles(self, levels: Sequence[float], scales: Sequence[CountScale]) -> torch.Tensor:
        """Returns the least counts that the levels' share of the distribution does not exceed, [B, P, N, F, Q] scaled."""
        counts = torch.from_numpy(count_quantiles(self.log_mean.exp().numpy(), self.a.numpy(), levels))
        each = [
            torch.stack([scale.scaled(counts[..., place, q]) for place, scale in enumerate(scales)], dim=-1)
            for q in range(len(levels))
        ]
        return torch.stack(each, dim=-1)


def count_quantiles(mean: Floats, a: Floats, levels: Sequence[float]) -> Floats:
    """Returns [..., Q] quantiles of distributions with these means and a (0: Poisson).

    Exact up to a mean of `SUMMED`, by adding probabilities up; beyond it those of the gamma distribution of the same mean
    and variance, moved by what its skewness differs, within a count of the exact ones where the variance is not extreme.

    Memory: some float64 a cell and level.
    """
    flat, spread = mean.ravel(), a.ravel()
    counts = np.full((len(flat), len(levels)), np.nan)
    near = np.flatnonzero(flat <= SUMMED)
    counts[near] = _summed(flat[near], spread[near], levels)
    for column, level in enumerate(levels):
        left = np.flatnonzero(np.isnan(counts[:, column]))
        counts[left, column] = _as_gamma(flat[left], spread[left], level)
    return counts.reshape(*mean.shape, len(levels))


def _summed(mean_K: Floats, a_K: Floats, levels: Sequence[float]) -> Floats:
    """Returns [K, Q]; NaN where `SUMMED_STEPS` counts do not hold the level's share."""
    counts, left = np.full((len(mean_K), len(levels)), np.nan), np.arange(len(mean_K))
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.exp(-np.where(a_K > 0, np.log1p(a_K * mean_K) / a_K, mean_K))
    total, ratio = p.copy(), mean_K / (1 + a_K * mean_K)
    wanted_Q = np.asarray(levels)
    for count in range(SUMMED_STEPS):
        reached = (total[:, None] >= wanted_Q) & np.isnan(counts[left])
        if reached.any():
            rows, columns = np.nonzero(reached)
            counts[left[rows], columns] = count
            going = np.isnan(counts[left]).any(axis=1)
            left, p, total, ratio, a_K = (each[going] for each in (left, p, total, ratio, a_K))
        if not len(left):
            break
        p = p * ratio * (1 + a_K * count) / (count + 1)
        total = total + p
    return counts


def _as_gamma(mean_K: Floats, a_K: Floats, level: float) -> Floats:
    """Returns the quantiles of gamma distributions, by halving an interval, as counts."""
    if not len(mean_K):
        return mean_K
    scale = 1 + a_K * mean_K
    shape = torch.from_numpy(mean_K / scale)
    z = float(torch.special.ndtri(torch.tensor(level, dtype=torch.float64)))
    low, high = torch.zeros_like(shape), shape + (abs(z) + 3) * shape.sqrt() + (abs(z) + 3) ** 2 * 4
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        below = torch.special.gammainc(shape, middle) < level
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    counts: Floats = np.ceil(high.numpy() * scale - 0.5 - (z * z - 1) / 6)
    return counts.clip(min=0)
