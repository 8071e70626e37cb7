"""What a page shows of a whole split: truth and forecast of nodes over it, residuals over time and their histogram.

Windows overlap, so nodes are followed through windows that lie a horizon apart: each step is forecast once. Residuals
(forecast less truth) are those of all windows and nodes. Time is cut into at most `MOST_COLUMNS` columns of equal
length, for residuals into at most `MOST_MEANS` (days where it is long enough), and a column holds means: memory and the
page are the same for a day and for ten years.

Legend: B windows, P target steps, N nodes, F numeric targets that are followed, C columns, M nodes that are followed,
S truth, forecast, low and high end.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.scaling.histogram import representatives
from dateshard.trainer.data.batch import Batch
from dateshard.trainer.data.order import Order, Window
from dateshard.trainer.data.permutation import Integers
from dateshard.trainer.data.window_dates import NOWHEN, InstantOf
from dateshard.trainer.metrics.epoch import Form, numbers_of
from dateshard.trainer.metrics.raw_errors import RawFigures
from dateshard.trainer.metrics.sums import CHUNK, Floats, finite_values

MOST_COLUMNS, MOST_MEANS = 300, 120
MOST_TARGETS = 4
FOLLOWED = 512  # nodes times targets
MOST_SERIES = 64  # nodes times targets that are told in the end
WORST = 12  # nodes of the largest error that are always among them
MISSING, HIGHEST = 255, 254  # of a byte: nothing, and the high end of a series
NUM_BARS = 60
DAYS = 14  # from which on residuals are told by days
DAY_NS = 86_400_000_000_000
TAIL = 0.005  # of the residuals, left out of the histogram at either end


@dataclass(frozen=True, slots=True)
class TimeColumns:
    """Equal stretches of time: instant of the first one's begin, nanoseconds of each, and how many."""

    first: int
    width: int
    count: int

    def of(self, instants: Integers) -> Integers:
        """The column of each instant, `count` of one that is not known or lies outside."""
        columns = np.where(instants == NOWHEN, self.count, (instants - self.first) // self.width)
        return np.where((columns < 0) | (columns > self.count), self.count, columns)

    def together(self) -> int:
        """How many make one of the residuals' columns: a day where there are `DAYS` of them, and no more than `MOST_MEANS`."""
        least, a_day = -(-self.count // MOST_MEANS), DAY_NS // self.width
        of_days = DAY_NS % self.width == 0 and a_day >= least and self.count >= DAYS * a_day
        return a_day if of_days else least

    @staticmethod
    def between(first: int, last: int, step: int) -> TimeColumns:
        """Cuts time into at most `MOST_COLUMNS` from the first to the last instant, each of whole steps (of records: 1 ns)."""
        steps = (last - first) // step + 1
        width = -(-steps // MOST_COLUMNS)
        return TimeColumns(first, width * step, -(-steps // width))


class Period:
    """What is followed of one pass over a split, by a model whose windows come in date order.

    Memory: 10 MB at most, and some megabytes while a batch is added.
    """

    def __init__(self, dataset: Dataset, order: Order, window: Window, form: Form, scored: slice | None) -> None:
        assert form.units is not None, "form_of always gives them"
        self.dataset, self.form, self.units = dataset, form, form.units
        self.offsets_P = np.arange(window.target_steps) - (0 if window.horizon else window.history - 1)
        self.instant_of = InstantOf(dataset, order, window)
        ends = [self.instant_of(range(at, at + 1), self.offsets_P)[0] for at in (0, order.num_windows - 1)]
        if not dataset.manifest.step:  # records of a date may stand in another order than that of time
            first, last = min(run.first_day for run in order.runs), max(run.last_day for run in order.runs) - 1
            ends += [dataset.times(dataset.days[day]) for day in (first, last)]
        instants = np.concatenate(ends)
        known = instants[instants != NOWHEN]
        step = dataset.manifest.step
        self.columns = TimeColumns.between(int(known.min()), int(known.max()), step or 1)
        self.num_targets = min(len(form.numbers), MOST_TARGETS)
        self.nodes_M = _spread(
            np.arange(dataset.manifest.num_nodes)[scored or slice(None)], FOLLOWED // self.num_targets
        )
        shape = (4, self.columns.count + 1, len(self.nodes_M), self.num_targets)
        self.sums_SCMF, self.counts_SCMF = np.zeros(shape), np.zeros(shape, dtype=np.int32)
        self.errors_3CF: Floats = np.zeros((3, self.columns.count + 1, self.num_targets))  # count, error, squared error
        self._next = NOWHEN

    @staticmethod
    def of(
        dataset: Dataset, order: Order, window: Window, form: Form, scored: slice | None
    ) -> Period | TimelessPeriod | None:
        """Begins to follow a pass; where no time goes by (rows without a date, records divided by cuts) its residuals alone.

        None where all targets are categories.
        """
        manifest = dataset.manifest
        if not form.numbers:
            return None
        if manifest.undated or manifest.split_cuts:
            return TimelessPeriod(form)
        return Period(dataset, order, window, form, scored)

    def add(
        self, positions: range, predicted: Mapping[str, torch.Tensor], batch: Batch, ends_2BPNF: Floats | None
    ) -> None:
        """Adds the model's forecasts of a batch; `ends_2BPNF`: of its intervals, scaled, NaN where there is none."""
        numbers = numbers_of(self.form, predicted, batch)
        assert numbers is not None, "a model forecasts all its targets"
        instant_BP = self.instant_of(positions, self.offsets_P)
        column_BP, apart = self.columns.of(instant_BP), self._apart(instant_BP)
        size = max(1, CHUNK // max(1, numbers[1][0].numel()))
        for low in range(0, batch.size, size):
            rows = slice(low, low + size)
            truth, forecast = self._raw(tuple(None if given is None else given[rows] for given in numbers))
            self._add_errors(column_BP[rows], forecast - truth)
            for row in apart[(apart >= low) & (apart < low + size)].tolist():
                ends = [] if ends_2BPNF is None else list(self.units.raw(torch.from_numpy(ends_2BPNF[:, row])).numpy())
                for kind, values in enumerate((truth[row - low], forecast[row - low], *ends)):
                    self._add_series(kind, column_BP[row], values[:, self.nodes_M, : self.num_targets])

    def _apart(self, instant_BP: Integers) -> Integers:
        """Rows of windows whose first target step comes after the last one of the window taken before."""
        taken = list[int]()
        for row, (first, last) in enumerate(zip(instant_BP[:, 0].tolist(), instant_BP[:, -1].tolist(), strict=True)):
            if first > self._next or self._next == NOWHEN:
                taken.append(row)
                self._next = last
        return np.asarray(taken, dtype=np.int64)

    def _raw(self, numbers: tuple[torch.Tensor | None, ...]) -> tuple[Floats, Floats]:
        """Returns [B, P, N, F] truth and forecast in raw units, NaN where nothing was observed or it is no number."""
        forecast, target, observed = numbers
        assert forecast is not None
        assert target is not None
        truth, given = (self.units.raw(values.detach().cpu()).numpy() for values in (target, forecast))
        if observed is not None:
            truth = np.where(observed.cpu().numpy(), truth, np.nan)
        return truth, np.where(np.isfinite(given), given, np.nan)

    def _add_errors(self, column_BP: Integers, error_BPNF: Floats) -> None:
        error = error_BPNF[..., : self.num_targets]
        with np.errstate(invalid="ignore", over="ignore"):
            terms = (~np.isnan(error), np.nan_to_num(error), np.nan_to_num(error) ** 2)
        for row, term in enumerate(terms):
            for feature in range(self.num_targets):
                weights = term[..., feature].sum(axis=2).ravel()
                self.errors_3CF[row, :, feature] += np.bincount(column_BP.ravel(), weights, self.columns.count + 1)

    def _add_series(self, kind: int, column_P: Integers, values_PMF: Floats) -> None:
        np.add.at(self.sums_SCMF[kind], column_P, np.nan_to_num(values_PMF))
        np.add.at(self.counts_SCMF[kind], column_P, ~np.isnan(values_PMF))

    def report(self, figures: Mapping[str, RawFigures]) -> dict[str, Any]:
        """Returns it as JSON.

        Args:
            figures: the model's errors first, then those of whom it is drawn beside.
        """
        names = [self.form.targets[place].name for place in self.form.numbers[: self.num_targets]]
        nodes, known = self.dataset.nodes.names, self._chosen(next(iter(figures.values())))
        return {
            "first_ns": self.columns.first,
            "width_ns": self.columns.width,
            "columns": self.columns.count,
            "of_nodes": len(nodes),
            "followed": len(self.nodes_M),
            "nodes": [nodes[node] for node in self.nodes_M[known].tolist()],
            "series": {name: [self._packed(at, place) for at in known.tolist()] for place, name in enumerate(names)},
            "residuals": {name: self._residuals(place) for place, name in enumerate(names)},
            "histograms": {name: _bars(figures, place) for place, name in enumerate(names)},
        }

    def _chosen(self, model: RawFigures) -> Integers:
        """Places among the followed nodes: the worst by the first target's mean absolute error first, a spread of the rest."""
        count, absolute = model.nodes.values_6GF[[0, 2], :, 0][:, self.nodes_M]
        error = np.divide(absolute, count, out=np.full(len(count), -1.0), where=count > 0)
        known = np.flatnonzero(self.counts_SCMF[0].any(axis=(0, 2)))
        ordered = known[np.argsort(-error[known], kind="stable")]
        most = MOST_SERIES // self.num_targets
        return np.concatenate([ordered[:WORST], _spread(ordered[WORST:], most - WORST)])

    def _packed(self, at: int, place: int) -> dict[str, Any]:
        with np.errstate(invalid="ignore"):
            return packed(self.sums_SCMF[:, :-1, at, place] / self.counts_SCMF[:, :-1, at, place])

    def _residuals(self, place: int) -> dict[str, Any]:
        """Mean and standard deviation of the residuals, four digits; None where nothing was observed.

        `columns` says how many columns of time each holds."""
        together = self.columns.together()
        begins = np.arange(0, self.columns.count, together)
        count, error, squared = np.add.reduceat(self.errors_3CF[:, :-1, place], begins, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = error / count
            spread = np.sqrt(np.maximum(squared / count - mean**2, 0.0))
        return {"columns": together, "mean": _digits(mean), "std": _digits(spread)}


@dataclass(frozen=True, slots=True)
class TimelessPeriod:
    """What is told of a pass in which no time goes by: histograms of the residuals, which the metrics count anyway."""

    form: Form

    def add(self, *_: object) -> None:
        """Keeps nothing of a batch."""

    def report(self, figures: Mapping[str, RawFigures]) -> dict[str, Any]:
        """Returns it as JSON, in the form of a `Period`'s; `figures` as there."""
        names = [self.form.targets[place].name for place in self.form.numbers[:MOST_TARGETS]]
        bars = {name: _bars(figures, place) for place, name in enumerate(names)}
        return {"nodes": [], "series": {}, "residuals": {}, "histograms": bars}


def packed(means_SC: Floats) -> dict[str, Any]:
    """A node's series: bytes of S x C places between `low` and `high`, as base64; without an interval S is 2.

    Where nothing was observed and no forecast is a number, both are 0."""
    means_SC = means_SC if np.isfinite(means_SC[2:]).any() else means_SC[:2]
    finite = means_SC[np.isfinite(means_SC)]
    low, high = (float(f"{end:.7g}") for end in ((finite.min(), finite.max()) if finite.size else (0.0, 0.0)))
    share = np.nan_to_num((means_SC - low) / ((high - low) or 1.0)).clip(0, 1)
    values = np.where(np.isfinite(means_SC), np.rint(share * HIGHEST), MISSING).astype(np.uint8)
    return {"low": low, "high": high, "packed": base64.b64encode(values.tobytes()).decode()}


def unpacked(series: Mapping[str, Any], columns: int) -> Floats:
    """Returns [S, C] values of a packed series, NaN where there is none; off by half a 254th of its range."""
    values = np.frombuffer(base64.b64decode(series["packed"]), dtype=np.uint8).reshape(-1, columns)
    raw: Floats = series["low"] + values / HIGHEST * (series["high"] - series["low"])
    return np.where(values == MISSING, np.nan, raw)


def _digits(values: Floats) -> list[float | None]:
    return [None if value is None else float(f"{value:.4g}") for value in finite_values(values)]


def _spread(places: Integers, most: int) -> Integers:
    """Takes at most so many, evenly from the first to the last."""
    if len(places) <= most:
        return places
    return places[np.linspace(0, len(places) - 1, most).round().astype(np.int64)]


def _bars(figures: Mapping[str, RawFigures], place: int) -> dict[str, Any]:
    """Shares of the residuals of each by bars of equal width, and what share of the model's lies outside; empty without any."""
    mine = next(iter(figures.values())).errors.counts_FK[place]
    occupied = np.flatnonzero(sum(own.errors.counts_FK[place] for own in figures.values()))
    values, upto = representatives(occupied), np.cumsum(mine[occupied])
    counts = {name: own.errors.counts_FK[place][occupied] for name, own in figures.items()}
    if not mine.any():
        return {}
    first, last = (float(values[np.searchsorted(upto, share * upto[-1])]) for share in (TAIL, 1 - TAIL))
    edges = np.linspace(first, last, NUM_BARS + 1) if last > first else np.asarray([first - 0.5, first + 0.5])
    bars = {name: np.histogram(values, edges, weights=own)[0] / max(own.sum(), 1) for name, own in counts.items()}
    outside = 1 - float(bars[next(iter(counts))].sum())
    return {"edges": _digits(edges), "shares": {name: _digits(own) for name, own in bars.items()}, "outside": outside}
