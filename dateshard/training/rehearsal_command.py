"""What `train --dry-run` and `train --overfit N` show of a rehearsal: its results on a screen, exit code and document."""

from __future__ import annotations

import math
import time
from typing import Any

from dateshard.settings import Settings
from dateshard.shardstore.commands import command
from dateshard.shardstore.errors import counted
from dateshard.terminal.screen import LINE_SECONDS, Screen, seconds
from dateshard.terminal.signals import StopSignal
from dateshard.trainer.loop import Stepped
from dateshard.trainer.rehearsal.overfit import Overfitted
from dateshard.training import rehearsal
from dateshard.training.estimate import show
from dateshard.training.rehearsal import OverfitEvent, OverfitStarted
from dateshard.training.run_log import RunLog

Document = dict[str, Any]
ADVICE = {
    "learned": "The model can learn: it knows {these} by heart. Model, loss and gradients work together.",
    "learning": "The model learns, but does not know {these} by heart yet. Give it more steps (--max-steps), a larger "
    "learning_rate or more hidden_units; a linear model may never get there.",
    "not learning": "The model does NOT learn {these}, the loss does not fall. Look at learning_rate, at the scale of the "
    "targets ({inspect}), at the loss, and at your own model's code.",
    "stopped": "Stopped before it was known whether the model can learn.",
}


def show_dry_run(settings: Settings, screen: Screen) -> tuple[int, Document]:
    """Tries every act of a training once and shows how each went; exit 1 where one does not work."""
    tried = rehearsal.dry_run(settings, watch=lambda needs: show(screen, needs, settings))
    screen.tell()
    for name, act in tried.acts.items():
        screen.table([[name, act.state, act.text]])
    screen.tell(f"{'not all' if tried.failed else 'all'} works, in {seconds(tried.seconds)}; nothing was kept")
    return int(tried.failed), {
        "run": None,
        "state": "dry run",
        "best_val_loss": None,
        "tried": [name for name, act in tried.acts.items() if act.state != rehearsal.NOT_TRIED],
        "estimate": dict(tried.estimate),
    }


def show_overfit(settings: Settings, count: int, screen: Screen, name: str | None) -> tuple[int, Document]:
    """Trains on `count` fixed batches and says what that means; exit 1 where nothing was learned."""
    shown = _Shown(screen, count)
    with StopSignal() as stop:
        try:
            overfitted = rehearsal.overfit_few(settings, count, name, watch=shown.watch, should_stop=stop.asked)
        finally:
            shown.close()
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


class _Shown:
    """Shows an overfit on a screen: a bar over the steps, or a line every few seconds, then the verdict."""

    def __init__(self, screen: Screen, count: int) -> None:
        self.screen, self.batches = screen, counted(count, "batch", "batches")
        self.bar: Any = None
        self.most = 0

    def watch(self, event: OverfitEvent) -> None:
        """Shows an event."""
        if isinstance(event, OverfitStarted):
            self._begin(event)
        elif isinstance(event, Stepped):
            self._step(event)
        else:
            self.close()
            _last_words(event, self.screen)

    def close(self) -> None:
        """Takes the bar away, also after an error."""
        if self.bar is not None:
            self.bar.close()

    def _begin(self, started: OverfitStarted) -> None:
        if started.run:
            self.screen.log = RunLog(started.run.folder).write
        model, self.most = started.session.config.model.name, started.most
        self.screen.say(
            f"{model} on {self.batches} again and again, at most {counted(self.most, 'step')}, without dropout"
        )
        self.bar = self.screen.bar("overfit", self.most)

    def _step(self, event: Stepped) -> None:
        now = time.monotonic()
        if self.screen.terminal:
            self.bar.reach(event.step, f"loss {float(event.loss):.6f}")
        elif now - self.bar.said > LINE_SECONDS:
            self.bar.said = now
            self.screen.say(f"Step: {event.step}/{self.most}, Loss: {float(event.loss):.6f}")


def _last_words(overfitted: Overfitted, screen: Screen) -> None:
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
