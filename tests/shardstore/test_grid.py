"""The grid layout against plain Python on raw records."""

from __future__ import annotations

import datetime as dt
import math
from collections import defaultdict

import numpy as np
import pytest

from shardstore.calendar import Day, day_of, parse_step
from shardstore.layouts.encode import encode
from shardstore.layouts.feature import Feature
from shardstore.layouts.fill import fill
from shardstore.layouts.grid import Records, aggregate, arrange, keep_last, on_nodes
from shardstore.partials import PartialStatistics
from shardstore.scale import Scale
from shardstore.statistics import Statistics
from shardstore.transform import transform

DAY = day_of(dt.date(2024, 3, 1), "UTC", parse_step("1h"))
FEATURES = [Feature("mean"), Feature("sum", "sum"), Feature("count", "count"), Feature("last", "last")]
NO_SCALE = Scale(*(np.full((1, 1), number) for number in (0.0, 0.0, 1.0, 0.0, 0.0)))


def make_records(rows: int, nodes: int, *, seed: int = 0, day: Day = DAY, repeats: bool = False) -> Records:
    """Rows at any nanosecond of the date, shuffled; with `repeats` every third row repeats an earlier key."""
    generator = np.random.default_rng(seed)
    length = day.end - day.start
    offset = generator.choice(length // 1000, rows, replace=False) * 1000 + generator.integers(0, 1000, rows)
    node = generator.integers(0, nodes, rows)
    if repeats:
        again = np.arange(2, rows, 3)
        offset[again], node[again] = offset[again - 1], node[again - 1]
    speed = generator.normal(60, 12, rows)
    speed[generator.random(rows) < 0.2] = np.nan
    return Records(day.start + offset, node.astype(np.int64), (speed, speed, None, speed))


def shuffled(records: Records, seed: int = 9) -> Records:
    order = np.random.default_rng(seed).permutation(len(records.time_R))
    values = tuple(None if column is None else column[order] for column in records.values)
    return Records(records.time_R[order], records.node_R[order], values)


def by_hand(records: Records, nodes: int, day: Day = DAY) -> np.ndarray:
    """Mean, sum, count and last of every cell in plain Python."""
    cells: dict[tuple[int, int], list[tuple[int, int, float]]] = defaultdict(list)
    speed = records.values[0]
    assert speed is not None
    for row, (time, node, value) in enumerate(
        zip(records.time_R.tolist(), records.node_R.tolist(), speed.tolist(), strict=True)
    ):
        cells[(time - day.start) // day.step, node].append((time, row, value))
    out = np.full((day.num_steps, nodes, 4), np.nan)
    out[:, :, 2] = 0
    for (step, node), found in cells.items():
        present = [value for _, _, value in sorted(found) if not math.isnan(value)]
        out[step, node, 2] = len(found)
        if present:
            out[step, node, [0, 1, 3]] = math.fsum(present) / len(present), math.fsum(present), present[-1]
    return out


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_aggregates_equal_plain_python(seed: int) -> None:
    records = make_records(400, 5, seed=seed)
    found = aggregate(records, arrange(records, DAY, 5), DAY, 5, FEATURES)
    truth = by_hand(records, 5)
    np.testing.assert_allclose(found, truth, rtol=1e-14)
    assert (found[..., 3] == truth[..., 3])[~np.isnan(truth[..., 3])].all()
    assert found.shape == (24, 5, 4)


def test_a_count_of_a_column_counts_its_values_and_is_zero_where_nothing_is() -> None:
    records = make_records(100, 3)
    column = records.values[0]
    assert column is not None
    counted = Records(records.time_R, records.node_R, (column, None))
    features = [Feature("of", "count"), Feature("rows", "count")]
    found = aggregate(counted, arrange(counted, DAY, 3), DAY, 3, features)
    assert found[..., 0].sum() == (~np.isnan(column)).sum()
    assert found[..., 1].sum() == 100
    assert not np.isnan(found).any()


def test_rows_in_another_order_give_the_same_bytes() -> None:
    records = make_records(500, 4)
    truth = aggregate(records, arrange(records, DAY, 4), DAY, 4, FEATURES).tobytes()
    for seed in range(3):
        mixed = shuffled(records, seed)
        assert aggregate(mixed, arrange(mixed, DAY, 4), DAY, 4, FEATURES).tobytes() == truth


def test_the_packed_key_and_the_fallback_give_the_same_order() -> None:
    records = make_records(300, 7, repeats=True)
    wanted = sorted(range(300), key=lambda r: (records.node_R[r], records.time_R[r], r))
    packed = arrange(records, DAY, 7)
    fallback = arrange(records, DAY, 1 << 40)  # as if there were so many nodes that key and row need over 63 bits
    assert packed.tolist() == fallback.tolist() == wanted


def test_a_key_just_below_and_above_63_bits_is_sorted_alike() -> None:
    length_bits = (DAY.end - DAY.start).bit_length()  # odd nanoseconds: the unit is 1 ns
    num_nodes = 1 << (63 - 3 - length_bits)
    for nodes in (num_nodes - 1, num_nodes, 2 * num_nodes):
        node = np.array([nodes - 1, 0, nodes - 1, 5, nodes - 1, 0])
        time = DAY.start + np.array([DAY.end - DAY.start - 1, 1, 3, 7, 3, 1])
        records = Records(time, node.astype(np.int64), ())
        wanted = sorted(range(6), key=lambda r: (node[r], time[r], r))
        assert arrange(records, DAY, nodes).tolist() == wanted


def test_of_repeated_records_the_last_in_file_order_wins_and_conflicts_are_counted() -> None:
    minute = 60 * 10**9
    time = DAY.start + np.array([0, minute, 0, 0, minute, 2 * minute])
    speed = np.array([1.0, 5.0, 2.0, 2.0, np.nan, np.nan])
    records = Records(time, np.zeros(6, np.int64), (speed,))
    kept, duplicates = keep_last(records, arrange(records, DAY, 1))
    assert kept.tolist() == [3, 4, 5]
    assert (duplicates.dropped, duplicates.conflicting) == (3, 2)  # 1 -> 2 and 5 -> nothing; 2 -> 2 is none
    same = Records(time[[5, 5]], np.zeros(2, np.int64), (np.array([np.nan, np.nan]),))
    assert keep_last(same, arrange(same, DAY, 1))[1].conflicting == 0


def test_without_repeats_every_record_is_kept() -> None:
    records = make_records(50, 3)
    order = arrange(records, DAY, 3)
    kept, duplicates = keep_last(records, order)
    assert kept is order
    assert (duplicates.dropped, duplicates.conflicting) == (0, 0)


def test_one_record_is_a_date() -> None:
    records = Records(np.array([DAY.end - 1]), np.array([1]), (np.array([3.0]),))
    found = aggregate(records, arrange(records, DAY, 2), DAY, 2, [Feature("a")])
    assert found[23, 1, 0] == 3
    assert np.isnan(found).sum() == 47


def test_counts_and_cells_do_not_overflow_32_bits() -> None:
    day = day_of(dt.date(2024, 3, 1), "UTC", parse_step("1s"))
    nodes = 50_000  # 86,400 steps x 50,000 nodes: cell numbers go beyond 2^32
    cell = (day.num_steps - 1) * nodes + nodes - 1
    assert cell > 2**32
    records = Records(np.array([day.end - 1, day.start]), np.array([nodes - 1, 0]), (None,))
    order = arrange(records, day, nodes)
    assert order.tolist() == [1, 0]
    assert ((records.time_R - day.start) // day.step * nodes + records.node_R).tolist() == [cell, 0]
    big = Records(np.full(3, DAY.start), np.zeros(3, np.int64), (np.full(3, 2.0**31),))
    assert aggregate(big, np.arange(3), DAY, 1, [Feature("s", "sum")])[0, 0, 0] == 3 * 2.0**31


@pytest.mark.parametrize("how", ["none", "zero", "forward"])
@pytest.mark.parametrize("limit", [None, 1, 3])
def test_filling_equals_plain_python(how: str, limit: int | None) -> None:
    values = make_dense(missing=0.6)
    limit = limit if how == "forward" else None
    found = fill(values, [Feature("a", fill=how, fill_limit=limit), Feature("b")])
    assert np.array_equal(found[..., 1], values[..., 1], equal_nan=True)
    for node in range(values.shape[1]):
        last, age = math.nan, 0
        for step in range(values.shape[0]):
            given = values[step, node, 0]
            last, age = (given, 0) if not math.isnan(given) else (last, age + 1)
            carried = last if how == "forward" and (limit is None or age <= limit) else math.nan
            wanted = given if not math.isnan(given) else {"none": math.nan, "zero": 0.0, "forward": carried}[how]
            assert np.array_equal(found[step, node, 0], wanted, equal_nan=True)


def make_dense(missing: float, steps: int = 48) -> np.ndarray:
    generator = np.random.default_rng(5)
    values = generator.normal(60, 12, (steps, 3, 2))
    values[generator.random(values.shape) < missing] = np.nan
    return values


def test_filling_leaves_its_input_alone() -> None:
    values = make_dense(missing=0.5)
    before = values.copy()
    fill(values, [Feature("a", fill="zero"), Feature("b", fill="forward")])
    assert np.array_equal(values, before, equal_nan=True)


def test_a_dates_first_gap_stays_empty_and_is_not_observed() -> None:
    values = make_dense(missing=0.0)[:24]
    values[:5, 0, 0] = np.nan
    values[9, 0, 0] = np.nan
    wide = Scale(*(np.full((3, 2), number) for number in (60.0, 0.0, 12.0, 0.0, 0.0)))
    encoded, observed = encode(values, [Feature("a", fill="forward"), Feature("b")], wide)
    assert observed is not None
    assert not observed[[0, 1, 2, 3, 4, 9], 0, 0].any()
    assert observed.sum() == values.size - 6
    assert (encoded[:5, 0, 0] == 0).all()  # the training mean, not the day before
    assert encoded[9, 0, 0] == encoded[8, 0, 0]  # carried on, but a target nowhere
    assert encoded.dtype == np.float32


def test_nothing_missing_has_no_mask() -> None:
    encoded, observed = encode(make_dense(0.0), [Feature("a"), Feature("b")], NO_SCALE)
    assert observed is None
    assert encoded.tobytes() == make_dense(0.0).astype(np.float32).tobytes()


def test_the_cast_to_float32_comes_last() -> None:
    values = 1e9 + np.arange(24).reshape(24, 1, 1) * 1e-3
    statistics = Statistics.of(["a"], [(DAY.date, PartialStatistics.of(values))])
    encoded, _ = encode(values, [Feature("a")], statistics.scale([("zscore", "feature")]))
    exact = (values - values[0]).astype(np.longdouble)
    truth = (exact - exact.mean()) / exact.std()
    np.testing.assert_allclose(encoded, truth.astype(np.float64), rtol=1e-6)
    assert len(np.unique(encoded)) == 24


def test_log1p_is_taken_before_scaling_and_after_filling() -> None:
    values = np.abs(make_dense(missing=0.4))
    features = [Feature("a", fill="zero", transform="log1p"), Feature("b")]
    names = [feature.transform for feature in features]
    statistics = Statistics.of(["a", "b"], [(DAY.date, PartialStatistics.of(transform(values, names)))])
    scale = statistics.scale([("zscore", "feature")] * 2)
    encoded, observed = encode(values, features, scale)
    seen = np.log1p(values[..., 0][~np.isnan(values[..., 0])])
    filled = np.nan_to_num(values[..., 0])
    np.testing.assert_allclose(encoded[..., 0], (np.log1p(filled) - seen.mean()) / seen.std(), rtol=1e-6, atol=1e-6)
    assert observed is not None
    assert np.array_equal(observed, ~np.isnan(values))


def test_nodes_move_to_the_frozen_list_and_unseen_ones_are_dropped() -> None:
    values = make_dense(0.0)
    wide = on_nodes(values, np.array([2, -1, 0]), 4)
    assert (wide[:, 2] == values[:, 0]).all()
    assert (wide[:, 0] == values[:, 2]).all()
    assert np.isnan(wide[:, [1, 3]]).all()
    assert on_nodes(values, np.arange(3), 3) is values
