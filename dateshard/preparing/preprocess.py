"""What preprocess shows as it goes, its last words, and both as a document."""

from __future__ import annotations

import datetime as dt
import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from dateshard.insight.observed_shares import shares_line, shares_of, thin_splits
from dateshard.pipeline import progress_events as e
from dateshard.pipeline.planning.remarks import about_new_nodes
from dateshard.pipeline.splits import SHOWN_RANGES
from dateshard.preparing.states import GOOD, likeness, work_text
from dateshard.shardstore.commands import command
from dateshard.shardstore.errors import counted
from dateshard.shardstore.times.calendar import collapse
from dateshard.terminal.progress import Progress
from dateshard.terminal.screen import Screen, seconds, size

if TYPE_CHECKING:
    from dateshard.documents.preparing import AllRows, PreprocessDocument
    from dateshard.pipeline.raw.strangers import Strangers
    from dateshard.shardstore.manifest import Manifest


def _tell_provisional(screen: Screen, manifest: Manifest) -> None:
    if manifest.provisional:
        screen.tell(f"provisional: the statistics lack {collapse(manifest.provisional)}, which failed")


@dataclass(frozen=True, slots=True)
class Ending:
    """How a preprocess ended. `peak_bytes`: the most that all its processes held. `notes`: what a person should know."""

    finished: e.Finished
    peak_bytes: int
    notes: list[str]


def follow(screen: Screen, dataset: str, events: Iterable[e.Event], again: str, *, brief: bool = False) -> Ending:
    """Shows the events of one preprocess.

    Args:
        again: the command that goes on where this one is cut off.
        brief: leaves out what is going to be done, and how statistics moved: of one preprocess of many.
    """
    with Progress(screen) as progress:
        so_far = _Told(screen=screen, dataset=dataset, progress=progress, again=again, brief=brief)
        try:
            event = _last(events, so_far)
        except BaseException:
            for line in so_far.alike():
                progress.print(line)
            raise
    _summary(screen, event, progress.peak_bytes, so_far)
    return Ending(event, progress.peak_bytes, [*so_far.notes, *_observed(screen, event)])


def settled(events: Iterable[e.Event]) -> Iterator[e.Event]:
    """Passes events through, with garbage collection off until the plan.

    What the plan is made of, hundred objects a date, is not looked through again: both cost more than appending a date
    to thousands may (docs/decisions/0044)."""
    on = gc.isenabled()
    gc.disable()
    try:
        for event in events:
            if isinstance(event, e.Planned):
                gc.freeze()
                gc.enable()
            yield event
    finally:
        gc.unfreeze()
        (gc.enable if on else gc.disable)()


def _last(events: Iterable[e.Event], so_far: _Told) -> e.Finished:
    for event in events:
        if isinstance(event, e.Finished):
            return event
        so_far.tell(event)
    raise AssertionError("a preprocess ends with Finished or raises")


@dataclass(slots=True, kw_only=True)
class _Told:
    """One event after the other, in words. Failures of one likeness are told once, and counted at the end."""

    screen: Screen
    dataset: str
    progress: Progress
    again: str
    brief: bool = False
    changed: bool = False
    undated: bool = False
    divided: bool = False
    notes: list[str] = field(default_factory=list)
    kinds: dict[str, list[dt.date]] = field(default_factory=dict)  # likeness -> dates; the first one's reason was told

    def tell(self, event: e.Event) -> None:
        screen, progress = self.screen, self.progress
        match event:
            case e.Cutting():
                if event.note:
                    screen.tell(event.note)
                screen.say(f"dividing {event.path} ({size(event.size)}) by date; it is read once")
                screen.say(f"To continue if it is interrupted: {self.again}")
            case e.CutDone():
                rejected = f", {_by_reason(event.rows.rejected)}" if event.rows.rejected else ""
                cut_dates = counted(len(event.dates), "date")
                screen.tell(f"{event.path}: {counted(event.rows.read, 'row')} divided into {cut_dates}{rejected}")
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
            case e.DateDropped():
                progress.done()
            case e.DateFailed():
                self._fail(event)
            case e.Merged():
                days = f"the training records of {counted(event.num_dates, 'date')}"
                days = days if self.divided else counted(event.num_dates, "training date")
                text = f"statistics {event.statistics[:6]} {'made' if self.undated else f'merged over {days}'}"
                self._say(text + ("" if self.brief else _moved(event.moved)))
            case e.Drifted():
                if differ := [row for row in event.rows if row["mean_shift"] or round(row["spread_ratio"], 6) != 1]:
                    text = "the statistics stay frozen; computed now they would differ:" + _moved(differ)
                    self._say(text + "  (--refit-statistics updates them)")
            case e.Noted():
                self.note(event.text)
            case e.CommitDone():
                self.changed |= event.changed

    def note(self, text: str) -> None:
        """A sentence that --json holds too."""
        self.notes.append(text)
        self.progress.print(text)

    def alike(self) -> list[str]:
        """Which dates failed for a reason that was told of the first of them alone."""
        groups = [dates for dates in self.kinds.values() if len(dates) > 1]
        return [f"{len(dates)} dates failed for the same reason as {dates[0]}: {collapse(dates)}" for dates in groups]

    def _fail(self, event: e.DateFailed) -> None:
        dates = self.kinds.setdefault(likeness(event.date, str(event.error)), [])
        if not dates:
            self.progress.print(f"failed  {collapse([event.date], undated=self.undated)}  {event.error}")
        dates.append(event.date)
        self.progress.failed += 1
        self.progress.done()

    def _say(self, text: str) -> None:
        if not self.screen.quiet:
            self.progress.print(text)

    def _planned(self, event: e.Planned) -> None:
        for note in event.notes:
            self.screen.tell(f"passed over: {note}")
        plan, screen = event.plan, self.screen
        self.undated, self.divided = plan.undated, plan.divided
        if self.brief:
            return
        if plan.to_measure or plan.to_normalise or plan.to_store:
            screen.say(f"dataset {self.dataset}: {work_text(plan)}")
            screen.say(f"To continue if it is interrupted: {self.again}")
            if plan.merge and event.generation is not None:
                screen.say(f"The global statistics are merged: {plan.merge}.")
        self.notes += plan.warnings
        for warning in plan.warnings if not screen.quiet else ():
            screen.explain(warning)


def _nothing(finished: e.Finished, *, changed: bool) -> str:
    """What is true of the dataset where no date was read or written."""
    states = [date.state.split("(")[0] for date in finished.plan.dates]
    fresh, alone, due = states.count("fresh"), states.count("no-dump"), sum(state not in GOOD for state in states)
    nothing = "no shard changed, but the manifest did" if changed else "nothing to do"
    named = " for the dates that were named" if due and not changed else ""
    more = (f", {alone} whose dump is gone" if alone else "") + (
        f", {due} not ({command('status', config=True)})" if due else ""
    )
    return f"{nothing}{named}: generation {finished.generation}, {counted(fresh, 'date')} fresh{more}"


def _by_reason(counts: dict[str, int]) -> str:
    return "; ".join(f"{count:,} {reason}" for reason, count in sorted(counts.items()))


def _moved(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(f"  {r['feature']} mean {r['mean_shift']:+.2e} sd, spread x{r['spread_ratio']:.6f}" for r in rows)


def _summary(screen: Screen, finished: e.Finished, peak_bytes: int, so_far: _Told) -> None:
    rows = finished.rows
    done = finished.measured + finished.written + finished.unchanged + finished.stored + len(finished.dropped)
    if not done and not finished.failed:
        screen.tell(_nothing(finished, changed=so_far.changed))
        return
    wrote = f"{counted(finished.written, 'shard')} written"
    if finished.unchanged:
        same = f"{finished.unchanged} unchanged"
        wrote = (
            f"{wrote}, {same}"
            if finished.written or finished.failed
            else f"nothing changed, {counted(finished.unchanged, 'shard')} as before"
        )
    if finished.stored:
        wrote = f"{counted(finished.stored, 'date')} stored in other formats, {wrote}"
    rejected = sum(rows["rejected"].values())
    read = f"{counted(rows['read'], 'row')} read" + (f", {rejected:,} rejected" if rejected else "")
    generation = f"generation {finished.generation}" if finished.generation else "no generation yet"
    screen.tell(
        f"{generation}: {wrote}; {counted(finished.measured, 'date')} measured, {read}; "
        f"{seconds(finished.seconds)}, at most {size(peak_bytes)} of memory"
    )
    for kind in ("rejected", "changed"):
        for reason, count in sorted(rows[kind].items()):
            screen.tell(f"  {kind}  {count:,}  {reason}")
    conflicting = _tell_duplicates(screen, rows["by_date"])
    if conflicting and finished.manifest and finished.manifest.num_nodes == 1:
        screen.explain("  all rows are of one node: if a column names the nodes, set pipeline.source.node")
    if finished.manifest and (new := finished.manifest.num_new_nodes):
        kept = about_new_nodes(new, finished.manifest.num_nodes)
        if kept not in finished.plan.remarks:  # else it was told with the plan
            screen.explain(kept)
    if finished.unknown_nodes:
        screen.tell(f"unknown nodes are left out: {_up_to(finished.unknown_nodes, undated=so_far.undated)}")
    for name in sorted({name for unknown in finished.unknown_categories.values() for name in unknown}):
        unseen = {date: unknown[name] for date, unknown in finished.unknown_categories.items() if name in unknown}
        screen.tell(
            f"categories of '{name}' that the training data lacks get code 0: {_up_to(unseen, undated=so_far.undated)}"
        )
    if finished.dropped:
        without = counted(len(finished.dropped), "date without rows is", "dates without rows are")
        screen.tell(f"{without} left out (empty_date: drop): {collapse(finished.dropped)}")
    if finished.manifest:
        _tell_provisional(screen, finished.manifest)
    if finished.failed:
        _failures(screen, finished, so_far)


def _tell_duplicates(screen: Screen, rows_by_date: Mapping[str, Any]) -> bool:
    """Shows rows that were left out because their node and instant come again; returns whether any were.

    Also shows the readings that were lost by it."""
    duplicates = {date: rows["duplicates"] for date, rows in rows_by_date.items() if rows.get("duplicates")}
    for kind in ("dropped", "conflicting"):
        dates = [dt.date.fromisoformat(date) for date, counts in duplicates.items() if counts[kind]]
        if not dates:
            return False
        count, where = sum(counts[kind] for counts in duplicates.values()), collapse(dates, SHOWN_RANGES)
        if kind == "dropped":
            screen.explain(f"  duplicates  {count:,}  left out, the last row of a node and instant stays: {where}")
            continue
        names = sorted({name for counts in duplicates.values() for name in counts["columns"]})
        columns = (
            f"{name} {sum(counts['columns'].get(name, 0) for counts in duplicates.values()):,}" for name in names
        )
        screen.explain(f"  conflicting  {count:,}  of them had other values: {where} ({', '.join(columns)})")
    return True


def _observed(screen: Screen, finished: e.Finished) -> list[str]:
    """How much of each split was observed, where something was done; gives the warnings."""
    done = finished.measured + finished.written + finished.unchanged
    if done and (line := shares_line(finished.observed)):
        screen.tell(line)
    warnings = [
        *filter(None, [finished.short_step, finished.cuts_in_no_split]),
        *finished.unobserved,
        *thin_splits(finished.observed),
    ]
    if finished.empty:
        counters = finished.manifest and any(f.aggregate == "difference" for f in finished.manifest.features)
        why = "no step and the one before have a value" if counters else "no row has a value"
        where = "" if finished.plan.undated else f" on {collapse(finished.empty)}"
        warnings.append(f"nothing was observed{where}: {why}")
    for warning in warnings:
        screen.tell(f"warning: {warning}")
    return warnings


def _up_to(unknown: Mapping[dt.date, Strangers], *, undated: bool) -> str:
    """How many names at most, when, and what they look like."""
    most = max(unknown.values(), key=lambda names: (names.alike, names.count))
    count = max(names.count for names in unknown.values())
    return f"up to {count:,}{'' if undated else f' on {collapse(unknown)}'}{most.hint()}"


def _failures(screen: Screen, finished: e.Finished, so_far: _Told) -> None:
    """Which dates failed, which of them alike, and what goes on."""
    if finished.cut_short:
        screen.tell("stopped at the first failure (--fail-fast): nothing was committed after it")
    failed, alike = finished.failed, so_far.alike()
    all_alike = len(so_far.kinds) == 1 and len(failed) > 1
    for line in () if all_alike else alike:
        screen.tell(line)
    state = "failed alike" if all_alike else "failed"
    dates = collapse(failed, undated=so_far.undated)
    screen.tell(f"{len(failed)} {state}: {dates}. Correct what the messages above say, then run: {so_far.again}")


def ending_to_json(ending: Ending) -> PreprocessDocument:
    """Makes the document of `preprocess --json`."""
    finished = ending.finished
    return {
        "generation": finished.generation,
        "dates": len(finished.manifest.dates) if finished.manifest else 0,
        "measured": finished.measured,
        "written": finished.written,
        "unchanged": finished.unchanged,
        "stored": finished.stored,
        "rows": cast("AllRows", finished.rows),
        "in_no_split": [str(date) for date in finished.plan.in_no_split],
        "missing_days": [str(date) for date in finished.plan.missing_days],
        "unknown_nodes": {
            str(d): {
                "count": names.count,
                "first": names.first,
                "alike": names.alike,
                "example": names.example and [*names.example],
            }
            for d, names in finished.unknown_nodes.items()
        },
        "failed": {str(d): {"message": str(error), "kind": error.kind} for d, error in finished.failed.items()},
        "dropped": {str(date): str(error) for date, error in finished.dropped.items()},
        "observed": shares_of(finished.observed),
        "notes": ending.notes,
        "cut_short": finished.cut_short,
        "seconds": round(finished.seconds, 3),
        "peak_memory_bytes": ending.peak_bytes,
    }
