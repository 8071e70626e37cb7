"""A split from end to end, as sections of a run's page: truth and forecast of a node that is chosen, and residuals.

All nodes that can be chosen stand in the page, each value in a byte (`dateshard.trainer.assessment.period`). The first
is drawn here; the page's script draws another in its place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from dateshard.judging.verdict import Verdict
from dateshard.reports import charts
from dateshard.reports.charts import LEFT, RIGHT, TOP, WIDE, DateColumns
from dateshard.reports.curves import keys
from dateshard.reports.forecasts import HOUR, LocalTimes
from dateshard.reports.html import card, pair, paragraph
from dateshard.shardstore.errors import counted
from dateshard.shardstore.scaling.transform import Floats
from dateshard.shardstore.times.calendar import NANOSECONDS
from dateshard.trainer.assessment.period import WORST, unpacked

HEIGHT, PLOT = 240, 196
SAMPLES = ("key b bars", "stroke a")  # of a histogram's bars and of the line over them
Period = Mapping[str, Any]


def period_parts(verdict: Verdict, timezone: str) -> list[str]:
    """The section of the whole period; nothing where no time goes by."""
    period = verdict.period
    if period is None or not period["nodes"]:
        return []
    columns, first = _columns(period, timezone), period["nodes"][0]
    figures = []
    for name in _targets(verdict, period):
        series = period["series"][name]
        at = f'at <span class="chosen">{escape(first)}</span>, raw units.'
        drawn = _chart(series, columns, f"Truth and forecast of {name} over the whole {verdict.split} period")
        figures.append(charts.figure(drawn, f"<b>{escape(name)}</b> {at}"))
    options = "".join(f"<option>{escape(node)}</option>" for node in period["nodes"])
    chooser = f'<p class="choose" hidden><label>Node <select>{options}</select></label></p>'
    times = escape("|".join(columns.labels), quote=True)
    inner = "".join([_about(verdict, period), chooser, *figures])
    return [f'<div class="card period" data-times="{times}">{inner}</div>']


def _about(verdict: Verdict, period: Period) -> str:
    model = verdict.row()
    banded = any(len(unpacked(each, period["columns"])) > 2 for own in period["series"].values() for each in own)
    band = " The band is the model's interval." if banded else ""
    named = keys([("truth", "ink"), (model["name"] if model else "forecast", "b")])
    joined = "Forecasts of windows a horizon apart, joined: each step is forecast once."
    each = f"A point is the mean of {_span(period['width_ns'] / NANOSECONDS)}."
    words = f"{joined}{band} {each} {_left_out(period, verdict)} {_TOLD}"
    return f'<p class="soft">{named}. {escape(words)}</p>'


_TOLD = "Figures under the pointer are exact to a 250th of the chart's height."


def _span(length: float) -> str:
    for size, noun in ((24 * HOUR, "day"), (HOUR, "hour"), (60, "minute"), (1, "second")):
        if length >= size and length % size == 0:
            return counted(round(length / size), noun)
    return f"{length:.3g} s"


def _left_out(period: Period, verdict: Verdict) -> str:
    """Which nodes and targets can be looked at, and which cannot."""
    chosen, all_nodes = len(period["nodes"]), period["of_nodes"]
    if chosen == all_nodes:
        words = "Every node can be chosen, the one with the largest error first."
    else:
        words = (
            f"{chosen:,} of {counted(all_nodes, 'node')} can be chosen: the {WORST} with the largest error first, then some "
            "from the next to the smallest, evenly by rank"
        )
        words += f" among {period['followed']:,} that were followed." if period["followed"] < all_nodes else "."
    missing = len(verdict.document["features"]) - len(period["series"])
    if missing > 0:
        words += f" {counted(missing, 'more target')} not drawn."
    categories = verdict.document["categorical"]
    return words + (f" Categories have no such chart: {', '.join(categories)}." if categories else "")


def _columns(period: Period, timezone: str) -> DateColumns:
    first, width = period["first_ns"] / NANOSECONDS, period["width_ns"] / NANOSECONDS
    times = LocalTimes(first, width, timezone, period["columns"])
    form, at = ("%a %Y-%m-%d", 0.5) if width >= 24 * HOUR else ("%a %Y-%m-%d %H:%M", 0.0)
    labels = tuple(f"{times.local(k + at):{form}}" for k in range(times.count))  # a day may begin at 23:00 or 1:00
    return DateColumns(labels, tuple((round(mark), words) for mark, words in times.marks()), ())


def _chart(series: Sequence[Mapping[str, Any]], columns: DateColumns, title: str) -> str:
    """Draws the first node; all of them stand in the sheet over it, for the page's script."""
    width, first = WIDE - LEFT - RIGHT, series[0]
    values_SC = unpacked(first, columns.count)
    axis = charts.scale_of_values(first["low"], first["high"], TOP, PLOT)
    xs = [LEFT + (k + 0.5) * width / columns.count for k in range(columns.count)]
    ys = [[axis.place(v) for v in row.tolist()] for row in values_SC]
    parts = [
        f'<g class="scale">{charts.rulers(axis, LEFT, WIDE - RIGHT)}</g>',
        charts.band(xs, ys[2], ys[3], "b") if len(ys) > 2 else '<path class="b band" d=""/>',
        f'<path class="b line" d="{_path(xs, ys[1])}"/>',
        f'<path class="ink line" d="{_path(xs, ys[0])}"/>',
        charts.below(columns, LEFT, width, PLOT + 6),
    ]
    packed = escape("|".join(_spelt(each) for each in series), quote=True)
    place = f'x="{LEFT}" y="{TOP}" width="{width}" height="{PLOT - TOP}"'
    return charts.canvas(
        WIDE, HEIGHT, title, [*parts, f'<rect class="hit" {place} data-series="{packed}"/>'], "wide over"
    )


def _path(xs: Sequence[float], ys: Sequence[float]) -> str:
    """A line with gaps; a point that stands alone is a stroke of no length, which round ends make a dot."""
    path, drawing = [], False
    for x, y in zip(xs, ys, strict=True):
        if math.isnan(y):
            drawing = False
            continue
        path.append(f"L{x:.1f},{y:.1f}" if drawing else f"M{x:.1f},{y:.1f}h.1")
        drawing = True
    return "".join(path)


def _spelt(series: Mapping[str, Any]) -> str:
    """A node as the script reads it: `low;high;mark~text~mark~text;bytes`."""
    low, high = series["low"], series["high"]
    marks = charts.scale_of_values(low, high, TOP, PLOT).marks
    named = "~".join(f"{mark:.6g}~{words}" for mark, words in marks)
    return f"{low!r};{high!r};{named};{series['packed']}"


def residual_parts(verdict: Verdict, timezone: str) -> list[str]:
    """The section of the residuals; nothing where there are none."""
    period, model = verdict.period, verdict.row()
    if period is None or model is None:
        return []
    bars = period["histograms"]
    known = {name: bars[name] for name in verdict.document["features"] if bars.get(name)}
    if not known:
        return []
    over_time = [_over_time(period, name, timezone) for name in known if name in period["residuals"]]
    intro = paragraph("Forecast less truth, raw units, of all windows, nodes and target steps.", "soft")
    return [card([intro, pair(*(_histogram(name, bars, model["name"]) for name, bars in known.items())), *over_time])]


def _targets(verdict: Verdict, period: Period) -> list[str]:
    """Lists the targets that were followed, as the other sections have them: what is kept is ordered by name."""
    return [name for name in verdict.document["features"] if name in period["series"]]


def _histogram(name: str, bars: Mapping[str, Any], model: str) -> str:
    whose = sorted(bars["shares"].items(), key=lambda item: item[0] != model)
    series = [(who, css, _floats(own)) for (who, own), css in zip(whose, ("b", "a"), strict=False)]
    samples = [f'<span class="{css}"></span>{escape(who)}' for (who, *_), css in zip(series, SAMPLES, strict=False)]
    outside = f" {100 * bars['outside']:.2g} % of the model's lie outside." if bars["outside"] >= 5e-4 else ""
    drawn = charts.histogram(_floats(bars["edges"]), series, f"{name}: histogram of residuals")
    return charts.figure(drawn, f"<b>{escape(name)}</b>, residuals, raw units. {' '.join(samples)}.{outside}")


def _over_time(period: Period, name: str, timezone: str) -> str:
    own = period["residuals"][name]
    width, count = period["width_ns"] * own["columns"], len(own["mean"])
    columns = _columns({**period, "width_ns": width, "columns": count}, timezone)
    mean, spread = _floats(own["mean"]), _floats(own["std"])
    drawn = charts.over_time(columns, mean, mean - spread, mean + spread, f"{name}: residuals over time", "b")
    what = (
        f"Mean residual of the model over {_span(width / NANOSECONDS)}, and a standard deviation around it, raw units."
    )
    return charts.figure(drawn, f"<b>{escape(name)} over time.</b> {what}")


def _floats(values: Sequence[float | None]) -> Floats:
    return np.asarray(values, dtype=np.float64)  # of None it makes NaN
