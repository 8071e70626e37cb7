"""What plan and status show: states of dates in rows, what a plan costs, and both as documents."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from dateshard.pipeline.planning.plan import DatePlan, Plan
from dateshard.pipeline.planning.preview import Cost, Survey
from dateshard.preparing import pace
from dateshard.shardstore.errors import counted
from dateshard.shardstore.manifest import Manifest
from dateshard.shardstore.times.calendar import UNDATED_TEXT, collapse
from dateshard.terminal.screen import Screen, seconds, size

if TYPE_CHECKING:
    from dateshard.documents.preparing import CostDocument, PlanDocument, PlannedRow, StatusDocument, ToCutDocument

ORDER = ["failed", "stale", "missing", "measured", "no-dump", "excluded", "fresh"]  # what needs work first
KEY = re.compile(r"\b([Ss]et pipeline\.|No key reads ).*")
GOOD = ("fresh", "no-dump", "excluded")
ONE_RANGE, THREE_DATES = 24, 34  # columns that dates may take on a terminal: where all is well, where work is needed


def headline(screen: Screen, dataset: str, generation: int | None, manifest: Manifest | None, made: Plan) -> None:
    """Which dataset, generation and training range a table below is about."""
    ranges = ", ".join(f"{low}..{high}" for low, high in made.split.get("train", ()) if not made.undated)
    train = f" (train {ranges})" if ranges and not made.divided else ""  # no dates are known before there are dumps
    if made.divided and manifest is not None and manifest.split_cuts:
        train = f" (train: {manifest.cuts_of('train')})"
    if manifest is None:
        screen.tell(f"dataset {dataset}, nothing prepared yet{train}")
        return
    screen.tell(f"dataset {dataset}, generation {generation}, statistics {manifest.statistics[:6]}{train}")
    if manifest.provisional:
        screen.tell(f"provisional: the statistics lack {collapse(manifest.provisional)}, which failed")


def likeness(date: dt.date, reason: str) -> str:
    """What reasons of many dates have in common: of the place the file's own numbers and the date are left out.

    A row and a value stay: they are looked for one by one, unless a key of the configuration is named that reads them.
    Reasons without a place lose all their numbers.
    """
    file, at, rest = reason.partition(f", date {date}")
    if not at:
        return re.sub(r"\d+", "#", reason)
    file = re.sub(r"\d+", "#", file)
    if key := KEY.search(rest):
        return f"{file}: {key[0]}"
    return file + at.replace(str(date), "") + rest.replace(str(date), "")


def alike(reasons: Mapping[dt.date, str]) -> list[tuple[list[dt.date], str]]:
    """Dates with reasons that are alike, and the first date's reason, marked as such where they differ."""
    groups: dict[str, list[dt.date]] = {}
    without_place: dict[str, str] = {}  # whatever the date
    for date in sorted(reasons):
        reason = reasons[date]
        kind = without_place.get(reason) or likeness(date, reason)
        if ", date " not in reason:
            without_place[reason] = kind
        groups.setdefault(kind, []).append(date)
    alike_dates = []
    for dates in groups.values():
        first = reasons[dates[0]]
        same = all(reasons[date] == first for date in dates)
        alike_dates.append((dates, first if same else f"{first} (the first of {len(dates)})"))
    return alike_dates


def grouped(screen: Screen, dates: Iterable[DatePlan], *, acts: bool, undated: bool = False) -> list[list[str]]:
    """Rows of state, dates in ranges, count, reason (with what will be done); what needs work first."""
    groups: dict[tuple[str, str], dict[dt.date, str]] = {}
    dates = list(dates)
    listed = {p.date for p in dates}
    for p in dates:
        groups.setdefault((p.state, _acts(p) if acts else ""), {})[p.date] = p.reason
    rows = []
    for (state, does), reasons in groups.items():
        for alike_dates, reason in alike(reasons):
            sentence = f"{reason}; {does}" if does else reason
            rank = ORDER.index(state.split("(")[0])
            shown = UNDATED_TEXT if undated else spans(screen, alike_dates, state, listed)
            rows.append((rank, alike_dates[0], [state, shown, str(len(alike_dates)), sentence]))
    return [row for _, _, row in sorted(rows)]


def _acts(plan: DatePlan) -> str:
    """Names a date's acts, such as `measure + normalise`, or nothing."""
    return " + ".join(
        name for name, on in (("measure", plan.measure), ("normalise", plan.normalise), ("store", plan.store)) if on
    )


def spans(screen: Screen, dates: Sequence[dt.date], state: str, listed: Collection[dt.date]) -> str:
    """Dates in ranges. On a terminal many ranges become one, and what lies between stands in other rows, or is named.

    Args:
        listed: the dates of all rows.
    """
    text, room = collapse(dates), ONE_RANGE if state in GOOD else THREE_DATES
    if not screen.terminal or len(text) <= room:
        return text
    days = map(dt.date.fromordinal, range(dates[0].toordinal(), dates[-1].toordinal()))
    absent = [day for day in days if day not in listed]
    but = f" but {absent[0] if len(absent) == 1 else counted(len(absent), 'day')}" if absent else ""
    return f"{dates[0]}..{dates[-1]}{but}"


def show_plan(screen: Screen, made: Plan, *, explain: bool, asked: frozenset[dt.date] | None) -> None:
    """A plan's rows (a line a date with `explain`), why statistics are merged, and its warnings."""
    shown = [p for p in made.dates if asked is None or p.date in asked or p.measure or p.normalise or p.store]
    if explain:
        due = [p for p in shown if p.measure or p.normalise or p.store]
        work = [[collapse([p.date], undated=made.undated), p.state, _acts(p), p.reason] for p in due]
        screen.table(work, wrap=True)
    else:
        screen.table(grouped(screen, shown, acts=True, undated=made.undated), right=(2,), wrap=True)
    if made.merge and made.to_measure + made.to_normalise:
        screen.explain(f"The global statistics are merged: {made.merge}.")
    for warning in made.warnings:
        screen.explain(warning)


def work_text(made: Plan) -> str:
    """How many dates a plan measures, normalises and stores, and of how many only the merged statistics will tell."""
    stored = f", {len(made.to_store)} to store in other formats" if made.to_store else ""
    due, some = len(made.to_normalise), len(made.if_moved)
    normalise = f"{due} to normalise"
    if some:
        which = "" if some == due else f"{some} of them "
        normalise = f"up to {normalise} ({which}only if the merged statistics differ from the frozen ones)"
    return f"{counted(len(made.to_measure), 'date')} to measure, {normalise}{stored}"


def show_cost(
    screen: Screen, surveyed: Survey, cost: Cost, expected: pace.Estimate | None, asked: frozenset[dt.date] | None
) -> None:
    """What the plan's acts read and write, and how long they will take where earlier runs tell."""
    made = surveyed.plan
    if surveyed.seen.to_cut:
        reads = f"Reads {size(cost.read_bytes)} once to divide it ({size(cost.free_bytes)} free)"
        screen.explain(f"{reads}; its dates, and what they take, are known then.")
        return
    if not made.to_measure + made.to_normalise + made.to_store:
        screen.explain(_without_acts(surveyed, asked))
        return
    screen.tell(f"{work_text(made)}.")
    free, about = f"{size(cost.free_bytes)} free", "at most about" if made.if_moved else "about"
    writes = f"writes {about} {size(cost.written_bytes)}" if cost.written_bytes is not None else "writes: not known yet"
    screen.explain(f"Reads {size(cost.read_bytes)} of dumps, {writes} ({free}), takes {_time(expected)}.")
    if cost.written_bytes is not None and 1.2 * cost.written_bytes > cost.free_bytes:
        screen.explain("There is too little free disk for it: free some, or name fewer dates.")


def _without_acts(surveyed: Survey, asked: frozenset[dt.date] | None) -> str:
    """What is left of a plan that reads and writes no date."""
    if changes := _changes(surveyed):
        return f"No shard is written, but the generation changes: {'; '.join(changes)}."
    due = sum(p.state not in GOOD for p in surveyed.plan.dates)
    if asked is None or not due:
        return "Nothing to do."
    return f"Nothing to do for the dates that were named; {counted(due, 'other is', 'others are')} not fresh."


def _changes(surveyed: Survey) -> list[str]:
    """What a preprocess changes although it writes no shard for it."""
    return [*surveyed.plan.beside_shards, *(["what was passed over is written anew"] if surveyed.damaged else [])]


def _time(expected: pace.Estimate | None) -> str:
    if expected is None:
        return "an unknown time (no earlier run here to go by)"
    less = " or less" if expected.at_most else ""
    return f"about {seconds(expected.seconds)}{less} (by an earlier run over {counted(expected.dates, 'date')})"


def needs_run(surveyed: Survey) -> bool:
    """Whether preprocess has anything to do."""
    made = surveyed.plan
    return bool(surveyed.seen.to_cut or made.to_measure or made.to_normalise or made.to_store or _changes(surveyed))


def expect(dataset: str, surveyed: Survey, cost: Cost, num_workers: int) -> pace.Estimate | None:
    """Time of a plan by what earlier runs took; None where nobody knows its dates yet."""
    made = surveyed.plan
    if surveyed.seen.to_cut:
        return None
    time = pace.estimate(dataset, {"measure": cost.read_bytes, "normalise": len(made.to_normalise)}, num_workers)
    return replace(time, at_most=True) if time and made.if_moved else time


def plan_document(
    dataset: str, surveyed: Survey, cost: Cost, expected: pace.Estimate | None, command: str
) -> PlanDocument:
    """Makes the document of `plan --json`."""
    made, current = surveyed.plan, surveyed.current
    rows: list[PlannedRow] = [
        {
            "date": str(p.date),
            "state": p.state,
            "reason": p.reason,
            "measure": p.measure,
            "normalise": p.normalise,
            "store": p.store,
        }
        for p in made.dates
    ]
    cost_document: CostDocument = {
        "read_bytes": cost.read_bytes,
        "written_bytes": cost.written_bytes,
        "free_bytes": cost.free_bytes,
        "seconds": round(expected.seconds, 1) if expected else None,
        "at_most": expected.at_most if expected else None,
        "paced_by": expected.dates if expected else None,
    }
    return {
        "dataset": dataset,
        "generation": current.generation if current else None,
        "statistics": current.manifest.statistics if current else None,
        "dates": rows,
        "merge": made.merge or None,
        "split": {name: [[str(a), str(b)] for a, b in ranges] for name, ranges in made.split.items()},
        "in_no_split": [str(date) for date in made.in_no_split],
        "missing_days": [str(date) for date in made.missing_days],
        "cost": cost_document,
        "warnings": [*made.warnings, *surveyed.notes],
        "to_cut": _to_cut(surveyed),
        "command": command if needs_run(surveyed) else None,
    }


def _to_cut(surveyed: Survey) -> ToCutDocument | None:
    due = surveyed.seen.to_cut
    return {"path": str(due.whole.path), "bytes": due.whole.size, "why": due.why} if due else None


def status_document(dataset: str, surveyed: Survey, dates: Collection[DatePlan], mend: str) -> StatusDocument:
    """Makes the document of `status --json`."""
    manifest = surveyed.current.manifest if surveyed.current else None
    counts: dict[str, int] = {}
    for p in dates:
        counts[p.state] = counts.get(p.state, 0) + 1
    return {
        "dataset": dataset,
        "generation": surveyed.current.generation if surveyed.current else None,
        "statistics": manifest.statistics if manifest else None,
        "provisional": [str(date) for date in manifest.provisional] if manifest else [],
        "counts": counts,
        "dates": [{"date": str(p.date), "state": p.state, "reason": p.reason} for p in dates],
        "in_no_split": [str(date) for date in surveyed.plan.in_no_split],
        "missing_days": [str(date) for date in surveyed.plan.missing_days],
        "warnings": list(surveyed.plan.remarks),
        "notes": list(surveyed.notes),
        "to_cut": _to_cut(surveyed),
        "mend": None if all_good(surveyed, dates) else mend,
    }


def all_good(surveyed: Survey, dates: Collection[DatePlan]) -> bool:
    """Whether nothing is left to do for any of them; where they are all that there are, nor for the generation."""
    whole = len(dates) == len(surveyed.plan.dates)
    return not surveyed.seen.to_cut and all(p.state in GOOD for p in dates) and not (whole and _changes(surveyed))


def show_mend(screen: Screen, dates: Collection[DatePlan], mend: str) -> None:
    """The command that makes what is not fresh fresh."""
    failed = any(p.state == "failed" for p in dates)
    screen.tell(f"{'Correct the dumps that failed, then run' if failed else 'Run'}: {mend}")
