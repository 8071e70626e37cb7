"""What the checkpoints commands print with `--json`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

Loss = float | None
Text = str | None


class CheckpointRow(TypedDict):
    """A checkpoint of a run."""

    name: str
    epoch: Annotated[int, Field(description="from 1")]
    batch: Annotated[int, Field(description="batches done of that epoch")]
    step: Annotated[int, Field(description="optimizer steps so far")]
    validated: Annotated[bool, Field(description="val_loss was measured on these very weights")]
    train_loss: Annotated[Loss, Field(description="running mean of the epoch so far")]
    val_loss: Annotated[Loss, Field(description="of the last validation before it, or on it")]
    bytes: Annotated[int, Field(description="of its files, its own export included")]
    saved: Annotated[str, Field(description="local time with offset")]
    pinned: bool
    exported: Annotated[bool, Field(description="its own .pth lies beside it")]


class ExportRow(TypedDict):
    """One .pth beside the folders."""

    file: str
    bytes: int
    saved: Annotated[str, Field(description="local time with offset")]


class AsideRow(TypedDict):
    """What lies there and is none of the run's checkpoints any more."""

    name: str
    bytes: int


class DamagedRow(TypedDict):
    """One that cannot be used."""

    name: str
    message: Annotated[str, Field(description="the file, what is wrong, what to do")]


class CheckpointsListDocument(TypedDict):
    """The checkpoints of a run, or of a folder."""

    run: Annotated[Text, Field(description="null: the folder is no run's")]
    folder: str
    best: Annotated[Text, Field(description="the lowest validation loss; null before the first validation")]
    checkpoints: Annotated[list[CheckpointRow], Field(description="the best first, then the newest first")]
    exports: list[ExportRow]
    set_aside: Annotated[
        list[AsideRow], Field(description="later ones, from before the run was continued from an earlier one")
    ]
    damaged: Annotated[list[DamagedRow], Field(description="by manifest and sizes; verify reads every byte")]
    count: Annotated[int, Field(description="of checkpoints")]
    bytes: Annotated[int, Field(description="of everything there")]


class FileOfCheckpoint(TypedDict):
    """A file of a checkpoint."""

    file: str
    bytes: int
    xxh3_128: Annotated[str, Field(description="hash that the manifest tells")]


class CheckpointInfoDocument(CheckpointRow):
    """Everything that a checkpoint's manifest holds, and whether every byte is as it was saved."""

    run: Annotated[Text, Field(description="null: a copy outside of any run")]
    folder: str
    total_batches: Annotated[int, Field(description="of an epoch")]
    losses: Annotated[dict[str, Loss], Field(description="every named loss, as train_loss")]
    learning_rate: Annotated[Loss, Field(description="of the step that is due next; null in checkpoints of old")]
    skipped: Annotated[int, Field(description="steps of the epoch without a finite gradient")]
    best_val_loss: Loss
    best_epoch: Annotated[int, Field(description="from 1; 0: none yet")]
    files: list[FileOfCheckpoint]
    damage: Annotated[Text, Field(description="null: every file's size and hash is right")]
    dataset: str
    generation: int
    data: Annotated[str, Field(description="id of the generation's manifest")]
    init_from: Annotated[Text, Field(description="where the run's first weights came from; null: drawn from the seed")]
    settings: Annotated[dict[str, Any], Field(description="{dotted key below trainer: value}")]
    environment: dict[str, Any]


class VerifiedRow(TypedDict):
    """One checkpoint or export."""

    name: str
    bytes: int
    damage: Annotated[Text, Field(description="null: every byte is as it was saved")]


class CheckpointsVerifyDocument(TypedDict):
    """Every byte compared. Exit code 4 where one differs."""

    run: Text
    folder: str
    verified: list[VerifiedRow]
    damaged: Annotated[int, Field(description="how many of them")]


class ForwardDocument(TypedDict):
    """One batch through the loaded model, in evaluation mode."""

    split: str
    windows: int
    loss: Loss
    losses: dict[str, Loss]


class CheckpointLoadDocument(TypedDict):
    """A model that was built from the run's settings and took a checkpoint strictly."""

    name: str
    folder: str
    model: str
    parameters: Annotated[int, Field(description="trained numbers")]
    train_loss: Loss
    val_loss: Loss
    losses: dict[str, Loss]
    dataset: str
    generation: int
    forward: ForwardDocument
    notes: list[str]


class CheckpointExportDocument(TypedDict):
    """One .pth was written."""

    name: str
    file: str
    bytes: int


class CheckpointCopyDocument(TypedDict):
    """A checkpoint was copied; every byte of the copy was verified."""

    name: str
    folder: Annotated[str, Field(description="of the copy")]
    bytes: int


class CheckpointsCleanDocument(TypedDict):
    """What was removed, or would be."""

    run: Text
    folder: str
    dry_run: bool
    removed: Annotated[list[str], Field(description="checkpoints, the oldest first, with their exports")]
    kept: Annotated[list[str], Field(description="the oldest first")]
    set_aside: Annotated[list[str], Field(description="removed as well")]
    damaged: Annotated[list[str], Field(description="left as they are: what is wrong with each")]
    freed: Annotated[int, Field(description="bytes")]
    left: Annotated[int, Field(description="bytes of what is kept")]


class CheckpointPinDocument(TypedDict):
    """Whether a checkpoint is kept from any removal."""

    name: str
    folder: str
    pinned: bool
