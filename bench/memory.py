"""Preparing and training under RLIMIT_DATA with many times as much data as the limit, by the real commands.

    python bench/memory.py [--limit-mib 512] [--times 20] [--folder DIR]      needs about 5 x the data of disk

Prints a Markdown table. The last row is the way that is common today (every date in memory) under the same limit.
"""

from __future__ import annotations

import argparse
import math
import platform
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.kit.memory import MIB, Ran, Size, prepare, stack_everything, train, write_config, write_dumps

NODES, FEATURES = 455, 16  # a date of 8.4 MB in float32, 16.8 MB while it is reduced


def row(what: str, ran: Ran, expected: bool) -> str:
    ended = "completes" if ran.code == 0 else f"exit {ran.code}: {ran.output.strip().splitlines()[-1][:90]}"
    verdict = "" if (ran.code == 0) == expected else " **BAD**"
    return f"| {what} | {ended}{verdict} | {ran.peak_bytes / MIB:,.0f} MiB | {ran.seconds:,.0f} s | {ran.cpu_seconds:,.0f} s |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--limit-mib", type=int, default=512)
    parser.add_argument("--times", type=float, default=20.0)
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    limit = asked.limit_mib * MIB
    one = Size(1, NODES, FEATURES).shard_bytes
    size = Size(math.ceil(asked.times * limit / one), NODES, FEATURES)
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        raw = write_dumps(folder, size)
        loading = {"policy": "blocks", "memory_budget": "64MiB", "shuffle": {"days_per_run": 1, "runs_per_block": 2}}
        write_config(folder, size, loading=loading)
        print(f"\n{time.strftime('%Y-%m-%d')}, {platform.machine()}, Python {platform.python_version()}.", end=" ")
        print(f"RLIMIT_DATA {asked.limit_mib} MiB for every process; {size.dates:,} dates, {raw / 1e9:.1f} GB of CSV,")
        print(f"{size.shard_bytes / 1e9:.1f} GB of shards ({size.shard_bytes / limit:.1f} times the limit).\n")
        print(
            "| command | ends | peak of RssAnon, whole process tree | time | CPU |\n|---|---|---|---|---|", flush=True
        )
        print(row("`preprocess --workers 1`", prepare(folder, limit), expected=True), flush=True)
        trained = train(folder, limit)
        print(row("`train`, 2 epochs, blocks of 2 dates, budget 64 MiB", trained, expected=True), flush=True)
        mapped = train(folder, limit, "--policy", "mapped", "--epochs", "1")
        print(row("`train --policy mapped`, 1 epoch", mapped, expected=True), flush=True)
        print(row("every date in memory, no windows yet", stack_everything(folder, limit), expected=False), flush=True)


if __name__ == "__main__":
    main()
