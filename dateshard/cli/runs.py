"""The commands runs, compare, tail and replay: training runs looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dateshard.cli.options import agreed, emit, json_option, trust_option
from dateshard.shardstore.commands import command, to_run
from dateshard.shardstore.errors import counted

if TYPE_CHECKING:
    from dateshard.bookkeeping.tail import Follower, Row
    from dateshard.terminal.screen import Screen
    from dateshard.trainer.runs.run_folder import TrainingRun
STATES = ("running", "stopped", "ended", "failed", "cut off", "damaged")


@click.group(invoke_without_command=True)
@click.option("--dataset", metavar="NAME", help="only runs of this dataset")
@click.option("--state", type=click.Choice(STATES), help="only runs in this state")
@click.option("-n", "most", type=click.IntRange(1), metavar="N", help="only the N newest")
@json_option
@click.pass_context
def runs(ctx: click.Context, dataset: str | None, state: str | None, most: int | None, as_json: bool) -> int:
    """List training runs, newest first, with state, position and best loss, and the command that continues them."""
    if ctx.invoked_subcommand is not None:
        return 0
    from dateshard.bookkeeping.listing import list_runs
    from dateshard.bookkeeping.runs_screen import show_runs
    from dateshard.places import runs_folder
    from dateshard.terminal.screen import Screen

    screen = Screen(as_json=as_json)
    rows, faults = list_runs(dataset, state, most)
    for fault in faults:  # the others are listed all the same
        screen.tell(fault)
    if as_json:
        emit(rows)
        return 0
    show_runs(screen, rows)
    if not rows and (dataset or state):
        screen.tell(f"no run of that kind in {runs_folder()}. All runs: {command('runs')}")
    elif not rows:
        screen.tell(f"no run yet in {runs_folder()}. {to_run('train', config=True)}")
    return 0


@runs.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="RUN...")
@click.option("-y", "--yes", is_flag=True, help="do not ask")
@click.option("--dry-run", is_flag=True, help="only say what would be removed")
@json_option
def remove(names: tuple[str, ...], yes: bool, dry_run: bool, as_json: bool) -> int:
    """Remove runs with their checkpoints, figures and reports. Asks first, and says what that frees.

    One that is trained now, that a job of a service still has, or a checkpoint of which is pinned, stays, and so do all.
    """
    from dateshard.bookkeeping.run_chores import remove_runs, removed_document, runs_to_remove, show_removed
    from dateshard.places import data_folder
    from dateshard.service.jobs.job_runs import refuse_runs_of_jobs
    from dateshard.terminal.screen import Screen

    chosen = runs_to_remove(names)
    refuse_runs_of_jobs(data_folder(), [run.name for run in chosen])
    document = removed_document(chosen, dry_run=dry_run)
    if not (yes or dry_run):
        show_removed(Screen(as_json=True), {**document, "dry_run": True})  # the question goes to stderr, so does this
        if not agreed(f"Remove {counted(len(chosen), 'run')}?"):
            Screen(as_json=as_json).tell("nothing was removed")
            return 0
    if not dry_run:
        remove_runs(chosen)
    if as_json:
        emit(document)
    elif yes or dry_run:
        show_removed(Screen(), document)
    return 0


@click.command()
@click.argument("names", nargs=-1, metavar="RUN RUN...")
@json_option
def compare(names: tuple[str, ...], as_json: bool) -> int:
    """Compare runs: the settings in which they differ, and the outcome of each."""
    from dateshard.bookkeeping.listing import compare as look
    from dateshard.bookkeeping.runs_screen import show_comparison
    from dateshard.terminal.screen import Screen

    document = look(names)
    if as_json:
        emit(document)
    else:
        show_comparison(Screen(), document)
    return 0


@click.command()
@click.argument("name", metavar="RUN")
@click.option("-n", "lines", type=click.IntRange(0), default=10, show_default=True, help="how many of the last lines")
@click.option("--follow/--no-follow", default=True, help="print new lines until the run ends (Ctrl-C: 130)")
@json_option
def tail(name: str, lines: int, follow: bool, as_json: bool) -> int:
    """Print the last lines of a run's metrics, and new ones until it ends. RUN may be `latest`."""
    try:
        _tail(name, lines, follow, as_json)
    except KeyboardInterrupt:  # as of tail -f: the way to end it, so nothing is said
        return 130
    return 0


def _tail(name: str, lines: int, follow: bool, as_json: bool) -> None:
    from dateshard.bookkeeping.listing import describe, open_run
    from dateshard.bookkeeping.tail import Follower, Rewound
    from dateshard.terminal.screen import Screen

    run = open_run(name)
    follower = Follower(path=run.folder / "metrics.jsonl")
    last = [row for row in follower.rows() if not isinstance(row, Rewound)]
    last = last[len(last) - min(lines, len(last)) :]
    if as_json:
        row, _ = describe(run)
        emit({"run": run.name, "state": row["state"], "why": row["why"], "rows": last})
    else:
        _show(run, Screen(), last, follower if follow else None)


def _show(run: TrainingRun, screen: Screen, last: list[Row], follower: Follower | None) -> None:
    from dateshard.bookkeeping.listing import describe
    from dateshard.bookkeeping.runs_screen import line_of, standing_text
    from dateshard.bookkeeping.tail import Rewound, follow

    record = run.facts_or_recovered()
    epochs = record.config.get("training", {}).get("epochs") if record else None
    batches = (record.batches if record else None) or describe(run)[0]["batches"]
    for row in last:
        screen.tell(line_of(row, epochs, batches))
    for news in follow(run, follower) if follower else ():
        if isinstance(news, Rewound):
            screen.tell(f"{run.name} was continued from step {news.step}: later lines come again")
        else:
            screen.tell(line_of(news, epochs, batches))
    document, _ = describe(run)
    if document["state"] != "running":
        screen.tell(
            f"{run.name}: {standing_text(document)}" + (f". Go on: {document['resume']}" if document["resume"] else "")
        )


@click.command()
@click.argument("name", metavar="RUN")
@click.option("--step", type=click.IntRange(1), required=True, metavar="N", help="an optimizer step, from 1")
@click.option("--trace", is_flag=True, help="list its windows by their loss, and the rows of the dumps behind them")
@trust_option
@json_option
def replay(name: str, step: int, trace: bool, trust: bool, as_json: bool) -> int:
    """Take one step of a run again, in memory, from the nearest checkpoint before it; write nothing.

    Exit code 4: its figures are not those that metrics.jsonl has. RUN may be `latest`.
    """
    from dateshard.bookkeeping.listing import open_run
    from dateshard.terminal.screen import Screen
    from dateshard.training.replay import replay_step
    from dateshard.training.replay_screen import SHOWN_WINDOWS, show_replay

    most = None if as_json else SHOWN_WINDOWS
    document = replay_step(open_run(name), step, trace=trace, most=most, trust=trust).document
    if as_json:
        emit(document)
    else:
        show_replay(Screen(), document)
    return 4 if document["equal"] is False else 0
