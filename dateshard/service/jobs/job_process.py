"""The process of a job: it trains as the command does, tells the job's log, and asks the table whether it shall stop.

python -m dateshard.service.jobs.job_process DATA JOB ATTEMPT
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dateshard.service.jobs.job_group import run_job_in_processes
from dateshard.service.jobs.job_states import AT_REST
from dateshard.service.jobs.job_table import JobTable, ServiceJob
from dateshard.service.jobs.process_identity import identity_of
from dateshard.service.jobs.service_folder import ServiceFolder
from dateshard.shardstore.commands import Door, stand_at
from dateshard.shardstore.errors import DateshardError, of_memory, of_system
from dateshard.terminal.signals import StopSignal
from dateshard.trainer.devices.gone import ProcessGoneError

if TYPE_CHECKING:
    from dateshard.trainer.loop import Ended
    from dateshard.training.train import TrainingEvent

ASKED_SECONDS = 0.2  # between two questions to the table
PAUSED = 75  # exit code: saved, and to be continued
ENDS = {
    "early stopping": "early_stopped",
    "memory limit": "paused",
}  # of a training -> state of its job; else completed


def run_job(data: Path, job_id: str, attempt: int) -> int:
    """Takes a job and trains it until its end, or until the table asks for a stop; returns the exit code.

    A job in several processes is taken by the first of them, which alone writes to the table.
    """
    table, rank = JobTable.open(ServiceFolder(data).path), os.environ.get("RANK")
    stand_at(Door(("dateshard",)))
    if rank is None and (count := table.processes(job_id)) > 1:
        words = [sys.executable, "-m", "dateshard.service.jobs.job_process", str(data), job_id, str(attempt)]
        return run_job_in_processes(table, job_id, attempt, words, count)
    with StopSignal() as stop:
        if rank not in (None, "0"):
            return _go_along(table.job(job_id), data, stop)
        process = identity_of(os.getpid())
        assert process is not None, "this process runs"
        job = table.claim(job_id, attempt, process)
        if job is None:  # another process was started for it since
            return 0
        return _train_and_settle(table, job, data, stop)


def _train_and_settle(table: JobTable, job: ServiceJob, data: Path, stop: StopSignal) -> int:
    try:
        ended = None if _wish(table, job) else _train(table, job, data, stop.asked)
    except ProcessGoneError as error:  # who started them all knows which one, and why
        print_line(str(error))
        return error.exit_code
    except Exception as error:
        reason, code = _failure(error)
        print_line(f"failed: {reason}")
        table.settle(job, "failed", reason)
        return code
    if ended is None or ended.why == "stopped":
        state = _wish(table, job) or "interrupted"
        table.settle(job, state, "a signal ended its process, which saved first" if state == "interrupted" else "")
        return PAUSED
    state = ENDS.get(ended.why, "completed")
    reason = f"its process held more than its {ended.why}" if state == "paused" else ended.why
    table.settle(job, state, reason)
    return PAUSED if state == "paused" else 0


def _go_along(job: ServiceJob, data: Path, stop: StopSignal) -> int:
    """Trains in a process that is not the first one, which hears what requests want and tells the others."""
    try:
        _run(job, data, lambda _: None, stop.asked)
        return 0
    except Exception as error:
        reason, code = _failure(error)
        print_line(reason)
        return code


def _failure(error: Exception) -> tuple[str, int]:
    """What failed in words, and the exit code; of what nobody foresaw the traceback goes to the log."""
    failure = error if isinstance(error, DateshardError) else of_memory(error)
    if failure is None and isinstance(error, OSError):
        failure = of_system(error)
    if failure is None:
        traceback.print_exc()
    return str(failure or f"{type(error).__name__}: {error}"), failure.exit_code if failure else 1


def _wish(table: JobTable, job: ServiceJob) -> str | None:
    """The state that a request wants the job to rest in; None: it shall go on."""
    state = table.state(job.id)
    wishes = {"pausing": "paused", "stopping": "stopped"} | dict.fromkeys((*AT_REST, "deleted"), "interrupted")
    return wishes.get(state)


def _train(table: JobTable, job: ServiceJob, data: Path, signalled: Callable[[], bool]) -> Ended:
    """Trains the job's run, records its events, and asks the table now and then whether it shall stop."""
    from dateshard.service.jobs.event_recorder import EventRecorder
    from dateshard.terminal.screen import Screen
    from dateshard.training.train_command import Shown

    shown, due = Shown(Screen(works=True), EventRecorder(table, job).watch), 0.0

    def should_stop() -> bool:
        nonlocal due
        if (now := time.monotonic()) < due:
            return signalled()
        due = now + ASKED_SECONDS
        return signalled() or _wish(table, job) is not None

    try:
        return _run(job, data, shown.watch, should_stop)
    finally:
        shown.close()


def _run(job: ServiceJob, data: Path, watch: Callable[[TrainingEvent], None], should_stop: Callable[[], bool]) -> Ended:
    """Trains the job's run, which is called like the job; continues it where it is there already."""
    from dateshard.places import data_in
    from dateshard.settings import validate
    from dateshard.training.train import TrainRequest, run_training

    there = (ServiceFolder(data).runs / job.id / "run.json").exists()
    request = TrainRequest(resume=job.id) if there else TrainRequest(name=job.id, save_dir=job.save_dir)
    with data_in(data):
        return run_training(validate(job.settings), request, watch=watch, should_stop=should_stop)


def print_line(text: str) -> None:
    """Writes a line to the job's log."""
    from dateshard.terminal.screen import put

    put(text, sys.stderr)


if __name__ == "__main__":
    ended = run_job(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ended)  # all is written; taking torch apart would hold the memory for another half a second of CPU
