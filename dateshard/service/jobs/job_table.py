"""The table of jobs and the log of their events: every change of a state is one transaction with the event that tells it."""

from __future__ import annotations

import itertools
import json
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dateshard.service.jobs.database import Database
from dateshard.service.jobs.job_states import ACTIVE, AT_REST, LAST_EVENT, moved
from dateshard.service.jobs.process_identity import ProcessIdentity
from dateshard.shardstore.errors import NotThereError, shorten

Data = Mapping[str, Any]
KEPT_BATCHES = 10_000  # newest events of single batches that a job keeps; all others stay


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceJob:
    """One job as it stands.

    Attributes:
        body: what was asked for, with its defaults. settings: the configuration made of it. save_dir: of its checkpoints.
        queued: when it was last put into the queue. attempt: counts its processes. process: the last one that took it.
    """

    id: str
    name: str
    body: Data
    settings: Data
    save_dir: str | None
    state: str
    reason: str
    created: float
    queued: float
    ended: float | None
    attempt: int
    process: ProcessIdentity | None


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One line of the log: its id, its type and its data as JSON text."""

    id: int
    type: str
    data: str


@dataclass(frozen=True, slots=True)
class JobOrder:
    """What a new job shall do: the body as it was asked for, the configuration made of it, and where checkpoints go."""

    body: Data
    settings: Data
    save_dir: Path | None


class JobTable:
    """Jobs and their events in the service's database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    @staticmethod
    def open(folder: Path) -> JobTable:
        """Opens the database in the service's folder."""
        return JobTable(Database(folder))

    def add(self, wanted: str, name: str, order: JobOrder, runs: Path) -> str:
        """Queues a new job, within a transaction, under this id, or `<id>_2` and so on where a job or a run has it.

        Args:
            runs: the folder of all runs: the job's run will be called like the job.
        """
        now, sql = time.time(), "SELECT id FROM jobs WHERE id LIKE ?"
        taken = {row[0] for row in self.database.rows(sql, (f"{wanted}%",))}
        names = itertools.chain([wanted], (f"{wanted}_{count}" for count in itertools.count(2)))
        job = next(name for name in names if name not in taken and not (runs / name).exists())
        save_dir = None if order.save_dir is None else str(order.save_dir / job)
        self.database.changed(
            "INSERT INTO jobs(id, name, body, settings, save_dir, state, created, queued) VALUES(?,?,?,?,?,?,?,?)",
            (job, name, _text(order.body), _text(order.settings), save_dir, "queued", now, now),
        )
        self._move(job, "queued", "", self._last_place())
        return job

    def job(self, job: str) -> ServiceJob:
        """Looks one job up.

        Raises:
            NotThereError: there is none of that id.
        """
        rows = self.database.rows("SELECT * FROM jobs WHERE id = ?", (job,))
        if not rows:
            raise NotThereError(
                f"there is no job '{shorten(job)}'", todo="`jobs list` or GET /api/v1/epoch-training/jobs has them all"
            )
        return _job(rows[0])

    def newest(
        self, state: str | None = None, before: tuple[float, str] | None = None, most: int = 50
    ) -> list[ServiceJob]:
        """Jobs, newest first.

        Args:
            before: (created, id) of the last job of the page before.
        """
        moment, last = before or (float("inf"), "")
        sql = "SELECT * FROM jobs WHERE (created, id) < (?, ?) AND (? IS NULL OR state = ?) ORDER BY created DESC, id DESC"
        return [_job(row) for row in self.database.rows(f"{sql} LIMIT ?", (moment, last, state, state, most))]

    def active(self) -> list[ServiceJob]:
        """Jobs that have, or may have, a process."""
        return self._in(*ACTIVE)

    def queue(self) -> list[ServiceJob]:
        """Jobs that wait, the next one first."""
        return self._in("queued")

    def counts(self) -> dict[str, int]:
        """How many jobs are in each state."""
        return {row[0]: row[1] for row in self.database.rows("SELECT state, count(*) FROM jobs GROUP BY state")}

    def position(self, job: ServiceJob) -> int | None:
        """The place in the queue, from 1; None where it is not queued."""
        if job.state != "queued":
            return None
        sql = "SELECT count(*) FROM jobs WHERE state = 'queued' AND (queued, rowid) < (?, (SELECT rowid FROM jobs WHERE id = ?))"
        return int(self.database.rows(sql, (job.queued, job.id))[0][0]) + 1

    def ask(self, job: str, act: str) -> ServiceJob:
        """Moves a job as `pause`, `resume` or `stop` asks; returns it as it stands then.

        Raises:
            NotThereError: there is none. IllegalMoveError: its state does not allow it.
        """
        with self.database.writing():
            there = moved(job, act, self.job(job).state)
            self.database.changed("UPDATE jobs SET reason = '' WHERE id = ?", (job,))
            if there == "queued":
                self.database.changed("UPDATE jobs SET queued = ?, ended = NULL WHERE id = ?", (time.time(), job))
            self._move(job, there, "", self._last_place(job) if there == "queued" else None)
        return self.job(job)

    def delete(self, job: str) -> None:
        """Removes a job at rest with its events; its run and checkpoints stay.

        Raises:
            NotThereError: there is none. IllegalMoveError: it is not at rest.
        """
        with self.database.writing():
            moved(job, "delete", self.job(job).state)
            for table, column in (("jobs", "id"), ("events", "job"), ("idempotency", "job")):
                self.database.changed(f"DELETE FROM {table} WHERE {column} = ?", (job,))

    def begin(self, job: str) -> ServiceJob | None:
        """Takes a job out of the queue for a new process; None where it is queued no more."""
        sql = "UPDATE jobs SET attempt = attempt + 1, pid = NULL WHERE id = ? AND state = 'queued'"
        with self.database.writing():
            if not self.database.changed(sql, (job,)):
                return None
            self._move(job, "starting", "")
        return self.job(job)

    def requeue(self, job: ServiceJob) -> None:
        """Puts a job back whose process was never heard of; that process, if it comes, is refused by its attempt."""
        after = {"starting": "queued", "pausing": "paused", "stopping": "stopped"}
        with self.database.writing():
            sql = "UPDATE jobs SET attempt = attempt + 1 WHERE id = ? AND attempt = ? AND pid IS NULL AND state = ?"
            if job.state in after and self.database.changed(sql, (job.id, job.attempt, job.state)):
                self._move(job.id, after[job.state], "")

    def claim(self, job: str, attempt: int, process: ProcessIdentity) -> ServiceJob | None:
        """A process takes the job that it was started for; None where another one was started since."""
        sql = (
            "UPDATE jobs SET pid = ?, pid_started = ?, boot = ? WHERE id = ? AND attempt = ? AND pid IS NULL "
            "AND state IN ('starting', 'pausing', 'stopping')"
        )
        with self.database.writing():
            if not self.database.changed(sql, (*process, job, attempt)):
                return None
            return self.job(job)

    def state(self, job: str) -> str:
        """The state of a job; `deleted` where it is gone."""
        rows = self.database.rows("SELECT state FROM jobs WHERE id = ?", (job,))
        return str(rows[0][0]) if rows else "deleted"

    def processes(self, job: str) -> int:
        """Counts the processes that a job trains in; 1 where it is gone."""
        rows = self.database.rows("SELECT body FROM jobs WHERE id = ?", (job,))
        return int(json.loads(rows[0][0]).get("devices", 1)) if rows else 1

    def run(self, job: ServiceJob, data: Data) -> None:
        """Notes that the training itself began; a pause or stop that was asked for meanwhile stays asked for."""
        with self.database.writing():
            if self.state(job.id) == "starting":
                self._move(job.id, "running", "", data)

    def settle(self, job: ServiceJob, state: str, reason: str = "") -> bool:
        """Brings a job to rest, unless another process has it by now or it rests already; tells whether it did."""
        ends = ",".join("?" * len(ACTIVE))
        sql = f"UPDATE jobs SET ended = ? WHERE id = ? AND attempt = ? AND state IN ({ends})"
        with self.database.writing():
            if not self.database.changed(sql, (time.time(), job.id, job.attempt, *ACTIVE)):
                return False
            self._move(job.id, state, reason)
        return True

    def tell(self, job: str, kind: str, data: Data) -> None:
        """Adds one event; it reads `{"type": kind, "task_id": job, ...}`."""
        text = _text({"type": kind, "task_id": job, **data})
        sql = "INSERT INTO events(job, type, at, data) VALUES(?,?,?,?)"
        self.database.changed(sql, (job, kind, time.time(), text))

    def thin(self, job: str) -> None:
        """Removes the events of single batches but the newest ones."""
        sql = (
            "DELETE FROM events WHERE job = ? AND type = 'batch' AND id <= "
            "(SELECT id FROM events WHERE job = ? AND type = 'batch' ORDER BY id DESC LIMIT 1 OFFSET ?)"
        )
        self.database.changed(sql, (job, job, KEPT_BATCHES))

    def events(self, job: str, after: int, most: int = 200) -> tuple[list[JobEvent], bool]:
        """The events behind an id, the oldest first, and whether they are the last: the job rests and no more are there."""
        with self.database.reading():
            sql = "SELECT id, type, data FROM events WHERE job = ? AND id > ? ORDER BY id LIMIT ?"
            rows = self.database.rows(sql, (job, after, most + 1))
            over = len(rows) <= most and self.state(job) in (*AT_REST, "deleted")
        return [JobEvent(*row) for row in rows[:most]], over

    def recorded(self, job: str, kind: str) -> list[dict[str, Any]]:
        """The data of all events of a type, the oldest first."""
        rows = self.database.rows("SELECT data FROM events WHERE job = ? AND type = ? ORDER BY id", (job, kind))
        return [json.loads(row[0]) for row in rows]

    def last(self, job: str, kind: str) -> dict[str, Any] | None:
        """The data of the newest event of a type."""
        sql = "SELECT data FROM events WHERE job = ? AND type = ? ORDER BY id DESC LIMIT 1"
        rows = self.database.rows(sql, (job, kind))
        return dict(json.loads(rows[0][0])) if rows else None

    def _in(self, *states: str) -> list[ServiceJob]:
        places = ",".join("?" * len(states))
        sql = f"SELECT * FROM jobs WHERE state IN ({places}) ORDER BY queued, rowid"
        return [_job(row) for row in self.database.rows(sql, states)]

    def _last_place(self, newcomer: str = "") -> Data:
        """The place of a job that comes to the end of the queue; it may be counted already."""
        sql = "SELECT count(*) FROM jobs WHERE state = 'queued' AND id != ?"
        waiting = int(self.database.rows(sql, (newcomer,))[0][0])
        return {"position": waiting + 1 if newcomer else waiting}

    def _move(self, job: str, state: str, reason: str, data: Data | None = None) -> None:
        """Changes the state, within a transaction, and adds the event that tells it."""
        self.database.changed("UPDATE jobs SET state = ?, reason = ? WHERE id = ?", (state, reason, job))
        kind = LAST_EVENT.get(state, state)
        self.tell(job, kind, {"training_state": state, "reason": reason, **(data or {})})


def _text(data: Data) -> str:
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _job(row: sqlite3.Row) -> ServiceJob:
    process = None if row["pid"] is None else ProcessIdentity(row["pid"], row["pid_started"], row["boot"])
    kept = ("id", "name", "save_dir", "state", "reason", "created", "queued", "ended", "attempt")
    texts = {name: json.loads(row[name]) for name in ("body", "settings")}
    return ServiceJob(**{name: row[name] for name in kept}, **texts, process=process)
