"""A dataset that grows: what one more date costs in a store of thousands, and what it costs to do nothing.

    python bench/growth.py [--dates 3650] [--few 8] [--large 40] [--repeats 5] [--folder DIR]        4 minutes, 4 GB of disk

Every figure but those of opening and publishing is of a whole process, imports included: CPU seconds of it, and the time
on the clock. Bytecode lies in a cache, as that of an installed program does. What is compared takes turns. Prints two
Markdown tables: what was measured, and the goals that rest on it.
"""

from __future__ import annotations

import argparse
import datetime as dt
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
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from dateshard.pipeline.synthetic import City, write_long
from dateshard.shardstore.commit import StoreWriter, publish, staging_folder
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.manifest import Entry, Part
from dateshard.shardstore.sources import Sources
from dateshard.shardstore.storage import zarr_raw

SMALL = City(num_sensors=4, short_lived=0)  # a shard of 9 kB, a dump of 45 kB
LARGE = City(num_sensors=4000, short_lived=0)  # a dump of 46 MB, 1.1 million records, three a cell
OPEN, OPEN_PARTS = "`Dataset.open`", "`Dataset.open` of 16 parts a date"
PARTS = 16  # of a date in the store whose manifest alone is opened
OURS = str(Path(__file__).parents[1])


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one process with its children: seconds on the clock, CPU seconds."""

    wall: float
    cpu: float


def _children() -> float:
    """CPU seconds of the processes that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@dataclass(slots=True)
class Growing:
    """A dataset in a folder of its own: `grow` writes the next date's dump, `run` is the real command."""

    folder: Path
    city: City
    step: str = "5m"
    num_dates: int = 0
    costs: dict[str, list[Cost]] = field(default_factory=dict)

    def grow(self, count: int = 1) -> None:
        dates = [self.city.first + dt.timedelta(days=self.num_dates + index) for index in range(count)]
        write_long(self.city, dates, self.folder / "raw")
        self.num_dates += count

    def configure(self) -> None:
        last = self.city.first + dt.timedelta(days=int(self.num_dates * 0.7))
        features = {
            "speed": {"fill": "forward", "fill_limit": 12},
            "volume": {"column": "vehicles", "aggregate": "sum", "transform": "log1p"},
        }
        source = {"path": "raw/{date}.csv", "time": "timestamp", "node": "sensor_id"}
        split = {"train": f"..{last}", "validation": f"{last + dt.timedelta(days=1)}.."}
        tree = {
            "dataset": "grown",
            "pipeline": {"source": source, "step": self.step, "features": features, "split": split},
        }
        (self.folder / "config.yaml").write_text(json.dumps(tree))

    def change(self, index: int) -> None:
        """Another seed writes that date's dump: its rows differ."""
        date = self.city.first + dt.timedelta(days=index)
        (self.folder / "raw" / f"{date}.csv").unlink()
        write_long(
            City(num_sensors=self.city.num_sensors, seed=int(time.time_ns() % 2**31), short_lived=0),
            [date],
            self.folder / "raw",
        )

    def run(self, what: str, *words: str) -> Cost:
        """Appends to costs[what]; `preprocess` where no words are given."""
        command = [sys.executable, "-m", "dateshard", *(words or ("preprocess",)), "-c", "config.yaml"]
        before, began = _children(), time.perf_counter()
        cached = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(self.folder.parent / "bytecode")}
        subprocess.run(
            command,
            cwd=self.folder,
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, **cached, "PYTHONPATH": OURS},
        )
        cost = Cost(time.perf_counter() - began, _children() - before)
        self.costs.setdefault(what, []).append(cost)
        return cost


def row(what: str, costs: list[Cost]) -> str:
    cpu, wall = sorted(cost.cpu for cost in costs), sorted(cost.wall for cost in costs)
    return f"| {what} | {cpu[0]:.2f} ({statistics.median(cpu):.2f}, {cpu[-1]:.2f}) | {wall[0]:.2f} ({wall[-1]:.2f}) |"


def least(costs: list[Cost]) -> float:
    return min(cost.cpu for cost in costs)


def repeated(few: Growing, many: Growing, repeats: int) -> None:
    """Nothing to do, and one date more, in both stores by turns; the first of each is thrown away."""
    for index in range(repeats + 1):
        for store in (few, many):
            store.run("nothing")
            store.run("plan", "plan")
            store.grow()
            store.run("append")
            store.run("append, one worker", "preprocess", "--force", "--workers", "1", "latest")
        if index == 0:
            for store in (few, many):
                for what in ("nothing", "plan", "append", "append, one worker"):
                    store.costs[what].clear()


def refit(store: Growing, repeats: int) -> None:
    """A training date moves, its statistics stay; then all dates are normalised again from their staged arrays.

    Between two of them all is prepared anew, so that full runs and refits take turns."""
    for index in range(repeats):
        if index:
            shutil.rmtree(store.folder / "data")
            store.run("full", "preprocess", "--workers", "1")
        store.change(index)
        store.run("moved", "preprocess", "--workers", "1")
        store.run("refit", "preprocess", "--workers", "1", "--refit-statistics")


def divided(source: Dataset, root: Path) -> None:
    """Commits a generation of as many dates in 16 parts each, of which the manifest alone is there."""
    dates = {}
    for day in source.days:
        files = source.manifest.dates[day.date].parts[0].files
        parts = (Part(f"{index:x}{day.date:%Y%m%d}", (4 * index, 4 * index + 4), files) for index in range(PARTS))
        dates[day.date] = Entry(day.start, day.num_steps, tuple(parts))
    assert source.manifest.num_nodes == 4, "as many as the sensors of SMALL"
    with StoreWriter(root) as writer:
        writer.commit(replace(source.manifest, num_nodes=4 * PARTS, dates=dates), Sources(), None)


def timed(action: Callable[[], object]) -> Cost:
    cpu, began = time.process_time(), time.perf_counter()
    action()
    return Cost(time.perf_counter() - began, time.process_time() - cpu)


def publish_all(source: Dataset, root: Path) -> Cost:
    """The shards of a store once more into an empty one: written, read back, renamed, made durable, committed."""
    arrays = {
        day.date: {"values": np.array(source.map(day.date)), "time": np.zeros(day.num_steps, "<i8")}
        for day in source.days
    }
    cpu, began = time.process_time(), time.perf_counter()
    entries = {}
    with StoreWriter(root) as writer:
        for day in source.days:
            with staging_folder(root) as folder:
                hashes = zarr_raw.write(folder, arrays[day.date], source.feature_names)
                name = hashes[zarr_raw.chunk_file("values")][1][:16]
                folder = publish(root, folder, root / "shards" / str(day.date) / name, hashes)
            files = {array: hashes[zarr_raw.chunk_file(array)] for array in arrays[day.date]}
            entries[day.date] = Entry(day.start, day.num_steps, (Part(name, (0, source.manifest.num_nodes), files),))
            writer.published([folder])
        writer.commit(replace(source.manifest, dates=entries), Sources(), None)
    return Cost(time.perf_counter() - began, time.process_time() - cpu)


def main() -> None:
    """Makes two stores and a third of larger dates, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dates", type=int, default=3650)
    parser.add_argument("--few", type=int, default=8)
    parser.add_argument("--large", type=int, default=40, help="dates of the store of larger dates")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--refits", type=int, default=3, help="full runs and refits of the larger dates")
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        stores = {}
        for label, city, count in (
            ("few", SMALL, asked.few), ("many", SMALL, asked.dates), ("large", LARGE, asked.large)
        ):  # fmt: skip
            folder = Path(name) / label
            folder.mkdir()
            stores[label] = store = Growing(folder, city, "5m" if city is SMALL else "15m")
            store.grow(count)
            store.configure()
            store.run("full", "preprocess", "--workers", "1")
        repeated(stores["few"], stores["many"], asked.repeats)
        refit(stores["large"], asked.refits)
        refit(stores["many"], 1)
        root, parted = stores["many"].folder / "data" / "shards" / "grown", Path(name) / "divided"
        divided(Dataset.open(root), parted)
        opened: dict[str, list[Cost]] = {OPEN: [], OPEN_PARTS: []}
        for _ in range(asked.repeats):
            opened[OPEN].append(timed(lambda: Dataset.open(root)))
            opened[OPEN_PARTS].append(timed(lambda: Dataset.open(parted)))
        published = [
            publish_all(Dataset.open(root), Path(name) / f"published{index}") for index in range(asked.repeats)
        ]
    print(
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}."
    )
    print("\n| what | CPU s: least (median, most) | s on the clock: least (most) |\n|---|---|---|")
    for label, store in stores.items():
        for what, costs in store.costs.items():
            print(row(f"{what}: {label}, {store.num_dates:,} dates", costs))
    for what, costs in {**opened, "publishing, all dates": published}.items():
        print(row(what, costs))
    print(goals(stores, opened, published))


def goals(stores: dict[str, Growing], opened: dict[str, list[Cost]], published: list[Cost]) -> str:
    """The table of the goals, each with the least CPU time of all runs; in ratios the median ones too."""
    few, many, large = stores["few"], stores["many"], stores["large"]
    more, fewer = many.num_dates, few.num_dates

    def ratio(over: list[Cost], under: list[Cost]) -> str:
        medians = (statistics.median(cost.cpu for cost in costs) for costs in (over, under))
        first, second = medians
        return f"{least(over) / least(under):.3f} ({first / second:.3f})"

    rows = [
        (f"appending one date to {more:,} / to {fewer}", "<= 1.2", ratio(many.costs["append"], few.costs["append"])),
        (f"refit / a full run, {more:,} dates of 45 kB", "<= 0.08", ratio(many.costs["refit"], many.costs["full"])),
        (f"refit / a full run, {large.num_dates} dates of 46 MB", "<= 0.08", ratio(large.costs["refit"], large.costs["full"])),
        (f"nothing to do, {more:,} dates", "< 1 s", f"{least(many.costs['nothing']):.2f} s"),
        (f"publishing {more:,} small dates", "<= 1 ms a date", f"{1e3 * least(published) / more:.2f} ms"),
        (f"opening a store of {more:,} dates", "<= 0.1 s", f"{least(opened[OPEN]):.3f} s"),
        (f"opening it in {PARTS} parts a date", "<= 0.3 s", f"{least(opened[OPEN_PARTS]):.3f} s"),
    ]  # fmt: skip
    head = ["\n| goal | limit | measured, CPU: least (of ratios: of medians) |", "|---|---|---|"]
    return "\n".join([*head, *(f"| {goal} | {limit} | {measured} |" for goal, limit, measured in rows)])


if __name__ == "__main__":
    main()
