"""What the service answers, with the keys of the user's notes, and what token and jobs print with `--json`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class HistoryRow(BaseModel):
    """An epoch: the seven figures of the notes. Accuracies are null without a categorical target."""

    epoch: int
    train_loss: float | None
    train_accuracy: float | None
    val_loss: float | None
    val_accuracy: float | None
    learning_rate: float
    time_per_epoch: float


class BestFigures(BaseModel):
    """The lowest validation loss and the highest validation accuracy so far; of training where nothing is validated."""

    loss: float | None
    accuracy: float | None


class JobProgress(BaseModel):
    """Where a job stands. `latest_metrics` is null before its first epoch has ended."""

    current_epoch: int
    total_epochs: int
    training_state: str
    latest_metrics: HistoryRow | None
    best_metrics: BestFigures


class Answer(BaseModel):
    """What every answer about a job begins with."""

    success: bool = True
    task_id: str


class StartAnswer(Answer):
    """A job that was queued."""

    message: str
    config: dict[str, Any] = Field(description="what was asked for, with defaults")


class ProgressAnswer(Answer):
    """Where a job stands."""

    progress: JobProgress


class HistoryAnswer(Answer):
    """All epochs that have ended."""

    history: list[HistoryRow]


class MoveAnswer(Answer):
    """What a pause, resume, stop or deletion has begun."""

    message: str
    training_state: str


class JobRow(BaseModel):
    """One job in the list."""

    task_id: str
    name: str
    dataset: str
    model_type: str
    training_state: str
    reason: str = Field(description="why it ended so; empty where nobody needs to know")
    position: int | None = Field(description="in the queue, from 1; null where it does not wait")
    current_epoch: int
    total_epochs: int
    best_metrics: BestFigures
    created: str
    ended: str | None
    pid: int | None = Field(description="of its process; null where it has none")
    memory_bytes: int | None = Field(description="that its process holds in memory")
    moves: list[str] = Field(description="what it may be asked for in this state: pause, resume, stop, delete")


class JobsAnswer(BaseModel):
    """A page of jobs, newest first."""

    success: bool = True
    jobs: list[JobRow]
    next: str | None = Field(description="cursor of the next page; null at the end")


class JobAnswer(Answer):
    """One job with the body that started it."""

    job: JobRow
    config: dict[str, Any]


class LogsAnswer(Answer):
    """A piece of what the processes of a job printed."""

    text: str
    next: int = Field(description="the offset at which the log goes on")


class CheckpointFigures(BaseModel):
    """A checkpoint on disk."""

    checkpoint: str
    epoch: int = Field(description="from 1")
    batch: int
    bytes: int
    saved: str
    best: bool


class CheckpointsAnswer(Answer):
    """The checkpoints of a job, newest first."""

    checkpoints: list[CheckpointFigures]


class PredictAnswer(Answer):
    """A forecast in raw units; values are [steps][nodes][targets]."""

    checkpoint: str
    time: list[str]
    nodes: list[str]
    targets: list[str]
    value: list[list[list[float | None]]]
    low: list[list[list[float | None]]] | None
    high: list[list[list[float | None]]] | None


class TokenDocument(BaseModel):
    """A token that was made."""

    id: str
    scope: str
    name: str
    token: str = Field(description="it is shown this once")


class TokenListRow(BaseModel):
    """A token as it is kept."""

    id: str
    scope: str
    name: str
    created: str = Field(description="local time with its offset")
