"""Weights that a new run begins with (`--init-from`): nothing else is taken over; optimizer and position begin anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dateshard.shardstore.commands import command
from dateshard.shardstore.errors import NotThereError, StoreError, UsageError, Where, shorten
from dateshard.shardstore.identity import hash_bytes
from dateshard.trainer import checkpoint
from dateshard.trainer.checkpoint.pth import misfit, weights
from dateshard.trainer.runs.run_folder import TrainingRun
from dateshard.trainer.runs.save_dir import refuse_absent, run_of
from dateshard.trainer.session import Session


@dataclass(frozen=True, slots=True)
class Initial:
    """Weights from elsewhere.

    Attributes:
        source: file or folder that they were read from.
    """

    source: Path
    tensors: Mapping[str, torch.Tensor]

    @property
    def digest(self) -> str:
        """The hash of the tensors' names, forms and values."""
        parts: list[bytes] = []
        for name, tensor in sorted(self.tensors.items()):
            parts += [f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), _bytes(tensor)]
        return hash_bytes(*parts)

    def facts(self) -> dict[str, str]:
        """Returns the facts for run.json and every checkpoint."""
        return {"source": str(self.source), "weights": self.digest}


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def read_initial(name: str, runs: Path) -> Initial:
    """Weights of a `.pth`, of a checkpoint's folder, or of a run's best checkpoint (its newest where none is judged).

    Raises:
        NotThereError, DamagedError: naming the file.
    """
    path = Path(name)
    if path.is_file():
        return Initial(path, weights(path))
    folder = path.with_name(path.name.removesuffix(".pth")) if path.name else path
    if (folder / "manifest.json").is_file():
        saved = checkpoint.inspect(folder)
    elif folder.name in ("best", "best_model", "latest") and run_of(folder.parent) is not None:
        saved, _ = checkpoint.find(folder.parent, folder.name)
    elif len(path.parts) == 1 and (runs / name / "run.json").is_file():
        saved = _of_run(TrainingRun.open(runs, name))
    else:
        what = f"no .pth, no checkpoint and no run: '{shorten(name, 100)}'"
        raise NotThereError(what, todo=f"Name one of them; see: {command('runs')}, {command('checkpoints', 'list')}")
    return Initial(saved.folder, checkpoint.read_files(saved)["model"])


def _of_run(run: TrainingRun) -> checkpoint.Checkpoint:
    refuse_absent(run.folder)
    best, _ = checkpoint.best(run.checkpoints)
    return best or checkpoint.find(run.checkpoints, "latest")[0]


def begin_with(session: Session, initial: Initial) -> None:
    """Puts the weights into a session at its start, and notes whence they came.

    Raises:
        UsageError: they do not fit the model; the first misfit is named.
    """
    where, todo = Where(file=str(initial.source)), "Configure the model that these weights were trained for"
    if session.optimizer is None:
        raise UsageError("a ridge is solved, whatever it begins with", where=where, todo="Leave --init-from out")
    if wrong := misfit(initial.tensors, session.model.state_dict()):
        raise UsageError(f"weights of another model: {wrong}", where=where, todo=todo)
    session.model.load_state_dict(dict(initial.tensors), strict=True)
    session.bound = replace(session.bound, init_from=initial.facts())


def begin_with_same(session: Session, noted: Mapping[str, str], runs: Path) -> None:
    """Begins with the very weights that a run had which was cut off before its first checkpoint.

    Raises:
        StoreError: they are gone, or others stand in their place.
    """
    where, todo = Where(file=noted["source"]), f"Begin a new run: {command('train', config=True)} --init-from ..."
    try:
        initial = read_initial(noted["source"], runs)
    except StoreError as error:
        what = f"the weights that this run began with cannot be read again ({error.what})"
        raise NotThereError(what, where=where, todo=todo) from None
    if initial.digest != noted["weights"]:
        raise StoreError("no longer the weights that this run began with", where=where, todo=todo)
    begin_with(session, initial)
