"""Scales against exact arithmetic, and what an empty cell holds under each."""

from __future__ import annotations

import datetime as dt
import statistics
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dateshard.shardstore.errors import UsageError
from dateshard.shardstore.scaling.histogram import bins_of, representatives
from dateshard.shardstore.scaling.partials import PartialStatistics
from dateshard.shardstore.scaling.scale import Scale
from dateshard.shardstore.scaling.statistics import Statistics

FIRST = dt.date(2024, 3, 1)
cells = st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=40)


def merged(dates: list[np.ndarray], per: str = "feature", names: tuple[str, ...] = ("speed",)) -> Statistics:
    wanted = [(feature, per) for feature in range(len(names))]
    parts = [(FIRST + dt.timedelta(days=k), PartialStatistics.of(date, wanted)) for k, date in enumerate(dates)]
    return Statistics.of(names, parts)


def scale(dates: list[np.ndarray], method: str, per: str = "feature") -> Scale:
    return merged(dates, per).scale([(method, per)])


def skewed(nodes: int = 3) -> list[np.ndarray]:
    generator = np.random.default_rng(6)
    dates = [np.exp(generator.normal(3, 0.8, (steps, nodes, 1))) for steps in (24, 23, 25)]
    for date in dates:
        date[generator.random(date.shape) < 0.2] = np.nan
    return dates


@given(cells)
def test_minmax_maps_the_training_cells_onto_zero_to_one(values: list[float]) -> None:
    date = np.array(values).reshape(-1, 1, 1)
    found = scale([date], "minmax").apply(date)[:, 0, 0]
    low, high = Fraction(min(values)), Fraction(max(values))
    for value, scaled in zip(values, found.tolist(), strict=True):
        assert scaled == pytest.approx(float((Fraction(value) - low) / ((high - low) or 1)), rel=1e-15)
    assert found.min() == 0
    assert found.max() == (1 if high > low else 0)


def test_minmax_per_node_and_per_feature_are_those_of_the_merged_dates() -> None:
    dates = skewed()
    together = np.concatenate(dates)[:, :, 0]
    for per, axis in (("feature", None), ("node", 0)):
        found = scale(dates, "minmax", per)
        low, high = np.nanmin(together, axis=axis), np.nanmax(together, axis=axis)
        assert (found.pivot_NF[:, 0] == low).all()
        assert (found.spread_NF[:, 0] == high - low).all()
        assert (found.delta_NF == 0).all()


@pytest.mark.parametrize("per", ["feature", "node"])
def test_robust_is_the_median_and_the_quartiles_distance_of_the_rounded_cells(per: str) -> None:
    dates = skewed()
    together = np.concatenate(dates)[:, :, 0]
    found = scale(dates, "robust", per)
    for node in range(3):
        own = together[:, [node]] if per == "node" else together
        rounded = representatives(bins_of(own[~np.isnan(own)])).tolist()
        lower, median, upper = statistics.quantiles(rounded, n=4, method="inclusive")
        assert (found.pivot_NF[node, 0], found.delta_NF[node, 0]) == (median, 0)
        assert found.spread_NF[node, 0] == upper - lower
        exact = np.subtract(*np.nanquantile(own, [0.75, 0.25]))
        assert found.spread_NF[node, 0] == pytest.approx(exact, rel=0.05)
    np.testing.assert_allclose(found.undo(found.apply(dates[0])), dates[0], rtol=1e-15)


def test_robust_of_counts_is_exact() -> None:
    counts = np.random.default_rng(3).poisson(20, (500, 2, 1)).astype(float)
    found = scale([counts], "robust")
    lower, median, upper = np.quantile(counts, [0.25, 0.5, 0.75])
    assert (found.pivot_NF == median).all()
    assert (found.spread_NF == upper - lower).all()


@pytest.mark.parametrize("method", ["minmax", "robust"])
@pytest.mark.parametrize("constant", [0.1, 1e6 + 1, -3e30])
def test_a_constant_becomes_zero_under_every_scale(method: str, constant: float) -> None:
    date = np.full((24, 2, 1), constant)
    for per in ("feature", "node"):
        found = scale([date], method, per)
        assert (found.spread_NF == 1).all()
        assert (found.apply(date) == 0).all()


@pytest.mark.parametrize("method", ["minmax", "robust"])
def test_a_node_never_observed_takes_its_features_scale(method: str) -> None:
    dates = skewed()
    for date in dates:
        date[:, 1] = np.nan
    pooled, own = scale(dates, method), scale(dates, method, "node")
    assert own.apply(np.full((1, 3, 1), 7.0))[0, 1] == pooled.apply(np.full((1, 3, 1), 7.0))[0, 1]
    assert own.mean_NF[1, 0] == pooled.mean_NF[1, 0]
    assert own.spread_NF[0, 0] != pooled.spread_NF[0, 0]


@pytest.mark.parametrize("method", ["none", "zscore", "minmax", "robust"])
def test_nothing_observed_at_all_is_no_error_and_scales_by_one(method: str) -> None:
    found = scale([np.full((24, 2, 1), np.nan)], method, "node")
    for part, wanted in ((found.pivot_NF, 0), (found.spread_NF, 1), (found.mean_NF, 0), (found.empty_NF, 0)):
        assert (part == wanted).all()


@pytest.mark.parametrize("per", ["feature", "node"])
@pytest.mark.parametrize("method", ["none", "zscore", "minmax", "robust"])
def test_the_mean_is_the_training_mean_in_scaled_units_and_an_empty_cell_holds_the_scales_middle(
    method: str, per: str
) -> None:
    dates = skewed()
    found = scale(dates, method, per)
    together = np.concatenate(dates)
    mean = np.nanmean(together, axis=0) if per == "node" else np.broadcast_to(np.nanmean(together), (3, 1))
    np.testing.assert_allclose(found.mean_NF, found.apply(mean[None])[0], rtol=1e-12, atol=1e-13)
    wanted = found.mean_NF if method == "minmax" else np.zeros((3, 1))
    assert (found.empty_NF == wanted).all()
    assert (found.mean_NF == 0).all() == (method == "zscore")


STRADDLING = 16384.0 + np.array([-33.0, -31.0] * 12)  # on both sides of a bin's border
LARGE = 1e6 + np.arange(24.0)
MOSTLY_ZERO = np.array([0.0] * 20 + [1.0, 2.0, 3.0, 4.0])


@pytest.mark.parametrize("values", [STRADDLING, LARGE, -LARGE, MOSTLY_ZERO], ids=["straddling", "large", "-", "zeros"])
def test_quartiles_that_the_bins_cannot_tell_apart_are_refused_with_the_features_name(values: np.ndarray) -> None:
    date = values.reshape(-1, 1, 1)
    with pytest.raises(UsageError) as caught:
        scale([date], "robust")
    assert "robust cannot scale feature 'speed': bins of 0.8 % do not tell its quartiles apart" in str(caught.value)
    assert "Set pipeline.features.speed.scale to zscore" in str(caught.value)
    assert f"of cells from {values.min():.9g} to {values.max():.9g}" in str(caught.value)
    assert scale([date], "zscore").spread_NF[0, 0] == pytest.approx(values.std())


def test_straddling_cells_do_lie_in_two_bins() -> None:
    assert len(set(bins_of(STRADDLING).tolist())) == 2


def test_a_refusal_per_node_names_the_node() -> None:
    good = np.linspace(1, 100, 24)
    date = np.stack([good, LARGE, good], axis=1)[:, :, None]
    with pytest.raises(UsageError, match=r"feature 'speed' at node 'east'"):
        merged([date], "node").scale([("robust", "node")], ["west", "east", "south"])


def test_statistics_with_a_histogram_have_another_id_and_the_same_moments() -> None:
    dates = skewed()
    plain = Statistics.of(["speed"], [(FIRST, PartialStatistics.of(dates[0]))])
    more = Statistics.of(["speed"], [(FIRST, PartialStatistics.of(dates[0], [(0, "feature")]))])
    assert plain.id != more.id
    assert plain.merged.moments_6NF.tobytes() == more.merged.moments_6NF.tobytes()
