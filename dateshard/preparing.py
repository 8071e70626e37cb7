"""What preprocess shows as it goes, its last words, and both as a document."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from dateshard.screen import Screen, counted, seconds, size
from dateshard.states import alike, likeness
from pipeline import events as e
from shardstore.calendar import collapse

if TYPE_CHECKING:
    from dateshard.documents import AllRows, PreprocessDocument
    from shardstore.manifest import Manifest


def _tell_provisional(screen: Screen, manifest: Manifest) -> None:
    if manifest.provisional:
        screen.tell(f"provisional: the statistics lack {collapse(manifest.provisional)}, which failed")


def follow(screen: Screen, dataset: str, events: Iterable[e.Event]) -> e.Finished:
    """Shows the events of one preprocess and returns the last."""
    failed: dict[dt.date, str] = {}
    try:
        return _follow(screen, dataset, events, failed)
    except BaseException:
        screen.end_bar()
        _tell_alike(screen, failed)
        raise


def _tell_alike(screen: Screen, failed: Mapping[dt.date, str]) -> None:
    """How often each failure came that was told once."""
    for dates, reason in alike(failed):
        if len(dates) > 1:
            screen.tell(f"{len(dates)} dates failed alike: {collapse(dates)}: {reason}")


def _follow(screen: Screen, dataset: str, events: Iterable[e.Event], failed: dict[dt.date, str]) -> e.Finished:
    bar, finished, changed, told = None, None, False, set[str]()
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
                todo = len(event.plan.to_measure) + len(event.plan.to_normalise) + len(event.plan.to_store)
                if todo:
                    measure = counted(len(event.plan.to_measure), "date")
                    work = f"{measure} to measure, {len(event.plan.to_normalise)} to normalise"
                    work += f", {len(event.plan.to_store)} to store in other formats" if event.plan.to_store else ""
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
                failed[event.date] = str(event.error)
                if (kind := likeness(event.date, str(event.error))) not in told:  # the others are counted at the end
                    (bar.print if bar else screen.tell)(f"failed  {event.date}  {event.error}")
                told.add(kind)
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
    done = finished.measured + finished.written + finished.unchanged + finished.stored
    if not done and not finished.failed:
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
    if finished.stored:
        wrote = f"{counted(finished.stored, 'date')} stored in other formats, {wrote}"
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
        _tell_alike(screen, {date: str(error) for date, error in finished.failed.items()})
        screen.tell(
            f"{len(finished.failed)} failed: {collapse(finished.failed)}. Mend the dumps, then run the same command again."
        )


def finished_to_json(finished: e.Finished) -> PreprocessDocument:
    """`preprocess --json`."""
    return {
        "generation": finished.generation,
        "dates": len(finished.manifest.dates) if finished.manifest else 0,
        "measured": finished.measured,
        "written": finished.written,
        "unchanged": finished.unchanged,
        "stored": finished.stored,
        "rows": cast("AllRows", finished.rows),
        "failed": {str(d): {"message": str(error), "kind": error.kind} for d, error in finished.failed.items()},
        "seconds": round(finished.seconds, 3),
    }
