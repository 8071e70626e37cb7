"""Where training stands, and all that one process trains with; both to and from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dateshard.trainer import checkpoint
from dateshard.trainer.config import CheckpointConfig, Trainer
from dateshard.trainer.data.reader import Reader
from dateshard.trainer.devices.mesh import Mesh
from dateshard.trainer.metrics import EpochMetrics
from dateshard.trainer.optimization.loss_scale import LossScale
from dateshard.trainer.optimization.objective import Head
from dateshard.trainer.optimization.optimizer import moments_a_weight
from dateshard.trainer.optimization.schedule import LossHistory, learning_rate


@dataclass(slots=True, kw_only=True)
class State:
    """Where training stands: the position after `batch` batches of `epoch` (0-based), and what it remembers.

    Attributes:
        step: optimizer steps so far, the skipped ones included.
        skipped: steps of the epoch so far whose gradient was not finite. skipped_in_a_row: up to this one.
        train_loss: running mean of the epoch so far. judged: the figure that decides, where that is not the loss.
        validated: this epoch's validation is done.
        loss_scale: of the step that is due, of a training in fp16.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    validated: bool = False
    train_loss: float | None = None
    val_loss: float | None = None
    judged: float | None = None
    progress: LossHistory = field(default_factory=LossHistory)
    loss_scale: LossScale | None = None

    @property
    def fruitless(self) -> bool:
        """Whether there were steps and none of them changed a weight: no gradient of the whole run was finite."""
        return 0 < self.step <= self.skipped_in_a_row


@dataclass(slots=True, kw_only=True)
class Session:
    """All that one process trains with."""

    config: Trainer
    model: nn.Module
    train: Reader
    validation: Reader | None
    checkpoints: Path
    bound: checkpoint.Bound
    environment: Mapping[str, Any]
    device: torch.device
    heads: tuple[Head, ...]
    state: State
    metrics: EpochMetrics  # of the epoch so far
    optimizer: torch.optim.Optimizer | None = None
    mesh: Mesh = field(default_factory=Mesh)
    keeping: CheckpointConfig | None = None  # where it is not what the configuration says: too little disk for that
    share_metrics: EpochMetrics | None = None  # of one share of a step, where there are several

    def metrics_of_shares(self) -> EpochMetrics:
        """Metrics that a step counts in before they join the epoch's; the same ones every time."""
        self.share_metrics = self.share_metrics or self.metrics.fresh()
        return self.share_metrics


def make_room(session: Session, writer: checkpoint.CheckpointWriter) -> None:
    """Tells the writer what a checkpoint will look like, as far as that is known before the first step."""
    if not session.mesh.leads:
        return
    keeps_some = moments_a_weight(session.config.training) > 0
    moments = _expected_moments(session, () if keeps_some else _trained(session.model))
    writer.prepare({"model": session.model.state_dict(), "optimizer": moments})


def save(session: Session, writer: checkpoint.CheckpointWriter) -> None:
    """Hands a copy of the session's position to the writer; from its return on all of it may change.

    Of several processes, which all stand at the same position, the first writes it.
    """
    state = session.state
    state.train_loss = session.metrics.loss()
    if not session.mesh.leads:
        return
    described = checkpoint.CheckpointState(
        epoch=state.epoch,
        batch=state.batch,
        step=state.step,
        num_batches=session.train.order.num_batches,
        skipped=state.skipped,
        skipped_in_a_row=state.skipped_in_a_row,
        validated=state.validated,
        train_loss=state.train_loss,
        val_loss=state.val_loss,
        judged=state.judged,
        losses=session.metrics.losses(),
        progress=replace(state.progress),  # training goes on while it is written
        without_moments=sorted(_without_moments(session)),
        parameters=_trained(session.model) if session.optimizer else [],
        learning_rate=_rate(session),
        loss_scale=state.loss_scale,
        bound=session.bound,
        config=session.config.model_dump(mode="json"),
        environment=dict(session.environment),
    )
    tensors: dict[str, Mapping[str, checkpoint.Part]] = {
        "model": session.model.state_dict(),
        "optimizer": _named_moments(session),
        "metrics": session.metrics.tensors(),
    }
    if session.metrics.sample is not None and not state.validated:  # after its epoch nothing asks for it any more
        tensors["sample"] = session.metrics.sample.held()
    writer.save(described, tensors)


def restore(session: Session, kept: checkpoint.Checkpoint) -> None:
    """Puts a checkpoint's state into the session; every byte is verified before it is used.

    Raises:
        DamagedError: naming the file.
    """
    groups = checkpoint.read_files(kept)
    checkpoint.refuse_unfit(kept, groups, "model", session.model.state_dict())
    checkpoint.refuse_unfit(kept, groups, "optimizer", _expected_moments(session, kept.state.without_moments))
    checkpoint.refuse_unfit(kept, groups, "metrics", session.metrics.tensors())
    session.model.load_state_dict(groups["model"], strict=True)
    if session.optimizer is not None:
        names, held = _trained(session.model), dict[int, dict[str, torch.Tensor]]()
        for joined, tensor in groups["optimizer"].items():
            name, _, moment = joined.rpartition("//")
            held.setdefault(names.index(name), {})[moment] = tensor
        session.optimizer.load_state_dict({**session.optimizer.state_dict(), "state": held})
    saved = kept.state
    session.metrics = session.metrics.fresh(saved.epoch)
    session.metrics.load(groups["metrics"])
    if session.metrics.sample is not None:
        session.metrics.sample.load(groups.get("sample"))
    session.state = State(
        epoch=saved.epoch,
        batch=saved.batch,
        step=saved.step,
        skipped=saved.skipped,
        skipped_in_a_row=saved.skipped_in_a_row,
        validated=saved.validated,
        train_loss=saved.train_loss,
        val_loss=saved.val_loss,
        judged=saved.judged,
        progress=replace(saved.progress),
        loss_scale=saved.loss_scale,
    )


def _rate(session: Session) -> float:
    """The learning rate of the step that is due at this position."""
    state, config = session.state, session.config
    return learning_rate(state.epoch, state.step, config.training.learning_rate, config.scheduler, state.progress.cuts)


def _trained(model: nn.Module) -> list[str]:
    """Names of the parameters that the optimizer has, in its order."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def _named_moments(session: Session) -> dict[str, torch.Tensor]:
    """The optimizer's tensors by parameter name (an index would break when a layer is added)."""
    if session.optimizer is None:
        return {}
    names, moments = _trained(session.model), session.optimizer.state_dict()["state"]
    return {f"{names[i]}//{moment}": t for i, held in moments.items() for moment, t in held.items() if t is not None}


def _without_moments(session: Session) -> set[str]:
    """Trained parameters that the optimizer keeps nothing of: no gradient reached them yet, or it keeps nothing."""
    return set(_trained(session.model)) - {name.rpartition("//")[0] for name in _named_moments(session)}


def _expected_moments(session: Session, without: Sequence[str]) -> dict[str, torch.Tensor]:
    """The optimizer's tensors by form: like each parameter that it keeps some of, and a count of steps."""
    if session.optimizer is None:
        return {}
    adam = {"step": torch.zeros((), dtype=torch.float32), "exp_avg": None, "exp_avg_sq": None}
    parts = {"momentum_buffer": None} if session.config.training.optimizer == "sgd" else adam
    trained = [(name, p) for name, p in session.model.named_parameters() if p.requires_grad and name not in without]
    return {f"{name}//{moment}": p if form is None else form for name, p in trained for moment, form in parts.items()}
