"""The stages as functions, `dateshard.preprocess`, `train` and `backtest`. What they show is what the commands show."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dateshard.judging.backtesting.backtest import run_backtest
from dateshard.judging.backtesting.backtest_plan import plan_backtest
from dateshard.judging.backtesting.backtest_scores import frame_of
from dateshard.judging.backtesting.backtest_screen import OriginsOnScreen
from dateshard.notebooks.configured import Config, overrides_of, settings_from
from dateshard.notebooks.opened import Opened, open_dataset
from dateshard.notebooks.training_runs import Run
from dateshard.pipeline.progress_events import Event
from dateshard.pipeline.progress_events import Finished as Prepared
from dateshard.pipeline.workers.stopping import Stop
from dateshard.preparing.carrying_out import LOCAL, carry_out, memory_of
from dateshard.preparing.statistics_source import measure_alone
from dateshard.preparing.wishes import wish_of
from dateshard.settings import Settings
from dateshard.shardstore.errors import FailedDatesError, ResourceError, counted
from dateshard.shardstore.frozen import STATISTICS_FILE
from dateshard.shardstore.times.calendar import collapse
from dateshard.terminal.screen import screen_of
from dateshard.terminal.signals import StopSignal
from dateshard.trainer.memory.memory_watch import MEMORY_LIMIT
from dateshard.training.train import TrainingEvent, TrainRequest, configure, run_training
from dateshard.training.train_command import Shown

if TYPE_CHECKING:
    import polars

AGAIN = "make the same call again"
GO_ON = "In a new process dateshard.train(resume='latest') continues exactly there; or give a higher memory_limit"
NEW = ("none", "auto")  # of `resume`: the settings are those that are given


def preprocess(
    config: Config | None = None,
    dates: str | dt.date | Iterable[str | dt.date] = (),
    *,
    only: str = "",
    exclude: Iterable[str | dt.date] = (),
    force: bool = False,
    engine: str = LOCAL,
    workers: int | None = None,
    fail_fast: bool = False,
    memory_limit: str | None = None,
    refit_statistics: bool = False,
    resplit: bool = False,
    progress: bool = True,
    on_event: Callable[[Event], None] | None = None,
    **settings: Any,
) -> Opened:
    """Makes normalised shards of raw dumps, as the command does, and opens the dataset. Fresh dates are left as they are.

    Args:
        config: a file, a tree of plain values, or several of both, of which later ones win.
        dates: only these, as `dateshard.open` understands them; none: all.
        only, exclude, force, engine, workers, fail_fast, memory_limit, refit_statistics, resplit: as the command's options.
        progress: show what the command shows; False: show nothing.
        on_event: is called with each event (`dateshard.pipeline.progress_events`).
        settings: `dataset`, `pipeline`, `trainer`, or keys by their place, as `**{"pipeline.source.path": path}`.

    Raises:
        FailedDatesError: some dates failed, `.failed` says why; the others were committed.
        UsageError, DumpError, BusyError, DiskFullError: what happened, where, and what to do next.
        KeyboardInterrupt: it was interrupted; what was measured is kept, and the same call goes on.
    """
    chosen, stop = settings_from(config, settings), Stop()
    words = [str(word) for word in ([dates] if isinstance(dates, str | dt.date) else dates)]
    memory = memory_of(memory_limit, "memory_limit")
    with StopSignal(stop.ask):
        with stop.at_once():
            without, acts = list(map(str, exclude)), {"force": force, "refit": refit_statistics, "resplit": resplit}
            wish = wish_of(chosen, words, only=only, exclude=without, **acts)
        options: dict[str, Any] = {"engine": engine, "workers": workers, "memory_bytes": memory, "fail_fast": fail_fast}
        finished = carry_out(
            chosen, wish, screen_of(progress=progress), AGAIN, **options, stop=stop, on_event=on_event
        ).finished
    if finished.failed:
        raise _failed(finished)
    return open_dataset(chosen.dataset)


def measure_statistics(config: Config | None = None, *, workers: int | None = None, **settings: Any) -> Path:
    """Measures the statistics of all dumps in one pass, without making a shard, and returns the file that holds them.

    It is for `loading.statistics` and `DateBatchedLoader(statistics=)`. The command is `dateshard statistics --measure`.

    Args:
        config, settings: as of `preprocess`. workers: processes; None: one a core.

    Raises:
        UsageError: the dataset has statistics already. FailedDatesError, DumpError: dumps that cannot be used.
    """
    dataset = measure_alone(settings_from(config, settings), workers)
    return dataset.root / "statistics" / dataset.manifest.statistics / STATISTICS_FILE


def train(
    config: Config | None = None,
    *,
    resume: str = "none",
    run: str | None = None,
    save_dir: str | None = None,
    init_from: str | None = None,
    preset: str | None = None,
    trust: bool = False,
    progress: bool = True,
    on_event: Callable[[TrainingEvent], None] | None = None,
    **settings: Any,
) -> Run:
    """Trains a model from shards, or continues a run from any checkpoint to the same bits, as the command does.

    Args:
        config: a file, a tree of plain values, or several of both; None where a run is continued with its own settings.
        resume, run, save_dir, init_from, preset, trust: as the command's options.
        progress: show what the command shows; False: show nothing (the run's folder keeps its log).
        on_event: is called with each event: `Started`, then those of `dateshard.train_events`. What it raises ends the
            training; the run can be continued from its last checkpoint.
        settings: `dataset`, `pipeline`, `trainer`, keys by their place, or the short names of the command: epochs=5.

    Raises:
        UsageError, StoreError, DiskFullError: what happened, where, and what to do next.
        ResourceError: too little memory; what is whole was saved.
        KeyboardInterrupt: it was interrupted, and has saved first: `dateshard.train(resume="latest")` goes on.
    """
    request = TrainRequest(resume, run, save_dir, init_from)
    shown = Shown(screen_of(progress=progress), on_event)
    chosen = _settings_of_training(config, settings, resume, preset, trust=trust)
    with StopSignal() as stop:
        try:
            ended = run_training(chosen, request, watch=shown.watch, should_stop=stop.asked)
        finally:
            shown.close()
    if ended.why == "stopped":
        raise KeyboardInterrupt
    if ended.why == MEMORY_LIMIT:
        raise ResourceError(f"{shown.document['run']} was saved and stopped at its memory limit", todo=GO_ON)
    return Run(shown.document["run"])


def backtest(
    config: Config | None = None,
    *,
    origins: int = 6,
    every: int = 30,
    workers: int | None = None,
    progress: bool = True,
    **settings: Any,
) -> polars.DataFrame:
    """Trains and judges at rolling origins, as the command does: `dateshard.backtest("configs/flights.yaml", origins=3)`.

    Where it was cut off, the same call goes on; where it ended, it returns the table at once.

    Args:
        config: a file, a tree of plain values, or several of both, of which later ones win.
        origins: how many. The newest is the configured split.
        every: dates between two origins.
        workers: processes for preparing.
        progress: show what the command shows; False: show nothing.
        settings: `dataset`, `pipeline`, `trainer`, keys by their place, or the short names of the command: epochs=5.

    Returns:
        The table, a row an origin, the oldest first: `train`, `validation` and `test` dates, `windows`, `score`,
        `best_baseline`, `baseline_score`, `gain` over it with its interval (`low`, `high`), `outcome` and `run`.

    Raises:
        UsageError: dates are not what is divided, there is no test set, or there are too few dates.
        FailedDatesError: some dates failed; nothing is trained without them.
        KeyboardInterrupt: it was interrupted; the same call goes on exactly there.
    """
    plan, stop = plan_backtest(settings_from(config, settings), origins, every), Stop()
    watcher = OriginsOnScreen(screen_of(progress=progress), plan, AGAIN)
    with StopSignal(stop.ask):
        try:
            rows = run_backtest(plan, watcher, stop, workers)
        finally:
            watcher.close()
    return frame_of(rows)


def _settings_of_training(
    config: Config | None, settings: Mapping[str, Any], resume: str, preset: str | None, *, trust: bool
) -> Settings:
    """The settings of a new run, or of the one that is continued."""
    if config is None and resume not in NEW:
        return configure((), overrides_of(settings), resume, preset, trust=trust)
    return settings_from(config, settings, preset)


def _failed(finished: Prepared) -> FailedDatesError:
    """What failed, in one sentence that names the first reason."""
    dates = sorted(finished.failed)
    what = f"{counted(len(dates), 'date')} failed: {collapse(dates, undated=finished.plan.undated)}"
    first = str(finished.failed[dates[0]])
    todo = f"First: {first} Correct it and make the same call again"
    return FailedDatesError(what, todo=todo, failed=finished.failed)
