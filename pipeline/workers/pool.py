"""Dates' acts in worker processes, or in this one. Failures are values: one date never stops another.

A worker has a connection of its own and one task at a time. There is no queue, no lock and no thread that a killed
worker, or an interrupted parent, could leave in a bad state; and a death names the one task that it ended
(docs/decisions/0012).
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver, get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any

from dateshard.pipeline.workers.stopping import Stop
from dateshard.shardstore.commands import Door, door, stand_at
from dateshard.shardstore.errors import DateshardError, ResourceError

POLL_SECONDS = 0.1  # between two looks at whether a stop is asked for
PATIENCE_SECONDS = 10.0  # for what takes milliseconds: a killed process to be gone, a process to start
# Imported once, in the process that all workers are forked from. Nothing that starts threads: polars and pyarrow do.
PRELOADED = [
    "dateshard.pipeline.workers.forked",
    "dateshard.pipeline.workers.pool",
    "dateshard.pipeline.config",
    "dateshard.shardstore.measured",
    "dateshard.shardstore.commit",
    "numpy",
]
ONE_THREAD = ("POLARS_MAX_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
Task = tuple[Any, Callable[..., Any], tuple[Any, ...]]  # (label, function, arguments)


@dataclass(frozen=True, slots=True)
class Again:
    """A task whose worker was lost, to be run once more, alone, after all others."""

    why: str


@dataclass(frozen=True, slots=True)
class _Lost:
    """What a worker, or its memory, came to in the middle of a task."""

    why: str


@dataclass(frozen=True, slots=True)
class _Raised:
    """An exception that is no date's failure but a fault of the program or the machine."""

    error: BaseException


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    connection: Connection
    task: Task | None = None


class Workers:
    """Runs tasks, in `num_workers` processes that start with the first task and stay until the end. A context manager.

    Another engine (a cluster) stands in by the same two things: `run`, and the end of the context.
    """

    def __init__(self, num_workers: int, stop: Stop | None = None) -> None:
        self.num_workers, self.stop = num_workers, stop or Stop()
        self._workers: list[_Worker] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Any, Any]]:
        """Yields (label, result or DateshardError) as tasks end, in no order; `Again` says that a label comes later.

        With one worker the tasks run in this process. Leaving the iteration early ends what is still running.

        Raises:
            KeyboardInterrupt: a stop was asked for; all workers are gone.
            Exception: what a task raised beside DateshardError: the program, not the date, is at fault.
        """
        if self.num_workers == 1:
            yield from self._here(tasks)
            return
        suspects: list[tuple[Task, str]] = []
        for task, outcome in self._drain(iter(tasks), self.num_workers):
            if isinstance(outcome, _Lost):
                suspects.append((task, outcome.why))
                yield task[0], Again(outcome.why)
            else:
                yield task[0], outcome
        for suspect, why in suspects:
            self.end()  # alone: no other process holds memory, and what it has is fresh
            for (label, *_), outcome in self._drain(iter([suspect]), 1):
                yield label, _convicted(why, outcome.why) if isinstance(outcome, _Lost) else outcome

    def end(self) -> None:
        """Ends all workers, whatever they are doing: what they publish is whole or not there."""
        for worker in self._workers:
            with suppress(OSError):
                worker.process.kill()
        for worker in self._workers:
            _bury(worker)
        self._workers.clear()

    def _here(self, tasks: Iterable[Task]) -> Iterator[tuple[Any, Any]]:
        for label, function, arguments in tasks:
            with self.stop.at_once():
                outcome = _guarded(function, arguments)
            yield label, ResourceError(outcome.why, todo=MORE_MEMORY) if isinstance(outcome, _Lost) else outcome

    def _drain(self, tasks: Iterator[Task], most: int) -> Iterator[tuple[Task, Any]]:
        """Yields (task, outcome) of all tasks, on at most so many workers."""
        assert not any(worker.task for worker in self._workers), "one run at a time"
        task = next(tasks, None)
        try:
            while True:
                self.stop.check()
                while task and (worker := self._idle(most)):
                    if self._give(worker, task):
                        task = next(tasks, None)
                busy = {worker.connection: worker for worker in self._workers if worker.task}
                if not busy:
                    return
                for connection in wait(list(busy), POLL_SECONDS):
                    yield self._take(busy[connection])  # type: ignore[index]
        finally:
            if any(worker.task for worker in self._workers):
                self.end()

    def _idle(self, most: int) -> _Worker | None:
        for worker in self._workers:
            if worker.task is None:
                return worker
        if len(self._workers) == most:
            return None
        self._workers.append(_start())
        return self._workers[-1]

    def _give(self, worker: _Worker, task: Task) -> bool:
        """False where the worker is gone: it was killed while it had nothing to do, which is no task's fault."""
        try:
            worker.connection.send(task[1:])
        except OSError:
            self._workers.remove(worker)
            _bury(worker)
            return False
        worker.task = task
        return True

    def _take(self, worker: _Worker) -> tuple[Task, Any]:
        """The outcome of the worker's task. A connection that ends is a worker that was killed."""
        task, worker.task = worker.task, None
        assert task
        try:
            outcome = worker.connection.recv()
        except (EOFError, OSError):
            self._workers.remove(worker)
            return task, _Lost(_bury(worker))
        if isinstance(outcome, _Raised):
            raise outcome.error
        return task, outcome


MORE_MEMORY = "If memory ran out: lower --memory-limit, or run with --workers 1"


def _convicted(first: str, second: str) -> ResourceError:
    what = f"its worker process {first}, and when it ran alone, without any other worker, it {second}"
    return ResourceError(what, todo=f"{MORE_MEMORY}. The other dates are prepared without it")


def _start() -> _Worker:
    """A new worker. The process that they are forked from is started when it is not there, or was killed.

    Raises:
        ResourceError: none can be started.
    """
    ours, theirs = get_context("forkserver").Pipe()
    end = time.monotonic() + PATIENCE_SECONDS
    with theirs:
        while True:
            try:
                _start_forkserver()
                process = get_context("forkserver").Process(target=_serve, args=(theirs, door()), daemon=True)
                with _no_script():
                    process.start()
                return _Worker(process, ours)
            except (OSError, EOFError) as error:  # it was killed a moment ago, and that is not yet known
                if time.monotonic() > end:
                    todo = "Run the same command with --workers 1"
                    raise ResourceError(f"no worker process can be started ({error})", todo=todo) from None
                time.sleep(POLL_SECONDS)


def _start_forkserver() -> None:
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


def _bury(worker: _Worker) -> str:
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
    stand_at(there)  # its errors are read where the parent's are
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            connection.send(_outcome(connection.recv_bytes()))


def _outcome(task: bytes) -> Any:
    try:
        return _guarded(*pickle.loads(task))
    except Exception as error:  # raised again in the parent
        return _Raised(_portable(error))


def _portable(error: Exception) -> BaseException:
    """The error with its trace as a note; only its text, where its kind cannot travel between processes."""
    try:
        error.add_note(traceback.format_exc())
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(traceback.format_exc())


def _guarded(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments)
    except DateshardError as error:
        return error
    except MemoryError:
        return _Lost("ran out of memory")


def _die_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
