"""The figures of a backtest: of each origin, and of all of them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dateshard.documents.backtesting import BacktestCost, BacktestDocument, BacktestSummary, OriginRow
from dateshard.judging.backtesting.backtest_file import is_judged
from dateshard.judging.backtesting.backtest_plan import BacktestPlan
from dateshard.judging.sentences import ERRORS, measure_of
from dateshard.judging.spread import spread_of
from dateshard.judging.verdict import Verdict

if TYPE_CHECKING:
    import polars

NUMBERS = {measure: measure.upper() for measure in ERRORS}  # scores of numbers, as they are shown


def judged_row(row: OriginRow, verdict: Verdict) -> OriginRow:
    """The row of an origin with the figures of its verdict."""
    document, target = verdict.document, _target(verdict)
    compared = next(
        (
            comparison
            for comparison in document["comparisons"]
            if (comparison["baseline"], comparison["target"]) == (verdict.best_baseline, target)
        ),
        {"gain": None, "low": None, "high": None},
    )
    judged = row.copy()
    judged["generation"], judged["windows"] = verdict.bound["generation"], document["windows"]
    rows, measure = (verdict.row(), verdict.baseline), measure_of(document)
    judged["score"], judged["baseline_score"] = (_score(own, target, measure) for own in rows)
    judged["best_baseline"], judged["outcome"] = verdict.best_baseline, document["outcome"]
    judged["gain"], judged["low"], judged["high"] = compared["gain"], compared["low"], compared["high"]
    return judged


def _target(verdict: Verdict) -> str | None:
    """The category that is scored; None where numbers are forecast, which are compared together."""
    return None if verdict.document["features"] else verdict.document["categorical"][0]


def _score(row: Mapping[str, Any] | None, target: str | None, measure: str) -> float | None:
    if row is None:
        return None
    classes = row["classes"].get(target, {})
    score: float | None = row["scaled"][measure] if target is None else classes.get("accuracy")
    return score


def summary_of(rows: Sequence[OriginRow]) -> BacktestSummary | None:
    """All judged origins together; None while there is none."""
    judged = [row for row in rows if is_judged(row)]
    if not judged:
        return None
    outcomes = [row["outcome"] for row in judged]
    return {
        "judged": len(judged),
        "score": spread_of([row["score"] for row in judged]),
        "baseline_score": spread_of([row["baseline_score"] for row in judged]),
        "gain": spread_of([row["gain"] for row in judged]),
        "beats": outcomes.count("beats"),
        "loses": outcomes.count("loses"),
        "unclear": outcomes.count("unclear"),
    }


def document_of(
    plan: BacktestPlan, rows: Sequence[OriginRow], cost: BacktestCost | None = None, page: Path | None = None
) -> BacktestDocument:
    """What `backtest --json` prints."""
    return {
        "dataset": plan.settings.dataset,
        "name": plan.name,
        "folder": str(plan.folder),
        "model": plan.settings.trainer.model.name,
        "every": plan.every,
        "measure": _measure_of(plan),
        "origins": list(rows),
        "summary": summary_of(rows),
        "cost": cost,
        "page": None if page is None else str(page),
    }


def _measure_of(plan: BacktestPlan) -> str:
    """What the scores are: `mse`, `mae`, or the accuracy of the first category where no number is forecast."""
    targets, features = plan.settings.trainer.targets, plan.settings.preparing().features
    names = list(targets or features)
    numbers = [name for name in names if name in features and not features[name].categorical]
    decides = "mae" if plan.settings.trainer.metrics.judge == "mae" else "mse"
    return decides if numbers or not names else f"accuracy of {names[0]}"


def frame_of(rows: Sequence[OriginRow]) -> polars.DataFrame:
    """The rows as a table, with ranges of dates as texts."""
    import polars as pl

    figures = ("windows", "score", "best_baseline", "baseline_score", "gain", "low", "high", "outcome", "run")
    return pl.DataFrame(
        [
            {
                "origin": row["origin"],
                **{name: ", ".join("..".join(ends) for ends in ranges) for name, ranges in row["split"].items()},
                **{name: row[name] for name in figures},  # type: ignore[literal-required]
            }
            for row in rows
        ],
        infer_schema_length=None,
    )
