"""One training without a screen: its configuration, its run, and what it writes beside its checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from dateshard.places import runs_folder, shards_folder
from dateshard.settings import Settings, load_settings
from dateshard.settings.presets import preset_file
from dateshard.shardstore.commands import by_door
from dateshard.shardstore.disk.naming import naming
from dateshard.shardstore.errors import UsageError, of_memory
from dateshard.terminal.chosen import taken
from dateshard.trainer import loop
from dateshard.trainer.devices.device import choose
from dateshard.trainer.devices.mesh import join, mesh_of
from dateshard.trainer.runs import status
from dateshard.trainer.runs.initial_weights import read_initial
from dateshard.trainer.runs.run_folder import newest
from dateshard.trainer.runs.start import New, Started, locate
from dateshard.trainer.runs.together import start_together
from dateshard.training.board import refuse_missing
from dateshard.training.metric_rows import MetricRows
from dateshard.training.run_log import RunLog
from dateshard.training.unprepared_dates import opener_of
from dateshard.trust import admit, code_of, settings_of_run


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
        what = f"{_option('preset')} is for a new run; a run that is continued has its own settings"
        raise UsageError(what, todo="Leave it out")
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
            what = f"{_option('run')} names a new run, {_option('resume')} continues one"
            raise UsageError(what, todo="Give one of them")
        if self.init_from and self.resume != "none":
            what = f"{_option('init-from')} begins a new run with these weights, {_option('resume')} continues one"
            raise UsageError(what, todo="Give one of them")
        if self.save_dir and self.resume not in ("none", "auto"):
            what = f"{_option('save-dir')} is of a new run: where it is continued, its checkpoints stay where they lie"
            raise UsageError(what, todo="Leave it out")
        initial = read_initial(self.init_from, runs_folder()) if self.init_from else None
        return New(self.name, Path(self.save_dir) if self.save_dir else None, initial)


def _option(name: str) -> str:
    """An option of `train` as a shell spells it, or the keyword of the function."""
    return by_door(f"--{name}", name.replace("-", "_"))


TrainingEvent = Started | loop.Event


def run_training(
    settings: Settings,
    request: TrainRequest,
    *,
    watch: Callable[[TrainingEvent], None],
    should_stop: Callable[[], bool],
) -> loop.Ended:
    """Trains until the end or a stop, and keeps the run's folder: its status, metrics.jsonl and TensorBoard.

    It prints nothing: what people see is up to `watch`.

    Args:
        watch: is called with `Started` once the run stands, then with each event in turn. The last is the `Ended` that
            is returned, when all is written. A run that has nothing left to do gives these two alone.
        should_stop: is asked after every batch.

    Raises:
        UsageError: the options or the settings contradict each other.
        DateshardError: there is nothing to train on, or the training failed; `dateshard runs` shows why.
    """
    new = request.new()
    if settings.trainer.logging.tensorboard:
        refuse_missing()
    shards, mesh = shards_folder(settings.dataset), mesh_of(os.environ)
    join(mesh, choose(settings.trainer.training.device, mesh.local_rank))
    started = start_together(
        mesh,
        settings.trainer,
        settings.dataset,
        shards,
        runs_folder(),
        resume=_resume(request),
        new=new,
        opener=opener_of(settings),
    )
    if not mesh.leads:
        return _go_along(started, should_stop)
    with closing(started):
        admit(started.run.folder, code_of(settings.trainer))
        watch(started)
        ended = _train_started(started, watch, should_stop)
        watch(ended)
        return ended


def _resume(request: TrainRequest) -> str:
    """What `--resume` says; where torchrun starts the processes anew, the run that it began is continued."""
    again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    return "auto" if again and request.resume == "none" else request.resume


def _go_along(started: Started, should_stop: Callable[[], bool]) -> loop.Ended:
    """Trains in a process that is not the first one, which shows and writes nothing."""
    why = loop.finished(started.session) if started.finished else None
    if why is not None and not started.session.state.fruitless:
        return loop.Ended(why, started.session.state)
    *_, last = loop.train(started.session, should_stop)
    assert isinstance(last, loop.Ended)
    return last


def _train_started(
    started: Started, watch: Callable[[TrainingEvent], None], should_stop: Callable[[], bool]
) -> loop.Ended:
    if started.finished and not started.session.state.fruitless:
        why = loop.finished(started.session)
        assert why is not None, "it was found to be finished"
        return loop.Ended(why, started.session.state)
    begun = status.begin(started.run, started.session.state.step)
    try:
        ended = _follow(started, watch, should_stop)
    except Exception as error:
        what = (str(of_memory(error) or error) or type(error).__name__).splitlines()[0]
        status.end(started.run, begun, "failed", what)
        RunLog(started.run.folder).write(f"failed: {error}")
        raise
    if ended.why in loop.PAUSED:
        status.end(started.run, begun, "stopped", "" if ended.why == "stopped" else ended.why)
    else:
        status.end(started.run, begun, "ended", ended.why)
    return ended


def _follow(started: Started, watch: Callable[[TrainingEvent], None], should_stop: Callable[[], bool]) -> loop.Ended:
    path = started.run.folder / "metrics.jsonl"
    lines = open(path, "a")  # noqa: SIM115 - closed below, under its name
    try:
        with closing(MetricRows(started, lines)) as rows, closing(loop.train(started.session, should_stop)) as events:
            for event in events:  # however it ends, the save in flight lands
                rows.add(event)
                if isinstance(event, loop.Ended):
                    return event
                watch(event)
    finally:
        with naming(path):
            lines.close()
    raise AssertionError("a training ends with Ended or raises")
