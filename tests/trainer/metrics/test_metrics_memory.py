"""The notes' case in small: 1,500 of its 11,014 batches (1.9 GB of forecasts and targets) under RLIMIT_DATA 1 GiB.

The whole case under 4 GiB: `python bench/metrics.py`, bench/results/2026-11-22-metrics.md.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[3] / "bench" / "metrics.py"
BATCHES, LIMIT = 1500, 1 << 30


@pytest.fixture(scope="module")
def bench() -> Any:
    spec = importlib.util.spec_from_file_location("bench_metrics", BENCH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_exact_sums_end_where_the_joining_way_dies(bench: Any) -> None:
    ours = bench.run("ours", BATCHES, LIMIT)
    assert ours["count"] == (BATCHES - 10) * 16 * 500 * 20
    assert ours["told"]["mse"] == pytest.approx(ours["exact"]["mse"], rel=1e-13)
    assert ours["told"]["mae"] == pytest.approx(ours["exact"]["mae"], rel=1e-13)
    assert ours["bytes"] < 5e6
    joined = bench.run("all", BATCHES, LIMIT)
    assert "died" in joined


@pytest.mark.slow
def test_a_sample_of_the_first_batches_is_wrong_by_much(bench: Any) -> None:
    """The negative control: under a limit that it fits, the notes' cap tells a figure of the epoch's beginning."""
    capped = bench.kept(60, 6)
    assert capped["told"]["mse"] < 0.5 * capped["exact"]["mse"]
