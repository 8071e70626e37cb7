"""What an evaluation tells: a row for every predictor, the JSON of it, and whether the model is worth its training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FIGURES = ("count", "mse", "rmse", "mae", "bias", "r2")
RAW_FIGURES = (*FIGURES, "wape", "mape", "mape_left_out")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        scaled, raw: reports of the numeric targets, in scaled units and in those of the data.
        classes: {categorical target: its report}; empty for a predictor of numbers alone.
        sampled: what the user's own metric says of the sampled windows. loss: the model's own.
    """

    name: str
    kind: str  # baseline | model
    scaled: dict[str, Any]
    raw: dict[str, Any]
    classes: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    sampled: dict[str, Any] | None = None
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The table.

    Attributes:
        features: the numeric targets. categorical: the others.
        twins: baselines that are the model itself, a ridge beside the ridge that was trained: no verdict counts them.
        shown: windows to look at, the model's worst, middle and best (`trainer.shown`); not in `to_json`.
    """

    split: str
    windows: int
    features: list[str]
    rows: list[Row]
    notes: list[str]
    categorical: list[str] = field(default_factory=list)
    twins: list[str] = field(default_factory=list)
    shown: list[dict[str, Any]] = field(default_factory=list)

    @property
    def rivals(self) -> list[Row]:
        """The baselines that a model has to beat."""
        return [row for row in self.rows if row.kind == "baseline" and row.name not in self.twins]

    @property
    def best_baseline(self) -> str | None:
        """The baseline to beat: with the lowest scaled MSE, or, without numbers, the best of the first category."""
        ranked = [(float(value), row.name) for row in self.rivals if (value := _mse(row)) is not None]
        if not ranked and self.categorical:
            figure = _accuracy(self.categorical[0])
            ranked = [(-value, row.name) for row in self.rivals if (value := figure(row)) is not None]
        return min(ranked, default=(0.0, None))[1]

    @property
    def beats_baselines(self) -> bool | None:
        """Whether the model is better than every baseline in all that it forecasts: scaled MSE of the numbers,
        accuracy of each categorical target. None without a model, or without a baseline of any of them."""
        told = [self._beats(_mse), *(self._beats(_accuracy(name), higher=True) for name in self.categorical)]
        compared = [verdict for verdict in told if verdict is not None]
        return all(compared) if compared else None

    def _beats(self, figure: Any, *, higher: bool = False) -> bool | None:
        models, others = (
            [value for row in rows if (value := figure(row)) is not None]
            for rows in ([row for row in self.rows if row.kind == "model"], self.rivals)
        )
        if not models or not others:
            return None
        return bool(max(models) > max(others)) if higher else bool(min(models) < min(others))

    def to_json(self) -> dict[str, Any]:
        """The document that `evaluate --json` prints. Overall raw figures are null where features differ in unit."""
        return {
            "split": self.split,
            "windows": self.windows,
            "features": self.features,
            "categorical": self.categorical,
            "rows": [self._row(row) for row in self.rows],
            "beats_baselines": self.beats_baselines,
            "notes": self.notes,
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
            "by_node": row.raw.get("by_node"),
            "by_hour": row.raw.get("by_hour"),
            "classes": dict(row.classes),
            "sampled": row.sampled,
        }


def _chosen(report: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: report.get(key) for key in keys}


def _mse(row: Row) -> float | None:
    value: float | None = row.scaled.get("mse")
    return value


def _accuracy(target: str) -> Any:
    def of(row: Row) -> float | None:
        told: float | None = row.classes.get(target, {}).get("accuracy")
        return told

    return of
