"""Starts the processes of `train --devices N`, hands signals on to them and waits for them all.

On several machines torchrun does this (docs/training.md).
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dateshard.shardstore.commands import command, door
from dateshard.shardstore.errors import UsageError
from dateshard.terminal.screen import put
from dateshard.trainer.devices.gone import GONE, ProcessGoneError

PARTING = 20.0  # seconds that the others have to end by themselves once the first one, which saves, is gone
LEFT_ALONE = ProcessGoneError.exit_code
LOOKED = 0.05  # seconds between two looks at the processes
PR_SET_PDEATHSIG = 1
PLACE = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")  # of one of several processes, in its environment


def number_of(devices: str) -> int:
    """How many processes `--devices` asks for: a number, or `all` accelerators of this machine.

    Raises:
        UsageError: it is no number, or there is no accelerator.
    """
    if devices == "all":
        from dateshard.trainer.devices.device import count_accelerators  # torch, which only this one asks for

        if not (count := count_accelerators()):
            raise UsageError("--devices all: there is no accelerator here", todo="Name a number of processes")
        return count
    if not devices.isdecimal() or int(devices) < 1:
        raise UsageError(f"--devices: '{devices}' is not a number of processes", todo="Write 2, or all")
    return int(devices)


@dataclass(frozen=True, slots=True)
class RankEnd:
    """How one of several processes ended.

    Attributes:
        code: its exit code, minus the number of a signal; None: it did not end, and was killed here.
        last: what it said last, where it shows nothing; empty where it only met the end of another one.
    """

    code: int | None
    last: str


def train_in_processes(arguments: Sequence[str], count: int) -> int:
    """Runs `dateshard train` with these arguments in `count` processes; returns the first one's exit code."""
    ends = run_in_processes([*door().program, "train", *arguments], count)
    first, *others = (end.code for end in ends)
    if first is None or first < 0:
        put(f"to continue: {command('train', '--devices', count, '--resume', 'latest')}", sys.stderr)
        return 1
    own = [code for code in others if code and code > 0 and code != LEFT_ALONE]
    return own[0] if own and first in (0, LEFT_ALONE) else first


def run_in_processes(words: Sequence[str], count: int) -> list[RankEnd]:
    """Runs a program in `count` processes that train together, and waits until all are gone.

    A signal is handed on to all of them. Where one is killed the others end too, and the run stands at its last checkpoint.
    """
    with tempfile.TemporaryDirectory(prefix="dateshard-") as folder:
        started: list[subprocess.Popen[bytes]] = []

        def hand_on(number: int, _: object) -> None:
            for process in started:
                with suppress(ProcessLookupError):
                    process.send_signal(number)

        before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            started.extend(_start(words, rank, count, Path(folder)) for rank in range(count))
            return _wait(started, Path(folder))
        finally:
            for process in started:
                process.kill()
                process.wait()
            for number, handler in before.items():
                signal.signal(number, handler)


def _start(words: Sequence[str], rank: int, count: int, folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **place_of(rank, count, folder)}
    if rank == 0:
        return subprocess.Popen(words, env=environment, start_new_session=True, preexec_fn=_end_with_parent)
    with open(log_of(rank, folder), "wb") as log:
        return subprocess.Popen(
            words,
            env=environment,
            start_new_session=True,
            preexec_fn=_end_with_parent,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def place_of(rank: int, count: int, folder: Path) -> dict[str, str]:
    """The environment that tells one of several processes which it is; what the user set of threads stays."""
    place = dict(zip(PLACE, (rank, rank, count, count), strict=True))
    threads = str(max(1, len(os.sched_getaffinity(0)) // count))
    own = {"OMP_NUM_THREADS": threads, "GLOO_SOCKET_IFNAME": "lo"}
    kept = {name: os.environ.get(name, value) for name, value in own.items()}
    return kept | {name: str(value) for name, value in place.items()} | {"DATESHARD_MESH_FILE": str(folder / "mesh")}


def log_of(rank: int, folder: Path) -> Path:
    """What a process prints that shows nothing: any but the first."""
    return folder / f"{rank}.log"


def _end_with_parent() -> None:
    """Has the system send SIGTERM, on which a training saves, when the process that started this one is gone."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait(started: Sequence[subprocess.Popen[bytes]], folder: Path) -> list[RankEnd]:
    """Waits for all of them, and says what ended those that show nothing."""
    deadline = float("inf")
    while any(process.poll() is None for process in started) and time.monotonic() < deadline:
        met = (folder / "mesh-0").exists()  # as `mesh.joined` says: before, the first waits for one that never comes
        first_gone = started[0].poll() is not None
        if deadline == float("inf") and (first_gone or (not met and any(p.poll() for p in started))):
            deadline = time.monotonic() + (PARTING if met or not first_gone else 0)  # they met nobody, and hold nothing
        time.sleep(LOOKED)
    ends = [RankEnd(process.poll(), _last_line(log_of(rank, folder))) for rank, process in enumerate(started)]
    for rank, end in enumerate(ends):
        if end.code is not None and end.code < 0:
            put(f"process {rank} of {len(ends)} was ended by {signal.Signals(-end.code).name}", sys.stderr)
        elif ends[0].code == LEFT_ALONE and end.code and end.last:
            put(f"process {rank} of {len(ends)}: {end.last}", sys.stderr)
    return ends


def _last_line(log: Path) -> str:
    """What a process that shows nothing said last; nothing where it only met the end of another one."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
    return "" if not lines or GONE in lines[-1] else lines[-1]
