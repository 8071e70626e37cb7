"""The connection to a Dask scheduler: every question to it has an end, and a stop that is asked for is seen meanwhile."""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from dateshard.pipeline.workers.stopping import Stop
from dateshard.shardstore.commands import command, door
from dateshard.shardstore.errors import ResourceError, UsageError

ANSWER_SECONDS = 30.0  # for what a scheduler answers in milliseconds
WORKERS_SECONDS = 60.0  # that a cluster may be without any worker
COUNT_SECONDS = 2.0  # a count of threads stays true
POLL_SECONDS = 0.1
PREFIX = "dask:"
START = "Start one with `dask scheduler`, and workers with `dask worker`"


class Cluster:
    """A cluster that a preprocess is connected to. A context manager.

    Attributes:
        where: as the user named it.
    """

    def __init__(self, client: Any, where: str, stop: Stop) -> None:
        self._client, self.where, self.stop = client, where, stop
        self._threads, self._counted = 0, 0.0

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(Exception):
            _within(lambda: self._client.close(timeout=1), ANSWER_SECONDS)

    def submit(self, function: Callable[..., Any], *arguments: Any, key: str, **named: Any) -> Any:
        """Gives the scheduler a task; returns its future."""
        with self._told():
            return self._client.submit(function, *arguments, key=key, pure=False, **named)

    def gather(self, futures: list[Any]) -> list[Any]:
        """The results of futures that are finished.

        Raises:
            TimeoutError: a worker is gone with one of them. ResourceError: the scheduler is gone.
        """
        if not futures:
            return []
        with self._told():
            return list(_within(lambda: self._client.gather(futures, direct=False), ANSWER_SECONDS, self.stop))

    def error_of(self, future: Any) -> BaseException:
        """What a task ended with."""
        with self._told():
            error: BaseException = future.exception(timeout=ANSWER_SECONDS)
            return error

    def ask(self, what: str, *arguments: Any, **named: Any) -> Any:
        """Calls a method of Dask's client.

        Raises:
            ResourceError: the scheduler is gone, or does not answer.
        """
        if self._client.status != "running":
            raise self.gone()
        call = partial(getattr(self._client, what), *arguments, **named)
        try:
            with self._told():
                return _within(call, ANSWER_SECONDS, None if self.stop.asked else self.stop)
        except TimeoutError:
            raise self.gone() from None

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Tells what Dask raises when its scheduler goes in the middle of a question."""
        try:
            yield
        except TimeoutError:
            raise
        except (OSError, CancelledError):
            raise self.gone() from None

    def check(self) -> None:
        """Looks whether to go on.

        Raises:
            KeyboardInterrupt: a stop was asked for. ResourceError: the scheduler is gone.
        """
        self.stop.check()
        if self._client.status != "running":
            raise self.gone()

    def num_threads(self) -> int:
        """Counts the threads of all workers, which may come and go. Waits for the first one.

        Raises:
            ResourceError: there was none for too long, or the scheduler is gone.
        """
        began = time.monotonic()
        while time.monotonic() - self._counted > COUNT_SECONDS:
            self.check()
            self._threads, self._counted = sum(self.ask("nthreads").values()), time.monotonic()
            if self._threads:
                break
            if self._counted - began > WORKERS_SECONDS:
                what = f"the Dask scheduler at {self.where} has had no worker for {WORKERS_SECONDS:.0f} s"
                raise ResourceError(what, todo=f"Start workers with `dask worker`, then: {_again()}")
            self._counted = 0.0
            time.sleep(POLL_SECONDS)
        return self._threads

    def gone(self) -> ResourceError:
        """Tells that the connection is lost, or that somebody else cancelled the tasks."""
        return ResourceError(
            f"the Dask scheduler at {self.where} is gone, does not answer or has dropped the tasks",
            todo=f"What was measured is kept, what was committed stays. Start the cluster again, then: {_again()}",
        )


def _again() -> str:
    return command(*door().words) if door().program else "make the same call again"


def connect(where: str, stop: Stop) -> Cluster:
    """Connects to a scheduler.

    Args:
        where: `dask:` and its address, or the file that it has written (`dask scheduler --scheduler-file`).

    Raises:
        UsageError: Dask is not installed, or this names no scheduler. ResourceError: none answers there.
    """
    try:
        from distributed import Client
    except ImportError:
        todo = "Run: pip install 'dateshard[distributed]'"
        raise UsageError("--engine dask: the package distributed is not installed", todo=todo) from None
    _silence()
    named = where.removeprefix(PREFIX)
    is_file = "://" not in named and not named.rpartition(":")[2].isdecimal()
    if is_file and not Path(named).is_file():
        problem = f"--engine {where}: there is no such file, and an address is written as tcp://HOST:PORT"
        raise UsageError(problem, todo=f"{START}; `dask scheduler --scheduler-file FILE` writes the file")
    place: dict[str, Any] = {"scheduler_file": named} if is_file else {"address": named}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of versions, which are compared here by name
            call = partial(Client, timeout=ANSWER_SECONDS / 2, set_as_default=False, **place)
            client = _within(call, ANSWER_SECONDS, stop)
    except (OSError, TimeoutError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ResourceError(f"no Dask scheduler answers at {named} ({reason})", todo=START) from None
    return Cluster(client, named, stop)


def _silence() -> None:
    """Mutes Dask's own log, which tells with traces what is told here in a sentence."""
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] == "distributed":
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def _within(call: Callable[[], Any], seconds: float, stop: Stop | None = None) -> Any:
    """Calls in another thread, and waits no longer than so: nothing interrupts a call while it holds a lock of Dask's.

    Raises:
        TimeoutError: it has not returned. KeyboardInterrupt: a stop was asked for.
    """
    answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
    threading.Thread(target=lambda: answers.put(_answer(call)), daemon=True).start()
    end = time.monotonic() + seconds
    while True:
        with suppress(Empty):
            answer, error = answers.get(timeout=POLL_SECONDS)
            if error is not None:
                raise error
            return answer
        if stop:
            stop.check()
        if time.monotonic() > end:
            raise TimeoutError


def _answer(call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return call(), None
    except BaseException as error:
        return None, error
