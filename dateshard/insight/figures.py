"""What inspect and statistics tell: documents made of a survey of the shards and of the frozen statistics.

Keys: docs/json.md, types: documents/insight.py. A figure that does not exist (nothing was observed, a code) is null.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dateshard.insight.observed_shares import short_step
from dateshard.insight.survey import DataSurvey, distance, moments_of, reference
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.frozen import STATISTICS_FILE, Nodes
from dateshard.shardstore.manifest import Manifest
from dateshard.shardstore.scaling.transform import Floats
from dateshard.shardstore.times.calendar import Day, collapse
from dateshard.shardstore.times.instants import spell

if TYPE_CHECKING:
    from dateshard.documents.insight import (
        Categories,
        ClockChange,
        DateFigures,
        DateRanges,
        DriftRow,
        FirstRow,
        InspectDocument,
        InspectedFeature,
        Moments,
        NodeFigures,
        Quartiles,
        StatisticsDocument,
        StatisticsFeature,
    )

HOUR, DAY_HOURS = 3_600_000_000_000, 24
MOST_CATEGORIES = 10


def figure(value: float) -> float | None:
    """A number for JSON, in the seven digits that a shard holds; null where there is none."""
    return float(f"{value:.7g}") + 0.0 if math.isfinite(value) else None  # + 0.0: no negative zero


def moments_to_json(moments_6: Floats) -> Moments:
    """Returns mean, std, min and max of one feature's moments; nulls where nothing was observed."""
    count, pivot, delta, m2, low, high = map(float, moments_6)
    if not count:
        return {"mean": None, "std": None, "min": None, "max": None}
    return {
        "mean": figure(pivot + delta),
        "std": figure(math.sqrt(m2 / count)) if m2 >= 0 else None,
        "min": figure(low),
        "max": figure(high),
    }


def quartiles_to_json(quartiles_3: Floats) -> Quartiles:
    """Returns the three quartiles; nulls where nothing was observed."""
    low, middle, high = map(float, quartiles_3)
    return {"q25": figure(low), "median": figure(middle), "q75": figure(high)}


def clock_changes(days: Iterable[Day]) -> list[ClockChange]:
    """Dates that have not 24 hours."""
    hours = ((day.date, (day.end - day.start) / HOUR) for day in days)
    return [{"date": str(date), "hours": count} for date, count in hours if count != DAY_HOURS]


def split_to_json(manifest: Manifest) -> dict[str, DateRanges]:
    """Returns {name: [[first, last], ...]} of the splits."""
    return {name: [[str(a), str(b)] for a, b in ranges] for name, ranges in manifest.split.items()}


def without_position(nodes: Nodes) -> int:
    """How many nodes have no place on a map; all of them where the nodes have no coordinates."""
    return int(np.isnan(nodes.positions_NP).any(axis=1).sum()) if nodes.axes else len(nodes.names)


def inspection(dataset: Dataset, survey: DataSurvey, rows: Sequence[FirstRow]) -> InspectDocument:
    """Makes the document of `inspect --json`: what the surveyed dates hold, and the first rows."""
    manifest, days = dataset.manifest, [survey.dates[date].day for date in sorted(survey.dates)]
    num_bytes = sum(
        size for day in days for shard in manifest.dates[day.date].parts for size, _ in shard.files.values()
    )
    return {
        "dataset": manifest.dataset,
        "generation": dataset.generation,
        "layout": manifest.layout,
        "timezone": manifest.timezone,
        "step_seconds": manifest.step / 1e9,
        "dates": {
            "count": len(days),
            "first": str(days[0].date) if days else None,
            "last": str(days[-1].date) if days else None,
            "ranges": collapse((day.date for day in days), undated=manifest.undated),
        },
        "steps": sum(day.num_steps for day in days),
        "nodes": manifest.num_nodes,
        "unseen_nodes": manifest.num_new_nodes,
        "nodes_without_position": without_position(dataset.nodes),
        "bytes": num_bytes,
        "split": split_to_json(manifest),
        "clock_changes": clock_changes(days),
        "features": [feature_to_json(survey, index) for index in range(len(dataset.features))],
        "rows": list(rows),
        "warnings": list(filter(None, [short_step(dataset)])),
    }


def feature_to_json(survey: DataSurvey, index: int) -> InspectedFeature:
    """One feature over the surveyed dates: its settings, missing share, raw and scaled figures, its categories."""
    feature, cells = survey.dataset.features[index], survey.cells()
    seen = int(survey.seen_NF[:, index].sum())
    content: InspectedFeature = {
        "feature": feature.name,
        "aggregate": feature.aggregate,
        "fill": feature.fill,
        "transform": feature.transform,
        "scale": feature.scale,
        "scale_per": feature.scale_per,
        "cells": cells,
        "observed": seen,
        "missing_share": figure(1 - seen / cells) if cells else None,
        "raw": moments_to_json(survey.pooled("raw")[:, index]),
        "scaled": moments_to_json(survey.pooled("scaled")[:, index]),
    }
    if index in survey.codes:
        content["categories"] = _categories(survey, index)
    return content


def _categories(survey: DataSurvey, index: int) -> Categories:
    counts = survey.codes[index]
    names = survey.dataset.vocabularies.names[survey.dataset.features[index].name]
    order = np.argsort(-counts[1:], kind="stable")[:MOST_CATEGORIES]
    return {
        "count": len(names),
        "unseen": int(counts[0]),  # observed cells whose category the training data lacks
        "most": [{"name": names[code], "cells": int(counts[code + 1])} for code in order],
    }


def first_rows(dataset: Dataset, date: dt.date, count: int) -> list[FirstRow]:
    """The first cells of a date, node by node and step by step, in raw units; null where nothing was observed."""
    survey, day = DataSurvey(dataset=dataset), dataset.manifest.day(date)
    nodes = dataset.nodes.names
    steps = min(day.num_steps, -(-count // max(len(nodes), 1)))
    values, seen = dataset.read_day(day, steps)
    columns = [_readable(survey, values[..., k], seen[..., k], k, count) for k in range(len(dataset.features))]
    rows: list[FirstRow] = []
    times = dataset.times(day)
    for place, cells in enumerate(zip(*columns, strict=True)):
        step, node = divmod(place, len(nodes))
        at = spell(int(times[step]), dataset.manifest.timezone)
        rows.append({"time": at, "node": nodes[node], "values": dict(zip(dataset.feature_names, cells, strict=True))})
    return rows


def _readable(survey: DataSurvey, scaled_TN: Any, seen_TN: Any, index: int, count: int) -> list[Any]:
    """The first `count` cells, step by step."""
    feature, seen_R = survey.dataset.features[index], seen_TN.ravel()[:count].tolist()
    if feature.categorical:
        names = ("(unseen)", *survey.dataset.vocabularies.names[feature.name])
        codes = scaled_TN.ravel()[:count].tolist()
        return [names[int(code)] if known else None for code, known in zip(codes, seen_R, strict=True)]
    transformed = survey.unit.transformed(scaled_TN, index)
    raw = np.expm1(transformed) if feature.transform == "log1p" else transformed
    values = raw.ravel()[:count].tolist()
    return [figure(value) if known else None for value, known in zip(values, seen_R, strict=True)]


def global_statistics(dataset: Dataset, limit: int) -> StatisticsDocument:
    """Makes the document of `statistics --json`, in units after the transform; nothing of the shards is read."""
    manifest, statistics = dataset.manifest, dataset.statistics
    dates = [date for date, _ in statistics.sources]
    pooled = statistics.over_nodes
    features: list[StatisticsFeature] = []
    for index, feature in enumerate(dataset.features):
        moments = moments_to_json(moments_of(np.empty(0)) if feature.categorical else pooled[:, index])
        row: StatisticsFeature = {
            "feature": feature.name,
            "transform": feature.transform,
            "scale": feature.scale,
            "scale_per": feature.scale_per,
            "observed": int(pooled[0, index]),
            "mean": moments["mean"],
            "std": moments["std"],
            "min": moments["min"],
            "max": moments["max"],
        }
        if feature.scale == "robust" and feature.scale_per == "feature":
            row["q25"], row["median"], row["q75"] = map(figure, statistics.merged.histogram.quartiles(index))
        if feature.scale_per == "node" and not feature.categorical:
            row["nodes"] = _by_node(dataset, pooled[:, index], index, limit)
            row["nodes_left_out"] = statistics.merged.moments_6NF.shape[1] - len(row["nodes"])
        features.append(row)
    return {
        "dataset": manifest.dataset,
        "generation": dataset.generation,
        "statistics": manifest.statistics,
        "file": str(dataset.root / "statistics" / manifest.statistics / STATISTICS_FILE),
        "dates": {"count": len(dates), "ranges": collapse(dates, undated=manifest.undated)},
        "provisional": [str(date) for date in manifest.provisional],
        "features": features,
    }


def _by_node(dataset: Dataset, pooled_6: Floats, index: int, limit: int) -> list[NodeFigures]:
    """Nodes whose own mean lies farthest from the mean of all, in deviations of all; at most `limit` of them."""
    moments_6N = dataset.statistics.merged.moments_6NF[:, :, index]
    spread = math.sqrt(pooled_6[3] / max(pooled_6[0], 1)) or 1.0
    shift_N = ((moments_6N[1] - pooled_6[1]) + (moments_6N[2] - pooled_6[2])) / spread
    shift_N = np.where(moments_6N[0] > 0, shift_N, np.inf)  # a node never observed comes first: it has no scale
    order = np.argsort(-np.abs(shift_N), kind="stable")
    return [
        {
            "node": dataset.nodes.names[node],
            "observed": int(moments_6N[0, node]),
            "mean_shift": figure(shift_N[node]),
            **moments_to_json(moments_6N[:, node]),
        }
        for node in order[:limit]
    ]


def by_date(survey: DataSurvey, dates: Iterable[dt.date]) -> list[DateFigures]:
    """Makes the rows of `by_date` of statistics: a row a date and feature, in raw units."""
    rows: list[DateFigures] = []
    for date in sorted(dates):
        columns, cells = survey.dates[date], survey.cells([date])
        for index, feature in enumerate(survey.dataset.features):
            moments = columns.moments["raw"][:, index]
            rows.append(
                {
                    "date": str(date),
                    "feature": feature.name,
                    "observed": int(moments[0]),
                    "missing_share": figure(1 - moments[0] / cells) if cells else None,
                    **moments_to_json(moments),
                    **quartiles_to_json(columns.quartiles_3F[:, index]),
                }
            )
    return rows


def drift_rows(survey: DataSurvey, dates: Iterable[dt.date]) -> list[DriftRow]:
    """How far each date stands from the training data, in training deviations after the transform; largest first.

    Every date of the statistics must have been surveyed: their cells together are what a date's are compared
    with. Categorical features and dates without an observed cell are left out.
    """
    rows: list[DriftRow] = []
    for index, feature in enumerate(survey.dataset.features):
        if feature.categorical:
            continue
        training = reference(survey, index)
        for date in sorted(dates):
            columns = survey.dates[date]
            count, pivot, delta, m2, *_ = map(float, columns.moments["unit"][:, index])
            if count:
                rows.append(
                    {
                        "date": str(date),
                        "feature": feature.name,
                        "split": None if survey.dataset.manifest.split_cuts else survey.dataset.manifest.split_of(date),
                        "mean_shift": figure(pivot + delta),
                        "std_ratio": figure(math.sqrt(m2 / count)),
                        "distance": figure(distance(columns.bins_FB[index], training)),
                    }
                )
    return sorted(rows, key=lambda row: (-(row["distance"] or 0.0), row["date"], row["feature"]))
