"""THE FILE TO READ FIRST. `train` is the whole story: a generator of events, stopped by a question it asks.

    for epoch: for batch: step, maybe save, maybe stop; then validate, save, maybe stop early

State is one small object (`State`); everything else is a pure function of the configuration, the data and the
position, so that continuing from any checkpoint repeats the uninterrupted run bit by bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from dateshard.trainer import checkpoint, postmortem
from dateshard.trainer.checkpoint import CheckpointWriter, Saved
from dateshard.trainer.data.batch import Batch
from dateshard.trainer.data.window_chunks import windows_of
from dateshard.trainer.devices.gone import ProcessGoneError
from dateshard.trainer.devices.shares import shares_of
from dateshard.trainer.forward import forward
from dateshard.trainer.memory.memory_watch import MEMORY_LIMIT, StopReasons, refuse_low_limit
from dateshard.trainer.memory.out_of_memory import (
    BatchMemoryError,
    StepMemoryError,
    failed_allocation,
    naming,
    naming_reads,
    save_left_alone,
    save_whole,
)
from dateshard.trainer.metrics import EpochMetrics
from dateshard.trainer.metrics.joined import added_up
from dateshard.trainer.metrics.judged_figure import LOSS, judged_figure
from dateshard.trainer.models.ridge import Grid, Ridge, fit
from dateshard.trainer.optimization.schedule import learning_rate
from dateshard.trainer.session import Session, State, make_room, save
from dateshard.trainer.step import Outcome, Step, Watch
from dateshard.trainer.stop import Interrupted, ShouldStop, ask

ASKED_BATCHES = 16  # of a validation by several processes, after which they ask each other whether to stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped:
    """One optimizer step, over `accumulate` batches. Losses stay tensors: reading them is left to who shows them.

    Attributes:
        batch: batches of the epoch so far. losses: {head: mean}. skipped: steps of the epoch without a finite gradient.
        gradient_norm: before clipping; None where a loss was not finite.
    """

    epoch: int
    batch: int
    num_batches: int
    step: int
    loss: torch.Tensor
    losses: Mapping[str, torch.Tensor]
    skipped: int
    size: int
    learning_rate: float
    wait_seconds: float
    gradient_norm: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochDone:
    """An epoch with its validation; the checkpoint of it comes next.

    Attributes:
        judged: the figure that decides, the lower the better; None where that is the loss.
    """

    epoch: int
    step: int
    train: dict[str, Any]
    validation: dict[str, Any] | None
    train_loss: float | None
    val_loss: float | None
    best: bool
    skipped: int
    seconds: float
    learning_rate: float
    judged: float | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """The last event. `why`: `epochs` | `early stopping` | `max steps` | `stopped` | `memory limit`."""

    why: str
    state: State


PAUSED = ("stopped", MEMORY_LIMIT)  # why a run ended that has more to do
Event = Stepped | Saved | EpochDone | Ended


def train(session: Session, should_stop: Callable[[], bool]) -> Generator[Event, None, None]:
    """Trains from `session.state` to the end, or until `should_stop()`, which is asked after every batch.

    It also stops where the process holds more than `training.memory_limit`.

    A stop saves first; the events say where. Checkpoints are taken every `save_freq` batches and after each
    validation (at an epoch's last batch only that one), and written while training goes on; `Saved` tells that one is
    on disk, and all are before `Ended`, before an error goes up, and when the generator is closed.

    Raises:
        DiskFullError, OSError: a checkpoint could not be written; at the step after that, or at the end.
        DateshardError: `max_skipped` steps in a row had no finite gradient, in this run or in the one that it continues;
            or no step of the whole run had one.
    """
    mesh, limit = session.mesh, session.config.training.memory_limit
    asking = StopReasons(should_stop, limit and limit // mesh.local, mesh)
    mesh.asked = asking.look if mesh.world > 1 else mesh.asked
    tend = partial(checkpoint.tend, session.checkpoints, session.keeping or session.config.checkpoint)
    with CheckpointWriter(session.checkpoints, after=tend) as writer:
        try:
            if isinstance(session.model, Ridge):
                yield from _train_closed_form(session, writer, session.model, asking)
            else:
                yield from _train_epochs(session, writer, asking)
        except ProcessGoneError as error:
            raise save_left_alone(session, writer, error) from None


def _train_epochs(session: Session, writer: CheckpointWriter, asking: StopReasons) -> Iterator[Event]:
    state = session.state
    if state.skipped_in_a_row >= session.config.training.max_skipped:  # it ended so: one more would tell nothing new
        raise postmortem.error(session, over=state.fruitless and finished(session) is not None)
    if finished(session) is None:
        make_room(session, writer)
        session.mesh.together(partial(refuse_low_limit, asking.limit))
    while (why := finished(session)) is None:
        begin_epoch(session)
        began = time.perf_counter()
        for event in _train_epoch(session, writer):
            yield event
            if not isinstance(event, Stepped):
                continue
            why = finished(session)  # max_steps, in the middle of an epoch
            if why or asking():
                yield from _stop(session, writer, why or asking.why)
                return
        try:
            report = validate(session, asking)
        except Interrupted:  # the epoch's steps are kept, its validation will be done again
            yield from _stop(session, writer, asking.why)
            return
        except BatchMemoryError as error:
            raise save_whole(session, writer, error, whole=True) from None
        yield from _close_epoch(session, writer, report, began)
    yield from _end(session, writer, why)


def _stop(session: Session, writer: CheckpointWriter, why: str) -> Iterator[Event]:
    save(session, writer)
    yield from _end(session, writer, why)


def _end(session: Session, writer: CheckpointWriter, why: str) -> Iterator[Event]:
    """Writes what is left to write and ends the run.

    Raises:
        DateshardError: the run is over and none of its steps had a finite gradient.
    """
    yield from writer.finish()
    if why not in PAUSED and session.state.fruitless:
        raise postmortem.error(session, over=True)
    yield Ended(why, session.state)


def finished(session: Session) -> str | None:
    """Why a run has nothing left to do where it stands; None while it has. An epoch's last step brings its validation."""
    state, config = session.state, session.config
    if state.validated and state.progress.exhausted(config.early_stopping):
        return "early stopping"
    solved = config.model.name == "ridge"  # in one pass
    if state.validated and (solved or state.epoch + 1 >= config.training.epochs):
        return "epochs"
    most = config.training.max_steps
    due = state.validated or state.batch < session.train.order.num_batches
    return "max steps" if most is not None and state.step >= most and due else None


def begin_epoch(session: Session) -> None:
    """Moves on to the next epoch if the current one is over."""
    state = session.state
    if state.validated:
        state.epoch, state.batch, state.skipped, state.validated = state.epoch + 1, 0, 0, False
        session.metrics = session.metrics.fresh(state.epoch)


def _train_epoch(session: Session, writer: CheckpointWriter) -> Iterator[Event]:
    """The rest of the current epoch, with a save every so many batches."""
    config, since = session.config.checkpoint, session.state.batch
    try:
        for stepped in take_steps(session):
            _refuse_fruitless(session, writer)
            yield stepped
            yield from writer.drain_saved()
            number, save_freq = stepped.batch, config.save_freq
            due = save_freq and number // save_freq > since // save_freq and number < stepped.num_batches
            if due and writer.fits(config.max_overhead):
                since = number
                save(session, writer)
    except StepMemoryError as error:
        raise save_whole(session, writer, error.failure, whole=error.whole) from None
    except Exception as error:
        if (failure := failed_allocation(error)) is None:
            raise
        raise save_whole(session, writer, failure, whole=True) from None


def take_steps(session: Session, watch: Watch | None = None) -> Iterator[Stepped]:
    """The rest of the current epoch: every `accumulate` batches make a step, the epoch's last ones too.

    Args:
        watch: as of `Step`.
    """
    state, training, order = session.state, session.config.training, session.train.order
    session.model.train()
    step: Step | None = None
    asked, waited, place = time.perf_counter(), 0.0, f"epoch {state.epoch + 1}"
    batches = naming_reads(_batches(session), place, state.batch, order.num_batches)
    try:
        for number, batch in enumerate(batches, start=state.batch + 1):
            waited += time.perf_counter() - asked
            windows = order.windows_in(number - 1, training.accumulate)
            step = step or Step(session=session, num_windows=windows, watch=watch)
            whole = number % training.accumulate == 0 or number == order.num_batches
            with naming(place, number, order.num_batches, batch):
                step.add(batch)
                if whole:
                    rate = set_learning_rate(session)
                    outcome, step = step.finish(), None
            if whole:
                _note(state, number, outcome)
                yield Stepped(
                    epoch=state.epoch,
                    batch=number,
                    num_batches=order.num_batches,
                    step=state.step,
                    loss=outcome.loss,
                    losses=outcome.parts,
                    skipped=state.skipped,
                    size=outcome.size,
                    learning_rate=rate,
                    wait_seconds=waited,
                    gradient_norm=outcome.gradient_norm,
                )
                waited = 0.0
            asked = time.perf_counter()
    except ProcessGoneError:
        if step is not None:
            step.undo()
        raise
    except Exception as error:
        if (failure := failed_allocation(error)) is None:
            raise
        raise StepMemoryError(failure, whole=step is None or step.undo()) from None


def _batches(session: Session) -> Iterator[Batch]:
    """The rows that this process has of each batch of the epoch that are still to come."""
    state, mesh = session.state, session.mesh
    return session.train.batches(state.epoch, start=state.batch, rank=mesh.rank, world=mesh.world)


def set_learning_rate(session: Session) -> float:
    """The rate of the step that is due, also told to the optimizer."""
    state, config = session.state, session.config
    rate = learning_rate(state.epoch, state.step, config.training.learning_rate, config.scheduler, state.progress.cuts)
    assert session.optimizer is not None, "only a model without parameters has none, and it takes no steps"
    for group in session.optimizer.param_groups:
        group["lr"] = rate
    return rate


def _note(state: State, number: int, outcome: Outcome) -> None:
    """Moves the position on."""
    state.batch, state.step = number, state.step + 1
    state.skipped += outcome.skipped
    state.skipped_in_a_row = state.skipped_in_a_row + 1 if outcome.skipped else 0


def _refuse_fruitless(session: Session, writer: CheckpointWriter) -> None:
    """Ends a training that gets nowhere.

    Raises:
        DateshardError: too many steps in a row had no finite gradient; a checkpoint of the state is kept.
    """
    if session.state.skipped_in_a_row >= session.config.training.max_skipped:
        save(session, writer)
        writer.finish()
        if session.mesh.leads:
            postmortem.write(session)
        raise postmortem.error(session, over=False)


@torch.no_grad()
def validate(session: Session, should_stop: Callable[[], bool]) -> dict[str, Any] | None:
    """The report over all validation windows; None without a validation split.

    Raises:
        Interrupted: `should_stop()` between two batches.
    """
    if session.validation is None:
        return None
    session.model.eval()
    order, mesh, cut = session.validation.order, session.mesh, session.config.training.micro_batches
    form = session.metrics.form
    counted = [
        (share, EpochMetrics.empty(form, num_windows=order.num_windows, thorough=True))
        for share in shares_of(mesh, cut)
    ]
    place = f"epoch {session.state.epoch + 1} validation"
    batches = session.validation.batches(0, rank=mesh.rank, world=mesh.world)
    for number, given in enumerate(naming_reads(batches, place, 0, order.num_batches)):
        with naming(place, number + 1, order.num_batches, given):
            for share, metrics in counted:
                _count(session, share.take(given), order.positions(number)[share.number :: share.of], metrics)
        if number % ASKED_BATCHES == 0:
            mesh.ask()
        ask(should_stop)
    return added_up(mesh, [metrics for _, metrics in counted], pairwise=cut is not None).report()


def _count(session: Session, given: Batch, positions: range, metrics: EpochMetrics) -> None:
    if given.size:
        passed = forward(session, given)
        metrics.add(passed.forecast, passed.batch, passed.sums, positions)


def _close_epoch(
    session: Session, writer: CheckpointWriter, report: dict[str, Any] | None, began: float
) -> Iterator[Event]:
    """Notes the validation on the very weights that are saved next."""
    state, config = session.state, session.config
    rate = learning_rate(state.epoch, state.step, config.training.learning_rate, config.scheduler, state.progress.cuts)
    best = note_validation(session, report)
    yield EpochDone(  # told before it is saved: what follows a save is never told again by a resumed run
        epoch=state.epoch,
        step=state.step,
        train=session.metrics.report(),
        validation=report,
        train_loss=state.train_loss,
        val_loss=state.val_loss,
        best=best,
        skipped=state.skipped,
        seconds=time.perf_counter() - began,
        learning_rate=rate,
        judged=state.judged,
    )
    save(session, writer)
    yield from writer.drain_saved()


def note_validation(session: Session, report: dict[str, Any] | None) -> bool:
    """Notes an epoch's losses, on which the next learning rate may depend; returns whether they are the best so far."""
    state, config = session.state, session.config
    state.val_loss = report["loss"] if report else None
    state.train_loss = session.metrics.loss()
    judge, deciding = config.metrics.judge, state.val_loss if session.validation else state.train_loss
    if judge != LOSS:
        deciding = state.judged = judged_figure(report or session.metrics.report(), judge)
    best = state.progress.note(deciding, state.epoch, config.early_stopping, config.scheduler)
    state.validated = True
    return best


def _train_closed_form(
    session: Session, writer: CheckpointWriter, model: Ridge, asking: StopReasons
) -> Iterator[Event]:
    """Ridge has no epochs: one pass over training and validation windows, then the checkpoint.

    A stop in the middle of it saves position 0: to go on is to begin anew, and ends in the same bytes.
    """
    state, began = session.state, time.perf_counter()
    if not state.validated:
        try:
            if not state.batch:
                _solve(session, model, asking)
                state.batch = session.train.order.num_batches
            report = validate(session, asking)
        except Interrupted:
            yield from _stop(session, writer, asking.why)
            return
        yield from _close_epoch(session, writer, report, began)
    yield from writer.finish()
    yield Ended("epochs", state)


def _solve(session: Session, model: Ridge, should_stop: ShouldStop) -> None:
    dataset, wanted, config = session.train.dataset, session.train.wanted, session.config.model
    train, held = (windows_of(dataset, split, wanted.window, wanted.targets) for split in ("train", "validation"))
    fit([model], train, held, [Grid(config.penalties, config.histories, config.normalisations)], should_stop)
