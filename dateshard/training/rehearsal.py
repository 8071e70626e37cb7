"""Before a long training: `--dry-run` does each of its acts once, `--overfit N` sees whether the model can learn at all."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dateshard.places import runs_folder, shards_folder
from dateshard.settings import Settings, apply
from dateshard.shardstore.commands import command
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import DamagedError, Where
from dateshard.terminal.screen import LINE_SECONDS, Screen, counted, seconds
from dateshard.terminal.signals import StopSignal
from dateshard.trainer import checkpoint
from dateshard.trainer.loop import Stepped, set_learning_rate, validate
from dateshard.trainer.rehearsal.overfit import STEPS, Overfitted, overfit
from dateshard.trainer.runs import status
from dateshard.trainer.runs.observed_targets import refuse_blind
from dateshard.trainer.runs.start import New, start
from dateshard.trainer.session import Session, restore, save
from dateshard.trainer.setup import make_session, refuse_batch_of_one
from dateshard.trainer.step import Step
from dateshard.trainer.stop import Interrupted
from dateshard.training.board import refuse_missing
from dateshard.training.estimate import estimate, show
from dateshard.training.run_log import RunLog
from dateshard.trust import admit, code_of

Document = dict[str, Any]
WORKS, BROKEN, NOT_TRIED = "works", "does NOT work", "not tried"
PLAIN = (
    "trainer.model.dropout_rate=0",
    "trainer.training.weight_decay=0",
)  # nothing that keeps it from learning by heart
ADVICE = {
    "learned": "The model can learn: it knows {these} by heart. Model, loss and gradients work together.",
    "learning": "The model learns, but does not know {these} by heart yet. Give it more steps (--max-steps), a larger "
    "learning_rate or more hidden_units; a linear model may never get there.",
    "not learning": "The model does NOT learn {these}, the loss does not fall. Look at learning_rate, at the scale of the "
    "targets ({inspect}), at the loss, and at your own model's code.",
    "stopped": "Stopped before it was known whether the model can learn.",
}


def dry_run(settings: Settings, screen: Screen) -> tuple[int, Document]:
    """Builds everything, takes a step, validates a batch, saves and reads back a checkpoint; keeps nothing of it."""
    if settings.trainer.logging.tensorboard:
        refuse_missing()
    needs = estimate(settings)
    show(screen, needs, settings)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="dateshard-dry-run-") as folder:
        dataset = Dataset.open(shards_folder(settings.dataset))
        session = make_session(settings.trainer, dataset, Path(folder))
        refuse_batch_of_one(session)
        refuse_blind(session)
        acts = {"step": _step(session), "validation": _validate(session), "checkpoint": _save(session, dataset)}
    screen.tell()
    for name, (state, text) in acts.items():
        screen.table([[name, state, text]])
    failed = any(state == BROKEN for state, _ in acts.values())
    took = seconds(time.perf_counter() - began)
    screen.tell(f"{'not all' if failed else 'all'} works, in {took}; nothing was kept")
    tried = [name for name, (state, _) in acts.items() if state != NOT_TRIED]
    document = {"run": None, "state": "dry run", "best_val_loss": None, "tried": tried, "estimate": dict(needs)}
    return int(failed), document


def _step(session: Session) -> tuple[str, str]:
    if session.optimizer is None:
        return NOT_TRIED, f"{session.config.model.name} is solved in one pass over all windows, it takes no steps"
    count = min(session.config.training.accumulate, session.train.order.num_batches)
    step = Step(session=session, num_windows=session.train.order.windows_in(0, count))
    for _, batch in zip(range(count), session.train.batches(0), strict=False):
        step.add(batch)
    set_learning_rate(session)
    outcome = step.finish()
    if outcome.skipped:
        return (
            BROKEN,
            "its loss or gradient is not finite: such a step changes nothing, and ten in a row end a training",
        )
    session.state.batch, session.state.step = count, 1
    return WORKS, f"loss {float(outcome.loss):.4f}, {counted(outcome.size, 'window')}"


def _validate(session: Session) -> tuple[str, str]:
    if session.validation is None:
        return (
            NOT_TRIED,
            "the validation dates are too few for a window, so the training loss decides which weights are best",
        )
    try:
        report = validate(session, lambda: True)  # asked after its first batch
    except Interrupted:
        return WORKS, "one batch"
    return WORKS, f"all of it, loss {report['loss']:.4f}" if report else ""


def _save(session: Session, dataset: Dataset) -> tuple[str, str]:
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
    return WORKS, f"{read_back.num_bytes / 1e6:,.3f} MB written and read back in {seconds(saved.seconds)}"


def overfit_few(settings: Settings, count: int, screen: Screen, name: str | None) -> tuple[int, Document]:
    """Trains on `count` fixed batches; a run is kept only under a name. Exit 1 where nothing was learned."""
    with StopSignal() as stop, _session(apply(settings, PLAIN), screen, name) as (session, leave):
        most = session.config.training.max_steps or STEPS
        batches = counted(count, "batch", "batches")
        screen.say(f"{session.config.model.name} on {batches} again and again, at most {most:,} steps, without dropout")
        for event in _shown(overfit(session, count, stop.asked), screen, most):
            if isinstance(event, Overfitted):
                leave(event)
                return _end(event, screen, stop, name)
    raise AssertionError("it ends with Overfitted or raises")


def _end(overfitted: Overfitted, screen: Screen, stop: StopSignal, name: str | None) -> tuple[int, Document]:
    these = f"these {counted(overfitted.batches, 'batch', 'batches')} ({counted(overfitted.windows, 'window')})"
    if overfitted.verdict != "stopped":
        share = (
            f" ({100 * overfitted.last / overfitted.first:.1f} %)"
            if overfitted.first > 0 and math.isfinite(overfitted.last)
            else ""
        )
        screen.tell(
            f"loss {overfitted.first:.6f} -> {overfitted.last:.6f}{share} in {counted(overfitted.steps, 'step')}"
        )
    screen.explain(ADVICE[overfitted.verdict].format(these=these, inspect=command("inspect", config=True)))
    code = {"stopped": stop.exit_code, "not learning": 1}.get(overfitted.verdict, 0)
    return code, {
        "run": name,
        "state": "overfit",
        "best_val_loss": None,
        "steps": overfitted.steps,
        "verdict": overfitted.verdict,
        "first_loss": overfitted.first,
        "last_loss": overfitted.last,
    }


@contextmanager
def _session(
    settings: Settings, screen: Screen, name: str | None
) -> Iterator[tuple[Session, Callable[[Overfitted], None]]]:
    """A session, and what notes its end. Without a name nothing is written anywhere."""
    shards = shards_folder(settings.dataset)
    if name is None:
        session = make_session(settings.trainer, Dataset.open(shards), runs_folder())
        refuse_blind(session)
        yield session, lambda _: None
        return
    started = start(settings.trainer, settings.dataset, shards, runs_folder(), resume="none", new=New(name))
    try:
        admit(started.run.folder, code_of(settings.trainer))
        screen.log = RunLog(started.run.folder).write
        begun = status.begin(started.run, 0)
        yield (
            started.session,
            lambda overfitted: status.end(started.run, begun, "ended", f"overfit: {overfitted.verdict}"),
        )
    finally:
        started.close()


def _shown(events: Iterator[Stepped | Overfitted], screen: Screen, most: int) -> Iterator[Stepped | Overfitted]:
    """Passes events through, with a bar over the steps or a line every few seconds."""
    bar = screen.bar("overfit", most)
    try:
        for event in events:
            if isinstance(event, Stepped):
                now = time.monotonic()
                if screen.terminal:
                    bar.reach(event.step, f"loss {float(event.loss):.6f}")
                elif now - bar.said > LINE_SECONDS:
                    bar.said = now
                    screen.say(f"Step: {event.step}/{most}, Loss: {float(event.loss):.6f}")
            else:
                bar.close()
            yield event
    finally:
        bar.close()
