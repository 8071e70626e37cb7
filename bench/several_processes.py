"""What it costs that any number of processes ends with the same bits: beside plain DistributedDataParallel and our default.

    python bench/several_processes.py [--rounds 7] [--steps 30] [--processes 1,2,4] [--write]

A perceptron trained with Adam on a made dataset, in real processes (gloo, one thread each). All ways take the same batches
of 64 windows and are interleaved in the same processes: what else runs on the machine meets all alike. CPU is the
processor time of all processes together.

    plain DDP          torch's wrapper: it averages gradients; no masks, no counted errors, no look whether a loss is finite
    default            ours: gradients, counts, errors and flags in one exchange; equal bits at the same number of processes
    micro_batches M    ours: the same bits at any number of processes that divides M
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from dateshard.shardstore.dataset import Dataset
from dateshard.trainer.config import Trainer
from dateshard.trainer.devices.mesh import Mesh, join, mesh_of
from dateshard.trainer.forward import forward
from dateshard.trainer.loop import begin_epoch, set_learning_rate, take_steps
from dateshard.trainer.session import Session
from dateshard.trainer.setup import make_session
from tests.conftest import build_world

SPLIT = {"train": "2024-03-01..2024-03-28", "validation": "2024-03-29"}
SIZES = {"small": [64, 32], "large": [1000, 1000]}
CUTS = {1: (4, 8), 2: (2, 4, 8), 4: (4, 8)}
BATCH = 64
Figures = dict[str, dict[str, Any]]


def session_of(folder: Path, mesh: Mesh, size: str, micro_batches: int | None) -> Session:
    """A session at its start."""
    tree = json.loads((folder / "trainer.json").read_text())
    tree["model"] = {"name": "mlp", "hidden_units": SIZES[size], "dropout_rate": 0.1}
    tree["training"] = {"epochs": 1000, "batch_size": BATCH, "drop_last": True, "micro_batches": micro_batches}
    return make_session(
        Trainer.model_validate(tree), Dataset.open(folder / "data/shards/world"), folder / "checkpoints", mesh
    )


def ours(session: Session) -> Iterator[None]:
    """Takes a step each time it is asked, epoch after epoch."""
    while True:
        begin_epoch(session)
        for _ in take_steps(session):
            yield
        session.state.validated = True


def plain(session: Session) -> Iterator[None]:
    """The loop that people write around DistributedDataParallel."""
    mesh, model, optimizer = session.mesh, session.model, session.optimizer
    assert optimizer is not None
    wrapped = replace(session, model=DistributedDataParallel(model) if mesh.world > 1 else model)
    model.train()
    epoch = 0
    while True:
        for batch in session.train.batches(epoch, rank=mesh.rank, world=mesh.world):
            set_learning_rate(session)
            optimizer.zero_grad(set_to_none=True)
            sums = forward(wrapped, batch).sums
            loss = sum(head.weight * sums[head.name][0] / sums[head.name][1] for head in session.heads)
            assert isinstance(loss, torch.Tensor)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            yield
        epoch += 1


def measured(folder: Path, rounds: int, steps: int) -> Figures:
    """The figures of this process; of all processes together in the first one."""
    mesh = mesh_of(os.environ)
    join(mesh, torch.device("cpu"))
    figures: Figures = {}
    for size in SIZES:
        sessions = {"default": session_of(folder, mesh, size, None), "plain DDP": session_of(folder, mesh, size, None)}
        sessions |= {f"micro_batches {cut}": session_of(folder, mesh, size, cut) for cut in CUTS[mesh.world]}
        going = {name: plain(one) if name == "plain DDP" else ours(one) for name, one in sessions.items()}
        timed: dict[str, list[tuple[float, float]]] = {name: [] for name in going}
        for turn in range(rounds + 1):
            for name, stepping in going.items():
                taken = _timed(stepping, steps)
                timed[name] += [taken] if turn else []  # the first makes buffers
        for name, session in sessions.items():
            cpu = torch.tensor([cpu for _, cpu in timed[name]])
            if mesh.world > 1:
                dist.all_reduce(cpu)
            figures[f"{size}/{name}"] = {
                "wall": [wall for wall, _ in timed[name]],
                "cpu": cpu.tolist(),
                "bits": _bits(session),
                "parameters": sum(p.numel() for p in session.model.parameters()),
            }
    return figures


def _timed(stepping: Iterator[None], steps: int) -> tuple[float, float]:
    """Milliseconds a step: wall, and CPU of this process."""
    if dist.is_initialized():
        dist.barrier()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        next(stepping)
    return (time.perf_counter() - wall) * 1e3 / steps, (time.process_time() - cpu) * 1e3 / steps


def _bits(session: Session) -> str:
    digest = hashlib.sha256()
    assert session.optimizer is not None
    moments = [value for state in session.optimizer.state.values() for value in state.values()]
    for tensor in [*session.model.state_dict().values(), *moments]:
        digest.update(tensor.detach().numpy().tobytes())
    return digest.hexdigest()[:8]


def run(folder: Path, processes: int, rounds: int, steps: int) -> Figures:
    """Starts the processes and returns what the first one measured."""
    words = [sys.executable, __file__, "--inside", str(folder), "--rounds", str(rounds), "--steps", str(steps)]
    started = []
    for rank in range(processes):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        environment |= {name: str(value) for name, value in place.items()}
        environment["DATESHARD_MESH_FILE"] = str(folder / f"mesh-{processes}")
        started.append(subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate()[0] for process in started]
    assert not any(process.returncode for process in started)
    figures: Figures = json.loads(outputs[0].splitlines()[-1])
    return figures


def report(put: Callable[[str], None], of: dict[int, Figures]) -> None:
    """Prints a table for each size of model."""
    for size in SIZES:
        count = next(iter(of.values()))[f"{size}/default"]["parameters"]
        put(f"\n## {count:,} weights\n")
        put(
            "| processes | way | wall ms a step: median (least - most) | CPU ms | wall / plain DDP, in pairs | CPU / | bits |"
        )
        put("|---|---|---|---|---|---|---|")
        for processes, figures in of.items():
            base = figures[f"{size}/plain DDP"]
            for name, row in figures.items():
                if not name.startswith(f"{size}/"):
                    continue
                wall, cpu = row["wall"], row["cpu"]
                ratios = [
                    statistics.median(a / b for a, b in zip(row[key], base[key], strict=True))
                    for key in ("wall", "cpu")
                ]
                spread = f"{statistics.median(wall):.2f} ({min(wall):.2f} - {max(wall):.2f})"
                put(
                    f"| {processes} | {name.partition('/')[2]} | {spread} "
                    f"| {statistics.median(cpu):.2f} | {ratios[0]:.2f} | {ratios[1]:.2f} | {row['bits']} |"
                )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--processes", default="1,2,4")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--inside")
    given = parser.parse_args()
    if given.inside:
        figures = measured(Path(given.inside), given.rounds, given.steps)
        print(json.dumps(figures))
        return
    lines: list[str] = []

    def put(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    today = dt.date.today()
    load = os.getloadavg()[0]
    put(
        f"Several processes, {today}, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, gloo, one thread "
        f"each; batches of {BATCH} windows, {given.rounds} rounds of {given.steps} steps, interleaved; load {load:.1f} at first. "
        "`bits` is a hash of weights and moments at the end: equal ones are equal to the bit."
    )
    with tempfile.TemporaryDirectory() as folder:
        world = build_world(Path(folder), 29, split=SPLIT)
        world.prepare()
        (Path(folder) / "trainer.json").write_text(json.dumps(world.tree["trainer"], default=str))
        of = {
            int(count): run(Path(folder), int(count), given.rounds, given.steps) for count in given.processes.split(",")
        }
    report(put, of)
    if given.write:
        (Path(__file__).parent / "results" / f"{today}-several-processes.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
