"""Windows of recordings beside memcpy: 500 records x 20 features with horizon 0, cut by subject, from one resident block.

    python bench/sensors.py [--seconds 1] [--repeats 5] [--write]

The recordings are generated, prepared by `preprocess` and read in a global shuffle. The copies and the figures are those of
bench/reader.py: bytes delivered per CPU second over those of np.copyto between blocks of the same size, interleaved.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime as dt
import os
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from reader import BATCH, measure, memcpy

from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.execute import preprocess
from dateshard.pipeline.planning.plan import Wish
from dateshard.pipeline.synthetic.motion import Lab, dates, recording
from dateshard.shardstore.dataset import Dataset
from dateshard.trainer.data.batch import BatchForm
from dateshard.trainer.data.order import Order, Window
from dateshard.trainer.data.reader import Reader
from dateshard.trainer.data.split_runs import runs_of

LAB, NUM_DATES, HISTORY = Lab(num_subjects=8, num_sensors=8, num_joints=12, seconds=600), 3, 500


def prepared(folder: Path) -> Dataset:
    """The recordings as a dataset in `folder`."""
    for date in dates(NUM_DATES):
        recording(LAB, date).write_csv(folder / f"{date}.csv")
    tree = {
        "layout": "events",
        "source": {"path": str(folder / "{date}.csv"), "time": "time", "time_format": "ms", "cut": "subject"},
        "features": {name: {} for name in (*LAB.sensors, *LAB.joints)},
        "split": {"by": "subject", "train": LAB.subjects},
    }
    list(preprocess("sensors", Pipeline.model_validate(tree), folder / "shards", Wish(), 1))
    return Dataset.open(folder / "shards")


def reader_of(dataset: Dataset, policy: str) -> Reader:
    """Serves every window of a subject's session, in a global shuffle."""
    window, places = Window(HISTORY, 0), range(len(dataset.features))
    order = Order(runs=tuple(runs_of(dataset, "train", window, None)), stride=1, batch_size=BATCH, seed=1)
    inputs, targets = tuple(places[: len(LAB.sensors)]), tuple(places[len(LAB.sensors) :])
    return Reader(dataset, order, BatchForm(window=window, inputs=inputs, targets=targets), policy=policy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        dataset = prepared(Path(work))
        raw = Path(work) / "series.f32"
        raw.write_bytes(b"".join(np.asarray(dataset.map(day.date)).tobytes() for day in dataset.days))
        ctx = SimpleNamespace(hist=HISTORY, hor=0, N=1, F=len(dataset.features), raw=str(raw))

        readers = {policy: reader_of(dataset, policy) for policy in ("blocks", "mapped")}

        def served(policy: str) -> Iterator[tuple[int, int]]:
            for batch in readers[policy].batches(0):
                yield batch.size, batch.size * HISTORY * ctx.F * 4

        series, slots = (
            np.fromfile(raw, dtype=np.float32),
            [np.zeros((BATCH, HISTORY * ctx.F), np.float32) for _ in range(2)],
        )
        generator = np.random.default_rng(3)

        def one_by_one() -> Iterator[tuple[int, int]]:
            size, begin = HISTORY * ctx.F * 4, series.ctypes.data
            for number in range(1 << 10):
                into = slots[number % 2].ctypes.data
                for row, place in enumerate(generator.integers(0, len(series) // ctx.F - HISTORY, BATCH).tolist()):
                    ctypes.memmove(into + row * size, begin + place * ctx.F * 4, size)
                yield BATCH, BATCH * size

        ways = {
            "memcpy": memcpy,
            "memmove, window by window": lambda _: one_by_one(),
            "resident block": lambda _: served("blocks"),
            "mapped": lambda _: served("mapped"),
        }
        for run in ways.values():
            measure(run, ctx, 0.2)
        rounds = [
            {name: measure(run, ctx, chosen.seconds) for name, run in ways.items()} for _ in range(chosen.repeats)
        ]
    lines = [
        f"Windows of {HISTORY} records x {ctx.F} features (40 kB), horizon 0, {dt.date.today()}, {platform.machine()}, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}, batch {BATCH}, one thread; "
        f"{chosen.repeats} repeats of {chosen.seconds:g} s, interleaved; load {os.getloadavg()[0]:.1f}",
        "",
        "| way | CPU us a window (min - max) | share of memcpy (median) |",
        "|---|---|---|",
    ]
    for name in ways:
        cost = [one[name][0] * 1e6 for one in rounds]
        share = float(np.median([one[name][1] / one["memcpy"][1] for one in rounds]))
        lines.append(f"| {name} | {min(cost):.2f} - {max(cost):.2f} | {share:.0%} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if chosen.write:
        (Path(__file__).parent / "results" / f"{dt.date.today()}-sensors.md").write_text(text)


if __name__ == "__main__":
    main()
