"""What it costs to train one DLinear from daily CSVs: dateshard, darts, neuralforecast and windows stacked in RAM.

    python bench/forecasters.py --environments ENVIRONMENTS [--dates 14 --dates 140]

ENVIRONMENTS has a virtual environment of the name of each library (`darts`, `neuralforecast`); what is not there is left out.
The dumps are generated: 50 nodes, a row a node every five minutes. Each is a process with one thread; CPU seconds of it and
of its children, and its greatest resident memory, are the kernel's. An epoch is what four epochs cost beyond one, by three.
Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "bench" / "peers"), str(ROOT)]
import numpy as np  # noqa: E402
from forecast_task import BATCH, HISTORY, HORIZON, NODES, RATE, SEED, STEPS_A_DATE  # noqa: E402

MORE = 4  # epochs of the longer training
PEERS = {"darts": "darts", "neuralforecast": "neuralforecast", "stacked": ""}
CONFIG = f"""dataset: roads
pipeline:
  source: {{path: "dumps/{{date}}.csv", time: time, node: node}}
  step: 5m
  features: {{speed: {{}}}}
trainer:
  window: {{history: {HISTORY}, horizon: {HORIZON}}}
  model: {{name: dlinear}}
  training: {{batch_size: {BATCH // NODES}, learning_rate: {RATE}, seed: {SEED}}}
"""


def write_dumps(folder: Path, dates: int) -> None:
    """Writes a daily rhythm with noise, a row a node and step."""
    folder.mkdir(parents=True)
    drawn = np.random.default_rng(SEED)
    first = np.datetime64("2024-01-01", "D")
    of_day = np.arange(STEPS_A_DATE) / STEPS_A_DATE
    level_N = drawn.uniform(30, 90, NODES)
    names = [f"s{node:03d}" for node in range(NODES)]
    for number in range(dates):
        day = first + number
        stamps = (day.astype("datetime64[m]") + np.arange(STEPS_A_DATE) * 5).astype(str)
        values_LN = level_N + 10 * np.sin(2 * np.pi * of_day)[:, None] + drawn.normal(0, 2, (STEPS_A_DATE, NODES))
        with open(folder / f"{day}.csv", "w") as file:
            file.write("time,node,speed\n")
            for stamp, row in zip(stamps, values_LN, strict=True):
                file.writelines(f"{stamp},{name},{value:.2f}\n" for name, value in zip(names, row, strict=True))


def measured(words: Sequence[str | Path], cwd: Path) -> tuple[float, float]:
    """CPU seconds and MB of the greatest process; the command must succeed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    with open(cwd / "log", "ab") as log:
        begun = subprocess.Popen([str(word) for word in words], cwd=cwd, env=environment, stdout=log, stderr=log)
        _, status, used = os.wait4(begun.pid, 0)
        begun.returncode = os.waitstatus_to_exitcode(status)
    if begun.returncode:
        sys.exit(f"{words} ended with {begun.returncode}: {(cwd / 'log').read_text()[-2000:]}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1000


def row_of_dateshard(folder: Path) -> tuple[float, ...]:
    """As of a peer; preparing comes before the first training alone."""
    (folder / "roads.yaml").write_text(CONFIG)
    program = [sys.executable, "-m", "dateshard"]
    seconds, most = measured([*program, "preprocess", "-c", "roads.yaml", "--workers", "1"], folder)
    before, epoch, memory = trainings([*program, "train", "-c", "roads.yaml", "--epochs"], folder)
    return seconds + before, before, epoch, max(most, memory)


def row_of_peer(name: str, python: Path, folder: Path) -> tuple[float, ...]:
    """CPU s before an epoch in a first and in a second training, of an epoch, and MB."""
    words = [python, ROOT / "bench" / "peers" / f"forecast_{name}.py", folder / "dumps", "--epochs"]
    before, epoch, memory = trainings(words, folder)
    return before, before, epoch, memory


def trainings(words: Sequence[str | Path], folder: Path) -> tuple[float, float, float]:
    """CPU s before an epoch and of one, and MB."""
    one, more = (measured([*words, str(epochs)], folder) for epochs in (1, MORE))
    epoch = (more[0] - one[0]) / (MORE - 1)
    return one[0] - epoch, epoch, max(one[1], more[1])


def main() -> None:
    """Prints a row for each library and number of dates."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--environments", type=Path, required=True)
    parser.add_argument("--dates", type=int, action="append")
    asked = parser.parse_args()
    print(f"{time.strftime('%Y-%m-%d')}, load {os.getloadavg()[0]:.1f}; {NODES} nodes, {STEPS_A_DATE} steps a date\n")
    print("| rows | who | before the first epoch | before that of a second training | an epoch | greatest memory, MB |")
    print("|---|---|---|---|---|---|")
    for dates in asked.dates or [14, 140]:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write_dumps(folder / "dumps", dates)
            rows = {"dateshard": row_of_dateshard(folder)}
            for name, environment in PEERS.items():
                python = asked.environments / environment / "bin" / "python" if environment else Path(sys.executable)
                if python.exists():
                    rows[name] = row_of_peer(name, python, folder)
            for name, (first, again, epoch, memory) in rows.items():
                figures = f"{first:.1f} | {again:.1f} | {epoch:.2f} | {memory:.0f}"
                print(f"| {dates * STEPS_A_DATE * NODES:,} | {name} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
