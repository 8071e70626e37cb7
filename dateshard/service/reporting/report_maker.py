"""Has reports made, one at a time, each in a process of its own: an evaluation needs memory and torch, the server neither.

Nothing waits for a process: whoever asks how a report stands also notices that one has ended, and begins the next.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from dateshard.reports.page_files import page_is_old, page_of
from dateshard.service.jobs.service_folder import ServiceFolder
from dateshard.service.jobs.supervisor import last_lines
from dateshard.settings import Settings

Kind = Literal["run", "data"]
Standing = Literal["none", "waiting", "making", "ready", "old", "failed"]
MOST_WAITING, MOST_SECONDS, NICE = 20, 3600.0, 10
MOST_FAILURES = 100  # that are remembered


class Report(NamedTuple):
    """A report by the run or the dataset that it is about."""

    kind: Kind
    name: str


@dataclass(frozen=True, slots=True)
class ReportStanding:
    """Where a report stands; `old` can be read, but training or preparing went on since it was made."""

    state: Standing
    reason: str = ""


class ReportMaker:
    """Makes the reports of one data folder.

    Args:
        settings: the server's own configuration, which says how its dataset is prepared.
    """

    def __init__(self, folder: ServiceFolder, settings: Settings | None = None) -> None:
        self.folder, self.settings = folder, settings
        self.waiting: list[Report] = []
        self.failures: dict[Report, str] = {}
        self._now: tuple[Report, subprocess.Popen[bytes], float] | None = None
        self._lock = threading.Lock()

    def path(self, report: Report) -> Path:
        """Where a report lies, once it is made."""
        if report.kind == "run":
            return page_of(self.folder.runs / report.name)
        return self.folder.data / "reports" / f"{report.name}.html"

    def standing(self, report: Report) -> ReportStanding:
        """Where a report stands."""
        with self._lock:
            self._advance()
            if self._now and self._now[0] == report:
                return ReportStanding("making")
            if report in self.waiting:
                return ReportStanding("waiting")
            if report in self.failures:
                return ReportStanding("failed", self.failures[report])
        if not self.path(report).exists():
            return ReportStanding("none")
        return ReportStanding("old" if self._is_old(report) else "ready")

    def make(self, report: Report) -> bool:
        """Has a report made, unless it is on its way; tells False where too many wait."""
        with self._lock:
            self._advance()
            if report in self.waiting or (self._now and self._now[0] == report):
                return True
            if len(self.waiting) >= MOST_WAITING:
                return False
            self.failures.pop(report, None)
            self.waiting.append(report)
            self._advance()
            return True

    def end(self) -> None:
        """Makes no more reports; one that is half made is not kept."""
        with self._lock:
            self.waiting.clear()
            if self._now:
                self._now[1].kill()
                self._now[1].wait()
                self._now = None

    def _is_old(self, report: Report) -> bool:
        if report.kind == "run":
            return page_is_old(self.folder.runs / report.name)
        current = self.folder.data / "shards" / report.name / "CURRENT"
        return current.exists() and current.stat().st_mtime > self.path(report).stat().st_mtime

    def _advance(self) -> None:
        """Notices the end of the process at work, and begins the next; holds the lock."""
        if self._now:
            report, process, began = self._now
            if process.poll() is None:
                if time.monotonic() - began > MOST_SECONDS:
                    process.kill()
                return
            self._now = None
            if process.returncode:
                while len(self.failures) >= MOST_FAILURES:
                    del self.failures[next(iter(self.failures))]
                said = " ".join(last_lines(self._log, 3))
                self.failures[report] = said or f"its process ended with exit code {process.returncode}"
        if self.waiting:
            self._begin(self.waiting.pop(0))

    @property
    def _log(self) -> Path:
        return self.folder.path / "report.log"

    def _begin(self, report: Report) -> None:
        asked = self.folder.path / "report.json"
        asked.write_text("null" if self.settings is None else self.settings.model_dump_json())
        with open(asked, "rb") as given, open(self._log, "wb") as log:
            process = subprocess.Popen(
                command_of(self.folder.data, report),
                stdin=given,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "DATESHARD_DATA": str(self.folder.data)},
            )
        os.setpriority(os.PRIO_PROCESS, process.pid, NICE)
        self._now = (report, process, time.monotonic())


def command_of(data: Path, report: Report) -> list[str]:
    """The process that makes a report."""
    if report.kind == "run":
        return [sys.executable, "-m", "dateshard", "report", report.name]
    return [sys.executable, "-m", "dateshard.service.reporting.data_report_process", str(data), report.name]
