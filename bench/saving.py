"""What checkpoints cost: the stall of a save, an epoch with many of them, and the way back from one.

    python bench/saving.py [--repeats 5] [--parts stall,epoch,resume] [--write]

A perceptron whose weights and two moments are 63 MB, trained with Adam on a made dataset. Everything is interleaved:
what else runs on the machine meets all alike. `durable` ends with an fsync in every row. `CPU` is the processor time of
the training thread alone within its stall, which other work on the machine stretches less than the clock.

    memcpy            one numpy copy of 63 MB into memory that was used before: the floor of any snapshot
    ours              dateshard.trainer.checkpoint.CheckpointWriter; stall: all that the training thread does and waits for
    safetensors       the library's bytes, hashed, written file by file: this trainer's own way until this day
    torch.save        one file, then an fsync
    DCP async_save    torch.distributed.checkpoint, one process without a group, its own defaults (a thread, files synced)
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save as format_tensors

from dateshard.shardstore.disk.durable import fsync_path, write_file
from dateshard.shardstore.identity import hash_bytes
from dateshard.trainer import checkpoint
from dateshard.trainer.checkpoint import CheckpointWriter
from dateshard.trainer.config import Trainer
from dateshard.trainer.loop import Session, Stepped, _train_epoch, train
from dateshard.trainer.runs.start import New, start
from dateshard.trainer.session import make_room, save
from dateshard.trainer.setup import make_session
from tests.conftest import World, build_world

SPLIT = {"train": "2024-03-01..2024-12-04", "validation": "2024-12-05"}
TRAINER: dict[str, Any] = {
    "model": {"name": "mlp", "hidden_units": [2270, 2270], "dropout_rate": 0.0},
    "training": {"epochs": 1000, "batch_size": 32},
    "early_stopping": None,
}
Figures = dict[str, list[float]]


def configured(
    world: World, save_freq: int | None = None, max_overhead: float | None = None, batch_size: int = 32
) -> Trainer:
    tree = world.settings.trainer.model_dump(mode="json")
    saving = {"save_freq": save_freq, "max_overhead": max_overhead}
    training = {**tree["training"], "batch_size": batch_size}
    return Trainer.model_validate({**tree, "checkpoint": saving, "training": training})


def stepped(session: Session, count: int) -> Session:
    """The session after so many steps, with moments."""
    events = (event for event in train(session, lambda: False) if isinstance(event, Stepped))
    for _, _ in zip(range(count), events, strict=False):
        pass
    return session


def state_of(session: Session) -> dict[str, dict[str, torch.Tensor]]:
    """Weights and moments as any other way of saving is given them."""
    assert session.optimizer is not None
    held = session.optimizer.state_dict()["state"]
    moments = {f"{number}.{part}": tensor for number, one in held.items() for part, tensor in one.items()}
    return {"model": dict(session.model.state_dict()), "optimizer": moments}


@dataclass
class Ways:
    """Ways to save one session: each returns (stall, until durable) in seconds."""

    session: Session
    folder: Path
    writer: CheckpointWriter
    number: int = 0
    computed: float = float("nan")  # processor time of this thread in the last stall
    spare: np.ndarray[Any, Any] = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        self.flat = np.concatenate([t.reshape(-1).numpy() for g in state_of(self.session).values() for t in g.values()])
        self.spare = np.zeros_like(self.flat)

    def fresh(self, name: str) -> Path:
        self.number += 1
        return self.folder / f"{name}{self.number}"

    def memcpy(self) -> tuple[float, float]:
        began, used = time.perf_counter(), time.thread_time()
        np.copyto(self.spare, self.flat)
        self.computed = time.thread_time() - used
        return time.perf_counter() - began, float("nan")

    def ours(self) -> tuple[float, float]:
        self.session.state.batch += 1  # another position: an equal one would be kept
        began, used = time.perf_counter(), time.thread_time()
        save(self.session, self.writer)
        stall, self.computed = time.perf_counter() - began, time.thread_time() - used
        self.writer.finish()
        return stall, time.perf_counter() - began

    def safetensors(self) -> tuple[float, float]:
        folder, began = self.fresh("safetensors"), time.perf_counter()
        folder.mkdir()
        for stem, group in state_of(self.session).items():
            blob = format_tensors(group)
            hash_bytes(blob)
            write_file(folder / stem, blob)
        fsync_path(folder)
        return (taken := time.perf_counter() - began), taken

    def torch_save(self) -> tuple[float, float]:
        path, began = self.fresh("torch"), time.perf_counter()
        torch.save(state_of(self.session), path)
        fsync_path(path)
        return (taken := time.perf_counter() - began), taken

    def dcp_async(self) -> tuple[float, float]:
        path, began, used = self.fresh("dcp"), time.perf_counter(), time.thread_time()
        future = dcp.async_save(state_of(self.session), checkpoint_id=path, no_dist=True)
        stall, self.computed = time.perf_counter() - began, time.thread_time() - used
        future.result()  # type: ignore[union-attr]
        return stall, time.perf_counter() - began


def stalls(world: World, folder: Path, repeats: int) -> Iterator[str]:
    session = stepped(make_session(configured(world), world.open(), folder / "ours"), 3)
    with CheckpointWriter(session.checkpoints) as writer:
        make_room(session, writer)
        time.sleep(1.0)  # of training, in which the pages are made
        ways = Ways(session, folder, writer)
        called: dict[str, Callable[[], tuple[float, float]]] = {
            "memcpy": ways.memcpy,
            "ours": ways.ours,
            "safetensors": ways.safetensors,
            "torch.save": ways.torch_save,
            "DCP async_save": ways.dcp_async,
        }
        first = {name: way()[0] for name, way in called.items()}
        stall: Figures = {name: [] for name in called}
        computed: Figures = {name: [] for name in called}
        durable: Figures = {name: [] for name in called}
        for _ in range(repeats):
            for name, way in called.items():
                ways.computed = float("nan")
                one, two = way()
                stall[name].append(one)
                computed[name].append(ways.computed)
                durable[name].append(two)
            for path in [*folder.glob("*[0-9]"), *session.checkpoints.glob("checkpoint_*")]:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    yield f"state {ways.flat.nbytes / 1e6:.1f} MB in {sum(map(len, state_of(session).values()))} tensors\n"
    yield "| | stall ms: least, median (most) | / memcpy | CPU ms: the same | the first | durable ms: median (least - most) |"
    yield "|---|---|---|---|---|---|"
    floor = [1e3 * of(stall["memcpy"]) for of in (min, statistics.median)]
    for name in called:
        a, b = (sorted(1e3 * value for value in part[name]) for part in (stall, durable))
        middle, used = statistics.median(a), [1e3 * value for value in computed[name]]
        own = "" if used[0] != used[0] else f"{min(used):,.1f}, {statistics.median(used):,.1f}"
        told = "" if name == "memcpy" else f"{statistics.median(b):,.0f} ({b[0]:,.0f} - {b[-1]:,.0f})"
        yield (
            f"| {name} | {a[0]:,.1f}, {middle:,.1f} ({a[-1]:,.1f}) | {a[0] / floor[0]:.2f}, {middle / floor[1]:.2f} "
            f"| {own} | {1e3 * first[name]:,.1f} | {told} |"
        )


def epoch(session: Session, writer: CheckpointWriter) -> tuple[float, float, int]:
    """(wall seconds, CPU seconds, saves) of one epoch's steps, the last save on disk."""
    session.state.epoch, session.state.batch = session.state.epoch + 1, 0
    session.metrics = session.metrics.fresh(session.state.epoch)
    began, used = time.perf_counter(), time.process_time()
    count = sum(not isinstance(event, Stepped) for event in _train_epoch(session, writer)) + len(writer.finish())
    taken = time.perf_counter() - began, time.process_time() - used, count
    for path in session.checkpoints.glob("checkpoint_*"):
        shutil.rmtree(path)
    return taken


def epochs(world: World, folder: Path, repeats: int) -> Iterator[str]:
    for batch_size in (32, 256):
        yield from _epochs(world, folder / str(batch_size), repeats, batch_size)
        yield ""


def _epochs(world: World, folder: Path, repeats: int, batch_size: int) -> Iterator[str]:
    kinds: dict[str, tuple[int | None, float | None]] = {
        "never": (None, None),
        "every 10 batches": (10, None),
        "every 10, max_overhead 0.03": (10, 0.03),
    }
    with ExitStack() as stack:
        sessions = {}
        for number, (name, kind) in enumerate(kinds.items()):
            session = make_session(configured(world, *kind, batch_size), world.open(), folder / f"epoch{number}")
            sessions[name] = session, stack.enter_context(CheckpointWriter(session.checkpoints))
        for session, writer in sessions.values():
            epoch(session, writer)
        found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in kinds}
        for _ in range(repeats):
            for name, (session, writer) in sessions.items():
                found[name].append(epoch(session, writer))
    order = session.train.order
    yield f"{order.num_batches} batches of {order.batch_size}, with the last save's way to disk\n"
    yield "| saving | wall s: median (least - most) | against never, in pairs: median (least - most) | CPU s | saves an epoch |"
    yield "|---|---|---|---|---|"
    for name, rows in found.items():
        wall = sorted(row[0] for row in rows)
        ratio = sorted(row[0] / base[0] for row, base in zip(rows, found["never"], strict=True))
        yield (
            f"| {name} | {statistics.median(wall):.2f} ({wall[0]:.2f} - {wall[-1]:.2f}) "
            f"| {statistics.median(ratio):.3f} ({ratio[0]:.3f} - {ratio[-1]:.3f}) "
            f"| {statistics.median(row[1] for row in rows):.2f} | {statistics.median(row[2] for row in rows):.0f} |"
        )


def resumes(world: World, folder: Path, repeats: int) -> Iterator[str]:
    config, runs = configured(world), folder / "runs"
    begun = start(config, "world", world.store, runs, resume="none", new=New("cut"))
    list(train(begun.session, lambda: begun.session.state.batch == 3))
    begun.close()
    state = state_of(begun.session)
    torch.save(state, folder / "state.pt")
    dcp.save(state, checkpoint_id=folder / "state.dcp", no_dist=True)
    [saved] = (runs / "cut" / "checkpoints").glob("checkpoint_*")

    def ours() -> tuple[float, float]:
        began = time.perf_counter()
        again = start(config, "world", world.store, runs, resume="cut")
        ready = time.perf_counter() - began
        events = train(again.session, lambda: False)
        next(events)
        taken = time.perf_counter() - began
        again.close()
        shutil.copytree(saved, folder / "kept")  # nothing was saved; closing tells nothing
        shutil.rmtree(folder / "kept")
        return ready, taken

    def verified() -> tuple[float, float]:
        began = time.perf_counter()
        checkpoint.read_files(checkpoint.inspect(saved))
        return (taken := time.perf_counter() - began), taken

    def by_torch() -> tuple[float, float]:
        began = time.perf_counter()
        torch.load(folder / "state.pt", weights_only=True)
        return (taken := time.perf_counter() - began), taken

    def by_dcp() -> tuple[float, float]:
        target = {name: {key: torch.empty_like(t) for key, t in group.items()} for name, group in state.items()}
        began = time.perf_counter()
        dcp.load(target, checkpoint_id=folder / "state.dcp", no_dist=True)
        return (taken := time.perf_counter() - began), taken

    ways = {
        "start() of a resumed run / its first step": ours,
        "of that: one reading of the files, hashed": verified,
        "torch.load, weights_only, no check": by_torch,
        "DCP load, no check": by_dcp,
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, way in ways.items():
            found[name].append(way())
    yield "| | ready ms: median (least - most) | first step told ms: median |"
    yield "|---|---|---|"
    for name, rows in found.items():
        ready = sorted(1e3 * row[0] for row in rows[1:])
        step = "" if name not in list(ways)[:1] else f"{statistics.median(1e3 * row[1] for row in rows[1:]):,.0f}"
        yield f"| {name} | {statistics.median(ready):,.0f} ({ready[0]:,.0f} - {ready[-1]:,.0f}) | {step} |"


PARTS = {"stall": stalls, "epoch": epochs, "resume": resumes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    lines = [
        f"Saving, {dt.date.today()}, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__} "
        f"({torch.get_num_threads()} threads); {chosen.repeats} rounds, interleaved; load {os.getloadavg()[0]:.1f} at first"
    ]
    print(lines[0], flush=True)
    with tempfile.TemporaryDirectory() as name:
        world = build_world(Path(name, "world"), 280, split=SPLIT, **TRAINER)
        world.prepare()
        for part in chosen.parts.split(","):
            folder = Path(name, part)
            folder.mkdir()
            begun = len(lines)
            lines += [
                "",
                f"## {part}",
                "",
                *PARTS[part](world, folder, chosen.repeats),
                "",
                f"(load {os.getloadavg()[0]:.1f})",
            ]
            print("\n".join(lines[begun:]), flush=True)
    if chosen.write:
        (Path(__file__).parent / "results" / f"{dt.date.today()}-saving.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
