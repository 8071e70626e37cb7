"""A billion windows, and the memory above a budget: what the reader's order and its blocks take, whatever the size.

    python bench/reading_limits.py [--repeats 5] [--folder DIR]      a minute and a half, 1 GB of disk

The order: windows of one step and one behind it over 3,650 dates, all in one block or in blocks of 30 runs of a date, no data.
Its memory, and the time to the first positions, as a resume in the midst of an epoch wants them. The first batch of a billion
windows: from mapped files, each compared with its hash, of 3,650 dates that are links to one; the dataset is open. The blocks:
a store of 30 dates of 8 MB is read through for an epoch with budgets of which only the largest holds all; what the process
holds more than after opening, less the budget. Each row is a process. Prints a Markdown table of each.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]
from bench.dated import figure, heading, spread, table  # noqa: E402

DATES = 3650
STEPS = (288, 2_880, 28_800, 288_000)  # a date: a million windows to a billion
BUDGETS = (32, 64, 128, 512)
SERVED = 8


def order_of(steps: int, dates_per_block: int | None) -> dict[str, float]:
    """Bytes and milliseconds of an order over dates of so many steps."""
    import pickle
    import tracemalloc

    from dateshard.shardstore.times.calendar import day_of, segments
    from dateshard.trainer.data.order import Order, Window, make_runs

    first, step = dt.date(2015, 1, 1), 86_400_000_000_000 // steps
    days = [day_of(first + dt.timedelta(days=index), "UTC", step) for index in range(DATES)]

    def placed() -> tuple[Order, float]:
        per_run = dates_per_block and 1
        runs = tuple(make_runs(days, segments(days), [True] * DATES, Window(1, 1), per_run))
        order = Order(runs=runs, stride=1, batch_size=64, runs_per_block=dates_per_block, seed=7)
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


def first_batch(folder: Path, steps: int) -> dict[str, float]:
    """Milliseconds from an open dataset to a batch in the midst of an epoch, by mapped files."""
    from types import SimpleNamespace

    import numpy as np
    import ours
    import torch

    from dateshard.trainer.data.shuffle import Shuffle

    torch.set_num_threads(1)
    ctx = SimpleNamespace(days=DATES, spd=steps, N=1, F=1, hist=1, hor=1, B=64, root=str(folder), raw="")
    root = ours.store_folder(ctx)
    if not root.exists():
        values = np.random.default_rng(0).standard_normal((1, steps, 1, 1), dtype=np.float32)
        ours.write_store(root, values, linked=DATES - 1)
    reader = ours.make_reader(ctx, Shuffle(None, None), "mapped")
    batches = reader.batches(3, start=reader.order.num_batches // 2)
    began = time.process_time()
    next(batches)
    return {"windows": reader.order.num_windows, "ms": 1e3 * (time.process_time() - began)}


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


WAYS: dict[str, Callable[[Path, int], dict[str, float]]] = {
    "one block": lambda _, steps: order_of(steps, None),
    "blocks of 30 dates": lambda _, steps: order_of(steps, 30),
    "first batch": first_batch,
    "blocks": above_budget,
}


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--one", nargs=2, help="one row, by a process of its own")
    asked = parser.parse_args()
    if asked.one:
        what, size = asked.one
        print(json.dumps(WAYS[what](asked.folder, int(size))))
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as scratch:

        def rows(what: str, size: int) -> list[dict[str, float]]:
            words = [sys.executable, __file__, "--one", what, str(size), "--folder", scratch]
            each = [subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True) for _ in range(asked.repeats)]
            return [json.loads(done.stdout.splitlines()[-1]) for done in each]

        orders = [(what, rows(what, size)) for size in STEPS for what in ("one block", "blocks of 30 dates")]
        first = rows("first batch", STEPS[-1])
        budgets = {size: rows("blocks", size) for size in BUDGETS}
    print(heading("Limits of reading", f"{asked.repeats} processes a row, one thread"))
    cells = [
        [
            f"{each[0]['windows']:,.0f}, {what}",
            figure(max(one["peak"] for one in each) / 1e6),
            f"{each[0]['state']:.0f}",
            spread([one["ms"] for one in each]),
        ]
        for what, each in orders
    ]
    cells.append(
        [f"{first[0]['windows']:,.0f}, the first batch from mapped files", "", "", spread([one["ms"] for one in first])]
    )
    heads = ["windows", "order, peak MB", "bytes of a place in it", "CPU ms to the first: least (median, most)"]
    print(table(heads, cells))
    cells = [
        [f"{size} MB", *(figure(max(one[what] for one in each) / 1e6) for what in ("held", "above"))]
        for size, each in budgets.items()
    ]
    print(table(["budget", "MB held, of 242 MB of data", "MB above the budget, most"], cells))


if __name__ == "__main__":
    main()
