"""One date's act in a worker process, or in this one. Failures are values: one date never stops another."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver, get_context, parent_process, resource_tracker
from typing import Any

from shardstore.errors import DateshardError

IN_FLIGHT = 4  # tasks a worker; receipts are small, so this only bounds how far ahead dates are read
Task = tuple[Any, Callable[..., Any], tuple[Any, ...]]  # (label, function, arguments)


def run(tasks: Iterable[Task], num_workers: int) -> Iterator[tuple[Any, Any]]:
    """Yields (label, result or DateshardError) as tasks end, in no order.

    Raises:
        DateshardError: a worker process was killed.
        DiskFullError: at once, whatever the date: no other would fare better.
    """
    if num_workers == 1:
        for label, function, arguments in tasks:
            yield label, _guarded(function, arguments)
        return
    # Forking after polars was used hangs; a killed parent must not leave workers behind.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    _start_deaf_to_interrupts()
    pool = ProcessPoolExecutor(num_workers, mp_context=get_context("forkserver"), initializer=_die_with_parent)
    try:
        yield from _drain(pool, iter(tasks), num_workers * IN_FLIGHT)
    except BrokenProcessPool:
        raise DateshardError(
            "a worker process was killed, most likely for want of memory",
            todo="Run the same command with --workers 1: what was measured is kept",
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_deaf_to_interrupts() -> None:
    """Starts the process that all workers are forked from, and that they inherit the blocked SIGINT of.

    A terminal's Ctrl-C reaches every process of the group; only the parent answers, the workers' traces say nothing.
    """
    resource_tracker.ensure_running()  # else the next but one line starts it, and it unblocks SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _drain(pool: ProcessPoolExecutor, tasks: Iterator[Task], most: int) -> Iterator[tuple[Any, Any]]:
    running: dict[Future[Any], Any] = {}
    while True:
        while len(running) < most and (task := next(tasks, None)):
            label, function, arguments = task
            running[pool.submit(_guarded, function, arguments)] = label
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            yield running.pop(future), future.result()


def _guarded(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments)
    except DateshardError as error:
        return error


def _die_with_parent() -> None:
    """In a worker: ends the process as soon as its parent is gone, whatever killed it."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
