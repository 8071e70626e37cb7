"""What train, estimate and runs print with `--json`."""

from __future__ import annotations

from typing import Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict


class TrainDocument(TypedDict):
    """How a training ended."""

    run: str
    state: Annotated[
        str, Field(description="epochs, early stopping, stopped (resumable), complete (nothing was left to do)")
    ]
    epoch: NotRequired[Annotated[int, Field(description="from 1")]]
    batch: NotRequired[Annotated[int, Field(description="batches done of that epoch")]]
    best_val_loss: Annotated[float | None, Field(description="null before the first validation")]
    best_epoch: NotRequired[Annotated[int, Field(description="from 1; 0: none yet")]]


class Blocking(TypedDict):
    """Blocks of so many days."""

    days: int
    blocks: Annotated[int, Field(description="of an epoch")]
    shuffle: Annotated[str, Field(description="the order that days_per_batch: days stands for")]
    resident_bytes: Annotated[int, Field(description="of block buffers, two where the next is filled meanwhile")]
    reading: Annotated[float, Field(description="rows read in an epoch for each row of the training dates")]
    fits_budget: Annotated[bool, Field(description="trainer.loading.memory_budget holds them")]


class CheckpointParts(TypedDict):
    """Checkpoints on disk."""

    an_epoch: int
    bytes_each: Annotated[
        int, Field(description="of the largest: weights, moments, metric sums and the sample of windows")
    ]
    bytes_all: Annotated[int, Field(description="if every epoch runs and all are kept")]
    free: Annotated[int, Field(description="bytes on that disk")]
    keep_last: Annotated[
        int | None,
        Field(description="how many would be kept, by the configuration or because all do not fit; null: all"),
    ]


class EstimateDocument(TypedDict):
    """Windows, batches, memory and disk of a training, before it begins."""

    generation: int
    windows: Annotated[dict[str, int], Field(description="train, validation")]
    batches: Annotated[int, Field(description="of an epoch")]
    steps_an_epoch: Annotated[int, Field(description="optimizer steps: batches / training.accumulate")]
    policy: Annotated[str, Field(description="how the order is served: blocks or mapped")]
    shuffle: Annotated[str, Field(description="the order of these settings")]
    table: Annotated[list[Blocking], Field(description="by days a block; the last holds all training dates")]
    memory: Annotated[
        dict[str, int],
        Field(
            description="bytes: packages (resident now), blocks (buffers of both readers), batches (two of each), "
            "model (weights, gradients, two moments)"
        ),
    ]
    all_windows_in_memory: Annotated[int, Field(description="bytes, if every window were written out")]
    available: Annotated[int, Field(description="bytes of memory that are free now")]
    parameters: Annotated[int, Field(description="trained numbers of the model")]
    checkpoints: CheckpointParts


class RunRow(TypedDict):
    """One training run; they come newest first."""

    run: str
    model: Annotated[str, Field(description="? where run.json is damaged")]
    epoch: int
    batch: int
    checkpoints: int
    best_val_loss: float | None
