"""The data report: its sections in order, each made of the facts and of charts."""

from __future__ import annotations

import math
from collections import Counter
from html import escape

import numpy as np

from dateshard import __version__
from dateshard.insight.figures import clock_changes, without_position
from dateshard.insight.insight_screen import percent
from dateshard.reports import atlas, charts
from dateshard.reports.calendar_chart import MOST_YEARS, calendar, key_of
from dateshard.reports.charts import short
from dateshard.reports.data_report.data_facts import (
    MOST_FEATURES,
    MOST_ROWS,
    Facts,
    missing_heat,
    rows_account,
    squares,
    worst_dates,
    worst_nodes,
)
from dateshard.reports.data_report.feature_cards import feature_card
from dateshard.reports.html import card, page, pair, paragraph, section, table, tiles
from dateshard.shardstore.errors import counted
from dateshard.shardstore.manifest import SPLITS, Manifest
from dateshard.shardstore.times.calendar import collapse
from dateshard.terminal.screen import size

SECTIONS = (
    ("overview", "Overview"),
    ("dates", "Dates"),
    ("features", "Features"),
    ("missing", "Missing cells"),
    ("nodes", "Nodes"),
    ("rows", "Rows and files"),
)
MOST_OVERVIEW = 100  # features
STATES = ("failed", "stale", "missing", "measured", "no-dump", "excluded", "fresh")


def data_report(facts: Facts) -> str:
    """Writes the page of the data report."""
    manifest = facts.dataset.manifest
    body = [
        _head(facts),
        _overview(facts),
        _dates(facts),
        _features(facts),
        _missing(facts),
        _nodes(facts),
        _rows(facts),
    ]
    scale = f"{counted(facts.columns.count, 'column')} of {counted(facts.days_a_column, 'date')}"
    over_time = "" if manifest.undated else f" Charts over time have {scale}; hours are local."
    foot = (
        f"Made of generation {facts.dataset.generation} of {manifest.dataset}, statistics {manifest.statistics}. Figures of "
        f"cells are those of the shards, as training sees them: filled cells are left out.{over_time} "
        f"Page of dateshard {__version__}."
    )
    return page(f"{manifest.dataset}: the data", [*body, f"<footer>{paragraph(foot)}</footer>"])


def _head(facts: Facts) -> str:
    manifest, dates = facts.dataset.manifest, facts.dates
    hours = manifest.step / 3.6e12
    every = f"every {hours:g} h" if hours >= 1 else f"every {hours * 60:g} min" if hours else "records as they come"
    lead = f"{dates[0]:%-d %B %Y} to {dates[-1]:%-d %B %Y}, {every}, {manifest.timezone}"
    lead = "rows without a time" if manifest.undated else lead
    cells = facts.survey.cells() * len(facts.dataset.features)
    seen = float(facts.survey.seen_NF.sum())
    bad = [p for p in facts.plan.dates if p.state.split("(")[0] in ("failed", "stale", "missing")]
    rejected = sum(rows_account(facts)["rejected"].values())
    of_dates = [
        (f"{len(dates):,}", _noun(len(dates), "date") + " prepared", False),
        (f"{len(bad):,}", _noun(len(bad), "date") + " not fresh", bool(bad)),
    ]
    rows = [
        *(of_dates if not manifest.undated else [(bad[0].state, "against the dump", True)] if bad else []),
        (f"{manifest.num_nodes:,}", _noun(manifest.num_nodes, "node"), False),
        (f"{len(facts.dataset.features)}", _noun(len(facts.dataset.features), "feature"), False),
        (percent(seen / cells if cells else None), "of cells observed", False),
        (f"{rejected:,}", _noun(rejected, "row") + " rejected", bool(rejected)),
        (size(dict(facts.sizes)["shards of this generation"]), "of shards", False),
    ]
    sections = [(name, _heading(manifest) if name == "dates" else heading) for name, heading in SECTIONS]
    links = "".join(f'<a href="#{name}">{escape(heading)}</a>' for name, heading in sections)
    name = escape(manifest.dataset)
    kicker = paragraph(f"Data report · generation {facts.dataset.generation}", "kicker")
    return f"<header>{kicker}<h1>{name}</h1>{paragraph(lead, 'lead')}{tiles(rows)}<nav>{links}</nav></header>"


def _noun(count: int, noun: str) -> str:
    """A noun as its count stands before it, in larger type."""
    return counted(count, noun).partition(" ")[2]


def _heading(manifest: Manifest) -> str:
    return "Split" if manifest.undated else "Dates"


def _overview(facts: Facts) -> str:
    """A line a feature; the name of one that is drawn leads to it."""
    features = facts.dataset.features
    moments_6F, cells, drift = facts.survey.pooled("raw"), facts.survey.cells(), _farthest(facts)
    rows = [
        [
            feature.name,
            *_in_short(facts, index, moments_6F[:, index].tolist(), cells),
            *drift.get(feature.name, ("–", "")),
        ]
        for index, feature in enumerate(features[:MOST_OVERVIEW])
    ]
    heads = ["feature", "kind", "missing", "mean", "std", "min", "max", "farthest date", "distance"]
    caption = "All features over all dates, raw units; distance in training deviations"
    if facts.dataset.manifest.undated:
        heads, rows = heads[:-2], [row[:-2] for row in rows]
        caption = "All features over all rows, raw units"
    links = [f"#feature-{index}" for index in range(min(len(features), MOST_FEATURES))]
    drawn = table(caption, heads, rows, numbers=[2, 3, 4, 5, 6, 8], links=links)
    left = len(features) - len(rows)
    more = f"{counted(left, 'more feature')}: dateshard inspect tells of all." if left > 0 else ""
    return section("overview", "Overview", [card([drawn, paragraph(more, "note")])])


def _in_short(facts: Facts, index: int, moments: list[float], cells: int) -> list[str]:
    """What kind of feature it is, how much of it is missing, and its moments; of a category how many there are."""
    feature, (count, pivot, delta, m2, low, high) = facts.dataset.features[index], moments
    if feature.categorical:
        seen = float(facts.survey.seen_NF[:, index].sum())
        names = facts.dataset.vocabularies.names[feature.name]
        kind = counted(len(names), "category", "categories")
        return [kind, percent(1 - seen / cells if cells else None), *["–"] * 4]
    log = f", {feature.transform}" if feature.transform != "none" else ""
    figures = (pivot + delta, math.sqrt(m2 / count), low, high) if count else ()
    missing = percent(1 - count / cells if cells else None)
    return [f"number, {feature.scale}{log}", missing, *([short(v) for v in figures] or ["–"] * 4)]


def _farthest(facts: Facts) -> dict[str, tuple[str, str]]:
    """Returns {feature: (the date that stands farthest from the training data, its distance)}."""
    farthest: dict[str, tuple[str, str]] = {}
    for row in facts.drift:  # the farthest first
        if row["distance"] is not None:
            farthest.setdefault(row["feature"], (row["date"], short(row["distance"])))
    return farthest


def _dates(facts: Facts) -> str:
    """The states of dates, the split and its windows; of rows without a date the split alone."""
    manifest = facts.dataset.manifest
    parts = [*([] if manifest.undated else _states(facts)), _split(manifest), _windows(facts)]
    changes = clock_changes(facts.survey.dates[date].day for date in facts.dates)
    if changes:
        words = ", ".join(f"{row['date']} ({row['hours']:g} hours)" for row in changes[:MOST_ROWS])
        more = f" and {len(changes) - MOST_ROWS} more" if len(changes) > MOST_ROWS else ""
        parts.append(paragraph(f"Clock changes: {words}{more}.", "note"))
    if provisional := manifest.provisional:
        parts.append(
            paragraph(f"The statistics are provisional: they lack {collapse(provisional)}, which failed.", "note")
        )
    return section("dates", _heading(manifest), [card(parts)])


def _states(facts: Facts) -> list[str]:
    """A calendar of the dates with their states, and those that need attention."""
    states = Counter(plan.state for plan in facts.plan.dates)
    known = squares(facts.plan, facts.sources, facts.dataset.manifest)
    years = sorted({date.year for date in known})
    cut = f" The last {MOST_YEARS} of {len(years)} years are drawn." if len(years) > MOST_YEARS else ""
    shade = "shaded by its number of accepted rows; a mark shows a state that needs attention."
    caption = f"<b>Every date is a square</b>, {shade}{cut}"
    items = "".join(
        f"<li>{key_of(s)}<b>{states[s]:,}</b> {escape(s)}</li>"
        for s in sorted(states, key=lambda s: STATES.index(s.split("(")[0]))
    )
    parts = [
        charts.figure(calendar(known, f"Calendar of {counted(len(known), 'date')} with their states"), caption),
        f'<ul class="states">{items}</ul>',
    ]
    attention = [p for p in facts.plan.dates if p.state not in ("fresh", "no-dump")]
    rows = [[str(p.date), p.state, p.reason] for p in attention[: 3 * MOST_ROWS]]
    more = f", the first {len(rows)} of {len(attention)}" if len(attention) > len(rows) else ""
    return [*parts, table(f"Dates that are not fresh{more}", ("date", "state", "why"), rows)]


def _split(manifest: Manifest) -> str:
    """What is whose: dates, or the names of cuts."""
    if not manifest.split_cuts:
        ordered = sorted(manifest.split.items(), key=lambda row: row[1][:1])
        rows = [[name, ", ".join(f"{a} to {b}" for a, b in ranges)] for name, ranges in ordered]
        return table("Split", ("part", "dates, both ends included"), rows)
    rows = []
    for name in (name for name in SPLITS if name in manifest.split_cuts):
        names = manifest.split_cuts[name]
        if manifest.by_row:
            rows.append([name, manifest.cuts_of(name)])
            continue
        more = f", and {len(names) - MOST_ROWS:,} more" if len(names) > MOST_ROWS else ""
        rows.append([name, f"{len(names):,}: {', '.join(names[:MOST_ROWS])}{more}"])
    what = "by a hash of what they hold" if manifest.by_row else f"values of '{manifest.cut}'"
    return table("Split", ("part", what), rows)


def _windows(facts: Facts) -> str:
    """How many windows each split has, what cuts cost, and whether training saw rows of the others."""
    manifest = facts.dataset.manifest
    heads = ["part", "steps" if manifest.step else "records", "windows", "overlap"]
    rows = [
        [of.split, f"{of.rows:,}", f"{of.windows:,}", "" if of.overlap is None else percent(of.overlap)]
        for of in facts.windows
    ]
    if not manifest.step:  # records alone have pieces inside a date
        heads.insert(3, "lost at cuts" if manifest.cut else "lost at gaps")
        for row, of in zip(rows, facts.windows, strict=True):
            row.insert(3, f"{of.lost:,}")
    shown = table("Windows", heads, rows, numbers=range(1, len(heads)))
    words = "Overlap is the share of a part's rows that lie in any window of the training part."
    return shown + paragraph(words, "note") if rows else ""


def _features(facts: Facts) -> str:
    features = facts.dataset.features
    cards = [feature_card(facts, index, feature) for index, feature in enumerate(features[:MOST_FEATURES])]
    left = len(features) - MOST_FEATURES
    more = (
        f"{counted(left, 'more feature')} not drawn: dateshard statistics --by-date tells of all." if left > 0 else ""
    )
    names = [feature.name for feature in features[:MOST_FEATURES]]
    links = "".join(f'<a href="#feature-{index}">{escape(name)}</a>' for index, name in enumerate(names))
    return section("features", "Features", [f"<nav>{links}</nav>", *cards, paragraph(more, "note")])


def _missing(facts: Facts) -> str:
    parts = []
    features = facts.dataset.features
    full = [f.name for k, f in enumerate(features) if facts.survey.seen_NF[:, k].sum() == facts.survey.cells()]
    undated = facts.dataset.manifest.undated
    for index, feature in enumerate(features[:MOST_FEATURES]):
        if feature.name not in full:
            if undated:
                share = percent(1 - float(facts.survey.seen_NF[:, index].sum()) / facts.survey.cells())
                parts.append(paragraph(f"{escape(feature.name)}: {share} of the rows have no value.", "note"))
                continue
            heat = missing_heat(facts, index)
            groups = (
                "a row a node"
                if len(heat.row_labels) == facts.dataset.manifest.num_nodes
                else f"{len(heat.row_labels)} rows of neighbouring nodes"
            )
            drawn = charts.over_dates(facts.columns, heat, f"{feature.name}: missing share by date and node")
            parts.append(
                charts.figure(drawn, f"<b>{escape(feature.name)}</b>, share of cells without a value; {groups}.")
            )
    if full:
        parts.append(paragraph(f"Nothing is missing of {', '.join(full)}.", "note"))
    if len(full) < len(features) and not undated:
        nodes = table(
            "Nodes that miss most",
            ("node", "missing, all features"),
            [[n, percent(share)] for n, share, _ in worst_nodes(facts)],
            numbers=(1,),
        )
        dates = table(
            "Dates that miss most",
            ("date", "missing, all features"),
            [[f"{d:%Y-%m-%d %a}", percent(s)] for d, s in worst_dates(facts)],
            numbers=(1,),
        )
        parts.append(pair(nodes, dates))
    return section("missing", "Missing cells", [card(parts)])


def _nodes(facts: Facts) -> str:
    survey, nodes = facts.survey, facts.dataset.nodes
    where = atlas.places(nodes.names, nodes.axes, nodes.positions_NP)
    lost = without_position(nodes)
    if where is None:
        words = f"{counted(len(nodes.names), 'node')}; none has a position, so there is no map."
        return section("nodes", "Nodes", [card([paragraph(words, "note"), _node_table(facts)])])
    figures = []
    if survey.seen_NF.sum() < survey.cells() * survey.seen_NF.shape[1]:
        cells = np.full(len(nodes.names), survey.cells() / len(nodes.names) * survey.seen_NF.shape[1])
        missing = 100 * atlas.by_circle(where, cells - survey.seen_NF.sum(axis=1), cells)
        figures.append(
            charts.figure(
                atlas.atlas(where, missing, "Nodes by missing share", " %"), "<b>Missing share</b> of all features."
            )
        )
    for index, feature in enumerate(facts.dataset.features):
        if not feature.categorical and len(figures) < 2:
            mean = atlas.by_circle(where, survey.sum_NF[:, index], survey.seen_NF[:, index])
            figures.append(
                charts.figure(
                    atlas.atlas(where, mean, f"Nodes by mean {feature.name}"),
                    f"<b>Mean {escape(feature.name)}</b>, raw units.",
                )
            )
    tiled = (
        f" {counted(len(nodes.names) - lost, 'node is', 'nodes are')} drawn as {counted(len(where.names), 'tile')}."
        if len(where.names) < len(nodes.names) - lost
        else ""
    )
    axes = "Equirectangular projection." if where.degrees else f"Axes: {', '.join(nodes.axes[:2])}."
    gone = np.asarray(np.isnan(nodes.positions_NP).any(axis=1), dtype=bool)
    without = (
        f" Without a position, and so not drawn: {counted(lost, 'node')} ({atlas.spread_of(nodes.names, gone)})."
        if lost
        else " Every node has a position."
    )
    return section(
        "nodes", "Nodes", [card([paragraph(axes + tiled + without, "note"), pair(*figures), _node_table(facts)])]
    )


def _node_table(facts: Facts) -> str:
    """Nodes with the greatest and the least mean of the first feature that is a quantity."""
    numeric = [k for k, f in enumerate(facts.dataset.features) if not f.categorical]
    if not numeric:
        return ""
    first = numeric[0]
    seen, total = facts.survey.seen_NF[:, first], facts.survey.sum_NF[:, first]
    mean = np.where(seen > 0, total / np.maximum(seen, 1), -np.inf)
    order = np.argsort(-mean, kind="stable")[:MOST_ROWS]
    name = facts.dataset.features[first].name
    rows = [[facts.dataset.nodes.names[k], short(float(mean[k])), f"{int(seen[k]):,}"] for k in order]
    more = f", the first {len(rows)} of {len(mean):,}" if len(mean) > len(rows) else ""
    return table(
        f"Nodes by mean {name}, the greatest first{more}",
        ("node", f"mean {name}", "observed cells"),
        rows,
        numbers=(1, 2),
    )


def _rows(facts: Facts) -> str:
    account = rows_account(facts)
    rows = [["read", f"{account['read']:,}", ""], ["accepted", f"{account['accepted']:,}", ""]]
    for kind in ("rejected", "changed"):
        rows += [
            [kind, f"{count:,}", reason] for reason, count in sorted(account[kind].items(), key=lambda row: -row[1])
        ]
    if not account["rejected"]:
        rows.append(["rejected", "0", "every row was accepted"])
    undated = facts.dataset.manifest.undated
    parts = [
        table("Raw rows" if undated else "Raw rows of the prepared dates", ("rows", "count", "why"), rows, numbers=(1,))
    ]
    worst = [[date, f"{count:,}", percent(count / read if read else None)] for date, count, read in account["worst"]]
    if not undated:
        parts.append(table("Dates with most rejected rows", ("date", "rejected", "share"), worst, numbers=(1, 2)))
    parts.append(table("Files", ("what", "size"), [[what, size(count)] for what, count in facts.sizes], numbers=(1,)))
    return section("rows", "Rows and files", [card(parts)])
