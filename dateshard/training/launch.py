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
from pathlib import Path

from dateshard.shardstore.commands import command, door
from dateshard.shardstore.errors import UsageError
from dateshard.terminal.screen import put

PARTING = 20.0  # seconds that the others have to end by themselves once one is gone
LOOKED = 0.05  # seconds between two looks at the processes
PR_SET_PDEATHSIG = 1


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


def train_in_processes(arguments: Sequence[str], count: int) -> int:
    """Runs `dateshard train` with these arguments in `count` processes; returns the first one's exit code.

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
            started += [_start(arguments, rank, count, Path(folder)) for rank in range(count)]
            return _wait(started, Path(folder), arguments)
        finally:
            for process in started:
                process.kill()
                process.wait()
            for number, handler in before.items():
                signal.signal(number, handler)


def _start(arguments: Sequence[str], rank: int, count: int, folder: Path) -> subprocess.Popen[bytes]:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    threads = str(max(1, len(os.sched_getaffinity(0)) // count))
    environment = {"OMP_NUM_THREADS": threads, "GLOO_SOCKET_IFNAME": "lo", **os.environ}
    environment |= {name: str(value) for name, value in place.items()} | {"DATESHARD_MESH_FILE": str(folder / "mesh")}
    words = [*door().program, "train", *arguments]
    if rank == 0:
        return subprocess.Popen(words, env=environment, start_new_session=True, preexec_fn=_end_with_parent)
    with open(folder / f"{rank}.log", "wb") as log:
        return subprocess.Popen(
            words,
            env=environment,
            start_new_session=True,
            preexec_fn=_end_with_parent,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def _end_with_parent() -> None:
    """Has the system send SIGTERM, on which a training saves, when the process that started this one is gone."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait(started: Sequence[subprocess.Popen[bytes]], folder: Path, arguments: Sequence[str]) -> int:
    """Waits for all of them; where one fails the others have `PARTING` seconds."""
    gone: int | None = None
    deadline = float("inf")
    while any(process.poll() is None for process in started) and time.monotonic() < deadline:
        if gone is None:
            ended = [rank for rank, process in enumerate(started) if (process.poll() or 0) < 0]
            if ended:
                gone, deadline = ended[0], time.monotonic() + PARTING
        time.sleep(LOOKED)
    if gone is not None:
        name = signal.Signals(-(started[gone].returncode or 0)).name
        again = command("train", "--devices", len(started), "--resume", "latest")
        put(f"process {gone} of {len(started)} was ended by {name}; to continue: {again}", sys.stderr)
        return 1
    code = started[0].returncode
    others = [process.returncode for process in started[1:] if process.returncode not in (0, code)]
    if code == 0 and others:
        log = next((text for rank in range(1, len(started)) if (text := (folder / f"{rank}.log").read_text())), "")
        put(log.strip().splitlines()[-1] if log.strip() else "another process failed", sys.stderr)
        return int(others[0])
    return int(code)
