"""Every choice of a feature through the command line, against plain arithmetic over the raw rows."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dateshard.shardstore.dataset import Dataset
from tests.conftest import command
from tests.kit.memory import MIB, run_limited

HOURS = 24
FEATURES: dict[str, dict[str, Any]] = {
    "mean": {"column": "x", "fill": "mean", "scale": "none"},
    "total": {"column": "x", "aggregate": "sum", "fill": "zero", "fill_limit": 1, "scale": "none"},
    "low": {"column": "x", "aggregate": "min", "scale": "minmax"},
    "high": {"column": "x", "aggregate": "max", "scale": "robust", "clip": [-1, 1]},
    "first": {"column": "x", "aggregate": "first", "transform": "log1p", "scale": "none"},
    "last": {"column": "x", "aggregate": "last", "fill": "forward", "fill_limit": 2, "scale": "none"},
    "rows": {"aggregate": "count", "scale": "none"},
    "kind": {"categorical": True},
    "bounded": {"column": "y", "range": [0, 10], "outside": "null", "scale": "none"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two dates of one node: the first trains; hours 5 to 9 of each are empty."""
    random = np.random.default_rng(4)
    (tmp_path / "raw").mkdir()
    for date in ("2024-03-01", "2024-03-02"):
        lines = ["time,node,x,y,kind"]
        for hour in range(HOURS):
            for minute in () if 5 <= hour < 10 else (0, 20, 40):
                kind = ["car", "bus", "bike"][int(random.integers(0, 3))] if date == "2024-03-01" else "tram"
                x, y = int(random.integers(1, 100)), int(random.integers(-5, 15))
                lines.append(f"{date}T{hour:02d}:{minute:02d}:00Z,n,{x},{y},{kind}")
        (tmp_path / "raw" / f"{date}.csv").write_text("\n".join(lines) + "\n")
    source = {"path": "raw/{date}.csv", "time": "time", "node": "node"}
    split = {"train": "2024-03-01", "validation": "2024-03-02"}
    tree = {"dataset": "d", "pipeline": {"source": source, "step": "1h", "features": FEATURES, "split": split}}
    (tmp_path / "config.yaml").write_text(json.dumps(tree))
    return tmp_path


def test_aggregates_fills_scales_categories_and_ranges_are_those_of_plain_arithmetic(folder: Path) -> None:
    ran = run_limited(folder, 4096 * MIB, command("preprocess", "-c", "config.yaml", "--workers", "1"))
    assert ran.code == 0, ran.output
    assert "outside of the declared range [0, 10]: made missing" in ran.output
    assert "categories of 'kind' that the training data lacks get code 0: up to 1 on 2024-03-02" in ran.output
    dataset = Dataset.open(folder / "data" / "shards" / "d")
    first, second = (day.date for day in dataset.days)
    cells: dict[int, list[tuple[int, int, str]]] = {hour: [] for hour in range(HOURS)}
    for line in (folder / "raw" / "2024-03-01.csv").read_text().splitlines()[1:]:
        at, _, x, y, kind = line.split(",")
        cells[int(at[11:13])].append((int(x), int(y), kind))
    full = {hour: rows for hour, rows in cells.items() if rows}
    lows, highs = (
        [min(r[0] for r in rows) for rows in full.values()],
        [max(r[0] for r in rows) for rows in full.values()],
    )
    middle, quartiles = statistics.median(highs), np.quantile(highs, [0.25, 0.75])
    mean = statistics.fmean(statistics.fmean(r[0] for r in rows) for rows in full.values())
    out = np.empty((HOURS, 1, len(FEATURES)), np.float32)
    dataset.read(first, slice(None), out)
    got = {name: out[:, 0, index] for index, name in enumerate(FEATURES)}
    for hour, rows in full.items():
        values = [r[0] for r in rows]
        within = [r[1] for r in rows if 0 <= r[1] <= 10]
        assert got["mean"][hour] == pytest.approx(statistics.fmean(values), rel=1e-6)
        assert got["total"][hour] == sum(values)
        assert got["low"][hour] == pytest.approx((min(values) - min(lows)) / (max(lows) - min(lows)), abs=1e-6)
        scaled = (max(values) - middle) / (quartiles[1] - quartiles[0])
        assert got["high"][hour] == pytest.approx(np.clip(scaled, -1, 1), abs=0.1)  # quantiles of a histogram
        assert got["first"][hour] == pytest.approx(np.log1p(values[0]), rel=1e-6)
        assert got["last"][hour] == values[-1]
        assert got["rows"][hour] == len(rows)
        assert dataset.vocabularies.names["kind"][int(got["kind"][hour]) - 1] == rows[-1][2]
        assert got["bounded"][hour] == pytest.approx(statistics.fmean(within) if within else 0.0, rel=1e-6)
    assert got["mean"][5:10] == pytest.approx([mean] * 5, rel=1e-6)
    assert got["total"][5:10].tolist() == [0] * 5
    assert got["last"][5:10].tolist() == [got["last"][4]] * 2 + [0] * 3
    assert got["rows"][5:10].tolist() == [0] * 5
    dataset.read(second, slice(None), out)
    assert set(out[:, 0, list(FEATURES).index("kind")].tolist()) == {0.0}
