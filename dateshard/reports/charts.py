"""Charts: data -> SVG text. Colours and fonts come from the page's style (classes `a`, `b`, `axis`, `grid`, `label`).

Every chart is a <figure> with a <figcaption>, and an SVG whose <title> says what it shows. Sizes are in SVG units, which
are pixels on a wide screen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dateshard.reports.raster import picture, ramp, shades
from dateshard.shardstore.scaling.transform import Floats

WIDE, HALF = 1040, 500
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 10, 26
NAME_ROOM, NAME_LETTERS = 13.0, 14  # of a line's name beside its end
MANY_POINTS = 200  # of a path, from which on it is written shorter
Mapper = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Axis:
    """Marks along an axis: (value, text), and which way values go to places."""

    marks: tuple[tuple[float, str], ...]
    place: Mapper


@dataclass(frozen=True, slots=True)
class DateColumns:
    """The columns of a chart over time.

    Attributes:
        labels: of each column, for hovering.
        marks: (column, text) below the axis.
        brackets: (first column, last column, text) of the splits.
    """

    labels: tuple[str, ...]
    marks: tuple[tuple[int, str], ...]
    brackets: tuple[tuple[int, int, str], ...]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.labels)


def short(value: float) -> str:
    """A figure of at most four digits: `0.25`, `1,234`, `1.2M`."""
    if not math.isfinite(value):
        return "–"
    size, value = abs(value), value + 0.0  # no negative zero
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if size >= factor:
            return f"{value / factor:.3g}{unit}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if size >= 1e-4 or not size else f"{value:.1e}"


def nice_marks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers inside [low, high], about `count` of them."""
    width = high - low
    if not (math.isfinite(width) and width > 0):
        return [low]
    rough = width / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [step * k + 0.0 for k in range(first, math.floor(high / step + 1e-9) + 1)][:20]


def scale_of_values(low: float, high: float, top: float, bottom: float, count: int = 4) -> Axis:
    """A vertical axis from `bottom` (low) to `top` (high)."""
    width = (high - low) or 1.0

    def place(value: float) -> float:
        return bottom + (value - low) / width * (top - bottom)

    return Axis(tuple((mark, short(mark)) for mark in nice_marks(low, high, count)), place)


def figure(svg: str, caption: str, *, css: str = "") -> str:
    """A picture with its caption, in a box that scrolls where the screen is narrow."""
    return f'<figure class="{css}"><figcaption>{caption}</figcaption><div class="scroll">{svg}</div></figure>'


def canvas(width: float, height: float, title: str, parts: Sequence[str], css: str = "") -> str:
    """An SVG; the title is read to those who do not see it."""
    text = "".join(parts)
    name = escape(title, quote=True)
    return f'<svg class="{css}" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{name}">{text}</svg>'


def text(x: float, y: float, words: str, *, anchor: str = "start", css: str = "label") -> str:
    """One line of text."""
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def rulers(axis: Axis, left: float, right: float) -> str:
    """Horizontal grid lines with their figures at the left."""
    lines = []
    for mark, words in axis.marks:
        y = axis.place(mark)
        lines.append(f'<path class="grid" d="M{left:g},{y:.1f}H{right:g}"/>')
        lines.append(text(left - 7, y + 3.5, words, anchor="end"))
    return "".join(lines)


def line(points: Sequence[tuple[float, float]], css: str) -> str:
    """A line through points; NaN breaks it, and a point that stands alone is a dot."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if math.isnan(y):
            pieces.append([])
        else:
            pieces[-1].append((x, y))
    path = "".join(joined(piece) for piece in pieces if len(piece) > 1)
    dots = "".join(
        f'<circle class="{css} dot" cx="{p[0][0]:.1f}" cy="{p[0][1]:.1f}" r="1.6"/>' for p in pieces if len(p) == 1
    )
    return (f'<path class="{css} line" d="{path}"/>' if path else "") + dots


def joined(points: Sequence[tuple[float, float]]) -> str:
    """A path through points, to a tenth; of many points as the steps from each to the next, which takes half as much text."""
    if len(points) < MANY_POINTS:
        return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points)
    tenths = [(round(10 * x), round(10 * y)) for x, y in points]
    steps = [f"{_tenths(x - a)},{_tenths(y - b)}" for (a, b), (x, y) in pairwise(tenths)]
    return f"M{_tenths(tenths[0][0])},{_tenths(tenths[0][1])}l" + " ".join(steps).replace(",-", "-").replace(" -", "-")


def _tenths(count: int) -> str:
    return f"{count / 10:g}".replace("0.", ".", 1) if abs(count) < 10 else f"{count / 10:g}"


@dataclass(frozen=True, slots=True)
class LineEnd:
    """The last point of a line, and how the line is named and drawn."""

    x: float
    y: float
    name: str
    css: str


def names_beside(ends: Sequence[LineEnd], left: float, top: float, bottom: float) -> str:
    """Writes the names of lines in a column right of them, as near to their ends as they can be without touching.

    A thin stroke leads from each name to its line. Where there is no room for all, lines of the class `c` have no name.
    """
    most = int((bottom - top) // NAME_ROOM) + 1
    named = sorted(sorted(ends, key=lambda end: end.css.startswith("c"))[:most], key=lambda end: end.y)
    parts = []
    for end, y in zip(named, apart([end.y for end in named], top, bottom), strict=True):
        if abs(y - end.y) > 2 or left - end.x > 12:
            parts.append(f'<path class="lead" d="M{end.x + 2:.1f},{end.y:.1f}L{left - 2:.1f},{y:.1f}"/>')
        parts.append(text(left, y + 4, cut(end.name), css=f"label name {end.css}"))
    return "".join(parts)


def cut(name: str) -> str:
    """A name of at most `NAME_LETTERS`, with its beginning and its end."""
    return name if len(name) <= NAME_LETTERS else f"{name[:6]}…{name[7 - NAME_LETTERS :]}"


def apart(ys: Sequence[float], top: float, bottom: float, room: float = NAME_ROOM) -> list[float]:
    """Moves rising places at least `room` apart and into [top, bottom], with the least sum of squared moves.

    Less k x room, the k-th place need only not fall: that is isotonic regression, solved by pooling neighbours.
    """
    pools: list[tuple[float, int]] = []  # (mean, how many)
    for k, y in enumerate(ys):
        mean, count = y - k * room, 1
        while pools and pools[-1][0] > mean:
            other, more = pools.pop()
            mean, count = (mean * count + other * more) / (count + more), count + more
        pools.append((mean, count))
    highest = bottom - (len(ys) - 1) * room
    pooled = [min(max(mean, top), highest) for mean, count in pools for _ in range(count)]
    return [place + k * room for k, place in enumerate(pooled)]


def band(xs: Sequence[float], lows: Sequence[float], highs: Sequence[float], css: str) -> str:
    """The area between two lines, in pieces where one of them is NaN."""
    path, start = [], None
    gaps = [math.isnan(low) or math.isnan(high) for low, high in zip(lows, highs, strict=True)]
    for k in range(len(xs) + 1):
        if start is None and k < len(xs) and not gaps[k]:
            start = k
        elif start is not None and (k == len(xs) or gaps[k]):
            up = [(xs[i], highs[i]) for i in range(start, k)]
            down = [(xs[i], lows[i]) for i in reversed(range(start, k))]
            path.append(joined(up + down) + "Z")
            start = None
    return f'<path class="{css} band" d="{"".join(path)}"/>'


def below(columns: DateColumns, left: float, width: float, y: float) -> str:
    """The marks of a time axis, and under them the splits' brackets."""
    step = width / max(columns.count, 1)
    parts = [f'<path class="axis" d="M{left:g},{y:g}h{width:g}"/>']
    for column, words in columns.marks:
        x = left + column * step
        parts.append(f'<path class="axis" d="M{x:.1f},{y:g}v4"/>' + text(x + 3, y + 14, words))
    for first, last, words in columns.brackets:
        x, end = left + first * step, left + (last + 1) * step
        parts.append(f'<path class="bracket" d="M{x + 1:.1f},{y + 20:g}v4H{end - 1:.1f}v-4"/>')
        if end - x > 7 * len(words):
            parts.append(text((x + end) / 2, y + 37, words, anchor="middle", css="label split"))
    return "".join(parts)


def hover(left: float, top: float, width: float, height: float, labels: Sequence[str]) -> str:
    """An invisible sheet: the page's script tells the label of the column under the pointer."""
    text = escape("|".join(label.replace("|", "/") for label in labels), quote=True)
    return f'<rect class="hit" x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}" data-labels="{text}"/>'


def over_time(columns: DateColumns, middle: Floats, low: Floats, high: Floats, title: str, css: str = "a") -> str:
    """A line with a band around it over time."""
    height, plot = 190, 140
    seen = [*low[np.isfinite(low)], *high[np.isfinite(high)], *middle[np.isfinite(middle)]]
    axis = scale_of_values(min(seen, default=0), max(seen, default=1), TOP, plot)
    width = WIDE - LEFT - RIGHT
    xs = [LEFT + (k + 0.5) * width / columns.count for k in range(columns.count)]
    ys = [[axis.place(v) for v in values.tolist()] for values in (middle, low, high)]
    labels = [
        f"{label}: {short(m)} ({short(a)} to {short(b)})" if math.isfinite(m) else f"{label}: nothing observed"
        for label, m, a, b in zip(columns.labels, middle.tolist(), low.tolist(), high.tolist(), strict=True)
    ]
    parts = [
        rulers(axis, LEFT, WIDE - RIGHT),
        band(xs, ys[1], ys[2], css),
        line(list(zip(xs, ys[0], strict=True)), css),
    ]
    parts += [below(columns, LEFT, width, plot + 6), hover(LEFT, 0, width, plot + 6, labels)]
    return canvas(WIDE, height, title, parts, "wide")


def bars_over_time(columns: DateColumns, values: Floats, title: str, unit: str) -> str:
    """A bar a column; the highest three are named."""
    height, plot, width = 130, 82, WIDE - LEFT - RIGHT
    axis = scale_of_values(0.0, float(np.nanmax(values, initial=0.0)) or 1.0, 20, plot, 2)
    step = width / columns.count
    parts = [rulers(axis, LEFT, WIDE - RIGHT)]
    path = "".join(
        f"M{LEFT + k * step + step * 0.15:.1f},{plot:g}V{axis.place(v):.1f}h{max(step * 0.7, 0.6):.1f}V{plot:g}z"
        for k, v in enumerate(values.tolist())
        if math.isfinite(v)
    )
    parts.append(f'<path class="b bars" d="{path}"/>')
    taken: list[float] = []
    for k in np.argsort(-np.nan_to_num(values, nan=-1.0))[:3].tolist():
        x = LEFT + (k + 0.5) * step
        if math.isfinite(values[k]) and values[k] > 0 and all(abs(x - other) > 130 for other in taken):
            taken.append(x)
            side = "end" if x > WIDE - 80 else "middle" if x > LEFT + 60 else "start"
            parts.append(text(x, axis.place(float(values[k])) - 5, columns.labels[k], anchor=side, css="label strong"))
    labels = [f"{label}: {short(v)} {unit}" for label, v in zip(columns.labels, values.tolist(), strict=True)]
    parts += [below(columns, LEFT, width, plot), hover(LEFT, 0, width, plot, labels)]
    return canvas(WIDE, height, title, parts, "wide")


def histogram(edges: Floats, series: Sequence[tuple[str, str, Floats]], title: str) -> str:
    """Shares of cells a bin: (name, class, shares) each; the first is an area of steps, the others are lines."""
    height, plot = 210, 176
    axis = scale_of_values(0.0, max(float(values.max(initial=0)) for _, _, values in series) or 1.0, TOP, plot, 3)
    low, high = float(edges[0]), float(edges[-1])
    width = HALF - LEFT - RIGHT

    def across(value: float) -> float:
        return LEFT + (value - low) / ((high - low) or 1.0) * width

    parts = ["".join(f'<path class="grid" d="M{LEFT},{axis.place(m):.1f}H{HALF - RIGHT}"/>' for m, _ in axis.marks)]
    parts += [text(LEFT - 7, axis.place(m) + 3.5, f"{100 * m:.3g} %", anchor="end") for m, _ in axis.marks]
    for k, (_, css, values) in enumerate(series):
        pairs = zip(values.tolist(), edges[1:].tolist(), strict=True)
        steps = "".join(f"V{axis.place(v):.1f}H{across(edge):.1f}" for v, edge in pairs)
        end = f"V{plot}Z" if k == 0 else f"V{plot}"
        parts.append(f'<path class="{css} {"bars" if k == 0 else "line"}" d="M{LEFT},{plot}{steps}{end}"/>')
    parts.append(f'<path class="axis" d="M{LEFT},{plot}H{HALF - RIGHT}"/>')
    for mark in nice_marks(low, high, 6):
        parts.append(f'<path class="axis" d="M{across(mark):.1f},{plot}v4"/>')
        parts.append(text(across(mark), plot + 16, short(mark), anchor="middle"))
    labels = [
        f"{short(a)} to {short(b)}: " + ", ".join(f"{100 * values[k]:.2f} % {name}" for name, _, values in series)
        for k, (a, b) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
    ]
    parts.append(hover(LEFT, 0, width, plot, labels))
    return canvas(HALF, height, title, parts)


def profile(lines: Sequence[tuple[str, str, Floats]], title: str) -> str:
    """Means by equal slots of the day: (name, class, values) each; the names stand at the lines' ends."""
    height, plot, right = 210, 176, 66
    seen = np.concatenate([values[np.isfinite(values)] for _, _, values in lines])
    axis = scale_of_values(float(seen.min(initial=np.inf)), float(seen.max(initial=-np.inf)), TOP, plot, 4)
    width = HALF - LEFT - right
    parts = [rulers(axis, LEFT, HALF - right), f'<path class="axis" d="M{LEFT},{plot + 6}h{width}"/>']
    ends: list[LineEnd] = []
    for hour in range(0, 25, 3):
        x = LEFT + hour * width / 24
        parts.append(f'<path class="axis" d="M{x:.1f},{plot + 6}v4"/>' + text(x, plot + 20, f"{hour}", anchor="middle"))
    for name, css, values in lines:
        points = [(LEFT + (k + 0.5) * width / len(values), axis.place(v)) for k, v in enumerate(values.tolist())]
        parts.append(line(points, css))
        ends += [LineEnd(x, y, name, css) for x, y in points if math.isfinite(y)][-1:]
    parts.append(names_beside(ends, HALF - right + 6, TOP, plot))
    count = len(lines[0][2])
    labels = [
        f"{k * 24 // count}:00 · " + ", ".join(f"{name} {short(values[k])}" for name, _, values in lines)
        for k in range(count)
    ]
    parts.append(hover(LEFT, 0, width, plot, labels))
    return canvas(HALF, height, title, parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heat:
    """A heat map: shades [R, C] by `low`..`high`, labels of its rows and columns for hovering."""

    values_RC: Floats
    low: float
    high: float
    row_labels: tuple[str, ...]
    column_labels: tuple[str, ...]
    unit: str = ""


def heat_picture(heat: Heat, left: float, top: float, width: float, height: float) -> str:
    """The image of a heat map with what the script needs to tell a pixel's value."""
    source = picture(shades(heat.values_RC, heat.low, heat.high))
    rows, columns = (
        escape("|".join(t.replace("|", "/") for t in words), quote=True)
        for words in (heat.row_labels, heat.column_labels)
    )
    place = f'x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}"'
    attributes = f'data-rows="{rows}" data-columns="{columns}" data-low="{heat.low:.6g}" data-high="{heat.high:.6g}"'
    image = f'<image class="heat" {place} preserveAspectRatio="none" href="{source}"/>'
    return f'{image}<rect class="hit" {place} {attributes} data-unit="{escape(heat.unit, quote=True)}"/>'


def legend(x: float, y: float, low: str, high: str, words: str = "") -> str:
    """The colour scale with the figures at its ends; 120 wide and 10 high, words above."""
    bar = f'<image class="heat" x="{x:g}" y="{y:g}" width="120" height="8" preserveAspectRatio="none" href="{ramp()}"/>'
    ends = text(x - 6, y + 8, low, anchor="end") + text(x + 126, y + 8, high)
    return bar + ends + (text(x + 60, y - 5, words, anchor="middle") if words else "")


def over_dates(columns: DateColumns, heat: Heat, title: str) -> str:
    """Rows (groups of nodes) by columns (dates)."""
    rows = heat.values_RC.shape[0]
    tall = float(min(max(rows * 7, 60), 320))
    width = WIDE - LEFT - RIGHT
    parts = [heat_picture(heat, LEFT, TOP + 16, width, tall), legend(LEFT + 34, 4, "0 %", "100 %")]
    parts += [
        text(LEFT - 7, TOP + 16 + tall * (k + 0.5) / rows + 3.5, name, anchor="end") for k, name in _spaced(heat, tall)
    ]
    parts.append(below(columns, LEFT, width, TOP + 16 + tall))
    return canvas(WIDE, TOP + 16 + tall + 44, title, parts, "wide")


def _spaced(heat: Heat, tall: float) -> list[tuple[int, str]]:
    """Row labels that do not touch each other, cut to what fits."""
    rows = len(heat.row_labels)
    every = max(1, math.ceil(rows * 13 / tall))
    return [
        (k, name if len(name) <= 7 else "…" + name[-5:]) for k, name in enumerate(heat.row_labels) if k % every == 0
    ]


def week(heat: Heat, title: str) -> str:
    """Weekdays by hours of the day."""
    height, plot, width = 210, 150, HALF - LEFT - RIGHT
    parts = [heat_picture(heat, LEFT, 26, width, plot)]
    parts += [
        text(LEFT - 7, 26 + (k + 0.5) * plot / 7 + 4, name, anchor="end") for k, name in enumerate(heat.row_labels)
    ]
    parts += [text(LEFT + h * width / 24, 26 + plot + 16, f"{h}", anchor="middle") for h in range(0, 25, 3)]
    parts.append(legend(HALF - RIGHT - 170, 6, short(heat.low), short(heat.high)))
    return canvas(HALF, height, title, parts)


def square(heat: Heat, names: Sequence[str], counts: Floats, title: str) -> str:
    """Classes by classes, shaded by share, with their counts where there is room."""
    count, left, top = len(names), 92.0, 30.0
    cell = min(46.0, (HALF - left - RIGHT) / max(count, 1))
    wide = cell * count
    parts = [heat_picture(heat, left, top, wide, wide), legend(left + 34, 4, "0 %", "100 %")]
    for k, name in enumerate(names):
        label = name if len(name) <= 12 else name[:11] + "…"
        middle = (k + 0.5) * cell
        parts.append(text(left - 7, top + middle + 3.5, label, anchor="end"))
        below_it = label if cell >= 40 and len(label) <= 7 else str(k + 1)
        parts.append(text(left + middle, top + wide + 15, below_it, anchor="middle"))
    if cell >= 28:
        parts += [
            text(
                left + (c + 0.5) * cell,
                top + (r + 0.5) * cell + 4,
                short(float(counts[r, c])),
                anchor="middle",
                css="cell",
            )
            for r in range(count)
            for c in range(count)
        ]
    return canvas(HALF, top + wide + 24, title, parts)


def shares(counts: NDArray[np.integer] | Floats) -> Floats:
    """Counts as shares of their sum; zeros where there are none."""
    total = counts.sum()
    heights: Floats = counts / total if total else counts.astype(np.float64)
    return heights
