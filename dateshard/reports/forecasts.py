"""Forecast against truth over time: one window, one target, one node, in the units of the data."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dateshard.reports.charts import (
    HALF,
    RIGHT,
    TOP,
    Axis,
    band,
    canvas,
    hover,
    line,
    nice_marks,
    rulers,
    scale_of_values,
    short,
    text,
)
from dateshard.shardstore.times.calendar import NANOSECONDS, zone

SIDE, HEIGHT, PLOT = 62, 222, 182
MOST_CLASSES = 12
MOST_LABELS, FEWER_LABELS = 200, 125  # of a window's steps, two pixels each; of a longer window
MINUTE, HOUR = 60, 3600
SPANS = (1, 5, 10, 30, 60, 300, 600, 900, 1800, HOUR, 2 * HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, 24 * HOUR)
Values = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class LocalTimes:
    """Equal stretches of local time: instant of the first one in seconds, seconds of each, the zone, how many."""

    first: float
    step: float
    zone: str
    count: int

    def local(self, index: float) -> dt.datetime:
        """Local time of a stretch's begin."""
        return dt.datetime.fromtimestamp(self.first + index * self.step, zone(self.zone))

    def marks(self) -> Iterator[tuple[float, str]]:
        """Yields (stretch, text): midnights with their date, others with their hour; of a day or more by dates."""
        total = self.count * self.step
        if self.step >= 24 * HOUR:
            for mark in nice_marks(0, self.count - 1, 5):
                yield mark, f"{self.local(mark):%b} {self.local(mark).day}"
            return
        span = next((s for s in SPANS if total / s <= 8), None)
        days = 1 if span else math.ceil(total / (24 * HOUR) / 7)
        span = span or 24 * HOUR
        for index in range(self.count):
            at = self.local(index)
            into = at.hour * HOUR + at.minute * 60 + at.second
            if into < self.step and (at.toordinal() % days == 0):
                yield index, f"{at:%b} {at.day}"
            elif span < 24 * HOUR and into % span < self.step:
                yield index, f"{at:%H:%M}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnWindow:
    """One window of one target.

    Attributes:
        first: instant of the first value in seconds. step: seconds. horizon_from: values before the first target step.
        undated: the window is a row without a time.
        truth: what was known and what came; None where nothing was observed. lines: (name, class, forecast) each.
        interval: (low, high) of the target steps: ends of the model's interval; None without one.
        categories: of a categorical target, else empty.
    """

    first: float
    step: float
    zone: str
    horizon_from: int
    truth: Values
    lines: Sequence[tuple[str, str, Values]]
    interval: tuple[Values, Values] | None = None
    categories: Sequence[str] = ()
    undated: bool = False

    @property
    def times(self) -> LocalTimes:
        """When its values are."""
        return LocalTimes(self.first, self.step, self.zone, len(self.truth))

    def local(self, index: float) -> dt.datetime:
        """Local time of a value."""
        return self.times.local(index)


def shown(
    window: Mapping[str, Any],
    target: Mapping[str, Any],
    step_ns: int,
    timezone: str,
    names: Sequence[tuple[str, str]],
    categories: Sequence[str],
    *,
    undated: bool = False,
) -> DrawnWindow:
    """Takes a window that an evaluation kept to be drawn; `names`: (forecaster, class), drawn in that order."""
    lines = [(name, css, target["forecasts"][name]) for name, css in names if name in target["forecasts"]]
    first, interval = window["first_ns"] / NANOSECONDS, target.get("interval")  # an older version kept none
    return DrawnWindow(
        first=first,
        step=step_ns / NANOSECONDS,
        zone=timezone,
        horizon_from=window["horizon_from"],
        truth=target["values"],
        lines=lines,
        interval=(interval["low"], interval["high"]) if interval else None,
        categories=tuple(categories),
        undated=undated,
    )


def forecast_chart(window: DrawnWindow, title: str) -> str:
    """Truth as a strong line with gaps, forecasts beginning at their first target step, with the interval of the model's."""
    width, count = HALF - SIDE - RIGHT, len(window.truth)
    codes = _codes(window)
    axis = _named(window, codes) if window.categories else _values(window)

    def across(index: float) -> float:
        return SIDE + (index + 0.5) / max(count, 1) * width

    begin = SIDE + window.horizon_from / max(count, 1) * width
    parts = [
        f'<rect class="ahead" x="{begin:.1f}" y="{TOP - 6}" width="{SIDE + width - begin:.1f}" height="{PLOT - TOP + 10}"/>'
    ]
    parts.append(rulers(axis, SIDE, SIDE + width))
    if window.interval is not None:
        parts.append(_interval(window.interval, axis, [across(window.horizon_from + k) for k in range(count)]))
    for name, css, values in [*reversed(window.lines), ("truth", "ink", window.truth)]:
        start = 0 if name == "truth" else window.horizon_from
        points = [(across(start + k), _place(axis, codes, v)) for k, v in enumerate(values)]
        parts.append(line(_stairs(points, width / max(count, 1)) if window.categories else points, css))
    parts.append(_times(window, across, width))
    labels = _labels(window)
    shown = count if count <= MOST_LABELS else FEWER_LABELS
    parts.append(hover(SIDE, 0, width, PLOT, [labels[int((k + 0.5) * count / shown)] for k in range(shown)]))
    return canvas(HALF, HEIGHT, title, parts)


def _interval(interval: tuple[Values, Values], axis: Axis, xs: Sequence[float]) -> str:
    """The band between both ends; a bar where it stands alone, as with a single target step."""
    low, high = ([_place(axis, {}, value) for value in values] for values in interval)
    if len(low) > 1:
        return band(xs[: len(low)], low, high, "b")
    return "" if math.isnan(low[0] + high[0]) else f'<path class="b bar" d="M{xs[0]:.1f},{low[0]:.1f}V{high[0]:.1f}"/>'


def _place(axis: Axis, codes: Mapping[int, int], value: float | None) -> float:
    if value is None or not math.isfinite(value):
        return math.nan
    return axis.place(codes[round(value)] if codes else value)


def _values(window: DrawnWindow) -> Axis:
    drawn = (window.truth, *(line for *_, line in window.lines), *(window.interval or ()))
    seen = [v for values in drawn for v in values if v is not None]
    low, high = min(seen, default=0.0), max(seen, default=1.0)
    pad = (high - low) * 0.04 or abs(high) * 0.1 or 0.5
    return scale_of_values(low - pad if low < 0 or low > 0.2 * high else min(0.0, low), high + pad, TOP, PLOT - 4)


def _codes(window: DrawnWindow) -> dict[int, int]:
    """Returns {code: its row}, of the codes that occur."""
    if not window.categories:
        return {}
    seen = {
        round(v) for values in (window.truth, *(line for *_, line in window.lines)) for v in values if v is not None
    }
    return {code: row for row, code in enumerate(sorted(seen))}


def _named(window: DrawnWindow, codes: Mapping[int, int]) -> Axis:
    axis = scale_of_values(-0.5, max(len(codes) - 0.5, 0.5), TOP, PLOT - 4)
    every = math.ceil(len(codes) / MOST_CLASSES) if codes else 1
    marks = []
    for code, row in codes.items():
        name = window.categories[code - 1] if 0 < code <= len(window.categories) else "?"
        if row % every == 0:
            marks.append((float(row), name if len(name) <= 8 else name[:7] + "…"))
    return Axis(tuple(marks), axis.place)


def _stairs(points: Sequence[tuple[float, float]], wide: float) -> list[tuple[float, float]]:
    """Each value as a tread as wide as its step."""
    return [corner for x, y in points for corner in ((x - wide / 2, y), (x + wide / 2, y))]


def _times(window: DrawnWindow, across: Any, width: float) -> str:
    """The axis of local time, its marks at round hours or days; nothing of a row without a time."""
    if window.undated:
        return ""
    parts = [f'<path class="axis" d="M{SIDE},{PLOT + 4}h{width:g}"/>']
    last = -math.inf
    for index, words in window.times.marks():
        x = across(index - 0.5)
        if x - last >= 44 and x < SIDE + width - 12:
            last = x
            parts.append(f'<path class="axis" d="M{x:.1f},{PLOT + 4}v4"/>' + text(x, PLOT + 19, words, anchor="middle"))
    label = window.local(window.horizon_from)
    parts.append(
        text(SIDE + width, PLOT + 35, f"forecast from {label:%Y-%m-%d %H:%M}", anchor="end", css="label split")
    )
    return "".join(parts)


def _labels(window: DrawnWindow) -> list[str]:
    labels = []
    for index, value in enumerate(window.truth):
        parts = [f"truth {_said(window, value)}"]
        ahead = index - window.horizon_from
        if ahead >= 0:
            parts += [f"{name} {_said(window, values[ahead])}" for name, _, values in window.lines]
            parts += [_ends(window.interval[0][ahead], window.interval[1][ahead])] if window.interval else []
        labels.append(("" if window.undated else f"{_at(window, index)} · ") + ", ".join(parts))
    return labels


def _at(window: DrawnWindow, index: int) -> str:
    """When a step begins; of steps below a minute the time of day, for the date stands below."""
    at = window.local(index)
    if window.step >= MINUTE:
        return f"{at:%a %Y-%m-%d %H:%M}"
    return f"{at:%H:%M:%S}" + (f".{at.microsecond // 1000:03d}" if window.step < 1 else "")


def _ends(low: float | None, high: float | None) -> str:
    return "no interval" if low is None or high is None else f"interval {short(low)} to {short(high)}"


def _said(window: DrawnWindow, value: float | None) -> str:
    if value is None:
        return "not observed"
    code = round(value) if window.categories else 0
    return window.categories[code - 1] if 0 < code <= len(window.categories) else short(value)
