"""The Predictor is a run that is loaded once, and then forecasts from values in memory.

Legend: L steps that are given, P target steps, N nodes, I inputs, K targets, C categories, Q levels.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dateshard.judging.forecast_table import Floats, Made, bands_of, frame_of, of_steps, quantiles_of
from dateshard.judging.loaded_run import Calibrated, load_run, refuse_known_ahead
from dateshard.judging.raw_history import Instant, RawHistory
from dateshard.judging.silent_nodes import known_targets
from dateshard.judging.step_forecast import TargetStep, make_forecast, targets_of
from dateshard.shardstore.commands import command
from dateshard.shardstore.errors import UsageError, Where

if TYPE_CHECKING:
    import polars


@dataclass(frozen=True, slots=True, kw_only=True)
class RawForecast:
    """A forecast in raw units, of the target steps P, the nodes N and the targets K.

    Attributes:
        time: [P] datetime64[ns] in UTC, when each step begins.
        horizon: [P] steps after the last one of the history.
        value, low, high: [P, N, K]; NaN for a categorical target, low and high also where there is no interval.
        quantiles: [P, N, K, Q] at the levels [Q] of the run's loss; none (Q = 0) where it knows no quantiles.
        probabilities: {categorical target: [P, N, C]}, of its categories in their order.
        unknown_nodes: nodes of a frame that training never saw: they were left out.
    """

    time: NDArray[np.datetime64]
    horizon: NDArray[np.int64]
    value: Floats
    low: Floats
    high: Floats
    quantiles: Floats
    levels: tuple[float, ...]
    probabilities: Mapping[str, Floats]
    unknown_nodes: tuple[str, ...]
    _made: Made
    _steps: Sequence[TargetStep]

    @property
    def frame(self) -> polars.DataFrame:
        """The forecast as the table that `dateshard.predict` returns."""
        return frame_of(self._made, of_steps(self._steps, self._made.forecaster.dataset.nodes.names))


class Predictor:
    """A run of a grid that is loaded once and then forecasts from raw values: `dateshard.Predictor("latest")`.

    Attributes:
        run, checkpoint: their names.
        inputs, targets, nodes: names, in the order of the axes of what goes in and of what comes out.
        categories: {categorical input or target: its categories}; in an array the n-th of them has the code n, counted from
            1, and 0 is any other.
        history: least steps that go in. horizon: steps that come out; 0: those of the history.
        step: length of a step. timezone: in which times without an offset are read.
        interval: the share of targets that shall lie between low and high; None where there are no intervals.
        notes: what a person should know of the run.
    """

    def __init__(
        self, run: str = "latest", *, checkpoint: str = "best", interval: float | None = 0.9, trust: bool = False
    ) -> None:
        """Loads a run.

        Args:
            checkpoint: best, latest or a name. interval: None for no intervals; those that are not kept are made first.
            trust: import the code that the run names, though it was made elsewhere; from now on.

        Raises:
            UsageError, StoreError: what happened, where, and what to do next.
        """
        loaded = load_run(run, checkpoint, trust=trust)
        dataset, forecaster = loaded.dataset, loaded.forecaster
        if not dataset.manifest.step:
            what = (
                f"Predictor forecasts the steps of a grid, and this dataset keeps records ({dataset.manifest.layout})"
            )
            todo = f"Forecast from their dumps: {command('predict', loaded.run.name, '--history', 'FILE')}"
            raise UsageError(what, where=Where(file=str(dataset.root)), todo=todo)
        refuse_known_ahead(loaded, "Predictor")
        calibrated = Calibrated(loaded, interval)
        self._forecaster, self._raw, self._intervals = forecaster, RawHistory(forecaster), calibrated.intervals
        self.run, self.checkpoint = loaded.run.name, loaded.saved.name
        self.inputs = tuple(feature.name for feature in self._raw.features)
        self.targets = tuple(target.name for target in forecaster.targets)
        self.nodes = tuple(dataset.nodes.names)
        chosen = {*self.inputs, *self.targets}
        self.categories = {name: tuple(words) for name, words in dataset.vocabularies.names.items() if name in chosen}
        self.history, self.horizon = forecaster.window.history, forecaster.window.horizon
        self.step = dt.timedelta(microseconds=dataset.manifest.step // 1000)
        self.timezone = dataset.manifest.timezone
        self.interval = None if self._intervals is None else interval
        self.notes = (*loaded.notes, *([calibrated.note] if calibrated.note else []))

    def forecast(self, history: NDArray[Any] | polars.DataFrame, until: Instant | None = None) -> RawForecast:
        """Forecasts what comes after a raw history.

        From the steps since midnight of the window's first date it is bit for bit what `predict` forecasts from dumps of
        these values. Where an array begins later, no earlier value fills its gaps.

        Args:
            history: an array [L, N, I] of at least `history` steps, NaN where nothing was observed; or a polars frame
                with the columns time, node (not needed of a single node) and the inputs, a row a step and node.
            until: the first instant after the history, at which a step begins: `2013-12-01T14:00` (local time, or with an
                offset), a date for its end, or a datetime; of a frame by default the end of its last step.

        Raises:
            UsageError: naming what of the history cannot be used.
        """
        if isinstance(history, np.ndarray):
            if until is None:
                raise UsageError(
                    "an array does not say when its steps are", todo="Give until, the end of its last step"
                )
            steps = self._raw.steps(history, self._raw.instant(until))
        else:
            grid = self._raw.grid(history, until)
            steps = self._raw.steps(grid.values_LNI, grid.end, grid.unknown_nodes)
        targets = targets_of(self._forecaster, steps)
        known = known_targets(self._forecaster, steps.observed_HNF.max(axis=0))
        made = make_forecast(self._forecaster, steps, targets, known, self._intervals)
        value, low, high = bands_of(made)
        return RawForecast(
            time=np.asarray(made.instant_P, dtype="datetime64[ns]"),
            horizon=np.asarray(made.horizon_P, dtype=np.int64),
            value=value,
            low=low,
            high=high,
            quantiles=quantiles_of(made),
            levels=self._forecaster.quantiles.levels,
            probabilities=made.chances,
            unknown_nodes=steps.unknown_nodes,
            _made=made,
            _steps=targets,
        )
