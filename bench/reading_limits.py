"""A billion windows, and the memory above a budget: what the reader's order and its blocks take, whatever the size.

    python bench/reading_limits.py [--repeats 5] [--folder DIR]      a minute, 1 GB of disk

The order: windows of one step and one behind it over 3,650 dates, no data. Time to the first batch is that of its 64
positions, and of another epoch and place as a resume wants them. The blocks: a store of 30 dates of 8 MB is read through
for an epoch with budgets of which only the largest holds all; what the process holds more than after opening, less the
budget. Each row is a process. Prints a Markdown table of each.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]
from bench.dated import figure, heading, spread, table  # noqa: E402

DATES = 3650
STEPS = (288, 2_880, 28_800, 288_000)  # a date: a million windows to a billion
BUDGETS = (32, 64, 128, 512)
SERVED = 8


def order_of(steps: int) -> dict[str, float]:
    """Bytes and milliseconds of an order over dates of so many steps."""
    import pickle
    import tracemalloc

    from dateshard.shardstore.times.calendar import day_of, segments
    from dateshard.trainer.data.order import Order, Window, make_runs

    first, step = dt.date(2015, 1, 1), 86_400_000_000_000 // steps
    days = [day_of(first + dt.timedelta(days=index), "UTC", step) for index in range(DATES)]

    def placed() -> tuple[Order, float]:
        runs = tuple(make_runs(days, segments(days), [True] * DATES, Window(1, 1), None))
        order = Order(runs=runs, stride=1, batch_size=64, runs_per_block=None, seed=7)
        began = time.process_time()
        next(iter(order.epoch(3).draws(order.num_batches // 2)))
        return order, time.process_time() - began

    placed()  # the first call of each function
    order, took = placed()
    tracemalloc.start()  # which slows what it counts
    placed()
    peak = tracemalloc.get_traced_memory()[1]
    state = len(pickle.dumps({"epoch": 3, "batch": order.num_batches // 2, "seed": 7}))
    return {"windows": order.num_windows, "peak": peak, "ms": 1e3 * took, "state": state}


def private_bytes() -> int:
    """What this process holds that the kernel cannot drop."""
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) * 1024


def above_budget(folder: Path, megabytes: int) -> dict[str, float]:
    """Bytes that an epoch through blocks holds beside its budget."""
    from types import SimpleNamespace

    import numpy as np
    import ours
    import torch

    from dateshard.trainer.data.shuffle import Shuffle

    torch.set_num_threads(1)
    series = folder / "series.f32"
    ctx = SimpleNamespace(days=30, spd=1440, N=350, F=4, hist=12, hor=12, B=64, root=str(folder), raw=str(series))
    if not series.exists():
        drawn = np.random.default_rng(0)
        with open(series, "wb") as file:
            for _ in range(ctx.days):
                file.write(drawn.standard_normal(ctx.spd * ctx.N * ctx.F, dtype=np.float32).tobytes())
    budget = megabytes * 1_000_000
    ours.open_store(ctx)
    shuffle = Shuffle(None, None) if megabytes == BUDGETS[-1] else Shuffle(1, max(1, megabytes // 17))
    reader = ours.make_reader(ctx, shuffle, "blocks", budget=budget)
    most, before = 0, private_bytes()
    for _ in reader.batches(0, every=SERVED):  # every block is filled, of its batches one in so many is copied
        most = max(most, private_bytes())
    return {"held": most - before, "above": max(0, most - before - budget)}


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--one", nargs=2, help="one row, by a process of its own")
    asked = parser.parse_args()
    if asked.one:
        what, size = asked.one
        print(json.dumps(order_of(int(size)) if what == "order" else above_budget(asked.folder, int(size))))
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as scratch:

        def row(what: str, size: int) -> dict[str, float]:
            words = [sys.executable, __file__, "--one", what, str(size), "--folder", scratch]
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
            return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]

        orders = {size: [row("order", size) for _ in range(asked.repeats)] for size in STEPS}
        budgets = {size: [row("blocks", size) for _ in range(asked.repeats)] for size in BUDGETS}
    print(heading("Limits of reading", f"{asked.repeats} processes a row, one thread"))
    rows = [
        [
            f"{each[0]['windows']:,.0f}",
            figure(each[0]["peak"] / 1e6),
            f"{each[0]['state']:.0f}",
            spread([one["ms"] for one in each]),
        ]
        for each in orders.values()
    ]
    heads = ["windows", "order, peak MB", "bytes of a place in it", "CPU ms to the first batch: least (median, most)"]
    print(table(heads, rows))
    rows = [
        [f"{size} MB", *(figure(max(one[what] for one in each) / 1e6) for what in ("held", "above"))]
        for size, each in budgets.items()
    ]
    print(table(["budget", "MB held, of 242 MB of data", "MB above the budget, most"], rows))


if __name__ == "__main__":
    main()
