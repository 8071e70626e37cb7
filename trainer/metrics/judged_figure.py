"""Which figure of a pass decides: `metrics.judge`, by which checkpoints are ranked and training stops early."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dateshard.shardstore.errors import UsageError
from dateshard.trainer.optimization.objective import Head

LOSS, ACCURACY = "loss", "accuracy"
NAMES = {LOSS: "loss", "mse": "MSE", "rmse": "RMSE", "mae": "MAE", ACCURACY: "share of wrong categories"}


def judged_figure(report: Mapping[str, Any], judge: str) -> float | None:
    """The figure of a report, the lower the better: of the accuracy what it lacks to 1. None where nothing counts."""
    value: float | None = report[judge]
    return 1 - value if judge == ACCURACY and value is not None else value


def refuse_strange_judge(judge: str, heads: Sequence[Head]) -> None:
    """Refuses a figure that no target has.

    Raises:
        UsageError: an error of numbers where all targets are categories, or the accuracy where none is.
    """
    categories = [head.loss == "cross_entropy" for head in heads]
    if judge == LOSS or (any(categories) if judge == ACCURACY else not all(categories)):
        return
    what = "no target is a category" if judge == ACCURACY else "every target is a category"
    raise UsageError(f"trainer.metrics.judge is {judge}, and {what}", todo="Use loss, or name other trainer.targets")


def judge_of(config: Mapping[str, Any]) -> str:
    """The figure that a run's own configuration names; those of before it was one have `loss`."""
    judge: str = config.get("metrics", {}).get("judge", LOSS)
    return judge
