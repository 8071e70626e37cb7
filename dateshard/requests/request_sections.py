"""A model of requests on the page of its run: the trace, its forecasts beside what came, and its intervals over time."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dateshard.reports.charts import (
    HALF,
    LEFT,
    RIGHT,
    TOP,
    WIDE,
    DateColumns,
    band,
    below,
    canvas,
    figure,
    histogram,
    hover,
    line,
    over_time,
    rulers,
    scale_of_values,
    short,
)
from dateshard.reports.curves import keys, powers
from dateshard.reports.html import card, pair, paragraph, table
from dateshard.requests.accuracy.next_request_facts import VALUES
from dateshard.requests.accuracy.response_given_input import ResponseModel
from dateshard.requests.interval_facts import LEAD, LENGTH, LEVELS, SumErrors, weights_of
from dateshard.requests.model_of_run import model_of_run
from dateshard.requests.packed_model import PackedModel
from dateshard.requests.request_screen import comparison, coverage_sentence, inside_sentence, interval_errors
from dateshard.requests.trace_dumps import TOKENS
from dateshard.shardstore.scaling.transform import Floats, Integers

DRAWN, CHUNKS, DRAWN_MINUTES = 150, 60, 360
LEAST_OF_CHUNK = 50  # requests behind a point of the coverage over time
NAMES = {"gap": "gap, seconds", "request_tokens": "request tokens", "response_tokens": "response tokens"}
Section = tuple[str, str, list[str]]


def request_sections(folder: Path) -> list[Section]:
    """Lists (name, heading, parts) of a run that became a model of requests; nothing of any other run.

    Args:
        folder: of the run.
    """
    model = model_of_run(folder)
    if model is None:
        return []
    if model.facts["kind"] == "interval":
        return [("intervals", "Intervals ahead", [_minutes(model)])]
    return [
        ("trace", "The trace", [_trace(model)]),
        ("requests", "The next request", [_beside(model), _forecasts(model)]),
        ("coverage", "Intervals over time", [_coverage(model)]),
    ]


def _trace(model: PackedModel) -> str:
    held, trace = model.held_out, model.facts["trace"]
    mean, low, high = (held[f"load_{name}"].astype(np.float64) for name in ("mean", "low", "high"))
    load = over_time(_columns(held["load_time"]), mean, low, high, "Requests a minute")
    drawn = [
        figure(
            histogram(
                held[f"bins_{name}"],
                [("first 70 %", "a", held[f"shares_{name}"][0]), ("the rest", "b", held[f"shares_{name}"][1])],
                NAMES[name],
            ),
            f"<b>{NAMES[name]}</b>, logarithm to base 10. {keys([('first 70 % of the records', 'a'), ('the rest', 'b')])}",
        )
        for name in VALUES
    ]
    said = f"{trace['records']:,} records of {Path(trace['file']).name} ({trace['format']})"
    caption = "<b>Requests a minute</b>: mean, and the least and greatest minute of each column"
    return card([paragraph(f"{said}.", "soft"), figure(load, caption), pair(*drawn[:2]), pair(*drawn[2:])])


def _beside(model: PackedModel) -> str:
    heads = ("median absolute error (R2 of the logarithm)", *NAMES.values())
    verdict = ResponseModel.from_json(model.facts["response_given_input"]).verdict
    return card(
        [
            table("On the test requests", heads, comparison({model.facts["model"]: model.facts}), numbers=(1, 2, 3)),
            paragraph(f"{verdict}.", "note"),
        ]
    )


def _forecasts(model: PackedModel) -> str:
    """Each value of the last test requests, with forecast and interval, on an axis of powers."""
    held, drawn = model.held_out, list[str]()
    chosen = slice(-DRAWN, None)
    for place, name in enumerate(VALUES):
        truth, forecast, low, high = (
            held[kind][chosen, place].astype(np.float64) for kind in ("truth", "forecast", "low", "high")
        )
        least = 0.1 if name == "gap" else 1.0
        svg = _followed(held["time"][chosen], [np.maximum(each, least) for each in (truth, forecast, low, high)], name)
        drawn.append(
            figure(svg, f"<b>{NAMES[name]}</b> {keys([('what came', 'c'), ('forecast', 'a')])}, interval shaded")
        )
    level = model.facts["level"]
    return card(
        [paragraph(f"The last {DRAWN} test requests, each with its {level:.0%} interval as it stood.", "soft"), *drawn]
    )


def _followed(time_W: Integers, values: Sequence[Floats], name: str, *, of_powers: bool = True) -> str:
    """What came, the forecast, and the area between its ends, over windows in their order."""
    truth, forecast, low, high = values
    height, plot, width = 190, 140, WIDE - LEFT - RIGHT
    seen = np.concatenate([each[np.isfinite(each)] for each in values])
    most = float(seen.max(initial=1.0)) * 1.01
    axis = powers(float(seen.min(initial=1e9)), most, TOP, plot) if of_powers else scale_of_values(0, most, TOP, plot)
    columns = _columns(time_W)
    xs = [LEFT + (k + 0.5) * width / columns.count for k in range(columns.count)]
    ys = [[axis.place(value) for value in each.tolist()] for each in values]
    labels = [
        f"{label}: {short(a)}, forecast {short(b)} ({short(c)} to {short(d)})"
        for label, a, b, c, d in zip(columns.labels, truth, forecast, low, high, strict=True)
    ]
    parts = [
        rulers(axis, LEFT, WIDE - RIGHT),
        band(xs, ys[2], ys[3], "a"),
        line(list(zip(xs, ys[0], strict=True)), "c"),
        line(list(zip(xs, ys[1], strict=True)), "a"),
        below(columns, LEFT, width, plot),
        hover(LEFT, 0, width, plot, labels),
    ]
    return canvas(WIDE, height, f"{name}: forecast and what came", parts, "wide")


def _coverage(model: PackedModel) -> str:
    """The share of values inside, over pieces of the test requests: of intervals that follow, and of plain ones."""
    held, drawn = model.held_out, list[str]()
    count = len(held["inside"])
    chunks = max(2, min(CHUNKS, count // LEAST_OF_CHUNK))
    edges = np.unique(np.linspace(0, count, chunks + 1).astype(np.int64))[:-1]
    sizes = np.diff(np.append(edges, count))
    for place, name in enumerate(VALUES):
        shares = [
            np.add.reduceat(held[kind][:, place].astype(np.float64), edges) / sizes
            for kind in ("inside", "plain_inside")
        ]
        svg = _shares(held["inside_time"][edges], shares, model.facts["level"], name)
        drawn.append(figure(svg, f"<b>{NAMES[name]}</b>"))
    level = f"{model.facts['level']:.0%}"
    named = keys([("intervals that follow", "a"), ("split conformal", "b"), (f"{level}, as asked", "c")])
    said = f'<p class="soft">Share of test requests inside the {level} interval. {named}</p>'
    return card([said, pair(*drawn[:2]), pair(*drawn[2:]), paragraph(f"{coverage_sentence(model.facts)}.", "note")])


def _shares(time_K: Integers, shares: Sequence[Floats], level: float, name: str) -> str:
    height, plot, width = 190, 140, HALF - LEFT - RIGHT
    low = min(0.5, *(float(each.min(initial=1.0)) for each in shares))
    axis = scale_of_values(low, 1.0, TOP, plot)
    columns = _columns(time_K, 3)
    xs = [LEFT + (k + 0.5) * width / columns.count for k in range(columns.count)]
    asked = axis.place(level)
    parts = [rulers(axis, LEFT, HALF - RIGHT), line([(LEFT, asked), (HALF - RIGHT, asked)], "c")]
    for css, each in zip("ba", reversed(shares), strict=True):
        parts.append(line([(x, axis.place(value)) for x, value in zip(xs, each.tolist(), strict=True)], css))
    labels = [f"{label}: {a:.0%}, split conformal {b:.0%}" for label, a, b in zip(columns.labels, *shares, strict=True)]
    parts += [below(columns, LEFT, width, plot), hover(LEFT, 0, width, plot, labels)]
    return canvas(HALF, height, f"{name}: coverage over time", parts)


def _minutes(model: PackedModel) -> str:
    """Requests of a minute some minutes ahead, with quantiles, over the last held-out windows."""
    weights_P = weights_of(LENGTH, LEAD, model.window.horizon)
    forecast_W3, truth_W3 = (
        np.einsum("wpf,p->wf", model.held_out[name].astype(np.float64), weights_P) for name in ("forecast", "truth")
    )
    whole = np.isfinite(truth_W3).all(axis=1)
    errors, drawn = SumErrors.of(forecast_W3[whole], truth_W3[whole]), list[str]()
    forecast_W3, truth_W3 = forecast_W3[-DRAWN_MINUTES:], truth_W3[-DRAWN_MINUTES:]
    quantiles_W3Q = np.stack([errors.quantiles(each, LEVELS) for each in forecast_W3])
    time_W = model.held_out["time"][-DRAWN_MINUTES:] + round(LEAD) * 10**9
    for place, name in enumerate(TOKENS):
        values = [truth_W3[:, place], *(quantiles_W3Q[:, place, k] for k in (1, 0, 2))]
        svg = _followed(time_W, values, name, of_powers=False)
        drawn.append(figure(svg, f"<b>{name.replace('_', ' ')}</b> {keys([('what came', 'c'), ('median', 'a')])}"))
    heads = ("mean absolute error", "requests", "input tokens", "output tokens")
    said = f"A minute, {LEAD:g} s ahead; shaded: between the 10 % and the 90 % quantile."
    rows = table("On the test minutes", heads, interval_errors(model.facts), numbers=(1, 2, 3))
    return card([rows, paragraph(f"{inside_sentence(model.facts)}.", "note"), paragraph(said, "soft"), *drawn])


def _columns(time_K: Integers, most: int = 7) -> DateColumns:
    """A column an instant (UTC), with a few of them named below."""
    instants = [dt.datetime.fromtimestamp(time / 1e9, dt.UTC) for time in time_K.tolist()]
    days = (instants[-1] - instants[0]).days if instants else 0
    every = max(1, len(instants) // most)
    form = "%d %b" if days > 2 * most else "%d %b %H:%M"
    marks = tuple((k, f"{instants[k]:{form}}") for k in range(0, len(instants) - every // 2, every))
    return DateColumns(tuple(f"{at:%Y-%m-%d %H:%M:%S}" for at in instants), marks, ())


def request_lines(folder: Path) -> list[str]:
    """What was measured of a model of requests: its intervals, or the errors of its minutes; nothing of any other run."""
    model = model_of_run(folder)
    if model is None:
        return []
    if model.facts["kind"] == "interval":
        error = model.facts["error"]["model"]
        return [f"a minute ahead: mean absolute error {short(error['count'])} requests", f"model: {model.folder}"]
    return [coverage_sentence(model.facts), f"model: {model.folder}"]
