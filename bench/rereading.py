"""An epoch from shards beside what people write without them: daily CSV read again, and all windows stacked in memory.

    python bench/rereading.py [--days 6] [--memory-days 30] [--batches 6] [--repeats 5] [--folder DIR]      two minutes

Dates of 1,440 steps, 200 nodes and 4 features, windows of 12 + 12 steps, batches of 64. As CSV a date is one row a step and
node (the raw dump), or one row a step with a column a node and feature. Each epoch reads every date once in a new order and
gives its windows shuffled; `a batch` reads the date of every batch anew, for `--batches` batches. Reading is polars into
float32 unless it says pandas; rows are sorted or pivoted or, which nothing checks, taken as they lie. Each turn is a process
of its own on one thread, by turns, and one batch of each is compared with the series. Memory is what a process holds above
its imports while it goes through an epoch: RssAnon, which the kernel cannot drop, and the growth of its resident peak.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]
from bench.dated import figure, heading, spread, table  # noqa: E402

STEPS, NODES, FEATURES, HISTORY, LENGTH, BATCH = 1440, 200, 4, 12, 24, 64
FIRST = dt.date(2024, 1, 1)
NAMES = [f"f{k}" for k in range(FEATURES)]
NODE_NAMES = [f"n{k:03d}" for k in range(NODES)]
WIDE = [f"{node}.{name}" for node in NODE_NAMES for name in NAMES]
BUDGET = 32_000_000
Pairs = Iterator[tuple[np.ndarray, np.ndarray]]
FORMS = {
    "wide, polars": "a column a node and feature, polars, taken as they lie",
    "rows, polars": "raw rows, polars, taken as they lie",
    "rows, polars sorted": "raw rows, polars, times parsed by `str.to_datetime`, sorted by time and node",
    "rows, pandas pivot": "raw rows, pandas, times parsed, pivoted",
}
OURS = {
    "blocks": "shards, blocks read again every epoch",
    "first": "shards, the first epoch: store opened, read and its hashes compared",
    "resident": "shards, one resident block, a later epoch",
}
HELD = {
    "stacked": "all windows stacked in RAM",
    "sliced": "the series in RAM, windows cut out of it",
    "resident": "shards, one resident block",
    "blocks": f"shards, blocks under a budget of {BUDGET / 1e6:.0f} MB",
    "mapped": "shards, mapped files",
}


def series_of(folder: Path, days: int) -> Path:
    """The file of a series of so many dates; a longer one begins as a shorter one does."""
    return folder / f"series-{days}.f32"


def write_series(folder: Path, days: int, csv: bool) -> None:
    """A float32 series of four decimals, and its dates as both kinds of CSV."""
    import polars as pl

    drawn = np.random.default_rng(0)
    for name in ("rows", "wide"):
        (folder / name).mkdir(exist_ok=True)
    with open(series_of(folder, days), "wb") as file:
        for index in range(days):
            values = np.round(drawn.standard_normal((STEPS, NODES, FEATURES)), 4).astype(np.float32)
            file.write(values.tobytes())
            if not csv:
                continue
            begin = dt.datetime.combine(FIRST + dt.timedelta(days=index), dt.time())
            times = pl.Series("time", [begin + dt.timedelta(minutes=k) for k in range(STEPS)])
            of_rows = {"time": times.gather(np.repeat(np.arange(STEPS), NODES)), "node": NODE_NAMES * STEPS}
            of_rows |= {name: values[..., k].ravel() for k, name in enumerate(NAMES)}
            wide = dict(zip(WIDE, values.reshape(STEPS, -1).T, strict=True))
            for name, columns in (("rows", of_rows), ("wide", {"time": times, **wide})):
                frame = pl.DataFrame(columns)
                frame.write_csv(folder / name / f"{index}.csv", datetime_format="%Y-%m-%dT%H:%M:%S", float_precision=4)


def read_day(form: str, folder: Path, day: int) -> np.ndarray:
    """A date of CSV as float32 [steps, nodes, features]."""
    path = folder / form.partition(",")[0] / f"{day}.csv"
    if form == "rows, pandas pivot":
        import pandas as pd

        wide = pd.read_csv(path, parse_dates=["time"]).pivot(index="time", columns="node", values=NAMES)
        values = wide.to_numpy(dtype=np.float32).reshape(STEPS, FEATURES, NODES)
        return np.ascontiguousarray(values.transpose(0, 2, 1))
    import polars as pl

    names = WIDE if form == "wide, polars" else NAMES
    kinds = dict.fromkeys(names, pl.Float32)
    if form in ("wide, polars", "rows, polars"):
        values = pl.read_csv(path, columns=names, schema_overrides=kinds).to_numpy()
        return np.ascontiguousarray(values).reshape(STEPS, NODES, FEATURES)
    times = pl.col("time").str.to_datetime("%Y-%m-%dT%H:%M:%S")  # `try_parse_dates` takes ten times as long
    frame = pl.read_csv(path, schema_overrides=kinds).with_columns(times).sort("time", "node")
    return np.ascontiguousarray(frame.select(NAMES).to_numpy()).reshape(STEPS, NODES, FEATURES)


def windows_of(values: np.ndarray) -> np.ndarray:
    """All windows of a stretch, as a view [windows, steps, nodes, features]."""
    shape = (len(values) - LENGTH + 1, LENGTH, *values.shape[1:])
    return np.lib.stride_tricks.as_strided(values, shape, (values.strides[0], *values.strides), writeable=False)


def batches_of(windows: np.ndarray, drawn: np.random.Generator) -> Pairs:
    """Batches of all windows in random order; the last one is short."""
    order = drawn.permutation(len(windows))
    for low in range(0, len(order), BATCH):
        batch = windows[order[low : low + BATCH]]
        yield batch[:, :HISTORY], batch[:, HISTORY:]


def csv_epoch(form: str, folder: Path, days: int) -> Pairs:
    """Each date is read once, in a new order, and its windows come shuffled."""
    drawn = np.random.default_rng(1)
    for day in drawn.permutation(days).tolist():
        yield from batches_of(windows_of(read_day(form, folder, day)), drawn)


def csv_batches(form: str, folder: Path, days: int, count: int) -> Pairs:
    """A date is read for every batch."""
    drawn = np.random.default_rng(1)
    for day in drawn.integers(0, days, count).tolist():
        yield next(batches_of(windows_of(read_day(form, folder, day)), drawn))


def context(folder: Path, days: int) -> SimpleNamespace:
    """What bench/ours.py serves."""
    return SimpleNamespace(
        days=days, spd=STEPS, N=NODES, F=FEATURES, hist=HISTORY, hor=LENGTH - HISTORY, B=BATCH, root=str(folder),
        raw=str(series_of(folder, days)), state=None,
    )  # fmt: skip


def shard_batches(kind: str, folder: Path, days: int) -> Callable[[int], Pairs]:
    """An epoch's batches by our reader."""
    import ours
    import torch

    from dateshard.trainer.data.shuffle import Shuffle

    torch.set_num_threads(1)
    # two blocks of three dates and a ring of two batches lie under the budget
    shuffle = Shuffle(1, 3) if kind == "blocks" else Shuffle(None, None)
    policy = "mapped" if kind == "mapped" else "blocks"
    reader = ours.make_reader(context(folder, days), shuffle, policy, budget=BUDGET if kind == "blocks" else 64 << 30)

    def epoch(number: int) -> Pairs:
        for batch in reader.batches(number):
            yield batch.history_BHNF.numpy(), batch.target_BPNF.numpy()

    return epoch


def compare(folder: Path, days: int, history: np.ndarray, target: np.ndarray) -> None:
    """Ends the run where a window of a batch is not in the series."""
    series = np.memmap(series_of(folder, days), dtype=np.float32, mode="r").reshape(-1, NODES, FEATURES)
    first = np.array(series[:, 0, 0])
    for window in np.concatenate([history, target], axis=1):
        places = np.flatnonzero(np.isclose(first, window[0, 0, 0], atol=1e-5)).tolist()
        if not any(np.allclose(series[place : place + LENGTH], window, atol=1e-5) for place in places):
            raise SystemExit("a window is not in the series")


def counted(batches: Pairs) -> int:
    """How many windows came."""
    return sum(len(history) for history, _ in batches)


def cost(way: str, folder: Path, days: int, batches: int) -> dict[str, float]:
    """One process: CPU microseconds a window."""
    kind, _, form = way.partition(": ")
    if kind == "ours":
        epoch = shard_batches(form, folder, days)  # the first process of all writes the store
        if form == "first":
            began = time.process_time()
            windows = counted(shard_batches("resident", folder, days)(0))
        else:
            compare(folder, days, *next(epoch(0)))
            counted(epoch(0))
            began = time.process_time()
            windows = sum(counted(epoch(number)) for number in range(1, 6))
    else:
        compare(folder, days, *next(csv_epoch(form, folder, days)))  # imports, and the first call of each
        began = time.process_time()
        each = csv_epoch(form, folder, days) if kind == "day" else csv_batches(form, folder, days, batches)
        windows = counted(each)
    return {"us": (time.process_time() - began) / windows * 1e6, "windows": windows}


def _status(name: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) * 1024


def memory(kind: str, folder: Path, days: int) -> dict[str, float]:
    """One process: bytes held above imports through an epoch, and the CPU seconds of it."""
    import torch

    if kind in ("stacked", "sliced"):
        torch.from_numpy(np.zeros(1))
        private, resident = _status("RssAnon"), _status("VmRSS")
        began = time.process_time()
        values = np.fromfile(series_of(folder, days), dtype=np.float32).reshape(-1, NODES, FEATURES)
        windows = windows_of(values)
        if kind == "stacked":
            windows = np.stack(list(windows))
            del values
        batches = batches_of(windows, np.random.default_rng(1))
    else:
        import ours

        ours.open_store(context(folder, days))
        private, resident = _status("RssAnon"), _status("VmRSS")
        began = time.process_time()
        batches = shard_batches(kind, folder, days)(0)
    most = count = 0
    for number, (history, _) in enumerate(batches):
        count += len(history)
        if number % 20 == 0:
            most = max(most, _status("RssAnon"))
    used = time.process_time() - began
    return {"private": most - private, "resident": _status("VmHWM") - resident, "cpu": used, "windows": count}


def turn(what: str, way: str, folder: Path, days: int, batches: int) -> dict[str, float]:
    """A process of its own."""
    words = [
        sys.executable, __file__, "--one", what, way, "--folder", str(folder), "--days", str(days), "--batches", str(batches),
    ]  # fmt: skip
    threads = dict.fromkeys(("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | threads)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def cost_table(folder: Path, days: int, batches: int, repeats: int) -> str:
    """CPU a window of each way, by turns."""
    ways = [f"ours: {kind}" for kind in OURS] + [f"{kind}: {form}" for kind in ("day", "batch") for form in FORMS]
    rounds = [{way: turn("cost", way, folder, days, batches) for way in ways} for _ in range(repeats)]
    costs = {way: [one[way]["us"] for one in rounds] for way in ways}
    rows = []
    for way, values in costs.items():
        kind, _, form = way.partition(": ")
        said = OURS[form] if kind == "ours" else f"CSV again every {kind}: {FORMS[form]}"
        rows.append([said, spread(values), figure(min(values) / min(costs["ours: blocks"]))])
    return table(["an epoch of windows", "CPU us a window", "times shards read again"], rows)


def memory_table(folder: Path, days: int, repeats: int) -> str:
    """Bytes held of each way, by turns."""
    rounds = [{kind: turn("memory", kind, folder, days, 0) for kind in HELD} for _ in range(repeats)]
    rows, stacked = [], min(one["stacked"]["private"] for one in rounds)
    for kind, said in HELD.items():
        private, resident = ([one[kind][name] / 1e6 for one in rounds] for name in ("private", "resident"))
        cpu = [one[kind]["cpu"] / one[kind]["windows"] * 1e6 for one in rounds]
        less = f"{min(private) * 1e6 / stacked - 1:.1%}" if kind != "stacked" else ""
        rows.append([said, spread(private), less, spread(resident), spread(cpu)])
    heads = ["windows from", "private MB above imports", "against all windows", "resident MB, mapped files too",
             "CPU us a window, loading included"]  # fmt: skip
    return table(heads, rows)


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=6)
    parser.add_argument("--memory-days", type=int, default=30, help="all windows of one take 109 MB")
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--one", nargs=2, help="one way, by a process of its own")
    asked = parser.parse_args()
    if asked.one:
        what, way = asked.one
        made = (
            cost(way, asked.folder, asked.days, asked.batches)
            if what == "cost"
            else memory(way, asked.folder, asked.days)
        )
        print(json.dumps(made))
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as scratch:
        folder = Path(scratch)
        write_series(folder, asked.days, csv=True)
        write_series(folder, asked.memory_days, csv=False)
        how = (
            f"{asked.days} dates of 1,440 steps x 200 nodes x 4 features, windows of 12 + 12 steps (77 kB), batch 64; CPU us a "
            f"window, least (median, most) of {asked.repeats} processes by turns, one thread, warm cache"
        )
        print(heading("Reading CSV again", how))
        print(cost_table(folder, asked.days, asked.batches, asked.repeats))
        print(f"Memory of {asked.memory_days} dates of that shape:\n")
        print(memory_table(folder, asked.memory_days, asked.repeats))


if __name__ == "__main__":
    main()
