"""Before a long training: `--dry-run` does each of its acts once, `--overfit N` sees whether the model can learn at all."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dateshard.documents.training import EstimateDocument
from dateshard.places import runs_folder, shards_folder
from dateshard.settings import Settings, apply
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import DamagedError, Where, counted
from dateshard.terminal.screen import seconds
from dateshard.trainer import checkpoint
from dateshard.trainer.loop import Stepped, set_learning_rate, validate
from dateshard.trainer.rehearsal.overfit import STEPS, Overfitted, overfit
from dateshard.trainer.runs import status
from dateshard.trainer.runs.observed_targets import refuse_blind
from dateshard.trainer.runs.run_folder import TrainingRun
from dateshard.trainer.runs.start import New, start
from dateshard.trainer.session import Session, restore, save
from dateshard.trainer.setup import make_session, refuse_batch_of_one
from dateshard.trainer.step import Outcome, Step
from dateshard.trainer.stop import Interrupted
from dateshard.training.board import refuse_missing
from dateshard.training.estimate import estimate
from dateshard.training.unprepared_dates import open_to_look, opener_of
from dateshard.trust import admit, code_of

WORKS, BROKEN, NOT_TRIED = "works", "does NOT work", "not tried"
PLAIN = (
    "trainer.model.dropout_rate=0",
    "trainer.training.weight_decay=0",
)  # nothing that keeps it from learning by heart


@dataclass(frozen=True, slots=True)
class Act:
    """How one act of a training went when it was tried: `works`, `does NOT work` or `not tried`, and a few words."""

    state: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What `--dry-run` tells: the estimate, and each act by its name."""

    estimate: EstimateDocument
    acts: dict[str, Act]
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether any act does not work."""
        return any(act.state == BROKEN for act in self.acts.values())


def dry_run(settings: Settings, *, watch: Callable[[EstimateDocument], None]) -> DryRun:
    """Builds everything, takes a step, validates a batch, saves and reads back a checkpoint; keeps nothing of it.

    Args:
        watch: is called with the estimate before anything is tried.

    Raises:
        DateshardError: there is nothing to train on, or the checkpoint does not read back.
    """
    if settings.trainer.logging.tensorboard:
        refuse_missing()
    needs = estimate(settings)
    watch(needs)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="dateshard-dry-run-") as folder:
        dataset = open_to_look(settings)
        session = make_session(settings.trainer, dataset, Path(folder))
        refuse_batch_of_one(session)
        refuse_blind(session)
        acts = {"step": _step(session), "validation": _validate(session), "checkpoint": _save(session, dataset)}
    return DryRun(estimate=needs, acts=acts, seconds=time.perf_counter() - began)


def _step(session: Session) -> Act:
    if session.optimizer is None:
        return Act(NOT_TRIED, f"{session.config.model.name} is solved in one pass over all windows, it takes no steps")
    count = min(session.config.training.accumulate, session.train.order.num_batches)
    outcome = _first_step(session, count)
    for _ in range(session.config.training.max_skipped - 1 if session.state.loss_scale else 0):
        outcome = _first_step(session, count) if outcome.skipped else outcome  # fp16 finds its scale by skipping steps
    if outcome.skipped:
        return Act(
            BROKEN,
            "its loss or gradient is not finite: such a step changes nothing, and ten in a row end a training",
        )
    session.state.batch, session.state.step = count, 1
    return Act(WORKS, f"loss {float(outcome.loss):.4f}, {counted(outcome.size, 'window')}")


def _first_step(session: Session, count: int) -> Outcome:
    step = Step(session=session, num_windows=session.train.order.windows_in(0, count))
    for _, batch in zip(range(count), session.train.batches(0), strict=False):
        step.add(batch)
    set_learning_rate(session)
    return step.finish()


def _validate(session: Session) -> Act:
    if session.validation is None:
        why = "the validation dates are too few for a window, so the training loss decides which weights are best"
        return Act(NOT_TRIED, why)
    try:
        report = validate(session, lambda: True)  # asked after its first batch
    except Interrupted:
        return Act(WORKS, "one batch")
    return Act(WORKS, f"all of it, loss {report['loss']:.4f}" if report else "")


def _save(session: Session, dataset: Dataset) -> Act:
    with checkpoint.CheckpointWriter(session.checkpoints) as writer:
        save(session, writer)
        (saved,) = writer.finish()
    read_back, _ = checkpoint.find(session.checkpoints, saved.folder.name)
    again = make_session(session.config, dataset, session.checkpoints)
    restore(again, read_back)
    weights = again.model.state_dict()
    if not all(torch.equal(tensor, weights[name]) for name, tensor in session.model.state_dict().items()):
        raise DamagedError(
            "the checkpoint's weights are not those that were saved", where=Where(file=str(saved.folder))
        )
    return Act(WORKS, f"{read_back.num_bytes / 1e6:,.3f} MB written and read back in {seconds(saved.seconds)}")


@dataclass(frozen=True, slots=True)
class OverfitStarted:
    """The first event of an overfit: its session, its run where it has a name, and how many steps it takes at most."""

    session: Session
    run: TrainingRun | None
    most: int


OverfitEvent = OverfitStarted | Stepped | Overfitted


def overfit_few(
    settings: Settings,
    count: int,
    name: str | None,
    *,
    watch: Callable[[OverfitEvent], None],
    should_stop: Callable[[], bool],
) -> Overfitted:
    """Trains on `count` fixed batches, without dropout; a run is kept only under a name.

    Args:
        watch: is called with `OverfitStarted`, with each step, and last with the `Overfitted` that is returned.
        should_stop: is asked after every batch.

    Raises:
        UsageError: a model in closed form, or more batches than an epoch has.
    """
    plain = apply(settings, PLAIN)
    if name is None:
        session = make_session(plain.trainer, open_to_look(plain), runs_folder())
        refuse_blind(session)
        return _follow(OverfitStarted(session, None, _most(session)), count, watch, should_stop)
    shards = shards_folder(plain.dataset)
    options: dict[str, Any] = {"resume": "none", "new": New(name), "opener": opener_of(plain)}
    with closing(start(plain.trainer, plain.dataset, shards, runs_folder(), **options)) as started:
        admit(started.run.folder, code_of(plain.trainer))
        return _follow(OverfitStarted(started.session, started.run, _most(started.session)), count, watch, should_stop)


def _most(session: Session) -> int:
    return session.config.training.max_steps or STEPS


def _follow(
    begun: OverfitStarted, count: int, watch: Callable[[OverfitEvent], None], should_stop: Callable[[], bool]
) -> Overfitted:
    noted = status.begin(begun.run, 0) if begun.run else None
    watch(begun)
    for event in overfit(begun.session, count, should_stop):
        if isinstance(event, Overfitted):
            if begun.run and noted:
                status.end(begun.run, noted, "ended", f"overfit: {event.verdict}")
            watch(event)
            return event
        watch(event)
    raise AssertionError("it ends with Overfitted or raises")
