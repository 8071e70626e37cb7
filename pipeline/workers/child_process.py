"""A process that runs tasks one by one: its start, what it does, and how it ended."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver, get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import ModuleType

from dateshard.pipeline.workers.engine import Task, outcome_of
from dateshard.shardstore.commands import Door, door, stand_at
from dateshard.shardstore.errors import ResourceError

POLL_SECONDS = 0.1  # between two looks at whether a stop is asked for
PATIENCE_SECONDS = 10.0  # for what takes milliseconds: a killed process to be gone, a process to start
# Imported once, in the process that all workers are forked from. Nothing that starts threads: polars and pyarrow do.
PRELOADED = [
    "dateshard.pipeline.workers.forked",
    "dateshard.pipeline.workers.child_process",
    "dateshard.pipeline.acts",
]
ONE_THREAD = ("POLARS_MAX_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(slots=True)
class WorkerProcess:
    """A process, the connection to it, and what it is doing."""

    process: BaseProcess
    connection: Connection
    task: Task | None = None


def start_process(there: Door | None = None) -> WorkerProcess:
    """Starts a worker, and the process that workers are forked from where it is not there, or was killed.

    Args:
        there: where its messages are read, if not where this process's are.

    Raises:
        ResourceError: none can be started.
    """
    ours, theirs = get_context("forkserver").Pipe()
    end = time.monotonic() + PATIENCE_SECONDS
    with theirs:
        while True:
            try:
                start_forkserver()
                process = get_context("forkserver").Process(target=_serve, args=(theirs, there or door()), daemon=True)
                with _no_script():
                    process.start()
                return WorkerProcess(process, ours)
            except (OSError, EOFError) as error:  # it was killed a moment ago, and that is not yet known
                if time.monotonic() > end:
                    todo = "Run the same command with --workers 1"
                    raise ResourceError(f"no worker process can be started ({error})", todo=todo) from None
                time.sleep(POLL_SECONDS)


def start_forkserver() -> None:
    """Starts the process that all workers are forked from, and that they inherit the blocked SIGINT of.

    Forking this one would hang once polars was used. A terminal's Ctrl-C reaches every process of the group; only the
    parent answers.
    """
    resource_tracker.ensure_running()  # else the forkserver starts it, and it unblocks SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with _environment(_forkserver_environment()):
            forkserver.set_forkserver_preload(PRELOADED)
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _forkserver_environment() -> dict[str, str]:
    """One thread a worker, and modules from where this process has them, never from the working directory's."""
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    threads = {name: os.environ.get(name, "1") for name in ONE_THREAD}
    return {**threads, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1"}


@contextmanager
def _no_script() -> Iterator[None]:
    """Lets a process start without the script that this one runs: a task needs nothing of it.

    Python would run the script again in each worker: one without `if __name__ == "__main__":` would prepare within
    preparing, and end every worker; the command itself would only be imported, which takes its time.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({name: value} if value is not None else {})


def bury(worker: WorkerProcess) -> str:
    """Waits for the end of a worker and says how it ended."""
    worker.connection.close()
    worker.process.join(PATIENCE_SECONDS)
    code = worker.process.exitcode
    if code is not None and code < 0:
        with suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
    return f"ended (exit code {code})" if code not in (None, 255) else "was killed"


def _serve(connection: Connection, there: Door) -> None:
    """Runs tasks in a worker one by one, until the connection ends. Ends at once with its parent, whatever killed that."""
    gc.freeze()  # what was imported before the fork
    gc.enable()
    stand_at(there)  # its errors are read where the parent's are
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            connection.send(outcome_of(connection.recv_bytes()))


def _die_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
