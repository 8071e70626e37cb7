"""The calendar of dates: a square a date, weeks as columns, years as rows; shade = how many rows, mark = its state."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from dateshard.reports.charts import canvas, legend, short, text
from dateshard.reports.raster import colour
from dateshard.shardstore.errors import counted

CELL, GAP, LEFT, HEAD = 13, 3, 44, 26
MOST_YEARS = 12
MARKS = {  # state -> what is drawn over the square, so that no state rests on colour alone
    "failed": "M3,3L10,10M10,3L3,10",
    "stale": "M2,8Q4.5,4 6.5,6.5T11,5",
    "measured": "M6.5,3V10M3,6.5H10",
    "excluded": "M2,11L11,2",
}


@dataclass(frozen=True, slots=True)
class Square:
    """One date: its state (the part before a parenthesis), why, its split, and its rows (None if not known)."""

    state: str
    reason: str
    split: str
    rows: int | None


def calendar(squares: Mapping[dt.date, Square], title: str) -> str:
    """All squares; at most the last `MOST_YEARS` years (the page says so)."""
    years = sorted({date.year for date in squares})[-MOST_YEARS:]
    if not years:
        return canvas(300, 40, title, [text(0, 24, "no date is known")])
    shown = {date: square for date, square in squares.items() if date.year >= years[0]}
    counts = [square.rows for square in shown.values() if square.rows is not None]
    low, high = min(counts, default=0), max(counts, default=0)
    first, last = _weeks(shown)
    width = LEFT + (last - first + 1) * (CELL + GAP) + 4
    tall = 7 * (CELL + GAP) + HEAD
    parts = []
    for row, year in enumerate(years):
        parts.append(f'<g transform="translate(0,{row * tall})">{_year(year, shown, first, (low, high))}</g>')
    width = max(width, 560)
    bottom = len(years) * tall + 12
    if counts:
        parts.append(legend(LEFT + 220, bottom, short(low), short(high)) + text(LEFT, bottom + 8, "rows of a date"))
    return canvas(width, bottom + 22, title, parts, "wide" if width > 700 else "")


def mark_of(state: str, transform: str = "") -> str:
    """What is drawn over a square in that state: dark on a light rim, to be seen on every shade."""
    if state not in MARKS:
        return ""
    place = f' transform="{transform}"' if transform else ""
    return "".join(f'<path class="mark {css}" d="{MARKS[state]}"{place}/>' for css in ("rim", "ink"))


def key_of(state: str) -> str:
    """A small square with the state's mark, for the legend; nothing for a state without one."""
    mark = mark_of(state.split("(")[0])
    return f'<svg class="sample" viewBox="0 0 {CELL} {CELL}" aria-hidden="true">{mark}</svg>' if mark else ""


def _weeks(shown: Mapping[dt.date, Square]) -> tuple[int, int]:
    """The first and the last column that any year needs."""
    columns = [_column(date) for date in shown]
    return max(min(columns) - 1, 0), max(columns)


def _column(date: dt.date) -> int:
    """Week of the year, Monday first; the days before the first Monday are week 0."""
    return (date.timetuple().tm_yday - 1 + dt.date(date.year, 1, 1).weekday()) // 7


def _year(year: int, squares: Mapping[dt.date, Square], first: int, ends: tuple[int, int]) -> str:
    parts = [text(0, HEAD + 12, str(year), css="label strong")]
    for day, name in ((0, "Mon"), (2, "Wed"), (4, "Fri"), (6, "Sun")):
        if day:
            parts.append(text(LEFT - 8, HEAD + day * (CELL + GAP) + 10, name, anchor="end"))
    for month in range(1, 13):
        begin = dt.date(year, month, 1)
        days = [date for date in squares if (date.year, date.month) == (year, month)]
        if days:
            parts.append(text(_x(max(begin, min(days)), first), HEAD - 8, f"{begin:%b}"))
    dates = sorted(date for date in squares if date.year == year)
    parts += [_square(date, squares[date], first, ends) for date in dates]
    return "".join(parts)


def _x(date: dt.date, first: int) -> float:
    return LEFT + (_column(date) - first) * (CELL + GAP)


def _square(date: dt.date, square: Square, first: int, ends: tuple[int, int]) -> str:
    x, y = _x(date, first), HEAD + date.weekday() * (CELL + GAP)
    rows = counted(square.rows, "row") if square.rows is not None else ""
    label = " · ".join(
        word for word in (f"{date:%Y-%m-%d %a}", square.state, rows, square.split, square.reason) if word
    )
    filled = square.rows is not None
    fill = colour(float(square.rows or 0), *ends) if filled else "none"
    state = square.state.split("(")[0]
    mark = mark_of(state, f"translate({x:g},{y:g})")
    css = f"day {state}" if filled else f"day hollow {state}"
    box = f'<rect class="{css}" x="{x:g}" y="{y:g}" width="{CELL}" height="{CELL}" rx="2.5" fill="{fill}"/>'
    return f"<g><title>{escape(label)}</title>{box}{mark}</g>"
