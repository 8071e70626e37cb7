"""The six routes of the user's notes: start, progress, history, stream-progress, pause and resume."""

from __future__ import annotations

import datetime as dt
import hmac
import time
from collections.abc import Iterator
from hashlib import sha256
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path
from fastapi.responses import StreamingResponse

from dateshard.documents.serving import (
    BestFigures,
    HistoryAnswer,
    JobProgress,
    MoveAnswer,
    ProgressAnswer,
    StartAnswer,
)
from dateshard.service.jobs.job_table import JobOrder, ServiceJob
from dateshard.service.web.desk import NOTES_READ, NOTES_TRAIN, TRAIN, Desk, ToDesk
from dateshard.service.web.problems import NothingMore, ProblemDetails, ProblemError
from dateshard.service.web.start_body import StartBody
from dateshard.service.web.streams import cursor

PREFIX = "/api/v1/epoch-training"
MOST_QUEUED = 100
PROBLEMS: dict[int | str, dict[str, object]] = {
    code: {"model": ProblemDetails, "content": {"application/problem+json": {}}}
    for code in (400, 401, 403, 404, 409, 413, 415, 421, 422, 429)
}
EVENT = {"type": "object", "properties": {name: {"type": "string"} for name in ("data", "id")}}
router = APIRouter(prefix=PREFIX, tags=["training"], responses=PROBLEMS)
TaskId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_]{1,64}$", examples=["epoch_training_20240101_120000"])]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[\x21-\x7e]{1,200}$",
        description="the same key with the same body starts nothing again and gets the first answer",
    ),
]


@router.post("/start", dependencies=[TRAIN])
def start(body: StartBody, desk: ToDesk, key: Key = None) -> StartAnswer:
    """Queues a training."""
    asked = sha256(body.model_dump_json().encode()).digest()
    if key is not None and (job := _earlier(desk, key, asked)):
        return _started(job)
    order = desk.orders.take(body)
    with desk.table.database.writing():
        if key is not None and (job := _earlier(desk, key, asked)):
            return _started(job)
        if len(desk.table.queue()) >= MOST_QUEUED:
            raise ProblemError(429, f"{MOST_QUEUED} jobs wait already", headers={"retry-after": "60"})
        job = desk.table.job(_queue(desk, body, order))
        if key is not None:
            sql = "INSERT INTO idempotency(key, hash, job, created) VALUES(?,?,?,?)"
            desk.table.database.changed(sql, (key, asked, job.id, time.time()))
    return _started(job)


def _queue(desk: Desk, body: StartBody, order: JobOrder) -> str:
    wanted = f"epoch_training_{dt.datetime.now():%Y%m%d_%H%M%S}"
    return desk.table.add(wanted, body.name, order, desk.folder.runs)


def _earlier(desk: Desk, key: str, asked: bytes) -> ServiceJob | None:
    """The job that was started with this key.

    Raises:
        ProblemError: it was started with another body.
    """
    rows = desk.table.database.rows("SELECT hash, job FROM idempotency WHERE key = ?", (key,))
    if not rows:
        return None
    if not hmac.compare_digest(bytes(rows[0]["hash"]), asked):
        raise ProblemError(409, f"this Idempotency-Key started {rows[0]['job']} with another body; use a new key")
    return desk.table.job(rows[0]["job"])


def _started(job: ServiceJob) -> StartAnswer:
    return StartAnswer(task_id=job.id, message="Epoch训练已启动", config=dict(job.body))


@router.get("/progress/{task_id}", dependencies=[NOTES_READ])
def progress(task_id: TaskId, desk: ToDesk) -> ProgressAnswer:
    """Where a job stands: its state, and the figures of its last epoch."""
    return ProgressAnswer(task_id=task_id, progress=progress_of(desk, desk.table.job(task_id)))


def progress_of(desk: Desk, job: ServiceJob) -> JobProgress:
    """The progress of a job; before its first epoch has ended there are no metrics."""
    last = desk.table.last(job.id, "progress")
    if last is None:
        total = int(job.body["epochs"])
        return JobProgress(
            current_epoch=0,
            total_epochs=total,
            training_state=job.state,
            latest_metrics=None,
            best_metrics=BestFigures(loss=None, accuracy=None),
        )
    return JobProgress(**{**last["progress"], "training_state": job.state})


@router.get("/history/{task_id}", dependencies=[NOTES_READ])
def history(task_id: TaskId, desk: ToDesk) -> HistoryAnswer:
    """The figures of every epoch that has ended."""
    job = desk.table.job(task_id)
    told_epochs = desk.table.recorded(job.id, "progress")
    return HistoryAnswer(task_id=task_id, history=[event["progress"]["latest_metrics"] for event in told_epochs])


@router.post("/pause/{task_id}", dependencies=[NOTES_TRAIN])
def pause(task_id: TaskId, desk: ToDesk) -> MoveAnswer:
    """Asks a job to save at its next batch and to end its process; its memory is free then."""
    return move(desk, task_id, "pause", "saves at its next batch, then its process ends", "is paused")


@router.post("/resume/{task_id}", dependencies=[NOTES_TRAIN])
def resume(task_id: TaskId, desk: ToDesk) -> MoveAnswer:
    """Queues a job that was paused, stopped, interrupted or failed; it goes on exactly where its checkpoint stands."""
    return move(desk, task_id, "resume", "goes on exactly where its last checkpoint stands", "is in the queue again")


def move(desk: Desk, task_id: str, act: str, message: str, waiting: str) -> MoveAnswer:
    """Asks a job for a move, and says what has begun; `waiting`: of one that had no process yet, or waits for one."""
    began = desk.table.job(task_id).attempt > 0
    job = desk.table.ask(task_id, act)
    happened = waiting if job.state == "paused" or not began else message
    if not began:
        happened += "; it has not begun to train yet"
    return MoveAnswer(task_id=job.id, message=f"{job.id} {happened}", training_state=job.state)


LastEventId = Annotated[str | None, Header(alias="Last-Event-ID", max_length=40)]


def _followed(task_id: TaskId, desk: ToDesk, last_event_id: LastEventId = None) -> Iterator[int]:
    """Looks, before a stream begins, whether there is anything to follow, and holds a place for it.

    Raises:
        NotThereError: there is no such job. NothingMore: all was told.
    """
    desk.table.job(task_id)
    after = cursor(last_event_id)
    events, over = desk.table.events(task_id, after, most=1)
    if over and not events:
        raise NothingMore
    with desk.streams.place():
        yield after


@router.get(
    "/stream-progress/{task_id}",
    response_class=StreamingResponse,
    dependencies=[NOTES_READ],
    responses={200: {"content": {"text/event-stream": {"itemSchema": EVENT}}}},
)
async def stream_progress(
    task_id: TaskId, desk: ToDesk, after: Annotated[int, Depends(_followed)]
) -> StreamingResponse:
    """Every event of a job from its first one, or behind Last-Event-ID, as JSON with a `type`.

    `progress` comes after each epoch, `complete` at the end; a job that fails or is stopped, paused or interrupted ends
    the stream with an event of that type instead.
    """
    unheld = {"cache-control": "no-cache", "x-accel-buffering": "no"}  # neither by a cache nor by a proxy
    return StreamingResponse(desk.streams.follow(task_id, after), headers=unheld, media_type="text/event-stream")
