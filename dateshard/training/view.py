"""What a person sees of a training: a live line on a terminal, the notes' log lines elsewhere, and what comes before."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dateshard.insight.observed_shares import observed_cells, percent, shares_line, thin_splits
from dateshard.pipeline.splits import about_no_split
from dateshard.shardstore.coverage.observed import ObservedCells
from dateshard.shardstore.coverage.split_names import about_cuts_in_no_split
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import DateshardError, counted
from dateshard.shardstore.manifest import in_no_split
from dateshard.terminal.screen import LINE_SECONDS, Bar, Screen, columns, number, size
from dateshard.trainer import loop
from dateshard.trainer.checkpoint import Saved
from dateshard.trainer.data.order import DateRun, Window
from dateshard.trainer.data.split_runs import num_overflowing
from dateshard.trainer.memory.process_memory import private_bytes
from dateshard.trainer.models import num_parameters
from dateshard.trainer.runs.disk_need import need
from dateshard.trainer.runs.start import Started
from dateshard.training.ending import continuing
from dateshard.training.progress_line import Moment, progress_line

WHOLE = 0.99  # of a target's cells: what fill does with the rest matters little
SHOWN_SECONDS = 0.2  # the loss is read off its device no more often
WAITED = 0.1  # seconds that a save waited for the one before, from which on it is told


def headline(screen: Screen, started: Started) -> None:
    """What is trained on what, and how it is continued, before the first step."""
    session, order = started.session, started.session.train.order
    dataset, config = started.dataset, session.config
    if started.continued and not started.finished:
        screen.tell(f"continuing {started.run.name} exactly at {started.continued}")
    for note in started.notes:
        screen.tell(f"note: {note}")
    for warning in started.warnings if not started.finished else ():
        screen.tell(f"warning: {warning}")
    if (unsplit := _in_no_split(dataset)) and not started.finished:
        screen.tell(f"note: {unsplit}")
    if session.validation is None and not started.finished:
        screen.tell(
            "note: the validation dates are too few for a window, so the training loss decides which weights are best"
        )
    reader = session.train
    served = f"{reader.policy}, {size(reader.resident_bytes)} resident" if reader.policy == "blocks" else "mapped"
    if reader.policy == "resident":
        served = (
            f"{size(sum(r.resident_bytes for r in (reader, session.validation) if r))} resident on {session.device}"
        )
    shuffle = "global" if order.runs_per_block is None else f"{counted(order.runs_per_block, 'run')} a block"
    screen.say(
        f"run {started.run.name}  seed {config.training.seed}  generation {dataset.generation}  "
        f"{config.model.name}, {counted(num_parameters(session.model), 'parameter')}"
    )
    windows = counted(order.num_anchors, "window")
    windows = f"{order.num_windows:,} of {windows}" if order.num_windows < order.num_anchors else windows
    screen.say(f"{_divided(dataset)}  {windows}  {counted(order.num_batches, 'batch', 'batches')} an epoch")
    _observed(screen, started)
    if reader.wanted.window.interval:
        screen.say(_histories(dataset, order.runs, reader.wanted.window, str(config.window.history)))
    if sampled := about_sample(started):
        screen.say(sampled)
    together = f"  {session.mesh.world} processes" if session.mesh.world > 1 else ""
    screen.say(f"shuffle {shuffle}  {served}{together}")
    if not started.finished:
        screen.say(_checkpoints(started))
        screen.say(f"To continue if it is interrupted: {continuing(session, started.run.name)}")
        if not screen.terminal:
            screen.say("(lines of epochs and batches count from 0, everything else from 1)")


def _histories(dataset: Dataset, runs: Sequence[DateRun], window: Window, interval: str) -> str:
    """How many windows hold more records in their interval than there is room for."""
    more, total = num_overflowing(dataset, runs, window), sum(run.count for run in runs)
    share = (
        f"{more:,} of {counted(total, 'window')} {'has' if more == 1 else 'have'} more, of which the last {window.history:,} stay"
        if more
        else "no window has more"
    )
    return f"histories of {interval}, at most {counted(window.history, 'record')}: {share}"


def _divided(dataset: Dataset) -> str:
    """What training and validation have: `4 train + 1 validation dates`, or cuts of records."""
    manifest, sides = dataset.manifest, ("train", "validation")
    if manifest.split_cuts:
        counts = [len(manifest.split_cuts.get(side, ())) for side in sides]
        if manifest.by_row:  # by a hundred buckets of them
            return f"{counts[0]} % train + {counts[1]} % validation of the rows"
        return f"{counts[0]:,} train + {counts[1]:,} validation values of '{manifest.cut}'"
    counts = [sum(1 for day in dataset.days if manifest.split_of(day.date) == side) for side in sides]
    return f"{counts[0]} train + {counts[1]} validation dates"


def _in_no_split(dataset: Dataset) -> str:
    """A sentence about dates, or cuts, that are neither trained on nor judged; empty where all are in a split."""
    manifest = dataset.manifest
    if manifest.split_cuts:
        return about_cuts_in_no_split(dataset.root, dataset.generation, manifest)
    if not in_no_split(manifest.split, manifest.dates):
        return ""
    from dateshard.pipeline.generation_settings import (
        settings_of,  # a training waits for the settings of preparing only here
    )

    split = None
    with suppress(DateshardError):  # of an older version, or damaged: the dates are told all the same
        split = settings_of(dataset).split
    return about_no_split(split, manifest.split, sorted(manifest.dates))


def _observed(screen: Screen, started: Started) -> None:
    """How much of the targets each split holds, and a warning where it is almost nothing."""
    cells = observed_cells(started.dataset, started.session.train.wanted.targets)
    if line := shares_line(cells, "target cells"):
        screen.say(line)
    for warning in [*thin_splits(cells), *_not_filled(started)] if not started.finished else ():
        screen.tell(f"warning: {warning}")


def _not_filled(started: Started) -> list[str]:
    """Sentences on targets whose missing cells nothing fills, of a model that forecasts from a window's own level."""
    model, dataset = started.session.config.model, started.dataset
    if model.name not in ("nlinear", "ridge") and not model.revin:
        return []
    sentences = []
    for place in started.session.train.wanted.targets:
        feature, train = dataset.features[place], observed_cells(dataset, [place]).get("train")
        if feature.fill == "none" and not feature.categorical and train and train.share < WHOLE:
            missing = percent(ObservedCells(train.cells - train.observed, train.cells))
            sentences.append(
                f"{missing} of the cells of '{feature.name}' are missing in the training data, and nothing fills them: the "
                "model forecasts from a window's own level, and sees the middle of the scale there. Set "
                f"pipeline.features.{feature.name}.fill: forward (a level), or zero (a sum)"
            )
    return sentences


def about_sample(started: Started) -> str:
    """What `training.sample_size` means here; empty where it is not set."""
    config, order = started.session.config, started.session.train.order
    size = config.training.sample_size
    if size is None:
        return ""
    if order.sample:
        return (
            f"sample_size {size:,}: spread evenly over the training data, the same in every epoch; validation is whole"
        )
    if config.model.name == "ridge":
        return f"sample_size {size:,} changes nothing: ridge is solved from all training windows in one pass"
    return f"sample_size {size:,}: that is every training window"


def _checkpoints(started: Started) -> str:
    """How many checkpoints an epoch writes, how large they are, and what is free."""
    needed = need(started.session, started.session.checkpoints)
    count = counted(needed.an_epoch, "checkpoint")
    return f"{count} an epoch, {size(needed.bytes_epoch)}; {size(needed.free)} free"


class View:
    """Shows events: a live line an epoch on a terminal, a line every few seconds elsewhere, a line an epoch on both."""

    def __init__(self, started: Started, screen: Screen) -> None:
        self.started, self.screen = started, screen
        self.config, self.saved = started.session.config, Saved(folder=Path(), epoch=-1, batch=0, step=0, seconds=0.0)
        self.shown = self.began = time.monotonic()
        self.waited, self.windows, self.first = 0.0, 0, 0
        self.bar: Bar | None = None

    def show(self, event: loop.Event) -> None:
        """Shows one event of the training."""
        match event:
            case loop.Stepped():
                self._step(event)
            case Saved():  # may come some batches after its own, in the next epoch too
                self.saved = event
            case loop.EpochDone():
                self._epoch(event)
            case _:
                pass

    def close(self) -> None:
        """Takes the live line away."""
        if self.bar:
            self.bar.close()
        self.bar = None

    def _step(self, event: loop.Stepped) -> None:
        if self.bar is None:
            self.began, self.waited, self.windows = time.monotonic() - event.wait_seconds, 0.0, 0
            self.bar = self.screen.bar(f"epoch {event.epoch + 1}", event.num_batches, whole=True)
            self.first = event.batch - self.config.training.accumulate
        self.waited, self.windows = self.waited + event.wait_seconds, self.windows + event.size
        now = time.monotonic()
        if self.screen.terminal and (now - self.shown > SHOWN_SECONDS or event.batch == event.num_batches):
            self.shown = now
            self.bar.reach(event.batch, progress_line(self._moment(event, now), columns() - 1))
        elif not self.screen.terminal and now - self.bar.said > LINE_SECONDS:
            self.bar.said = now
            self.screen.say(self._line(event), logged=False)

    def _line(self, event: loop.Stepped) -> str:
        parts = event.losses if len(event.losses) > 1 else {}
        named = "".join(f", {name}: {float(loss):.6f}" for name, loss in parts.items())
        errors = f", Errors: {event.skipped}" if event.skipped else ""
        return (
            f"Epoch: {event.epoch}, Batch: {event.batch - 1}/{event.num_batches}, Loss: {float(event.loss):.6f}"
            f"{named}{errors}, Memory: {private_bytes() / 1e6:,.0f} MB"
        )

    def _moment(self, event: loop.Stepped, now: float) -> Moment:
        elapsed = max(now - self.began, 1e-9)
        return Moment(
            epoch=event.epoch + 1,
            epochs=self.config.training.epochs,
            batch=event.batch,
            num_batches=event.num_batches,
            done=event.batch - max(self.first, 0),
            seconds=elapsed,
            loss=float(event.loss),
            losses={name: float(loss) for name, loss in event.losses.items()},
            mean=self.started.session.metrics.loss(),
            errors=event.skipped,
            saved=_place(self.saved, event.epoch),
            memory_bytes=private_bytes(),
            wait=min(self.waited / elapsed, 1.0),
            windows_per_second=self.windows / elapsed,
            learning_rate=event.learning_rate,
            validating=event.batch == event.num_batches and self.started.session.validation is not None,
        )

    def _epoch(self, event: loop.EpochDone) -> None:
        self.close()
        total, best = self.config.training.epochs, "  (best)" if event.best else ""
        parts = event.validation["losses"] if event.validation and len(event.validation["losses"]) > 1 else {}
        named = "".join(f" - {name}: {number(loss)}" for name, loss in parts.items())
        errors = f" - Errors: {event.skipped}" if event.skipped else ""
        line = (
            f"/{total} - Time: {event.seconds:.2f}s - Train Loss: {number(event.train_loss)}"
            f" - Val Loss: {number(event.val_loss)}{_accuracy(event)}{named}{errors}"
        )
        memory = f" - Memory: {private_bytes() / 1e6:,.0f} MB"
        logged = f"Epoch {event.epoch}{line}{memory}{best}"  # a log counts from 0, as the notes do
        count = event.epoch + self.screen.terminal  # as the bar does
        self.screen.say_fitting(f"Epoch {count}{line}{memory}{best}", f"Epoch {count}{line}{best}", logged)
        reports = [report for report in (event.train, event.validation) if report and report["sampled"]]
        for error in dict.fromkeys(report["sampled"]["error"] for report in reports):
            if error:
                self.screen.say(f"metrics.custom: {error} (training goes on without it)")


def _place(saved: Saved, epoch: int) -> str:
    """Tells what was saved: `batch 100`, of an earlier epoch with its number.

    A save that comes too soon after another waits for it."""
    if saved.epoch < 0:
        return ""
    waited = f", waited {saved.waited_seconds:.1f} s for the one before" if saved.waited_seconds > WAITED else ""
    of = "" if saved.epoch == epoch else f"epoch {saved.epoch + 1} "
    return f"{of}batch {saved.batch}{waited}"


def _accuracy(event: loop.EpochDone) -> str:
    """Writes the accuracy of categorical targets for the epoch's line; empty for numbers."""
    if event.train["accuracy"] is None:
        return ""
    held = event.validation["accuracy"] if event.validation else None
    return f" - Train Acc: {number(event.train['accuracy'])} - Val Acc: {number(held)}"
