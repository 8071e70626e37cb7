"""Two workers against one: the real `dateshard preprocess`, interleaved, on synthetic traffic dumps.

    python bench/workers.py [--dates 24] [--sensors 1500] [--rounds 5] [--suffix csv|parquet] [--folder DIR]

The machine may be shared: each round runs the variants one after the other, and what counts is the smallest wall time of
all rounds beside the CPU seconds and the load average. One worker works in the process itself, where polars may decode
with all cores; `1, one thread` keeps it to one. `busy` is how many cores a variant kept busy: CPU / wall of its best.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from dateshard.pipeline.synthetic import City, write_long

ROOT = Path(__file__).parents[1]
PR_SET_CHILD_SUBREAPER = 36  # orphans of our children become our own
ONE_THREAD = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
VARIANTS: dict[str, tuple[int, dict[str, str]]] = {"1, one thread": (1, ONE_THREAD), "1": (1, {}), "2": (2, {})}


@dataclass
class Times:
    """Wall and CPU seconds of every round, children included, and the peak that the command told."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak_bytes: int = 0


def write_world(folder: Path, num_dates: int, num_sensors: int, suffix: str) -> int:
    """Dumps and config.yaml in `folder`; returns the dumps' bytes."""
    city = City(num_sensors=num_sensors)
    dates = list(city.dates(num_dates))
    (folder / "raw").mkdir(parents=True)
    paths = write_long(city, dates, folder / "raw", suffix)
    source = {"path": f"raw/{{date}}.{suffix}", "time": "timestamp", "node": "sensor_id"}
    features = {
        "speed": {"aggregate": "mean", "fill": "forward", "fill_limit": 12},
        "vehicles": {"aggregate": "sum", "fill": "zero", "transform": "log1p"},
    }
    pipeline = {"source": source, "step": "5m", "features": features, "split": {"train": f"..{dates[-3]}"}}
    (folder / "config.yaml").write_text(json.dumps({"dataset": "traffic", "pipeline": pipeline}))
    return sum(path.stat().st_size for path in paths)


def run(folder: Path, num_workers: int, more: dict[str, str], times: Times) -> None:
    shutil.rmtree(folder / "data", ignore_errors=True)
    environment = {**os.environ, **more, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "dateshard", "preprocess", "-c", "config.yaml", "--json", "-q", "--workers"]
    before, began = _reap(), time.monotonic()
    told = subprocess.run([*words, str(num_workers)], cwd=folder, env=environment, capture_output=True, check=True)
    times.wall.append(time.monotonic() - began)
    times.cpu.append(_reap() - before)
    times.peak_bytes = max(times.peak_bytes, json.loads(told.stdout).get("peak_memory_bytes", 0))


def _reap() -> float:
    """CPU seconds of all children so far. Workers come from a process that outlives the command by a moment: it becomes a
    child of this one, and counts once it is waited for."""
    while True:
        try:
            os.wait()
        except ChildProcessError:
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            return used.ru_utime + used.ru_stime


def row(name: str, times: Times, base: Times) -> str:
    best = min(range(len(times.wall)), key=times.wall.__getitem__)
    wall, cpu = times.wall[best], min(times.cpu)
    spread = f"{statistics.median(times.wall):.2f} / {max(times.wall):.2f}"
    busy, peak = f"{times.cpu[best] / wall:.2f}", f"{times.peak_bytes / 1e6:,.0f}"
    return f"| {name} | {wall:.2f} | {spread} | {cpu:.2f} | {busy} | {peak} | {min(base.wall) / wall:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dates", type=int, default=24)
    parser.add_argument("--sensors", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--suffix", choices=["csv", "parquet"], default="csv")
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        size = write_world(folder, asked.dates, asked.sensors, asked.suffix)
        print(f"\n{time.strftime('%Y-%m-%d')}, {platform.machine()}, {len(os.sched_getaffinity(0))} cores,", end=" ")
        print(f"Python {platform.python_version()}. {asked.dates} dates of {asked.sensors:,} sensors,", end=" ")
        print(f"{size / 1e6:,.0f} MB of {asked.suffix}; {asked.rounds} rounds, interleaved; load average", end=" ")
        print(f"{os.getloadavg()[0]:.1f} before", end=", ", flush=True)
        found = {name: Times() for name in VARIANTS}
        for _ in range(asked.rounds):
            for variant, (num_workers, more) in VARIANTS.items():
                run(folder, num_workers, more, found[variant])
        print(f"{os.getloadavg()[0]:.1f} after.\n")
    print(
        "| workers | wall s, best | median / most | CPU s, least | busy | peak MB | times faster than `1, one thread` |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, times in found.items():
        print(row(name, times, found["1, one thread"]))


if __name__ == "__main__":
    main()
