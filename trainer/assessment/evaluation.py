"""What an evaluation tells: a row for every predictor, the JSON of it, and whether the model is worth its training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from dateshard.trainer.assessment.baseline_comparison import Comparison, Measure

FIGURES = ("count", "mse", "rmse", "mae", "bias", "r2")
RAW_FIGURES = (*FIGURES, "wape", "mape", "mape_left_out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        scaled, raw: reports of the numeric targets, in scaled units and in those of the data.
        classes: {categorical target: its report}; empty for a predictor of numbers alone.
        sampled: what the user's own metric says of the sampled windows. loss: the model's own.
        interval: scores of its intervals; None of a predictor that has none.
    """

    name: str
    kind: str  # baseline | model
    scaled: dict[str, Any]
    raw: dict[str, Any]
    classes: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    sampled: dict[str, Any] | None = None
    loss: float | None = None
    interval: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The table of an evaluation: a model beside its baselines.

    Attributes:
        features: the numeric targets. categorical: the others.
        twins: baselines that are the model itself, a ridge beside the ridge that was trained: no verdict counts them.
        comparisons: the model beside each of its rivals, in the numbers together and in each category.
        difficulty: {split: scaled squared error of `ridge` there}, of the splits that it was tried on.
        measure: the error of numbers that decides. history: steps that the model looks back.
        shown: windows to look at, the model's worst, middle and best (`trainer.assessment.example_windows`); not in `to_json`.
        period: what the model forecast over time (`trainer.assessment.period`); not in `to_json`, None without numbers.
        observed: {split: share of its target cells}.
        split_by: the column whose values are divided, `row` for the buckets of a table; None where dates are.
        by_row: whether it is these buckets, and not a column of that name.
        sample: the table of a sample of the windows, where slow baselines are judged on these alone: all its rows are of
            them, those of the others too; None: there is one table.
        unseen: the table of the nodes that training never saw; all others are of the nodes that it saw alone. None: there
            are none, or nothing of them was observed. unseen_nodes: of that table, how many there are.
    """

    split: str
    windows: int
    features: list[str]
    rows: list[Row]
    notes: list[str]
    categorical: list[str] = field(default_factory=list)
    twins: list[str] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    difficulty: dict[str, float] = field(default_factory=dict)
    measure: Measure = "mse"
    history: int = 0
    shown: list[dict[str, Any]] = field(default_factory=list)
    period: dict[str, Any] | None = None
    observed: dict[str, float] = field(default_factory=dict)
    split_by: str | None = None
    by_row: bool = False
    sample: Evaluation | None = None
    unseen: Evaluation | None = None
    unseen_nodes: int = 0

    @property
    def rivals(self) -> list[Row]:
        """The baselines that a model has to beat."""
        return [row for row in self.rows if row.kind == "baseline" and row.name not in self.twins]

    @property
    def best_baseline(self) -> str | None:
        """The baseline to beat: with the lowest scaled MSE (or MAE), or, without numbers, the best of the first category."""
        return self._best(None) or (self._best(self.categorical[0]) if self.categorical else None)

    def _best(self, target: str | None) -> str | None:
        """The rival with the lowest scaled error of numbers, or that is right most often."""
        figures = [
            (row.name, row.scaled.get(self.measure) if target is None else _accuracy(row, target))
            for row in self.rivals
        ]
        ranked = [(value if target is None else -value, name) for name, value in figures if value is not None]
        return min(ranked, default=(0.0, None))[1]

    @property
    def outcome(self) -> str | None:
        """Returns `beats`, `loses` or `unclear`; None without a model or a rival.

        `beats`: better than every rival in all that it forecasts; `loses`: in all of it worse than the best of them. With a
        sample it beats where it does so in both tables, and loses where it does in one."""
        tables = [self] if self.sample is None else [self, self.sample]
        outcomes = {outcome for table in tables if (outcome := table._outcome) is not None}
        return (
            "loses"
            if "loses" in outcomes
            else outcomes.pop()
            if len(outcomes) == 1
            else "unclear"
            if outcomes
            else None
        )

    @property
    def _outcome(self) -> str | None:
        """The outcome of this table alone."""
        if not self.comparisons:
            return None
        if all(comparison.outcome == "better" for comparison in self.comparisons):
            return "beats"
        best = {target: self._best(target) for target in (None, *self.categorical)}
        against = [comparison for comparison in self.comparisons if comparison.baseline == best[comparison.target]]
        return "loses" if against and all(comparison.outcome == "worse" for comparison in against) else "unclear"

    @property
    def beats_baselines(self) -> bool | None:
        """Whether it is sure that the model is better than every rival in all that it forecasts."""
        return None if self.outcome is None else self.outcome == "beats"

    def to_json(self) -> dict[str, Any]:
        """The document that `evaluate --json` prints. Overall raw figures are null where features differ in unit."""
        return {
            "split": self.split,
            "split_by": self.split_by,
            "by_row": self.by_row,
            "measure": self.measure,
            "history": self.history,
            "observed": self.observed,
            "features": self.features,
            "categorical": self.categorical,
            **self._table(),
            "outcome": self.outcome,
            "beats_baselines": self.beats_baselines,
            "sample": None if self.sample is None else {**self.sample._table(), "outcome": self.sample.outcome},
            "unseen": None if self.unseen is None else {"nodes": self.unseen.unseen_nodes, **self.unseen._table()},
            "difficulty": dict(self.difficulty),
            "notes": self.notes,
        }

    def _table(self) -> dict[str, Any]:
        return {
            "windows": self.windows,
            "rows": [self._row(row) for row in self.rows],
            "best_baseline": self.best_baseline,
            "comparisons": [{**asdict(comparison), "outcome": comparison.outcome} for comparison in self.comparisons],
        }

    def _row(self, row: Row) -> dict[str, Any]:
        one_unit = len(self.features) == 1
        raw = {key: row.raw.get(key) if one_unit else None for key in RAW_FIGURES}
        scaled = row.scaled.get("by_horizon", [])
        steps = [
            {"scaled": _chosen(s, FIGURES), "raw": _chosen(r, RAW_FIGURES) if one_unit else None}
            for s, r in zip(scaled, row.raw.get("by_horizon") or [{}] * len(scaled), strict=True)
        ]
        return {
            "name": row.name,
            "kind": row.kind,
            "loss": row.loss,
            "scaled": {**_chosen(row.scaled, FIGURES), "by_feature": row.scaled.get("by_feature", {})},
            "raw": {**raw, "by_feature": row.raw.get("by_feature", {})},
            "by_horizon": steps,
            "by_step": row.raw.get("by_step"),
            "by_node": row.raw.get("by_node"),
            "by_hour": row.raw.get("by_hour"),
            "classes": dict(row.classes),
            "sampled": row.sampled,
            "interval": row.interval,
        }


def _chosen(report: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: report.get(key) for key in keys}


def _accuracy(row: Row, target: str) -> float | None:
    value: float | None = row.classes.get(target, {}).get("accuracy")
    return value
