"""What a plan says to people: sentences about dates, the split, the frozen statistics and sizes. Pure functions."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.splits import SHOWN_RANGES, about_no_split
from dateshard.shardstore.errors import counted
from dateshard.shardstore.manifest import SPLITS, Ranges
from dateshard.shardstore.times.calendar import collapse

YEAR = 366
HANDFUL = 10  # times as many rows has a usual date at least

if TYPE_CHECKING:
    from dateshard.pipeline.planning.plan import DatePlan, Observed, Plan, Wish


def warnings_of(plan: Plan, seen: Observed, wish: Wish) -> list[str]:
    """What a person should know before these acts are carried out."""
    plans, merge = plan.dates, plan.merge
    warnings = _passed_over(plans, wish)
    if seen.manifest and not merge:
        again = [p.date for p in plans if p.measure and p.date in seen.manifest.dates and plan.training(p.date)]
        if again:
            dates = f"{again[0]} is a training date" if len(again) == 1 else f"{len(again)} dates are training dates"
            if plan.divided:
                dates = f"{again[0]} has training records" if len(again) == 1 else f"{len(again)} dates have some"
            count = len(seen.manifest.dates)
            scaled = counted(count, "date is", "dates are")
            warnings.append(
                "The frozen statistics are kept, unless --refit-statistics."
                if plan.undated
                else f"{dates}: the frozen statistics are kept, unless --refit-statistics "
                f"(then {scaled} re-scaled, no other dump is read again)."
            )
    if wish.dates is not None and merge:
        more = sum(1 for p in plans if p.measure and p.date not in wish.dates)
        if more:
            warnings.append(
                f"{counted(more, 'more date is', 'more dates are')} measured: the statistics are merged over all training dates."
            )
    return warnings


def remarks_on(plan: Plan, config: Pipeline, seen: Observed, known: Sequence[dt.date]) -> tuple[str, ...]:
    """What a person should know of the dataset, whatever is done."""
    remarks = [*_moved(seen.manifest.split, plan.split, plan.merge), *_held(plan, seen, known)] if seen.manifest else []
    if seen.manifest and seen.no_match:
        remarks.append(f"{seen.no_match}. {counted(len(known), 'date is', 'dates are')} kept as shards.")
    remarks += _far_away(config, seen, known)
    if seen.manifest and (new := seen.manifest.num_new_nodes):
        remarks.append(about_new_nodes(new, seen.manifest.num_nodes))
    if days := plan.missing_days:
        many = counted(len(days), "day is", "days are")
        remarks.append(f"{many} missing: {collapse(days, SHOWN_RANGES)}. No window reaches over {_them(days)}")
    split = config.split if plan.in_no_split else None  # of none that is configured see `why_not_last`
    without = about_no_split(split, plan.split, known) if split else ""
    return tuple(filter(None, [*remarks, without]))


def about_new_nodes(new: int, num_nodes: int) -> str:
    """Tells how many nodes came after training, and what makes them known."""
    are, they, them = ("is", "it is", "it") if new == 1 else ("are", "they are", "them")
    return (
        f"{new:,} of {num_nodes:,} nodes {are} unseen by training: {they} kept, and scaled as all nodes together. Once training "
        f"dates have {them}, --refit-statistics makes {them} known"
    )


def _far_away(config: Pipeline, seen: Observed, known: Sequence[dt.date]) -> list[str]:
    """Names dates of a file of many that have few rows and lie over a year from the bulk: clocks that were wrong."""
    rows = {date: seen.dumps[date].rows for date in known if date in seen.dumps}
    if config.source.dates is not None or not all(rows.values()):
        return []
    stretches = _stretches(sorted(rows))
    bulk = max(stretches, key=lambda dates: sum(map(rows.__getitem__, dates)), default=[])
    most = median(map(rows.__getitem__, bulk)) / HANDFUL if bulk else 0.0
    few = [dates for dates in stretches if dates is not bulk and all(rows[date] <= most for date in dates)]
    if not few:
        return []
    far = [date for dates in few for date in dates]
    near = [date for dates in stretches if dates not in few for date in dates]
    many = sum(rows[date] for date in far)
    return [
        f"{counted(many, 'row is', 'rows are')} years away from all others: {collapse(far, SHOWN_RANGES)}. "
        f"pipeline.source.dates: {near[0]}..{near[-1]} leaves {_them(far)} out"
    ]


def _stretches(dates: Sequence[dt.date]) -> list[list[dt.date]]:
    """The dates in order, divided wherever more than a year lies between two."""
    divided: list[list[dt.date]] = []
    for date in dates:
        if divided and (date - divided[-1][-1]).days <= YEAR:
            divided[-1].append(date)
        else:
            divided.append([date])
    return divided


def _them(dates: Sequence[dt.date]) -> str:
    return "it" if len(dates) == 1 else "them"


def beside_shards(plan: Plan, seen: Observed) -> tuple[str, ...]:
    """What of the generation a preprocess changes although it writes no shard for it."""
    old = seen.manifest
    if old is None or seen.to_cut:
        return ()
    states = {date.date: date.state for date in plan.dates}
    out = [date for date in old.dates if states.get(date) == "excluded"]
    noted = {*old.failed, *old.provisional}
    over = sorted(d for d in noted if d not in seen.dumps or states[d] == "excluded")
    over += [date for date in old.failed if date not in over and states[date] == "fresh"]
    return (
        *(["its static columns"] if old.static != seen.static_id else []),
        *(["its edges"] if old.edges != seen.edges_id else []),
        *(["its split"] if dict(old.split) != dict(plan.split) else []),
        *([f"{collapse(out, SHOWN_RANGES)} {'leaves' if len(out) == 1 else 'leave'} it"] if out else []),
        *([f"{collapse(over, SHOWN_RANGES)} no longer counts as failed"] if over else []),
    )


def _passed_over(plans: Sequence[DatePlan], wish: Wish) -> list[str]:
    """Dates that were asked for and that nothing is done with, by reason."""
    reasons: dict[str, list[dt.date]] = {}
    for plan in plans if wish.dates else ():
        if plan.date in (wish.dates or ()) and plan.state in ("excluded", "no-dump"):
            reasons.setdefault(plan.reason, []).append(plan.date)
    return [f"{collapse(dates)}: {reason}." for reason, dates in reasons.items()]


def _held(plan: Plan, seen: Observed, known: Sequence[dt.date]) -> list[str]:
    """Dates that are in no split any more, dropped, excluded or gone, and that the frozen statistics still rest on."""
    assert seen.manifest is not None
    moved = seen.manifest.split.get("train", ()) != plan.split.get("train", ())  # then `_moved` tells of such dates
    held = sorted({*seen.merged} - ({*known} - {*(() if moved else plan.in_no_split)}))
    if not held or plan.merge or seen.to_cut:
        return []
    are = "is" if len(held) == 1 else "are"
    return [
        f"The frozen statistics still include {collapse(held)}, which {are} in no split any more; "
        f"--refit-statistics takes {_them(held)} out."
    ]


def moved_split(before: Mapping[str, Ranges], after: Mapping[str, Ranges]) -> list[str]:
    """What of the split is not what the generation has, in words: open and rolling ranges move with the data."""
    if len(after) > 1 and len(set(after.values())) == 1:
        return []  # people are divided, and every date is of every split
    moved = [name for name in SPLITS if before.get(name, ()) != after.get(name, ())]
    changes = [f"{name} {_spelled(before.get(name, ()))} -> {_spelled(after.get(name, ()))}" for name in moved]
    return [f"The split moves: {'; '.join(changes)}."] if changes else []


def _moved(before: Mapping[str, Ranges], after: Mapping[str, Ranges], merge: str) -> list[str]:
    remarks = moved_split(before, after)
    if before.get("train", ()) != after.get("train", ()) and not merge:
        todo = "the frozen statistics are those of the old one, unless --refit-statistics"
        remarks.append(f"The training range changed: {todo}.")
    return remarks


def _spelled(ranges: Ranges) -> str:
    return ", ".join(str(low) if low == high else f"{low}..{high}" for low, high in ranges) or "none"


def change_text(before: int, after: int) -> str:
    """Writes a change of size as `1.2 MB -> 1.3 MB`; in bytes where that would show no difference."""
    texts = size_text(before), size_text(after)
    return " -> ".join(texts if texts[0] != texts[1] else (f"{before:,} B", f"{after:,} B"))


def size_text(num_bytes: int) -> str:
    """Writes a size as `1.2 MB`; MB = 10^6."""
    if num_bytes >= 1e9:
        return f"{num_bytes / 1e9:.1f} GB"
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= 1e5 else f"{num_bytes / 1e3:.1f} kB"
