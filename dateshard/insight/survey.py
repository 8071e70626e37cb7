"""One pass over committed dates: what their shards hold, in raw and in scaled units, date by date.

Everything that inspect, statistics and the data report tell of cells comes from here, so it is what training sees:
filled cells are left out, clipped ones are clipped. Shards hold seven digits; figures are rounded to the next power of
ten above 2.5e-7 of a feature's spread, so that a zero is a zero again (see `_grid`).

Memory: a few arrays of one feature of one date, about 2 kB a date and feature, and 1.5 MB a feature for the histograms.

Legend: T steps of a date, N nodes, F features, G groups of neighbouring nodes, B bins.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.scaling.histogram import GREATEST, NUM_BINS, ZERO, bins_of, representatives
from dateshard.shardstore.scaling.partials import PartialStatistics
from dateshard.shardstore.scaling.scale import Scale
from dateshard.shardstore.scaling.transform import Floats, Integers
from dateshard.shardstore.times.calendar import Day

KINDS = ("raw", "scaled", "unit")  # unit: (transformed value - training mean) / training deviation, over all nodes
EDGES_B = np.sinh(np.linspace(-7.6, 7.6, 129)) * 0.05  # of drift's bins, in training deviations: fine near the mean
MOST_GROUPS = 100
LOST = 2.5e-7  # of a spread: twice what float32 rounds off a value of up to 4 spreads
WEEK, HOURS = 7, 24
HOUR = 3_600_000_000_000  # nanoseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class DateSurvey:
    """What a survey counts of one date.

    Attributes:
        moments: {kind: [6, F]} rows as in `PartialStatistics`, of the observed cells of all nodes.
        quartiles_3F: of the raw observed cells, type 7; NaN where there are none.
        bins_FB: observed cells between `EDGES_B`, the outer bins included. training_FB: those of
            training records, where records are divided and not dates.
        seen_GF: observed cells of each group of nodes.
    """

    day: Day
    moments: dict[str, Floats]
    quartiles_3F: Floats
    bins_FB: NDArray[np.int32]
    training_FB: NDArray[np.int32]
    seen_GF: NDArray[np.int32]


@dataclass(slots=True, kw_only=True)
class DataSurvey:
    """Running sums over the dates that were added.

    Attributes:
        seen_NF, sum_NF: observed cells of each node, and the sum of their raw values.
        week_seen, week_sum: the same [7, 24, F] by local weekday (Monday 0) and hour.
        train_bins, other_bins: [F, 65536] histograms of `unit`, of training records and of all others, in the bins of
            `dateshard.shardstore.scaling.histogram`.
        scaled_bins: likewise of the scaled values.
        codes: {feature: cells of each code} of the categorical features.
    """

    dataset: Dataset
    dates: dict[dt.date, DateSurvey] = field(default_factory=dict)
    seen_NF: Floats = field(init=False)
    sum_NF: Floats = field(init=False)
    week_seen: Floats = field(init=False)
    week_sum: Floats = field(init=False)
    train_bins: Integers = field(init=False)
    other_bins: Integers = field(init=False)
    scaled_bins: Integers = field(init=False)
    codes: dict[int, Integers] = field(init=False)
    unit: Unit = field(init=False)

    def __post_init__(self) -> None:
        nodes, features = self.dataset.manifest.num_nodes, self.dataset.features
        self.seen_NF, self.sum_NF = np.zeros((nodes, len(features))), np.zeros((nodes, len(features)))
        self.week_seen, self.week_sum = (np.zeros((WEEK, HOURS, len(features))) for _ in range(2))
        shape = (len(features), NUM_BINS)
        self.train_bins, self.other_bins, self.scaled_bins = (np.zeros(shape, dtype=np.int64) for _ in range(3))
        vocabularies = self.dataset.vocabularies.names
        self.codes = {
            k: np.zeros(len(vocabularies[f.name]) + 1, dtype=np.int64) for k, f in enumerate(features) if f.categorical
        }
        self.unit = Unit.of(self.dataset)

    def add(self, date: dt.date) -> None:
        """Reads one committed date, verified.

        Raises:
            StoreError: the date is missing or its shard is damaged.
        """
        values = np.asarray(self.dataset.map(date), dtype=np.float32)
        mask = self.dataset.map(date, "observed")
        day, num_features = self.dataset.manifest.day(date), len(self.dataset.features)
        training_T = _training_rows(self.dataset, day)
        columns = [
            self._column(day, values[..., k], None if mask is None else mask[..., k], training_T, k)
            for k in range(num_features)
        ]
        self.dates[date] = DateSurvey(
            day=day,
            moments={kind: np.stack([column.moments[kind] for column in columns], axis=1) for kind in KINDS},
            quartiles_3F=np.stack([column.quartiles for column in columns], axis=1),
            bins_FB=np.stack([column.bins for column in columns]),
            training_FB=np.stack([column.training for column in columns]),
            seen_GF=np.stack([column.seen_G for column in columns], axis=1),
        )

    def _column(
        self,
        day: Day,
        scaled_TN: NDArray[np.float32],
        mask: NDArray[np.generic] | None,
        training_T: NDArray[np.bool_],
        index: int,
    ) -> _Column:
        seen_TN = np.ones(scaled_TN.shape, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
        seen_N = seen_TN.sum(axis=0)
        self.seen_NF[:, index] += seen_N
        groups_G = np.add.reduceat(seen_N, group_starts(len(seen_N))).astype(np.int32)
        if index in self.codes:
            codes = scaled_TN[seen_TN].astype(np.int64)
            self.codes[index] += np.bincount(codes, minlength=len(self.codes[index]))
            return _Column.counted(len(codes), groups_G)
        transformed_TN = self.unit.transformed(scaled_TN, index)
        log = self.dataset.features[index].transform == "log1p"
        raw_TN = np.where(seen_TN, np.expm1(transformed_TN) if log else transformed_TN, np.nan)
        unit_R = (transformed_TN[seen_TN] - self.unit.mean_F[index]) / self.unit.deviation_F[index]
        scaled_R, raw_R = scaled_TN[seen_TN], raw_TN[seen_TN]
        self._add_sums(day, raw_TN, seen_TN, index)
        bin_R, of_training_R = bins_of(unit_R), np.repeat(training_T, seen_TN.sum(axis=1))
        train, other = (np.bincount(bin_R[own], minlength=NUM_BINS) for own in (of_training_R, ~of_training_R))
        self.train_bins[index] += train
        self.other_bins[index] += other
        self.scaled_bins[index] += np.bincount(bins_of(scaled_R.astype(np.float64)), minlength=NUM_BINS)
        moments = {
            "raw": moments_of(raw_R),
            "scaled": moments_of(scaled_R.astype(np.float64)),
            "unit": moments_of(unit_R),
        }
        coarse = _coarse(train + other)
        training = _coarse(train) if self.dataset.manifest.split_cuts else coarse
        quartiles = np.quantile(raw_R, (0.25, 0.5, 0.75)) if raw_R.size else np.full(3, np.nan)
        return _Column(moments=moments, quartiles=quartiles, bins=coarse, training=training, seen_G=groups_G)

    def _add_sums(self, day: Day, raw_TN: Floats, seen_TN: NDArray[np.bool_], index: int) -> None:
        plain_TN = np.where(seen_TN, raw_TN, 0.0)
        self.sum_NF[:, index] += plain_TN.sum(axis=0)
        step_of_day, weekday = np.divmod(self.dataset.codes(day), 8)
        at = weekday, step_of_day.astype(np.int64) * self.dataset.code_length // HOUR
        np.add.at(self.week_seen[..., index], at, seen_TN.sum(axis=1))
        np.add.at(self.week_sum[..., index], at, plain_TN.sum(axis=1))

    def pooled(self, kind: str, dates: Iterable[dt.date] | None = None) -> Floats:
        """Returns [6, F]: moments of one kind over the given dates (default: all that were added), in date order."""
        total = PartialStatistics.empty(1, len(self.dataset.features))
        for date in sorted(self.dates if dates is None else dates):
            total = total.merge(PartialStatistics(self.dates[date].moments[kind][:, None, :]))
        return total.moments_6NF[:, 0]

    def cells(self, dates: Iterable[dt.date] | None = None) -> int:
        """Cells of one feature, observed or not, over the given dates."""
        chosen = self.dates if dates is None else dates
        return sum(self.dates[date].day.num_steps for date in chosen) * self.dataset.manifest.num_nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """One feature of one date."""

    moments: dict[str, Floats]
    quartiles: Floats
    bins: NDArray[np.int32]
    training: NDArray[np.int32]
    seen_G: NDArray[np.int32]

    @staticmethod
    def counted(num_seen: int, seen_G: NDArray[np.int32]) -> _Column:
        """Counts the observed cells alone of a categorical feature, whose codes are no quantities."""
        moments = np.asarray([num_seen, np.nan, np.nan, np.nan, np.nan, np.nan])
        none, by_kind = np.zeros(len(EDGES_B) + 1, np.int32), dict.fromkeys(KINDS, moments)
        return _Column(moments=by_kind, quartiles=np.full(3, np.nan), bins=none, training=none, seen_G=seen_G)


def _training_rows(dataset: Dataset, day: Day) -> NDArray[np.bool_]:
    """Returns [T]: whether each step or record of a date is of the training set."""
    if not dataset.manifest.split_cuts:
        return np.full(day.num_steps, dataset.manifest.split_of(day.date) == "train")
    cuts, own = dataset.cuts(day), set(dataset.manifest.split_cuts["train"])
    lengths = np.diff([*cuts.starts, day.num_steps])
    return np.repeat(np.array([name in own for name in cuts.names], dtype=bool), lengths)


def _coarse(bins: Integers) -> NDArray[np.int32]:
    return np.bincount(COARSE, weights=bins, minlength=len(EDGES_B) + 1).astype(np.int32)


@dataclass(frozen=True, slots=True)
class Unit:
    """How scaled values become transformed ones, and those deviations from the training mean.

    Attributes:
        mean_F, deviation_F: of the training cells of all nodes, after the transform; a constant's deviation is 1.
        grid_NF: figures are whole multiples of 1 / this; NaN where nothing has to be rounded.
    """

    dataset: Dataset
    mean_F: Floats
    deviation_F: Floats
    grid_NF: Floats

    @staticmethod
    def of(dataset: Dataset) -> Unit:
        """Makes the units from the frozen statistics."""
        count, pivot, delta, m2, *_ = dataset.statistics.over_nodes
        deviation = np.sqrt(m2 / np.maximum(count, 1))
        rounding = 8 * np.finfo(np.float64).eps * np.abs(pivot + delta)
        return Unit(dataset, pivot + delta, np.where(deviation > rounding, deviation, 1.0), _grid(dataset.scale))

    def transformed(self, scaled_TN: NDArray[np.float32], index: int) -> Floats:
        """Returns [T, N] values after the transform, rounded to what float32 can have kept of them."""
        scale = self.dataset.scale
        pivot, delta, spread = (array[:, index] for array in (scale.pivot_NF, scale.delta_NF, scale.spread_NF))
        exact = (scaled_TN.astype(np.float64) * spread + delta) + pivot
        grid = self.grid_NF[:, index]
        rounded: Floats = np.where(np.isnan(grid), exact, np.rint(exact * grid) / grid)
        return rounded


def _grid(scale: Scale) -> Floats:
    """Returns the grid that values are rounded to, for what float32 lost.

    It shows where a value is near 0 and the scale's middle is not: there 7 digits of the middle are left, and never more
    than float32 held of the spread are wanted.
    """
    middle, spread = np.abs(scale.pivot_NF + scale.delta_NF), np.abs(scale.spread_NF)
    size = np.minimum(middle, spread)
    needed = size > 1e-9 * spread
    return np.where(needed, 10.0 ** -np.ceil(np.log10(LOST * np.where(needed, size, 1.0))), np.nan)


_FINITE = np.clip(np.arange(NUM_BINS), ZERO - 1 - GREATEST, ZERO + GREATEST)
COARSE = np.searchsorted(EDGES_B, representatives(_FINITE), side="right")


def moments_of(values_R: Floats) -> Floats:
    """Returns [6] of plain values: n, pivot, delta, M2, min, max."""
    return PartialStatistics.of(values_R.reshape(-1, 1, 1)).moments_6NF[:, 0, 0] if values_R.size else _nothing()


def _nothing() -> Floats:
    return PartialStatistics.empty(1, 1).moments_6NF[:, 0, 0]


def group_starts(num_nodes: int) -> Integers:
    """The first node of each group: at most `MOST_GROUPS` groups of neighbours of (nearly) equal size."""
    count = min(num_nodes, MOST_GROUPS)
    return np.arange(count) * num_nodes // max(count, 1)


def raw_of_unit(survey: DataSurvey, index: int, values: Floats) -> Floats:
    """Deviations from the training mean of a feature -> raw values."""
    transformed: Floats = values * survey.unit.deviation_F[index] + survey.unit.mean_F[index]
    if survey.dataset.features[index].transform == "log1p":
        with np.errstate(over="ignore"):  # far beyond any cell
            transformed = np.expm1(transformed)
    return transformed


def reference(survey: DataSurvey, index: int) -> Integers:
    """Returns [B]: a feature's training cells of all dates of the statistics that were surveyed."""
    total = np.zeros(len(EDGES_B) + 1, dtype=np.int64)
    for date, _ in survey.dataset.statistics.sources:
        if date in survey.dates:
            total += survey.dates[date].training_FB[index]
    return total


def distance(one_B: NDArray[np.integer], other_B: NDArray[np.integer]) -> float:
    """Wasserstein's first distance of two histograms over `EDGES_B`, in training deviations; NaN if one is empty.

    The area between two distribution functions: Vallender, Theory of Probability and Its Applications 18 (1974),
    784-786. Inside a bin both are taken as straight lines; cells beyond +-50 deviations count as standing there.
    """
    first, other = (bins.astype(np.float64) for bins in (one_B, other_B))
    if not first.sum() or not other.sum():
        return float("nan")
    apart = np.cumsum(first)[:-1] / first.sum() - np.cumsum(other)[:-1] / other.sum()
    left, right, width = apart[:-1], apart[1:], np.diff(EDGES_B)
    crossing = left * right < 0  # there the area is two triangles
    steep = np.abs(left) + np.abs(right)
    area = np.where(crossing, (left**2 + right**2) / np.where(crossing, steep, 1.0), steep) / 2
    return float((area * width).sum())
