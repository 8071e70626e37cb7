"""A baseline of the user's own: `baselines: [my_module:forecast]`, a function of plain arrays in raw units.

`forecast(history, times, steps, levels)` is called for one numeric target of a batch's windows at a time:

    history   [S, H] float64, raw units, NaN where nothing was observed; a series is a window at one node
    times     [S, H + steps] datetime64[ns], UTC, of the history's steps and of those to forecast; NaT where there is none
    steps     target steps
    levels    the quantile levels that are judged: the two ends of an interval and the median between them, (0.05, 0.5, 0.95)

and returns [S, steps], or [S, steps, len(levels)], of which the median is the forecast; quantiles that cross are sorted, and
counted. A series of which nothing was observed is not handed over: the node's own training mean stands for it, as with
`repeat`, without an interval. Two windows are tried before anything else is done.

Legend: B windows, H history steps, W steps of history and target, P target steps, N nodes, F numeric targets, S series,
Q levels.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import UsageError, of_memory, shorten
from dateshard.shardstore.own_code.user_code import describe_error, load
from dateshard.shardstore.scaling.transform import Floats, transform
from dateshard.trainer.config import OWN_BASELINE
from dateshard.trainer.data.batch import Batch
from dateshard.trainer.metrics.units import Units

MEDIAN = 1  # its place among the levels
CALLED = "Correct it: it is called as forecast(history, times, steps, levels)"


@dataclass(slots=True)
class RivalQuantiles:
    """The quantiles that a baseline returned for the last batch, scaled; NaN where it was not asked.

    Attributes:
        last_QBPNF: None where it returned forecasts alone.
        crossed: answers so far whose quantiles did not rise with their level, of so many.
    """

    last_QBPNF: Floats | None = None
    crossed: int = 0
    of: int = 0

    def risen(self, answer_SPQ: Floats) -> Floats:
        """Returns quantiles sorted by their level, and counts those that were not."""
        if answer_SPQ.shape[-1] > 1:
            self.crossed += int((np.diff(answer_SPQ, axis=-1) < 0).any(-1).sum())
            self.of += answer_SPQ[..., 0].size
        return np.sort(answer_SPQ, axis=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRival:
    """A user's function as a baseline of the numeric targets.

    Memory: the batch's history in float64 a few times, and what the function takes.

    Attributes:
        history, steps: of the windows that it sees. targets: places among all features.
        bounds_2F: raw values that no forecast goes beyond.
        levels: of the quantiles that it is asked for. quantiles: what it said of them.
    """

    name: str
    function: Callable[..., Any]
    dataset: Dataset
    targets: tuple[int, ...]
    units: Units
    bounds_2F: Floats
    history: int
    steps: int
    levels: tuple[float, ...]
    quantiles: RivalQuantiles = field(default_factory=RivalQuantiles)

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Returns [B, P, N, F] scaled.

        Raises:
            UsageError: the function fails, or what it returns is no forecast; names it and the shape.
        """
        places = list(self.targets)
        values_BHNF = self.units.raw(batch.history_BHNF[:, -self.history :][..., places]).numpy()
        if batch.known_BHNF is not None:
            values_BHNF[~batch.known_BHNF[:, -self.history :][..., places].numpy()] = np.nan
        assert batch.instant_BW is not None, "they are read where a baseline of one's own is judged"
        instant_BW = batch.instant_BW[:, -(self.history + self.steps) :].numpy()
        num_windows, _, num_nodes, _ = values_BHNF.shape
        times_SW = np.repeat(instant_BW, num_nodes, axis=0).view("M8[ns]")
        raw_QBPNF = np.full((len(self.levels), num_windows, self.steps, num_nodes, len(places)), np.nan)
        has_quantiles = False
        for feature in range(len(places)):
            series_SH = values_BHNF[..., feature].swapaxes(1, 2).reshape(-1, self.history)
            known_S = ~np.isnan(series_SH).all(1)
            raw_SPQ = np.full((len(series_SH), self.steps, len(self.levels)), np.nan)
            if known_S.any():
                answer_SPQ = self._ask(series_SH[known_S], times_SW[known_S])
                has_quantiles |= answer_SPQ.shape[-1] == len(self.levels)
                raw_SPQ[known_S] = self.quantiles.risen(answer_SPQ)
            raw_QBPNF[..., feature] = np.moveaxis(
                raw_SPQ.reshape(num_windows, num_nodes, self.steps, -1), (3, 2), (0, 2)
            )
        scaled_QBPNF = np.stack([self._scaled(raw_BPNF) for raw_BPNF in raw_QBPNF])
        asked_QBPNF = np.where(np.isnan(raw_QBPNF), np.nan, scaled_QBPNF)
        self.quantiles.last_QBPNF = asked_QBPNF if has_quantiles else None
        return torch.from_numpy(scaled_QBPNF[MEDIAN])

    def _ask(self, history_SH: Floats, times_SW: NDArray[np.datetime64]) -> Floats:
        """Returns [S, P, Q], or [S, P, 1] of a forecast alone."""
        form = f"a history of {list(history_SH.shape)}"
        try:
            with redirect_stdout(sys.stderr):  # stdout is the command's own
                returned = self.function(history_SH.copy(), times_SW.copy(), self.steps, self.levels)
        except UsageError:
            raise
        except Exception as error:
            if failure := of_memory(error):
                raise failure from None
            raise UsageError(f"baseline '{self.name}' fails on {form}: {describe_error(error)}", todo=CALLED) from None
        answer = self._array(returned, form)
        wanted = (len(history_SH), self.steps)
        if answer.shape not in (wanted, (*wanted, len(self.levels))):
            shapes = f"{list(wanted)} or {[*wanted, len(self.levels)]}"
            what = f"baseline '{self.name}' must return {shapes} for {form}, and returned {list(answer.shape)}"
            raise UsageError(what, todo="The axes are series, target steps and levels")
        answer_SPQ: Floats = answer.reshape(*wanted, -1)
        if not (finite := np.isfinite(answer_SPQ)).all():
            series, step, _ = np.argwhere(~finite)[0].tolist()
            count = f"{int((~finite).sum()):,} of {finite.size:,} values"
            first = f"the first at series {series}, step {step}"
            what = f"baseline '{self.name}' returned NaN or infinity in {count} of {list(answer.shape)} for {form}: {first}"
            raise UsageError(what, todo="Return a finite number for every series; its history may have NaN")
        return answer_SPQ

    def _array(self, returned: Any, form: str) -> Floats:
        try:
            array = np.asarray(returned)
            if array.dtype.kind not in "fiu":
                raise TypeError(f"{array.dtype} {list(array.shape)} are no real numbers")
            return array.astype(np.float64)
        except Exception as error:
            kind = shorten(type(returned).__name__)
            what = f"baseline '{self.name}' returned {kind} for {form}, no array of numbers: {describe_error(error)}"
            raise UsageError(what, todo=CALLED) from None

    def _scaled(self, raw_BPNF: Floats) -> NDArray[np.float32]:
        """Scales an answer; where there is none (NaN) the node's own mean stands."""
        transforms = [self.dataset.features[place].transform for place in self.targets]
        bounded = np.clip(raw_BPNF, *self.bounds_2F)
        with np.errstate(invalid="ignore", divide="ignore"):
            scaled = self.dataset.scale.of(self.targets).apply(transform(bounded, transforms))
        if (lost := ~np.isfinite(scaled) & np.isfinite(raw_BPNF)).any():
            window, step, node, feature = np.argwhere(lost)[0].tolist()
            name = self.dataset.features[self.targets[feature]].name
            value = raw_BPNF[window, step, node, feature]
            what = f"baseline '{self.name}' forecasts {value:g} for {name}, which is scaled by log1p: it has no logarithm there"
            raise UsageError(what, todo=f"Return more than -1, or set trainer.bounds: {{{name}: [0, null]}}")
        means = np.broadcast_to(self.units.mean_scaled_NF.numpy(), scaled.shape)
        return np.where(np.isnan(raw_BPNF), means, scaled).astype(np.float32)


def load_function(name: str) -> Callable[..., Any]:
    """The function that a baseline names.

    Raises:
        UsageError: it cannot be imported or called.
    """
    match = OWN_BASELINE.fullmatch(name)
    assert match is not None, "it is a baseline of one's own"
    with redirect_stdout(sys.stderr):
        return load(match["code"], "baselines")


def reach_of(name: str, history: int) -> int | None:
    """Steps of history that a baseline of one's own is given; None of a built-in one."""
    match = OWN_BASELINE.fullmatch(name)
    return int(match["steps"] or history) if match else None
