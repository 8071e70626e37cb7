"""bench/preprocess_ours.py: the chunks that it lays out hold what the harness's work comes to, computed here by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

ROOT = Path(__file__).parents[2]
STEPS, NODES, FEATURES = 1440, 512, 4
FIRST = 1_704_067_200_000  # 2024-01-01 in ms


def raw(date: int) -> pl.DataFrame:
    """Random rows of one date in any order, some values missing, no node twice at an instant."""
    random = np.random.default_rng(date)
    rows = 40_000
    frame = pl.DataFrame(
        {
            "ts": pl.Series(FIRST + 86_400_000 * date + random.integers(0, 86_400_000, rows)).cast(pl.Datetime("ms")),
            "node": [f"node_{number:04d}" for number in random.integers(0, NODES, rows)],
            **{f"f{k}": np.round(random.normal(10.0**k, k + 1, rows), 4) for k in range(FEATURES)},
        }
    ).with_columns(pl.when(pl.lit(random.random(rows)) < 0.01).then(None).otherwise(pl.col("f1")).alias("f1"))
    return frame.unique(["ts", "node"], keep="first", maintain_order=True)


def grid(frame: pl.DataFrame, date: int) -> np.ndarray:
    """[STEPS, NODES, FEATURES] means, NaN where nothing fell, one row after the other."""
    sums, counts = np.zeros((2, STEPS, NODES, FEATURES))
    milliseconds = frame["ts"].dt.epoch("ms").to_numpy() - FIRST - 86_400_000 * date
    for at, node, *values in zip(milliseconds, frame["node"], *(frame[f"f{k}"] for k in range(FEATURES)), strict=True):
        for index, value in enumerate(values):
            if value is not None:
                sums[at // 60_000, int(node[5:]), index] += value
                counts[at // 60_000, int(node[5:]), index] += 1
    with np.errstate(invalid="ignore"):
        return np.where(counts > 0, sums / counts, np.nan)


@pytest.mark.parametrize("fmt", ["csv", "parquet"])
def test_the_chunks_hold_scaled_means_carried_forward_then_zero(fmt: str, tmp_path: Path) -> None:
    folder = tmp_path / "raw" / fmt
    folder.mkdir(parents=True)
    frames = [raw(date) for date in range(2)]
    for date, frame in enumerate(frames):
        twice = pl.concat([frame, frame.head(100)])  # equal duplicates count once
        path = folder / f"2024-01-0{date + 1}.{fmt}"
        if fmt == "csv":
            twice.write_csv(path, datetime_format="%Y-%m-%dT%H:%M:%S%.3f")
        else:
            twice.write_parquet(path)
    words = ["--raw", str(tmp_path / "raw"), "--fmt", fmt, "--dates", "2", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench/preprocess_ours.py"), *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    grids = np.stack([grid(frame, date) for date, frame in enumerate(frames)])
    mean, deviation = np.nanmean(grids, axis=(0, 1, 2)), np.nanstd(grids, axis=(0, 1, 2))
    for date in range(2):
        scaled = (grids[date] - mean) / deviation
        scaled[0] = np.nan_to_num(scaled[0])
        for step in range(1, STEPS):
            scaled[step] = np.where(np.isnan(scaled[step]), scaled[step - 1], scaled[step])
        chunk = tmp_path / "out" / "data.zarr" / "c" / str(date) / "0" / "0"
        found = np.fromfile(chunk, dtype="<f4").reshape(STEPS, NODES, FEATURES)
        np.testing.assert_allclose(found, scaled, atol=2e-6)
