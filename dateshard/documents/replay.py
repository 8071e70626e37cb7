"""What replay prints with `--json`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

Local = Annotated[str | None, Field(description="local time with its offset; null where rows have no times")]
DateText = Annotated[str | None, Field(description="null where rows have no dates")]


class Difference(TypedDict):
    """A figure that is not the one that was logged."""

    key: str
    logged: Any
    replayed: Any


class TracedRow(TypedDict):
    """A row of a dump."""

    file: str
    row: Annotated[int, Field(description="as an editor shows it: a header is row 1")]
    value: Annotated[
        float | str | None, Field(description="in the feature's column; null where records are counted or are steps")
    ]


class TracedCell(TypedDict):
    """A target cell of a window, one of the three with the greatest loss."""

    node: str
    feature: str
    head: Annotated[str, Field(description="the loss that it belongs to")]
    date: DateText
    time: Local
    loss: Annotated[float | None, Field(description="of this cell, with the weights of its loss; null: no number")]
    value: Annotated[
        float | str | None, Field(description="in raw units, as the shard holds it; of a category its text")
    ]
    rows: Annotated[
        list[TracedRow] | None,
        Field(
            description="that fell into it, the oddest values first, 20 at most; null where the dump is gone or another"
        ),
    ]
    num_rows: Annotated[int | None, Field(description="how many there are")]


class TracedWindow(TypedDict):
    """A window of the step; the one with the greatest loss comes first."""

    loss: Annotated[
        float | None,
        Field(description="mean over its observed target cells, of several losses their weighted sum; null: no number"),
    ]
    date: DateText
    anchor: Local
    batch: Annotated[int, Field(description="of its epoch, from 1")]
    cells: list[TracedCell]


class ReplayDocument(TypedDict):
    """A step of a run, taken again."""

    run: str
    step: Annotated[int, Field(description="from 1")]
    epoch: Annotated[int, Field(description="from 1")]
    batches: Annotated[tuple[int, int], Field(description="first and last batch of the step, from 1")]
    num_batches: Annotated[int, Field(description="of an epoch")]
    windows: Annotated[int, Field(description="of the step")]
    from_checkpoint: Annotated[str | None, Field(description="that it went on from; null: from the run's first batch")]
    steps_taken: Annotated[int, Field(description="from there on, this one included")]
    loss: Annotated[float | None, Field(description="null where it is no number")]
    losses: Annotated[dict[str, float | None], Field(description="of each head; none of a skipped step")]
    gradient_norm: Annotated[float | None, Field(description="before clipping; null where it is no number")]
    learning_rate: float
    skipped: Annotated[bool, Field(description="the loss or the gradient was not finite: no weight changed")]
    equal: Annotated[bool | None, Field(description="with its row of metrics.jsonl; null: the step has no row")]
    differences: list[Difference]
    trace: Annotated[list[TracedWindow] | None, Field(description="with --trace: all windows, ranked")]
    notes: Annotated[list[str], Field(description="what a person should know")]
