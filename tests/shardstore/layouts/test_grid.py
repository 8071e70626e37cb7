"""The grid layout against plain Python on raw records."""

from __future__ import annotations

import datetime as dt
import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dateshard.shardstore.layouts import cell_order
from dateshard.shardstore.layouts.cell_order import blocks_by_cell
from dateshard.shardstore.layouts.feature import Feature
from dateshard.shardstore.layouts.grid import aggregate, on_nodes
from dateshard.shardstore.layouts.records import Records, arrange, keep_last, repeated
from dateshard.shardstore.scaling.transform import Floats
from dateshard.shardstore.times.calendar import Day, day_of, parse_step

DAY = day_of(dt.date(2024, 3, 1), "UTC", parse_step("1h"))
FEATURES = [
    Feature(name="mean"),
    Feature(name="sum", aggregate="sum"),
    Feature(name="count", aggregate="count"),
    Feature(name="last", aggregate="last"),
]
HOWS = ["first", "last", "min", "max", "mean", "sum", "count"]


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


def reduced(records: Records, day: Day, num_nodes: int, features: Sequence[Feature]) -> Floats:
    """Every cell of the date, of all records."""
    values = np.empty((day.num_steps, num_nodes, len(features)))
    for block in blocks_by_cell(records, day, num_nodes):
        aggregate(records, block.order, block.cell, features, values[block.steps])
    return values


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_aggregates_equal_plain_python(seed: int) -> None:
    records = make_records(400, 5, seed=seed)
    found = reduced(records, DAY, 5, FEATURES)
    truth = by_hand(records, 5)
    np.testing.assert_allclose(found, truth, rtol=1e-14)
    assert (found[..., 3] == truth[..., 3])[~np.isnan(truth[..., 3])].all()
    assert found.shape == (24, 5, 4)


draws = st.tuples(
    st.integers(0, 5),  # node
    st.sampled_from([0, 1, 30, 59, 60, 61, 1439]),  # minute
    st.sampled_from([math.nan, 0.0, -0.0, 1.5, -2.0, 7.0, 1e300, -1e-300]),
)


@settings(max_examples=200)
@given(st.lists(draws, min_size=1, max_size=60))
def test_every_aggregate_equals_plain_python_by_instant_and_file_row(rows: list[tuple[int, int, float]]) -> None:
    """Instants are drawn from a few, so that many records share one: among them the file's order decides."""
    node, minute, value = (np.array(column) for column in zip(*rows, strict=True))
    records = Records(DAY.start + minute * 60 * 10**9, node.astype(np.int64), (value.astype(float),) * len(HOWS))
    features = [Feature(name=how, aggregate=how) for how in HOWS]
    found = reduced(records, DAY, 6, features)
    cells: dict[tuple[int, int], list[tuple[int, int, float]]] = defaultdict(list)
    for row, (n, m, x) in enumerate(rows):
        if not math.isnan(x):
            cells[m // 60, n].append((m, row, x))
    for step, n in np.ndindex(24, 6):
        values = [x for *_, x in sorted(cells[step, n])]
        wanted = [math.nan] * 6 + [0.0]
        if values:
            total = sum(values)
            wanted = [values[0], values[-1], min(values), max(values), total / len(values), total, len(values)]
        assert np.array_equal(found[step, n], wanted, equal_nan=True), (step, n)
    assert not np.signbit(found[..., 2:4][found[..., 2:4] == 0]).any()  # which zero is less is no matter of the machine


@pytest.mark.parametrize("how", HOWS)
def test_an_aggregate_of_nothing_is_missing_but_a_count_is_zero(how: str) -> None:
    records = Records(np.array([DAY.start]), np.array([0]), (np.array([np.nan]),))
    found = reduced(records, DAY, 2, [Feature(name="a", aggregate=how)])
    assert (found == 0).all() if how == "count" else np.isnan(found).all()


def test_a_count_of_a_column_counts_its_values_and_is_zero_where_nothing_is() -> None:
    records = make_records(100, 3)
    column = records.values[0]
    assert column is not None
    counted = Records(records.time_R, records.node_R, (column, None))
    features = [Feature(name="of", aggregate="count"), Feature(name="rows", aggregate="count")]
    found = reduced(counted, DAY, 3, features)
    assert found[..., 0].sum() == (~np.isnan(column)).sum()
    assert found[..., 1].sum() == 100
    assert not np.isnan(found).any()


def test_rows_in_another_order_give_the_same_bytes() -> None:
    records = make_records(500, 4)
    assert records.values[0] is not None
    records = Records(records.time_R, records.node_R, (records.values[0],) * len(HOWS))
    features = [Feature(name=how, aggregate=how) for how in HOWS]
    truth = reduced(records, DAY, 4, features).tobytes()
    for seed in range(3):
        mixed = shuffled(records, seed)
        assert reduced(mixed, DAY, 4, features).tobytes() == truth


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


@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("unit", [1, 1000, 60 * 10**9, 3600 * 10**9])
def test_blocks_hold_every_record_by_step_node_instant_and_row(
    unit: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In blocks of a few steps; a step of 90 minutes is no whole number of the hours that all instants are of."""
    day = day_of(dt.date(2024, 3, 1), "UTC", parse_step("90m"))
    records = make_records(3000, 7, repeats=True)
    records = Records((records.time_R - day.start) // unit * unit + day.start, records.node_R, records.values)
    monkeypatch.setattr(cell_order, "BLOCK_RECORDS", 500)
    num_nodes = 7 if fits else 1 << 50  # as if there were so many that no 63 bits hold the key
    blocks = list(blocks_by_cell(records, day, num_nodes))
    step_R = (records.time_R - day.start) // day.step
    wanted = sorted(range(3000), key=lambda r: (step_R[r], records.node_R[r], records.time_R[r], r))
    assert [row for block in blocks for row in block.order.tolist()] == wanted
    assert [block.steps.start for block in blocks] == [0, *(block.steps.stop for block in blocks[:-1])]
    assert blocks[-1].steps.stop == day.num_steps
    for block in blocks:
        own = (step_R[block.order] - block.steps.start) * num_nodes + records.node_R[block.order]
        assert block.cell.tolist() == own.tolist()
        assert block.again.tolist() == repeated(records, block.order).tolist()


def test_of_repeated_records_the_last_in_file_order_wins_and_conflicts_are_counted() -> None:
    minute = 60 * 10**9
    time = DAY.start + np.array([0, minute, 0, 0, minute, 2 * minute])
    speed = np.array([1.0, 5.0, 2.0, 2.0, np.nan, np.nan])
    records = Records(time, np.zeros(6, np.int64), (speed,))
    order = arrange(records, DAY, 1)
    kept, duplicates = keep_last(records, order, repeated(records, order))
    assert order[kept].tolist() == [3, 4, 5]
    assert (duplicates.dropped, duplicates.conflicting) == (3, 2)  # 1 -> 2 and 5 -> nothing; 2 -> 2 is none
    same = Records(time[[5, 5]], np.zeros(2, np.int64), (np.array([np.nan, np.nan]),))
    assert keep_last(same, np.arange(2), repeated(same, np.arange(2)))[1].conflicting == 0


def test_without_repeats_every_record_is_kept() -> None:
    records = make_records(50, 3)
    order = arrange(records, DAY, 3)
    kept, duplicates = keep_last(records, order, repeated(records, order))
    assert kept.all()
    assert (duplicates.dropped, duplicates.conflicting) == (0, 0)


def test_one_record_is_a_date() -> None:
    records = Records(np.array([DAY.end - 1]), np.array([1]), (np.array([3.0]),))
    found = reduced(records, DAY, 2, [Feature(name="a")])
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
    assert reduced(big, DAY, 1, [Feature(name="s", aggregate="sum")])[0, 0, 0] == 3 * 2.0**31


def test_nodes_move_to_the_frozen_list_and_unseen_ones_are_dropped() -> None:
    values = np.arange(144.0).reshape(24, 3, 2)
    wide = on_nodes(values, np.array([2, -1, 0]), 4)
    assert (wide[:, 2] == values[:, 0]).all()
    assert (wide[:, 0] == values[:, 2]).all()
    assert np.isnan(wide[:, [1, 3]]).all()
    assert on_nodes(values, np.arange(3), 3) is values
