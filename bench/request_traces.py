"""What traces of LLM requests cost: memory and time of reading and of a whole training, and how long an answer takes.

    python bench/request_traces.py [--rows 5000000] [--calls 1000] FOLDER

Makes a trace of that many rows in FOLDER (once), reads it in a process of its own, trains on its newest 50,000 records for one
epoch in another, and asks the models for the next request and for an interval, with histories of several lengths. CPU time
and peak RSS of each process; milliseconds of wall and CPU time of an answer. Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import numpy as np

import dateshard
from dateshard.pipeline.synthetic.request_load import Workload
from dateshard.pipeline.synthetic.request_rows import write_burstgpt
from dateshard.places import data_in
from dateshard.requests.request_history import frame_of
from dateshard.requests.trace import read_trace

READ = """
import resource, sys, time
from dateshard.requests.trace import read_trace
from dateshard.requests.trace_dumps import minutes_of
began = time.process_time()
trace = read_trace(sys.argv[1], 50_000)
read = time.process_time() - began
minutes = minutes_of(trace)
print(len(trace), len(minutes.time_M), read, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def trace_of(rows: int, folder: Path) -> Path:
    """Writes the trace, unless it lies there."""
    path = folder / f"trace-{rows}.csv"
    if not path.exists():
        with open(path, "wb") as file:
            write_burstgpt(Workload(rows_a_day=rows / 60, num_dates=60, bursts_a_day=0.0, weekend=0.0), file)
    return path


def milliseconds(call: Callable[[], object], calls: int) -> str:
    """Half of the calls and 99 in a hundred, of wall time and of CPU time."""
    wall, cpu = [], []
    for number in range(20 + calls):
        began, used = time.perf_counter(), time.thread_time()
        call()
        if number >= 20:
            wall.append(1000 * (time.perf_counter() - began))
            cpu.append(1000 * (time.thread_time() - used))
    each = [np.percentile(values, share) for values in (wall, cpu) for share in (50, 99)]
    return " | ".join(f"{value:.2f}" for value in each)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--calls", type=int, default=1000)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    path = trace_of(asked.rows, asked.folder)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DATESHARD_DATA": str(asked.folder / "data")}
    print(f"{platform.machine()}, Python {platform.python_version()}, {path.stat().st_size / 1e6:.0f} MB")
    read = subprocess.run(
        [sys.executable, "-c", READ, str(path)], check=True, text=True, capture_output=True, env=environment
    )
    records, minutes, seconds, mib = read.stdout.split()
    print(f"reading {records} records, {minutes} minutes: {float(seconds):.1f} s of CPU, {float(mib):.0f} MiB")
    words = ["-m", "dateshard", "requests", "train", "--data-path", str(path), "-q", "trainer.training.epochs=1"]
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, env=environment)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"training, an epoch each: {usage.ru_utime + usage.ru_stime:.0f} s of CPU, {usage.ru_maxrss / 1024:.0f} MiB")
    with data_in(asked.folder / "data"):
        predictor = dateshard.RequestPredictor()
    frame = frame_of(read_trace(path, 200_000))
    print("\n| answer | rows of history | p50 | p99 | p50, CPU | p99, CPU |\n|---|---|---|---|---|---|")
    for rows in sorted({len(frame) // 2, len(frame)}):
        history = frame.tail(rows)
        print(f"| interval | {rows:,} | {milliseconds(lambda: predictor.predict_interval(history), asked.calls)} |")  # noqa: B023
        print(f"| next | {rows:,} | {milliseconds(lambda: predictor.predict_next_request(history), asked.calls)} |")  # noqa: B023


if __name__ == "__main__":
    main()
