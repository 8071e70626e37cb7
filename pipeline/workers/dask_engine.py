"""Tasks on a Dask cluster: the same plan, the same bytes, the one commit by this process.

The cluster shares a file system with this machine, and runs the same code; both are looked at before a task is given to
it. Workers publish into the store and return small receipts (docs/clusters.md, docs/decisions/0078).
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from dateshard.pipeline.workers.dask_client import Cluster
from dateshard.pipeline.workers.dask_worker import Unfit, WorkerFacts, end_run, look, run_durably, run_task
from dateshard.pipeline.workers.engine import Lost, Raised, Task, run_lost_again
from dateshard.pipeline.workers.parcels import Packer
from dateshard.pipeline.workers.same_everywhere import PROOF, Expected, some_of, versions
from dateshard.pipeline.workers.stopping import Stop
from dateshard.shardstore.commands import door
from dateshard.shardstore.errors import ResourceError, UsageError, counted

POLL_SECONDS = 0.05
TASKS_A_THREAD = 4  # that wait at the scheduler, so that no thread waits for this process
MORE_MEMORY = "If memory ran out: give the workers more (dask worker --memory-limit) or fewer threads (--nthreads)"
SHOWN_WORKERS = 3


class DaskEngine:
    """Runs tasks on the workers of a cluster. An `Engine`.

    Owns: a folder in the store's staging/.
    """

    def __init__(self, cluster: Cluster, root: Path, dumps: Sequence[Path], most: int | None = None) -> None:
        """Looks at the workers.

        Args:
            root: of the store. dumps: that are going to be read.
            most: tasks at once, if not as many as the cluster has threads.

        Raises:
            UsageError: a worker that is not fit for this preprocess.
            ResourceError: the cluster is gone, or has no worker.
        """
        self._cluster, self._most, self._futures = cluster, most, dict[Any, Task]()
        run, self._folder = uuid.uuid4().hex, root / "staging" / uuid.uuid4().hex
        self._folder.mkdir(parents=True)
        self._packer = Packer(self._folder)
        (self._folder / PROOF).write_text(run)
        self._expected = Expected(
            run=run,
            door=door(),
            working_directory=str(Path.cwd()),
            folder=self._folder,
            proof=run,
            dumps=some_of(dumps),
            versions=versions(),
        )
        self.task_bytes = self._look()

    @property
    def stop(self) -> Stop:
        """Says whether a stop was asked for."""
        return self._cluster.stop

    @property
    def num_workers(self) -> int:
        """How many tasks run at once."""
        return min(self._cluster.num_threads(), self._most or 1 << 30)

    def __enter__(self) -> DaskEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Any, Any]]:
        """Runs tasks as `Engine.run` says."""
        for label, outcome in run_lost_again(self._drain, self._alone, tasks, MORE_MEMORY):
            if isinstance(outcome, ResourceError) and "--memory-limit" in outcome.todo:  # an option of this machine
                yield label, ResourceError(outcome.what, where=outcome.where, todo=f"{MORE_MEMORY}. {OTHERS}")
            else:
                yield label, outcome

    def end(self) -> None:
        """Ends what is running, and the processes that wait for more. Returns when none of them is left."""
        futures, self._futures = list(self._futures), {}
        with suppress(ResourceError):
            if futures:
                self._cluster.ask("cancel", futures, force=True)
            self._cluster.ask("run", end_run, self._expected.run, on_error="ignore")
        self._expected = replace(self._expected, run=uuid.uuid4().hex)  # what ended stays so; more may be run

    def _look(self) -> int:
        """Looks at all workers there are; returns what a task may hold on any of them. Later ones look at their first task."""
        self._cluster.num_threads()
        while not (answers := self._cluster.ask("run", look, self._expected, on_error="return")):
            self._cluster.num_threads()  # the last one has just gone
        unfit = [Unfit(worker, _why(answer)) for worker, answer in answers.items()]
        if unfit := [worker for worker in unfit if worker.why]:
            raise _refused(unfit)
        return min(int(answer.task_bytes) for answer in answers.values())

    def _alone(self, task: Task) -> Iterator[tuple[Task, Any]]:
        return self._drain([task], alone=True)

    def _drain(self, tasks: Iterable[Task], *, alone: bool = False) -> Iterator[tuple[Task, Any]]:
        waiting = iter(tasks)
        try:
            while True:
                self._cluster.check()
                for task in islice(waiting, self._room()):
                    self._futures[self._submit(task, alone=alone)] = task
                if not self._futures:
                    return
                if ended := [future for future in self._futures if future.status in ("finished", "error", "cancelled")]:
                    yield from self._take(ended)
                else:
                    time.sleep(POLL_SECONDS)
        finally:
            if self._futures:
                self.end()

    def _room(self) -> int:
        most = self._most or TASKS_A_THREAD * self._cluster.num_threads()
        return max(0, most - len(self._futures))

    def _submit(self, task: Task, *, alone: bool) -> Any:
        label, function, arguments = task
        data = self._packer.packed(run_durably, (self._expected.working_directory, function, arguments))
        key = f"{function.__name__}-{getattr(label, 'date', label)}-{uuid.uuid4().hex[:8]}"
        return self._cluster.submit(run_task, self._expected, data, alone=alone, key=key)

    def _take(self, ended: list[Any]) -> Iterator[tuple[Task, Any]]:
        """Yields (task, outcome) of what ended. What a worker took with it meanwhile is made again, and ends later."""
        finished, outcomes = [future for future in ended if future.status == "finished"], list[Any]()
        with suppress(TimeoutError):  # of the question, not of a task
            outcomes = self._cluster.gather(finished)
        for future, outcome in zip(finished, outcomes, strict=False):
            yield self._futures.pop(future), self._judged(outcome)
        for future in ended:
            if future.status == "cancelled":
                raise self._cluster.gone()
            if future.status == "error":
                yield self._futures.pop(future), self._why_lost(future)

    def _judged(self, outcome: Any) -> Any:
        if isinstance(outcome, Unfit):
            raise _refused([outcome])
        if isinstance(outcome, Raised):
            raise outcome.error
        if outcome is None:
            raise self._cluster.gone()
        return outcome

    def _why_lost(self, future: Any) -> Lost:
        """Says which worker a task was last lost with.

        Raises:
            UsageError: the worker cannot even begin it.
        """
        from distributed import KilledWorker

        error = self._cluster.error_of(future)
        if isinstance(error, KilledWorker):
            return Lost(
                f"was lost with {counted(error.allowed_failures + 1, 'worker')} of the cluster, one after the other"
            )
        raise UsageError(f"a worker of the cluster cannot begin a task ({_brief(error)})", todo=SAME) from None


OTHERS = "The other dates are prepared without it"
SAME = "Install the same environment on this machine and on all workers, and start the workers again"
SHARED = "The working directory, DATESHARD_DATA and the dumps must lie on a file system that all of them share, at the same path"


def _why(answer: Any) -> str:
    if isinstance(answer, WorkerFacts):
        return answer.why_unfit
    return f"cannot import what dateshard needs ({_brief(answer)})"


def _brief(error: Any) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _refused(unfit: Sequence[Unfit]) -> UsageError:
    """Names the first workers that are unfit, and why."""
    shown = "; ".join(f"worker {worker.worker} {worker.why}" for worker in unfit[:SHOWN_WORKERS])
    more = f"; and {len(unfit) - SHOWN_WORKERS} more" if len(unfit) > SHOWN_WORKERS else ""
    remedy = SHARED if any(" see " in worker.why or " write " in worker.why for worker in unfit) else SAME
    return UsageError(f"the cluster is not fit for this preprocess: {shown}{more}", todo=remedy)
