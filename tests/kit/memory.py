"""The real commands under a hard limit of memory, on far more data than the limit.

RLIMIT_DATA bounds every private byte a process can write (heap, anonymous maps, stacks), is inherited by its workers,
and leaves file maps alone: what the kernel may drop at will costs nothing. RLIMIT_AS would forbid the maps, RLIMIT_RSS
does nothing.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tests.conftest import command, environment

MIB = 1 << 20
FIRST = dt.date(2020, 1, 1)
STEPS = 288  # of five minutes
TEMPLATES = 3  # dates repeat the values of one of so many


@dataclass(frozen=True, slots=True)
class Size:
    """How much data: every date holds STEPS x nodes x features values, nothing missing."""

    dates: int
    nodes: int
    features: int

    @property
    def shard_bytes(self) -> int:
        """Values of all shards, float32."""
        return self.dates * STEPS * self.nodes * self.features * 4


@dataclass(frozen=True, slots=True)
class Ran:
    """One command: how it ended, and its memory.

    Attributes:
        peak_bytes: the largest sum of RssAnon over it and its workers, looked at every 100 ms.
        resident_bytes: the same of the greatest RSS that the kernel noted of each, sampled.
    """

    code: int
    peak_bytes: int
    resident_bytes: int
    seconds: float
    cpu_seconds: float
    output: str


def write_dumps(folder: Path, size: Size) -> int:
    """Writes folder/raw/<date>.csv and returns their bytes. Rows come in time order, one decimal a value."""
    (folder / "raw").mkdir(parents=True)
    templates = [_template(size, seed) for seed in range(TEMPLATES)]
    total = 0
    for index in range(size.dates):
        date = FIRST + dt.timedelta(days=index)
        data = templates[index % TEMPLATES].replace(b"2020-01-01T", f"{date}T".encode())
        total += (folder / "raw" / f"{date}.csv").write_bytes(data)
    return total


def _template(size: Size, seed: int) -> bytes:
    generator = np.random.default_rng(seed)
    lines = ["time,node," + ",".join(f"f{k}" for k in range(size.features))]
    for step in range(STEPS):
        at = f"2020-01-01T{step // 12:02d}:{step % 12 * 5:02d}"
        tenths = generator.integers(0, 100, (size.nodes, size.features))
        lines += [f"{at},n{n}," + ",".join(f"{v / 10}" for v in row) for n, row in enumerate(tenths.tolist())]
    return ("\n".join(lines) + "\n").encode()


def write_config(folder: Path, size: Size, **trainer: Any) -> None:
    """folder/config.yaml: nine tenths of the dates train, the last tenth validates."""
    first_held = FIRST + dt.timedelta(days=size.dates - max(1, size.dates // 10))
    tree = {
        "dataset": "large",
        "pipeline": {
            "source": {"path": "raw/{date}.csv", "time": "time", "node": "node"},
            "step": "5m",
            "features": {f"f{k}": {"fill": "forward"} for k in range(size.features)},
            "split": {"train": f"..{first_held - dt.timedelta(days=1)}", "validation": f"{first_held}.."},
        },
        "trainer": {
            "window": {"history": 12, "horizon": 12, "stride": 12},
            "model": {"name": "dlinear"},
            "training": {"epochs": 2, "batch_size": 4},
            **trainer,
        },
    }
    (folder / "config.yaml").write_text(json.dumps(tree, indent=1))


def run_limited(folder: Path, limit_bytes: int, words: list[str], seen: Callable[[str], None] = lambda _: None) -> Ran:
    """Runs a program with RLIMIT_DATA and samples the anonymous memory of its process tree every 100 ms."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))

    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with open(folder / "output.txt", "w+") as output:
        process = subprocess.Popen(words, cwd=folder, env=environment(), stdout=output, stderr=output, preexec_fn=limit)
        peak, most = 0, 0
        while True:
            ended, status = os.waitpid(process.pid, os.WNOHANG)
            if ended:
                process.returncode = os.waitstatus_to_exitcode(status)
                break
            family = _family(process.pid)
            peak = max(peak, sum(_noted(member, "RssAnon") for member in family))
            most = max(most, sum(_noted(member, "VmHWM") for member in family))
            time.sleep(0.1)
        resident = most  # ru_maxrss would count the process that started it as well
        output.seek(0)
        text = output.read()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    seen(text)
    return Ran(process.returncode, peak, resident, time.monotonic() - began, cpu, text)


def prepare(folder: Path, limit_bytes: int, num_workers: int = 1) -> Ran:
    """`dateshard preprocess` under the limit (each worker has it for itself)."""
    return run_limited(folder, limit_bytes, command("preprocess", "-c", "config.yaml", "--workers", str(num_workers)))


def train(folder: Path, limit_bytes: int, *more: str) -> Ran:
    """`dateshard train` under the limit."""
    return run_limited(folder, limit_bytes, command("train", "-c", "config.yaml", *more))


# The way that is common today: all dates in memory. It must die under the limit, else the limit limits nothing.
STACK_EVERYTHING = """
import sys
import numpy as np
from dateshard.shardstore.dataset import Dataset
dataset = Dataset.open("data/shards/large")
held = [np.array(dataset.map(day.date)) for day in dataset.days]
print(sum(array.nbytes for array in held))
"""


def stack_everything(folder: Path, limit_bytes: int) -> Ran:
    """Loads every shard at once under the same limit."""
    return run_limited(folder, limit_bytes, [sys.executable, "-c", STACK_EVERYTHING])


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def _noted(pid: int, name: str) -> int:
    """A field of a process's status in bytes; 0 if it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return int(text.split(f"{name}:")[1].split()[0]) * 1024 if f"{name}:" in text else 0
