"""A real Dask scheduler and real workers on loopback, each a process of its own, and what their tasks do in tests."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from dateshard.pipeline.acts import measure_date
from dateshard.pipeline.workers.dask_client import Cluster, connect
from dateshard.pipeline.workers.stopping import Stop
from tests.kit.limits import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
POISON = dt.date(2024, 3, 2)
WAITING = dt.date(2024, 3, 3)
FEW_DEATHS = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}


class DaskProcesses:
    """A scheduler and workers. A context manager: all of them end with it."""

    def __init__(self, folder: Path, num_workers: int) -> None:
        self.folder, self.file, self._started = folder, folder / "scheduler.json", list[subprocess.Popen[bytes]]()
        words = (
            "scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--no-dashboard",
            "--scheduler-file",
            str(self.file),
        )
        self.scheduler = self._start(words, FEW_DEATHS)
        for _ in range(num_workers):
            self.add_worker()

    def __enter__(self) -> DaskProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        families = [[process, *_children(process.pid)] for process in self._started]
        for process in (process for family in families for process in family):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        for started in self._started:
            started.wait(PATIENCE_SECONDS)

    @property
    def engine(self) -> str:
        """What `--engine` is given."""
        return f"dask:{self.file}"

    def add_worker(self, paths: Sequence[Path] = (), prefix: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """One more worker. `paths`: where it looks for modules first; `prefix`: of its command."""
        words = ("worker", "--scheduler-file", str(self.file), "--nthreads", "1", "--no-dashboard")
        more = ("--local-directory", str(self.folder / "scratch"), "--memory-limit", "2GiB")
        path = os.pathsep.join(map(str, [*paths, ROOT]))
        return self._start((*words, *more), {"PYTHONPATH": path}, prefix)

    def connect(self, num_workers: int) -> Cluster:
        """A client, as soon as so many workers are there."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not self.file.exists():
            assert time.monotonic() < end, "no scheduler"
            time.sleep(0.01)
        cluster = connect(self.engine, Stop())
        while len(cluster.ask("nthreads")) < num_workers:
            assert time.monotonic() < end, "no workers"
            time.sleep(0.02)
        return cluster

    def wait_for(self, num_workers: int) -> None:
        """Returns when just so many workers are there."""
        with self.connect(num_workers) as cluster:
            while len(cluster.ask("nthreads")) > num_workers:
                time.sleep(0.02)

    def _start(self, words: Sequence[str], more: dict[str, str], prefix: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        command = [*prefix, sys.executable, "-m", f"distributed.cli.dask_{words[0]}", *words[1:]]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **more}
        with open(self.folder / f"{words[0]}{len(self._started)}.log", "wb") as log:
            self._started.append(
                subprocess.Popen(
                    command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
                )
            )
        return self._started[-1]


def _children(pid: int) -> list[Any]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def worker_above() -> psutil.Process:
    """The Dask worker that this child, or its forkserver, was started by."""
    return psutil.Process().parents()[1]


def measure_waiting(root: Path, dump: Any, date: dt.date, *rest: Any) -> Any:
    """`measure_date`, but one date says who it is (child and worker) and waits for its end, the first time."""
    mark = Path(f"child-{date}")
    if date == WAITING and not mark.exists():
        mark.with_suffix(".new").write_text(f"{os.getpid()} {worker_above().pid}")
        mark.with_suffix(".new").rename(mark)
        time.sleep(PATIENCE_SECONDS)
    return measure_date(root, dump, date, *rest)


def measure_dying(root: Path, dump: Any, date: dt.date, *rest: Any) -> Any:
    """`measure_date`, but one date kills its process."""
    if date == POISON:
        os.kill(os.getpid(), signal.SIGKILL)
    return measure_date(root, dump, date, *rest)


def measure_killing_worker(root: Path, dump: Any, date: dt.date, *rest: Any) -> Any:
    """`measure_date`, but one date kills the Dask worker that has it, every time."""
    if date == POISON:
        with open(f"deaths-{date}", "a") as deaths:
            deaths.write("x")
        os.kill(worker_above().pid, signal.SIGKILL)
        time.sleep(PATIENCE_SECONDS)
    return measure_date(root, dump, date, *rest)


def touch(_root: Path, seconds: float) -> float:
    """A task that takes some time."""
    time.sleep(seconds)
    return seconds


def fail(_root: Path, error: Exception) -> None:
    """A task that raises."""
    raise error
