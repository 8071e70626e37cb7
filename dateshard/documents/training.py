"""What train and estimate print with `--json`."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict


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


class Overflow(TypedDict):
    """Windows whose interval holds more records than there is room for: the last ones stay."""

    windows: Annotated[int, Field(description="that have more than trainer.window.most")]
    share: Annotated[float, Field(description="of all windows of the split, with training.sample_size too")]


class ResidentOn(TypedDict):
    """The device on which all windows lie (loading.resident_on)."""

    device: str
    bytes: Annotated[int, Field(description="rows of both readers, written once")]
    free: Annotated[
        int | None, Field(description="bytes of memory that the device has left; null: it is the processor")
    ]


class EstimateDocument(TypedDict):
    """Windows, batches, memory and disk of a training, before it begins."""

    generation: int
    windows: Annotated[dict[str, int], Field(description="train, validation")]
    overflow: Annotated[
        dict[str, Overflow] | None,
        Field(description="train, and validation if it has windows; null: the history is a count of records or steps"),
    ]
    batches: Annotated[int, Field(description="of an epoch")]
    steps_an_epoch: Annotated[int, Field(description="optimizer steps: batches / training.accumulate")]
    policy: Annotated[str, Field(description="how the order is served: blocks, mapped or resident")]
    shuffle: Annotated[str, Field(description="the order of these settings")]
    table: Annotated[list[Blocking], Field(description="by days a block; the last holds all training dates")]
    memory: Annotated[
        dict[str, int],
        Field(
            description="bytes: packages (resident now), blocks (buffers of both readers on the host), batches (two of each), "
            "model (weights, gradients, two moments), snapshot (a copy of all state, of which checkpoints are written)"
        ),
    ]
    all_windows_in_memory: Annotated[int, Field(description="bytes, if every window were written out")]
    resident_on: Annotated[ResidentOn | None, Field(description="null: batches are made on the host")]
    available: Annotated[int, Field(description="bytes of memory that are free now")]
    parameters: Annotated[int, Field(description="trained numbers of the model")]
    checkpoints: CheckpointParts


class TrainDocument(TypedDict):
    """How a training ended; of `--dry-run` and `--overfit` what they found."""

    run: Annotated[str | None, Field(description="null where nothing is kept: --dry-run, --overfit without --run")]
    state: Annotated[
        str,
        Field(
            description="epochs, early stopping, max steps, stopped or memory limit (resumable), complete (nothing was left "
            "to do), dry run, overfit"
        ),
    ]
    why: NotRequired[
        Annotated[str, Field(description="of `complete`: what it ended by: epochs, early stopping, max steps")]
    ]
    go_on: NotRequired[
        Annotated[str | None, Field(description="of `complete`: the command that trains on; null: nothing does")]
    ]
    epoch: NotRequired[Annotated[int, Field(description="from 1")]]
    batch: NotRequired[Annotated[int, Field(description="batches done of that epoch")]]
    steps: NotRequired[Annotated[int, Field(description="optimizer steps of the whole run")]]
    best_val_loss: Annotated[float | None, Field(description="null before the first validation")]
    best_epoch: NotRequired[Annotated[int, Field(description="from 1; 0: none yet")]]
    tried: NotRequired[Annotated[list[str], Field(description="of --dry-run: step, validation, checkpoint")]]
    estimate: NotRequired[Annotated[dict[str, Any], Field(description="of --dry-run: as `estimate --json` prints it")]]
    verdict: NotRequired[
        Annotated[str, Field(description="of --overfit: learned, learning (not near 0), not learning, stopped")]
    ]
    first_loss: NotRequired[Annotated[float | None, Field(description="of --overfit: mean of the first pass")]]
    last_loss: NotRequired[Annotated[float | None, Field(description="of --overfit: the lowest pass")]]
