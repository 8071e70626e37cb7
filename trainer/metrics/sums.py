"""Exact sums of errors over an epoch in fixed memory: float64, by target step, by node, by hour of day.

The notes' case kept 11,014 batches for one concatenation (28 GB); these sums take 6 x G x F x 8 bytes. They are
additive, so they merge across ranks and go into a checkpoint. Sums of y are shifted by the training mean, which keeps
R2 free of cancellation (a float32 library metric returned 1.0134 where 4.6e-5 is true).

Legend: B batch, P target steps, N nodes, F target features, G groups: steps, nodes or hours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SUMS = ("count", "error", "absolute", "squared", "shifted", "shifted_squared")
CHUNK = 1 << 16  # cells that are worked on at a time: some target steps of all windows of a batch


@dataclass(slots=True)
class Cells:
    """Forecasts and targets, some steps at a time, as the float64 terms of the sums; its buffers are used again.

    numpy, for its calls cost a third of torch's, and a small batch is nothing but calls (28 against 70 us).

    Memory: 2 or, with a mask, 3 float64 of `CHUNK` cells (1 or 1.6 MB), or of one step of a batch where that is more.
    """

    _buffers: list[Floats] = field(default_factory=list)

    def chunks(
        self, forecast: torch.Tensor, target: torch.Tensor, observed: torch.Tensor | None, shift: Floats | None = None
    ) -> Iterator[tuple[slice, Floats, Floats | None]]:
        """Yields of [B, P, N, F]: (which steps, errors and shifted targets [2, B, p, N, F], what was observed).

        0 where nothing was observed; without a mask there is no third. They may be changed, and the next ones overwrite them.
        """
        given = [None if array is None else array.detach().cpu().numpy() for array in (forecast, target, observed)]
        windows, length, nodes, features = target.shape
        steps = max(1, CHUNK // max(1, windows * nodes * features))
        for low in range(0, length, steps):
            chosen = slice(low, min(low + steps, length))
            yield chosen, *self._chunk([None if array is None else array[:, chosen] for array in given], shift)

    def _chunk(self, given: list[NDArray[Any] | None], shift: Floats | None) -> tuple[Floats, Floats | None]:
        forecast, target, observed = given
        assert forecast is not None
        assert target is not None
        both = self._room(0, (2, *target.shape))
        error, value = both
        np.copyto(error, forecast)
        np.copyto(value, target)
        np.subtract(error, value, out=error)
        if shift is not None:
            np.subtract(value, shift, out=value)
        if observed is None:
            return both, None
        seen = self._room(1, target.shape)
        np.copyto(seen, observed)
        with np.errstate(invalid="ignore"):
            np.multiply(error, seen, out=error)
        if math.isnan(np.maximum.reduce(error, axis=None, initial=0.0)):  # inf x 0; the cheapest look there is
            np.copyto(error, 0.0, where=seen == 0)
        np.multiply(value, seen, out=value)
        return both, seen

    def terms(
        self, forecast: torch.Tensor, target: torch.Tensor, observed: torch.Tensor | None, shift: Floats | None = None
    ) -> Iterator[tuple[slice, Iterator[tuple[int, Floats]]]]:
        """Yields of [B, P, N, F]: (which steps, their (row of `SUMS`, [B, p, N, F] float64)); 0 where nothing was observed.

        A term is overwritten by the next one. Without a mask there is no term `count`.
        """
        for steps, both, seen in self.chunks(forecast, target, observed, shift):
            yield steps, self._terms(both, seen)

    def _terms(self, both: Floats, seen: Floats | None) -> Iterator[tuple[int, Floats]]:
        error, value = both
        if seen is not None:
            yield 0, seen
        yield 1, error
        yield 2, np.absolute(error, out=error)
        yield 3, np.multiply(error, error, out=error)
        yield 4, value
        yield 5, np.multiply(value, value, out=value)

    def _room(self, which: int, shape: tuple[int, ...]) -> Floats:
        size = math.prod(shape)
        while len(self._buffers) <= which:
            self._buffers.append(np.empty(0))
        if self._buffers[which].size < size:
            self._buffers[which] = torch.empty(size, dtype=torch.float64).numpy()  # whose memory begins a cache line
        return self._buffers[which][:size].reshape(shape)


@dataclass(slots=True)
class Sums:
    """Sums for metrics; `values_6GF` has the rows named in `SUMS`, float64, G = target steps unless said otherwise."""

    values_6GF: Floats
    cells: Cells = field(default_factory=Cells)

    @staticmethod
    def zeros(num_groups: int, num_features: int) -> Sums:
        """Nothing seen yet."""
        return Sums(np.zeros((len(SUMS), num_groups, num_features)))

    def add(
        self, forecast: torch.Tensor, target: torch.Tensor, observed: torch.Tensor | None, shift: Floats | None = None
    ) -> None:
        """Adds [B, P, N, F] forecasts and targets by step.

        `shift` is about the training mean, [F] or the same for all nodes [N, F] (R2 is of all nodes together); None: 0, the
        scaled one."""
        first = 1 if observed is None else 0  # without a mask no term is the count
        for steps, both, seen in self.cells.chunks(forecast, target, observed, shift):
            summed_6PNF = np.empty((len(SUMS), *both.shape[2:]))
            rows, cells = summed_6PNF.reshape(len(SUMS), -1), both.reshape(2, len(target), -1)
            if seen is not None:
                np.add.reduce(seen.reshape(cells.shape[1:]), axis=0, out=rows[0])
            np.add.reduce(cells, axis=1, out=rows[1::3])  # errors and shifted targets in one call
            np.absolute(cells[0], out=cells[0])
            np.add.reduce(cells[0], axis=0, out=rows[2])
            np.multiply(cells, cells, out=cells)
            np.add.reduce(cells, axis=1, out=rows[3::2])
            self.add_term(slice(first, None), steps, summed_6PNF[first:])
        if observed is None:
            self.values_6GF[0] += target.shape[0] * target.shape[2]

    def add_term(self, rows: int | slice, steps: slice, term_PNF: Floats) -> None:
        """Adds one term of some steps, summed over its windows; or several, [K, P, N, F], in one call."""
        alone = term_PNF.shape[-2] == 1
        self.values_6GF[rows, steps] += term_PNF[..., 0, :] if alone else np.einsum("...nf->...f", term_PNF)

    def metrics(self, step: int | None = None, feature: int | None = None) -> dict[str, float | None]:
        """Returns MSE, RMSE, MAE, bias and R2; None where nothing counts.

        They are over everything, or of one step (or node, or hour), one feature, or both."""
        chosen = self.values_6GF
        if step is not None:
            chosen = chosen[:, step : step + 1]
        if feature is not None:
            chosen = chosen[:, :, feature : feature + 1]
        count, error, absolute, squared, moved, moved_squared = (float(v) for v in chosen.sum((1, 2)))
        if not count:
            return {"count": 0, "mse": None, "rmse": None, "mae": None, "bias": None, "r2": None}
        spread = moved_squared - moved * moved / count
        mse = squared / count
        figures = {
            "mse": mse,
            "rmse": mse**0.5,
            "mae": absolute / count,
            "bias": error / count,
            "r2": 1 - squared / spread if spread > 0 else None,
        }
        return {"count": int(count), **{name: finite(value) for name, value in figures.items()}}

    def report(self, features: list[str]) -> dict[str, Any]:
        """All of it: overall, by feature, by target step."""
        return {
            **self.metrics(),
            "by_feature": {name: self.metrics(feature=index) for index, name in enumerate(features)},
            "by_horizon": [self.metrics(step=step) for step in range(self.values_6GF.shape[1])],
        }


def finite(value: float | None) -> float | None:
    """Returns a finite number as it is, else None: JSON has no other."""
    return value if value is not None and math.isfinite(value) else None


def finite_values(values: Floats) -> list[float | None]:
    """Does the same for a whole array, in no time for thousands of nodes."""
    known = values.astype(object)
    known[~np.isfinite(values)] = None
    plain: list[float | None] = known.tolist()
    return plain
