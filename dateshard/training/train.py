"""One training at the front door: configuration, signals, what it writes beside its checkpoints, the last words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dateshard.chosen import taken
from dateshard.places import runs_folder, shards_folder
from dateshard.settings import Settings, load_settings
from dateshard.settings.presets import preset_file
from dateshard.shardstore.commands import command, door
from dateshard.shardstore.errors import UsageError, naming, of_memory
from dateshard.terminal.screen import Screen, number
from dateshard.terminal.signals import StopSignal
from dateshard.trainer import loop
from dateshard.trainer.runs import status
from dateshard.trainer.runs.initial_weights import read_initial
from dateshard.trainer.runs.run_folder import TrainingRun, newest
from dateshard.trainer.runs.start import New, Started, locate, start
from dateshard.training.board import refuse_missing
from dateshard.training.ending import way_on, why_ended
from dateshard.training.metric_rows import MetricRows
from dateshard.training.run_log import RunLog
from dateshard.training.view import View, headline
from dateshard.trust import admit, code_of, settings_of_run

Document = dict[str, Any]


def configure(
    files: Sequence[str],
    overrides: Sequence[str],
    resume: str = "none",
    preset: str | None = None,
    *,
    trust: bool = False,
) -> Settings:
    """The configuration of the files; of the run that is continued (`latest`, `best`: the newest), where no file is named.

    Args:
        trust: the code that this run names may be imported.
    """
    if files or resume in ("none", "auto"):
        return load_settings(taken(files), overrides, preset_file(preset) if preset else None)
    if preset:
        raise UsageError("--preset is for a new run; a run that is continued has its own settings", todo="Leave it out")
    run = newest(runs_folder()) if resume in ("latest", "best") else locate(resume, runs_folder())[0]
    settings = settings_of_run(run, recover=True, trust=trust)
    if not overrides:
        return settings
    from dateshard.settings import apply

    return apply(settings, overrides)


@dataclass(frozen=True, slots=True)
class TrainRequest:
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


def train_to_the_end(settings: Settings, screen: Screen, asked: TrainRequest) -> tuple[int, Document]:
    """Trains until the end or a signal; returns the exit code and what `--json` prints."""
    new = asked.new()
    if settings.trainer.logging.tensorboard:
        refuse_missing()
    with StopSignal() as stop:  # from here on: there may be a run, and it must say how it is continued
        shards = shards_folder(settings.dataset)
        started = start(settings.trainer, settings.dataset, shards, runs_folder(), resume=asked.resume, new=new)
        with closing(started):
            admit(started.run.folder, code_of(settings.trainer))
            screen.log = RunLog(started.run.folder).write
            return _train_started(started, screen, stop)


def _train_started(started: Started, screen: Screen, stop: StopSignal) -> tuple[int, Document]:
    headline(screen, started)
    if started.finished and not started.session.state.fruitless:
        return 0, _nothing_to_do(started, screen)
    begun = status.begin(started.run, started.session.state.step)
    try:
        ended = _follow(started, screen, stop.asked)
    except Exception as error:
        what = (str(of_memory(error) or error) or type(error).__name__).splitlines()[0]
        status.end(started.run, begun, "failed", what)
        RunLog(started.run.folder).write(f"failed: {error}")
        raise
    if ended.why == "stopped":
        status.end(started.run, begun, "stopped")
    else:
        status.end(started.run, begun, "ended", ended.why)
    _last_words(started, ended, screen)
    return stop.exit_code if ended.why == "stopped" else 0, _document(started.run, ended)


def _follow(started: Started, screen: Screen, asked: Callable[[], bool]) -> loop.Ended:
    path = started.run.folder / "metrics.jsonl"
    lines = open(path, "a")  # noqa: SIM115 - closed below, under its name
    view = View(started, screen)
    try:
        with closing(MetricRows(started, lines)) as rows, closing(loop.train(started.session, asked)) as events:
            for event in events:  # however it ends, the save in flight lands
                rows.add(event)
                view.show(event)
                if isinstance(event, loop.Ended):
                    return event
    finally:
        view.close()
        with naming(path):
            lines.close()
    raise AssertionError("a training ends with Ended or raises")


def _last_words(started: Started, ended: loop.Ended, screen: Screen) -> None:
    state, progress, run = ended.state, ended.state.progress, started.run
    place = f"saved epoch {state.epoch + 1} batch {state.batch}"
    if ended.why == "stopped":
        screen.tell(f"{place}. Continue exactly here: {command('train', '--resume', run.name)}")
        return
    best = f"best validation loss {number(progress.best_loss)} in epoch {progress.best_epoch + 1}"
    screen.tell(f"{run.name} ended ({ended.why}): {best if progress.best_loss is not None else place}")
    if state.validated and progress.best_loss is None:
        screen.tell("warning: the loss of no epoch was a finite number, so none of its checkpoints is the best")
    if ended.why in ("max steps", "early stopping"):
        here = "Continue exactly here" if ended.why == "max steps" else "To go on"
        screen.tell(f"{here}: {way_on(started.session, run.name)}")
    more = () if progress.best_loss is not None else ("--checkpoint", "latest")
    if door().alone:
        screen.say(f"See: {command('evaluate', run.name, *more)}")


def _nothing_to_do(started: Started, screen: Screen) -> Document:
    run, why = started.run, loop.finished(started.session)
    assert why is not None, "it was found to be finished"
    command = way_on(started.session, run.name)
    screen.explain(f"{why_ended(started.session, run.name, why)}.")
    if why == "early stopping":
        screen.explain("More epochs alone do not go on.")
    if command:
        screen.tell(f"To go on: {command}")
    screen.say("--resume none (make train NEW=1) trains anew")
    best = started.session.state.progress.best_loss
    return {"run": run.name, "state": "complete", "why": why, "go_on": command, "best_val_loss": best}


def _document(run: TrainingRun, ended: loop.Ended) -> Document:
    state = ended.state
    return {
        "run": run.name,
        "state": ended.why,
        "epoch": state.epoch + 1,
        "batch": state.batch,
        "steps": state.step,
        "best_val_loss": state.progress.best_loss,
        "best_epoch": state.progress.best_epoch + 1,
    }
