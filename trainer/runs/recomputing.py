"""One step of a run taken again, in memory, from the nearest checkpoint before it: the same bits, and nothing is written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dateshard.shardstore.commands import command
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import NotThereError, StoreError, UsageError, Where
from dateshard.trainer import checkpoint
from dateshard.trainer.binding import refuse_difference
from dateshard.trainer.checkpoint import Checkpoint
from dateshard.trainer.config import PlateauSchedule, Trainer
from dateshard.trainer.forward import Forward
from dateshard.trainer.loop import Stepped, begin_epoch, note_validation, take_steps, validate
from dateshard.trainer.runs.initial_weights import begin_with_same
from dateshard.trainer.runs.run_folder import TrainingRun
from dateshard.trainer.runs.run_record import RunRecord
from dateshard.trainer.runs.save_dir import refuse_absent
from dateshard.trainer.runs.start import Opener, environment_notes, open_shards, refuse_trial
from dateshard.trainer.runs.window_losses import WindowLoss, WindowLosses
from dateshard.trainer.session import Session, restore
from dateshard.trainer.setup import make_session
from dateshard.trainer.step import Watch


@dataclass(frozen=True, slots=True, kw_only=True)
class Recomputed:
    """A step that was taken again.

    Attributes:
        session: as it stands after the step. origin: the checkpoint it went on from; None: the run's beginning.
        steps: that were taken to get there, this one included. first_batch: of the step, from 1.
        windows: its windows, ranked; None where nobody asked. notes: what a person should know.
    """

    session: Session
    stepped: Stepped
    origin: str | None
    steps: int
    first_batch: int
    windows: list[WindowLoss] | None
    notes: list[str]

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The model's tensors after the step."""
        return dict(self.session.model.state_dict())


def recompute(
    run: TrainingRun,
    config: Trainer,
    shards: Path,
    step: int,
    *,
    windows: bool = False,
    opener: Opener = open_shards,
) -> Recomputed:
    """Takes a step of a run again, and those between it and the nearest good checkpoint before it.

    Args:
        config: the run's own. step: from 1. windows: whether the loss of each window is wanted.
        opener: opens the run's data.

    Raises:
        UsageError: there is no such step. StoreError: the run's data, or what it began with, is gone or another.
    """
    refuse_trial(run)
    refuse_absent(run.folder)
    record = run.facts_or_recovered() or run.facts()
    saved, passed = checkpoint.scan(run.checkpoints)
    dataset = _dataset(shards, record, run, opener)
    session = make_session(config, dataset, run.checkpoints)
    if session.optimizer is None:
        what = f"{run.name} has no steps: a {config.model.name} is solved in one pass over all windows"
        raise UsageError(what, todo=f"Its checkpoint has the solution: {command('checkpoints', 'info', run.name)}")
    _refuse_beyond(run, saved, step)
    notes = [f"passed over: {note}" for note in passed]
    begun = _restore_before(session, saved, step, notes)
    if begun is None:
        _begin(session, record, run)
    before = begun.state.environment if begun else record.environment
    notes += environment_notes(before, dict(session.environment)) if before is not None else []
    first, ranking = session.state.step, WindowLosses(session) if windows else None

    def watch(batch: Forward, positions: range) -> None:
        if ranking and session.state.step == step - 1:
            ranking.add(batch, positions)

    stepped, first_batch = _advance(session, step, watch)
    return Recomputed(
        session=session,
        stepped=stepped,
        origin=begun.name if begun else None,
        steps=step - first,
        first_batch=first_batch,
        windows=ranking.ranked() if ranking else None,
        notes=notes,
    )


def _dataset(shards: Path, record: RunRecord, run: TrainingRun, opener: Opener) -> Dataset:
    """The very data that a run is bound to."""
    generation = record.bound.data.generation
    try:
        return opener(shards, record.bound.data)
    except NotThereError as error:
        what = f"the data of {run.name}, generation {generation}, is gone ({error.what})"
        raise NotThereError(what, where=error.where or Where(file=str(shards)), todo="Bring back the store") from None


def _refuse_beyond(run: TrainingRun, saved: list[Checkpoint], step: int) -> None:
    """Refuses a step that the run's folder knows nothing of."""
    last = max([each.state.step for each in saved] + [int(row["step"]) for row in run.metrics()], default=0)
    if not 1 <= step <= last:
        taken = f"its checkpoints and metrics.jsonl know steps 1 to {last:,}" if last else "it has taken no step yet"
        todo = f"Name one of them; to go on with it: {command('train', '--resume', run.name)}"
        raise UsageError(f"{run.name} has no step {step:,}: {taken}", where=Where(file=str(run.folder)), todo=todo)


def _restore_before(session: Session, saved: list[Checkpoint], step: int, notes: list[str]) -> Checkpoint | None:
    """Puts the nearest good checkpoint before a step into the session; None where there is none."""
    for candidate in reversed(saved):
        if candidate.state.step >= step:
            continue
        refuse_difference(candidate.state.bound, session.bound, candidate.folder)
        try:
            restore(session, candidate)
        except StoreError as error:
            notes.append(f"passed over: {error}")
        else:
            return candidate
    return None


def _begin(session: Session, record: RunRecord, run: TrainingRun) -> None:
    """Sees to it that a session stands where the run began."""
    refuse_difference(record.bound, session.bound, run.folder)
    if record.bound.init_from is not None:
        begin_with_same(session, record.bound.init_from, run.folder.parent)
    session.bound = replace(session.bound, init_from=record.bound.init_from)


def _advance(session: Session, step: int, watch: Watch) -> tuple[Stepped, int]:
    """Takes the steps up to one; returns it, and the number of its first batch in its epoch.

    An epoch that ends on the way is validated where the learning rate depends on it, as in the training."""
    state = session.state
    while True:
        begin_epoch(session)
        first_batch = state.batch + 1
        for stepped in take_steps(session, watch):
            if stepped.step == step:
                return stepped, first_batch
            first_batch = stepped.batch + 1
        if isinstance(session.config.scheduler, PlateauSchedule):
            note_validation(session, validate(session, lambda: False))
        state.validated = True
