"""What runs in the processes of a Dask cluster: each task in a child process that can be ended at any moment.

A thread of Dask cannot be interrupted. So the thread only waits for a child, and kills it when Dask has cancelled the
task: the preprocess was stopped, its machine is gone, or the scheduler is. A task that kills its process kills no
worker of the cluster, and any number of threads may share one.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing import current_process
from pathlib import Path
from typing import Any

import psutil

from dateshard.pipeline.memory_shares import FREE_SHARE, PARENT_BYTES
from dateshard.pipeline.workers.child_process import POLL_SECONDS, WorkerProcess, bury, start_process
from dateshard.pipeline.workers.engine import Lost
from dateshard.pipeline.workers.parcels import unpacked
from dateshard.pipeline.workers.same_everywhere import Expected, why_unfit
from dateshard.shardstore.commands import Door
from dateshard.shardstore.disk.durable import Flusher

OVER = ("cancelled", "released", "forgotten")  # states of a task that nobody wants any more
ALIVE = ("running", "paused", "closing_gracefully")
PATIENCE_SECONDS = 20.0  # for children that were killed to be gone

_lock, _starting = threading.Lock(), threading.Lock()
_idle: defaultdict[str, list[WorkerProcess]] = defaultdict(list)  # children by run, kept for the next task
_running: Counter[str] = Counter()  # tasks by run
_ended: set[str] = set()  # runs


@dataclass(frozen=True, slots=True)
class Unfit:
    """A worker that is not as the preprocess expects it."""

    worker: str
    why: str


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What a preprocess asks of a worker before it begins. `task_bytes`: what each of its tasks may hold."""

    why_unfit: str
    task_bytes: int


def look(expected: Expected, dask_worker: Any) -> WorkerFacts:
    """Looks at this worker, without a task."""
    limit = dask_worker.memory_manager.memory_limit or int(FREE_SHARE * psutil.virtual_memory().available)
    return WorkerFacts(_why_unfit(expected), (limit - PARENT_BYTES) // dask_worker.state.nthreads)


@cache
def _why_unfit(expected: Expected) -> str:
    return why_unfit(expected)


def run_task(expected: Expected, task: bytes, *, alone: bool) -> Any:
    """Runs a pickled task in a child of this worker.

    Args:
        alone: in a fresh one.

    Returns:
        what the task returned, an error, `Lost` or `Unfit`; None where nobody waits for it any more.
    """
    from distributed import get_worker

    worker: Any = get_worker()
    key = worker.get_current_task()
    if why := _why_unfit(expected):
        return Unfit(worker.address, why)
    with _counted(expected.run):
        if alone:
            _end_idle(expected.run)
        child = _take_child(expected.run, expected.door)
        try:
            child.connection.send_bytes(task)
            while not child.connection.poll(POLL_SECONDS):
                if _is_over(worker, key, expected.run):
                    _kill(child)
                    return None
            outcome = child.connection.recv()
        except (EOFError, OSError):
            return Lost(bury(child))
        with _lock:
            if expected.run not in _ended:
                _idle[expected.run].append(child)
                return outcome
        _kill(child)
        return outcome


def _is_over(worker: Any, key: str, run: str) -> bool:
    state = worker.state.tasks.get(key)
    return run in _ended or worker.status.name not in ALIVE or state is None or state.state in OVER


async def end_run(run: str) -> bool:
    """Ends all children of a preprocess; returns whether no task of it runs any more."""
    _ended.add(run)
    _end_idle(run)
    for _ in range(int(PATIENCE_SECONDS / POLL_SECONDS)):
        if not _running[run]:
            return True
        await asyncio.sleep(POLL_SECONDS)
    return False


@contextmanager
def _counted(run: str) -> Iterator[None]:
    with _lock:
        _running[run] += 1
    try:
        yield
    finally:
        with _lock:
            _running[run] -= 1


def _take_child(run: str, door: Door) -> WorkerProcess:
    """A child that waits for a task. Those of runs whose client is gone without a word are ended."""
    with _lock:
        for other in [other for other in _idle if other != run and not _running[other]]:
            for child in _idle.pop(other):
                _kill(child)
        if _idle[run]:
            return _idle[run].pop()
    with _starting, _may_have_children():
        return start_process(door)


@contextmanager
def _may_have_children() -> Iterator[None]:
    """A worker that a nanny started is a daemon, which Python forbids to have children; ours end with it by themselves."""
    config = current_process()._config  # type: ignore[attr-defined]
    before = config.pop("daemon", None)
    try:
        yield
    finally:
        if before is not None:
            config["daemon"] = before


def _end_idle(run: str) -> None:
    with _lock:
        idle = _idle.pop(run, [])
    for child in idle:
        _kill(child)


def _kill(child: WorkerProcess) -> None:
    with suppress(OSError):
        child.process.kill()
    bury(child)


def run_durably(working_directory: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Runs a task in a child, and makes what it published durable: another machine cannot flush this one's cache."""
    os.chdir(working_directory)
    root, *others = unpacked(arguments)
    flusher = Flusher(root)
    try:
        result = function(root, *others)
        flusher.flush([result] if isinstance(result, Path) else getattr(result, "folders", ()))
        return result
    finally:
        flusher.close()
