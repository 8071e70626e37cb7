"""What an evaluation found, as sections of a run's page: beside the baselines, forecasts, where it errs, classes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from dateshard.judging.sentences import sample_title, verdicts
from dateshard.judging.verdict import Verdict
from dateshard.reports import atlas, charts
from dateshard.reports.charts import Heat, short
from dateshard.reports.curves import along, hours, keys, target_steps
from dateshard.reports.forecasts import forecast_chart, shown
from dateshard.reports.html import card, pair, paragraph, table
from dateshard.reports.period_page import period_parts, residual_parts
from dateshard.reports.run import RunFacts
from dateshard.shardstore.errors import counted
from dateshard.shardstore.scaling.transform import Floats

MOST_TARGETS, MOST_NODES, MOST_CLASSES = 4, 12, 20
KIND_WORDS = {"worst": "Worst", "median": "Median", "best": "Best"}
Row = Mapping[str, Any]
Tile = tuple[str, str, bool]


def judged_sections(facts: RunFacts) -> list[tuple[str, str, list[str]]]:
    """Lists (name, heading, parts) of each section; those without parts are left out by the page."""
    verdict = facts.verdict
    if verdict is None:
        return []
    return [
        ("baselines", "Baselines", _baselines(verdict)),
        ("forecasts", "Forecasts", _forecasts(facts, verdict)),
        ("period", "The whole period", period_parts(verdict, facts.timezone)),
        ("errors", "Errors", _errors(facts, verdict)),
        ("residuals", "Residuals", residual_parts(verdict, facts.timezone)),
        ("classes", "Classes", _classes(verdict)),
    ]


def judged_tiles(verdict: Verdict | None) -> list[Tile]:
    """The model's figures with the best baseline's."""
    if verdict is None or (model := verdict.row()) is None:
        return []
    baseline, rows = verdict.baseline, list[Tile]()
    lost = verdict.outcome == "loses"
    if model["scaled"]["mse"] is not None:
        rows.append((f"{model['scaled']['mse']:.4f}", f"{verdict.split} MSE, scaled", lost))
        if baseline and baseline["scaled"]["mse"] is not None:
            rows.append((f"{baseline['scaled']['mse']:.4f}", f"best baseline: {baseline['name']}", False))
    for name in verdict.document["categorical"]:
        report = model["classes"].get(name)
        if report and report["accuracy"] is not None:
            rows.append((f"{100 * report['accuracy']:.1f} %", f"{verdict.split} accuracy of {name}", lost))
            other = baseline["classes"].get(name) if baseline else None
            if other and other["accuracy"] is not None and model["scaled"]["mse"] is None:
                rows.append((f"{100 * other['accuracy']:.1f} %", f"best baseline: {verdict.best_baseline}", False))
    return rows


def judged_sentences(verdict: Verdict | None) -> list[tuple[str, bool]]:
    """Lists (sentence, whether it is good news): numbers, then each categorical target."""
    if verdict is None:
        return []
    return [(f"On {verdict.split}: {sentence}", good) for sentence, good in verdicts(verdict.document)]


def _baselines(verdict: Verdict) -> list[str]:
    document = verdict.document
    windows = f"{counted(document['windows'], 'window')} of {verdict.split}, all predictors on the same ones"
    parts = _errors_table(document, document["rows"], windows)
    if document.get("sample"):
        few = f"{sample_title(document)} of {verdict.split}, all predictors on these alone"
        parts += _errors_table(document, document["sample"]["rows"], few)
    if unseen := document.get("unseen"):
        apart = f"{counted(unseen['nodes'], 'node')} unseen by training, which the rows above leave out"
        parts += _errors_table(document, unseen["rows"], apart)
    left = len(document["features"]) - MOST_TARGETS
    if left > 0:
        parts.append(paragraph(f"{counted(left, 'more target')}: dateshard evaluate --json tells of all.", "note"))
    parts += [_accuracies(name, document["rows"]) for name in document["categorical"]]
    return [card(parts)] if any(parts) else []


def _errors_table(document: Mapping[str, Any], judged: Sequence[Row], windows: str) -> list[str]:
    """The errors of all predictors of numbers on some windows, scaled and raw, then relative."""
    features = document["features"][:MOST_TARGETS]
    rows = [row for row in judged if row["scaled"]["mse"] is not None]
    heads = ["", "MSE, scaled", "R2", *(f"{name}, {figure}" for name in features for figure in ("MAE", "RMSE"))]
    values = [_figures(row, features) for row in rows]
    strong = _best_cells(values, higher=(1,))
    strong |= {(number, 0) for number, row in enumerate(rows) if row["kind"] == "model"}
    lines = [[row["name"], *(_figure(v) for v in line)] for row, line in zip(rows, values, strict=True)]
    title = f"{windows}; MAE and RMSE in raw units; the best of a column stands out"
    drawn = [table(title, heads, lines, numbers=range(1, len(heads)), strong=strong)]
    return [*drawn, _relative(rows, features), *_intervals(rows, features)] if rows and features else drawn


def _intervals(rows: Sequence[Row], features: Sequence[str]) -> Iterator[str]:
    """Coverage and scores of all that have intervals; an evaluation of an older version has none."""
    known = [(row["name"], row["interval"]) for row in rows if row.get("interval")]
    if known:
        heads = ["", "target", "covers %", "width", "Winkler", "pinball"]
        lines, sorted_ones = list[list[str]](), list[str]()
        for name, scores in known:
            sorted_ones += [f"{name}: {scores['crossed']:,} of {scores['of']:,} crossed"] if scores["crossed"] else []
            for feature in features:
                means = scores["raw"]["by_feature"][feature]
                share = "–" if means["coverage"] is None else f"{100 * means['coverage']:.1f}"
                figures = [_figure(means[key]) for key in ("width", "winkler", "pinball")]
                lines.append([name, feature, share, *figures])
        crossed = f" Quantiles that crossed were sorted ({', '.join(sorted_ones)})." if sorted_ones else ""
        title = f"Intervals at {known[0][1]['level']:g}, raw units.{crossed}"
        yield table(title, heads, lines, numbers=range(2, 6))


def _relative(rows: Sequence[Row], features: Sequence[str]) -> str:
    """WAPE of all predictors, and MAPE of those targets that have one."""

    def known(row: Row, name: str, key: str) -> float | None:
        share: float | None = row["raw"]["by_feature"].get(name, {}).get(key)
        return share

    shown = [(name, key) for name in features for key in ("mape", "wape")]
    shown = [(n, key) for n, key in shown if key == "wape" or any(known(row, n, key) is not None for row in rows)]
    heads = ["", *(f"{name}, {key.upper()} %" for name, key in shown)]
    values = [[known(row, name, key) for name, key in shown] for row in rows]
    strong = _best_cells(values, higher=()) | {(k, 0) for k, row in enumerate(rows) if row["kind"] == "model"}
    lines = [
        [row["name"], *("–" if share is None else f"{100 * share:.1f}" for share in line)]
        for row, line in zip(rows, values, strict=True)
    ]
    return table("Relative errors, raw units", heads, lines, numbers=range(1, len(heads)), strong=strong)


def _figures(row: Row, features: Sequence[str]) -> list[float | None]:
    raw = [row["raw"]["by_feature"].get(name, {}).get(figure) for name in features for figure in ("mae", "rmse")]
    return [row["scaled"]["mse"], row["scaled"]["r2"], *raw]


def _best_cells(values: Sequence[Sequence[float | None]], higher: Sequence[int]) -> set[tuple[int, int]]:
    """Returns (row, column) of the best of each column; column 0 of the table is the name."""
    cells_best = set()
    for column, cells in enumerate(zip(*values, strict=True)):
        known = [value for value in cells if value is not None]
        if known:
            best = (max if column in higher else min)(known)
            cells_best |= {(number, column + 1) for number, value in enumerate(cells) if value == best}
    return cells_best


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}" if abs(value) < 1e4 else short(value)


def _accuracies(name: str, rows: Sequence[Row]) -> str:
    known = [row for row in rows if name in row["classes"]]
    values = [
        [report["accuracy"], report["macro_avg"]["f1"], report["macro_avg"]["auroc"], report["log_loss"]]
        for report in (row["classes"][name] for row in known)
    ]
    lines = [[row["name"], *(_figure(v) for v in line)] for row, line in zip(known, values, strict=True)]
    strong = _best_cells(values, higher=(0, 1, 2)) | {(k, 0) for k, row in enumerate(known) if row["kind"] == "model"}
    heads = ("", "accuracy", "F1, macro", "AUROC, macro", "log loss")
    return table(f"{name}, a category", heads, lines, numbers=range(1, 5), strong=strong)


def _forecasts(facts: RunFacts, verdict: Verdict) -> list[str]:
    """Each window with all its drawn targets; the worst first."""
    if not verdict.shown or facts.dataset is None:
        return []
    model = verdict.row()
    names = [(model["name"], "b")] if model else []
    if verdict.best_baseline:
        names.append((verdict.best_baseline, "c dash"))
    manifest = facts.dataset.manifest
    words = keys([("truth", "ink"), *names])
    intro = (
        f"<p class='soft'>{words}.{_about_intervals(verdict.shown)} The shaded part was forecast; a gap was not observed. "
        "Windows rank by their mean squared error, scaled, over "
        "all nodes and targets; a worst one is drawn at its worst node, the others at the node nearest to their mean.</p>"
    )
    drawn = []
    for window in verdict.shown:
        for target in window["targets"]:
            categories = _categories(facts, target["name"])
            window_shown = shown(
                window, target, manifest.step, manifest.timezone, names, categories, undated=manifest.undated
            )
            title = f"{KIND_WORDS[window['kind']]} window: forecast and truth of {target['name']} at {window['node']}"
            kind = f"<b>{KIND_WORDS[window['kind']]}</b>"
            known = window["error"] is not None
            error = f"error of the window {short(window['error'])}, scaled" if known else "no finite error"
            units = "" if categories else ", raw units"
            caption = f"{kind} · {escape(target['name'])} at {escape(window['node'])}{units} · {error}"
            drawn.append(charts.figure(forecast_chart(window_shown, title), caption))
    return [card([intro, pair(*drawn)])]


def _about_intervals(shown_windows: Sequence[Mapping[str, Any]]) -> str:
    """What the band around forecasts is, and nothing where there is none."""
    targets = [target for window in shown_windows for target in window["targets"]]
    interval = next((target["interval"] for target in targets if target.get("interval")), None)
    if interval is None:
        return ""
    if interval["quantiles"]:
        low, high = interval["quantiles"]
        return f" The band reaches from the model's quantile {low:g} to {high:g}."
    return f" The band is the {100 * interval['level']:g} % interval around the model's forecast, as it stood when that was made."


def _categories(facts: RunFacts, name: str) -> Sequence[str]:
    assert facts.dataset is not None
    categories: Sequence[str] = facts.dataset.vocabularies.names.get(name, ())
    return categories


def _errors(facts: RunFacts, verdict: Verdict) -> list[str]:
    parts = [pair(*_by_horizon(verdict), *_by_step(verdict), *_by_hour(verdict)), *_by_node(facts, verdict)]
    return [card(parts)] if any(parts) else []


def _by_horizon(verdict: Verdict) -> Iterator[str]:
    """Draws all predictors together by target step, where more than one step is forecast."""
    rows = [row for row in verdict.document["rows"] if row["scaled"]["mse"] is not None]
    count = max((len(row["by_horizon"]) for row in rows), default=0)
    if count > 1:
        lines = [
            (row["name"], _css(row, verdict), _root([step["scaled"]["mse"] for step in row["by_horizon"]]))
            for row in rows
        ]
        drawn = along(target_steps(count), _model_last(lines), "Error by target step")
        yield charts.figure(drawn, "<b>By target step.</b> Root mean squared error of all numeric targets, scaled.")
    for name in verdict.document["categorical"][:MOST_TARGETS]:
        rows_known = [
            (row, row["classes"][name]["by_horizon"]) for row in verdict.document["rows"] if name in row["classes"]
        ]
        count = max((len(steps) for _, steps in rows_known), default=0)
        if count > 1:
            lines = [
                (row["name"], _css(row, verdict), _floats([s["accuracy"] for s in steps])) for row, steps in rows_known
            ]
            drawn = along(target_steps(count), _model_last(lines), f"Accuracy of {name} by target step")
            yield charts.figure(drawn, f"<b>{escape(name)} by target step.</b> Share of right forecasts.")


def _by_step(verdict: Verdict) -> Iterator[str]:
    """Draws each numeric target by target step; an evaluation of an older version has them together alone."""
    rows = [row for row in verdict.document["rows"] if row.get("by_step")]
    for name in verdict.document["features"][:MOST_TARGETS]:
        lines = [(row["name"], _css(row, verdict), _floats(row["by_step"][name]["mae"])) for row in rows]
        count = max((len(values) for *_, values in lines), default=0)
        if count > 1 and any(np.isfinite(values).any() for *_, values in lines):
            drawn = along(target_steps(count), _model_last(lines), f"Mean absolute error of {name} by target step")
            yield charts.figure(drawn, f"<b>{escape(name)} by target step.</b> Mean absolute error, raw units.")


def _css(row: Row, verdict: Verdict) -> str:
    return "b" if row["kind"] == "model" else "a" if row["name"] == verdict.best_baseline else "c"


def _model_last(lines: list[tuple[str, str, Floats]]) -> list[tuple[str, str, Floats]]:
    return sorted(lines, key=lambda line: {"c": 0, "a": 1, "b": 2}[line[1]])


def _root(values: Sequence[float | None]) -> Floats:
    return np.sqrt(_floats(values))


def _floats(values: Sequence[float | None]) -> Floats:
    return np.asarray(values, dtype=np.float64)  # of None it makes NaN


def _beside(verdict: Verdict) -> list[tuple[Row, str]]:
    """The best baseline and the model, with their class."""
    rows = [(verdict.baseline, "a"), (verdict.row(), "b")]
    return [(row, css) for row, css in rows if row is not None]


def _by_hour(verdict: Verdict) -> Iterator[str]:
    for name in verdict.document["features"][:MOST_TARGETS]:
        lines = [
            (row["name"], css, _floats(row["by_hour"][name]["mae"]))
            for row, css in _beside(verdict)
            if row.get("by_hour")
        ]
        if any(np.isfinite(values).any() for *_, values in lines):
            drawn = along(hours(), lines, f"Mean absolute error of {name} by hour of the day")
            yield charts.figure(drawn, f"<b>{escape(name)} by hour.</b> Mean absolute error, raw units.")


def _by_node(facts: RunFacts, verdict: Verdict) -> Iterator[str]:
    """A map where nodes have positions, and always a table of the worst."""
    model = verdict.row()
    if model is None or not model.get("by_node") or facts.dataset is None:
        return
    nodes = facts.dataset.nodes
    where = atlas.places(nodes.names, nodes.axes, nodes.positions_NP)
    maps, tables = [], []
    for name in verdict.document["features"][:2]:
        mae, count = (_floats(model["by_node"][name][key]) for key in ("mae", "count"))
        if len(mae) != len(nodes.names):
            continue
        known = np.where(np.isfinite(mae), count, 0.0)
        if where is not None:
            drawn = atlas.atlas(
                where, atlas.by_circle(where, np.nan_to_num(mae) * known, known), f"Nodes by error of {name}"
            )
            maps.append(
                charts.figure(drawn, f"<b>{escape(name)} by node.</b> Mean absolute error of the model, raw units.")
            )
        tables.append(_worst_nodes(name, nodes.names, mae, verdict))
    yield pair(*maps, *tables)


def _worst_nodes(name: str, nodes: Sequence[str], mae: Floats, verdict: Verdict) -> str:
    by_error = np.argsort(-np.nan_to_num(mae, nan=-1.0), kind="stable")
    order = by_error[np.isfinite(mae[by_error])].tolist()
    baseline = verdict.baseline
    other = _floats(baseline["by_node"][name]["mae"]) if baseline and baseline.get("by_node") else None
    rows = []
    for k in order[:MOST_NODES]:
        theirs = [] if other is None else [_figure(None if math.isnan(other[k]) else float(other[k]))]
        rows.append([nodes[k], _figure(float(mae[k])), *theirs])
    heads = ["node", "model", *([] if other is None else [str(verdict.best_baseline)])]
    more = f", the first {len(rows)} of {len(order):,}" if len(order) > len(rows) else ""
    return table(
        f"Mean absolute error of {name}, raw units, the worst nodes first{more}",
        heads,
        rows,
        numbers=range(1, len(heads)),
    )


def _classes(verdict: Verdict) -> list[str]:
    model, parts = verdict.row(), list[str]()
    for name in verdict.document["categorical"]:
        report = model["classes"].get(name) if model else None
        if report:
            parts.append(card([f"<h3>{escape(name)}</h3>", pair(_confusion(name, report), _by_class(name, report))]))
    return parts


def _by_class(name: str, report: Row) -> str:
    rows = [(label, row) for label, row in report["by_class"].items() if row is not None]
    rows.sort(key=lambda item: -item[1]["support"])
    lines = [
        [label, *(_figure(row[key]) for key in ("precision", "recall", "f1", "auroc")), f"{row['support']:,}"]
        for label, row in rows[:MOST_CLASSES]
    ]
    more = f", the most frequent {len(lines)} of {len(rows):,}" if len(rows) > len(lines) else ""
    heads = ("class", "precision", "recall", "F1", "AUROC", "support")
    return table(f"Classes of {name}{more}", heads, lines, numbers=range(1, 6))


def _confusion(name: str, report: Row) -> str:
    """Shares of each true class (a row) by forecast; the most frequent classes where there are many."""
    if not report["confusion"]:
        return ""
    labels, counts = report["confusion"]["labels"], np.asarray(report["confusion"]["counts"], dtype=np.float64)
    chosen = np.sort(np.argsort(-(counts.sum(0) + counts.sum(1)), kind="stable")[:MOST_CLASSES])
    corner, names = counts[np.ix_(chosen, chosen)], [labels[k] for k in chosen]
    whole = counts.sum(axis=1)[chosen][:, None]
    heat = Heat(
        values_RC=np.where(whole > 0, 100 * corner / np.maximum(whole, 1), np.nan),
        low=0.0,
        high=100.0,
        row_labels=tuple(f"is {label}" for label in names),
        column_labels=tuple(f"forecast {label}" for label in names),
        unit=" %",
    )
    drawn = charts.square(heat, names, corner, f"Confusion of {name}")
    more = f" The {len(names)} most frequent of {len(labels):,} classes." if len(labels) > len(names) else ""
    return charts.figure(drawn, f"<b>Confusion.</b> A row is what was true, a column what was forecast; counts.{more}")
