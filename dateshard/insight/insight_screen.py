"""How inspect, statistics and diff look: tables made of their documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from dateshard.insight.comparison import dates_of
from dateshard.shardstore.errors import counted
from dateshard.shardstore.times.calendar import UNDATED_TEXT
from dateshard.terminal.screen import Screen, size

if TYPE_CHECKING:
    from dateshard.documents.insight import (
        DateFigures,
        DateRanges,
        DiffDocument,
        InspectDocument,
        InspectedFeature,
        Moments,
        NamesChanged,
        StatisticsChanged,
        StatisticsDocument,
        StatisticsFeature,
    )
    from dateshard.shardstore.manifest import Manifest

MOST_NAMES = 8
UNITS: tuple[Literal["raw", "scaled"], ...] = ("raw", "scaled")
CAME_AND_WENT: tuple[Literal["added", "removed"], ...] = ("added", "removed")
CHANGES: tuple[Literal["added", "removed", "changed"], ...] = (*CAME_AND_WENT, "changed")


def figure(value: float | None, digits: int = 5) -> str:
    """A few digits, `-` where there is none."""
    return "-" if value is None else f"{value:.{digits}g}"


def percent(share: float | None) -> str:
    """Writes a share as `12.3 %`; a dash where it is None."""
    return "-" if share is None else f"{100 * share:.1f} %"


def show_inspection(screen: Screen, document: InspectDocument) -> None:
    """The facts, a table of the features, and the first rows."""
    dates, hours = document["dates"], document["clock_changes"]
    long = f"steps of {document['step_seconds']:g} s" if document["step_seconds"] else "records"
    shape = f"{document['steps']:,} {long} x {counted(document['nodes'], 'node')}"
    screen.tell(f"dataset {document['dataset']}, generation {document['generation']}, {document['timezone']}")
    if dates["ranges"] != UNDATED_TEXT:
        screen.tell(f"{counted(dates['count'], 'date')}: {dates['ranges']}")
    screen.tell(f"{shape} x {counted(len(document['features']), 'feature')}, {size(document['bytes'])}")
    if hours:
        changed = ", ".join(f"{row['date']} has {row['hours']:g} hours" for row in hours[:MOST_NAMES])
        more = f", and {len(hours) - MOST_NAMES} more" if len(hours) > MOST_NAMES else ""
        screen.tell(f"clock changes: {changed}{more}")
    if unseen := document["unseen_nodes"]:
        screen.tell(f"{unseen:,} of {counted(document['nodes'], 'node')} unseen by training")
    if (missing := document["nodes_without_position"]) and document["layout"] == "grid":
        screen.tell(f"{missing:,} of {counted(document['nodes'], 'node')} without a position")
    screen.table([["feature", "missing", "", "mean", "std", "min", "max"], *_features(document)], right=(1, 3, 4, 5, 6))
    for feature in document["features"]:
        if "categories" in feature:
            _show_categories(screen, feature)
    for warning in document["warnings"]:
        screen.explain(f"warning: {warning}")
    _show_rows(screen, document)


def _features(document: InspectDocument) -> list[list[str]]:
    rows = []
    for feature in document["features"]:
        if "categories" in feature:
            count = feature["categories"]["count"]
            rows.append(
                [feature["feature"], percent(feature["missing_share"]), counted(count, "category", "categories")]
            )
            continue
        for kind in UNITS:
            first = [feature["feature"], percent(feature["missing_share"])] if kind == "raw" else ["", ""]
            rows.append([*first, kind, *_figures(feature[kind])])
    return rows


def _show_categories(screen: Screen, feature: InspectedFeature) -> None:
    categories = feature["categories"]
    most = ", ".join(f"{row['name']} {row['cells']:,}" for row in categories["most"])
    unseen = f"; {counted(categories['unseen'], 'cell')} of unseen categories" if categories["unseen"] else ""
    screen.tell(f"{feature['feature']}: {most}{unseen}")


def _show_rows(screen: Screen, document: InspectDocument) -> None:
    if not document["rows"]:
        return
    names, undated = list(document["rows"][0]["values"]), document["dates"]["ranges"] == UNDATED_TEXT
    rows = [
        [
            *([] if undated else [row["time"]]),
            row["node"],
            *(v if isinstance(v := row["values"][name], str) else figure(v) for name in names),
        ]
        for row in document["rows"]
    ]
    heads = ["node"] if undated else ["time", "node"]
    screen.table([[*heads, *names], *rows], right=range(len(heads), len(heads) + len(names)))


def show_statistics(screen: Screen, document: StatisticsDocument, manifest: Manifest) -> None:
    """The global statistics, then by date, then drift."""
    dates = document["dates"]
    statistics = document["statistics"][:6]
    screen.tell(f"dataset {document['dataset']}, generation {document['generation']}, statistics {statistics}")
    undated = manifest.undated
    if not undated:
        of = "" if manifest.training == "training dates" else f"the {manifest.training} of "
        count = counted(dates["count"], "date" if of else "training date")
        screen.tell(f"of {of}{count}: {dates['ranges']}")
    if document["provisional"]:
        screen.tell(f"provisional: they lack {dates_of(document['provisional'])}, which failed")
    rows = [
        [_named(f), f"{f['scale']} per {f['scale_per']}", f"{f['observed']:,}", *_figures(f)]
        for f in document["features"]
    ]
    screen.table([["feature", "scale", "observed", "mean", "std", "min", "max"], *rows], right=range(2, 7))
    for feature in document["features"]:
        _show_quartiles(screen, feature)
        if "nodes" in feature:
            _show_nodes(screen, feature)
    if "by_date" in document:
        _show_by_date(screen, document["by_date"], undated=undated)
    if not manifest.dates:
        screen.explain(
            "no date has a shard. train reads dumps with trainer.loading.policy=streaming trainer.loading.from_dumps=true; "
            "other datasets of the same settings are scaled by these statistics with trainer.loading.statistics="
        )
        screen.tell(f"  {document['file']}")
    if "drift" in document and not undated:  # there is no other date to stand apart from
        _show_drift(screen, document)


def _named(feature: StatisticsFeature) -> str:
    return feature["feature"] if feature["transform"] == "none" else f"{feature['transform']}({feature['feature']})"


def _figures(row: Moments) -> list[str]:
    return [figure(value) for value in (row["mean"], row["std"], row["min"], row["max"])]


def _show_quartiles(screen: Screen, feature: StatisticsFeature) -> None:
    if "median" in feature:
        low, middle, high = (figure(value) for value in (feature["q25"], feature["median"], feature["q75"]))
        screen.tell(f"{_named(feature)}: quartiles {low}, {middle}, {high}")


def _show_nodes(screen: Screen, feature: StatisticsFeature) -> None:
    screen.tell(f"{_named(feature)} by node, in standard deviations of all nodes, the farthest from their mean first:")
    rows = [[n["node"], figure(n["mean_shift"]), f"{n['observed']:,}", *_figures(n)] for n in feature["nodes"]]
    screen.table([["node", "shift", "observed", "mean", "std", "min", "max"], *rows], right=range(1, 7))
    if feature["nodes_left_out"]:
        screen.tell(f"  and {counted(feature['nodes_left_out'], 'node')} more (--limit)")


def _show_by_date(screen: Screen, rows: Sequence[DateFigures], *, undated: bool) -> None:
    keys: tuple[Literal["mean", "std", "min", "q25", "median", "q75", "max"], ...]
    keys = ("mean", "std", "min", "q25", "median", "q75", "max")
    table = [
        [
            UNDATED_TEXT if undated else r["date"],
            r["feature"],
            percent(r["missing_share"]),
            *(figure(r[key], 4) for key in keys),
        ]
        for r in rows
    ]
    screen.table([["date", "feature", "missing", *keys], *table], right=range(2, 10))


def _show_drift(screen: Screen, document: StatisticsDocument) -> None:
    screen.tell("in standard deviations of the training data, the farthest first:")
    keys: tuple[Literal["distance", "mean_shift", "std_ratio"], ...] = ("distance", "mean_shift", "std_ratio")
    table = [[r["date"], r["feature"], r["split"] or "-", *(figure(r[k]) for k in keys)] for r in document["drift"]]
    screen.table([["date", "feature", "split", "distance", "mean shift", "std ratio"], *table], right=range(3, 6))
    if document["drift_left_out"]:
        screen.tell(f"  and {document['drift_left_out']:,} more (--limit)")


def show_comparison(screen: Screen, document: DiffDocument, *, manifest: Manifest) -> None:
    """What came, went and changed; nothing of what stayed. `manifest`: of the newer generation."""
    undated = manifest.undated
    screen.tell(f"dataset {document['dataset']}, generation {document['from']} -> {document['to']}")
    dates, rows = document["dates"], list[list[str]]()
    for kind in CHANGES:
        if dates[kind]:
            rows.append([f"dates {kind}", str(len(dates[kind])), UNDATED_TEXT if undated else dates_of(dates[kind])])
    rows.append(["dates unchanged", str(dates["unchanged"]), ""])
    for what, moved in (("failed", document["failed"]), ("provisional", document["provisional"])):
        for word, changes in (("now", moved["added"]), ("no longer", moved["removed"])):
            if changes:
                rows.append([f"{word} {what}", str(len(changes)), UNDATED_TEXT if undated else dates_of(changes)])
    rows += _names("nodes", document["nodes"]) + _names("features", document["features"])
    if document["nodes"]["moved"]:
        rows.append(["nodes moved", str(document["nodes"]["moved"]), "their positions differ"])
    screen.table(rows, right=(1,))
    _show_moved(screen, document["statistics"], "" if undated else manifest.training)
    for row in document["settings"]:
        screen.tell(f"{row['key']}: {_told(row['from'])} -> {_told(row['to'])}")
    for ranges in document["split"]:
        screen.tell(f"split {ranges['name']}: {_ranges(ranges['from'])} -> {_ranges(ranges['to'])}")


def _names(what: str, changes: NamesChanged) -> list[list[str]]:
    rows = []
    for kind, count in zip(CAME_AND_WENT, (changes["num_added"], changes["num_removed"]), strict=True):
        if count:
            more = f", and {count - MOST_NAMES} more" if count > MOST_NAMES else ""
            rows.append([f"{what} {kind}", str(count), ", ".join(changes[kind][:MOST_NAMES]) + more])
    return rows


def _show_moved(screen: Screen, moved: StatisticsChanged, training: str) -> None:
    if moved["from"] == moved["to"]:
        screen.tell(f"statistics {moved['from'][:6]} as before")
        return
    sources = moved["sources"]
    parts = [f"{len(sources[kind])} {kind}" for kind in CHANGES if sources[kind]] if sources else []
    words = training if training == "training dates" else f"dates with {training}"
    split_sizes = f" ({words}: {', '.join(parts)})" if parts and training else ""
    screen.tell(
        f"statistics {moved['from'][:6]} -> {moved['to'][:6]}{split_sizes}; shift of the means in old standard deviations"
    )
    rows = [
        [
            row["feature"],
            figure(row["mean_shift"]),
            f"{figure(row['from']['mean'])} -> {figure(row['to']['mean'])}",
            f"{figure(row['from']['std'])} -> {figure(row['to']['std'])}",
        ]
        for row in moved["features"]
    ]
    if rows:
        screen.table([["feature", "shift", "mean", "std"], *rows], right=(1,))


def _told(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "-" if value is None else str(value)


def _ranges(value: DateRanges | None) -> str:
    return "-" if value is None else ", ".join(f"{a}..{b}" for a, b in value)
