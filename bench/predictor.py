"""How long `dateshard.Predictor` takes for one forecast: percentiles of many calls on one core.

    cd FOLDER && python .../bench/predictor.py RUN [RUN ...] [--dumps 'data/raw/flights/{date}.csv'] [--until 2013-12-01]

FOLDER has the prepared dataset and the runs; each is asked with the raw steps of its window in memory, first as an array,
then as a polars frame, then for a frame as its answer too. Before anything is timed the forecast is compared with that of
`predict` from the dumps. Wall and CPU time of this process, one thread, pinned to one core. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import numpy as np
import polars as pl
import torch

import dateshard
from dateshard.judging.predictor import RawForecast
from dateshard.shardstore.times.instants import parse_instant, rows_before
from tests.kit.forecasting import raw_cells

WARM = 100


def percentiles(call: Callable[[], object], calls: int) -> str:
    """Milliseconds of half of the calls and of 99 in a hundred, of wall time and of CPU time."""
    wall, cpu = [], []
    for number in range(WARM + calls):
        began, used = time.perf_counter(), time.thread_time()
        call()
        if number >= WARM:
            wall.append(time.perf_counter() - began)
            cpu.append(time.thread_time() - used)
    return " | ".join(f"{np.percentile(times, share) * 1000:.2f}" for times in (wall, cpu) for share in (50, 99))


def as_frame(values_LNI: np.ndarray, predictor: dateshard.Predictor, at_L: np.ndarray) -> pl.DataFrame:
    """A row a step and node; all inputs are numbers."""
    nodes = predictor.nodes
    columns = {name: values_LNI[..., place].ravel() for place, name in enumerate(predictor.inputs)}
    time_R = pl.Series(np.repeat(at_L, len(nodes))).cast(pl.Datetime("ns")).dt.replace_time_zone("UTC")
    return pl.DataFrame({"time": time_R, "node": np.tile(nodes, len(at_L)), **columns}).fill_nan(None)


def main() -> None:
    """Prints a row for each run and kind of call."""
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--dumps", default="data/raw/flights/{date}.csv")
    parser.add_argument("--until", default="2013-12-01")
    parser.add_argument("--calls", type=int, default=2000)
    asked = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}\n"
    )
    print("| run | in | out | p50 | p99 | p50, CPU | p99, CPU |\n|---|---|---|---|---|---|---|")
    for name in asked.runs:
        measure(name, asked)


def measure(name: str, asked: argparse.Namespace) -> None:
    """Prints the rows of a run."""
    began = time.perf_counter()
    predictor = dateshard.Predictor(name)
    loading = time.perf_counter() - began
    dataset = predictor._forecaster.dataset
    end = parse_instant(asked.until, predictor.timezone, end=True)
    first = rows_before(end, predictor.history, predictor.timezone, dataset.manifest.step)[0][0].date
    names = dataset.feature_names
    values = raw_cells(dataset, asked.dumps, first, end)[..., [names.index(name) for name in predictor.inputs]]
    rows = as_frame(values, predictor, end - np.arange(len(values), 0, -1) * dataset.manifest.step)
    expected = dateshard.predict(name, asked.dumps, until=asked.until)
    kinds: dict[str, Callable[[], RawForecast]] = {
        "array": lambda: predictor.forecast(values, asked.until),
        "frame": lambda: predictor.forecast(rows, asked.until),
    }
    for kind, call in kinds.items():
        assert call().frame.equals(expected)
        print(f"| {name} | {kind} | arrays | {percentiles(call, asked.calls)} |", flush=True)
    print(f"| {name} | frame | frame | {percentiles(lambda: kinds['frame']().frame, asked.calls)} |")
    print(f"| {name} | (loading: {loading:.2f} s) | | | | | |", flush=True)


if __name__ == "__main__":
    main()
