"""Dates' acts in worker processes, or in this one. Failures are values: one date never stops another.

A worker has a connection of its own and one task at a time. There is no queue, no lock and no thread that a killed
worker, or an interrupted parent, could leave in a bad state; and a death names the one task that it ended
(docs/decisions/0012).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any

from dateshard.pipeline.workers.child_process import POLL_SECONDS, WorkerProcess, bury, start_process
from dateshard.pipeline.workers.engine import MORE_MEMORY, Lost, Raised, Task, guarded, run_lost_again
from dateshard.pipeline.workers.stopping import Stop
from dateshard.shardstore.errors import ResourceError


class Workers:
    """Runs tasks, in `num_workers` processes that start with the first task and stay until the end. An `Engine`."""

    def __init__(self, num_workers: int, stop: Stop | None = None) -> None:
        self.num_workers, self.stop = num_workers, stop or Stop()
        self._workers: list[WorkerProcess] = []

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
        yield from run_lost_again(
            lambda given: self._drain(iter(given), self.num_workers), self._alone, tasks, MORE_MEMORY
        )

    def end(self) -> None:
        """Ends all workers, whatever they are doing: what they publish is whole or not there."""
        for worker in self._workers:
            with suppress(OSError):
                worker.process.kill()
        for worker in self._workers:
            bury(worker)
        self._workers.clear()

    def _alone(self, task: Task) -> Iterator[tuple[Task, Any]]:
        self.end()  # no other process holds memory, and what this one has is fresh
        return self._drain(iter([task]), 1)

    def _here(self, tasks: Iterable[Task]) -> Iterator[tuple[Any, Any]]:
        for label, function, arguments in tasks:
            with self.stop.at_once():
                outcome = guarded(function, arguments)
            yield label, ResourceError(outcome.why, todo=MORE_MEMORY) if isinstance(outcome, Lost) else outcome

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

    def _idle(self, most: int) -> WorkerProcess | None:
        for worker in self._workers:
            if worker.task is None:
                return worker
        if len(self._workers) == most:
            return None
        self._workers.append(start_process())
        return self._workers[-1]

    def _give(self, worker: WorkerProcess, task: Task) -> bool:
        """False where the worker is gone: it was killed while it had nothing to do, which is no task's fault."""
        try:
            worker.connection.send(task[1:])
        except OSError:
            self._workers.remove(worker)
            bury(worker)
            return False
        worker.task = task
        return True

    def _take(self, worker: WorkerProcess) -> tuple[Task, Any]:
        """The outcome of the worker's task. A connection that ends is a worker that was killed."""
        task, worker.task = worker.task, None
        assert task
        try:
            outcome = worker.connection.recv()
        except (EOFError, OSError):
            self._workers.remove(worker)
            return task, Lost(bury(worker))
        if isinstance(outcome, Raised):
            raise outcome.error
        return task, outcome
