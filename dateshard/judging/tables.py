"""The tables of an evaluation: numbers, their raw errors, categories as in a classification report, and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dateshard.judging.sentences import sample_title, training_command, verdicts
from dateshard.judging.window_forecasts import ForecastsFile
from dateshard.shardstore.commands import command
from dateshard.shardstore.errors import counted
from dateshard.terminal.screen import Screen, number, size
from dateshard.trainer.assessment.evaluation import Evaluation, Row

SHOWN_FEATURES = 3  # columns for more do not fit a terminal; --json has all
SHOWN_CLASSES = 20  # lines of a classification report; --json has all
RELATIVE = ("mape", "wape")
CONFUSED = 8  # categories up to which the confusion counts are shown

Column = tuple[str, Callable[[Mapping[str, Any]], float | None], bool]  # (head, figure of a report, higher is better)
CLASS_COLUMNS: tuple[Column, ...] = (
    ("accuracy", lambda report: report["accuracy"], True),
    ("F1 macro", lambda report: report["macro_avg"]["f1"], True),
    ("F1 weighted", lambda report: report["weighted_avg"]["f1"], True),
    ("AUROC", lambda report: report["macro_avg"]["auroc"], True),
    ("log loss", lambda report: report["log_loss"], False),
)


def show(screen: Screen, result: Evaluation, files: Sequence[str] = ()) -> None:
    """Shows the evaluation as tables, the verdict, and the command that trains what the model loses to.

    Numbers: scaled error over all targets, then each target in its own unit. Categories: each a table. The best of a
    column is starred.

    Args:
        files: the configuration that was named, for that command.
    """
    units = "features in raw units, " if result.features else ""
    document = result.to_json()
    if result.rows or result.sample is None:
        screen.tell(f"{result.split}: {counted(result.windows, 'window')}; {units}* = best")
        _tables(screen, result)
    if result.sample is not None:
        screen.tell()
        screen.tell(f"{sample_title(document)} of {result.split}, every row on these alone; {units}* = best")
        _tables(screen, result.sample)
    if result.unseen is not None:
        screen.tell()
        many = counted(result.unseen.unseen_nodes, "node")
        screen.tell(f"{result.split}: {many} unseen by training, which the rows above leave out; {units}* = best")
        _tables(screen, result.unseen)
    for note in result.notes:
        screen.explain(note)
    for sentence, _ in verdicts(document):
        screen.explain(sentence)
    if (train := training_command(document)) is not None:
        screen.tell(f"Train it: {train}")


def show_file(screen: Screen, written: ForecastsFile, run: str) -> None:
    """Says what a file of forecasts holds."""
    screen.tell(
        f"{written.file}  {counted(written.windows, 'window')}, {counted(written.rows, 'row')}, {size(written.num_bytes)}"
    )
    for note in written.notes:
        screen.tell(f"warning: {note}")
    if written.level is not None:
        screen.explain(f"low and high are the {written.level:g} intervals of the run.")
    else:
        screen.explain("low and high are empty: the run has no intervals of this checkpoint.")
        given = (" --history FILE", "(any dump)") if written.of_records else ("", "")
        screen.tell(" ".join(filter(None, [f"Make them: {command('predict', run)}{given[0]}", given[1]])))


def _tables(screen: Screen, result: Evaluation) -> None:
    """All that is told of the same windows."""
    if result.features:
        _numbers(screen, result)
        _relative_errors(screen, result)
        _raw_errors(screen, result)
        _intervals(screen, result)
    for target in result.categorical:
        _categories(screen, result, target)
    _sampled(screen, result)


def _numbers(screen: Screen, result: Evaluation) -> None:
    features = result.features[:SHOWN_FEATURES] if screen.terminal else result.features
    rows = [row for row in result.rows if row.scaled["count"]]
    figures = [_figures(row, features) for row in rows]
    best = [_best(column, higher=position == 1) for position, column in enumerate(zip(*figures, strict=True))]
    if screen.terminal:
        above = [cell for name in features for cell in ("", f"{name} ")]
        lines = [["", "", "scaled ", *above], ["", "MSE ", "R2 ", *["MAE ", "RMSE "] * len(features)]]
    else:
        lines = [["name", "MSE", "R2", *(f"{name} {figure}" for name in features for figure in ("MAE", "RMSE"))]]
    lines += [[row.name, *_starred(screen, values, best)] for row, values in zip(rows, figures, strict=True)]
    screen.table(lines, right=range(1, len(lines[-1])))
    if len(features) < len(result.features):
        screen.tell(f"{counted(len(result.features) - len(features), 'more target')}: see --json")


def _relative_errors(screen: Screen, result: Evaluation) -> None:
    """MAPE and WAPE of every predictor; MAPE of those targets alone that have one."""
    features = result.features[:SHOWN_FEATURES] if screen.terminal else result.features
    rows = [row for row in result.rows if row.scaled["count"]]
    shown = [(name, key) for name in features for key in RELATIVE if key != "mape" or _any(rows, name, key)]
    figures = [[_percent(row.raw["by_feature"][name][key]) for name, key in shown] for row in rows]
    best = [_best(column, higher=False) for column in zip(*figures, strict=True)]
    if screen.terminal:
        above = [f"{name} " if key == RELATIVE[-1] else "" for name, key in shown]
        lines = [["relative, %", *above], ["", *(f"{key.upper()} " for _, key in shown)]]
    else:
        lines = [["relative, %", *(f"{name} {key.upper()}" for name, key in shown)]]
    lines += [[row.name, *_starred(screen, values, best, 1)] for row, values in zip(rows, figures, strict=True)]
    screen.tell()
    screen.table(lines, right=range(1, len(lines[-1])))


def _any(rows: Sequence[Row], name: str, key: str) -> bool:
    return any(row.raw["by_feature"][name][key] is not None for row in rows)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _figures(row: Row, features: Sequence[str]) -> list[float | None]:
    figures: list[float | None] = [row.scaled["mse"], row.scaled["r2"]]
    for name in features:
        errors = row.raw["by_feature"][name]
        figures += [errors["mae"], errors["rmse"]]
    return figures


def _starred(
    screen: Screen, values: Sequence[float | None], best: Sequence[float | None], digits: int = 4
) -> list[str]:
    """Figures, the best of each column with a star; on a terminal the others with a blank, so that they are aligned."""
    plain = " " if screen.terminal else ""
    ends = ["*" if value is not None and value == top else plain for value, top in zip(values, best, strict=True)]
    return [number(value, digits) + end for value, end in zip(values, ends, strict=True)]


def _best(column: Sequence[float | None], *, higher: bool) -> float | None:
    present = [value for value in column if value is not None]
    return (max if higher else min)(present, default=None)


def _raw_errors(screen: Screen, result: Evaluation) -> None:
    """Shows raw errors of the model (without one, of the best baseline): bias and quantiles, a line a target.

    Where MAPE leaves out some of the targets, it stands beside how many.
    """
    row = _judged(result)
    if row is None:
        return
    names = result.features[:SHOWN_FEATURES] if screen.terminal else result.features
    errors = [row.raw["by_feature"][name] for name in names]
    partly = any(each["mape"] is not None and each["mape_left_out"] for each in errors)  # of a part of the targets
    lines = [[f"{row.name}, raw units", "bias", "|e| p50", "p90", "p99", *["MAPE %", "left out"] * partly]]
    for name, each in zip(names, errors, strict=True):
        quantiles = [number(value, 3) for value in each["error_quantiles"].values()]
        left = "all" if each["mape"] is None and each["mape_left_out"] else f"{each['mape_left_out']}"
        mape = [number(_percent(each["mape"]), 1), left] * partly
        lines.append([name, number(each["bias"], 3), *quantiles, *mape])
    screen.tell()
    screen.table(lines, right=range(1, len(lines[0])))


def _intervals(screen: Screen, result: Evaluation) -> None:
    """Shows coverage, width and scores of all that have intervals, a line each target."""
    intervals = [(row.name, row.interval) for row in result.rows if row.interval is not None]
    if not intervals:
        return
    features = result.features[:SHOWN_FEATURES] if screen.terminal else result.features
    lines = [[f"interval {intervals[0][1]['level']:g}, raw units", "", "covers %", "width", "Winkler", "pinball"]]
    shown = [each for name, scores in intervals for each in ((name, scores), (_own_name(name, scores), scores["own"]))]
    for name, scores in shown:
        for feature in features if scores is not None else ():
            means = scores["raw"]["by_feature"][feature]
            figures = [number(means[key], 4) for key in ("width", "winkler", "pinball")]
            lines.append([name, feature, number(_percent(means["coverage"]), 1), *figures])
    screen.tell()
    screen.table(lines, right=range(2, 6))
    for name, scores in intervals:
        if scores["crossed"]:
            screen.explain(
                f"{name}: {scores['crossed']:,} of {scores['of']:,} answers had crossing quantiles; they were sorted"
            )


def _own_name(name: str, scores: Mapping[str, Any]) -> str:
    """What the quantiles of the model itself are called, with what they shall cover."""
    return f"{name}, own quantiles {scores['own']['level']:.2g}" if scores["own"] else name


def _judged(result: Evaluation) -> Row | None:
    """The model, or the baseline with the least squared error."""
    rows = [row for row in result.rows if row.scaled["mse"] is not None]
    models = [row for row in rows if row.kind == "model"]
    return min(models or rows, key=lambda row: float(row.scaled["mse"]), default=None)


def _categories(screen: Screen, result: Evaluation, target: str) -> None:
    """All predictors beside each other, then the classification report of the model (or of the best baseline)."""
    rows = [row for row in result.rows if target in row.classes]
    if not rows:
        return
    figures = [[column(row.classes[target]) for _, column, _ in CLASS_COLUMNS] for row in rows]
    highs = [higher for _, _, higher in CLASS_COLUMNS]
    best = [_best(column, higher=high) for column, high in zip(zip(*figures, strict=True), highs, strict=True)]
    space = " " if screen.terminal else ""
    lines = [[target, *(head + space for head, _, _ in CLASS_COLUMNS)]]
    lines += [[row.name, *_starred(screen, values, best)] for row, values in zip(rows, figures, strict=True)]
    screen.tell()
    screen.table(lines, right=range(1, len(lines[0])))
    chosen = next((row for row in rows if row.kind == "model"), rows[0])
    screen.tell()
    _report(screen, f"{target}, {chosen.name}", chosen.classes[target])


def _report(screen: Screen, title: str, report: Mapping[str, Any]) -> None:
    """Lines as in scikit-learn's classification report."""
    keys = ("precision", "recall", "f1", "auroc", "average_precision")
    lines = [[title, "precision", "recall", "F1", "AUROC", "AP", "support"]]
    classes = [(name, row) for name, row in report["by_class"].items() if row is not None]
    shown = classes[:SHOWN_CLASSES] if screen.terminal else classes
    for name, row in shown:
        lines.append([name, *(number(row[key], 3) for key in keys), str(row["support"])])
    for label, average in (("macro avg", report["macro_avg"]), ("weighted avg", report["weighted_avg"])):
        lines.append([label, *(number(average[key], 3) for key in keys), str(report["count"])])
    lines.append(["accuracy", "", "", number(report["accuracy"], 3), "", "", str(report["count"])])
    screen.table(lines, right=range(1, 7))
    if len(shown) < len(classes):
        screen.tell(f"{counted(len(classes) - len(shown), 'more category', 'more categories')}: see --json")
    confusion = report["confusion"]
    if screen.terminal and confusion and len(confusion["labels"]) <= CONFUSED:
        screen.tell()
        counts = [[label, *map(str, row)] for label, row in zip(confusion["labels"], confusion["counts"], strict=True)]
        screen.table([["is \\ forecast", *confusion["labels"]], *counts], right=range(1, len(counts) + 1))


def _sampled(screen: Screen, result: Evaluation) -> None:
    """The user's own metrics, always with the size of their sample."""
    rows = [row for row in result.rows if row.sampled and row.sampled["metrics"]]
    if not rows:
        return
    sampled = rows[0].sampled or {}
    names = list(sampled["metrics"])
    title = f"sampled: {sampled['windows']:,} of {counted(sampled['of'], 'window')}"
    lines = [[title, *names]]
    lines += [[row.name, *(number((row.sampled or {})["metrics"].get(name)) for name in names)] for row in rows]
    screen.tell()
    screen.table(lines, right=range(1, len(names) + 1))
