"""Runs a backtest: prepares, trains and judges at one origin after the other. What is done already is not done again.

    data/backtests/<name>/  shards/<dataset>/  runs/<origin>/  backtest.json  backtest.html

The folder is a data folder of its own, so the dataset's store, its current generation and the list of runs stay as they
are (docs/decisions/0065). Its store begins with what the dataset's own has measured, by hard links.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Protocol

from dateshard.documents.backtesting import OriginRow
from dateshard.judging.backtesting.backtest_file import is_judged, read_rows, write_rows
from dateshard.judging.backtesting.backtest_plan import JUDGED_ON, REFIT, BacktestPlan, Origin
from dateshard.judging.backtesting.backtest_scores import judged_row
from dateshard.judging.judge import verdict_on
from dateshard.pipeline.execute import preprocess
from dateshard.pipeline.progress_events import Event, Finished
from dateshard.pipeline.splits import SHOWN_RANGES
from dateshard.pipeline.workers.stopping import Stop
from dateshard.places import data_in, runs_folder, shards_folder
from dateshard.shardstore.cleaning.linked_store import link_store
from dateshard.shardstore.commands import door, stand_at
from dateshard.shardstore.errors import DateshardError, FailedDatesError, ResourceError, counted
from dateshard.shardstore.times.calendar import collapse
from dateshard.trainer.memory.memory_watch import MEMORY_LIMIT
from dateshard.trainer.runs.run_folder import TrainingRun
from dateshard.training.train import TrainingEvent, TrainRequest, run_training
from dateshard.trust import admit, code_of


class Watcher(Protocol):
    """Who looks at a backtest while it goes on."""

    def begin(self, origin: Origin) -> None:
        """Learns which origin comes next."""

    def prepare(self, events: Iterator[Event]) -> None:
        """Takes all events of a preprocess."""

    def train(self, event: TrainingEvent) -> None:
        """Takes one event of a training."""

    def judged(self, row: OriginRow) -> None:
        """Learns the figures of an origin."""


def run_backtest(
    plan: BacktestPlan, watcher: Watcher, stop: Stop | None = None, num_workers: int | None = None
) -> list[OriginRow]:
    """Trains and judges at every origin that is not judged yet; returns the rows of all, the oldest first.

    Raises:
        KeyboardInterrupt: `stop` was asked; the same call goes on exactly there.
        DateshardError: an origin could not be prepared, trained or judged; those before it are kept.
    """
    stop, rows = stop or Stop(), read_rows(plan)
    dataset, current = plan.settings.dataset, plan.seen.current
    for origin in plan.origins:
        place = next(k for k, row in enumerate(rows) if row["run"] == origin.run)
        if is_judged(rows[place]):
            continue
        stop.check()
        watcher.begin(origin)
        store = plan.folder / "shards" / dataset
        link_store(shards_folder(dataset), store, current, plan.staged)
        with data_in(plan.folder), _messages_name(plan):
            _prepare(plan, origin, watcher, stop, num_workers)
            _train(plan, origin, watcher, stop)
            verdict, _ = verdict_on(TrainingRun.open(runs_folder(), origin.run), JUDGED_ON)
        rows[place] = judged_row(rows[place], verdict)
        write_rows(plan, rows)
        watcher.judged(rows[place])
    return rows


@contextmanager
def _messages_name(plan: BacktestPlan) -> Iterator[None]:
    """Lets the commands in messages find the runs and the store of the backtest."""
    here = door()
    program = ("env", f"DATESHARD_DATA={plan.folder}", *here.program) if here.program else ()
    before = stand_at(replace(here, program=program))
    try:
        yield
    finally:
        stand_at(before)


def _has_run(origin: Origin) -> bool:
    return (runs_folder() / origin.run / "run.json").is_file()


def _prepare(plan: BacktestPlan, origin: Origin, watcher: Watcher, stop: Stop, num_workers: int | None) -> None:
    """Makes the generation of an origin, unless its run was begun, and so has pinned it.

    Raises:
        FailedDatesError: dates failed. A training refuses such a generation, and would name a command of another split.
    """
    if _has_run(origin):
        return
    dataset, config = plan.settings.dataset, plan.pipeline_at(origin)
    root, failed = shards_folder(dataset), dict[dt.date, DateshardError]()
    with closing(preprocess(dataset, config, root, REFIT, num_workers, stop=stop)) as events:
        watcher.prepare(_noting_failed(events, failed))
    admit(root, code_of(config))
    if failed:
        what = (
            f"{counted(len(failed), 'date')} failed, and no origin is trained without: {collapse(failed, SHOWN_RANGES)}"
        )
        first = failed[min(failed)]
        todo = f"First: {first} Correct it, or leave it out (pipeline.exclude), and run the command again"
        raise FailedDatesError(what, todo=todo, failed=failed)


def _noting_failed(events: Iterator[Event], failed: dict[dt.date, DateshardError]) -> Iterator[Event]:
    """Passes events through, and notes at the end which dates failed."""
    for event in events:
        if isinstance(event, Finished):
            failed.update(event.failed)
        yield event


def _train(plan: BacktestPlan, origin: Origin, watcher: Watcher, stop: Stop) -> None:
    request = TrainRequest(resume=origin.run) if _has_run(origin) else TrainRequest(name=origin.run)
    ended = run_training(plan.settings, request, watch=watcher.train, should_stop=lambda: stop.asked)
    if ended.why == "stopped":
        raise KeyboardInterrupt
    if ended.why == MEMORY_LIMIT:
        what = f"{origin.run} was saved and stopped at its memory limit (trainer.training.memory_limit)"
        raise ResourceError(what, todo="Run the same command again: it continues exactly there")
