"""What plan, status and preprocess show: a plan in rows, a preprocess as it goes, and both as JSON."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any

from dateshard.screen import Screen, counted, seconds, size
from pipeline import events as e
from pipeline.plan import DatePlan, Plan
from shardstore.calendar import collapse
from shardstore.manifest import Manifest


def headline(screen: Screen, dataset: str, generation: int | None, manifest: Manifest | None, made: Plan) -> None:
    """Which dataset, generation and training range a table below is about."""
    ranges = ", ".join(f"{low}..{high}" for low, high in made.split.get("train", ()))
    train = f" (train {ranges})" if ranges else ""  # no dates are known before there are dumps
    if manifest is None:
        screen.tell(f"dataset {dataset}, nothing prepared yet{train}")
        return
    screen.tell(f"dataset {dataset}, generation {generation}, statistics {manifest.statistics[:6]}{train}")
    _tell_provisional(screen, manifest)


def _tell_provisional(screen: Screen, manifest: Manifest) -> None:
    if manifest.provisional:
        screen.tell(f"provisional: the statistics lack {collapse(manifest.provisional)}, which failed")


def grouped(dates: Iterable[DatePlan]) -> list[list[str]]:
    """Rows of state, dates in ranges, count, reason; what needs work first."""
    groups: dict[tuple[str, str], list[dt.date]] = {}
    for p in dates:
        groups.setdefault((p.state, p.reason), []).append(p.date)
    order = ["failed", "stale", "missing", "measured", "no-dump", "excluded", "fresh"]
    ranked = sorted(groups.items(), key=lambda item: (order.index(item[0][0].split("(")[0]), item[1][0]))
    return [[state, collapse(found), str(len(found)), reason] for (state, reason), found in ranked]


def show_plan(screen: Screen, made: Plan, *, explain: bool, asked: frozenset[dt.date] | None) -> None:
    """A plan's rows (a line a date with `explain`), why statistics are merged, and its warnings."""
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
        screen.table(grouped(shown), right=(2,))
    if made.merge and made.to_measure + made.to_normalise:
        screen.tell(f"The global statistics are merged: {made.merge}.")
    for warning in made.warnings:
        screen.tell(warning)
    screen.tell(f"{counted(len(made.to_measure), 'date')} to measure, {len(made.to_normalise)} to normalise.")


def plan_to_json(made: Plan, notes: Sequence[str]) -> dict[str, Any]:
    """`plan --json`."""
    rows = [
        {"date": str(p.date), "state": p.state, "reason": p.reason, "measure": p.measure, "normalise": p.normalise}
        for p in made.dates
    ]
    split = {name: [[str(a), str(b)] for a, b in ranges] for name, ranges in made.split.items()}
    return {"dates": rows, "merge": made.merge or None, "split": split, "warnings": [*made.warnings, *notes]}


def follow(screen: Screen, dataset: str, events: Iterable[e.Event]) -> e.Finished:
    """Shows the events of one preprocess and returns the last."""
    bar, finished, changed = None, None, False
    for event in events:
        match event:
            case e.Cutting():
                screen.say(f"cutting {event.path} ({size(event.size)}) into dates; it is read once")
            case e.CutDone():
                rejected = f", {_by_reason(event.rows.rejected)}" if event.rows.rejected else ""
                cut_dates = counted(len(event.dates), "date")
                screen.tell(f"{event.path}: {event.rows.read:,} rows cut into {cut_dates}{rejected}")
            case e.Planned():
                for note in event.notes:
                    screen.tell(f"passed over: {note}")
                todo = len(event.plan.to_measure) + len(event.plan.to_normalise)
                if todo:
                    measure = counted(len(event.plan.to_measure), "date")
                    work = f"{measure} to measure, {len(event.plan.to_normalise)} to normalise"
                    screen.say(f"dataset {dataset}: {work}. If it is cut off, the same command goes on.")
                    if event.plan.merge and event.generation is not None:
                        screen.say(f"The global statistics are merged: {event.plan.merge}.")
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


def _by_reason(counts: dict[str, int]) -> str:
    return "; ".join(f"{count:,} {reason}" for reason, count in sorted(counts.items()))


def _moved(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(f"  {r['feature']} mean {r['mean_shift']:+.2e} sd, spread x{r['spread_ratio']:.6f}" for r in rows)


def _summary(screen: Screen, finished: e.Finished, *, changed: bool) -> None:
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
    for kind in ("rejected", "changed"):
        for reason, count in sorted(rows[kind].items()):
            screen.tell(f"  {kind}  {count:,}  {reason}")
    if finished.unknown_nodes:
        where = collapse(finished.unknown_nodes)
        screen.tell(
            f"nodes that no training date has are left out: up to {max(finished.unknown_nodes.values())} on {where}"
        )
    for name in sorted({name for unknown in finished.unknown_categories.values() for name in unknown}):
        counts = {date: unknown[name] for date, unknown in finished.unknown_categories.items() if name in unknown}
        most, where = max(counts.values()), collapse(counts)
        screen.tell(f"categories of '{name}' that no training date has get code 0: up to {most} on {where}")
    if finished.manifest:
        _tell_provisional(screen, finished.manifest)
    if finished.failed:
        screen.tell(
            f"{len(finished.failed)} failed: {collapse(finished.failed)}. Mend the dumps, then run the same command again."
        )


def finished_to_json(finished: e.Finished) -> dict[str, Any]:
    """`preprocess --json`."""
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
