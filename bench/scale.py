"""Slopes of a large dataset: what one date, node, part, task or gigabyte more costs. `docs/scale.md` multiplies them.

    python bench/scale.py [--repeats 5] [--nodes 100000] [--dates 3650] [--only manifest,...] [--folder DIR]      minutes, 5 GB

Every figure is measured at two sizes at least, and the slope is the difference between them, so that what a process or a
call costs anyway is not in it. CPU seconds of this process, the least of the repeats; files lie in the page cache.
Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import pickle
import platform
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from dateshard.pipeline import acts
from dateshard.pipeline.arrays import Normaliser, StagedDate
from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.execution.measuring_parts import measure_in_parts
from dateshard.pipeline.planning.observe import AboutNodes
from dateshard.pipeline.planning.plan import Observed, Wish, make_plan, staged_key
from dateshard.pipeline.raw import object_files
from dateshard.pipeline.raw.dumps import Dump
from dateshard.pipeline.workers.parcels import Packer
from dateshard.shardstore.commit import StoreWriter
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.frozen import load_nodes, load_statistics, save_frozen
from dateshard.shardstore.identity import hash_bytes, hash_file
from dateshard.shardstore.manifest import Entry, Manifest, Part
from dateshard.shardstore.sources import DumpRow, SourceRow, Sources
from dateshard.trainer.data.order import Order, Window, make_runs

FIRST, STEPS, FEATURES = dt.date(2014, 1, 1), 24, 3
STEP = 3600 * 10**9
TREE: dict[str, Any] = {
    "source": {"path": "raw/{date}.csv", "time": "time", "node": "node"},
    "step": "1h",
    "features": {"a": {}, "b": {"scale_per": "node"}, "c": {"fill": "forward"}},
    "split": {"train": "..2030-01-01"},
}
Row = tuple[str, ...]


def config_of(**store: Any) -> Pipeline:
    return Pipeline.model_validate({**TREE, "store": store})


def cpu(repeats: int, action: Callable[..., object], *given: Any) -> float:
    """The least CPU seconds of some calls."""
    found = []
    for _ in range(repeats):
        began = time.process_time()
        action(*given)
        found.append(time.process_time() - began)
    return min(found)


def clock(repeats: int, action: Callable[..., object], *given: Any) -> float:
    """The least seconds on the clock: of calls so short that the system's count of CPU time misses most of them."""
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        action(*given)
        found.append(time.perf_counter() - began)
    return min(found)


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"\n## {title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


DATES = [FIRST + dt.timedelta(days=index) for index in range(10_000)]


def manifest_of(dates: int, parts: int, nodes: int) -> Manifest:
    """A manifest as of so many dates; its hashes are of nothing."""
    edges = np.linspace(0, nodes, parts + 1).astype(int).tolist()
    row, entries = 4 * FEATURES * STEPS, {}
    for index in range(dates):
        own = []
        for first, last in pairwise(edges):
            digest = hash_bytes(f"{index} {first}".encode())
            sizes = {"values": row * (last - first), "time": 8 * STEPS, "observed": row // 4 * (last - first)}
            own.append(Part(digest[:16], (first, last), {name: (size, digest) for name, size in sizes.items()}))
        start = (DATES[index].toordinal() - dt.date(1970, 1, 1).toordinal()) * 24 * STEP
        entries[DATES[index]] = Entry(start, STEPS, tuple(own))
    split = {"train": ((FIRST, DATES[dates]),)}
    features = config_of().feature_specs()
    return Manifest(
        dataset="d",
        timezone="UTC",
        step=STEP,
        features=features,
        num_nodes=nodes,
        split=split,
        dates=entries,
        nodes="0" * 16,
        statistics="0" * 16,
        normalise="0" * 16,
    )


def sources_of(manifest: Manifest) -> Sources:
    rows = {
        "read": 2_400_000,
        "accepted": 2_400_000,
        "rejected": {},
        "changed": {},
        "duplicates": {"dropped": 0, "conflicting": 0},
    }
    measure = config_of().measure_identity(None)
    dates = {}
    for date in manifest.dates:
        digest = hash_bytes(str(date).encode())
        dump = DumpRow(f"raw/{date}.csv", 115_000_000, digest)
        dates[date] = SourceRow(
            staged=staged_key(digest, measure),
            measure=measure,
            dump=dump,
            rows=rows,
            observed=(2_300_000,) * FEATURES,
            weight=6_900_000,
        )
    return Sources(dates=dates)


def manifests(asked: argparse.Namespace, folder: Path) -> None:
    rows = []
    for dates in (asked.dates // 10, asked.dates):
        for parts in (1, 16):
            root = folder / f"manifest-{dates}-{parts}"
            manifest = manifest_of(dates, parts, asked.nodes)
            sources, changed, costs = sources_of(manifest), list(manifest.dates)[-1], list[float]()
            with StoreWriter(root) as writer:
                before = writer.commit(manifest, sources, None)
                for repeat in range(asked.repeats):
                    entry = manifest.dates[changed]
                    manifest = replace(manifest, dates={**manifest.dates, changed: entry._replace(num_steps=STEPS)})
                    manifest = replace(manifest, provisional=(DATES[repeat],))
                    costs.append(cpu(1, writer.commit, manifest, sources, before))
            held = traced(Dataset.open, root)
            opened = cpu(asked.repeats, Dataset.open, root)
            size, beside = (
                max(p.stat().st_size for p in (root / "manifests").glob(f"g*[0-9]{end}"))
                for end in (".json", ".sources.json")
            )
            plan = cpu(asked.repeats, planned, manifest, sources)
            figures = (
                f"{size / dates:,.0f}",
                f"{beside / dates:,.0f}",
                f"{1e3 * opened:,.0f}",
                f"{held / dates / 1e3:.1f}",
            )
            rows.append((f"{dates:,}", str(parts), *figures, f"{1e3 * min(costs):,.0f}", f"{1e3 * plan:,.0f}"))
    head = (
        "dates",
        "parts a date",
        "manifest, bytes a date",
        "sources, bytes a date",
        "open, ms",
        "open, kB a date",
        "commit, ms",
        "plan alone, ms",
    )
    table("A generation", head, rows)


def planned(manifest: Manifest, sources: Sources) -> None:
    """A plan in which nothing is to be done but the merging that other settings of this script ask for."""
    dumps = {
        date: Dump(
            name=row.dump.path,
            size=row.dump.size,
            hash=row.dump.hash,
            file_names=(),
            hashes=(row.dump.hash,),
            typed=False,
        )
        for date, row in sources.dates.items()
    }
    staged = {date: frozenset((row.staged,)) for date, row in sources.dates.items()}
    seen = Observed(manifest=manifest, sources=sources, staged=staged, dumps=dumps, node_names=None, nodes_id=None)
    make_plan(config_of(), seen, Wish())


def traced(action: Callable[..., object], *given: Any) -> int:
    """Bytes that what it returns holds."""
    tracemalloc.start()
    kept = action(*given)
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert kept is not None
    return size


def staged(root: Path, dates: int, nodes: int, config: Pipeline) -> dict[dt.date, str]:
    """Measured dates, as if of dumps; returns their keys."""
    names, keys = tuple(f"node{index:06d}" for index in range(nodes)), {}
    for index in range(dates):
        date, key = DATES[index], f"{index:016x}"
        values = np.random.default_rng(index).normal(10, 3, (2, nodes, FEATURES))
        day = replace(config.day(date), num_steps=2)
        rows = {"read": 1, "accepted": 1, "rejected": {}, "changed": {}, "duplicates": None}
        whole = StagedDate(day=day, values_TNF=values, nodes=names, vocabularies={}, rows=rows)
        acts.publish_measured(root, date, key, whole, config)
        keys[date] = key
    return keys


def nodes_of(asked: argparse.Namespace, folder: Path) -> None:
    rows, config, about = [], config_of(), AboutNodes(None, None, lists=False)
    for nodes in (asked.nodes // 100, asked.nodes // 10, asked.nodes):
        root = folder / f"nodes-{nodes}"
        with StoreWriter(root):
            keys = staged(root, 6, nodes, config)
            few = dict(list(keys.items())[:2])
            costs = [cpu(asked.repeats, acts.merge_statistics, root, k, config, about) for k in (few, keys)]
            lost = cpu(asked.repeats, acts.why_lost, root, FIRST, keys[FIRST], config)
            frozen = acts.merge_statistics(root, keys, config, about)
            save_frozen(root, frozen)
        sizes = {kind: files_bytes(root / kind) for kind in ("partials", "nodes", "statistics")}
        receipt = sum(path.stat().st_size for path in (root / "staged").rglob("receipt.json")) / len(keys)
        read = cpu(asked.repeats, load_nodes, root, frozen.nodes.id)
        scaled = cpu(asked.repeats, scale_of, root, frozen.statistics.id)
        target = Normaliser.of(frozen, manifest_of(1, 1, nodes))
        arguments = (root, FIRST, keys[FIRST], config, target, 1 << 30, None, None)
        sent = len(Packer(folder).packed(acts.normalise_date, arguments))
        piped = pickle.dumps((acts.normalise_date, arguments))
        pipe = cpu(asked.repeats, there_and_back, arguments)
        figures = [(costs[1] - costs[0]) / 4, lost, read, scaled, pipe]
        sized = [receipt, sizes["partials"] / len(keys), sizes["nodes"], sizes["statistics"], len(piped), sent]
        rows.append(
            (f"{nodes:,}", *(f"{1e3 * figure:,.1f}" for figure in figures), *(f"{size / 1e3:,.1f}" for size in sized))
        )
    head = (
        "nodes",
        "merge, ms a date",
        "look at a partial, ms a date",
        "read the node list, ms",
        "read and scale, ms",
        "a pool's task, ms",
    )
    sized_head = (
        "receipt, kB a date",
        "partial, kB a date",
        "node list, kB",
        "statistics, kB",
        "a pool's task, kB",
        "a cluster's task, kB",
    )
    table(f"Nodes ({FEATURES} features)", (*head, *sized_head), rows)


def scale_of(root: Path, statistics: str) -> object:
    return load_statistics(root, statistics).scale([("zscore", "node")] * FEATURES)


def there_and_back(arguments: object) -> object:
    return pickle.loads(pickle.dumps(arguments))


def files_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def write_dump(path: Path, nodes: int, steps: int) -> Dump:
    import polars as pl

    random, rows = np.random.default_rng(1), nodes * steps
    minutes = 24 * 60 // steps
    times = [f"{FIRST}T{step * minutes // 60:02}:{step * minutes % 60:02}:00" for step in range(steps)]
    columns = {"time": np.repeat(times, nodes), "node": np.tile([f"node{index:06d}" for index in range(nodes)], steps)}
    columns |= {name: random.normal(10, 3, rows).round(3) for name in "abc"}
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(columns).write_csv(path)
    size, digest = hash_file(path)
    return Dump(name=str(path), size=size, hash=digest, file_names=(str(path),), hashes=(digest,), typed=False)


def prepared(root: Path, dump: Dump, nodes: int, config: Pipeline) -> dict[str, float]:
    """What one date costs, from its dump to its shard, in an empty store."""
    about, key, divided = AboutNodes(None, None, lists=False), "0" * 16, config.store.nodes_per_part
    with StoreWriter(root):
        measure = acts.measure_date if divided is None else measure_in_parts
        began = time.process_time()
        measure(root, dump, FIRST, key, config, None, 8 << 30)
        costs = {"measure": time.process_time() - began}
        frozen = acts.merge_statistics(root, {FIRST: key}, config, about)
        target, began = Normaliser.of(frozen, manifest_of(1, 1, nodes)), time.process_time()
        for own in config.store.parts_of(nodes):
            acts.normalise_date(root, FIRST, key, config, target, 8 << 30, None, own if divided else None)
        costs["normalise"] = time.process_time() - began
    return costs | {kind: files_bytes(root / kind) / 1e9 for kind in ("staged", "shards")}


def preparing(asked: argparse.Namespace, folder: Path) -> None:
    """Dates of 96 steps; whole ones and those in parts take turns."""
    sizes, kinds = (asked.nodes // 10, asked.nodes // 5), (None, asked.nodes // 50)
    dumps = {nodes: write_dump(folder / "raw" / f"{nodes}.csv", nodes, 96) for nodes in sizes}
    least: dict[tuple[int | None, int], dict[str, float]] = {}
    for repeat in range(asked.repeats):
        for kind in kinds:
            for nodes, dump in dumps.items():
                config = config_of(nodes_per_part=kind).model_copy(update={"step": "15m"})
                costs = prepared(folder / f"prepare-{repeat}-{kind}-{nodes}", dump, nodes, config)
                costs["hash"] = cpu(1, hash_file, dump.path)
                known = least.setdefault((kind, nodes), costs)
                known |= {name: min(cost, known[name]) for name, cost in costs.items()}
    by, names = (
        (dumps[sizes[1]].size - dumps[sizes[0]].size) / 1e9,
        ("hash", "measure", "normalise", "staged", "shards"),
    )
    rows = []
    for kind in kinds:
        slopes = [f"{(least[kind, sizes[1]][name] - least[kind, sizes[0]][name]) / by:.2f}" for name in names]
        rows.append((f"{kind:,} nodes a part" if kind else "whole dates", *slopes))
    units = [f"{name}, {'s' if name in names[:3] else 'GB'} a GB" for name in names]
    table(f"Preparing a date, of {dumps[sizes[1]].size / 1e6:.0f} MB of CSV and of half as much", ("", *units), rows)


def orders(asked: argparse.Namespace, folder: Path) -> None:
    rows = []
    for dates in (asked.dates // 10, asked.dates):
        root = folder / f"manifest-{dates}-1"
        if not root.exists():
            with StoreWriter(root) as writer:
                writer.commit(manifest_of(dates, 1, asked.nodes), Sources(), None)
        dataset = Dataset.open(root)
        for days_per_run in (None, 1):
            window = Window(12, 12)

            def made(days: int | None = days_per_run, data: Dataset = dataset, shape: Window = window) -> Any:
                runs = make_runs(data.days, data.segments, [True] * len(data.days), shape, days)
                order = Order(runs=tuple(runs), stride=1, batch_size=32, runs_per_block=days and 4, seed=7)
                epoch = order.epoch(3)
                return order, epoch, epoch.pieces(order.num_windows - 32, order.num_windows)

            rows.append(
                (
                    f"{dates:,}",
                    f"{days_per_run or 'all'}",
                    f"{traced(made) / 1e3:,.0f}",
                    f"{1e3 * cpu(asked.repeats, made):,.1f}",
                )
            )
    table("Order of an epoch", ("dates", "days a run", "held, kB", "made, with its last batch, ms"), rows)


def reading(asked: argparse.Namespace, folder: Path) -> None:
    """A date of ordinary size read whole, and opened files counted."""
    rows, about, nodes = list[Row](), AboutNodes(None, None, lists=False), asked.nodes
    opened = list[str]()
    sys.addaudithook(lambda event, given: opened.append(str(given[0])) if event == "open" else None)
    dump = write_dump(folder / "raw" / "read.csv", nodes, STEPS)
    for parts in (1, 4, 16, 64):
        config, root = config_of(nodes_per_part=-(-nodes // parts)), folder / f"read-{parts}"
        with StoreWriter(root) as writer:
            acts.measure_date(root, dump, FIRST, "0" * 16, config, None, 8 << 30)
            frozen = acts.merge_statistics(root, {FIRST: "0" * 16}, config, about)
            save_frozen(root, frozen)
            empty = replace(manifest_of(0, 1, nodes), nodes=frozen.nodes.id, statistics=frozen.statistics.id)
            target = Normaliser.of(frozen, empty)
            done = [
                acts.normalise_date(root, FIRST, "0" * 16, config, target, 8 << 30, None, own)
                for own in config.store.parts_of(nodes)
            ]
            entry = done[0].joined(done[1:]).entry
            writer.commit(replace(empty, dates={FIRST: entry}), Sources(), None)
        dataset = Dataset.open(root)
        values = np.empty((STEPS, nodes, FEATURES), dtype=np.float32)
        dataset.read(FIRST, slice(0, STEPS), values)
        opened.clear()
        dataset.read(FIRST, slice(0, STEPS), values)
        files, cost = len(opened), clock(20 * asked.repeats, dataset.read, FIRST, slice(0, STEPS), values)
        before, kept = descriptors(), dataset.maps(FIRST)
        held, num_parts = descriptors() - before, len(kept)
        del kept
        copied = np.empty_like(values)
        copy = clock(20 * asked.repeats, np.copyto, copied, values)
        rows.append((str(num_parts), str(files), str(held), f"{1e3 * cost:.2f}", f"{cost / copy:.2f}"))
    size = f"{values.nbytes / 1e6:.0f} MB"
    table(
        f"Reading a date of {size}",
        ("parts", "files opened", "files held by its maps", "read, ms on the clock", "of a copy in memory"),
        rows,
    )


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def objects(asked: argparse.Namespace, folder: Path) -> None:
    """Requests that a date of some sizes takes, against a real server; obstore's own retries are not seen."""
    from tests.kit.object_server import BUCKET, ObjectServer

    (folder / "server").mkdir()
    rows = []
    with ObjectServer(folder / "server") as server:
        os.environ |= server.environment() | {"DATESHARD_DATA": str(folder / "copies")}
        for size in (1 << 20, 64 << 20):
            store = object_files._store(BUCKET)
            for number in range(4):
                store.put(f"of{size}/2024-03-0{number + 1}.csv", os.urandom(size))
            counts, counting = dict.fromkeys(("list", "head", "get"), 0), Counting(store)
            object_files._store.cache_clear()
            honest, object_files._store = object_files._store, lambda _, c=counting: c  # type: ignore[assignment]
            names = object_files._list(object_files.ObjectName(f"s3://{BUCKET}/of{size}"))
            began = time.process_time()
            for name in names:
                object_files.digest_of(name)
            cost = (time.process_time() - began) / len(names)
            counts |= counting.counts
            object_files._store = honest
            each = [f"{counts[kind] / len(names):g}" for kind in ("head", "get")]
            rows.append((f"{size >> 20} MiB", str(counts["list"]), *each, f"{1e3 * cost:.1f}"))
    table(
        "Dumps in an object store, 4 dates",
        ("object", "lists in all (1,000 names each)", "heads a date", "gets a date", "fetch, CPU ms a date"),
        rows,
    )
    counted = []
    for copies in (365, 3650):
        where = folder / f"budget-{copies}"
        for number in range(copies):
            path = where / f"{number:032x}" / BUCKET / "raw.csv"
            path.parent.mkdir(parents=True)
            path.write_bytes(b"1")
        newest = where / f"{0:032x}" / BUCKET / "raw.csv"
        counted.append((f"{copies:,}", f"{1e3 * cpu(asked.repeats, look, where, newest):.1f}"))
    table(
        f"One look at the copies of the cache, {object_files.LOOKS} while its budget is fetched",
        ("copies held", "CPU ms"),
        counted,
    )


def look(folder: Path, newest: Path) -> None:
    """Looks at all copies, as one download in many does."""
    object_files._unlooked.clear()
    object_files._make_room(folder, newest)


class Counting:
    """Passes calls on to a store and counts them."""

    def __init__(self, store: Any) -> None:
        self._store, self.counts = store, dict.fromkeys(("list", "head", "get"), 0)

    def __getattr__(self, name: str) -> Any:
        if name in self.counts:
            self.counts[name] += 1
        return getattr(self._store, name)


PARTS: dict[str, Callable[[argparse.Namespace, Path], None]] = {
    "manifest": manifests,
    "nodes": nodes_of,
    "preparing": preparing,
    "order": orders,
    "reading": reading,
    "objects": objects,
}


def main() -> None:
    """Measures what was asked for, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--nodes", type=int, default=100_000)
    parser.add_argument("--dates", type=int, default=3650)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    cores = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}"
    print(f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {cores}, Python {platform.python_version()}.")
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        for part in asked.only.split(","):
            PARTS[part](asked, Path(name))


if __name__ == "__main__":
    main()
