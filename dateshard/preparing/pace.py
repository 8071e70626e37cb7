"""How fast preprocess was on this machine: what `plan` says of time rests on earlier runs, or it says nothing.

`data/pace/<dataset>.json` holds, of each of the two acts, the smallest and the largest run so far. It is a cache of the
front door: it belongs to the machine, not to the store, and losing it costs an estimate.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dateshard.places import data_folder
from dateshard.shardstore.disk.durable import replace_file

if TYPE_CHECKING:
    from dateshard.pipeline.progress_events import Event

ACTS = ("measure", "normalise")


@dataclass(frozen=True, slots=True)
class TimedAct:
    """One act over many dates. `work` is bytes of dumps for measuring, dates for normalising (all of one size)."""

    work: int
    dates: int
    seconds: float
    workers: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds, and the dates of the largest remembered run that they rest on.

    Attributes:
        at_most: so little was never timed: the smallest remembered run stands for it.
    """

    seconds: float
    dates: int
    at_most: bool


def watch(dataset: str, events: Iterable[Event], num_workers: int) -> Iterator[Event]:
    """Passes events through, and remembers how long both acts took when all ended well."""
    from dateshard.pipeline import progress_events as e  # an estimate should not wait for what only preparing needs

    began = middle = time.monotonic()
    dates, sizes = dict.fromkeys(ACTS, 0), 0
    for event in events:
        match event:
            case e.Planned():
                began = middle = time.monotonic()
            case e.DateDone():
                dates[event.act] = dates.get(event.act, 0) + 1
                if event.act == "measure":
                    sizes, middle = sizes + event.size, time.monotonic()
            case e.Finished():
                spent = {"measure": middle - began, "normalise": time.monotonic() - middle}
                work = {"measure": sizes, "normalise": dates["normalise"]}
                _remember(
                    dataset,
                    {a: TimedAct(work[a], dates[a], round(spent[a], 3), num_workers) for a in ACTS if work[a] > 0},
                )
        yield event


def _file(dataset: str) -> Path:
    return data_folder() / "pace" / f"{dataset}.json"


def _remember(dataset: str, new: dict[str, TimedAct]) -> None:
    """Keeps the smallest and the largest run of each act; of equal ones the newest."""
    known = _recall(dataset)
    for act, run in new.items():
        runs = sorted([run, *(old for old in known.get(act, []) if old.work != run.work)], key=lambda r: r.work)
        known[act] = [runs[0], runs[-1]] if len(runs) > 1 else runs
    path = _file(dataset)
    data = json.dumps({act: [asdict(run) for run in runs] for act, runs in known.items()}).encode()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data, durable=False)


def _recall(dataset: str) -> dict[str, list[TimedAct]]:
    try:
        content = json.loads(_file(dataset).read_bytes())
        return {act: [TimedAct(**row) for row in content[act] if _sane(row)] for act in ACTS if act in content}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _sane(row: dict[str, float]) -> bool:
    return row["work"] > 0 and row["seconds"] >= 0 and row["workers"] > 0


def estimate(dataset: str, work: dict[str, int], num_workers: int) -> Estimate | None:
    """Seconds that both acts would take; None where an act that is needed was never timed.

    Between the two remembered runs a straight line; beyond the largest in proportion; never less than the smallest
    took, because starting workers takes its time.
    """
    known, seconds, dates, at_most = _recall(dataset), 0.0, 0, False
    for act, amount in work.items():
        if amount <= 0:
            continue
        if not (runs := known.get(act)):
            return None
        scaled = [(run.work, run.seconds * run.workers / num_workers) for run in runs]
        seconds += _along(scaled, amount)
        dates, at_most = max(dates, runs[-1].dates), at_most or amount < runs[0].work
    return Estimate(seconds, dates, at_most) if dates else None


def _along(points: list[tuple[int, float]], amount: int) -> float:
    (low, low_seconds), (high, high_seconds) = points[0], points[-1]
    if amount >= high:
        return high_seconds * amount / high
    if amount <= low:
        return low_seconds
    share = (amount - low) / (high - low)
    return low_seconds + share * (high_seconds - low_seconds)
