"""A command in several real processes that train together, and SIGKILL for any of them at random moments."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dateshard.trainer import checkpoint
from dateshard.trainer.checkpoint.checkpoint_folder import read_files
from tests.conftest import World
from tests.kit.limits import PATIENCE_SECONDS
from tests.kit.zygote import Ended, Job, shared

MOST_KILLS = 3  # of one run before it may end
SCRIPT = """
import os, sys
place = dict(zip(("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"), {place!r}))
os.environ.update(place, GLOO_SOCKET_IFNAME="lo", DATESHARD_MESH_FILE={file!r})
from dateshard.cli import run
sys.exit(run(sys.argv[1:], ("dateshard",)))
"""


class Several:
    """Starts a command in several processes, forked from one that has imported everything."""

    def __init__(self, world: World) -> None:
        self.world, self.count = world, 0

    def start(self, world_size: int, *words: str) -> list[Job]:
        self.count += 1
        file = str(self.world.folder / f"mesh-{self.count}")
        jobs = []
        for rank in range(world_size):
            place = (str(rank), str(rank), str(world_size), str(world_size))
            jobs.append(shared().start(words, self.world.folder, script=SCRIPT.format(place=place, file=file)))
        return jobs

    def wait(self, jobs: Sequence[Job]) -> list[Ended]:
        return [shared().wait(job) for job in jobs]

    def train(self, world_size: int, name: str, *words: str, resume: bool = False, code: int = 0) -> list[Ended]:
        which = ("--resume", name) if resume else ("-c", "config.yaml", "--run", name)
        ended = self.wait(self.start(world_size, "train", *which, *words))
        assert {process.code for process in ended} == {code}, ended
        assert all(not process.out for process in ended[1:])
        return ended

    def run(self, name: str) -> Path:
        return self.world.folder / "data/runs" / name

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """All tensors of a run's newest checkpoint."""
        saved, _ = checkpoint.find(self.run(name) / "checkpoints", "latest")
        return {f"{group}/{key}": t for group, named in read_files(saved).items() for key, t in named.items()}

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of steps and epochs, without times."""
        lines = (self.run(name) / "metrics.jsonl").read_text().splitlines()
        kept = ("step", "epoch", "batch", "loss", "train_loss", "val_loss", "learning_rate", "skipped")
        return [{key: row[key] for key in kept if key in row} for row in map(json.loads, lines)]


@dataclass(slots=True, kw_only=True)
class Killed:
    """What a kill loop met.

    Attributes:
        kills: that met their process alive. training: of those, after the first step. first: of the first process.
    """

    runs: int = 0
    kills: int = 0
    training: int = 0
    first: int = 0
    bad: list[str] = field(default_factory=list)


def kill_loop(several: Several, kills: int, seed: int, *words: str, world_size: int = 2) -> Killed:
    """Kills random processes of runs at random moments; lets each run end, and compares it with one that was never killed."""
    drawn, met = random.Random(seed), Killed()
    several.train(world_size, "whole", *words)
    whole, rows = several.tensors("whole"), several.rows("whole")
    steps = len(rows)
    while met.kills < kills and met.runs < 4 * kills:
        met.runs += 1
        for _ in range(min(drawn.randint(1, MOST_KILLS), kills - met.kills)):
            _killed(several, met, drawn, steps, world_size, *words)
        going_on = several.run("killed").exists()
        several.train(world_size, "killed", *(() if going_on else words), resume=going_on)
        if different := _differences(several, whole, rows):
            met.bad.append(f"run {met.runs} is not the undisturbed one: {different}")
            several.run("killed").rename(several.world.folder / f"bad-{met.runs}")
        else:
            shutil.rmtree(several.run("killed"))
    return met


def _differences(several: Several, whole: dict[str, torch.Tensor], rows: list[dict[str, Any]]) -> str:
    after, rows_after = several.tensors("killed"), several.rows("killed")
    names = sorted(whole.keys() ^ after.keys())
    names += [name for name, tensor in whole.items() if name in after and not torch.equal(tensor, after[name])]
    steps = [row for row in rows if row not in rows_after]
    return "; ".join([*names, *(f"no row {row}" for row in steps), *(["rows"] if rows != rows_after else [])])


def _killed(several: Several, met: Killed, drawn: random.Random, steps: int, world_size: int, *words: str) -> None:
    """Starts or continues the run, and kills one of its processes: at a moment of its start, or after so many more rows."""
    which = (
        ("--resume", "killed") if several.run("killed").exists() else ("-c", "config.yaml", "--run", "killed", *words)
    )
    log = several.run("killed") / "metrics.jsonl"
    jobs = several.start(world_size, "train", *which)
    victim = drawn.randrange(world_size)
    size, end = log.stat().st_size if log.exists() else 0, time.monotonic() + PATIENCE_SECONDS
    if drawn.random() < 0.8:
        more = drawn.randrange(1, steps) * 200  # bytes of a log's row, about
        while all(job.alive for job in jobs) and time.monotonic() < end:
            if log.exists() and log.stat().st_size > size + more:
                break
            time.sleep(0.001)
    time.sleep(drawn.random() * 0.05)
    trained = log.exists() and log.stat().st_size > size
    alive = jobs[victim].alive
    with suppress(ProcessLookupError):
        os.kill(jobs[victim].pid, signal.SIGKILL)
    if not all((several.world.folder / f"mesh-{several.count}-{rank}").exists() for rank in range(world_size)):
        for job in jobs:  # as `train --devices` does: one that has not met the others yet would wait for long
            with suppress(ProcessLookupError):
                os.kill(job.pid, signal.SIGKILL)
    ended = several.wait(jobs)
    if alive and ended[victim].code == -signal.SIGKILL:
        met.kills, met.training, met.first = met.kills + 1, met.training + trained, met.first + (victim == 0)
        others = {process.code for rank, process in enumerate(ended) if rank != victim}
        if not others <= {0, 75, -signal.SIGKILL}:
            met.bad.append(f"the other processes of a killed one ended with {others}")
