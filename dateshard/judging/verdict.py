"""What an evaluation of a run found, kept beside the run: data/runs/<run>/evaluation-<split>.json.

Sealed JSON, bound to the checkpoint's own files and to the generation that was read; evaluated anew where either is
another. It holds the document of `evaluate --json` without what a page does not need (docs/reading-a-run.md), and the
windows that are drawn: some 20 kB, and 50 bytes a node and target. `runs`, `compare` and the report read figures here.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dateshard.shardstore.disk.durable import replace_file
from dateshard.shardstore.errors import StoreError
from dateshard.shardstore.identity import expected_form, identity, seal, unseal
from dateshard.trainer.assessment.evaluation import Evaluation
from dateshard.trainer.checkpoint import Checkpoint
from dateshard.trainer.runs.run_folder import TrainingRun

VERSION = 2
READABLE = (1, 2)  # 1 has no outcome: its verdict was one of figures without intervals
NODE_FIGURES = ("count", "mae")
STEP_FIGURES = ("count", "mse", "mae")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """An evaluation of one checkpoint.

    Attributes:
        checkpoint: its name. bound: {files, generation, data}: hashes and numbers that it holds for.
        document: as `evaluate --json`; `by_node` and `by_hour` of the model and the best baseline alone.
        shown: windows to draw (`example_windows`). period: forecasts and residuals over time (`assessment.period`), None
            without numbers or of an older version. seconds: that it took. parameters: trained numbers of the model.
    """

    split: str
    checkpoint: str
    bound: Mapping[str, Any]
    document: Mapping[str, Any]
    best_baseline: str | None
    shown: list[dict[str, Any]]
    seconds: float
    parameters: int
    period: dict[str, Any] | None = None

    def row(self, name: str | None = None) -> Mapping[str, Any] | None:
        """The row of that name; without one the model's."""
        rows = self.document["rows"]
        return next((row for row in rows if (row["name"] == name if name else row["kind"] == "model")), None)

    @property
    def outcome(self) -> str | None:
        """Returns `beats`, `loses` or `unclear`; None without a model or a rival, or where an older version judged."""
        outcome: str | None = self.document.get("outcome")
        return outcome

    @property
    def baseline(self) -> Mapping[str, Any] | None:
        """The row of the best baseline."""
        return self.row(self.best_baseline) if self.best_baseline else None

    def headline(self) -> dict[str, Any]:
        """The few figures that a list of runs shows."""
        model, baseline = self.row(), self.baseline
        return {
            "split": self.split,
            "checkpoint": self.checkpoint,
            "windows": self.document["windows"],
            "mse": model["scaled"]["mse"] if model else None,
            "mae": model["scaled"]["mae"] if model else None,
            "accuracy": {name: report["accuracy"] for name, report in model["classes"].items()} if model else {},
            "best_baseline": self.best_baseline,
            "best_baseline_mse": baseline["scaled"]["mse"] if baseline else None,
            "outcome": self.outcome,
            "beats_baselines": None if self.outcome is None else self.outcome == "beats",
        }


def path_of(run: TrainingRun, split: str) -> Path:
    """Where it lies."""
    return run.folder / f"evaluation-{split}.json"


def binding_of(saved: Checkpoint) -> dict[str, Any]:
    """What a verdict on this checkpoint is bound to."""
    data = saved.state.bound.data
    files = identity({name: list(file) for name, file in saved.files.items()})
    return {"files": files, "generation": data.generation, "data": data.id}


def of_evaluation(result: Evaluation, saved: Checkpoint, seconds: float, parameters: int) -> Verdict:
    """What is kept of an evaluation."""
    document, best = result.to_json(), result.best_baseline
    document["rows"] = [_trimmed(row, whole=row["kind"] == "model" or row["name"] == best) for row in document["rows"]]
    if document["unseen"] is not None:
        document["unseen"]["rows"] = [_trimmed(row, whole=False) for row in document["unseen"]["rows"]]
    if document["sample"] is not None:
        document["sample"]["rows"] = [_trimmed(row, whole=False) for row in document["sample"]["rows"]]
    return Verdict(
        split=result.split,
        checkpoint=saved.name,
        bound=binding_of(saved),
        document=document,
        best_baseline=best,
        shown=list(result.shown),
        period=result.period,
        seconds=round(seconds, 3),
        parameters=parameters,
    )


def _trimmed(row: dict[str, Any], *, whole: bool) -> dict[str, Any]:
    """Nodes and hours of the model and the best baseline alone; of a step its squared and absolute error."""
    steps = [{"scaled": {key: step["scaled"][key] for key in STEP_FIGURES}} for step in row["by_horizon"]]
    nodes, classes = row["by_node"] if whole else None, row["classes"]
    if row["kind"] != "model":
        classes = {name: {**report, "confusion": None, "by_class": {}} for name, report in classes.items()}
    hours, interval = row["by_hour"] if whole else None, row["interval"]
    if interval is not None:
        short: dict[str, Any] = {"by_horizon": [], "by_node": None, "by_hour": None}
        interval = {**interval, **short, "own": interval["own"] and {**interval["own"], **short}}
    kept_of_row = {
        "interval": interval,
        "by_horizon": steps,
        "by_step": _columns(row["by_step"] or {}),
        "by_node": nodes and _columns({name: errors for name, errors in nodes.items() if name != "nodes"}),
        "by_hour": hours,
        "classes": classes,
    }
    return {**row, **kept_of_row}


def _columns(by_target: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the kept figures of each target by node or target step."""
    return {name: {key: errors[key] for key in NODE_FIGURES} for name, errors in by_target.items()}


def keep(run: TrainingRun, verdict: Verdict) -> str | None:
    """Writes it beside the run, at once or not at all; why it could not be written (a read-only disk ends nothing)."""
    content = {
        "version": VERSION,
        "split": verdict.split,
        "checkpoint": verdict.checkpoint,
        "bound": dict(verdict.bound),
        "seconds": verdict.seconds,
        "parameters": verdict.parameters,
        "best_baseline": verdict.best_baseline,
        "document": dict(verdict.document),
        "shown": verdict.shown,
        "period": verdict.period,
    }
    path = path_of(run, verdict.split)
    try:
        replace_file(path, seal(content))
    except OSError as error:
        return f"{path} could not be written: {error.strerror}"
    return None


def kept(run: TrainingRun, split: str, saved: Checkpoint | None = None, *, older: bool = False) -> Verdict | None:
    """The verdict that lies beside a run.

    Args:
        found: a checkpoint that it must be about, and of these very bytes; None: whatever it is about.
        older: take its figures also where an older version judged.

    Returns:
        None where there is none, it is damaged, or it is about another checkpoint: it can be made anew.
    """
    path = path_of(run, split)
    with suppress(OSError, StoreError):
        content = unseal(path.read_bytes(), str(path))
        with expected_form(str(path)):
            if content["version"] not in (READABLE if older else (VERSION,)):
                return None
            names = Verdict.__dataclass_fields__
            verdict = Verdict(**{name: content[name] for name in names if name != "period" or name in content})
            verdict.headline()
        if saved is None or (verdict.checkpoint, verdict.bound) == (saved.name, binding_of(saved)):
            return verdict
    return None
