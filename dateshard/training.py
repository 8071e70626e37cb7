"""One training at the front door: configuration, signals, progress, the last words."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from dateshard.places import runs_folder, shards_folder
from dateshard.screen import Bar, Screen, counted, memory, number, size
from dateshard.settings import Settings, load_settings, validate
from dateshard.signals import StopSignal
from shardstore.errors import NotThereError, UsageError, Where, naming
from trainer import loop
from trainer.checkpoint import Saved
from trainer.disk import need
from trainer.initial import read_initial
from trainer.models import num_parameters
from trainer.resume import New, Started, locate, start
from trainer.run import TrainingRun, all_runs

LOGGED_STEPS = 100  # lines of metrics.jsonl an epoch, at most about this many
SHOWN_SECONDS = 0.2  # the loss is read off its device no more often
WAITED = 0.1  # seconds that a save waited for the one before, from which on it is told


def configure(files: Sequence[str], overrides: Sequence[str], resume: str) -> Settings:
    """The configuration of the files; of the run that is continued (`latest`, `best`: the newest), where no file is named."""
    if files or resume in ("none", "auto"):
        return load_settings(files, overrides)
    run = _newest() if resume in ("latest", "best") else locate(resume, runs_folder())[0]
    settings = settings_of_run(run, recover=True)
    if not overrides:
        return settings
    from dateshard.settings import apply

    return apply(settings, overrides)


def _newest() -> TrainingRun:
    runs = runs_folder()
    if run := next((run for run in all_runs(runs) if run.told()), None):
        return run
    raise NotThereError("no run yet", where=Where(file=str(runs)), todo="Run: dateshard train -c CONFIG")


def settings_of_run(run: TrainingRun, *, recover: bool = False) -> Settings:
    """The resolved configuration that a run was started with.

    Args:
        recover: where run.json is damaged, take that of the newest good checkpoint.
    """
    facts = (run.told() if recover else None) or run.facts()
    return validate({"dataset": facts["data"]["name"], "trainer": facts["config"]})


@dataclass(frozen=True, slots=True)
class Asked:
    """What a training is asked for beside its configuration: the options of `train`."""

    resume: str = "none"
    name: str | None = None
    save_dir: str | None = None
    init_from: str | None = None

    def new(self) -> New:
        """A new run as it is asked for.

        Raises:
            UsageError: an option of a new run beside --resume. StoreError: there are no such weights.
        """
        if self.name and self.resume != "none":
            raise UsageError("--run names a new run, --resume continues one", todo="Give one of them")
        if self.init_from and self.resume != "none":
            what = "--init-from begins a new run with these weights, --resume continues one"
            raise UsageError(what, todo="Give one of them")
        if self.save_dir and self.resume not in ("none", "auto"):
            what = "--save-dir is of a new run: where it is continued, its checkpoints stay where they lie"
            raise UsageError(what, todo="Leave it out")
        initial = read_initial(self.init_from, runs_folder()) if self.init_from else None
        return New(self.name, Path(self.save_dir) if self.save_dir else None, initial)


def train_to_the_end(settings: Settings, screen: Screen, asked: Asked) -> tuple[int, dict[str, Any]]:
    """Trains until the end or a signal; returns the exit code and what `--json` prints."""
    new = asked.new()
    with StopSignal() as stop:  # from here on: there may be a run, and it must say how it is continued
        shards = shards_folder(settings.dataset)
        started = start(
            settings.trainer, settings.dataset, shards, runs_folder(), resume=asked.resume, name=new.name, new=new
        )
        with closing(started):
            return _train_started(started, screen, stop)


def _train_started(started: Started, screen: Screen, stop: StopSignal) -> tuple[int, dict[str, Any]]:
    _headline(screen, started)
    if started.finished:
        screen.tell(
            f"{started.run.name} is complete for these settings and this data; NEW=1 (--resume none) trains again"
        )
        return 0, {
            "run": started.run.name,
            "state": "complete",
            "best_val_loss": started.session.state.progress.best_loss,
        }
    path = started.run.folder / "metrics.jsonl"
    lines = open(path, "a")  # noqa: SIM115 - closed below, under its name
    try:
        ended = _follow(started, screen, lines, stop.asked)
    finally:
        with naming(path):
            lines.close()
    state = ended.state
    document = {
        "run": started.run.name,
        "state": ended.why,
        "epoch": state.epoch + 1,
        "batch": state.batch,
        "best_val_loss": state.progress.best_loss,
        "best_epoch": state.progress.best_epoch + 1,
    }
    if ended.why == "stopped":
        place = f"saved epoch {state.epoch + 1} batch {state.batch}"
        screen.tell(f"{place}. Continue exactly here: dateshard train --resume {started.run.name}")
        return stop.exit_code, document
    best = f"best validation loss {number(state.progress.best_loss)} in epoch {state.progress.best_epoch + 1}"
    screen.tell(f"{started.run.name} ended ({ended.why}): {best}")
    screen.say(f"See: dateshard evaluate {started.run.name}")
    return 0, document


def _headline(screen: Screen, started: Started) -> None:
    session, order = started.session, started.session.train.order
    dataset, config = started.dataset, session.config
    counts = [
        sum(1 for day in dataset.days if dataset.manifest.split_of(day.date) == s) for s in ("train", "validation")
    ]
    if started.continued and not started.finished:
        screen.tell(f"continuing {started.run.name} exactly at {started.continued}")
    for note in started.notes:
        screen.tell(f"note: {note}")
    for warning in started.warnings if not started.finished else ():
        screen.tell(f"warning: {warning}")
    if session.validation is None and not started.finished:
        screen.tell("note: no validation window fits its dates: the training loss decides which weights are best")
    reader = session.train
    served = f"{reader.policy}, {size(reader.resident_bytes)} resident" if reader.policy == "blocks" else "mapped"
    shuffle = "global" if order.runs_per_block is None else f"{order.runs_per_block} runs a block"
    screen.say(
        f"run {started.run.name}  seed {config.training.seed}  generation {dataset.generation}  "
        f"{config.model.name}, {num_parameters(session.model):,} parameters"
    )
    screen.say(
        f"{counts[0]} train + {counts[1]} validation dates  {order.num_windows:,} windows  "
        f"{order.num_batches:,} batches an epoch"
    )
    screen.say(f"shuffle {shuffle}  {served}")
    if not started.finished:
        screen.say(_checkpoints(started))
        screen.say(f"If it is cut off: dateshard train --resume {started.run.name}")


def _checkpoints(started: Started) -> str:
    """How many checkpoints an epoch writes, how large they are, and what is free."""
    needed = need(started.session, started.session.checkpoints)
    count = counted(needed.an_epoch, "checkpoint")
    return f"{count} an epoch, {size(needed.bytes_epoch)}; {size(needed.free)} free"


def _follow(started: Started, screen: Screen, lines: TextIO, asked: Callable[[], bool]) -> loop.Ended:
    view = _View(started, screen, lines)
    with closing(view), closing(loop.train(started.session, asked)) as events:  # however it ends, what is saved lands
        for event in events:
            view.show(event)
            if isinstance(event, loop.Ended):
                return event
    raise AssertionError("a training ends with Ended or raises")


class _View:
    """Shows events: a bar an epoch on a terminal, the notes' log lines elsewhere; writes metrics.jsonl."""

    def __init__(self, started: Started, screen: Screen, lines: TextIO) -> None:
        self.started, self.screen, self.lines = started, screen, lines
        self.config, self.saved = started.session.config, ""
        self.shown = self.began = time.monotonic()
        self.waited = 0.0
        self.windows = self.epoch = 0
        self.every = max(1, started.session.train.order.num_batches // LOGGED_STEPS)
        self.bar: Bar | None = None

    def show(self, event: loop.Event) -> None:
        """One event."""
        match event:
            case loop.Stepped():
                self._step(event)
            case Saved():
                self._saved(event)
            case loop.EpochDone():
                self._epoch(event)
            case _:
                pass

    def close(self) -> None:
        """Ends the bar."""
        if self.bar:
            self.bar.close()
        self.bar = None

    def _saved(self, event: Saved) -> None:
        """A save may land in the epoch after its own, and one that comes too soon after another waits for it."""
        place = f"batch {event.batch}" if self.bar and event.epoch == self.epoch else f"epoch {event.epoch + 1}"
        waited = f", waited {event.waited_seconds:.1f} s for the one before" if event.waited_seconds > WAITED else ""
        self.saved = f"[saved: {place}{waited}]"

    def _step(self, event: loop.Stepped) -> None:
        if self.bar is None:
            self.began, self.waited, self.windows, self.saved = time.monotonic() - event.wait_seconds, 0.0, 0, ""
            self.epoch = event.epoch
            self.bar = self.screen.bar(f"epoch {event.epoch + 1}/{self.config.training.epochs}", event.num_batches)
            self.bar.reach(event.batch - 1)
        self.waited, self.windows = self.waited + event.wait_seconds, self.windows + event.size
        now, note = time.monotonic(), ""
        if event.step % self.every == 0:
            self._write(
                step=event.step,
                epoch=event.epoch + 1,
                batch=event.batch,
                loss=_number(event.loss),
                losses={name: _number(loss) for name, loss in event.losses.items()},
                learning_rate=event.learning_rate,
                skipped=event.skipped,
            )
        if now - self.shown > SHOWN_SECONDS or event.batch == event.num_batches:
            self.shown, note = now, self._note(event, now - self.began)
        if self.screen.terminal:
            self.bar.reach(event.batch, note)
        elif now - self.bar.said > 5.0:
            self.bar.said = now
            self.screen.say(
                f"Epoch: {event.epoch}, Batch: {event.batch - 1}/{event.num_batches}, Loss: {float(event.loss):.6f}"
            )

    def _note(self, event: loop.Stepped, elapsed: float) -> str:
        elapsed = max(elapsed, 1e-9)
        mean = self.started.session.metrics.loss()
        return self.screen.fitting(
            f"loss {float(event.loss):.4f}",
            *(f"{name} {float(loss):.4f}" for name, loss in event.losses.items() if len(event.losses) > 1),
            f"avg {number(mean)}",
            f"errors {event.skipped}",
            self.saved,
            memory(),
            f"data wait {100 * self.waited / elapsed:.1f} %",
            f"{self.windows / elapsed:,.0f} windows/s",
            f"{elapsed / max(event.batch, 1):.3f} s/it",
            f"lr {event.learning_rate:.1e}",
        )

    def _epoch(self, event: loop.EpochDone) -> None:
        self.close()
        self._write(
            step=event.step,
            epoch=event.epoch + 1,
            train_loss=event.train_loss,
            val_loss=event.val_loss,
            train_accuracy=event.train["accuracy"],
            val_accuracy=event.validation["accuracy"] if event.validation else None,
            learning_rate=event.learning_rate,
            skipped=event.skipped,
            time_per_epoch=event.seconds,
            train=_short(event.train),
            validation=_short(event.validation),
        )
        total, best = self.config.training.epochs, "  (best)" if event.best else ""
        parts = event.validation["losses"] if event.validation and len(event.validation["losses"]) > 1 else {}
        named = "".join(f" - {name}: {number(loss)}" for name, loss in parts.items())
        errors = f" - Errors: {event.skipped}" if event.skipped else ""
        self.screen.say(
            f"Epoch {event.epoch}/{total} - Time: {event.seconds:.2f}s - Train Loss: {number(event.train_loss)}"
            f" - Val Loss: {number(event.val_loss)}{_accuracy(event)}{named}{errors}{best}"
        )
        reports = [report for report in (event.train, event.validation) if report and report["sampled"]]
        for error in dict.fromkeys(report["sampled"]["error"] for report in reports):
            if error:
                self.screen.say(f"metrics.custom: {error} (training goes on without it)")

    def _write(self, **row: Any) -> None:
        with naming(self.lines.name):
            self.lines.write(json.dumps(row) + "\n")
            self.lines.flush()


def _short(report: dict[str, Any] | None) -> dict[str, Any] | None:
    """What metrics.jsonl keeps of an epoch: overall figures, each loss, each categorical target's averages."""
    if report is None:
        return None
    told = {key: report[key] for key in ("mse", "rmse", "mae", "bias", "r2", "losses", "sampled")}
    figures = ("accuracy", "log_loss", "macro_avg", "weighted_avg")
    return {**told, "classes": {name: {key: part[key] for key in figures} for name, part in report["classes"].items()}}


def _accuracy(event: loop.EpochDone) -> str:
    """Of categorical targets, in the epoch's line; empty for numbers."""
    if event.train["accuracy"] is None:
        return ""
    held = event.validation["accuracy"] if event.validation else None
    return f" - Train Acc: {number(event.train['accuracy'])} - Val Acc: {number(held)}"


def _number(loss: Any) -> float | None:
    """A loss as JSON takes it: null where a step was skipped."""
    value = float(loss)
    return value if math.isfinite(value) else None
