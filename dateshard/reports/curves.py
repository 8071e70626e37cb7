"""Lines: over the steps of a training, and along a short axis (target steps, hours) with their names at the ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from dateshard.bookkeeping.run_history import Series
from dateshard.reports.charts import (
    BOTTOM,
    HALF,
    LEFT,
    RIGHT,
    TOP,
    WIDE,
    Axis,
    LineEnd,
    band,
    canvas,
    hover,
    line,
    names_beside,
    nice_marks,
    rulers,
    scale_of_values,
    short,
    text,
)
from dateshard.shardstore.scaling.transform import Floats

HOVERED = 120  # columns that tell their figures
LOGARITHMIC = 20.0  # ratio of the greatest to the least value from which on an axis counts powers
MOST_DOTS = 60


@dataclass(frozen=True, slots=True)
class Steps:
    """The axis of a training.

    Attributes:
        last: step. epochs: (step at its end, number) of each epoch that is whole.
        best: step of the best epoch, and what is said there. resumes: steps that a run went on from.
    """

    last: int
    epochs: tuple[tuple[float, int], ...]
    best: tuple[int, str] | None
    resumes: tuple[int, ...]

    def place(self, step: float, width: float) -> float:
        """Where a step lies between LEFT and LEFT + width."""
        return LEFT + step / max(self.last, 1) * width


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One figure of a chart: its name, how it is drawn, its points; `rows`: each point is one of a few (dots)."""

    name: str
    css: str
    series: Series
    band: bool = False
    dots: bool = False


def over_steps(steps: Steps, lines: Sequence[Line], title: str, *, wide: bool = False, unit: str | None = None) -> str:
    """Figures over the steps of a run.

    Args:
        unit: of figures that begin at 0; None: losses, whose axis counts powers where they differ by more than
            `LOGARITHMIC`, and else begins where they do if that is far from 0.
    """
    width, height = (WIDE if wide else HALF), (300 if wide else 190)
    plot, inner = height - BOTTOM - 18, width - LEFT - RIGHT
    axis = _axis(lines, plot, unit)
    unit = unit or ""
    parts = [rulers(axis, LEFT, LEFT + inner)]
    for curve in lines:
        xs = [steps.place(x, inner) for x in curve.series.x_K.tolist()]
        if curve.band:
            low, high = ([axis.place(v) for v in bound.tolist()] for bound in (curve.series.low_K, curve.series.high_K))
            parts.append(band(xs, low, high, curve.css.split()[0]))
        ys = [axis.place(v) for v in curve.series.mean_K.tolist()]
        parts.append(line(list(zip(xs, ys, strict=True)), curve.css))
        if curve.dots and len(xs) <= MOST_DOTS:
            parts += [
                f'<circle class="{curve.css} dot" cx="{x:.1f}" cy="{y:.1f}" r="2.4"/>'
                for x, y in zip(xs, ys, strict=True)
                if math.isfinite(y)
            ]
    parts.append(_below(steps, inner, plot))
    parts.append(_happened(steps, inner, plot, labelled=wide))
    parts.append(hover(LEFT, 0, inner, plot, _labels(steps, lines, unit)))
    return canvas(width, height, title, parts, "wide" if wide else "")


def _axis(lines: Sequence[Line], plot: float, unit: str | None) -> Axis:
    parts = [
        values
        for line in lines
        for values in (line.series.mean_K, *([line.series.low_K, line.series.high_K] if line.band else []))
    ]
    seen = np.concatenate([values[np.isfinite(values)] for values in parts]) if parts else np.empty(0)
    low, high = float(seen.min(initial=np.inf)), float(seen.max(initial=-np.inf))
    if not len(seen):
        low, high = 0.0, 1.0
    if unit is not None:
        axis = scale_of_values(0.0, high or 1.0, TOP, plot)
        return Axis(tuple((mark, f"{words}{unit}") for mark, words in axis.marks), axis.place)
    if low > 0 and high / low > LOGARITHMIC:
        axis = powers(low, high, TOP, plot)
    elif low == high:
        pad = abs(low) * 0.1 or 0.5
        axis = scale_of_values(low - pad, high + pad, TOP, plot)
    else:
        axis = scale_of_values(low if low < 0 or low > 0.4 * high else 0.0, high, TOP, plot)
    return axis


def powers(low: float, high: float, top: float, bottom: float) -> Axis:
    """A vertical axis of powers; every value must be above 0."""
    a, b = math.log10(low), math.log10(high)
    span = max(b - a, 1e-9)

    def place(value: float) -> float:
        return bottom + (math.log10(max(value, low)) - a) / span * (top - bottom) if not math.isnan(value) else math.nan

    steps = (1, 2, 5) if span < 2.5 else (1,)
    marks = [m * 10.0**k for k in range(math.floor(a), math.ceil(b) + 1) for m in steps]
    every = max(1, round(span / 6)) if steps == (1,) else 1
    kept = [mark for mark in marks if low * 0.999 <= mark <= high * 1.001][::every]
    return Axis(tuple((mark, short(mark)) for mark in kept), place)


def _below(steps: Steps, inner: float, plot: float) -> str:
    """The axis: ends of epochs where there are some, else steps."""
    parts = [f'<path class="axis" d="M{LEFT},{plot + 4:g}h{inner:g}"/>']
    most = 12 if inner > HALF else 6
    if steps.epochs:
        every = _round_up(len(steps.epochs) / most)
        marks = [(step, str(number)) for step, number in steps.epochs if number % every == 0] or [
            (step, str(number)) for step, number in steps.epochs[-1:]
        ]
        noun = "epoch "
    else:
        marks = [(mark, short(mark)) for mark in nice_marks(0, steps.last, most) if mark]
        noun = "step "
    for k, (step, words) in enumerate(marks):
        x = steps.place(step, inner)
        words_shown = words if k else noun + words
        anchor = "end" if x > LEFT + inner - 20 else "middle"
        parts.append(
            f'<path class="axis" d="M{x:.1f},{plot + 4:g}v4"/>' + text(x, plot + 20, words_shown, anchor=anchor)
        )
    return "".join(parts)


def _round_up(value: float) -> int:
    """The least of 1, 2, 5, 10, 20, ... that is no less."""
    power = 10 ** max(math.floor(math.log10(max(value, 1))), 0)
    return next(int(m * power) for m in (1, 2, 5, 10) if m * power >= value - 1e-9)


def _happened(steps: Steps, inner: float, plot: float, *, labelled: bool) -> str:
    """Where the best epoch ended, and where the run was continued."""
    parts, written = [], -math.inf
    for step in steps.resumes:
        x = steps.place(step, inner)
        parts.append(
            f'<path class="resume" d="M{x:.1f},{TOP - 4}V{plot + 4:g}"><title>continued at step {step:,}</title></path>'
        )
        at = min(x + 4, LEFT + inner - 52)
        if labelled and at - written > 56:
            written = at
            parts.append(text(at, plot - 2, "continued", css="label small"))
    if steps.best is not None:
        step, words = steps.best
        x = steps.place(step, inner)
        parts.append(f'<path class="best" d="M{x:.1f},{TOP - 4}V{plot + 4:g}"/>')
        if labelled:
            side = "end" if x > LEFT + inner / 2 else "start"
            parts.append(text(x + (-6 if side == "end" else 6), TOP + 4, words, anchor=side, css="label strong halo"))
    return "".join(parts)


def _labels(steps: Steps, lines: Sequence[Line], unit: str) -> list[str]:
    """What each column under the pointer tells: the nearest point of every line."""
    labels = []
    for column in range(HOVERED):
        step = (column + 0.5) / HOVERED * steps.last
        parts = []
        for curve in lines:
            known = np.flatnonzero(np.isfinite(curve.series.mean_K))
            if len(known):
                k = known[int(np.argmin(np.abs(curve.series.x_K[known] - step)))]
                parts.append(f"{curve.name} {short(float(curve.series.mean_K[k]))}{unit}")
        labels.append(f"step {short(round(step))} · " + ", ".join(parts))
    return labels


@dataclass(frozen=True, slots=True)
class Along:
    """The columns of a chart along a short axis: what each is called, and (column, text) below it."""

    labels: tuple[str, ...]
    marks: tuple[tuple[int, str], ...]
    noun: str


def target_steps(count: int) -> Along:
    """The steps of a horizon, counted from 1."""
    every = _round_up(count / 7)
    marks = [(k - 1, str(k)) for k in range(1, count + 1) if k % every == 0 or count <= 7]
    return Along(tuple(f"step {k}" for k in range(1, count + 1)), tuple(marks), "target step")


def hours() -> Along:
    """The hours of a local day."""
    return Along(
        tuple(f"{h}:00" for h in range(24)), tuple((h, str(h)) for h in range(0, 24, 3)), "local hour of the day"
    )


def along(columns: Along, lines: Sequence[tuple[str, str, Floats]], title: str) -> str:
    """Draws (name, class, a value a column) each; names stand at the lines' ends. From 0 on, for errors are compared."""
    height, plot, right = 214, 168, 92
    width, count = HALF - LEFT - right, max(len(columns.labels), 1)
    seen = np.concatenate([values[np.isfinite(values)] for _, _, values in lines] or [np.empty(0)])
    high = float(seen.max(initial=0.0)) or 1.0
    axis = scale_of_values(min(0.0, float(seen.min(initial=0.0))), high, TOP, plot)
    xs = [LEFT + (k + 0.5) * width / count for k in range(count)]
    parts = [rulers(axis, LEFT, LEFT + width), f'<path class="axis" d="M{LEFT},{plot + 4}h{width}"/>']
    for column, words in columns.marks:
        parts.append(f'<path class="axis" d="M{xs[column]:.1f},{plot + 4}v4"/>')
        parts.append(text(xs[column], plot + 19, words, anchor="middle"))
    parts.append(text(LEFT + width / 2, plot + 35, columns.noun, anchor="middle", css="label split"))
    ends: list[LineEnd] = []
    for name, css, values in lines:
        points = [(x, axis.place(v)) for x, v in zip(xs, values.tolist(), strict=True)]
        parts.append(line(points, css))
        ends += [LineEnd(x, y, name, css) for x, y in points if math.isfinite(y)][-1:]
    parts.append(names_beside(ends, LEFT + width + 7, TOP, plot))
    labels = [
        f"{label}: " + ", ".join(f"{name} {short(float(values[k]))}" for name, _, values in lines)
        for k, label in enumerate(columns.labels)
    ]
    parts.append(hover(LEFT, 0, width, plot, labels))
    return canvas(HALF, height, title, parts)


def keys(lines: Sequence[tuple[str, str]]) -> str:
    """Small samples of lines with their names, for a caption: (name, class) each."""
    return " ".join(f'<span class="stroke {escape(css, quote=True)}"></span>{escape(name)}' for name, css in lines)
