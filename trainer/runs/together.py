"""Starting one run in several processes: the first starts it, the others take over where it stands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import DateshardError
from dateshard.trainer.checkpoint import DataIdentity
from dateshard.trainer.config import Trainer
from dateshard.trainer.devices.mesh import Mesh
from dateshard.trainer.runs.run_folder import TrainingRun
from dateshard.trainer.runs.start import New, Opener, Started, start
from dateshard.trainer.session import State
from dateshard.trainer.setup import make_session


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a started run stands, as the other processes need it. Tensors are copies."""

    run: str
    config: dict[str, Any]
    data: DataIdentity
    state: State
    model: dict[str, torch.Tensor]
    optimizer: dict[str, Any] | None
    metrics: dict[str, torch.Tensor]
    continued: str | None
    finished: bool


def start_together(
    mesh: Mesh, config: Trainer, dataset: str, shards: Path, runs: Path, *, resume: str, new: New, opener: Opener
) -> Started:
    """Starts or continues a run as `start` does, in every process of the mesh. Only the first holds its lock.

    Raises:
        UsageError: what several processes cannot train. DateshardError: what the first one met, in all of them.
    """
    if mesh.world == 1:
        return start(config, dataset, shards, runs, resume=resume, new=new, opener=opener)
    own: list[Started] = []

    def begin() -> Position:
        own.append(start(config, dataset, shards, runs, resume=resume, new=new, opener=opener, mesh=mesh))
        return _position(own[0])

    at: Position = mesh.from_first(begin)
    try:
        started: Started = mesh.together(lambda: own[0] if own else _follow(mesh, at, opener(shards, at.data), runs))
    except DateshardError:
        for begun in own:
            begun.close()
        raise
    return started


def _position(started: Started) -> Position:
    session = started.session
    return Position(
        run=started.run.name,
        config=session.config.model_dump(mode="json"),
        data=session.bound.data,
        state=session.state,
        model=session.model.state_dict(),
        optimizer=session.optimizer.state_dict() if session.optimizer else None,
        metrics=session.metrics.tensors(),
        continued=started.continued,
        finished=started.finished,
    )


def _follow(mesh: Mesh, at: Position, dataset: Dataset, runs: Path) -> Started:
    run = TrainingRun(runs / at.run)
    session = make_session(Trainer.model_validate(at.config), dataset, run.checkpoints, mesh)
    session.model.load_state_dict(at.model, strict=True)
    if session.optimizer is not None and at.optimizer is not None:
        session.optimizer.load_state_dict(at.optimizer)
    session.state, session.metrics = at.state, session.metrics.fresh(at.state.epoch)
    session.metrics.load(at.metrics)
    return Started(run=run, dataset=dataset, session=session, continued=at.continued, finished=at.finished)
