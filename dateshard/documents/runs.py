"""What runs, compare and tail print with `--json`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from dateshard.documents.backtesting import Spread
from dateshard.documents.training import TrainDocument

State = Annotated[
    str, Field(description="running, stopped (by a signal), ended, failed, cut off (killed), damaged (run.json)")
]
Why = Annotated[
    str,
    Field(
        description="of an end epochs, early stopping, max steps or overfit: ...; of a stop memory limit; "
        "of a failure the error; else empty"
    ),
]
Seconds = Annotated[float | None, Field(description="of training, over all processes; null if nothing tells it")]


class RunRow(TypedDict):
    """One training run; they come newest first."""

    run: str
    state: State
    why: Why
    dataset: Annotated[str | None, Field(description="null where nothing of the run tells it")]
    model: Annotated[str, Field(description="? where run.json is damaged")]
    epoch: Annotated[int, Field(description="of the newest checkpoint, from 1; 0: none yet")]
    epochs: Annotated[int | None, Field(description="that it may have")]
    batch: Annotated[int, Field(description="batches done of that epoch")]
    batches: Annotated[int | None, Field(description="of an epoch; null before the first checkpoint")]
    steps: Annotated[int, Field(description="optimizer steps of the newest checkpoint")]
    best_val_loss: Annotated[
        float | None,
        Field(description="of the best epoch: the lowest one, unless trainer.metrics.judge is another figure"),
    ]
    best_epoch: Annotated[int, Field(description="from 1; 0: none yet")]
    checkpoints: int
    bytes: Annotated[int, Field(description="of all its checkpoints")]
    started: Annotated[str | None, Field(description="local time with its offset")]
    seconds: Seconds
    resume: Annotated[str | None, Field(description="the command that goes on with it; null where there is none")]


class RemovedRun(TypedDict):
    """A run that is removed, or would be."""

    run: str
    bytes: Annotated[int, Field(description="of its folder")]
    checkpoints: int
    dataset: str | None
    generation: Annotated[int | None, Field(description="that it needed; clean removes it where nothing else does")]
    elsewhere: Annotated[str | None, Field(description="folder of its checkpoints (--save-dir), which stays")]


class RunsRemovedDocument(TypedDict):
    """What `runs rm` removes."""

    dry_run: bool
    bytes: Annotated[int, Field(description="that are freed")]
    runs: list[RemovedRun]


class SettingRow(TypedDict):
    """A setting in which runs differ."""

    key: str
    values: Annotated[list[Any], Field(description="of each run, in the order asked for; null where a run has none")]


class ComparedRun(TypedDict):
    """One of the runs and what became of it."""

    run: str
    state: State
    why: Why
    dataset: str | None
    generation: int | None
    data: Annotated[str | None, Field(description="identity of the manifest: equal means the very same data")]
    split: Annotated[dict[str, list[list[str]]] | None, Field(description="{name: [[first, last]]}")]
    model: str
    parameters: Annotated[int | None, Field(description="trained numbers; null for a run from before they were noted")]
    windows: Annotated[int | None, Field(description="training windows of an epoch; null likewise")]
    epoch: int
    steps: int
    best_val_loss: float | None
    best_epoch: Annotated[int, Field(description="from 1; 0: none yet")]
    seconds: Seconds
    seconds_per_epoch: Annotated[float | None, Field(description="median, validation included")]
    windows_per_second: Annotated[float | None, Field(description="of training, median over epochs")]
    test: Annotated[
        dict[str, float | None] | None,
        Field(description="scaled mse, rmse, mae, r2 of its last evaluation of the test dates; null without one"),
    ]
    train_loss: Annotated[list[float | None], Field(description="of each epoch")]
    val_loss: Annotated[list[float | None], Field(description="of each epoch")]


class CompareDocument(TypedDict):
    """Runs side by side."""

    runs: list[ComparedRun]
    settings: list[SettingRow]
    notes: Annotated[list[str], Field(description="what keeps their figures from being comparable")]


class JudgedRun(TypedDict):
    """One of several runs that were evaluated on the same split."""

    run: str
    seed: Annotated[int | None, Field(description="training.seed; null where run.json does not tell it")]
    model: str
    checkpoint: str
    generation: int
    windows: int
    figures: Annotated[dict[str, float | None], Field(description="of the model, by the names that `summary` has")]
    best_baseline: str | None
    outcome: Annotated[str | None, Field(description="beats, loses or unclear, as `evaluate RUN` says")]


class FigureSummary(TypedDict):
    """One figure of all runs together."""

    figure: Annotated[
        str,
        Field(description="scaled mse, scaled mae, scaled r2, FEATURE mae, FEATURE rmse (raw units), TARGET accuracy"),
    ]
    model: Spread
    baseline: Annotated[str | None, Field(description="the best one of most runs; null where there is none")]
    of_baseline: Annotated[Spread | None, Field(description="of that baseline")]


class JudgedRunsDocument(TypedDict):
    """Several runs evaluated on the same split: each, and mean and spread of their figures."""

    split: str
    runs: list[JudgedRun]
    summary: list[FigureSummary]
    beats: Annotated[int, Field(description="runs that beat every baseline")]
    loses: int
    unclear: int
    notes: Annotated[list[str], Field(description="what keeps their figures from being comparable")]


class SeedsDocument(TypedDict):
    """What `train --seeds` prints: each training, and all of them judged."""

    name: Annotated[str, Field(description="what the names of the runs begin with")]
    trainings: list[TrainDocument]
    judged: Annotated[
        JudgedRunsDocument | None, Field(description="null where a training was stopped or nothing can be judged")
    ]


class TailDocument(TypedDict):
    """The last rows of a run's metrics."""

    run: str
    state: State
    why: Why
    rows: Annotated[list[dict[str, Any]], Field(description="rows of metrics.jsonl as they are (docs/runs.md)")]
