"""Our reader behind a neutral door: `batches(ctx)` yields (history, target) tensors of one shuffled epoch.

`ctx` says what to serve: `days, spd, N, F` (days, steps a day, nodes, features), `hist, hor, B` (history, horizon,
batch size), `raw` (a float32 file of the whole series) and `root` (a folder for our store). `ctx.state` resumes, and
`ctx.get_state` is set to a function that returns the state. The store is written once, by the store's own writer.

    batches   one resident block, global shuffle         reloaded         four blocks, read again every epoch
    coded     `batches` with time codes                  reloaded_coded   `reloaded` with time codes
    mapped    the order of `batches`, from mapped files
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dateshard.shardstore.commit import StoreWriter, publish, staging_folder
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import StoreError
from dateshard.shardstore.frozen import Nodes, save_nodes, save_statistics
from dateshard.shardstore.layouts.feature import Feature
from dateshard.shardstore.manifest import Entry, Manifest, Part
from dateshard.shardstore.scaling.partials import PartialStatistics
from dateshard.shardstore.scaling.statistics import Statistics
from dateshard.shardstore.sources import Sources
from dateshard.shardstore.storage import zarr_raw
from dateshard.shardstore.times.calendar import day_of, instants
from dateshard.trainer.data.batch import BatchForm
from dateshard.trainer.data.order import Order, Window, make_runs
from dateshard.trainer.data.reader import Reader
from dateshard.trainer.data.shuffle import Shuffle

FIRST = dt.date(2024, 1, 1)
SEED = 1


def batches(ctx: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One resident block, shuffled globally."""
    return _serve(ctx, Shuffle(None, None), "blocks")


def coded(ctx: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """`batches`, and the time codes of every window beside it."""
    return _serve(ctx, Shuffle(None, None), "blocks", codes=True)


def reloaded(ctx: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Blocks of a quarter of the days (7 at least), filled by a thread while the one before is served."""
    return _serve(ctx, Shuffle(max(7, ctx.days // 4), 1), "blocks")


def reloaded_coded(ctx: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """`reloaded`, and the time codes of every window beside it."""
    return _serve(ctx, Shuffle(max(7, ctx.days // 4), 1), "blocks", codes=True)


def mapped(ctx: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The order of `batches`, out of mapped files."""
    return _serve(ctx, Shuffle(None, None), "mapped")


_readers: dict[Any, Reader] = {}


def _serve(
    ctx: Any, shuffle: Shuffle, policy: str, *, codes: bool = False
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    key = (ctx.root, ctx.hist, ctx.hor, ctx.B, shuffle, policy, codes)
    if key not in _readers:  # an epoch after the first goes on with the same reader, as training does
        _readers[key] = make_reader(ctx, shuffle, policy, codes=codes)
    epoch, batch = (ctx.state["epoch"], ctx.state["batch"]) if ctx.state else (0, 0)
    place = {"epoch": epoch, "batch": batch, "seed": SEED}
    ctx.get_state = lambda: dict(place)
    for served in _readers[key].batches(epoch, start=batch):
        place["batch"] += 1
        yield served.history_BHNF, served.target_BPNF


def make_reader(ctx: Any, shuffle: Shuffle, policy: str, *, codes: bool = False, budget: int = 64 << 30) -> Reader:
    """A reader over the ctx's series."""
    dataset = open_store(ctx)
    window = Window(ctx.hist, ctx.hor)
    everywhere = [True] * len(dataset.days)
    runs = make_runs(dataset.days, dataset.segments, everywhere, window, shuffle.days_per_run)
    order = Order(
        runs=tuple(runs),
        stride=1,
        batch_size=ctx.B,
        runs_per_block=shuffle.runs_per_block,
        seed=SEED,
        shuffle_runs=shuffle.shuffle_runs,
    )
    features = tuple(range(ctx.F))
    return Reader(
        dataset,
        order,
        BatchForm(window=window, inputs=features, targets=features, codes=codes),
        policy=policy,
        memory_budget=budget,
    )


def store_folder(ctx: Any) -> Path:
    """Where the store of the ctx's series lies."""
    return Path(ctx.root) / f"dateshard-{ctx.N}x{ctx.F}-{ctx.days}x{ctx.spd}"


def open_store(ctx: Any) -> Dataset:
    """The store of the ctx's series, written at the first call."""
    root = store_folder(ctx)
    try:
        return Dataset.open(root)
    except StoreError:  # none yet, or one of another version
        shutil.rmtree(root, ignore_errors=True)
        series = np.memmap(ctx.raw, dtype=np.float32, mode="r").reshape(ctx.days, ctx.spd, ctx.N, ctx.F)
        write_store(root, series)
        return Dataset.open(root)


def write_store(root: Path, series: Any, linked: int = 0) -> None:
    """Publishes and commits [days, steps, N, F] float32 as shards, unscaled; `linked` more dates are links to the last."""
    num_days, steps, num_nodes, num_features = series.shape
    step = 86_400_000_000_000 // steps
    root.mkdir(parents=True, exist_ok=True)
    names = [f"f{i}" for i in range(num_features)]
    with StoreWriter(root) as writer:
        nodes = Nodes.plain([f"{i:06d}" for i in range(num_nodes)])
        statistics = Statistics(tuple(names), PartialStatistics.empty(num_nodes, num_features), ())
        folders = [save_nodes(root, nodes), save_statistics(root, statistics)]
        entries = {}
        for index in range(num_days):
            day = day_of(FIRST + dt.timedelta(days=index), "UTC", step)
            arrays = {"values": np.asarray(series[index]), "time": instants(day)}
            with staging_folder(root) as folder:
                hashes = zarr_raw.write(folder, arrays, names)
                files = {name: hashes[zarr_raw.chunk_file(name)] for name in arrays}
                folders.append(publish(root, folder, root / "shards" / str(day.date) / files["values"][1][:16], hashes))
            entries[day.date] = Entry(day.start, steps, (Part(folders[-1].name, (0, num_nodes), files),))
        last = folders[-1]
        for index in range(num_days, num_days + linked):
            day = day_of(FIRST + dt.timedelta(days=index), "UTC", step)
            shutil.copytree(last, root / "shards" / str(day.date) / last.name, copy_function=os.link)
            entries[day.date] = Entry(day.start, steps, (Part(last.name, (0, num_nodes), files),))
        writer.published(folders)
        manifest = Manifest(
            dataset="bench", timezone="UTC", step=step, features=tuple(Feature(name=name, scale="none") for name in names),
            nodes=nodes.id, num_nodes=num_nodes, statistics=statistics.id, normalise="bench",
            split={"train": ((min(entries), max(entries)),)}, dates=entries,
        )  # fmt: skip
        writer.commit(manifest, Sources(), None)
