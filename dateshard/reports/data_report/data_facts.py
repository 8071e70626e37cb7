"""What the data report shows, bounded.

At most a few hundred columns of dates, a hundred groups of nodes, a dozen rows a table. Everything that is left out is
counted.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dateshard.insight.figures import drift_rows
from dateshard.insight.survey import HOUR, DataSurvey, group_starts, raw_of_unit
from dateshard.pipeline.planning.plan import Plan
from dateshard.reports.calendar_chart import Square
from dateshard.reports.charts import DateColumns, Heat, shares
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.manifest import Manifest
from dateshard.shardstore.scaling.histogram import GREATEST, NUM_BINS, ZERO, representatives
from dateshard.shardstore.scaling.transform import Floats, Integers
from dateshard.shardstore.sources import Sources
from dateshard.trainer.data.order import Window
from dateshard.trainer.data.split_overlap import SplitWindows, windows_by_split

if TYPE_CHECKING:
    from dateshard.documents.insight import DriftRow

MOST_COLUMNS, MOST_FEATURES, MOST_ROWS = 400, 8, 10
NUM_BARS, MOST_WHOLE = 48, 60
TAIL = 0.002  # share of cells that a histogram may leave out at either end
_REPRESENTED = representatives(np.clip(np.arange(NUM_BINS), ZERO - 1 - GREATEST, ZERO + GREATEST))
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that the page is made of.

    Attributes:
        sources: of the current generation (docs/format.md).
        days_a_column: dates that one column of the charts over time stands for.
        column_of: of each committed date.
        drift: rows of `dateshard.insight.figures.drift_rows`, the largest first.
        sizes: (what, files' bytes).
        windows: of each split, of the configured shape.
    """

    dataset: Dataset
    survey: DataSurvey
    plan: Plan
    sources: Sources
    columns: DateColumns
    days_a_column: int
    column_of: Mapping[dt.date, int]
    drift: Sequence[DriftRow]
    sizes: Sequence[tuple[str, int]]
    windows: Sequence[SplitWindows]

    @property
    def dates(self) -> list[dt.date]:
        """Committed dates in order."""
        return sorted(self.survey.dates)


def gather(survey: DataSurvey, plan: Plan, sources: Sources, window: Window) -> Facts:
    """Gathers the facts of the data report from a survey over all committed dates."""
    dataset, dates = survey.dataset, sorted(survey.dates)
    span = (dates[-1] - dates[0]).days + 1
    width = math.ceil(span / MOST_COLUMNS)
    column_of = {date: (date - dates[0]).days // width for date in dates}
    columns = _columns(dates[0], span, width, dataset)
    drift = drift_rows(survey, dates)
    return Facts(
        dataset=dataset,
        survey=survey,
        plan=plan,
        sources=sources,
        columns=columns,
        days_a_column=width,
        column_of=column_of,
        drift=drift,
        sizes=_sizes(dataset, sources),
        windows=windows_by_split(dataset, window),
    )


def _columns(first: dt.date, span: int, width: int, dataset: Dataset) -> DateColumns:
    count = math.ceil(span / width)
    begins = [first + dt.timedelta(days=k * width) for k in range(count)]
    until = [min(begin + dt.timedelta(days=width - 1), first + dt.timedelta(days=span - 1)) for begin in begins]
    labels = [f"{a:%a %Y-%m-%d}" if a == b else f"{a} to {b}" for a, b in zip(begins, until, strict=True)]
    brackets = []
    by_date = {} if dataset.manifest.split_cuts else dataset.manifest.split  # people are no stretch of time
    for name, ranges in by_date.items():
        for low, high in ranges:
            a, b = max((low - first).days, 0), min((high - first).days, span - 1)
            if a <= b:
                brackets.append((a // width, b // width, name))
    return DateColumns(tuple(labels), tuple(_marks(begins, span)), tuple(brackets))


def _marks(begins: Sequence[dt.date], span: int) -> list[tuple[int, str]]:
    """About a dozen marks: Mondays, months, quarters or years."""
    marks: list[tuple[int, str]] = []
    for k, begin in enumerate(begins):
        before = begins[k - 1] if k else None
        if span <= 100:
            if begin.weekday() == 0:
                marks.append((k, f"{begin:%b} {begin.day}"))
        elif span <= 430:
            if before is None or before.month != begin.month:
                marks.append((k, f"{begin:%b}" if begin.month > 1 and k else f"{begin:%b %Y}"))
        elif span <= 1500:
            if before is None or (before.year, (before.month - 1) // 3) != (begin.year, (begin.month - 1) // 3):
                marks.append((k, f"{begin:%b %Y}"))
        elif before is None or before.year != begin.year:
            marks.append((k, f"{begin:%Y}"))
    room = max(len(begins) // 20, 1)
    return [mark for k, mark in enumerate(marks) if not k or mark[0] - marks[k - 1][0] >= room]


def _sizes(dataset: Dataset, sources: Sources) -> list[tuple[str, int]]:
    shards = sum(size for e in dataset.manifest.dates.values() for shard in e.parts for size, _ in shard.files.values())
    rows = [("dumps, as they were read", sum(row.dump.size for row in sources.dates.values()))]
    rows.append(("shards of this generation", shards))
    for name, words in (("staged", "staged arrays"), ("partials", "partial statistics"), ("cut", "cut dumps")):
        if total := _bytes_below(dataset.root / name):
            rows.append((words, total))
    return rows


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


def squares(plan: Plan, sources: Sources, manifest: Manifest) -> dict[dt.date, Square]:
    """A square of each date that is known."""
    squares_by_date = {}
    for date_plan in plan.dates:
        source = sources.dates.get(date_plan.date)
        count = source.rows.get("accepted") if source and date_plan.date in manifest.dates else None
        split = "" if manifest.split_cuts else manifest.split_of(date_plan.date) or ""
        reason = "" if date_plan.state == "fresh" else date_plan.reason
        squares_by_date[date_plan.date] = Square(date_plan.state, reason, split, count)
    return squares_by_date


def over_columns(facts: Facts, values: Mapping[dt.date, float], *, highest: bool = False) -> Floats:
    """One value a column: the mean (or the highest) of its dates; NaN where there is none."""
    total = np.full(facts.columns.count, np.nan)
    lists: list[list[float]] = [[] for _ in range(facts.columns.count)]
    for date, value in values.items():
        if math.isfinite(value):
            lists[facts.column_of[date]].append(value)
    for k, column in enumerate(lists):
        if column:
            total[k] = max(column) if highest else sum(column) / len(column)
    return total


def quartiles(facts: Facts, index: int) -> tuple[Floats, Floats, Floats]:
    """Returns (q25, mean, q75) of a feature, each by column."""
    rows = {}
    for date, columns in facts.survey.dates.items():
        count, pivot, delta, *_ = columns.moments["raw"][:, index].tolist()
        first, _, third = columns.quartiles_3F[:, index].tolist()
        rows[date] = (first, pivot + delta if count else math.nan, third)
    low, middle, high = (over_columns(facts, {date: row[k] for date, row in rows.items()}) for k in range(3))
    return low, middle, high


def distances(facts: Facts, name: str) -> Floats:
    """Returns the distances of a feature's dates from the training dates, the highest of each column."""
    rows = {dt.date.fromisoformat(r["date"]): r["distance"] or math.nan for r in facts.drift if r["feature"] == name}
    return over_columns(facts, rows, highest=True)


def missing_heat(facts: Facts, index: int) -> Heat:
    """Missing share by groups of nodes and columns of dates."""
    nodes = facts.dataset.nodes.names
    starts = group_starts(len(nodes))
    sizes = np.diff(np.append(starts, len(nodes)))
    seen, cells = (np.zeros((len(starts), facts.columns.count)) for _ in range(2))
    for date, columns in facts.survey.dates.items():
        seen[:, facts.column_of[date]] += columns.seen_GF[:, index]
        cells[:, facts.column_of[date]] += sizes * columns.day.num_steps
    share = np.where(cells > 0, 1 - seen / np.maximum(cells, 1), np.nan)
    names = [
        nodes[a] if size == 1 else f"{nodes[a]} … {nodes[a + size - 1]}" for a, size in zip(starts, sizes, strict=True)
    ]
    return Heat(
        values_RC=share * 100,
        low=0.0,
        high=100.0,
        row_labels=tuple(names),
        column_labels=facts.columns.labels,
        unit=" % missing",
    )


def week_heat(facts: Facts, index: int) -> Heat:
    """Mean raw value by local weekday and hour, or by step where that is longer."""
    seen, total = _by_slot(facts, index)
    mean = np.where(seen > 0, total / np.maximum(seen, 1), np.nan)
    finite = mean[np.isfinite(mean)]
    hours = tuple(f"{slot * 24 // seen.shape[1]}:00" for slot in range(seen.shape[1]))
    return Heat(
        values_RC=mean,
        low=float(finite.min(initial=np.inf)),
        high=float(finite.max(initial=-np.inf)),
        row_labels=WEEKDAYS,
        column_labels=hours,
    )


def _by_slot(facts: Facts, index: int) -> tuple[Floats, Floats]:
    """Returns (observed cells, sum of their raw values), each [7, slots of the day]."""
    hours = max(facts.dataset.manifest.step // HOUR, 1)
    slots = 24 // hours if 24 % hours == 0 else 24
    arrays = (facts.survey.week_seen[..., index], facts.survey.week_sum[..., index])
    seen, total = (array.reshape(7, slots, -1).sum(axis=2) for array in arrays)
    return seen, total


def profiles(facts: Facts, index: int) -> list[tuple[str, str, Floats]]:
    """Mean raw value by slot of the day: weekdays and weekends."""
    lines = []
    for name, css, days in (("Mon–Fri", "a", slice(0, 5)), ("Sat–Sun", "b", slice(5, 7))):
        seen, total = (array[days].sum(axis=0) for array in _by_slot(facts, index))
        if seen.any():
            lines.append((name, css, np.where(seen > 0, total / np.maximum(seen, 1), np.nan)))
    return lines


@dataclass(frozen=True, slots=True)
class Bars:
    """A histogram for the eye: edges, (name, class, shares) each, and the share of all cells that lies outside."""

    edges: Floats
    series: tuple[tuple[str, str, Floats], ...]
    outside: float


def raw_bars(facts: Facts, index: int) -> Bars:
    """Raw values of the training data beside those of all others."""
    survey = facts.survey
    values = raw_of_unit(survey, index, _REPRESENTED)
    train, other = survey.train_bins[index], survey.other_bins[index]
    _, _, _, _, low, high = survey.pooled("raw")[:, index]
    edges = _edges(values, train + other, low, high, whole=_whole(survey, index))
    words = facts.dataset.manifest.training
    series = [(words, "a", train), (words.replace("training", "other"), "b", other)]
    return _bars(values, edges, [row for row in series if row[2].any()])


def scaled_bars(facts: Facts, index: int) -> Bars:
    """Scaled values of all dates, as the trainer reads them."""
    counts = facts.survey.scaled_bins[index]
    _, _, _, _, low, high = facts.survey.pooled("scaled")[:, index]
    return _bars(_REPRESENTED, _edges(_REPRESENTED, counts, low, high, whole=False), [("all", "a", counts)])


def _bars(values: Floats, edges: Floats, series: Sequence[tuple[str, str, Integers]]) -> Bars:
    bars, inside, total = [], 0, 0
    for name, css, counts in series:
        heights, _ = np.histogram(values, edges, weights=counts)
        inside, total = inside + int(heights.sum()), total + int(counts.sum())
        bars.append((name, css, shares(heights) * (heights.sum() / max(counts.sum(), 1))))
    return Bars(edges, tuple(bars), 1 - inside / total if total else 0.0)


def _whole(survey: DataSurvey, index: int) -> bool:
    """Whether a feature has few whole values, as far as each date's least and greatest tell."""
    _, _, _, _, low, high = survey.pooled("raw")[:, index]
    if not (math.isfinite(low) and high - low <= MOST_WHOLE):
        return False
    ends = np.concatenate([columns.moments["raw"][4:6, index] for columns in survey.dates.values()])
    middles = np.concatenate([columns.quartiles_3F[:, index] for columns in survey.dates.values()])
    known = np.concatenate([ends, middles * 4])  # quartiles of whole numbers are multiples of a quarter
    known = known[np.isfinite(known)]
    return bool((np.abs(known - np.rint(known)) < 1e-4).all())


def _edges(values: Floats, counts: Integers, low: float, high: float, *, whole: bool) -> Floats:
    """Edges of bars that leave at most `TAIL` of the cells out at either end."""
    if not counts.any():
        return np.asarray([0.0, 1.0])
    upto = np.cumsum(counts) / counts.sum()
    first, last = (float(values[min(int(np.searchsorted(upto, q)), NUM_BINS - 1)]) for q in (TAIL, 1 - TAIL))
    if whole:
        return np.arange(round(low) - 0.5, round(max(last, low)) + 1.5)
    pad = 0.02 * (last - first)
    first, last = max(first - pad, low), min(last + pad, high)
    return np.linspace(first, last, NUM_BARS + 1) if last > first else np.asarray([first - 0.5, first + 0.5])


def worst_nodes(facts: Facts) -> list[tuple[str, float, list[float]]]:
    """Lists (node, missing share, mean of each feature) of those that miss most."""
    survey, cells = facts.survey, facts.survey.cells() / max(facts.dataset.manifest.num_nodes, 1)
    missing = 1 - survey.seen_NF.mean(axis=1) / max(cells, 1)
    means = np.where(survey.seen_NF > 0, survey.sum_NF / np.maximum(survey.seen_NF, 1), np.nan)
    order = np.argsort(-missing, kind="stable")[:MOST_ROWS]
    return [(facts.dataset.nodes.names[k], float(missing[k]), means[k].tolist()) for k in order]


def worst_dates(facts: Facts) -> list[tuple[dt.date, float]]:
    """Lists (date, missing share) of those that miss most."""
    cells = {date: facts.survey.cells([date]) * len(facts.dataset.features) for date in facts.survey.dates}
    rows = [
        (date, 1 - float(f.moments["raw"][0].sum()) / max(cells[date], 1)) for date, f in facts.survey.dates.items()
    ]
    return sorted(rows, key=lambda row: (-row[1], row[0]))[:MOST_ROWS]


def rows_account(facts: Facts) -> dict[str, Any]:
    """Rows read, accepted, rejected and changed by reason, over all dates; and the dates with most rejected rows."""
    total: dict[str, Any] = {"read": 0, "accepted": 0, "rejected": {}, "changed": {}, "worst": []}
    for date, source in facts.sources.dates.items():
        if not (rows := source.rows):
            continue  # its dump is gone, and so is what was known of its rows
        total["read"] += rows["read"]
        total["accepted"] += rows["accepted"]
        for kind in ("rejected", "changed"):
            for reason, count in rows[kind].items():
                total[kind][reason] = total[kind].get(reason, 0) + count
        if rejected := sum(rows["rejected"].values()):
            total["worst"].append((str(date), rejected, rows["read"]))
    total["worst"] = sorted(total["worst"], key=lambda row: -row[1])[:MOST_ROWS]
    return total
