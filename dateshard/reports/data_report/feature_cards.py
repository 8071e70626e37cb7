"""Cards of features in the data report: one a feature, of charts and tables."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape

import numpy as np

from dateshard.insight.insight_screen import percent
from dateshard.reports import charts
from dateshard.reports.charts import short
from dateshard.reports.data_report.data_facts import (
    MOST_ROWS,
    Facts,
    distances,
    profiles,
    quartiles,
    raw_bars,
    scaled_bars,
    week_heat,
)
from dateshard.reports.html import card, pair, paragraph, table
from dateshard.shardstore.errors import counted
from dateshard.shardstore.layouts.feature import Feature


def _made(feature: Feature, step: int) -> str:
    """What a cell is made of, in words."""
    if step:
        return f"{feature.aggregate} of the records of a step"
    if feature.ahead:
        return f"{feature.aggregate} of the records of the next {feature.ahead / 1e9:g} s, each record's own among them"
    return "seconds since the record before" if feature.aggregate == "gap" else "each record's own value"


def feature_card(facts: Facts, index: int, feature: Feature) -> str:
    """A feature: how it is made, over time, its distribution by day and week, and its figures."""
    limit = f" (at most {counted(feature.fill_limit, 'step')})" if feature.fill_limit is not None else ""
    clip = f"; clipped to {feature.clip[0]:g} to {feature.clip[1]:g}" if feature.clip else ""
    log = f"; transform {feature.transform}" if feature.transform != "none" else ""
    scale = f"scale {feature.scale} per {feature.scale_per}{clip}"
    how = f"{_made(feature, facts.dataset.manifest.step)}; gaps filled: {feature.fill}{limit}{log}; {scale}"
    head = f'<h3 id="feature-{index}">{escape(feature.name)}</h3>{paragraph(how, "soft")}'
    if feature.categorical:
        return card([head, _categories(facts, index)])
    if not facts.survey.seen_NF[:, index].any():
        return card([head, paragraph("Nothing was observed.", "note")])
    return card(
        [
            head,
            *([] if facts.dataset.manifest.undated else _over_time(facts, index, feature.name)),
            *_shapes(facts, index, feature.name),
            _figures(facts, index, feature.name),
        ]
    )


def _categories(facts: Facts, index: int) -> str:
    counts = facts.survey.codes[index]
    names = facts.dataset.vocabularies.names[facts.dataset.features[index].name]
    order = np.argsort(-counts[1:], kind="stable")[:MOST_ROWS]
    total = max(int(counts.sum()), 1)
    rows = [[names[k], f"{counts[k + 1]:,}", percent(counts[k + 1] / total)] for k in order]
    if counts[0]:
        rows.append(["(not in the training data)", f"{counts[0]:,}", percent(counts[0] / total)])
    return table(
        f"The most frequent of {counted(len(names), 'category', 'categories')}",
        ("category", "cells", "share"),
        rows,
        numbers=(1, 2),
    )


def _over_time(facts: Facts, index: int, name: str) -> Iterator[str]:
    low, middle, high = quartiles(facts, index)
    each = "each date" if facts.days_a_column == 1 else f"{facts.days_a_column} dates together (mean of theirs)"
    drawn = charts.over_time(facts.columns, middle, low, high, f"{name} over time: mean and quartiles")
    yield charts.figure(
        drawn, f"<b>Over time.</b> Mean of {each}, and the middle half of its cells as a band; all nodes, raw units."
    )
    away = distances(facts, name)
    most = "" if facts.days_a_column == 1 else " The farthest of a column's dates."
    drawn = charts.bars_over_time(
        facts.columns, away, f"{name}: distance of dates from the training data", "deviations away"
    )
    yield charts.figure(
        drawn, f"<b>Drift.</b> Wasserstein distance from all training cells, in training deviations.{most}"
    )


def _shapes(facts: Facts, index: int, name: str) -> Iterator[str]:
    raw, scaled = raw_bars(facts, index), scaled_bars(facts, index)
    keys = " ".join(f'<span class="key {css}"></span>{label}' for label, css, _ in raw.series)
    out = [f" {percent(bars.outside)} of cells lie outside." if bars.outside >= 5e-4 else "" for bars in (raw, scaled)]
    first = charts.figure(
        charts.histogram(raw.edges, raw.series, f"{name}: histogram of raw values"),
        f"<b>Raw values.</b> {keys}.{out[0]}",
    )
    second = charts.figure(
        charts.histogram(scaled.edges, scaled.series, f"{name}: histogram of scaled values"),
        f"<b>Scaled values</b>, as the trainer reads them.{out[1]}",
    )
    yield pair(first, second)
    lines, heat = profiles(facts, index), week_heat(facts, index)
    if lines and not facts.dataset.manifest.undated and facts.dataset.manifest.step <= 6 * 3.6e12:
        third = charts.figure(
            charts.profile(lines, f"{name}: mean by hour of the day"), "<b>Day.</b> Mean by local hour."
        )
        fourth = charts.figure(
            charts.week(heat, f"{name}: mean by weekday and hour"), "<b>Week.</b> Mean by weekday and local hour."
        )
        yield pair(third, fourth)


def _figures(facts: Facts, index: int, name: str) -> str:
    survey, rows = facts.survey, []
    train = [date for date in facts.dates if facts.dataset.manifest.split_of(date) == "train"]
    rest = [date for date in facts.dates if date not in set(train)]
    undated, words = facts.dataset.manifest.undated, facts.dataset.manifest.training
    every = words if words == "training dates" else words.replace("training", "all")  # moments are those of whole dates
    for words, dates in ((every, train), ("other dates", rest)):
        for kind in ("raw", "scaled") if dates else ():
            count, pivot, delta, m2, low, high = survey.pooled(kind, dates)[:, index].tolist()
            share = 1 - count / survey.cells(dates)
            spread = math.sqrt(m2 / count) if count else math.nan
            row = [
                short(round(v, 6) if kind == "scaled" else v) if count else "–"
                for v in (pivot + delta, spread, low, high)
            ]
            rows.append([f"{words}, {kind}", f"{int(count):,}", percent(share), *row])
    heads = ("", "observed cells", "missing", "mean", "std", "min", "max")
    far = [r for r in facts.drift if r["feature"] == name][: 0 if undated else 5]
    drift = [
        [
            r["date"],
            r["split"] or "–",
            *("–" if v is None else short(v) for v in (r["distance"], r["mean_shift"], r["std_ratio"])),
        ]
        for r in far
    ]
    second = table(
        "Dates that stand farthest from the training data",
        ("date", "split", "distance", "mean shift", "std ratio"),
        drift,
        numbers=(2, 3, 4),
    )
    return table(f"{name} in figures", heads, rows, numbers=range(1, 7)) + second
