"""Statistics: equal to exact arithmetic, the same bytes whatever the parts, and sane where data are not."""

from __future__ import annotations

import datetime as dt
import math
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from dateshard.shardstore.frozen import load_statistics, save_statistics
from dateshard.shardstore.scaling.partials import PartialStatistics
from dateshard.shardstore.scaling.statistics import Statistics, drift
from dateshard.shardstore.scaling.transform import transform, untransform

FIRST = dt.date(2024, 3, 1)
SPREADS = [(0.0, 1.0), (1e9, 1.0), (1e9, 1e-3), (-1e9, 1e-3), (60.0, 12.0)]


def dates_of(values: list[np.ndarray]) -> list[tuple[dt.date, PartialStatistics]]:
    return [(FIRST + dt.timedelta(days=k), PartialStatistics.of(part)) for k, part in enumerate(values)]


def exact_moments(cells: np.ndarray) -> tuple[Fraction, Fraction]:
    """Mean and population variance in exact rational arithmetic."""
    numbers = [Fraction(float(x)) for x in cells]
    mean = sum(numbers) / len(numbers)
    return mean, sum((x - mean) ** 2 for x in numbers) / len(numbers)


def three_dates(offset: float, spread: float, missing: float = 0.2) -> list[np.ndarray]:
    generator = np.random.default_rng(3)
    dates = [offset + spread * generator.standard_normal((steps, 3, 2)) for steps in (24, 23, 25)]
    for values in dates:
        values[generator.random(values.shape) < missing] = np.nan
    return dates


@pytest.mark.parametrize(("offset", "spread"), SPREADS)
def test_merged_moments_equal_exact_arithmetic_over_all_cells(offset: float, spread: float) -> None:
    dates = three_dates(offset, spread)
    merged = Statistics.of(["a", "b"], dates_of(dates)).merged
    together = np.concatenate(dates)
    for feature in range(2):
        for node in range(3):
            cells = together[:, node, feature]
            cells = cells[~np.isnan(cells)]
            n, pivot, delta, m2, low, high = merged.moments_6NF[:, node, feature]
            mean, variance = exact_moments(cells)
            assert n == len(cells)
            assert (low, high) == (cells.min(), cells.max())
            assert abs(Fraction(pivot) + Fraction(delta) - mean) <= Fraction(1e-12) * Fraction(spread)
            assert m2 / n == pytest.approx(float(variance), rel=1e-12)


@pytest.mark.parametrize("per", ["feature", "node"])
@pytest.mark.parametrize(("offset", "spread"), SPREADS)
def test_scaled_values_equal_numpy_in_long_double(offset: float, spread: float, per: str) -> None:
    dates = three_dates(offset, spread)
    scale = Statistics.of(["a", "b"], dates_of(dates)).scale([("zscore", per)] * 2)
    together = np.concatenate(dates).astype(np.longdouble) - np.longdouble(offset)  # exact: the mean keeps its digits
    axes = (0, 1) if per == "feature" else (0,)
    centred = together - np.nanmean(together, axis=axes, keepdims=True)
    truth = centred / np.sqrt(np.nanmean(centred**2, axis=axes, keepdims=True))
    found = scale.apply(np.concatenate(dates))
    seen = ~np.isnan(found)
    assert np.array_equal(seen, ~np.isnan(truth))
    assert np.max(np.abs(found - truth)[seen]) < 1e-12  # in standard deviations
    np.testing.assert_allclose(scale.undo(found)[seen], np.concatenate(dates)[seen], rtol=1e-15, atol=1e-12 * spread)


def test_merging_in_another_order_than_that_of_the_dates_is_refused() -> None:
    """Other bytes would come of it."""
    parts = dates_of(three_dates(1e9, 1e-3))
    forth, back = parts[0][1].merge(parts[1][1]), parts[1][1].merge(parts[0][1])
    assert forth.moments_6NF.tobytes() != back.moments_6NF.tobytes()
    with pytest.raises(AssertionError, match="date order"):
        Statistics.of(["a", "b"], parts[::-1])
    assert [date for date, _ in Statistics.of(["a", "b"], iter(parts)).sources] == [date for date, _ in parts]


def test_statistics_are_named_by_content_and_come_back_equal(tmp_path: Path) -> None:
    (tmp_path / "staging").mkdir()
    parts = dates_of(three_dates(60, 12))
    statistics = Statistics.of(["a", "b"], parts)
    folder = save_statistics(tmp_path, statistics)
    loaded = load_statistics(tmp_path, folder.name)
    assert loaded.id == statistics.id == folder.name
    assert loaded.merged.moments_6NF.tobytes() == statistics.merged.moments_6NF.tobytes()
    changed = [(date, PartialStatistics(partial.moments_6NF.copy())) for date, partial in parts]
    changed[1][1].moments_6NF[2, 0, 0] = np.nextafter(changed[1][1].moments_6NF[2, 0, 0], np.inf)
    assert Statistics.of(["a", "b"], changed).id != statistics.id  # one bit of one moment


def test_a_constant_feature_gets_scale_one_and_becomes_zero() -> None:
    values = np.full((24, 2, 1), 0.1)
    for per in ("feature", "node"):
        scale = Statistics.of(["a"], dates_of([values, values])).scale([("zscore", per)])
        assert (scale.spread_NF == 1).all()
        assert (scale.apply(values) == 0).all()


def test_a_node_never_observed_takes_its_features_scale() -> None:
    dates = three_dates(5, 2, missing=0)
    for values in dates:
        values[:, 1, :] = np.nan
    statistics = Statistics.of(["a", "b"], dates_of(dates))
    per_node, per_feature = (statistics.scale([("zscore", per)] * 2) for per in ("node", "feature"))
    for name in ("pivot_NF", "delta_NF", "spread_NF"):
        assert (getattr(per_node, name)[1] == getattr(per_feature, name)[1]).all()
        assert (getattr(per_node, name)[[0, 2]] != getattr(per_feature, name)[[0, 2]]).any()


def test_nothing_observed_at_all_scales_by_one() -> None:
    values = np.full((24, 2, 1), np.nan)
    statistics = Statistics.of(["a"], dates_of([values]))
    n, pivot, delta, m2, low, high = statistics.merged.moments_6NF[:, :, 0]
    assert (n == 0).all()
    assert (pivot == 0).all()
    assert (delta == 0).all()
    assert (m2 == 0).all()
    assert (low == math.inf).all()
    assert (high == -math.inf).all()
    scale = statistics.scale([("zscore", "feature")])
    assert (scale.spread_NF == 1).all()


def test_scale_none_leaves_values_as_they_are() -> None:
    dates = three_dates(60, 12, missing=0)
    scale = Statistics.of(["a", "b"], dates_of(dates)).scale([("none", "feature"), ("zscore", "feature")])
    assert (scale.apply(dates[0])[:, :, 0] == dates[0][:, :, 0]).all()
    assert (scale.apply(dates[0])[:, :, 1] != dates[0][:, :, 1]).all()


def test_moments_move_to_a_longer_node_list_without_a_changed_bit() -> None:
    partial = PartialStatistics.of(three_dates(60, 12)[0])
    wide = partial.on_nodes(np.array([3, -1, 0]), 5)
    assert wide.moments_6NF[:, 3].tobytes() == partial.moments_6NF[:, 0].tobytes()
    assert wide.moments_6NF[:, 0].tobytes() == partial.moments_6NF[:, 2].tobytes()
    assert (wide.moments_6NF[0, [1, 2, 4]] == 0).all()


def test_merging_with_nothing_changes_no_bit() -> None:
    partial = PartialStatistics.of(three_dates(60, 12)[0])
    empty = PartialStatistics.empty(3, 2)
    assert empty.merge(partial).moments_6NF.tobytes() == partial.moments_6NF.tobytes()
    assert partial.merge(empty).moments_6NF.tobytes() == partial.moments_6NF.tobytes()


def test_log1p_is_taken_of_its_feature_only_and_undone() -> None:
    values = np.abs(three_dates(5, 1, missing=0)[0])
    changed = transform(values, ["none", "log1p"])
    assert (changed[..., 0] == values[..., 0]).all()
    assert (changed[..., 1] == np.log1p(values[..., 1])).all()
    np.testing.assert_allclose(untransform(changed, ["none", "log1p"]), values, rtol=1e-14)
    assert transform(values, ["none", "none"]) is values


def test_drift_is_told_in_frozen_standard_deviations() -> None:
    dates = three_dates(60, 12, missing=0)
    frozen = Statistics.of(["a", "b"], dates_of(dates))
    shifted = [values * [1.0, 2.0] + [6.0, 0.0] for values in dates]
    rows = drift(frozen, Statistics.of(["a", "b"], dates_of(shifted)))
    first = np.concatenate(dates)[:, :, 0]
    assert rows[0]["mean_shift"] == pytest.approx(6 / first.std(), rel=1e-9)
    assert rows[0]["spread_ratio"] == pytest.approx(1, rel=1e-9)
    assert rows[1]["spread_ratio"] == pytest.approx(2, rel=1e-9)


def test_moments_over_nodes_are_those_of_merging_one_node_after_the_other_to_the_last_bit() -> None:
    draw = np.random.default_rng(3)
    values = draw.normal(1e9, draw.uniform(1e-3, 1e3, (1, 300, 1)), (5, 300, 3))
    values[draw.random(values.shape) < 0.5] = np.nan
    values[:, :7] = np.nan
    values[..., 2] = np.nan
    partial = PartialStatistics.of(values)
    merged = PartialStatistics.empty(1, 3)
    for node in range(300):
        merged = merged.merge(PartialStatistics(partial.moments_6NF[:, node : node + 1]))
    assert partial.over_nodes().moments_6NF.tobytes() == merged.moments_6NF.tobytes()
    assert PartialStatistics.empty(0, 2).over_nodes().id == PartialStatistics.empty(1, 2).id


@pytest.mark.parametrize("num_nodes", [200, 2000])
def test_moments_over_nodes_make_no_call_a_node(num_nodes: int) -> None:
    partial, calls = PartialStatistics.of(np.ones((2, num_nodes, 2))), list[str]()
    sys.setprofile(lambda frame, event, _: calls.append(event) if "call" in event else None)
    try:
        partial.over_nodes()
    finally:
        sys.setprofile(None)
    assert len(calls) < 100
