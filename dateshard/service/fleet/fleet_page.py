"""The page of the judge: of each predictor the curve of misses against replica-hours, over all settings of its dial."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dateshard.reports.charts import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    WIDE,
    canvas,
    figure,
    line,
    nice_marks,
    rulers,
    short,
    text,
)
from dateshard.reports.curves import powers
from dateshard.reports.html import card, page, paragraph, table
from dateshard.reports.page_files import write_page
from dateshard.service.fleet.fleet_judgement import Judgement, verdict
from dateshard.service.fleet.fleet_screen import NUMBERS, remarks, rows_of, terms
from dateshard.service.fleet.replica_hours import CONSTANT, DialSetting

COLOURS = ("#8a5a00", "#7a3b8f", "#2f7d4f", "#b3362c", "#256d8f")
LEAST, MOST = 1e-4, 1.0  # share of misses that is drawn; fewer stand on the lower edge
HEIGHT, ROOM = 340, 150  # and room at the right for the names
TURNS = 2.0  # hours beyond so many times the cheapest matched ones are not drawn
Place = Callable[[float], float]


def write_curves(path: Path, judgement: Judgement, *, chosen_capacity: bool) -> None:
    """Writes the page.

    Raises:
        DiskFullError, OSError: it cannot be written there.
    """
    words = terms(judgement, chosen_capacity=chosen_capacity)
    caption = "<b>requests that wait too long</b>, by replica-hours; lines go over a dial, dots are constant numbers, "
    caption += "rings the settings that were chosen before"
    heads, *rows = rows_of(judgement)
    body = [
        f"<header>{paragraph('requests judge', 'kicker')}<h1>Replicas and misses</h1>"
        f"{paragraph(verdict(judgement), 'lead')}</header>",
        card([figure(curves(judgement), caption)]),
        card([table("Replica-hours and misses with the dial chosen before", heads, rows, numbers=NUMBERS)]),
        f"<footer>{''.join(paragraph(sentence) for sentence in [*remarks(judgement), *words])}</footer>",
    ]
    write_page(path, page("replicas and misses", body).encode(errors="backslashreplace"))


def curves(judgement: Judgement) -> str:
    """Draws the curves of misses against replica-hours as SVG."""
    plot, inner = HEIGHT - BOTTOM - 18, WIDE - LEFT - RIGHT - ROOM
    chosen = [*judgement.chosen.values(), *judgement.at_matched_misses().values()]
    matched = [setting.hours for setting in chosen if setting]
    low, high = judgement.lowest.hours * 0.8, TURNS * max([*matched, judgement.lowest.hours])
    high = min(high, max(setting.hours for each in judgement.curves.values() for setting in each) * 1.02)
    axis = powers(LEAST, MOST, TOP, plot)

    def across(hours: float) -> float:
        return LEFT + (hours - low) / (high - low) * inner

    parts = [rulers(axis, LEFT, LEFT + inner), f'<path class="axis" d="M{LEFT},{plot + 4:g}h{inner:g}"/>']
    for k, mark in enumerate(nice_marks(low, high, 8)):
        words = f"{short(mark)} replica-hours" if not k else short(mark)
        parts.append(text(across(mark), plot + 20, words, anchor="start" if not k else "middle"))
    x, y = across(judgement.lowest.hours), axis.place(judgement.most_missed or LEAST)
    parts.append(f'<path d="M{x:.1f},{TOP}V{plot + 4:g}" stroke="#5c636b" stroke-dasharray="2 3"/>')
    parts.append(text(x + 4, TOP + 8, "zero-lag minimum", css="label small"))
    parts.append(f'<path d="M{LEFT},{y:.1f}h{inner:g}" stroke="#b3362c" stroke-dasharray="5 4"/>')
    for number, (name, each) in enumerate(judgement.curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        shown = sorted((setting.hours, setting.missed) for setting in each if low <= setting.hours <= high)
        points = [(across(hours), axis.place(max(missed, LEAST))) for hours, missed in shown]
        drawn = _dots(points, colour) if name == CONSTANT else line(points, "curve")  # no half replica runs
        parts.append(f'<g stroke="{colour}">{drawn}{_ring(judgement.chosen[name], across, axis.place)}</g>')
        below = TOP + 14 + 20 * number
        parts.append(f'<path d="M{LEFT + inner + 12},{below}h18" stroke="{colour}" stroke-width="2.5"/>')
        parts.append(text(LEFT + inner + 36, below + 4, name))
    return canvas(WIDE, HEIGHT, "misses against replica-hours", parts, "wide")


def _ring(setting: DialSetting | None, across: Place, place: Place) -> str:
    if setting is None:
        return ""
    x, y = across(setting.hours), place(max(setting.missed, LEAST))
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="none" stroke-width="2.5"/>'


def _dots(points: list[tuple[float, float]], colour: str) -> str:
    return "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in points)
