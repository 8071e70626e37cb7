"""plan, preprocess, status, verify: the offline stage at the command line."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Iterable, Sequence
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
    from dateshard.screen import Screen
    from dateshard.settings import Settings
    from pipeline.events import Event, Finished
    from pipeline.plan import DatePlan, Plan, Wish
    from shardstore.manifest import Manifest

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
    from dateshard.screen import Screen
    from pipeline.execute import look

    selectors, overrides = split_arguments(words)
    settings, screen = settings_of(files, overrides), Screen(as_json=as_json)
    wish = _wish(settings, selectors, only=only, exclude=exclude, force=force, refit=refit_statistics, resplit=resplit)
    made, current, notes = look(settings.preparing(), shards_folder(settings.dataset), wish)
    if as_json:
        click.echo(json.dumps(_plan_json(made, notes), indent=1))
        return 0
    for note in notes:
        screen.say(f"passed over: {note}")
    _headline(
        screen, settings.dataset, current.generation if current else None, current.manifest if current else None, made
    )
    _show_plan(screen, made, explain=explain, asked=wish.dates)
    return 0


@click.command()
@click.argument("words", nargs=-1, metavar="[DATES] [KEY=VALUE]...")
@config_option
@click.option("--only", default="", metavar="STATES", help=f"of the named dates only those in these states: {STATES}")
@click.option("--exclude", multiple=True, metavar="DATES", help="not these dates")
@click.option("--force", is_flag=True, help="measure and normalise the dates again even where they are fresh")
@click.option("--workers", type=click.IntRange(1), help="processes (default: one a core)")
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
    refit_statistics: bool,
    resplit: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Raw dumps -> normalised shards with global statistics. Only what is not fresh is done."""
    from dateshard.places import shards_folder
    from dateshard.screen import Screen
    from pipeline.execute import preprocess as prepare

    if dry_run:
        refit: dict[str, Any] = {"refit_statistics": refit_statistics, "resplit": resplit, "force": force}
        refit |= {"only": only, "exclude": exclude}
        return int(context.invoke(plan, words=words, files=files, explain=True, as_json=as_json, **refit))
    selectors, overrides = split_arguments(words)
    settings, screen = settings_of(files, overrides), Screen(as_json=as_json, quiet=quiet)
    wish = _wish(settings, selectors, only=only, exclude=exclude, force=force, refit=refit_statistics, resplit=resplit)
    num_workers = workers or len(os.sched_getaffinity(0))
    events = prepare(settings.dataset, settings.preparing(), shards_folder(settings.dataset), wish, num_workers)
    finished = _follow(screen, settings.dataset, events)
    if as_json:
        click.echo(json.dumps(_finished_json(finished), indent=1))
    if not finished.failed:
        return 0
    return 65 if finished.manifest is None or not finished.manifest.dates else 3


@click.command()
@click.argument("words", nargs=-1, metavar="[DATES] [KEY=VALUE]...")
@config_option
@json_option
def status(words: tuple[str, ...], files: tuple[str, ...], as_json: bool) -> int:
    """The state of every date, with the reason. Exit 4 if a date is not fresh."""
    from dateshard.places import shards_folder
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
            screen.say(f"passed over: {note}")
        _headline(
            screen,
            settings.dataset,
            current.generation if current else None,
            current.manifest if current else None,
            made,
        )
        screen.table(_grouped(dates), right=(2,))
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


def _headline(screen: Screen, dataset: str, generation: int | None, manifest: Manifest | None, made: Plan) -> None:
    from shardstore.calendar import collapse

    train = ", ".join(f"{low}..{high}" for low, high in made.split.get("train", ()))
    if manifest is None:
        screen.tell(f"dataset {dataset}, nothing prepared yet (train {train})")
        return
    screen.tell(f"dataset {dataset}, generation {generation}, statistics {manifest.statistics[:6]} (train {train})")
    if manifest.provisional:
        screen.tell(f"provisional: the statistics lack {collapse(manifest.provisional)}, which failed")


def _grouped(dates: Iterable[DatePlan]) -> list[list[str]]:
    """Rows of state, dates in ranges, count, reason; what needs work first."""
    from shardstore.calendar import collapse

    groups: dict[tuple[str, str], list[dt.date]] = {}
    for p in dates:
        groups.setdefault((p.state, p.reason), []).append(p.date)
    order = ["failed", "stale", "missing", "measured", "no-dump", "excluded", "fresh"]
    ranked = sorted(groups.items(), key=lambda item: (order.index(item[0][0].split("(")[0]), item[1][0]))
    return [[state, collapse(found), str(len(found)), reason] for (state, reason), found in ranked]


def _show_plan(screen: Screen, made: Plan, *, explain: bool, asked: frozenset[dt.date] | None) -> None:
    from dateshard.screen import counted

    if explain:
        acts = [
            [
                str(p.date),
                p.state,
                " + ".join(a for a, on in (("measure", p.measure), ("normalise", p.normalise)) if on),
                p.reason,
            ]
            for p in made.dates
            if p.measure or p.normalise
        ]
        screen.table(acts or [["nothing to do"]])
    else:
        shown = [p for p in made.dates if asked is None or p.date in asked or p.measure or p.normalise]
        screen.table(_grouped(shown), right=(2,))
    if made.merge and made.to_measure + made.to_normalise:
        screen.tell(f"The global statistics are merged: {made.merge}.")
    for warning in made.warnings:
        screen.tell(warning)
    screen.tell(f"{counted(len(made.to_measure), 'date')} to measure, {len(made.to_normalise)} to normalise.")


def _plan_json(made: Plan, notes: Sequence[str]) -> dict[str, Any]:
    rows = [
        {"date": str(p.date), "state": p.state, "reason": p.reason, "measure": p.measure, "normalise": p.normalise}
        for p in made.dates
    ]
    split = {name: [[str(a), str(b)] for a, b in ranges] for name, ranges in made.split.items()}
    return {"dates": rows, "merge": made.merge or None, "split": split, "warnings": [*made.warnings, *notes]}


def _follow(screen: Screen, dataset: str, events: Iterable[Event]) -> Finished:
    """Shows the events of one preprocess and returns the last."""
    from dateshard.screen import counted
    from pipeline import events as e

    bar, finished, changed = None, None, False
    for event in events:
        match event:
            case e.Planned():
                for note in event.notes:
                    screen.tell(f"passed over: {note}")
                todo = len(event.plan.to_measure) + len(event.plan.to_normalise)
                if todo:
                    measure = counted(len(event.plan.to_measure), "date")
                    work = f"{measure} to measure, {len(event.plan.to_normalise)} to normalise"
                    screen.say(f"dataset {dataset}: {work}. If it is cut off, the same command goes on.")
                    for warning in event.plan.warnings:
                        screen.say(warning)
                bar = screen.bar("dates", todo) if todo else None
            case e.DateDone():
                if bar:
                    bar.advance(note=event.act)
            case e.PassedOver():
                (bar.print if bar else screen.tell)(f"passed over: {event.error.where}: {event.error.what}")
            case e.DateFailed():
                (bar.print if bar else screen.tell)(f"failed  {event.date}  {event.error}")
                if bar:
                    bar.advance(note=event.act)
            case e.Merged():
                text = f"statistics {event.statistics[:6]} merged over {event.num_dates} training dates"
                (bar.print if bar else screen.say)(text + _moved(event.moved))
            case e.Drifted():
                text = "the statistics stay frozen; measured now they would move:" + _moved(event.rows)
                (bar.print if bar else screen.say)(text + "  (--refit-statistics moves them)")
            case e.CommitDone():
                changed |= event.changed
            case e.Finished():
                finished = event
    if bar:
        bar.close()
    assert finished is not None, "a preprocess ends with Finished or raises"
    _summary(screen, finished, changed=changed)
    return finished


def _moved(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(f"  {r['feature']} mean {r['mean_shift']:+.2e} sd, spread x{r['spread_ratio']:.6f}" for r in rows)


def _summary(screen: Screen, finished: Finished, *, changed: bool) -> None:
    from dateshard.screen import counted, seconds
    from shardstore.calendar import collapse

    rows = finished.rows
    dates = len(finished.manifest.dates) if finished.manifest else 0
    if not finished.measured and not finished.written and not finished.unchanged and not finished.failed:
        nothing = "no shard differs, the rest of the manifest does" if changed else "nothing to do"
        screen.tell(f"{nothing}: generation {finished.generation}, {dates} dates fresh")
        return
    wrote = f"{counted(finished.written, 'shard')} written"
    if finished.unchanged:
        same = f"{finished.unchanged} unchanged"
        wrote = (
            f"{wrote}, {same}"
            if finished.written or finished.failed
            else f"nothing changed, {counted(finished.unchanged, 'shard')} as before"
        )
    rejected = sum(rows["rejected"].values())
    read = f"{rows['read']:,} rows read" + (f", {rejected:,} rejected" if rejected else "")
    screen.tell(
        f"generation {finished.generation}: {wrote}; {counted(finished.measured, 'date')} measured, {read}; "
        f"{seconds(finished.seconds)}"
    )
    for reason, count in sorted(rows["rejected"].items()):
        screen.tell(f"  rejected  {count:,}  {reason}")
    if finished.unknown_nodes:
        where = collapse(finished.unknown_nodes)
        screen.tell(
            f"nodes that no training date has are left out: up to {max(finished.unknown_nodes.values())} on {where}"
        )
    for name in sorted({name for unknown in finished.unknown_categories.values() for name in unknown}):
        counts = {date: unknown[name] for date, unknown in finished.unknown_categories.items() if name in unknown}
        most, where = max(counts.values()), collapse(counts)
        screen.tell(f"categories of '{name}' that no training date has get code 0: up to {most} on {where}")
    if finished.failed:
        screen.tell(
            f"{len(finished.failed)} failed: {collapse(finished.failed)}. Mend the dumps, then run the same command again."
        )


def _finished_json(finished: Finished) -> dict[str, Any]:
    failed = {str(date): {"message": str(error), "kind": error.kind} for date, error in finished.failed.items()}
    return {
        "generation": finished.generation,
        "dates": len(finished.manifest.dates) if finished.manifest else 0,
        "measured": finished.measured,
        "written": finished.written,
        "unchanged": finished.unchanged,
        "rows": finished.rows,
        "failed": failed,
        "seconds": round(finished.seconds, 3),
    }
