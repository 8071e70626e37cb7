"""The verdict of an evaluation in sentences, for the terminal and for the page of a run; of the document alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dateshard.shardstore.commands import command
from dateshard.shardstore.errors import counted
from dateshard.shardstore.layouts.row_buckets import ROW

Document = Mapping[str, Any]
ERRORS = {"mse": "squared error", "mae": "absolute error"}  # that may decide
TIMES = 10  # from so much of a baseline's error on it is told as a factor, for 152324170.8 % says nothing


def verdicts(document: Document) -> list[tuple[str, bool]]:
    """Returns (sentence, whether the model is surely better): of the numbers, then of each categorical target.

    Where slow baselines are judged on a sample, each says of which windows it is."""
    sample = document.get("sample")
    if not sample:
        return _of_table(document)
    few = {**document, **sample}
    return [
        *((f"All {counted(document['windows'], 'window')}: {text}", good) for text, good in _of_table(document)),
        *((f"{sample_title(document)}: {text}", good) for text, good in _of_table(few)),
    ]


def sample_title(document: Document) -> str:
    """Which windows the table of slow baselines is of."""
    return f"A sample of {document['sample']['windows']:,} of the {counted(document['windows'], 'window')}"


def _of_table(document: Document) -> list[tuple[str, bool]]:
    compared = {target: _compared(document, target) for target in (None, *document["categorical"])}
    return [_verdict(document, target, rows) for target, rows in compared.items() if rows]


def training_command(document: Document) -> str | None:
    """The command that trains the baseline that the model loses to; None where it does not lose, or nothing is trained."""
    rows = _compared(document, None)
    if not rows or rows[0]["outcome"] != "worse" or rows[0]["baseline"].partition(":")[0] != "ridge":
        return None
    kind, chosen = rows[0]["baseline"].partition(":")[2], ["trainer.model.name=ridge"]
    if kind == "last":
        chosen += ["trainer.model.normalisations=[last]", f"trainer.model.histories=[{document['history']}]"]
    elif kind:
        chosen.append(f"trainer.window.history={kind}")
    return command("train", *chosen, config=True)


def _compared(document: Document, target: str | None) -> list[Mapping[str, Any]]:
    """The model beside each baseline in one thing, the strongest baseline first."""
    rows = [comparison for comparison in document.get("comparisons", ()) if comparison["target"] == target]
    figures = {row["name"]: _first(document, row, target) for row in document["rows"]}
    strength = {name: -value for name, value in figures.items() if value is not None}
    return sorted(rows, key=lambda comparison: -strength.get(comparison["baseline"], float("-inf")))


def measure_of(document: Document) -> str:
    """The error of numbers that decided: `mse`, or `mae`; an evaluation of before there was a choice does not say it."""
    measure: str = document.get("measure", "mse")
    return measure


def _first(document: Document, row: Mapping[str, Any], target: str | None) -> Any:
    """The error of numbers that decided; of a category what is not right: lower is better."""
    if target is None:
        return row["scaled"][measure_of(document)]
    accuracy = row["classes"].get(target, {}).get("accuracy")
    return None if accuracy is None else -accuracy


def _second(document: Document, row: Mapping[str, Any], target: str | None) -> Any:
    """The other error of numbers, or the log loss."""
    other = "mse" if measure_of(document) == "mae" else "mae"
    return row["scaled"][other] if target is None else row["classes"].get(target, {}).get("log_loss")


def _verdict(document: Document, target: str | None, rows: Sequence[Mapping[str, Any]]) -> tuple[str, bool]:
    best, subject = rows[0], "The model" if target is None else f"{target}: the model"
    if best["gain"] is None:
        return f"{'' if target is None else f'{target}: '}{_no_gain(document, best, target)}", False
    if all(row["outcome"] == "better" for row in rows):
        whom = "every baseline" if len(rows) > 1 else f"the only baseline {best['baseline']}"
        return f"{subject} beats {whom}: {_gain(document, best, target)}.", True
    if best["outcome"] == "worse":
        return (
            f"{subject} does NOT beat {best['baseline']}: {_gain(document, best, target)}. Use {best['baseline']}.",
            False,
        )
    doubtful = next(row for row in rows if row["outcome"] != "better")
    start = "No clear winner" if target is None else f"{target}: no clear winner"
    if doubtful["low"] is None:
        start += " can be told"
    return f"{start}: the model has {_gain(document, doubtful, target)}. {_winners(document, target)}", False


def _no_gain(document: Document, best: Mapping[str, Any], target: str | None) -> str:
    row = next(row for row in document["rows"] if row["name"] == best["baseline"])
    if target is None and row["scaled"][measure_of(document)] == 0:
        return f"{best['baseline']} is without any error."
    return f"The model's forecasts are not finite numbers. Use {best['baseline']}."


def _gain(document: Document, row: Mapping[str, Any], target: str | None) -> str:
    """Writes `1.5 % less squared error than ridge (95 %: 0.9 to 2.1 % over 46 dates)`."""
    if target is None and 1 - row["gain"] >= TIMES:
        ends = [1 - row[end] for end in ("high", "low")] if row["low"] is not None else []
        between = " to ".join(in_times(max(end, 0)) for end in ends) + " times"
        return f"{in_times(1 - row['gain'])} times the {_error(document)} of {row['baseline']}{_sure(document, row, between)}"
    sign, unit = (1, "less") if row["gain"] >= 0 else (-1, "more")
    measure, size = " %", in_percent(sign * row["gain"])
    said = f"{size} % {unit} {_error(document)} than {row['baseline']}"
    if target is not None:
        unit = "more" if sign > 0 else "less"
        measure, said = "", f"{100 * sign * row['gain']:.1f} points {unit} accuracy than {row['baseline']}"
    ends = sorted(sign * row[end] for end in ("low", "high")) if row["low"] is not None else []
    return f"{said}{_sure(document, row, ' to '.join(in_percent(end) for end in ends) + measure)}"


def _error(document: Document) -> str:
    return ERRORS[measure_of(document)]


def _sure(document: Document, row: Mapping[str, Any], between: str) -> str:
    units = _units(document, row)
    if row["low"] is None and row.get("cuts") == 1:
        return f" (no interval: all test windows are of one '{document['split_by']}')"
    if row["low"] is None:
        return f" ({units}: too few for an interval)"
    return f" (95 %: {between} over {units})"


def _units(document: Document, row: Mapping[str, Any]) -> str:
    """What was resampled: `46 dates`, `12 values of 'subject'`, `20 buckets of rows`."""
    if (count := row.get("cuts")) is None:  # as in every evaluation that is older than cuts
        return counted(row["dates"], "date")
    by = document["split_by"]
    buckets = document.get("by_row", by == ROW)  # those of before 0061 do not say it
    return f"{counted(count, 'bucket')} of rows" if buckets else f"{counted(count, 'value')} of '{by}'"


def in_percent(share: float) -> str:
    """A share in per cent; only all of it is 100."""
    return ">99.9" if 0.9995 <= share < 1 else f"{100 * share:.1f}"


def in_times(ratio: float) -> str:
    """A factor as it is said: 12, 340, 1.5 million, 3e+14."""
    if ratio < 10:
        return f"{ratio:.1f}"
    if ratio >= 1e12:
        return f"{ratio:.0e}"
    for size, word in ((1e9, "billion"), (1e6, "million")):
        if ratio >= size:
            return f"{ratio / size:.1f} {word}"
    return f"{ratio:,.0f}"


def _winners(document: Document, target: str | None) -> str:
    """Who is best by each of the two figures."""
    first, second = (
        {row["name"]: value for row in document["rows"] if (value := figure(document, row, target)) is not None}
        for figure in (_first, _second)
    )
    errors = [ERRORS[measure_of(document)], *(word for key, word in ERRORS.items() if key != measure_of(document))]
    names = errors if target is None else ["accuracy", "log loss"]
    best = min(first, key=first.__getitem__)
    other = min(second, key=second.__getitem__) if second else best
    if other == best:
        return f"By {names[0]} and by {names[1]} {best} is best."
    return f"By {names[0]} {best} is best, by {names[1]} {other}."
