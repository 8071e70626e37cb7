"""A dataset's dates as a calendar: a year a block, a month a line, a letter or sign a day."""

from __future__ import annotations

import calendar
import datetime as dt
from collections.abc import Iterable, Iterator, Sequence

from dateshard.pipeline.planning.plan import DatePlan
from dateshard.terminal.screen import Screen

RULER = "1   5    10   15   20   25   30"
SIGNS = {  # state: (sign, colour as in ANSI, what it says)
    "fresh": (".", "32", "fresh"),
    "stale": ("s", "33", "stale"),
    "failed": ("F", "1;31", "failed"),
    "missing": ("m", "35", "missing"),
    "measured": ("+", "36", "measured, no shard yet"),
    "gone": ("k", "34", "dump gone, shard kept"),
    "no-dump": ("-", "2", "no dump"),
    "excluded": ("x", "2", "excluded"),
}


def show_calendar(screen: Screen, dates: Sequence[DatePlan], committed: Iterable[dt.date]) -> None:
    """Years with dates, oldest first, and a legend with counts. Reads the same without colour; 38 columns wide."""
    kept = set(committed)
    kinds = {plan.date: _kind(plan, kept) for plan in dates}
    if not kinds:
        screen.tell("no dates")
        return
    first, last = min(kinds), max(kinds)
    years = {date.year for date in kinds}
    for year in range(first.year, last.year + 1):
        if year in years:
            for line in _year(screen, year, kinds, first, last):
                screen.draw(line)
        elif year - 1 in years:
            screen.draw(f"{year}{'' if year + 1 in years else '..'}: no dates\n")
    holes = sum(1 for day in range(first.toordinal(), last.toordinal()) if dt.date.fromordinal(day) not in kinds)
    for name, (sign, colour, text) in SIGNS.items():
        count = sum(1 for kind in kinds.values() if kind == name) + (holes if name == "no-dump" else 0)
        if count:
            screen.draw(f"  {screen.paint(sign, colour)}  {count:>5,}  {text}")


def _kind(plan: DatePlan, committed: set[dt.date]) -> str:
    state = plan.state.split("(")[0]
    return "gone" if state == "no-dump" and plan.date in committed else state


def _year(screen: Screen, year: int, kinds: dict[dt.date, str], first: dt.date, last: dt.date) -> Iterator[str]:
    yield f"{year}   {RULER}"
    for month in range(1, 13):
        days = [dt.date(year, month, day + 1) for day in range(calendar.monthrange(year, month)[1])]
        if days[-1] < first or days[0] > last:
            continue
        cells = [_cell(screen, kinds.get(day, "no-dump")) if first <= day <= last else " " for day in days]
        yield f"  {calendar.month_abbr[month]}  {''.join(cells)}".rstrip()
    yield ""


def _cell(screen: Screen, kind: str) -> str:
    sign, colour, _ = SIGNS[kind]
    return screen.paint(sign, colour)
