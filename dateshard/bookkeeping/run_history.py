"""How a run went: metrics.jsonl read line by line into a bounded number of points, for charts on paper and in a terminal.

Memory: `POINTS` points a figure and `MOST_EPOCHS` of epochs, however long the run was. The file is read twice; while a
run is being trained, the second reading leaves out what came in between.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dateshard.shardstore.scaling.transform import Floats
from dateshard.trainer.runs.run_folder import TrainingRun

POINTS, MOST_EPOCHS, MOST_RESUMES = 300, 400, 40
STEP_FIGURES = ("loss", "learning_rate", "windows_per_second", "data_wait", "memory_bytes")
EPOCH_FIGURES = ("train_loss", "val_loss", "train_accuracy", "val_accuracy", "learning_rate", "step", *STEP_FIGURES[2:])


@dataclass(slots=True)
class Series:
    """One figure: points that each stand for one row or for some neighbouring ones.

    Attributes:
        x_K: mean step of each point. mean_K, low_K, high_K: of its rows; NaN where none has the figure.
    """

    x_K: Floats
    mean_K: Floats
    low_K: Floats
    high_K: Floats

    @property
    def known(self) -> bool:
        """Whether any point has a value."""
        return bool(np.isfinite(self.mean_K).any())


@dataclass(slots=True, kw_only=True)
class Best:
    """The epoch with the lowest validation loss (without validation: training loss); the first of equal ones.

    Attributes:
        loss: of that epoch. figure: what ranks it: the loss, or what `metrics.judge` names.
    """

    epoch: int
    step: int
    loss: float
    validated: bool
    figure: float


@dataclass(slots=True, kw_only=True)
class RunHistory:
    """What the rows of a run say.

    Attributes:
        steps, epochs: figures by name; the losses of each head are `losses.NAME`, `train.NAME` and `validation.NAME`.
        heads: names of the losses. resumes: steps that a continued run went on from, the last `MOST_RESUMES`.
        seconds: of all epochs, as they were told. skipped: steps without a finite gradient.
    """

    last_step: int = 0
    last_epoch: int = 0
    whole_epochs: int = 0
    num_rows: int = 0
    heads: list[str] = field(default_factory=list)
    steps: dict[str, Series] = field(default_factory=dict)
    epochs: dict[str, Series] = field(default_factory=dict)
    resumes: list[int] = field(default_factory=list)
    best: Best | None = None
    final: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    skipped: int = 0
    peak_bytes: int | None = None
    custom_errors: list[str] = field(default_factory=list)


def history(run: TrainingRun) -> RunHistory:
    """Reads the history of a run's metrics.jsonl; empty where there is none."""
    course = RunHistory()
    for row in run.metrics():
        _first_look(course, row)
    steps = {name: _Binned(POINTS) for name in (*STEP_FIGURES, *(f"losses.{head}" for head in course.heads))}
    heads = [f"{side}.{head}" for side in ("train", "validation") for head in course.heads]
    size = min(max(course.last_epoch, 1), MOST_EPOCHS)
    epochs = {name: _Binned(size) for name in (*EPOCH_FIGURES, *heads)}
    for row in run.metrics():
        step, epoch = row["step"], _whole(row.get("epoch"))
        if step > course.last_step or not 0 < epoch <= course.last_epoch:
            continue
        if "val_loss" in row:
            for name, binned in epochs.items():
                binned.add((epoch - 1) * size // course.last_epoch, step, _of_epoch(row, name))
        else:
            for name, binned in steps.items():
                binned.add(max(step - 1, 0) * POINTS // max(course.last_step, 1), step, _nested(row, name))
    course.steps = {name: binned.series() for name, binned in steps.items()}
    course.epochs = {name: binned.series() for name, binned in epochs.items()}
    return course


def _first_look(course: RunHistory, row: Mapping[str, Any]) -> None:
    """Ends, counts, and the best epoch: exact, whatever is put together in a point."""
    epoch = _whole(row.get("epoch"))
    course.num_rows += 1
    course.last_step, course.last_epoch = max(course.last_step, row["step"]), max(course.last_epoch, epoch)
    if isinstance(row.get("resumed_at"), int):
        course.resumes = [*course.resumes, row["resumed_at"]][-MOST_RESUMES:]
    memory = [row[key] for key in ("memory_bytes", "peak_memory_bytes") if isinstance(row.get(key), int)]
    course.peak_bytes = max([*memory, *([] if course.peak_bytes is None else [course.peak_bytes])], default=None)
    if "val_loss" not in row:
        course.heads += [head for head in row.get("losses") or {} if head not in course.heads]
        return
    course.heads += [head for head in _nested(row, "train.losses") or {} if head not in course.heads]
    course.whole_epochs, course.final = course.whole_epochs + 1, row
    course.seconds += _number(row.get("time_per_epoch")) or 0.0
    course.skipped += _whole(row.get("skipped"))
    for side in ("train", "validation"):
        error = (_nested(row, f"{side}.sampled") or {}).get("error")
        if error and error not in course.custom_errors:
            course.custom_errors = [*course.custom_errors, str(error)][:5]
    _note_best(course, row, epoch)


def _note_best(course: RunHistory, row: Mapping[str, Any], epoch: int) -> None:
    held = _number(row.get("val_loss"))
    loss = held if held is not None else _number(row.get("train_loss"))
    figure = _number(row["judged"]) if "judged" in row else loss
    if loss is None or figure is None or (course.best and course.best.validated and held is None):
        return
    better = course.best is None or figure < course.best.figure or (held is not None and not course.best.validated)
    if better:
        course.best = Best(epoch=epoch, step=row["step"], loss=loss, validated=held is not None, figure=figure)


class _Binned:
    """Sums, counts, least and greatest of a figure by bin."""

    def __init__(self, size: int) -> None:
        self.sums = np.zeros((4, size))  # values, their count, steps, their count
        self.low, self.high = np.full(size, np.inf), np.full(size, -np.inf)

    def add(self, place: int, step: int, value: Any) -> None:
        self.sums[2:, place] += (step, 1)
        if (figure := _number(value)) is not None:
            self.sums[:2, place] += (figure, 1)
            self.low[place], self.high[place] = min(self.low[place], figure), max(self.high[place], figure)

    def series(self) -> Series:
        used = np.flatnonzero(self.sums[3])
        total, count, steps, rows = self.sums[:, used]
        known = count > 0
        mean = np.where(known, total / np.maximum(count, 1), np.nan)
        ends = [np.where(known, bound[used], np.nan) for bound in (self.low, self.high)]
        return Series(steps / np.maximum(rows, 1), mean, *ends)


def _of_epoch(row: Mapping[str, Any], name: str) -> Any:
    side, _, head = name.partition(".")
    return _nested(row, f"{side}.losses.{head}") if head else row.get(name)


def _nested(row: Mapping[str, Any], path: str) -> Any:
    """Finds a figure of a row by its path, `train.losses.geo`: a head's own name may hold dots."""
    first, _, rest = path.partition(".")
    second, _, last = rest.partition(".") if first in ("train", "validation") else (rest, "", "")
    value: Any = row.get(first)
    for key in (second, last):
        if key:
            value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _number(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
