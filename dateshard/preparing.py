"""What plan, status and preprocess show: a plan in rows, a preprocess as it goes, and both as JSON."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dateshard.progress import Progress
from dateshard.screen import LINE_SECONDS, Screen, counted, seconds, size
from pipeline import events as e
from pipeline.plan import DatePlan, Plan
from shardstore.calendar import collapse
from shardstore.manifest import Manifest

MOST_REASONS = 20  # failures that are told again at the end of a long run


def headline(screen: Screen, dataset: str, generation: int | None, manifest: Manifest | None, made: Plan) -> None:
    """Which dataset, generation and training range a table below is about."""
    train = ", ".join(f"{low}..{high}" for low, high in made.split.get("train", ()))
    if manifest is None:
        screen.tell(f"dataset {dataset}, nothing prepared yet (train {train})")
        return
    screen.tell(f"dataset {dataset}, generation {generation}, statistics {manifest.statistics[:6]} (train {train})")
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


def follow(screen: Screen, dataset: str, events: Iterable[e.Event], again: str) -> tuple[e.Finished, int]:
    """Shows the events of one preprocess and returns the last, and the most bytes that all its processes held.

    Args:
        again: the command that goes on where this one is cut off.
    """
    with Progress(screen) as progress:
        told = _Told(screen, dataset, progress, again)
        for event in events:
            if isinstance(event, e.Finished):
                break
            told.tell(event)
        else:
            raise AssertionError("a preprocess ends with Finished or raises")
    _summary(screen, event, progress.peak_bytes, changed=told.changed, again=again)
    return event, progress.peak_bytes


@dataclass(slots=True)
class _Told:
    """One event after the other, in words."""

    screen: Screen
    dataset: str
    progress: Progress
    again: str
    changed: bool = False

    def tell(self, event: e.Event) -> None:
        screen, progress = self.screen, self.progress
        match event:
            case e.Cutting():
                screen.say(f"cutting {event.path} ({size(event.size)}) into dates; it is read once")
                screen.say(f"If it is cut off, this goes on: {self.again}")
            case e.CutDone():
                rejected = f", {_by_reason(event.rows.rejected)}" if event.rows.rejected else ""
                cut_dates = counted(len(event.dates), "date")
                screen.tell(f"{event.path}: {event.rows.read:,} rows cut into {cut_dates}{rejected}")
            case e.Planned():
                self._planned(event)
            case e.Began():
                progress.begin(event.act, event.num_dates)
            case e.DateDone():
                progress.done(event.rows["read"] if event.rows else 0)
            case e.PassedOver():
                progress.print(f"passed over: {event.error.where}: {event.error.what}")
            case e.DateAgain():
                progress.print(f"again   {event.date}  its worker process {event.why}; it is tried alone at the end")
            case e.DateFailed():
                progress.print(f"failed  {event.date}  {event.error}")
                progress.failed += 1
                progress.done()
            case e.Merged():
                text = f"statistics {event.statistics[:6]} merged over {event.num_dates} training dates"
                self._say(text + _moved(event.moved))
            case e.Drifted():
                text = "the statistics stay frozen; measured now they would move:" + _moved(event.rows)
                self._say(text + "  (--refit-statistics moves them)")
            case e.CommitDone():
                self.changed |= event.changed

    def _say(self, text: str) -> None:
        if not self.screen.quiet:
            self.progress.print(text)

    def _planned(self, event: e.Planned) -> None:
        for note in event.notes:
            self.screen.tell(f"passed over: {note}")
        measure, normalise = len(event.plan.to_measure), len(event.plan.to_normalise)
        if measure + normalise:
            self.screen.say(f"dataset {self.dataset}: {counted(measure, 'date')} to measure, {normalise} to normalise")
            self.screen.say(f"If it is cut off, this goes on: {self.again}")
            for warning in event.plan.warnings:
                self.screen.say(warning)


def _by_reason(counts: dict[str, int]) -> str:
    return "; ".join(f"{count:,} {reason}" for reason, count in sorted(counts.items()))


def _moved(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(f"  {r['feature']} mean {r['mean_shift']:+.2e} sd, spread x{r['spread_ratio']:.6f}" for r in rows)


def _summary(screen: Screen, finished: e.Finished, peak_bytes: int, *, changed: bool, again: str) -> None:
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
    generation = f"generation {finished.generation}" if finished.generation else "no generation yet"
    screen.tell(
        f"{generation}: {wrote}; {counted(finished.measured, 'date')} measured, {read}; "
        f"{seconds(finished.seconds)}, at most {size(peak_bytes)} of memory"
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
    if finished.failed:
        _failures(screen, finished, again)


def _failures(screen: Screen, finished: e.Finished, again: str) -> None:
    """Which dates failed and what goes on; the reasons once more where the first ones are long gone from the screen."""
    if finished.cut_short:
        screen.tell("stopped at the first failure (--fail-fast): nothing was committed after it")
    if finished.seconds > LINE_SECONDS:
        for date, error in sorted(finished.failed.items())[:MOST_REASONS]:
            screen.tell(f"  failed  {date}  {error}")
    screen.tell(f"{len(finished.failed)} failed: {collapse(finished.failed)}. Mend what is said of them, then: {again}")


def finished_to_json(finished: e.Finished, peak_bytes: int) -> dict[str, Any]:
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
        "cut_short": finished.cut_short,
        "seconds": round(finished.seconds, 3),
        "peak_memory_bytes": peak_bytes,
    }
