"""The command backtest: one model at several origins in time."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from dateshard.cli.options import (
    emit,
    json_option,
    needed_config_option,
    quiet_option,
    settings_of,
    split_arguments,
)
from dateshard.shardstore.commands import command, door
from dateshard.terminal.screen import put

if TYPE_CHECKING:
    from dateshard.judging.backtesting.backtest_plan import BacktestPlan
    from dateshard.terminal.screen import Screen


@click.command()
@click.argument("words", nargs=-1, metavar="[KEY=VALUE]...")
@needed_config_option
@click.option(
    "--origins",
    type=click.IntRange(2),
    default=6,
    show_default=True,
    help="how many; the newest is the configured split",
)
@click.option(
    "--every", type=click.IntRange(1), default=30, show_default=True, metavar="N", help="dates between two origins"
)
@click.option("--workers", type=click.IntRange(1), help="processes for preparing, as in preprocess")
@click.option("--dry-run", is_flag=True, help="only show the origins, and what they cost")
@json_option
@quiet_option
def backtest(
    words: tuple[str, ...],
    files: tuple[str, ...],
    origins: int,
    every: int,
    workers: int | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Train and judge a model at several origins in time, each on statistics of its own training dates.

    The split moves back N dates from one origin to the next. The dataset and its runs stay as they are. Where it was cut
    off, the same command goes on.
    """
    from dateshard.judging.backtesting.backtest_file import is_judged, read_rows
    from dateshard.judging.backtesting.backtest_plan import cost_of_backtest, plan_backtest
    from dateshard.judging.backtesting.backtest_scores import document_of
    from dateshard.judging.backtesting.backtest_screen import show_cost
    from dateshard.terminal.screen import Screen

    stray, overrides = split_arguments(words)
    if stray:
        raise click.UsageError(f"backtest takes KEY=VALUE, not '{stray[0]}'.")
    plan = plan_backtest(settings_of(files, overrides), origins, every)
    if not dry_run:
        return _run(plan, workers, Screen(as_json=as_json, quiet=quiet, works=True), as_json=as_json)
    rows, screen = read_rows(plan), Screen(as_json=as_json)
    judged = {row["run"] for row in rows if is_judged(row)}
    left = [origin for origin in plan.origins if origin.run not in judged]
    cost = cost_of_backtest(plan, left, workers or len(os.sched_getaffinity(0)))
    if as_json:
        emit(document_of(plan, rows, cost))
    else:
        show_cost(screen, plan, cost)
    return 0


def _run(plan: BacktestPlan, workers: int | None, screen: Screen, *, as_json: bool) -> int:
    """Runs it to the end or to a signal, and shows the table."""
    from dateshard.judging.backtesting.backtest import run_backtest
    from dateshard.judging.backtesting.backtest_scores import document_of
    from dateshard.judging.backtesting.backtest_screen import OriginsOnScreen, show_end, show_table
    from dateshard.pipeline.workers.stopping import Stop
    from dateshard.reports.backtest_page import write_backtest_page
    from dateshard.terminal.signals import StopSignal

    again, stop = command(*door().words), Stop()
    watcher = OriginsOnScreen(screen, plan, again)
    screen.say(f"backtest {plan.name}: {len(plan.origins)} origins, {plan.every} dates apart, in {plan.folder}")
    screen.say(f"To continue if it is interrupted: {again}")
    with StopSignal(stop.ask) as signals:
        try:
            rows = run_backtest(plan, watcher, stop, workers)
        except KeyboardInterrupt:
            watcher.close()
            stopped = f"stopped: what was measured, trained and judged is kept. To continue exactly there: {again}"
            if as_json:
                emit({"error": {"kind": "stopped", "message": stopped, "exit_code": signals.exit_code}})
            put(stopped, sys.stderr)
            return signals.exit_code
        finally:
            watcher.close()
    document = document_of(plan, rows, page=plan.folder / "backtest.html")
    write_backtest_page(document)
    if as_json:
        emit(document)
        return 0
    show_table(screen, document)
    show_end(screen, document)
    return 0
