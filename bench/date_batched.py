"""Date-batched loading: what it gives back, what it holds while data grow, and whether it trains as well as a global shuffle.

    python bench/date_batched.py memory|seeds FOLDER

`memory` writes 2 and 40 dates of 11.5 MB each below FOLDER and prepares them; `seeds` generates 30 dates of traffic. The
time of an epoch: dateshard bench epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import numpy as np
import psutil

import dateshard
from dateshard.trainer.memory.process_memory import private_bytes
from tests.kit.memory import Size, write_config, write_dumps

BUDGET = 30_000_000  # of two dates
SEEDS = range(1, 6)


def prepare(folder: Path, dates: int) -> None:
    """Writes and prepares so many dates of 288 x 100 x 100 values."""
    if (folder / "data").exists():
        return
    size = Size(dates, 100, 100)
    write_dumps(folder, size)
    write_config(folder, size)
    subprocess.run([sys.executable, "-m", "dateshard", "preprocess", "-c", "config.yaml", "-q"], cwd=folder, check=True)


def hold(loader: Any) -> dict[str, Any]:
    """Goes through all batches of dates in batches of four windows, and loads all at once after that."""
    process, done, peak = psutil.Process(), threading.Event(), 0

    def look() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, private_bytes())

    idle = private_bytes()
    threading.Thread(target=look, daemon=True).start()
    began, windows, total = time.perf_counter(), 0, 0.0
    for first, last in loader.date_batches:
        loader.load_data_for_date_range(first, last)
        x, y, _, _ = loader.get_train_data() if last != loader.date_batches[-1][1] else loader.get_val_data()
        for low in range(0, len(x), 4):
            rows = np.arange(low, min(low + 4, len(x)))
            total += float(x[rows][:, 0, 0, 0].sum() + y[rows][:, 0, 0, 0].sum())
        windows += len(x)
        loader.clear_data()
    seconds = time.perf_counter() - began
    done.set()
    shares = []
    for _ in range(5):
        before = process.memory_info().rss
        loader.load_data()
        kept = loader.get_train_data()[0]
        taken = process.memory_info().rss - before
        loader.clear_data()
        shares.append(1 - max(0, process.memory_info().rss - before) / taken)
        del kept
    return {
        "days": loader.days_per_batch,
        "batch": loader.bytes_of_batch,
        "peak": peak - idle,
        "windows": windows,
        "seconds": seconds,
        "taken": taken,
        "back": min(shares),
    }


def memory(folder: Path) -> None:
    """Prints a row for 2 dates and one for 40."""
    for dates in (2, 40):
        place = folder / f"dates{dates}"
        place.mkdir(parents=True, exist_ok=True)
        prepare(place, dates)
        words = [sys.executable, str(Path(__file__).resolve()), "hold", str(place)]
        print(dates, subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip(), flush=True)


def seeds(folder: Path) -> None:
    """Trains each seed with the global shuffle and with days_per_batch: 2, and prints validation losses."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    if not Path("data").exists():
        init = ["init", "--example", "traffic", "--dates", "30", "--sensors", "32"]
        subprocess.run([sys.executable, "-m", "dateshard", *init], check=True, stdout=subprocess.DEVNULL)
        dateshard.preprocess("configs/traffic.yaml", progress=False)
    rows: dict[str, list[float]] = {}
    for seed in SEEDS:
        for name, loading in (("global", {"shuffle": "global"}), ("2 days", {"days_per_batch": 2})):
            trainer = {"loading": loading, "early_stopping": {"patience": 100}}
            run = dateshard.train("configs/traffic.yaml", seed=seed, epochs=6, progress=False, trainer=trainer)
            rows.setdefault(name, []).append(min(run.history["val_loss"].to_list()))
            print(seed, name, rows[name][-1], flush=True)
    for name, losses in rows.items():
        print(
            f"{name}: mean {np.mean(losses):.5f}, deviation {np.std(losses, ddof=1):.5f}, {min(losses):.5f} to {max(losses):.5f}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["memory", "seeds", "hold"])
    parser.add_argument("folder", type=Path)
    chosen = parser.parse_args()
    if chosen.what == "hold":
        store = chosen.folder / "data" / "shards" / "large"
        print(json.dumps(hold(dateshard.DateBatchedLoader(store, history=12, horizon=12, memory_budget=BUDGET))))
    else:
        {"memory": memory, "seeds": seeds}[chosen.what](chosen.folder)
