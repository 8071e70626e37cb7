"""Filling and encoding one date against plain Python, and what empty cells hold."""

from __future__ import annotations

import datetime as dt
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dateshard.shardstore.layouts.encode import encode
from dateshard.shardstore.layouts.feature import Feature
from dateshard.shardstore.layouts.fill import fill
from dateshard.shardstore.scaling.partials import PartialStatistics
from dateshard.shardstore.scaling.scale import Scale
from dateshard.shardstore.scaling.statistics import Statistics
from dateshard.shardstore.scaling.transform import transform

DATE = dt.date(2024, 3, 1)


def scale_of(shape: tuple[int, int], pivot: float, delta: float, spread: float, mean: float, empty: float) -> Scale:
    """A scale of the same five numbers everywhere."""
    pivot_NF, delta_NF, spread_NF, mean_NF, empty_NF = (
        np.full(shape, number) for number in (pivot, delta, spread, mean, empty)
    )
    return Scale(pivot_NF=pivot_NF, delta_NF=delta_NF, spread_NF=spread_NF, mean_NF=mean_NF, empty_NF=empty_NF)


NO_SCALE = scale_of((1, 1), 0.0, 0.0, 1.0, 0.0, 0.0)


def make_dense(missing: float, steps: int = 48) -> np.ndarray:
    generator = np.random.default_rng(5)
    values = generator.normal(60, 12, (steps, 3, 2))
    values[generator.random(values.shape) < missing] = np.nan
    return values


def filled_by_hand(column: list[float], how: str, limit: int | None, mean: float) -> list[float]:
    """One node's column, NaN where nothing is to be filled."""
    out, last, age = [], math.nan, 0
    for value in column:
        last, age = (value, 0) if not math.isnan(value) else (last, age + 1)
        reached = limit is None or age <= limit
        fills = {"none": math.nan, "zero": 0.0, "mean": mean, "forward": last}
        out.append(value if age == 0 else fills[how] if reached else math.nan)
    return out


columns = st.lists(st.sampled_from([math.nan, math.nan, 1.5, 40.0, -7.25]), min_size=1, max_size=30)


@settings(max_examples=200)
@given(columns, st.sampled_from(["none", "zero", "forward", "mean"]), st.sampled_from([None, 1, 2, 5]))
def test_filling_equals_plain_python(column: list[float], how: str, limit: int | None) -> None:
    feature = Feature(name="a", fill=how, fill_limit=limit if how != "none" else None)
    values = np.array(column).reshape(-1, 1, 1)
    scale = scale_of((1, 1), 10.0, 0.0, 4.0, 0.25, -99.0)  # scaled mean, empty
    encoded, observed = encode(values, [feature], scale)
    wanted = filled_by_hand(column, how, limit if how != "none" else None, mean=10.0 + 4.0 * 0.25)
    scaled = [-99.0 if math.isnan(x) else (x - 10.0) / 4.0 for x in wanted]
    assert encoded[:, 0, 0].tolist() == scaled
    seen = [not math.isnan(x) for x in column]
    assert (observed is None and all(seen)) or observed[:, 0, 0].tolist() == seen


def test_each_feature_and_node_is_filled_by_itself() -> None:
    values = make_dense(missing=0.6)
    found = fill(values, [Feature(name="a", fill="forward", fill_limit=2), Feature(name="b")])
    assert np.array_equal(found[..., 1], values[..., 1], equal_nan=True)
    for node in range(3):
        wanted = filled_by_hand(values[:, node, 0].tolist(), "forward", 2, math.nan)
        assert np.array_equal(found[:, node, 0], wanted, equal_nan=True)


@pytest.mark.parametrize("per", ["feature", "node"])
@pytest.mark.parametrize("method", ["none", "zscore", "minmax", "robust"])
@pytest.mark.parametrize("how", ["none", "log1p"])
def test_mean_fill_is_the_frozen_mean_of_the_transformed_training_cells(method: str, per: str, how: str) -> None:
    train = np.abs(make_dense(missing=0.3))[:, :, :1]
    cells = transform(train, [how])
    statistics = Statistics.of(["a"], [(DATE, PartialStatistics.of(cells, [(0, per)]))])
    scale = statistics.scale([(method, per)])
    later = np.full((24, 3, 1), np.nan)  # a date of which nothing is known
    later[0] = 50.0
    encoded, observed = encode(later, [Feature(name="a", fill="mean", transform=how)], scale)
    means = np.nanmean(cells[:, :, 0], axis=0) if per == "node" else np.full(3, np.nanmean(cells))
    wanted = scale.apply(np.broadcast_to(means[None, :, None], (23, 3, 1)))
    np.testing.assert_allclose(encoded[1:], wanted, rtol=1e-6, atol=1e-7)
    assert observed is not None
    assert observed.sum() == 3


@pytest.mark.parametrize(("method", "wanted"), [("none", 0.0), ("zscore", 0.0), ("robust", 0.0), ("minmax", None)])
def test_an_empty_cell_holds_the_middle_of_its_scale(method: str, wanted: float | None) -> None:
    train = make_dense(missing=0.3)[:, :, :1]
    scale = Statistics.of(["a"], [(DATE, PartialStatistics.of(train, [(0, "feature")]))]).scale([(method, "feature")])
    encoded, _ = encode(np.full((24, 3, 1), np.nan), [Feature(name="a", scale=method)], scale)
    middle = (np.nanmean(train) - np.nanmin(train)) / (np.nanmax(train) - np.nanmin(train))
    np.testing.assert_allclose(encoded, middle if wanted is None else wanted, rtol=1e-6)


def test_clipping_comes_last_and_holds_for_every_cell() -> None:
    values = make_dense(missing=0.5)
    scale = scale_of((3, 2), 60.0, 0.0, 12.0, 0.0, -5.0)
    features = [Feature(name="a", fill="zero", fill_limit=1, clip=(-1.5, 0.7)), Feature(name="b")]
    clipped, observed = encode(values, features, scale)
    plain, same = encode(values, [Feature(name="a", fill="zero", fill_limit=1), Feature(name="b")], scale)
    assert clipped[..., 0].tobytes() == np.clip(plain[..., 0], np.float32(-1.5), np.float32(0.7)).tobytes()
    assert clipped[..., 1].tobytes() == plain[..., 1].tobytes()
    assert (clipped[..., 0] == np.float32(-1.5)).any()
    assert (plain[..., 0] == -5).any()  # what fill left empty is clipped too
    assert np.array_equal(observed, same)


def test_a_value_beyond_float32_is_clipped_or_becomes_infinite_without_a_warning() -> None:
    values = np.full((24, 1, 1), 3e38)
    tiny = scale_of((1, 1), 0.0, 0.0, 1e-300, 0.0, 0.0)
    assert (encode(values, [Feature(name="a", clip=(-3.0, 3.0))], tiny)[0] == 3).all()
    assert np.isinf(encode(values, [Feature(name="a")], tiny)[0]).all()


def test_filling_leaves_its_input_alone() -> None:
    values = make_dense(missing=0.5)
    before = values.copy()
    fill(values, [Feature(name="a", fill="zero"), Feature(name="b", fill="forward")])
    assert np.array_equal(values, before, equal_nan=True)


def test_a_dates_first_gap_stays_empty_and_is_not_observed() -> None:
    values = make_dense(missing=0.0)[:24]
    values[:5, 0, 0] = np.nan
    values[9, 0, 0] = np.nan
    wide = scale_of((3, 2), 60.0, 0.0, 12.0, 0.0, 0.0)
    encoded, observed = encode(values, [Feature(name="a", fill="forward"), Feature(name="b")], wide)
    assert observed is not None
    assert not observed[[0, 1, 2, 3, 4, 9], 0, 0].any()
    assert observed.sum() == values.size - 6
    assert (encoded[:5, 0, 0] == 0).all()  # the training mean, not the day before
    assert encoded[9, 0, 0] == encoded[8, 0, 0]  # carried on, but a target nowhere
    assert encoded.dtype == np.float32


def test_nothing_missing_has_no_mask() -> None:
    encoded, observed = encode(make_dense(0.0), [Feature(name="a"), Feature(name="b")], NO_SCALE)
    assert observed is None
    assert encoded.tobytes() == make_dense(0.0).astype(np.float32).tobytes()


def test_the_cast_to_float32_comes_last() -> None:
    values = 1e9 + np.arange(24).reshape(24, 1, 1) * 1e-3
    statistics = Statistics.of(["a"], [(DATE, PartialStatistics.of(values))])
    encoded, _ = encode(values, [Feature(name="a")], statistics.scale([("zscore", "feature")]))
    exact = (values - values[0]).astype(np.longdouble)
    truth = (exact - exact.mean()) / exact.std()
    np.testing.assert_allclose(encoded, truth.astype(np.float64), rtol=1e-6)
    assert len(np.unique(encoded)) == 24


def test_log1p_is_taken_before_scaling_and_after_filling() -> None:
    values = np.abs(make_dense(missing=0.4))
    features = [Feature(name="a", fill="zero", transform="log1p"), Feature(name="b")]
    names = [feature.transform for feature in features]
    statistics = Statistics.of(["a", "b"], [(DATE, PartialStatistics.of(transform(values, names)))])
    scale = statistics.scale([("zscore", "feature")] * 2)
    encoded, observed = encode(values, features, scale)
    seen = np.log1p(values[..., 0][~np.isnan(values[..., 0])])
    filled = np.nan_to_num(values[..., 0])
    np.testing.assert_allclose(encoded[..., 0], (np.log1p(filled) - seen.mean()) / seen.std(), rtol=1e-6, atol=1e-6)
    assert observed is not None
    assert np.array_equal(observed, ~np.isnan(values))
