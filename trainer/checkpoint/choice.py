"""Chooses a folder's checkpoint: the newest that verifies, the best or a named one; says what becomes of the rest."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dateshard.shardstore.commands import by_door, to_run
from dateshard.shardstore.errors import NotThereError, StoreError, Where, shorten
from dateshard.trainer.checkpoint.checkpoint_folder import NAME, Checkpoint, inspect, read_files
from dateshard.trainer.checkpoint.removal import export_of
from dateshard.trainer.optimization.schedule import LossHistory


def scan(parent: Path) -> tuple[list[Checkpoint], list[str]]:
    """All checkpoints of a folder, oldest first, and why others were passed over. Tensors are not read."""
    checkpoints, passed = [], []
    if parent.is_dir():
        for folder in parent.iterdir():
            if NAME.fullmatch(folder.name):
                try:
                    checkpoints.append(inspect(folder))
                except StoreError as error:
                    passed.append(str(error))
    return sorted(checkpoints, key=lambda checkpoint: checkpoint.place), passed


def newest(parent: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint whose every byte verifies, and why newer ones were passed over."""
    checkpoints, passed = scan(parent)
    return _first_good(checkpoints[::-1], passed)


def best(parent: Path) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint with the lowest validation loss measured on its very weights; ties go to the older."""
    checkpoints, passed = scan(parent)
    return _first_good(ranked(checkpoints), passed)


def ranked(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Lists checkpoints by validation loss of their own weights, best first; by training loss without validation dates.

    Where another figure decides (`metrics.judge`), they are listed by that."""
    for loss in ("judged", "val_loss", "train_loss"):
        judged = [saved for saved in checkpoints if saved.state.validated and getattr(saved.state, loss) is not None]
        if judged:
            return sorted(judged, key=lambda saved: (getattr(saved.state, loss), saved.place))
    return []


def loss_of_best(progress: LossHistory, checkpoints: Sequence[Checkpoint]) -> float | None:
    """The validation loss of the best epoch; where another figure decides, as its checkpoint tells it, if that is there."""
    here = [saved.state for saved in checkpoints if saved.state.validated and saved.state.epoch == progress.best_epoch]
    if not here or here[-1].judged is None:
        return progress.best_loss if all(saved.state.judged is None for saved in checkpoints) else None
    return here[-1].val_loss if here[-1].val_loss is not None else here[-1].train_loss


def _first_good(candidates: Sequence[Checkpoint], passed: list[str]) -> tuple[Checkpoint | None, list[str]]:
    for checkpoint in candidates:
        try:
            read_files(checkpoint)
        except StoreError as error:
            passed.append(str(error))
        else:
            return checkpoint, passed
    return None, passed


LATEST_IN_PYTHON = "checkpoint='latest'"


def find(parent: Path, name: str) -> tuple[Checkpoint, list[str]]:
    """Finds `latest`, `best` or a checkpoint by its name (`.pth` at its end is taken off).

    Where a named one is damaged, a good one that was saved again at the same position (`-2`) serves.

    Raises:
        NotThereError: there is none that verifies.
    """
    name = name.removesuffix(".pth")
    if name in ("latest", "best", "best_model"):
        checkpoint, passed = newest(parent) if name == "latest" else best(parent)
        if checkpoint is None:
            reason = f" ({'; '.join(passed)})" if passed else ""
            todo = f"Train afresh. {to_run('train', config=True)}"
            if name != "latest" and newest(parent)[0] is not None:
                what, todo = (
                    "no best checkpoint that verifies"
                    if passed
                    else "no best checkpoint yet: none has a validation loss",
                    f"Take {by_door('--checkpoint latest', LATEST_IN_PYTHON)}, or train on",
                )
                raise NotThereError(f"{what}{reason}", where=Where(file=str(parent)), todo=todo)
            raise NotThereError(f"no checkpoint that verifies{reason}", where=Where(file=str(parent)), todo=todo)
        return checkpoint, passed
    if not NAME.fullmatch(name):
        what = f"'{shorten(name)}' is not the name of a checkpoint"
        raise NotThereError(what, where=Where(file=str(parent)), todo="Say latest, best or checkpoint_epoch_1_batch_2")
    candidates, passed, first = [parent / name, *sorted(parent.glob(f"{name}-*"))], list[str](), None
    for folder in candidates:
        try:
            checkpoint = inspect(folder)
            read_files(checkpoint)
        except StoreError as error:
            first = first or error
            passed.append(str(error))
        else:
            return checkpoint, passed
    assert first is not None
    raise first


def set_aside_later(resumed: Checkpoint) -> int:
    """Renames the checkpoints after `resumed`, which a run that continues from it would else take for its own."""
    later = [checkpoint for checkpoint in scan(resumed.folder.parent)[0] if checkpoint.place > resumed.place]
    for checkpoint in later:
        aside = checkpoint.folder.with_name(f"set_aside-{uuid.uuid4().hex[:8]}-{checkpoint.name}")
        with suppress(FileNotFoundError):  # it was not exported
            export_of(checkpoint.folder).rename(export_of(aside))
        checkpoint.folder.rename(aside)
    return len(later)


def tidy(parent: Path) -> None:
    """What a killed process left: halves of checkpoints and of exports go. Under the run's lock."""
    for half in parent.glob(".tmp-*"):
        if half.is_dir():
            shutil.rmtree(half, ignore_errors=True)
        else:
            half.unlink(missing_ok=True)
