"""What `bench epoch` prints with `--json`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict


class WayRow(TypedDict):
    """One way to feed the epoch, in a process of its own; all figures are null where it was skipped."""

    way: Annotated[
        str, Field(description="all in RAM, date-batched, streaming, blocks (shards, read by blocks), mapped (shards)")
    ]
    windows: int | None
    batches: Annotated[int | None, Field(description="date-batched ends every batch of dates with a short one")]
    peak_bytes: Annotated[
        int | None,
        Field(
            description="private memory at its highest, above that with the model made and no value read; no file is in it"
        ),
    ]
    first_batch_seconds: Annotated[float | None, Field(description="from the model being made to the first batch")]
    epoch_seconds: Annotated[
        float | None, Field(description="from the model being made to the last step; the first batch included")
    ]
    train_loss: Annotated[float | None, Field(description="mean over the epoch, as train shows it")]
    val_loss: Annotated[float | None, Field(description="after the epoch; null without validation windows")]
    skipped: Annotated[str | None, Field(description="why there are no figures")]


class BenchEpochDocument(TypedDict):
    """One epoch of the configured model, fed in several ways: memory, time and loss, measured now on this machine."""

    dataset: str
    generation: int
    model: str
    batch_size: int
    days_per_batch: Annotated[int, Field(description="of date-batched")]
    budget_bytes: Annotated[int, Field(description="trainer.loading.memory_budget: what blocks may take")]
    stacked_bytes: Annotated[int, Field(description="that all training windows take in RAM")]
    free_bytes: Annotated[int, Field(description="memory that was free before the first process")]
    date: str
    machine: str
    ways: list[WayRow]
    page: Annotated[str | None, Field(description="the page of --plot; null without it")]
