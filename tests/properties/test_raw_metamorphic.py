"""What may never change a byte: the order of rows, the division into files, blocks, spills, threads and workers.

And what arithmetic must hold: sums beyond int32 and int64, statistics against exact fractions, float32 only at the end.
"""

from __future__ import annotations

import datetime as dt
import gzip
import itertools
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dateshard.pipeline import arrays
from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.raw.decode import decode
from dateshard.pipeline.raw.formats import columnar, text
from dateshard.pipeline.raw.spill import REDUCING_BYTES
from dateshard.shardstore.layouts.records import Records, arrange
from dateshard.shardstore.scaling.partials import PartialStatistics
from dateshard.shardstore.scaling.statistics import Statistics
from dateshard.shardstore.times.calendar import Day

Make = Callable[..., Any]
DATE = dt.date(2024, 3, 1)
START = 1709251200 * 10**9
SECOND = 10**9
HOW = ("mean", "sum", "min", "max", "first", "last", "count", "difference")
FEATURES: dict[str, Any] = {f"{how}": {"column": "speed", "aggregate": how} for how in HOW} | {
    "volume": {"column": "vehicles", "aggregate": "sum"},
    "records": {"aggregate": "count"},
}
CONFIG = Pipeline.model_validate(
    {"source": {"path": "{date}", "time": "time", "time_format": "ns", "node": "node"}, "step": "1h", "features": FEATURES}
)  # fmt: skip
Row = tuple[int, str, float | None, float]

numbers = st.floats(allow_nan=False, allow_infinity=False, width=64, min_value=-1e200, max_value=1e200)
EDGES = [
    hour * 3600 * SECOND + more
    for hour in range(25)
    for more in (-1, 0, 1)
    if 0 <= hour * 3600 * SECOND + more < 86400 * SECOND
]
moments = st.one_of(
    st.integers(0, 86400 * SECOND - 1),
    st.integers(0, 86399).map(lambda second: second * SECOND),
    st.sampled_from(EDGES),
)
rows_of_distinct_keys = st.lists(
    st.tuples(moments, st.sampled_from(["a", "b", "é", "站"]), st.none() | numbers, numbers),
    min_size=1,
    max_size=40,
    unique_by=lambda row: row[:2],
)
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def frame_of(rows: list[Row]) -> pl.DataFrame:
    schema = {"time": pl.Int64, "node": pl.String, "speed": pl.Float64, "vehicles": pl.Float64}
    return pl.DataFrame([(START + at, *rest) for at, *rest in rows], schema=schema, orient="row")


def reduced(files: list[Path], budget: int = 1 << 30, config: Pipeline = CONFIG) -> tuple[bytes, Any, Any]:
    """(bytes of a date's cells, its nodes, its account) of files in order."""
    with tempfile.TemporaryDirectory() as folder:
        decoded = decode(files, DATE, config, None, budget, Path(folder) / "spilled")
        made = arrays.reduce(decoded, config)
        assert decoded.spool.spilled == (budget < 1 << 30)
    return made.values_TNF.tobytes(), made.nodes, (decoded.rows, made.duplicates, made.resets)


@contextmanager
def pieces_of(num_bytes: int, num_rows: int) -> Iterator[None]:
    """Small blocks of text and small batches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "BLOCK_BYTES", num_bytes)
        patch.setattr(columnar, "read_rows", lambda _: num_rows)
        yield


@quick
@given(rows=rows_of_distinct_keys, data=st.data())
def test_rows_of_distinct_node_and_instant_in_any_order_give_the_same_bytes(
    tmp_path: Path, rows: list[Row], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(rows))
    for name, chosen in (("one.csv", rows), ("two.csv", shuffled)):
        frame_of(chosen).write_csv(tmp_path / name)
    assert reduced([tmp_path / "one.csv"]) == reduced([tmp_path / "two.csv"])


@quick
@given(
    rows=st.lists(
        st.tuples(st.sampled_from([0, SECOND]), st.sampled_from("ab"), st.none() | st.integers(0, 2), st.just(1.0)),
        min_size=1,
        max_size=30,
    )
)
def test_of_equal_node_and_instant_the_last_in_file_order_wins_and_conflicts_are_counted(
    tmp_path: Path, rows: list[Row]
) -> None:
    frame_of(rows).write_csv(tmp_path / "x.csv")
    last: dict[tuple[int, str], float | None] = {}
    dropped = conflicting = 0
    for at, node, speed, _ in rows:
        if (at, node) in last:
            dropped, conflicting = dropped + 1, conflicting + (last[at, node] != speed)
        last[at, node] = speed
    _, nodes, (account, duplicates, _) = found = reduced([tmp_path / "x.csv"])
    cells = np.frombuffer(found[0]).reshape(24, len(nodes), len(FEATURES))
    for place, node in enumerate(nodes):
        kept = [speed for (_, name), speed in sorted(last.items()) if name == node and speed is not None]
        assert cells[0, place, list(FEATURES).index("count")] == len(kept)
        expected = sum(kept) if kept else math.nan
        assert np.array_equal(cells[0, place, HOW.index("sum")], expected, equal_nan=True)
    assert (duplicates.dropped, duplicates.conflicting) == (dropped, conflicting)
    assert account.accepted == len(rows)


@quick
@given(rows=rows_of_distinct_keys, repeats=st.lists(st.integers(0, 39), max_size=8), data=st.data())
def test_the_division_into_files_blocks_batches_and_spills_moves_no_byte(
    tmp_path: Path, rows: list[Row], repeats: list[int], data: st.DataObject
) -> None:
    rows = rows + [(*rows[k % len(rows)][:2], 1.5, 2.5) for k in repeats]  # the later one wins, in whichever file it is
    frame = frame_of(rows)
    frame.write_csv(tmp_path / "whole.csv")
    whole = reduced([tmp_path / "whole.csv"])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=3)))
    parts = [frame[a:b] for a, b in itertools.pairwise([0, *cuts, len(rows)]) if b > a]
    writers = {
        "csv": lambda part, path: part.write_csv(path),
        "csv.gz": lambda part, path: path.write_bytes(gzip.compress(part.write_csv().encode())),
        "parquet": lambda part, path: part.write_parquet(path, row_group_size=7),
        "jsonl": lambda part, path: part.write_ndjson(path),
        "arrow": lambda part, path: part.write_ipc(path),
    }
    files = []
    for k, part in enumerate(parts):
        suffix = data.draw(st.sampled_from(sorted(writers)))
        files.append(tmp_path / f"{k}.{suffix}")
        writers[suffix](part, files[-1])
    assert reduced(files) == whole
    with pieces_of(data.draw(st.integers(20, 400)), data.draw(st.integers(1, 9))):
        assert reduced(files) == whole
        least = max(60, -(-len(rows) * (2 * 28 + REDUCING_BYTES) // 2))  # a stretch that fits, all rows that do not
        assert reduced(files, budget=least)[:2] == whole[:2] or len(rows) < 2


@quick
@given(
    groups=st.lists(st.lists(st.floats(-1, 1), min_size=1, max_size=30), min_size=1, max_size=6),
    offset=st.sampled_from([0.0, 1e4, -1e9, 1e12]),
    spread=st.sampled_from([1e-3, 1.0, 1e6]),
)
def test_statistics_are_those_of_exact_fractions(groups: list[list[float]], offset: float, spread: float) -> None:
    cells = [[offset + spread * value for value in group] for group in groups]
    partials = [PartialStatistics.of(np.array(group)[:, None, None]) for group in cells]
    merged = partials[0]
    for partial in partials[1:]:
        merged = merged.merge(partial)
    exact = [Fraction(value) for group in cells for value in group]
    mean = sum(exact) / len(exact)
    m2 = sum((value - mean) ** 2 for value in exact)
    n, pivot, delta, found, low, high = (float(row[0, 0]) for row in merged.moments_6NF)
    size = max(abs(value - mean) for value in exact)
    assert (n, low, high) == (len(exact), float(min(exact)), float(max(exact)))
    assert abs(Fraction(pivot) + Fraction(delta) - mean) <= Fraction(1, 10**12) * size
    unseen = len(exact) * Fraction(sys.float_info.min)  # float64 has no squares below it
    assert abs(Fraction(found) - m2) <= Fraction(1, 10**12) * max(m2, size**2 / 10**3) + unseen
    scale = Statistics(("x",), merged, ()).scale([("zscore", "feature")], ["n"])
    deviation = math.sqrt(m2 / len(exact))
    deviation = (
        deviation if deviation > 8 * 2.0**-52 * abs(mean) else 1.0
    )  # else rounding alone explains it: a constant
    for value in (cells[0][0], cells[-1][-1]):
        truth = float((Fraction(value) - mean) / Fraction(deviation))
        assert abs(scale.apply(np.array([[[value]]]))[0, 0, 0] - truth) <= 1e-12 * max(
            1, abs(truth), float(size) / deviation
        )


@pytest.mark.parametrize("kind", [pl.Int32, pl.UInt32, pl.Int64, pl.UInt64])
@pytest.mark.parametrize("suffix", ["parquet", "arrow", "csv"])
def test_sums_of_counts_wrap_at_no_integers_edge(tmp_path: Path, kind: Any, suffix: str) -> None:
    most = {pl.Int32: 2**31 - 1, pl.UInt32: 2**32 - 1, pl.Int64: 2**62, pl.UInt64: 2**63}[kind]
    rows = frame_of([(k * SECOND, "a", 1.0, 0.0) for k in range(6)]).with_columns(
        vehicles=pl.Series([most] * 6, dtype=kind)
    )
    path = tmp_path / f"x.{suffix}"
    {"parquet": rows.write_parquet, "arrow": rows.write_ipc, "csv": rows.write_csv}[suffix](path)
    cells = np.frombuffer(reduced([path])[0]).reshape(24, 1, len(FEATURES))
    assert cells[0, 0, list(FEATURES).index("volume")] == float(6 * most)


def test_whole_counts_are_exact_up_to_2_53(tmp_path: Path) -> None:
    frame_of([(0, "a", 1.0, 2.0**53 - 4), *((k * SECOND, "a", 1.0, 1.0) for k in range(1, 4))]).write_csv(
        tmp_path / "x.csv"
    )
    cells = np.frombuffer(reduced([tmp_path / "x.csv"])[0]).reshape(24, 1, len(FEATURES))
    assert cells[0, 0, list(FEATURES).index("volume")] == 2**53 - 1


@pytest.mark.parametrize("num_nodes", [1, 3, 106_751, 106_752, 300_000])
def test_single_nanoseconds_of_many_nodes_are_sorted_by_node_instant_and_row(num_nodes: int) -> None:
    day, random = Day(date=DATE, start=START, step=3600 * SECOND, num_steps=24), np.random.default_rng(1)
    node_R = np.concatenate([random.integers(0, num_nodes, 4000), [num_nodes - 1] * 50]).astype(np.int64)
    time_R = START + random.integers(0, 86400 * SECOND, len(node_R))
    time_R[-25:] = time_R[-26]
    order = arrange(Records(time_R, node_R, ()), day, num_nodes)
    expected = sorted(range(len(node_R)), key=lambda row: (node_R[row], time_R[row], row))
    assert order.tolist() == expected


@pytest.mark.parametrize(("offset", "spread"), [(1e4, 0.1), (1e9, 1e-3), (-1e12, 1.0)])
def test_a_small_spread_on_a_large_offset_survives_to_a_millionth_of_it(
    make_world: Make, offset: float, spread: float
) -> None:
    world = make_world(4, missing=0)
    world.tree["pipeline"]["features"] = {"speed": {"aggregate": "last"}}
    random = np.random.default_rng(2)
    for date, rows in world.rows.items():
        world.rows[date] = [(at, node, offset + spread * float(random.normal()), 1.0) for at, node, _, _ in rows]
        world.write(date)
    world.prepare()
    dataset = world.open()
    train = sorted(world.rows)[:3]
    last: dict[tuple[dt.date, int, str], float] = {}
    for date in world.rows:
        start = dataset.manifest.dates[date].start
        last |= {(date, (at - start) // (3600 * SECOND), node): value for at, node, value, _ in world.rows[date]}
    exact = [Fraction(value) for (date, _, _), value in last.items() if date in train]
    mean = sum(exact) / len(exact)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in exact) / len(exact))
    for (date, step, node), value in last.items():
        stored = float(dataset.map(date)[step, dataset.nodes.names.index(node), 0])
        assert abs(stored - float((Fraction(value) - mean) / Fraction(deviation))) < 1e-6


@quick
@given(
    values=st.lists(numbers, min_size=1, max_size=5),
    nodes=st.lists(st.sampled_from(["n0", "zz", "新"]), min_size=1, max_size=5),
)
def test_what_is_held_out_never_moves_statistics_nodes_or_training_shards(
    held_out: Any, values: list[float], nodes: list[str]
) -> None:
    world, before = held_out
    for date in list(world.rows)[3:]:
        start = world.rows[date][0][0]
        world.rows[date] = [
            (start + k * SECOND, node, value, value) for k, (node, value) in enumerate(zip(nodes, values, strict=False))
        ]
        world.write(date)
    world.prepare(refit=True)
    after = world.open().manifest
    assert (after.statistics, after.nodes, after.vocabularies) == (before.statistics, before.nodes, before.vocabularies)
    train = sorted(world.rows)[:3]
    assert [after.dates[date] for date in train] == [before.dates[date] for date in train]


@pytest.fixture
def held_out(make_world: Make) -> Any:
    """A world of three training dates, one of validation and one of test, and its first manifest."""
    world = make_world(5, split={"train": "..2024-03-03", "validation": "2024-03-04", "test": "2024-03-05"})
    world.prepare()
    return world, world.open().manifest


def test_threads_workers_and_the_order_of_rows_move_no_byte(make_world: Make) -> None:
    world = make_world(4, nodes=[f"n{k}" for k in range(20)])
    random, found = np.random.default_rng(4), []
    for date, rows in world.rows.items():
        world.rows[date] = [
            (at, node, float(random.normal() * 10.0 ** random.integers(-8, 8)), 0.1) for at, node, _, _ in rows
        ]
    for k, (workers, threads) in enumerate(itertools.product("12", "12")):
        for date, rows in world.rows.items():
            world.rows[date] = [rows[row] for row in random.permutation(len(rows))]
            world.write(date)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("POLARS_MAX_THREADS", threads)
            world.run("preprocess", "-c", str(world.config_file()), "--workers", workers)
        files = [path for folder in ("shards", "statistics", "nodes") for path in (world.store / folder).rglob("*")]
        found.append({str(path.relative_to(world.store)): path.read_bytes() for path in files if path.is_file()})
        world.store.rename(world.folder / f"store{k}")
    assert found[0]
    assert all(other == found[0] for other in found[1:])
