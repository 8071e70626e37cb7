"""The page of a backtest: how the model and the best baseline did at each origin, and how far the origins differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from dateshard.documents.backtesting import BacktestDocument, OriginRow
from dateshard.judging.backtesting.backtest_scores import NUMBERS
from dateshard.judging.backtesting.backtest_screen import sentences_of, unit_of_gain
from dateshard.judging.sentences import ERRORS
from dateshard.reports.charts import (
    HALF,
    LEFT,
    RIGHT,
    TOP,
    Axis,
    band,
    canvas,
    figure,
    hover,
    line,
    rulers,
    scale_of_values,
    text,
)
from dateshard.reports.curves import keys
from dateshard.reports.html import card, page, pair, paragraph, section, table, tiles
from dateshard.reports.page_files import write_page
from dateshard.shardstore.errors import counted
from dateshard.terminal.screen import number

HEIGHT, PLOT = 230, 186
ROOM = 64.0  # that a date below the axis takes


def write_backtest_page(document: BacktestDocument) -> None:
    """Writes the page to where the document says, at once or not at all.

    Raises:
        DiskFullError, OSError: it cannot be written there.
    """
    assert document["page"] is not None, "only a dry run has no page"
    write_page(Path(document["page"]), backtest_report(document).encode(errors="backslashreplace"))


def backtest_report(document: BacktestDocument) -> str:
    """The whole page."""
    rows = document["origins"]
    apart = f"{counted(len(rows), 'origin')}, {counted(document['every'], 'date')} apart"
    lead = f"{document['model']} on {document['dataset']}: {apart}"
    won = document["summary"] is not None and document["summary"]["beats"]
    css = "verdict" if won else "verdict alarm"
    said = "".join(f'<p class="{css}">{escape(sentence)}</p>' for sentence in sentences_of(document)[-1:])
    head = f"{paragraph('Backtest', 'kicker')}<h1>{escape(document['name'])}</h1>{paragraph(lead, 'lead')}"
    body = [
        f"<header>{head}{tiles(_tiles(document))}{said}</header>",
        section("spread", "Spread", [card([pair(_scores(document), _gains(document))])]),
        section("origins", "Origins", [card([_table(document)])]),
    ]
    foot = "Each origin has statistics, nodes and categories of its own training dates, and knows no date after its test dates."
    return page(f"{document['name']}: the backtest", [*body, f"<footer>{paragraph(foot)}</footer>"])


def _tiles(document: BacktestDocument) -> list[tuple[str, str, bool]]:
    summary = document["summary"]
    if summary is None:
        return []
    score, gain, unit = summary["score"], summary["gain"]["mean"], unit_of_gain(document)
    cells = [
        (number(score["mean"]), f"{_measure(document)}, mean", False),
        (number(score["deviation"]), "its standard deviation", False),
        (number(summary["baseline_score"]["mean"]), "best baseline, mean", False),
    ]
    if gain is not None:
        cells.append((f"{100 * gain:+.1f} {unit}", "gain over it, mean", gain < 0))
    wins = f"{summary['beats']} of {summary['judged']}"
    return [*cells, (wins, "origins at which it beats every baseline", not summary["beats"])]


def _measure(document: BacktestDocument) -> str:
    name, scaled = document["measure"], document["measure"] in NUMBERS
    return f"test {NUMBERS[name]}, scaled" if scaled else f"test {name}"


def _scores(document: BacktestDocument) -> str:
    """The score of model and best baseline at each origin; the band is the mean with one deviation on either side."""
    rows, summary = document["origins"], document["summary"]
    model, rival = ([_finite(value) for value in values] for values in _both(rows))
    spread = summary["score"] if summary else None
    middle, wide = (_finite(spread[key]) if spread else math.nan for key in ("mean", "deviation"))
    ends = [middle - wide, middle + wide]
    axis = _axis([*model, *rival, *ends])
    xs = _places(len(rows))
    edges = [LEFT, HALF - RIGHT]
    parts = [rulers(axis, *edges)]
    parts.append(band(edges, [axis.place(ends[0])] * 2, [axis.place(ends[1])] * 2, "a"))
    parts.append(line([(x, axis.place(middle)) for x in edges], "a thin"))
    for values, css in ((rival, "c dash"), (model, "a")):
        ys = [axis.place(value) for value in values]
        parts += [line(list(zip(xs, ys, strict=True)), css), _dots(xs, ys, css.split()[0])]
    labels = [
        f"tested from {_begin(row)}: model {number(row['score'])}, {row['best_baseline'] or 'no baseline'} "
        f"{number(row['baseline_score'])}"
        for row in rows
    ]
    parts += [_below(rows, xs), hover(LEFT, 0, HALF - LEFT - RIGHT, PLOT, labels)]
    names = keys([("model", "a"), ("best baseline", "c dash")])
    caption = f"<b>{_measure(document)}</b> by the first test date; shaded: mean and standard deviation {names}"
    return figure(canvas(HALF, HEIGHT, "score at each origin", parts), caption)


def _both(rows: Sequence[OriginRow]) -> tuple[list[float | None], list[float | None]]:
    return [row["score"] for row in rows], [row["baseline_score"] for row in rows]


def _gains(document: BacktestDocument) -> str:
    """The gain over the best baseline at each origin, with its interval."""
    rows = document["origins"]
    lows, gains, highs = ([100 * _finite(row[key]) for row in rows] for key in ("low", "gain", "high"))
    axis = _axis([0.0, *lows, *gains, *highs])
    xs = _places(len(rows))
    parts = [rulers(axis, LEFT, HALF - RIGHT)]
    parts.append(line([(LEFT, axis.place(0.0)), (HALF - RIGHT, axis.place(0.0))], "ink"))
    for x, low, high in zip(xs, lows, highs, strict=True):
        if math.isfinite(low) and math.isfinite(high):
            parts.append(line([(x, axis.place(low)), (x, axis.place(high))], "a"))
    parts.append(_dots(xs, [axis.place(gain) for gain in gains], "a"))
    labels = [f"tested from {_begin(row)}: {_gain(row, document)}" for row in rows]
    parts += [_below(rows, xs), hover(LEFT, 0, HALF - LEFT - RIGHT, PLOT, labels)]
    error = ERRORS.get(document["measure"])
    unit = f"% of {error} less" if error else "points of accuracy more"
    caption = f"<b>Gain over the best baseline</b>, {unit}, with its 95 % interval; above 0 the model is better"
    return figure(canvas(HALF, HEIGHT, "gain at each origin", parts), caption)


def _gain(row: OriginRow, document: BacktestDocument) -> str:
    """Writes `+1.5 % (0.9 to 2.1)`."""
    if row["gain"] is None:
        return "–"
    between = (
        f" ({100 * row['low']:.1f} to {100 * row['high']:.1f})"
        if row["low"] is not None and row["high"] is not None
        else ""
    )
    return f"{100 * row['gain']:+.1f} {unit_of_gain(document)}{between}"


def _finite(value: float | None) -> float:
    return math.nan if value is None or not math.isfinite(value) else value


def _axis(values: Sequence[float]) -> Axis:
    """An axis around the finite values, with some room at both ends."""
    known = [value for value in values if math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    room = 0.08 * (high - low) or abs(high) * 0.1 or 0.5
    axis = scale_of_values(low - room, high + room, TOP, PLOT)
    return Axis(axis.marks, lambda value: math.nan if math.isnan(value) else axis.place(value))


def _places(count: int) -> list[float]:
    width = HALF - LEFT - RIGHT
    return [LEFT + (k + 0.5) * width / count for k in range(count)]


def _dots(xs: Sequence[float], ys: Sequence[float], css: str) -> str:
    pairs = ((x, y) for x, y in zip(xs, ys, strict=True) if not math.isnan(y))
    return "".join(f'<circle class="{css} dot" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in pairs)


def _below(rows: Sequence[OriginRow], xs: Sequence[float]) -> str:
    """The axis of origins with the first test date of as many as there is room for."""
    every = max(1, math.ceil(len(rows) * ROOM / (HALF - LEFT - RIGHT)))
    parts = [f'<path class="axis" d="M{LEFT},{PLOT + 4}h{HALF - LEFT - RIGHT}"/>']
    for k in range(len(rows) - 1, -1, -every):
        parts.append(f'<path class="axis" d="M{xs[k]:.1f},{PLOT + 4}v4"/>')
        parts.append(text(xs[k], PLOT + 20, _begin(rows[k]), anchor="middle"))
    return "".join(parts)


def _begin(row: OriginRow) -> str:
    return row["split"]["test"][0][0]


def _table(document: BacktestDocument) -> str:
    heads = ["Tested on", "Trained on", "Windows", "Model", "Best baseline", "", "Gain (95 %)", ""]
    lines = []
    for row in document["origins"]:
        tested, trained = (", ".join("..".join(ends) for ends in row["split"][name]) for name in ("test", "train"))
        windows = "–" if row["windows"] is None else f"{row['windows']:,}"
        rival = row["best_baseline"] or "–"
        scores = number(row["score"]), rival, number(row["baseline_score"])
        lines.append([tested, trained, windows, *scores, _gain(row, document), row["outcome"] or "–"])
    return table(f"{_measure(document)}, of each origin", heads, lines, numbers=(2, 3, 5, 6))
