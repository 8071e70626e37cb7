"""What an engine is: it runs the tasks of a plan somewhere. And what becomes of a task in the process that runs it."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from dateshard.pipeline.workers.stopping import Stop
from dateshard.shardstore.errors import DateshardError, ResourceError

MORE_MEMORY = "If memory ran out: lower --memory-limit, or run with --workers 1"
Task = tuple[Any, Callable[..., Any], tuple[Any, ...]]  # (label, function, arguments)


class Engine(Protocol):
    """Runs tasks: processes of this machine (`pool.Workers`), or a cluster. A context manager."""

    @property
    def stop(self) -> Stop:
        """Says whether a stop was asked for."""

    @property
    def num_workers(self) -> int:
        """How many tasks run at once."""

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Any, Any]]:
        """Yields (label, result or DateshardError) as tasks end, in no order; `Again` says that a label comes later.

        Leaving the iteration early ends what is still running.

        Raises:
            KeyboardInterrupt: a stop was asked for; nothing runs any more.
            Exception: what a task raised beside DateshardError: the program, not the date, is at fault.
        """

    def end(self) -> None:
        """Ends what is still running, whatever it is doing: what it publishes is whole or not there."""

    def __enter__(self) -> Self:
        """Enters the context in which tasks are run."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Leaves it: nothing runs any more."""


@dataclass(frozen=True, slots=True)
class Again:
    """A task whose worker was lost, to be run once more, alone, after all others."""

    why: str


@dataclass(frozen=True, slots=True)
class Lost:
    """What a worker, or its memory, came to in the middle of a task."""

    why: str


@dataclass(frozen=True, slots=True)
class Raised:
    """An exception that is no date's failure but a fault of the program or the machine."""

    error: BaseException


def run_lost_again(
    run_all: Callable[[Iterable[Task]], Iterator[tuple[Task, Any]]],
    run_alone: Callable[[Task], Iterator[tuple[Task, Any]]],
    tasks: Iterable[Task],
    remedy: str,
) -> Iterator[tuple[Any, Any]]:
    """Runs tasks as `Engine.run` does; those whose worker was lost once more, each alone, after all others.

    Args:
        run_all: yields (task, outcome) of all tasks. run_alone: of one, while nothing else runs, in a fresh process.
        remedy: what to do about a task that is lost twice.
    """
    suspects: list[tuple[Task, str]] = []
    for task, outcome in run_all(tasks):
        if isinstance(outcome, Lost):
            suspects.append((task, outcome.why))
            yield task[0], Again(outcome.why)
        else:
            yield task[0], outcome
    for suspect, why in suspects:
        for (label, *_), outcome in run_alone(suspect):
            yield label, _convicted(why, outcome.why, remedy) if isinstance(outcome, Lost) else outcome


def _convicted(first: str, second: str, remedy: str) -> ResourceError:
    what = f"its worker process {first}, and when it ran alone, without any other worker, it {second}"
    return ResourceError(what, todo=f"{remedy}. The other dates are prepared without it")


def outcome_of(task: bytes) -> Any:
    """Runs a pickled (function, arguments) in a worker; whatever happens is a value that can be sent."""
    try:
        return guarded(*pickle.loads(task))
    except Exception as error:  # raised again in the parent
        return Raised(_portable(error))


def guarded(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Runs a task; a date's failure and memory that runs out are values."""
    try:
        return function(*arguments)
    except DateshardError as error:
        return error
    except MemoryError:
        return Lost("ran out of memory")


def _portable(error: Exception) -> BaseException:
    """The error with its trace as a note; only its text, where its kind cannot travel between processes."""
    try:
        error.add_note(traceback.format_exc())
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(traceback.format_exc())
