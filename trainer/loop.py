"""THE FILE TO READ FIRST. `train` is the whole story: a generator of events, stopped by a question it asks.

    for epoch: for batch: step, maybe save, maybe stop; then validate, save, maybe stop early

State is one small object (`State`); everything else is a pure function of the configuration, the data and the
position, so that continuing from any checkpoint repeats the uninterrupted run bit by bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer import checkpoint
from trainer.batch import Batch
from trainer.config import Trainer
from trainer.device import reseed
from trainer.metrics import Sums
from trainer.models.ridge import Ridge, fit
from trainer.objective import LOSSES, Progress, learning_rate
from trainer.permutation import key
from trainer.reader import Reader


@dataclass(slots=True)
class State:
    """Where training stands: the position after `batch` batches of `epoch` (0-based), and what it remembers."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    validated: bool = False  # this epoch's validation is done
    train_loss: float | None = None  # running mean of the epoch so far
    val_loss: float | None = None
    progress: Progress = field(default_factory=Progress)


@dataclass(slots=True)
class Session:
    """All that one process trains with."""

    config: Trainer
    model: nn.Module
    train: Reader
    validation: Reader | None
    checkpoints: Path
    bound: Mapping[str, Any]
    environment: Mapping[str, Any]
    device: torch.device
    state: State
    sums: Sums  # of the epoch so far
    optimizer: torch.optim.Optimizer | None = None


@dataclass(frozen=True, slots=True)
class Stepped:
    """One optimizer step. `loss` stays a tensor: reading it is left to who shows it."""

    epoch: int
    batch: int
    num_batches: int
    step: int
    loss: torch.Tensor
    size: int
    learning_rate: float
    wait_seconds: float


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint is on disk."""

    folder: Path
    epoch: int
    batch: int
    step: int
    seconds: float


@dataclass(frozen=True, slots=True)
class EpochDone:
    """An epoch with its validation; the checkpoint of it comes next."""

    epoch: int
    step: int
    train: dict[str, Any]
    validation: dict[str, Any] | None
    train_loss: float | None
    val_loss: float | None
    best: bool
    seconds: float
    learning_rate: float


@dataclass(frozen=True, slots=True)
class Ended:
    """Last event. `why`: `epochs` | `early stopping` | `stopped`."""

    why: str
    state: State


Event = Stepped | Saved | EpochDone | Ended


def train(session: Session, should_stop: Callable[[], bool]) -> Iterator[Event]:
    """Trains from `session.state` to the end, or until `should_stop()`, which is asked after every batch.

    A stop saves first; the events say where. Checkpoints are written every `save_freq` batches and after each
    validation (at an epoch's last batch only that one).
    """
    if isinstance(session.model, Ridge):
        yield from _train_closed_form(session, session.model)
        return
    state, config = session.state, session.config
    while not is_finished(state, config):
        if state.validated:
            state.epoch, state.batch, state.validated = state.epoch + 1, 0, False
            session.sums.values_6PF.zero_()
        began = time.perf_counter()
        for event in _train_epoch(session):
            yield event
            if should_stop():
                yield _save(session)
                yield Ended("stopped", state)
                return
        try:
            report = validate(session, should_stop)
        except Interrupted:  # the epoch's steps are kept, its validation will be done again
            yield _save(session)
            yield Ended("stopped", state)
            return
        yield from _close_epoch(session, report, began)
    yield Ended("early stopping" if state.progress.exhausted(config.early_stopping) else "epochs", state)


def is_finished(state: State, config: Trainer) -> bool:
    """Whether a run at this state has nothing left to do under this configuration."""
    stopped = state.progress.exhausted(config.early_stopping) or config.model.name == "ridge"  # solved in one pass
    return state.validated and (stopped or state.epoch + 1 >= config.training.epochs)


def _train_epoch(session: Session) -> Iterator[Event]:
    """The rest of the current epoch."""
    state, config = session.state, session.config
    rate = learning_rate(state.epoch, config.training.learning_rate, config.scheduler)
    num_batches, save_freq = session.train.order.num_batches, config.checkpoint.save_freq
    for group in _optimizer(session).param_groups:
        group["lr"] = rate
    session.model.train()
    asked = time.perf_counter()
    for batch in session.train.batches(state.epoch, start=state.batch):
        waited = time.perf_counter() - asked
        loss = train_step(session, batch)
        state.batch, state.step = state.batch + 1, state.step + 1
        yield Stepped(state.epoch, state.batch, num_batches, state.step, loss, batch.size, rate, waited)
        if save_freq and state.batch % save_freq == 0 and state.batch < num_batches:
            yield _save(session)
        asked = time.perf_counter()


def train_step(session: Session, batch: Batch) -> torch.Tensor:
    """One step: forward, backward on sum / planned elements, rescale by the true count, clip, update."""
    optimizer, config = _optimizer(session), session.config.training
    reseed(key(config.seed, 3, session.state.step))  # no random state is ever saved
    batch = to_device(batch, session.device)
    optimizer.zero_grad(set_to_none=True)
    forecast = session.model(batch.history_BHNF, batch.codes_BW)
    total, count = LOSSES[config.loss](forecast, batch)
    planned = batch.target_BPNF.numel()
    (total / planned).backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in session.model.parameters() if parameter.grad is not None]
    if batch.observed_BPNF is not None:  # nothing observed: a step of zero weight
        torch._foreach_mul_(gradients, float(planned / count) if count else 0.0)
    if config.clip_norm is not None:
        nn.utils.clip_grad_norm_(session.model.parameters(), config.clip_norm)
    optimizer.step()
    session.sums.add(forecast, batch.target_BPNF, batch.observed_BPNF)
    return total.detach() / max(int(count), 1)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on the device; on the CPU the very same views."""
    if device.type == "cpu":
        return batch
    move = [None if part is None else part.to(device) for part in (batch.observed_BPNF, batch.codes_BW)]
    return Batch(batch.history_BHNF.to(device), batch.target_BPNF.to(device), move[0], move[1])


class Interrupted(Exception):  # noqa: N818 - told by whoever asked to stop, no fault
    """A stop was asked for in the middle of a validation."""


@torch.no_grad()
def validate(session: Session, should_stop: Callable[[], bool]) -> dict[str, Any] | None:
    """The report over all validation windows; None without a validation split.

    Raises:
        Interrupted: `should_stop()` between two batches.
    """
    if session.validation is None:
        return None
    session.model.eval()
    sums = Sums.zeros(*session.sums.values_6PF.shape[1:])
    for given in session.validation.batches(0):
        batch = to_device(given, session.device)
        sums.add(session.model(batch.history_BHNF, batch.codes_BW), batch.target_BPNF, batch.observed_BPNF)
        if should_stop():
            raise Interrupted
    return sums.report([])


def _close_epoch(session: Session, report: dict[str, Any] | None, began: float) -> Iterator[Event]:
    """Notes the validation on the very weights that are saved next."""
    state, config = session.state, session.config
    state.val_loss = finite(report["mse"]) if report else None
    state.train_loss = finite(session.sums.metrics()["mse"])
    judged = state.val_loss if session.validation else state.train_loss
    best = state.progress.note(judged, state.epoch, config.early_stopping)
    state.validated = True
    rate = learning_rate(state.epoch, config.training.learning_rate, config.scheduler)
    seconds, train_report = time.perf_counter() - began, session.sums.report([])
    yield EpochDone(  # told before it is saved: what follows a save is never told again by a resumed run
        state.epoch, state.step, train_report, report, state.train_loss, state.val_loss, best, seconds, rate
    )
    saved = _save(session)
    if best:
        checkpoint.point(saved.folder, "best_model.json", asdict(state))
    yield saved


def _train_closed_form(session: Session, model: Ridge) -> Iterator[Event]:
    """Ridge has no epochs: one pass over training and validation windows, then the checkpoint."""
    state, began = session.state, time.perf_counter()
    if not state.validated:
        held = session.validation.batches(0) if session.validation else iter(())
        penalties = session.config.model.penalties
        fit(model, session.train.batches(0), held, penalties)
        state.batch = session.train.order.num_batches
        yield from _close_epoch(session, validate(session, lambda: False), began)
    yield Ended("epochs", state)


def finite(value: float | None) -> float | None:
    """None for what is no number: JSON has none of them, and none may win."""
    return value if value is not None and math.isfinite(value) else None


def make_optimizer(config: Trainer, model: nn.Module) -> torch.optim.Optimizer | None:
    """None for a model that is solved in closed form."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.Adam(parameters, lr=config.training.learning_rate) if parameters else None


def _optimizer(session: Session) -> torch.optim.Optimizer:
    assert session.optimizer is not None, "only a model without parameters has none, and it is not trained by steps"
    return session.optimizer


def _save(session: Session) -> Saved:
    state, began = session.state, time.perf_counter()
    state.train_loss = finite(session.sums.metrics()["mse"])
    described = {
        **asdict(state),
        "num_batches": session.train.order.num_batches,
        "bound": dict(session.bound),
        "config": session.config.model_dump(mode="json"),
        "environment": dict(session.environment),
    }
    tensors = {
        "model": {name: tensor.detach().cpu().contiguous() for name, tensor in session.model.state_dict().items()},
        "optimizer": _named_moments(session),
        "sums": {"train": session.sums.values_6PF.clone()},
    }
    folder = checkpoint.save(session.checkpoints, described, tensors)
    checkpoint.point(folder, "latest.json", described)
    return Saved(folder, state.epoch, state.batch, state.step, time.perf_counter() - began)


def _named_moments(session: Session) -> dict[str, torch.Tensor]:
    """Adam's moments by parameter name (an index would break when a layer is added)."""
    if session.optimizer is None:
        return {}
    names = [name for name, parameter in session.model.named_parameters() if parameter.requires_grad]
    moments = session.optimizer.state_dict()["state"]
    return {
        f"{names[i]}//{part}": t.detach().cpu().contiguous() for i, held in moments.items() for part, t in held.items()
    }


def _expected_moments(session: Session) -> dict[str, torch.Tensor]:
    """Adam's moments after any step, by form: two like each parameter, and a count of steps."""
    if session.optimizer is None:
        return {}
    count = torch.zeros((), dtype=torch.float32)
    trained = [(name, p) for name, p in session.model.named_parameters() if p.requires_grad]
    return {
        f"{name}//{part}": count if part == "step" else parameter
        for name, parameter in trained
        for part in ("step", "exp_avg", "exp_avg_sq")
    }


def restore(session: Session, found: checkpoint.Checkpoint) -> None:
    """Puts a checkpoint's state into the session; every byte is verified before it is used.

    Raises:
        DamagedError: naming the file.
    """
    groups = checkpoint.read_files(found)
    checkpoint.refuse_unfit(found, groups, "model", session.model.state_dict())
    checkpoint.refuse_unfit(found, groups, "optimizer", _expected_moments(session))
    checkpoint.refuse_unfit(found, groups, "sums", {"train": session.sums.values_6PF})
    session.model.load_state_dict(groups["model"], strict=True)
    names = [name for name, parameter in session.model.named_parameters() if parameter.requires_grad]
    if session.optimizer is not None:
        held: dict[int, dict[str, torch.Tensor]] = {}
        for joined, tensor in groups["optimizer"].items():
            name, _, part = joined.rpartition("//")
            held.setdefault(names.index(name), {})[part] = tensor
        session.optimizer.load_state_dict({**session.optimizer.state_dict(), "state": held})
    session.sums.values_6PF.copy_(groups["sums"]["train"])
    saved = found.state
    fields = ("epoch", "batch", "step", "validated", "train_loss", "val_loss")
    session.state = State(**{name: saved[name] for name in fields}, progress=Progress(**saved["progress"]))
