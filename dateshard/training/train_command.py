"""What the command `train` does around a training: signals, what people see of it, the last words, its document."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from dateshard.settings import Settings
from dateshard.shardstore.commands import command, door
from dateshard.terminal.screen import Screen, number
from dateshard.terminal.signals import StopSignal
from dateshard.trainer import checkpoint, loop
from dateshard.trainer.memory.memory_watch import MEMORY_LIMIT
from dateshard.trainer.metrics.judged_figure import NAMES
from dateshard.trainer.runs.start import Started
from dateshard.training.ending import at_memory_limit, continuing, way_on, why_ended
from dateshard.training.run_log import RunLog
from dateshard.training.train import TrainingEvent, TrainRequest, run_training
from dateshard.training.view import View, headline

Document = dict[str, Any]
PAUSED = 75  # the exit code: saved, and to be continued


def train_to_the_end(settings: Settings, screen: Screen, request: TrainRequest) -> tuple[int, Document]:
    """Trains until the end or a signal; returns the exit code and what `--json` prints."""
    shown = Shown(screen)
    with StopSignal() as stop:  # from here on: there may be a run, and it must say how it is continued
        try:
            ended = run_training(settings, request, watch=shown.watch, should_stop=stop.asked)
        finally:
            shown.close()
    return {"stopped": stop.exit_code, MEMORY_LIMIT: PAUSED}.get(ended.why, 0), shown.document


class Shown:
    """Shows a training on a screen, and writes the same lines to its log.

    Args:
        on_event: is called with each event before it is shown.
    """

    def __init__(self, screen: Screen, on_event: Callable[[TrainingEvent], None] | None = None) -> None:
        self.screen, self.on_event = screen, on_event
        self.view: View | None = None
        self.document: Document = {}

    def watch(self, event: TrainingEvent) -> None:
        """Shows the headline, then each event, and the last words."""
        if self.on_event:
            self.on_event(event)
        if isinstance(event, Started):
            self.screen.log = RunLog(event.run.folder).write
            headline(self.screen, event)
            self.view = View(event, self.screen)
            return
        assert self.view, "the first event is Started"
        if isinstance(event, loop.Ended):
            self.view.close()
            self.document = self._end(self.view.started, event)
        else:
            self.view.show(event)

    def close(self) -> None:
        """Takes the live line away, also after an error."""
        if self.view:
            self.view.close()

    def _end(self, started: Started, ended: loop.Ended) -> Document:
        if started.finished:
            return _nothing_to_do(started, ended.why, self.screen)
        _last_words(started, ended, self.screen)
        return _document(started, ended)


def _last_words(started: Started, ended: loop.Ended, screen: Screen) -> None:
    state, progress, run = ended.state, ended.state.progress, started.run
    place = f"saved epoch {state.epoch + 1} batch {state.batch}"
    if ended.why == "stopped":
        screen.tell(f"{place}. Continue exactly here: {continuing(started.session, run.name)}")
        return
    if ended.why == MEMORY_LIMIT:
        screen.tell(f"{place}. {at_memory_limit(started.session, run.name)}")
        return
    figure = NAMES[started.session.config.metrics.judge]
    best = f"best validation {figure} {number(progress.best_loss)} in epoch {progress.best_epoch + 1}"
    screen.tell(f"{run.name} ended ({ended.why}): {best if progress.best_loss is not None else place}")
    if state.validated and progress.best_loss is None:
        screen.tell("warning: the loss of no epoch was a finite number, so none of its checkpoints is the best")
    if ended.why in ("max steps", "early stopping"):
        here = "Continue exactly here" if ended.why == "max steps" else "To continue"
        screen.tell(f"{here}: {way_on(started.session, run.name)}")
    more = () if progress.best_loss is not None else ("--checkpoint", "latest")
    if door().alone:
        screen.say(f"See: {command('evaluate', run.name, *more)}")


def _nothing_to_do(started: Started, why: str, screen: Screen) -> Document:
    run = started.run
    command = way_on(started.session, run.name)
    screen.explain(f"{why_ended(started.session, run.name, why)}.")
    if why == "early stopping":
        screen.explain("More epochs alone do not continue it.")
    if command:
        screen.tell(f"To continue: {command}")
    screen.say(f"{'make train NEW=1' if 'MAKELEVEL' in os.environ else '--resume none'} trains anew")
    best = _best_loss(started)
    return {"run": run.name, "state": "complete", "why": why, "go_on": command, "best_val_loss": best}


def _best_loss(started: Started) -> float | None:
    """The validation loss of the best epoch: only where another figure decides must checkpoints be read for it."""
    progress = started.session.state.progress
    if started.session.config.metrics.judge == "loss":
        return progress.best_loss
    return checkpoint.loss_of_best(progress, checkpoint.scan(started.run.checkpoints)[0])


def _document(started: Started, ended: loop.Ended) -> Document:
    state = ended.state
    return {
        "run": started.run.name,
        "state": ended.why,
        "epoch": state.epoch + 1,
        "batch": state.batch,
        "steps": state.step,
        "best_val_loss": _best_loss(started),
        "best_epoch": state.progress.best_epoch + 1,
    }
