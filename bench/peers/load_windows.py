"""One library delivers shuffled windows of a series as torch tensors; what that takes beside memcpy, as JSON.

    PYTHON bench/peers/load_windows.py --who litdata --series FILE --shape 60,1440,1,7,96,96 --folder FOLDER [--seconds 2]

The shape: days, steps a day, nodes, features, history, horizon. FILE is float32 [steps, nodes, features]. Those that store
windows write so many of them to FOLDER once (`--windows`). Batches of 64, one thread, no worker processes, the order of
each library's own global shuffle. The first batch of an epoch is not counted: starting an epoch costs some of them much.
One batch is compared with the series. bench/reading_peers.py runs this in the environment of each library.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

BATCH = 64
Pairs = Iterator[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Task:
    """What to deliver, and from where.

    Attributes:
        series: float32 [days x spd, N, F], mapped.
        num_windows: how many windows are stored by those that store windows.
    """

    path: Path
    folder: Path
    days: int
    spd: int
    N: int
    F: int
    hist: int
    hor: int
    num_windows: int

    @property
    def series(self) -> np.ndarray:
        """The whole series."""
        return np.memmap(self.path, dtype=np.float32, mode="r").reshape(-1, self.N, self.F).view(np.ndarray)

    @property
    def window(self) -> int:
        """Steps of a window."""
        return self.hist + self.hor

    @property
    def count(self) -> int:
        """How many windows are stored."""
        return min(self.num_windows, self.days * self.spd - self.window + 1)


def sample(task: Task, index: int) -> dict[str, np.ndarray]:
    """One window's history and target."""
    part = task.series[index : index + task.window]
    return {"x": part[: task.hist], "y": part[task.hist :]}


def stored(task: Task, name: str, write: Callable[[Path], None]) -> Path:
    """A folder that is written once, whole."""
    folder = task.folder / f"{name}-{task.count}"
    if not folder.exists():
        unfinished = folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        write(unfinished)
        unfinished.rename(folder)
    return folder


def dateshard(task: Task) -> Callable[[], Pairs]:
    """One resident block, shuffled globally."""
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    from types import SimpleNamespace

    import ours

    ctx = SimpleNamespace(
        days=task.days, spd=task.spd, N=task.N, F=task.F, hist=task.hist, hor=task.hor, B=BATCH, root=str(task.folder),
        raw=str(task.path), state=None,
    )  # fmt: skip
    return partial(ours.batches, ctx)


class MappedWindows(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """The usual map-style dataset: slices a mapped series."""

    def __init__(self, task: Task) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.series = torch.from_numpy(task.series)
        self.hist, self.window = task.hist, task.window

    def __len__(self) -> int:
        return len(self.series) - self.window + 1

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.series[index : index + self.hist], self.series[index + self.hist : index + self.window]


def dataloader(task: Task) -> Callable[[], Pairs]:
    """torch's DataLoader, default collation."""
    loader = torch.utils.data.DataLoader(MappedWindows(task), batch_size=BATCH, shuffle=True, drop_last=True)
    return lambda: iter(loader)


def litdata(task: Task) -> Callable[[], Pairs]:
    """litdata.optimize of the windows, StreamingDataset and StreamingDataLoader."""
    import litdata as ld

    def write(folder: Path) -> None:
        ld.optimize(
            fn=partial(_lit_sample, task), inputs=list(range(task.count)), output_dir=str(folder), chunk_bytes="64MB",
            num_workers=1,
        )  # fmt: skip

    source = ld.StreamingDataset(str(stored(task, "litdata", write)), shuffle=True, drop_last=True)
    loader = ld.StreamingDataLoader(source, batch_size=BATCH, num_workers=0, drop_last=True)
    return lambda: ((batch["x"], batch["y"]) for batch in loader)


def _lit_sample(task: Task, index: int) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values.copy()) for name, values in sample(task, index).items()}


def mds(task: Task) -> Callable[[], Pairs]:
    """MosaicML's MDS files of the windows, StreamingDataset and StreamingDataLoader."""
    # streaming imports torchvision, whose wheel has operators for CUDA builds of torch alone: those it looks for
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor a, Tensor b, float c) -> Tensor")
    import streaming

    def write(folder: Path) -> None:
        shapes = {"x": (task.hist, task.N, task.F), "y": (task.hor, task.N, task.F)}
        columns = {name: "ndarray:float32:" + ",".join(map(str, shape)) for name, shape in shapes.items()}
        with streaming.MDSWriter(out=str(folder), columns=columns) as writer:
            for index in range(task.count):
                writer.write(sample(task, index))

    streaming.base.util.clean_stale_shared_memory()
    source = streaming.StreamingDataset(local=str(stored(task, "mds", write)), shuffle=True, batch_size=BATCH)
    loader = streaming.StreamingDataLoader(source, batch_size=BATCH, num_workers=0, drop_last=True)
    return lambda: ((batch["x"], batch["y"]) for batch in loader if operators)


class Slices:
    """A source of grain: slices of the mapped series."""

    def __init__(self, task: Task) -> None:
        self.series, self.task = task.series, task

    def __len__(self) -> int:
        return len(self.series) - self.task.window + 1

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        part = self.series[index : index + self.task.window]
        return part[: self.task.hist], part[self.task.hist :]


def grain(task: Task) -> Callable[[], Pairs]:
    """grain's MapDataset over the mapped series; of its read options the fastest on one thread."""
    import grain as library

    source = library.MapDataset.source(Slices(task)).shuffle(seed=0).batch(BATCH, drop_remainder=True)
    options = library.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return lambda: ((torch.from_numpy(x), torch.from_numpy(y)) for x, y in source.to_iter_dataset(options))


def lancedb(task: Task) -> Callable[[], Pairs]:
    """A LanceDB table with a window a row, its StreamingDataset, torch's DataLoader."""
    import lancedb as library
    import pyarrow as pa
    from lancedb.streaming import StreamingDataset

    length = task.window * task.N * task.F

    def rows() -> Iterator[pa.RecordBatch]:
        size = max(1, (64 << 20) // (length * 4))
        for first in range(0, task.count, size):
            block = np.stack([task.series[i : i + task.window] for i in range(first, min(first + size, task.count))])
            lists = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), length)
            yield pa.record_batch([lists], names=["window"])

    def write(folder: Path) -> None:
        schema = pa.schema({"window": pa.list_(pa.float32(), length)})
        library.connect(str(folder)).create_table("windows", data=rows(), schema=schema)

    def tensors(batch: pa.RecordBatch) -> list[torch.Tensor]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = torch.from_numpy(batch.column(0).flatten().to_numpy())
        return list(values.view(-1, task.window, task.N, task.F))

    table = library.connect(str(stored(task, "lancedb", write))).open_table("windows")
    epochs = iter(range(1 << 30))

    def epoch() -> Pairs:
        source = StreamingDataset(table, epoch=next(epochs), transform=tensors, transform_parallelism=1)
        for windows in torch.utils.data.DataLoader(source, batch_size=BATCH, drop_last=True):
            yield windows[:, : task.hist], windows[:, task.hist :]

    return epoch


WAYS: dict[str, Callable[[Task], Callable[[], Pairs]]] = {
    "dateshard": dateshard, "dataloader": dataloader, "litdata": litdata, "mds": mds, "grain": grain, "lancedb": lancedb,
}  # fmt: skip


def compare(task: Task, x: torch.Tensor, y: torch.Tensor) -> None:
    """Looks each window of a batch up in the series by its first value; all of it must be equal."""
    series = task.series
    first = series[:, 0, 0]
    for history, target in zip(x.numpy(), y.numpy(), strict=True):
        places = np.flatnonzero(first == history[0, 0, 0])
        window = np.concatenate([history, target])
        if not any(np.array_equal(series[place : place + task.window], window) for place in places.tolist()):
            raise SystemExit("a window is not in the series")


def measure(epoch: Callable[[], Pairs], seconds: float) -> float:
    """CPU microseconds a window over about `seconds` of counted batches."""
    windows, used, clock = 0, 0.0, 0.0
    while clock < seconds:
        batches = epoch()
        next(batches)
        began, before = time.perf_counter(), time.process_time()
        for x, _ in batches:
            windows += len(x)
            if clock + time.perf_counter() - began > seconds:
                break
        clock += time.perf_counter() - began
        used += time.process_time() - before
    return used / windows * 1e6


def copying(task: Task, seconds: float) -> float:
    """CPU microseconds a window of copies of a batch's bytes from random places of the series in memory."""
    size = BATCH * task.window * task.N * task.F
    series = np.array(task.series).reshape(-1)
    series = np.tile(series, max(1, -(-2 * size // len(series))))
    buffers = [np.zeros(size, dtype=np.float32) for _ in range(2)]
    places = np.random.default_rng(2).integers(0, len(series) - size, 1 << 12).tolist()
    count, began, before = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        np.copyto(buffers[count % 2], series[places[count % len(places)] :][:size])
        count += 1
    return (time.process_time() - before) / (count * BATCH) * 1e6


def main() -> None:
    """Prints {who, us, memcpy_us}."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--who", choices=list(WAYS), required=True)
    parser.add_argument("--series", type=Path, required=True)
    parser.add_argument("--shape", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=2.0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    days, spd, nodes, features, hist, hor = map(int, asked.shape.split(","))
    task = Task(asked.series, asked.folder, days, spd, nodes, features, hist, hor, asked.windows)
    epoch = WAYS[asked.who](task)
    first = epoch()
    x, y = next(first)
    compare(task, x.clone(), y.clone())
    del first
    measure(epoch, 0.3)
    limit = copying(task, 0.4)
    cost = measure(epoch, asked.seconds)
    limit = min(limit, copying(task, 0.4))
    print(json.dumps({"who": asked.who, "us": cost, "memcpy_us": limit}), flush=True)
    os._exit(0)  # threads of some libraries do not end


if __name__ == "__main__":
    main()
