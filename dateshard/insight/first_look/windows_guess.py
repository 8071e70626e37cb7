"""The split and the window that fit a number of dates and a step."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from dateshard.insight.first_look.layout_guess import DAY, Layout
from dateshard.shardstore.errors import counted

SHARE = 0.15  # of the dates each of validation and test has
MINUTE, HOUR = 60 * 10**9, 3600 * 10**9
USUAL = (  # the longest step, and the history and horizon that people take for it, in nanoseconds
    (MINUTE - 1, 5 * MINUTE, MINUTE, "a minute ahead, from five"),
    (10 * MINUTE, 2 * HOUR, HOUR, "an hour ahead, from two"),
    (HOUR - 1, DAY, 6 * HOUR, "six hours ahead, from a day"),
    (DAY - 1, 7 * DAY, DAY, "a day ahead, from a week"),
    (DAY, 28 * DAY, 7 * DAY, "a week ahead, from four"),
)
SHORTENED = "as long as each split leaves room for"
RECORDS = 50  # of a window of events, at most
LEAST_ANCHORS = 10  # in training


@dataclass(frozen=True, slots=True, kw_only=True)
class GuessedWindows:
    """A split and a window.

    Attributes:
        split: of `pipeline`, none where the default does. window: of `trainer`.
        seen: {what: from what it was guessed}. doubts: (what is unsure, which key to change).
    """

    split: dict[str, Any]
    window: dict[str, Any]
    seen: dict[str, str] = field(default_factory=dict)
    doubts: tuple[tuple[str, str], ...] = ()


def guess_windows(layout: Layout, dates: Sequence[dt.date], *, exact: bool) -> GuessedWindows:
    """Guesses how dates are divided, and how long windows are.

    Args:
        dates: those that there are, in order. exact: all of them were seen; else the days from the first to the last.
    """
    if layout.name == "table":
        why = "shares of the rows, by a hash of what each holds"
        return GuessedWindows(split={"train": 0.7, "validation": 0.1, "test": 0.2}, window={}, seen={"split": why})
    count = len(dates)
    if layout.name == "events" and "cut" in layout.keys and layout.num_names >= 5:
        by, names = layout.keys["cut"], layout.num_names
        split: dict[str, Any] = {"by": by, "train": 0.6, "validation": 0.2, "test": 0.2}
        seen = {"split": f"{names} values of {by}, each on one side alone"}
        return GuessedWindows(split=split, window=_records(layout, dates, 1), seen=seen)
    held = max(1, round(SHARE * count))
    split, sizes = _rolling(count, held)
    seen = {"split": counted(count, "date") + ("" if exact else ", counted from the first to the last")}
    doubts = [] if exact else [(f"not all rows were read: {count} dates are the days between", "pipeline.split")]
    if count < 3:
        lacking = "a test set" if count == 2 else "validation and test sets"
        doubts.append((f"{counted(count, 'date is', 'dates are')} too few for {lacking}", "pipeline.split"))
    if layout.name == "events":
        return GuessedWindows(split=split, window=_records(layout, dates, held), seen=seen, doubts=tuple(doubts))
    window, why = _steps(layout, dates, sizes)
    if len(dates) > 1 and (dates[-1] - dates[0]).days >= len(dates) and why.startswith(SHORTENED):
        lacking = counted((dates[-1] - dates[0]).days + 1 - len(dates), "date is", "dates are")
        doubts.append((f"{lacking} missing between the others, and windows reach over none", "trainer.window"))
    return GuessedWindows(split=split, window=window, seen={**seen, "window": why}, doubts=tuple(doubts))


def _rolling(count: int, held: int) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Returns (ranges that move with the data, how many dates train, validation and test have)."""
    if count == 1:
        return {}, (1,)
    if count == 2:
        return {"train": "..latest-1", "validation": "last:1"}, (1, 1)
    validation = "latest-1" if held == 1 else f"latest-{2 * held - 1}..latest-{held}"
    split = {"train": f"..latest-{2 * held}", "validation": validation, "test": f"last:{held}"}
    return split, (count - 2 * held, held, held)


def _steps(layout: Layout, dates: Sequence[dt.date], sizes: Sequence[int]) -> tuple[dict[str, Any], str]:
    """The usual window of a step, halved until each split has windows."""
    _, long, ahead, why = next((row for row in USUAL if layout.step <= row[0]), USUAL[-1])
    history, horizon = max(1, long // layout.step), max(1, ahead // layout.step)
    usual = history, horizon
    while (history > 1 or horizon > 1) and not _fits(dates, sizes, DAY // layout.step, history, horizon):
        history, horizon = (history // 2, horizon) if history > horizon else (history, max(1, horizon // 2))
    if (history, horizon) != usual:
        why = SHORTENED
    return {"history": history, "horizon": horizon}, f"{why}: {history} and {horizon} steps"


def _fits(dates: Sequence[dt.date], sizes: Sequence[int], a_date: int, history: int, horizon: int) -> bool:
    """Whether each split has anchors, whose windows cross no missing date."""
    anchors, begin, number = [0] * len(sizes), 0, 0
    border = [sum(sizes[: k + 1]) for k in range(len(sizes))]
    for place, date in enumerate(dates):
        if place and (date - dates[place - 1]).days != 1:
            begin = place
        number = next(k for k, end in enumerate(border) if place < end)
        first = max(history, (max(begin, border[number - 1] if number else 0) - begin) * a_date)
        last = (place + 1 - begin) * a_date - horizon
        anchors[number] += max(0, min(a_date, last - first + 1))
    return anchors[0] >= min(LEAST_ANCHORS, len(dates)) and all(anchors)


def _records(layout: Layout, dates: Sequence[dt.date], held: int) -> dict[str, Any]:
    """A window of events, which a date or a cut has room for."""
    joined = "cut" not in layout.keys and all((b - a).days == 1 for a, b in pairwise(dates))
    room = layout.records * (held if joined else 1)
    return {"history": max(1, min(RECORDS, room // 4)), "horizon": 1}
