"""What `report RUN` and `show` print with `--json`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict


class SplitWindowsDocument(TypedDict):
    """The windows of a split, of the configured shape."""

    split: str
    rows: Annotated[int, Field(description="its steps or records")]
    windows: int
    lost: Annotated[
        int, Field(description="windows more, if no cut and no gap longer than the history divided its rows")
    ]
    overlap: Annotated[float | None, Field(description="share of its rows in a training window; null of train")]


class ReportDocument(TypedDict):
    """A page that was written."""

    run: Annotated[str | None, Field(description="null of `report --data`")]
    file: str
    bytes: int
    split: Annotated[str | None, Field(description="that the model is judged on; null where it is not")]
    checkpoint: Annotated[str | None, Field(description="that is judged")]
    evaluated_seconds: Annotated[float | None, Field(description="null: the evaluation lay beside the run")]
    not_evaluated: Annotated[str | None, Field(description="why nothing is judged")]
    windows: Annotated[list[SplitWindowsDocument] | None, Field(description="of `report --data`; null of a run")]


class ShownEpoch(TypedDict):
    """A point of the curves: an epoch, or, of more than 400, some neighbouring ones."""

    epoch: Annotated[int, Field(description="from 1; the last of the point")]
    step: int
    train_loss: float | None
    val_loss: float | None
    learning_rate: float | None
    windows_per_second: float | None


class ShownVerdict(TypedDict):
    """What the last evaluation of the run found (data/runs/RUN/evaluation-SPLIT.json)."""

    split: str
    checkpoint: str
    windows: int
    mse: Annotated[float | None, Field(description="of the model, scaled")]
    mae: Annotated[float | None, Field(description="of the model, scaled")]
    accuracy: Annotated[dict[str, float | None], Field(description="by categorical target")]
    best_baseline: str | None
    best_baseline_mse: float | None
    outcome: Annotated[str | None, Field(description="beats, loses or unclear; null without a rival")]
    beats_baselines: bool | None


class ShowDocument(TypedDict):
    """How a run went."""

    run: str
    model: str
    standing: Annotated[str, Field(description="finished, being trained now, or where it stopped")]
    best_loss: Annotated[float | None, Field(description="validation; without validation dates training")]
    best_epoch: Annotated[int | None, Field(description="from 1")]
    epochs: list[ShownEpoch]
    steps: Annotated[int, Field(description="optimizer steps so far")]
    verdict: ShownVerdict | None
    windows: Annotated[
        list[dict[str, Any]], Field(description="kind, begins, node and error of the windows that the report draws")
    ]
    report: Annotated[str | None, Field(description="the page, if it is there")]
