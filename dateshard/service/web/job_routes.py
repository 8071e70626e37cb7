"""The routes beside those of the notes: the list of jobs, stop, delete, logs and checkpoints."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Query

from dateshard.documents.serving import (
    CheckpointFigures,
    CheckpointsAnswer,
    JobAnswer,
    JobRow,
    JobsAnswer,
    LogsAnswer,
    MoveAnswer,
)
from dateshard.service.jobs.job_states import ACTIVE, MOVES
from dateshard.service.jobs.job_table import ServiceJob
from dateshard.service.jobs.process_identity import memory_bytes
from dateshard.service.web.desk import READ, TRAIN, Desk, ToDesk
from dateshard.service.web.problems import ProblemError
from dateshard.service.web.training_routes import PREFIX, PROBLEMS, TaskId, move, progress_of

router = APIRouter(prefix=PREFIX, tags=["jobs"], responses=PROBLEMS)
MOST_LOG_BYTES = 1 << 16
CHECKPOINT = re.compile(r"checkpoint_epoch_(\d{1,9})_batch_(\d{1,9})(-\d{1,3})?")
State = Literal[
    "queued",
    "starting",
    "running",
    "pausing",
    "stopping",
    "paused",
    "stopped",
    "interrupted",
    "failed",
    "completed",
    "early_stopped",
]


@router.get("/jobs", dependencies=[READ])
def jobs(
    desk: ToDesk,
    state: State | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=100)] = None,
) -> JobsAnswer:
    """Jobs, newest first, a page at a time."""
    page = desk.table.newest(state, None if cursor is None else _before(cursor), limit + 1)
    more = f"{page[limit - 1].created!r}:{page[limit - 1].id}" if len(page) > limit else None
    return JobsAnswer(jobs=[_row(desk, job) for job in page[:limit]], next=more)


def _before(cursor: str) -> tuple[float, str]:
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,9})?):(\w{1,64})", cursor, re.ASCII)
    if not match:
        raise ProblemError(400, "cursor is the `next` of a page before")
    return float(match[1]), match[2]


@router.get("/jobs/{task_id}", dependencies=[READ])
def job(task_id: TaskId, desk: ToDesk) -> JobAnswer:
    """One job, with what was asked for."""
    known = desk.table.job(task_id)
    return JobAnswer(task_id=task_id, job=_row(desk, known), config=dict(known.body))


def _row(desk: Desk, job: ServiceJob) -> JobRow:
    stands, pid = progress_of(desk, job), job.process.pid if job.process and job.state in ACTIVE else None
    return JobRow(
        task_id=job.id,
        name=job.name,
        dataset=str(job.body["dataset"]),
        model_type=str(job.body["model_type"]),
        training_state=job.state,
        reason=job.reason,
        position=desk.table.position(job),
        current_epoch=stands.current_epoch,
        total_epochs=stands.total_epochs,
        best_metrics=stands.best_metrics,
        created=_local(job.created),
        ended=None if job.ended is None else _local(job.ended),
        pid=pid,
        memory_bytes=None if pid is None else memory_bytes(pid),
        moves=[act for act, moves in MOVES.items() if job.state in moves],
    )


def _local(moment: float) -> str:
    return dt.datetime.fromtimestamp(moment).astimezone().isoformat(timespec="seconds")


@router.post("/stop/{task_id}", dependencies=[TRAIN])
def stop(task_id: TaskId, desk: ToDesk) -> MoveAnswer:
    """Ends a job: one that runs saves at its next batch. It can still be resumed."""
    return move(desk, task_id, "stop", "is stopped; its checkpoints stay", "is stopped")


@router.delete("/jobs/{task_id}", dependencies=[TRAIN])
def delete(task_id: TaskId, desk: ToDesk) -> MoveAnswer:
    """Removes a job at rest from the list, with its events and its log. Its run and its checkpoints stay."""
    stays = "; its run stays" if desk.table.job(task_id).attempt else ""
    desk.table.delete(task_id)
    desk.folder.log(task_id).unlink(missing_ok=True)
    return MoveAnswer(task_id=task_id, message=f"{task_id} is deleted{stays}", training_state="deleted")


@router.get("/logs/{task_id}", dependencies=[READ])
def logs(task_id: TaskId, desk: ToDesk, after: Annotated[int, Query(ge=0, le=1 << 62)] = 0) -> LogsAnswer:
    """A piece of what the processes of a job printed, from an offset on; ask again with `next` for what follows."""
    desk.table.job(task_id)
    try:
        with open(desk.folder.log(task_id), "rb") as file:
            file.seek(after)
            data = file.read(MOST_LOG_BYTES)
    except FileNotFoundError:
        data = b""
    whole = data[: data.rfind(b"\n") + 1] or data  # no letter is cut in two
    return LogsAnswer(task_id=task_id, text=whole.decode(errors="replace"), next=after + len(whole))


@router.get("/checkpoints/{task_id}", dependencies=[READ])
def checkpoints(task_id: TaskId, desk: ToDesk) -> CheckpointsAnswer:
    """The checkpoints of a job that are on disk, newest first."""
    known = desk.table.job(task_id)
    folder = Path(known.save_dir) if known.save_dir else desk.folder.runs / known.id / "checkpoints"
    best = _best(folder)
    rows = [_figures(path, best) for path in folder.glob("checkpoint_epoch_*") if CHECKPOINT.fullmatch(path.name)]
    rows.sort(key=lambda row: (row.epoch, row.batch, row.checkpoint), reverse=True)
    return CheckpointsAnswer(task_id=task_id, checkpoints=rows)


def _best(folder: Path) -> str | None:
    """The name of the checkpoint with the lowest loss, as the training noted it; None before there is one."""
    try:
        return str(json.loads((folder / "best_model.json").read_bytes())["checkpoint"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _figures(path: Path, best: str | None) -> CheckpointFigures:
    match = CHECKPOINT.fullmatch(path.name)
    assert match, "only such names are taken"
    sizes = [file.stat().st_size for file in path.glob("*") if file.is_file()]
    return CheckpointFigures(
        checkpoint=path.name,
        epoch=int(match[1]),
        batch=int(match[2]),
        bytes=sum(sizes),
        saved=_local(path.stat().st_mtime),
        best=path.name == best,
    )
