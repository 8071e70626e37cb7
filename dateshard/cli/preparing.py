"""plan, preprocess, status, verify: the offline stage at the command line."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from dateshard.cli.options import (
    config_option,
    json_option,
    quiet_option,
    select_dates,
    settings_of,
    split_arguments,
)

if TYPE_CHECKING:
    from dateshard.settings import Settings
    from pipeline.plan import Wish
    from pipeline.stopping import Stop

STATES = "failed,stale,missing,measured"


@click.command()
@click.argument("words", nargs=-1, metavar="[DATES] [KEY=VALUE]...")
@config_option
@click.option("--only", default="", metavar="STATES", help=f"of the named dates only those in these states: {STATES}")
@click.option("--exclude", multiple=True, metavar="DATES", help="not these dates")
@click.option("--explain", is_flag=True, help="a line a date, with its acts")
@click.option("--refit-statistics", is_flag=True, help="as if preprocess were called so")
@click.option("--resplit", is_flag=True, help="resolve a fractional split again")
@click.option("--force", is_flag=True, help="as if preprocess were called so")
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
    as_json: bool,
) -> int:
    """What preprocess would do, and why. Writes nothing."""
    from dateshard.places import shards_folder
    from dateshard.preparing import headline, plan_to_json, show_plan
    from dateshard.screen import Screen
    from pipeline.execute import look

    selectors, overrides = split_arguments(words)
    settings, screen = settings_of(files, overrides), Screen(as_json=as_json)
    wish = _wish(settings, selectors, only=only, exclude=exclude, force=force, refit=refit_statistics, resplit=resplit)
    made, current, notes = look(settings.preparing(), shards_folder(settings.dataset), wish)
    if as_json:
        click.echo(json.dumps(plan_to_json(made, notes), indent=1))
        return 0
    for note in notes:
        screen.say(f"note: {note}")
    headline(
        screen, settings.dataset, current.generation if current else None, current.manifest if current else None, made
    )
    show_plan(screen, made, explain=explain, asked=wish.dates)
    return 0


@click.command()
@click.argument("words", nargs=-1, metavar="[DATES] [KEY=VALUE]...")
@config_option
@click.option("--only", default="", metavar="STATES", help=f"of the named dates only those in these states: {STATES}")
@click.option("--exclude", multiple=True, metavar="DATES", help="not these dates")
@click.option("--force", is_flag=True, help="measure and normalise the dates again even where they are fresh")
@click.option("--workers", type=click.IntRange(1), help="processes (default: one a core, as far as memory reaches)")
@click.option("--fail-fast", is_flag=True, help="end at the first date that fails; what was measured is kept")
@click.option(
    "--memory-limit", metavar="SIZE", help="for all workers together, as 4GiB (default: most of what is free)"
)
@click.option("--refit-statistics", is_flag=True, help="merge the global statistics again and re-scale every date")
@click.option("--resplit", is_flag=True, help="resolve a fractional split again")
@click.option("--dry-run", is_flag=True, help="the plan only")
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
    fail_fast: bool,
    memory_limit: str | None,
    refit_statistics: bool,
    resplit: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Raw dumps -> normalised shards with global statistics. Only what is not fresh is done."""
    from dateshard.signals import StopSignal
    from pipeline.stopping import Stop

    acts: dict[str, Any] = {"refit_statistics": refit_statistics, "resplit": resplit, "force": force}
    acts |= {"only": only, "exclude": exclude}
    if dry_run:
        return int(context.invoke(plan, words=words, files=files, explain=True, as_json=as_json, **acts))
    acts |= {"memory_limit": memory_limit, "workers": workers, "fail_fast": fail_fast}
    again, stop = shlex.join(["dateshard", *(context.obj or [])]), Stop()
    with StopSignal(stop.ask) as signals:
        try:
            return _preprocess(words, files, acts, stop, Shown(as_json, quiet, again))
        except KeyboardInterrupt:
            told = f"stopped: {_kept(force=force)}. This goes on: {again}"
            if as_json:
                error = {"kind": "stopped", "message": told, "exit_code": signals.exit_code}
                click.echo(json.dumps({"error": error}))
            click.echo(told, err=True)
            return signals.exit_code


@dataclass(frozen=True, slots=True)
class Shown:
    """How a preprocess tells what it does, and the command that goes on where it is cut off."""

    as_json: bool
    quiet: bool
    again: str


def _preprocess(words: Sequence[str], files: Sequence[str], acts: dict[str, Any], stop: Stop, shown: Shown) -> int:
    """The whole command between its words and its exit code."""
    from contextlib import closing

    from dateshard.places import shards_folder
    from dateshard.preparing import finished_to_json, follow
    from dateshard.screen import Screen
    from pipeline.execute import preprocess as prepare
    from trainer.config import parse_bytes

    selectors, overrides = split_arguments(words)
    settings, screen = settings_of(files, overrides), Screen(as_json=shown.as_json, quiet=shown.quiet)
    try:
        memory = parse_bytes(acts["memory_limit"]) if acts["memory_limit"] else None
    except ValueError as error:
        raise click.UsageError(f"--memory-limit: {error}") from None
    wished = {"only": acts["only"], "exclude": acts["exclude"], "force": acts["force"]}
    with stop.at_once():
        wish = _wish(settings, selectors, **wished, refit=acts["refit_statistics"], resplit=acts["resplit"])
    root, config = shards_folder(settings.dataset), settings.preparing()
    options: dict[str, Any] = {"fail_fast": acts["fail_fast"], "stop": stop}
    with closing(prepare(settings.dataset, config, root, wish, acts["workers"], memory, **options)) as events:
        finished, peak_bytes = follow(screen, settings.dataset, events, shown.again)
    if shown.as_json:
        click.echo(json.dumps(finished_to_json(finished, peak_bytes), indent=1))
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
@config_option
@json_option
def status(words: tuple[str, ...], files: tuple[str, ...], as_json: bool) -> int:
    """The state of every date, with the reason. Exit 4 if a date is not fresh."""
    from dateshard.places import shards_folder
    from dateshard.preparing import grouped, headline
    from dateshard.screen import Screen
    from pipeline.execute import look
    from pipeline.plan import Wish

    selectors, overrides = split_arguments(words)
    settings, screen = settings_of(files, overrides), Screen(as_json=as_json)
    made, current, notes = look(settings.preparing(), shards_folder(settings.dataset), Wish())
    chosen = select_dates(selectors, [p.date for p in made.dates], dict(made.split))
    dates = [p for p in made.dates if chosen is None or p.date in chosen]
    if as_json:
        generation = current.generation if current else None
        rows = [{"date": str(p.date), "state": p.state, "reason": p.reason} for p in dates]
        click.echo(json.dumps({"dataset": settings.dataset, "generation": generation, "dates": rows}, indent=1))
    else:
        for note in notes:
            screen.say(f"note: {note}")
        headline(
            screen,
            settings.dataset,
            current.generation if current else None,
            current.manifest if current else None,
            made,
        )
        screen.table(grouped(dates), right=(2,))
    return 0 if all(p.state in ("fresh", "no-dump", "excluded") for p in dates) else 4


@click.command()
@click.argument("words", nargs=-1, metavar="[DATES] [KEY=VALUE]...")
@config_option
@click.option("--full", is_flag=True, help="also hash the measured arrays, and compare with what zarr-python reads")
@json_option
def verify(words: tuple[str, ...], files: tuple[str, ...], full: bool, as_json: bool) -> int:
    """Hash every committed file. Exit 4 names each damaged one and the command that mends it."""
    from dateshard.cli import fill_in
    from dateshard.places import shards_folder
    from dateshard.screen import Screen
    from shardstore.dataset import Dataset
    from shardstore.errors import NotThereError

    selectors, overrides = split_arguments(words)
    settings, screen = settings_of(files, overrides), Screen(as_json=as_json)
    dataset = Dataset.open(shards_folder(settings.dataset))
    chosen = select_dates(selectors, list(dataset.manifest.dates), dict(dataset.manifest.split))
    damaged: list[dict[str, str]] = []
    absent: list[dict[str, str]] = []
    checked = 0
    for name, error in dataset.verify(None if chosen is None else sorted(chosen), full=full):
        checked += 1
        if error is not None:
            row = {"name": name, "error": fill_in(str(error), [*(w for f in files for w in ("-c", f)), *words])}
            (absent if isinstance(error, NotThereError) else damaged).append(row)
    if as_json:
        document = {"generation": dataset.generation, "checked": checked, "damaged": damaged, "absent": absent}
        click.echo(json.dumps(document, indent=1))
    else:
        for kind, rows in (("damaged", damaged), ("absent ", absent)):
            for row in rows:
                screen.tell(f"{kind}  {row['name']}  {row['error']}")
        told = f"{checked - len(damaged) - len(absent)} of {checked} verified, {len(damaged)} damaged"
        more = f", {len(absent)} not in this generation" if absent else ""
        screen.tell(f"generation {dataset.generation}: {told}{more}")
    return 4 if damaged or absent else 0


def _wish(
    settings: Settings,
    selectors: Sequence[str],
    *,
    only: str,
    exclude: Sequence[str],
    force: bool,
    refit: bool,
    resplit: bool,
) -> Wish:
    """Selectors -> a wish. States and splits are looked up in the plan of everything."""
    from dateshard.places import shards_folder
    from pipeline.execute import look
    from pipeline.plan import Wish

    wish = Wish(None, force, refit, resplit)
    if not (selectors or only or exclude):
        return wish
    everything, _, _ = look(settings.preparing(), shards_folder(settings.dataset), Wish())
    known = [p.date for p in everything.dates]
    selected = select_dates(selectors, known, dict(everything.split))
    chosen = set(known if selected is None else selected)  # a selector that matches nothing names nothing
    chosen -= set(select_dates(exclude, known, dict(everything.split)) or ())
    if only:
        wanted = {state.strip() for state in only.split(",")}
        if unknown := wanted - set(STATES.split(",")):
            raise click.UsageError(f"--only {', '.join(sorted(unknown))}: the states are {STATES}")
        chosen &= {p.date for p in everything.dates if p.state.split("(")[0] in wanted}
    return Wish(frozenset(chosen), force, refit, resplit)
