"""What those ask who keep a server running: whether it lives, whether it works, and figures for Prometheus."""

from __future__ import annotations

import time

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from dateshard.service.jobs.job_states import ACTIVE, STATES
from dateshard.service.jobs.job_table import ServiceJob
from dateshard.service.jobs.process_identity import memory_bytes
from dateshard.service.web.desk import READ, Desk, ToDesk
from dateshard.service.web.problems import ProblemDetails, ProblemError

router = APIRouter(tags=["health"])
STARTED = time.time()


class Health(BaseModel):
    """A server that is well."""

    status: str = "ok"


@router.get("/healthz")
def healthz() -> Health:
    """Tells that the process answers."""
    return Health()


@router.get("/readyz", responses={503: {"model": ProblemDetails}})
def readyz(desk: ToDesk) -> Health:
    """Tells that the database can be written and that jobs are started and watched."""
    if desk.ending():
        raise ProblemError(503, "the server is about to end")
    if not desk.supervisor.is_well:
        raise ProblemError(503, "jobs are not watched at the moment; the server's log says why")
    with desk.table.database.writing():
        pass
    return Health()


@router.get("/metrics", dependencies=[READ], response_class=PlainTextResponse)
def metrics(desk: ToDesk) -> PlainTextResponse:
    """Figures in the text format of Prometheus."""
    return PlainTextResponse("\n".join(_lines(desk)) + "\n", media_type="text/plain; version=0.0.4")


def _lines(desk: Desk) -> list[str]:
    counts, active = desk.table.counts(), desk.table.active()
    lines = _family("jobs", "gauge", "Jobs by state.")
    lines += [f'dateshard_jobs{{state="{state}"}} {counts.get(state, 0)}' for state in STATES]
    figures = {
        "max_jobs": (desk.supervisor.max_jobs, "Jobs that may have a process at one time."),
        "streams": (desk.streams.open, "Open streams of events."),
        "start_time_seconds": (round(STARTED, 3), "When the server started, seconds since 1970."),
        "supervisor_well": (int(desk.supervisor.is_well), "1 where jobs are started and watched."),
    }
    for name, (value, text) in figures.items():
        lines += [*_family(name, "gauge", text), f"dateshard_{name} {value}"]
    families = {
        "job_epoch": ("Epochs of a job that have ended.", [f"{_epoch(desk, job)}" for job in active]),
        "job_memory_bytes": ("Resident memory of a job's process.", [f"{_memory(job)}" for job in active]),
    }
    for name, (text, values) in families.items():
        lines += _family(name, "gauge", text)
        lines += [f'dateshard_{name}{{task_id="{job.id}"}} {value}' for job, value in zip(active, values, strict=True)]
    return lines


def _family(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP dateshard_{name} {text}", f"# TYPE dateshard_{name} {kind}"]


def _epoch(desk: Desk, job: ServiceJob) -> int:
    last = desk.table.last(job.id, "progress")
    return int(last["progress"]["current_epoch"]) if last else 0


def _memory(job: ServiceJob) -> int:
    held = memory_bytes(job.process.pid) if job.process and job.state in ACTIVE else None
    return held or 0
