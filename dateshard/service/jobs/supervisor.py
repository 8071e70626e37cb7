"""Starts the process of each job whose turn it is, and notices when one is gone; also those of a server before it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from dateshard.service.jobs.job_states import ACTIVE
from dateshard.service.jobs.job_table import JobTable, ServiceJob
from dateshard.service.jobs.process_identity import is_alive
from dateshard.service.jobs.service_folder import ServiceFolder
from dateshard.training.launch import PLACE

LOOKED_SECONDS = 0.1  # between two looks at the table and the processes
LAST_LINES = 50  # of a log, that an error is looked for in


class Process(Protocol):
    """A process that was started, of which only its end is asked."""

    def poll(self) -> int | None:
        """Returns the exit code, minus the number of a signal; None while it runs."""


Launch = Callable[[ServiceFolder, str, int], Process]


def launch_process(folder: ServiceFolder, job: str, attempt: int) -> Process:
    """Starts the process of a job in a session of its own, so that it lives on when the server ends."""
    log = folder.log(job)
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(log, "ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "dateshard.service.jobs.job_process", str(folder.data), job, str(attempt)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if name not in PLACE},  # that is the server's own
        )


class Supervisor:
    """One thread that keeps at most `max_jobs` processes at work.

    Args:
        launch: starts a process for (folder, job, attempt); it may come to nothing, which is noticed.
    """

    def __init__(self, table: JobTable, folder: ServiceFolder, max_jobs: int, launch: Launch = launch_process) -> None:
        self.table, self.folder, self.max_jobs, self.launch = table, folder, max_jobs, launch
        self.processes: dict[tuple[str, int], Process] = {}
        self.positions: dict[str, int] = {}
        self.failure = ""  # of the last look, until one succeeds
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def start(self) -> None:
        """Begins to look."""
        self._thread.start()

    def end(self) -> None:
        """Looks no more. Processes go on."""
        self._ending.set()
        self._thread.join()

    @property
    def is_well(self) -> bool:
        """Tells whether the thread lives and its last look succeeded."""
        return self._thread.is_alive() and not self.failure

    def _watch(self) -> None:
        while not self._ending.is_set():
            try:
                self.look()
                self.failure = ""
            except Exception as error:  # a full disk, a lock that is held too long: the next look may succeed
                self.failure = f"{type(error).__name__}: {error}"
            self._ending.wait(LOOKED_SECONDS)

    def look(self) -> None:
        """Brings jobs to rest whose process is gone, and starts processes for those whose turn it is."""
        for job in self.table.active():
            self._look_at(job)
        for key in [key for key, process in self.processes.items() if process.poll() is not None]:
            del self.processes[key]
        free = self.max_jobs - len(self.table.active())
        for job in self.table.queue()[: max(free, 0)]:
            self._begin(job)
        self._tell_positions(self.table.queue())

    def _look_at(self, job: ServiceJob) -> None:
        process = self.processes.get((job.id, job.attempt))
        alive = job.process is not None and is_alive(job.process)
        code = process.poll() if process else None
        if job.process is not None:
            if not alive and (process is None or code is not None):  # what started several of them tells how they ended
                self._note_gone(job, code)
        elif process is None:  # of a server before this one, which ended in between
            self.table.requeue(job)
        elif code is not None:
            self._note_gone(job, code)

    def _note_gone(self, job: ServiceJob, code: int | None) -> None:
        now = self.table.job(job.id)  # it may have told its end after it was looked at
        if now.state not in ACTIVE or now.attempt != job.attempt:
            return
        if now.process is None and code:
            last = last_lines(self.folder.log(job.id), LAST_LINES)
            self.table.settle(now, "failed", f"its process did not begin: {last[-1] if last else f'exit code {code}'}")
            return
        how = f"killed by {signal.Signals(-code).name}" if code and code < 0 else "gone without a word"
        number = f" {now.process.pid}" if now.process else ""
        self.table.settle(now, "interrupted", f"its process{number} was {how}; it goes on from its last checkpoint")

    def _begin(self, queued: ServiceJob) -> None:
        job = self.table.begin(queued.id)
        if job is None:
            return
        try:
            self.processes[job.id, job.attempt] = self.launch(self.folder, job.id, job.attempt)
        except OSError as error:
            self.table.settle(job, "failed", f"its process could not be started: {error.strerror}")

    def _tell_positions(self, waiting: Iterable[ServiceJob]) -> None:
        """Tells jobs in the queue where they stand, if that has changed."""
        now = {job.id: place for place, job in enumerate(waiting, start=1)}
        for job, place in now.items():
            known = self.positions.get(job) or (self.table.last(job, "queued") or {}).get("position")
            if known != place:
                self.table.tell(job, "position", {"position": place})
        self.positions = now


def last_lines(log: Path, most: int, most_bytes: int = 1 << 16) -> list[str]:
    """The last lines of a log; none where it is not there."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.path.getsize(log) - most_bytes))
            return file.read(most_bytes).decode(errors="replace").splitlines()[-most:]
    except OSError:
        return []
