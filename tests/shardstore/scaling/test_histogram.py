"""The histogram of 16-bit floats: exact counts, the same bytes whatever the parts, quantiles of the rounded cells."""

from __future__ import annotations

import random
import statistics
import struct
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dateshard.shardstore.scaling.histogram
from dateshard.shardstore.scaling.histogram import POOLED, Histogram, HistogramSum, bins_of, representatives

LARGEST = float(np.finfo(np.float32).max)
numbers = st.floats(-LARGEST, LARGEST, width=32) | st.integers(-300, 300).map(float)
cells = st.lists(numbers, min_size=1, max_size=60)


def nearest(value: float) -> float:
    """A float32 rounded to its upper 16 bits in plain Python, ties away from zero."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    upper = min((bits & 0x7FFFFFFF) + 0x8000 >> 16, 0x7F7F)
    (magnitude,) = struct.unpack("<f", struct.pack("<I", upper << 16))
    return float(-magnitude if bits >> 31 else magnitude) + 0.0


def date_of(values: list[float], nodes: int = 1) -> np.ndarray:
    """[T, N, 1] cells, NaN where the list ends."""
    padded = [*values, *[np.nan] * (-len(values) % nodes)]
    return np.array(padded, dtype=float).reshape(-1, nodes, 1)


@given(cells)
def test_a_cell_counts_in_the_bin_of_its_nearest_short_float(values: list[float]) -> None:
    found = representatives(bins_of(np.array(values)))
    assert found.tolist() == [nearest(value) for value in values]
    for value, rounded in zip(values, found.tolist(), strict=True):
        normal = abs(value) >= 2**-126
        assert abs(rounded - value) <= (abs(value) * 2**-8 if normal else 2**-134)


def test_integers_up_to_256_and_every_short_float_stand_for_themselves() -> None:
    whole = np.arange(-256, 257).astype(float)
    assert representatives(bins_of(whole)).tolist() == whole.tolist()
    assert not np.signbit(representatives(bins_of(np.array([-0.0, -1e-45])))).any()
    every = np.arange(1 << 15, (1 << 15) + 0x7F80)
    assert bins_of(representatives(every)).tolist() == every.tolist()
    assert bins_of(-representatives(every))[1:].tolist() == ((1 << 16) - 1 - every)[1:].tolist()


@given(numbers, numbers)
def test_bins_are_in_the_order_of_the_values(one: float, other: float) -> None:
    low, high = sorted((one, other))
    first, second = bins_of(np.array([low, high]))
    assert first <= second


@given(cells, st.integers(1, 3))
def test_counts_are_those_of_plain_python(values: list[float], nodes: int) -> None:
    date = date_of(values, nodes)
    found = Histogram.of(date, [(0, "node")]).rows_4K
    wanted = Counter(
        (0, node, int(bins_of(np.array(x)))) for (_, node, _), x in np.ndenumerate(date) if not np.isnan(x)
    )
    assert [tuple(row) for row in found.T.tolist()] == [(*key, count) for key, count in sorted(wanted.items())]


@given(cells.filter(lambda values: len(values) > 1))
def test_quartiles_are_pythons_inclusive_ones_of_the_rounded_cells(values: list[float]) -> None:
    wanted = statistics.quantiles([nearest(value) for value in values], n=4, method="inclusive")
    assert Histogram.of(date_of(values), [(0, "feature")]).quartiles(0).tolist() == wanted
    per_node = Histogram.of(date_of(values), [(0, "node")])
    assert per_node.quartiles(0).tolist() == wanted
    assert per_node.quartiles_by_node(0, 1).tolist() == [wanted]


def test_one_cell_is_all_three_quartiles_and_none_has_none() -> None:
    assert Histogram.of(date_of([7.0]), [(0, "feature")]).quartiles(0).tolist() == [7.0] * 3
    assert np.isnan(Histogram.of(date_of([np.nan]), [(0, "feature")]).quartiles(0)).all()
    assert np.isnan(Histogram().quartiles_by_node(0, 2)).all()


def test_quartiles_lie_within_a_rank_of_their_bin_and_0_4_percent_of_the_exact_ones() -> None:
    values = np.random.default_rng(4).normal(60, 12, 100_000)
    found = Histogram.of(values.reshape(-1, 1, 1), [(0, "feature")]).quartiles(0)
    exact = np.quantile(values, [0.25, 0.5, 0.75])
    assert (np.abs(found - exact) <= exact * 2**-8).all()
    for quartile, wanted in zip(found, (0.25, 0.5, 0.75), strict=True):
        alike = np.sum(bins_of(values) == bins_of(quartile)) / len(values)
        assert abs(np.mean(values <= quartile) - wanted) <= alike


@settings(max_examples=60)
@given(st.lists(cells, min_size=2, max_size=6), st.sampled_from(["feature", "node"]), st.randoms(use_true_random=False))
def test_any_partition_in_any_order_gives_the_same_bytes(
    dates: list[list[float]], per: str, chance: random.Random
) -> None:
    arrays = [date_of(values, 2) for values in dates]
    whole = Histogram.of(np.concatenate(arrays), [(0, per)]).to_bytes()
    parts = [Histogram.of(array, [(0, per)]) for array in arrays]
    chance.shuffle(parts)
    while len(parts) > 1:  # merged in pairs, as they come
        one = parts.pop(chance.randrange(len(parts)))
        parts[0] = Histogram.merged([parts[0], one])
    assert parts[0].to_bytes() == whole
    rows = np.concatenate(arrays)
    single = Histogram.merged(Histogram.of(rows[[step]], [(0, per)]) for step in range(len(rows)))
    assert single.to_bytes() == whole


@pytest.mark.parametrize("merge_at", [1, 100, 1 << 16])
def test_a_tally_is_the_sum_whenever_it_merges(monkeypatch: pytest.MonkeyPatch, merge_at: int) -> None:
    monkeypatch.setattr(dateshard.shardstore.scaling.histogram, "MERGE_AT", merge_at)
    generator, tally, parts = np.random.default_rng(1), HistogramSum(), []
    for _ in range(20):
        values = generator.integers(0, 9, (24, 3, 2)).astype(float)
        parts.append(Histogram.of(values, [(0, "feature"), (1, "node")]))
        tally.add(parts[-1])
        held = sum(part.rows_4K.shape[1] for part in tally._parts)  # few bins, often: adding grows nothing
        assert held <= 2 * max(tally.total().rows_4K.shape[1], merge_at)
    assert tally.total().to_bytes() == Histogram.merged(parts).to_bytes()
    assert HistogramSum().total().to_bytes() == b""


def test_nodes_move_and_pooled_bins_stay() -> None:
    values = np.arange(24.0).reshape(4, 3, 2)
    found = Histogram.of(values, [(0, "feature"), (1, "node")])
    moved = found.on_nodes(np.array([3, -1, 0]))
    assert moved.quartiles(0).tolist() == found.quartiles(0).tolist()
    assert set(moved.rows_4K[1, moved.rows_4K[0] == 0]) == {POOLED}
    before, after = found.quartiles_by_node(1, 3), moved.quartiles_by_node(1, 5)
    assert after[[3, 0]].tolist() == before[[0, 2]].tolist()
    assert np.isnan(after[[1, 2, 4]]).all()
    assert moved.to_bytes() == Histogram.from_bytes(moved.to_bytes()).to_bytes()  # sorted again


def test_features_and_nodes_are_kept_apart() -> None:
    generator = np.random.default_rng(2)
    values = generator.normal(0, 1, (30, 4, 3))
    together = Histogram.of(values, [(0, "node"), (2, "feature")])
    assert together.quartiles(1).tolist() != together.quartiles(2).tolist()
    assert np.isnan(together.quartiles(1)).all()
    for node, found in enumerate(together.quartiles_by_node(0, 4)):
        alone = Histogram.of(values[:, [node], :1], [(0, "feature")])
        assert found.tolist() == alone.quartiles(0).tolist()


def test_bytes_that_are_no_sorted_rows_are_refused() -> None:
    good = Histogram.of(date_of([1.0, 2.0, 3.0]), [(0, "feature")])
    assert Histogram.from_bytes(good.to_bytes()).to_bytes() == good.to_bytes()
    with pytest.raises(ValueError, match=r"4, 3"):
        Histogram.from_bytes(good.rows_4K[:, ::-1].astype("<i8").tobytes())
    with pytest.raises(ValueError, match="reshape"):
        Histogram.from_bytes(good.to_bytes()[:-8])
