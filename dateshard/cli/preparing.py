"""The commands plan, preprocess, status and verify: the offline stage at the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from dateshard.cli.options import (
    emit,
    json_option,
    needed_config_option,
    quiet_option,
    settings_of,
    split_arguments,
)
from dateshard.preparing.selectors import not_there, select_dates
from dateshard.preparing.wishes import STATES, no_dump, refuse_unknown_dates, wish_of
from dateshard.shardstore.commands import command, door
from dateshard.terminal.screen import put

if TYPE_CHECKING:
    from dateshard.documents.preparing import NamedError, VerifyDocument
    from dateshard.pipeline.workers.stopping import Stop


@click.command()
@click.argument("words", nargs=-1, metavar="[DATES] [KEY=VALUE]...")
@needed_config_option
@click.option("--only", default="", metavar="STATES", help=f"only dates in these states: {STATES}")
@click.option("--exclude", multiple=True, metavar="DATES", help="leave these dates out")
@click.option("--explain", is_flag=True, help="one line for each date that would change")
@click.option("--refit-statistics", is_flag=True, help="as in preprocess")
@click.option("--resplit", is_flag=True, help="divide the dates again by the fractions of pipeline.split")
@click.option("--force", is_flag=True, help="as in preprocess")
@click.option("--workers", type=click.IntRange(1), help="as in preprocess; changes only the estimated time")
@json_option
def plan(
    words: tuple[str, ...],
    files: tuple[str, ...],
    only: str,
    exclude: tuple[str, ...],
    explain: bool,
    refit_statistics: bool,
    resplit: bool,
    force: bool,
    workers: int | None,
    as_json: bool,
) -> int:
    """Show what preprocess would do, and why: states, bytes, and the time if an earlier run tells. Writes nothing."""
    from dateshard.pipeline.planning.preview import cost_of, survey
    from dateshard.places import shards_folder
    from dateshard.preparing.states import expect, headline, needs_run, plan_document, show_cost, show_plan
    from dateshard.terminal.screen import Screen

    selectors, overrides = split_arguments(words)
    settings, screen = settings_of(files, overrides), Screen(as_json=as_json)
    wish = wish_of(
        settings, selectors, only=only, exclude=exclude, force=force, refit=refit_statistics, resplit=resplit
    )
    root = shards_folder(settings.dataset)
    surveyed = survey(settings.preparing(), root, wish)
    refuse_unknown_dates(settings, surveyed, wish)
    cost = cost_of(surveyed, settings.preparing(), root)
    expected = expect(settings.dataset, surveyed, cost, workers or _cores())
    flags = {"--force": force, "--refit-statistics": refit_statistics, "--resplit": resplit}
    chosen = [*(["--only", only] if only else []), *(word for dates in exclude for word in ("--exclude", dates))]
    more = ["--workers", str(workers)] if workers else []
    set_flags = [flag for flag, on in flags.items() if on]
    following = command("preprocess", *selectors, *chosen, *set_flags, *more, config=True)
    if as_json:
        emit(plan_document(settings.dataset, surveyed, cost, expected, following))
        return 0
    for note in surveyed.notes:
        screen.say(f"note: {note}")
    current = surveyed.current
    generation, manifest = (current.generation, current.manifest) if current else (None, None)
    headline(screen, settings.dataset, generation, manifest, surveyed.plan)
    show_plan(screen, surveyed.plan, explain=explain, asked=wish.dates)
    show_cost(screen, surveyed, cost, expected, wish.dates)
    if needs_run(surveyed):
        screen.tell(f"Run: {following}")
    return 0


def _cores() -> int:
    return len(os.sched_getaffinity(0))


@click.command()
@click.argument("words", nargs=-1, metavar="[DATES] [KEY=VALUE]...")
@needed_config_option
@click.option("--only", default="", metavar="STATES", help=f"only dates in these states: {STATES}")
@click.option("--exclude", multiple=True, metavar="DATES", help="leave these dates out")
@click.option("--force", is_flag=True, help="measure and normalise the dates again even where they are fresh")
@click.option("--workers", type=click.IntRange(1), help="processes (default: one per core, as memory allows)")
@click.option(
    "--engine", default="local", metavar="ENGINE", help="local, dask:ADDRESS or dask:SCHEDULER_FILE (a cluster)"
)
@click.option("--fail-fast", is_flag=True, help="stop at the first date that fails; measured dates are kept")
@click.option(
    "--memory-limit", metavar="SIZE", help="for all processes together, such as 4GiB (default: 70 % of what is free)"
)
@click.option("--refit-statistics", is_flag=True, help="merge the global statistics again and re-scale every date")
@click.option("--resplit", is_flag=True, help="divide the dates again by the fractions of pipeline.split")
@click.option("--dry-run", is_flag=True, help="show the plan only")
@json_option
@quiet_option
@click.pass_context
def preprocess(
    context: click.Context,
    /,
    words: tuple[str, ...],
    files: tuple[str, ...],
    only: str,
    exclude: tuple[str, ...],
    force: bool,
    workers: int | None,
    engine: str,
    fail_fast: bool,
    memory_limit: str | None,
    refit_statistics: bool,
    resplit: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Make normalised shards of the raw dumps, with global statistics. Fresh dates are left as they are."""
    from dateshard.pipeline.workers.stopping import Stop
    from dateshard.terminal.signals import StopSignal

    acts: dict[str, Any] = {"refit_statistics": refit_statistics, "resplit": resplit, "force": force}
    acts |= {"only": only, "exclude": exclude, "workers": workers}
    if dry_run:
        return int(context.invoke(plan, words=words, files=files, explain=False, as_json=as_json, **acts))
    acts |= {"memory_limit": memory_limit, "fail_fast": fail_fast, "engine": engine}
    again, stop = command(*door().words), Stop()
    with StopSignal(stop.ask) as signals:
        try:
            return _carry_out(words, files, acts, stop, HowToTell(as_json, quiet, again))
        except KeyboardInterrupt:
            stopped = f"stopped: {_kept(force=force)}. To continue: {again}"
            if as_json:
                emit({"error": {"kind": "stopped", "message": stopped, "exit_code": signals.exit_code}})
            put(stopped, sys.stderr)
            return signals.exit_code


@dataclass(frozen=True, slots=True)
class HowToTell:
    """How a preprocess tells what it does, and the command that goes on where it is cut off."""

    as_json: bool
    quiet: bool
    again: str


def _carry_out(words: Sequence[str], files: Sequence[str], acts: dict[str, Any], stop: Stop, shown: HowToTell) -> int:
    """The whole command between its words and its exit code."""
    from dateshard.preparing.carrying_out import carry_out, memory_of
    from dateshard.preparing.preprocess import ending_to_json
    from dateshard.terminal.screen import Screen

    selectors, overrides = split_arguments(words)
    settings, screen = settings_of(files, overrides), Screen(as_json=shown.as_json, quiet=shown.quiet, works=True)
    memory = memory_of(acts["memory_limit"] or None, "--memory-limit")
    wished = {"only": acts["only"], "exclude": acts["exclude"], "force": acts["force"]}
    with stop.at_once():
        wish = wish_of(settings, selectors, **wished, refit=acts["refit_statistics"], resplit=acts["resplit"])
    options: dict[str, Any] = {name: acts[name] for name in ("engine", "workers", "fail_fast")}
    options["memory_bytes"] = memory
    ending = carry_out(settings, wish, screen, shown.again, **options, stop=stop)
    finished = ending.finished
    if shown.as_json:
        emit(ending_to_json(ending))
    if not finished.failed or finished.cut_short:
        return 3 if finished.failed else 0
    return 65 if finished.manifest is None or not finished.manifest.dates else 3


def _kept(*, force: bool) -> str:
    """What a preprocess that a signal stopped leaves."""
    if force:
        return "what was committed stays; --force measures its dates again"
    return "what was measured is kept, what was committed stays"


@click.command()
@click.argument("words", nargs=-1, metavar="[DATES] [KEY=VALUE]...")
@needed_config_option
@click.option("--calendar", "as_calendar", is_flag=True, help="a block per year, a line per month, a character per day")
@json_option
def status(words: tuple[str, ...], files: tuple[str, ...], as_calendar: bool, as_json: bool) -> int:
    """Show the state of every date, with the reason. Exit 4 if a date is not fresh, with the command that mends it."""
    from dateshard.pipeline.planning.plan import Wish, refuse_unknown
    from dateshard.pipeline.planning.preview import survey
    from dateshard.places import shards_folder
    from dateshard.preparing.states import all_good, grouped, headline, show_mend, status_document
    from dateshard.shardstore.errors import UsageError
    from dateshard.terminal.screen import Screen

    selectors, overrides = split_arguments(words)
    settings, screen = settings_of(files, overrides), Screen(as_json=as_json)
    surveyed = survey(settings.preparing(), shards_folder(settings.dataset), Wish())
    made, current = surveyed.plan, surveyed.current
    chosen = select_dates(selectors, [p.date for p in made.dates], dict(made.split), no_dump(settings, surveyed))
    refuse_unknown(made, Wish(chosen), surveyed.seen, settings.preparing().source.path)
    dates = [p for p in made.dates if chosen is None or p.date in chosen]
    mend = command(
        "preprocess", *(() if surveyed.seen.to_cut else selectors), config=True
    )  # a range needs dates that are known
    good = all_good(surveyed, dates)
    if as_json:
        emit(status_document(settings.dataset, surveyed, dates, mend))
        return 0 if good else 4
    for note in surveyed.notes:
        screen.say(f"note: {note}")
    generation, manifest = (current.generation, current.manifest) if current else (None, None)
    headline(screen, settings.dataset, generation, manifest, made)
    if as_calendar:
        if made.undated:
            raise UsageError("the rows have no date: there is no calendar of them", todo="Leave --calendar out")
        from dateshard.preparing.states_calendar import show_calendar

        show_calendar(screen, dates, manifest.dates if manifest else ())
        dates = [p for p in dates if p.state not in ("fresh", "excluded")]
    screen.table(grouped(screen, dates, acts=False, undated=made.undated), right=(2,), wrap=True)
    for remark in made.remarks if chosen is None else ():
        screen.explain(remark)
    if not good:
        show_mend(screen, dates, mend)
    return 0 if good else 4


@click.command()
@click.argument("words", nargs=-1, metavar="[DATES] [KEY=VALUE]...")
@needed_config_option
@click.option("--full", is_flag=True, help="also hash the measured arrays, and read every shard with zarr-python")
@click.option("--all", "older", is_flag=True, help="also the other generations that are kept, for example for runs")
@json_option
def verify(words: tuple[str, ...], files: tuple[str, ...], full: bool, older: bool, as_json: bool) -> int:
    """Hash every committed file. Exit 4 names each damaged file and the command that mends it."""
    from dateshard.places import shards_folder
    from dateshard.shardstore.cleaning.older_generations import verify_older
    from dateshard.shardstore.dataset import Dataset
    from dateshard.shardstore.errors import NotThereError
    from dateshard.terminal.screen import Screen

    selectors, overrides = split_arguments(words)
    settings, screen = settings_of(files, overrides), Screen(as_json=as_json)
    dataset = Dataset.open(shards_folder(settings.dataset))
    known, lacking = list(dataset.manifest.dates), not_there(dataset.root)
    chosen = select_dates(selectors, known, dict(dataset.manifest.split), lacking)
    damaged: list[NamedError] = []
    absent: list[NamedError] = []
    checked = 0
    looked = dataset.verify(None if chosen is None else sorted(chosen), full=full)
    for name, error in chain(looked, verify_older(dataset, chosen, full=full) if older else ()):
        checked += 1
        if error is not None:
            row: NamedError = {"name": name, "error": str(error)}
            (absent if isinstance(error, NotThereError) else damaged).append(row)
    if as_json:
        document: VerifyDocument = {
            "generation": dataset.generation,
            "checked": checked,
            "damaged": damaged,
            "absent": absent,
        }
        emit(document)
    else:
        for kind, rows in (("damaged", damaged), ("absent ", absent)):
            for row in rows:
                screen.tell(f"{kind}  {row['name']}  {row['error']}")
        sentence = f"{checked - len(damaged) - len(absent)} of {checked} verified, {len(damaged)} damaged"
        more = f", {len(absent)} not in this generation" if absent else ""
        screen.tell(f"generation {dataset.generation}: {sentence}{more}")
    return 4 if damaged or absent else 0
