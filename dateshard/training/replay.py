"""A step of a run replayed: its figures, whether they are those that were logged, and the raw rows behind its losses."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dateshard.documents.replay import Difference, ReplayDocument, TracedCell, TracedRow, TracedWindow
from dateshard.places import shards_folder
from dateshard.preparing.cell_rows import Cell, CellRows, rows_of_cells
from dateshard.preparing.dump_rows import has_no_times
from dateshard.preparing.raw_units import raw_units
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import DateshardError
from dateshard.shardstore.times.instants import spell
from dateshard.trainer.runs.recomputing import Recomputed, recompute
from dateshard.trainer.runs.run_folder import TrainingRun
from dateshard.trainer.runs.window_losses import CellLoss, WindowLoss
from dateshard.training.metric_rows import step_row
from dateshard.training.unprepared_dates import opener_of
from dateshard.trust import settings_of_run


@dataclass(frozen=True, slots=True)
class Replayed:
    """A replayed step: what `--json` prints of it, and the model's tensors after it."""

    document: ReplayDocument
    weights: dict[str, torch.Tensor]


def replay_step(
    run: TrainingRun, step: int, *, trace: bool = False, most: int | None = None, trust: bool = False
) -> Replayed:
    """Takes a step of a run again, in memory, and compares it with the row of metrics.jsonl that tells of it.

    Args:
        step: from 1. trace: whether windows and rows are listed. most: so many windows at most; None: all.
        trust: the code that the run names may be imported.

    Raises:
        UsageError, StoreError: what happened, where, and what to do next.
    """
    settings = settings_of_run(run, recover=True, trust=trust)
    shards, opener = shards_folder(settings.dataset), opener_of(settings)
    again = recompute(run, settings.trainer, shards, step, windows=trace, opener=opener)
    document = _document(run, again)
    if again.windows is not None:
        tracing = _Tracing(again.session.train.dataset, again.session.train.order.batch_size)
        document["trace"] = tracing.windows(again.windows[:most])
        document["notes"] += tracing.notes
    return Replayed(document, again.weights)


def _document(run: TrainingRun, again: Recomputed) -> ReplayDocument:
    stepped, now = again.stepped, step_row(again.stepped)
    logged = [row for row in run.metrics() if row["step"] == stepped.step and "batch" in row]
    differences = _differences(logged[-1], now) if logged else []
    return {
        "run": run.name,
        "step": stepped.step,
        "epoch": stepped.epoch + 1,
        "batches": (again.first_batch, stepped.batch),
        "num_batches": stepped.num_batches,
        "windows": stepped.size,
        "from_checkpoint": again.origin,
        "steps_taken": again.steps,
        "loss": now["loss"],
        "losses": now["losses"],
        "gradient_norm": None if stepped.gradient_norm is None else float(stepped.gradient_norm),
        "learning_rate": stepped.learning_rate,
        "skipped": again.session.state.skipped_in_a_row > 0,
        "equal": not differences if logged else None,
        "differences": differences,
        "trace": None,
        "notes": list(again.notes),
    }


def _differences(logged: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Figures of a step that are not those of its row; what an older version did not log is not compared."""
    return [
        {"key": key, "logged": logged[key], "replayed": value}
        for key, value in now.items()
        if key in logged and logged[key] != value
    ]


class _Tracing:
    """Finds the rows behind windows; `notes` say why those of a date are not known."""

    def __init__(self, dataset: Dataset, batch_size: int) -> None:
        self.dataset, self.batch_size, self.notes = dataset, batch_size, list[str]()

    def windows(self, ranked: Sequence[WindowLoss]) -> list[TracedWindow]:
        """The windows with their worst cells, and the rows of these. Each date's dump is read once."""
        by_date = dict[dt.date, dict[Cell, CellRows]]()
        cells = [cell for window in ranked for cell in window.cells]
        for date in sorted({cell.date for cell in cells}):
            by_date[date] = self._rows(date, {_cell(cell) for cell in cells if cell.date == date})
        return [
            {
                "loss": window.loss,
                "date": self._date(window.date),
                "anchor": self._time(window.date, window.step),
                "batch": window.position // self.batch_size + 1,
                "cells": [self._traced(cell, by_date[cell.date].get(_cell(cell))) for cell in window.cells],
            }
            for window in ranked
        ]

    def _rows(self, date: dt.date, cells: Iterable[Cell]) -> dict[Cell, CellRows]:
        ordered = sorted(cells, key=lambda cell: (cell.step, cell.node, cell.feature))
        try:
            return dict(zip(ordered, rows_of_cells(self.dataset, date, ordered), strict=True))
        except DateshardError as error:
            self.notes.append(f"the rows of {date} are not known: {error}")
            return {}

    def _traced(self, cell: CellLoss, known: CellRows | None) -> TracedCell:
        rows: list[TracedRow] | None = None
        if known is not None:
            rows = [{"file": row.file, "row": row.row, "value": row.value} for row in known.rows]
        return {
            "node": self.dataset.nodes.names[cell.node],
            "feature": self.dataset.feature_names[cell.feature],
            "head": cell.head,
            "date": self._date(cell.date),
            "time": self._time(cell.date, cell.step),
            "loss": cell.loss,
            "value": self._value(cell),
            "rows": rows,
            "num_rows": None if known is None else known.count,
        }

    def _value(self, cell: CellLoss) -> float | str | None:
        """The cell's value in raw units; of a category its text, None where training never saw it."""
        feature = self.dataset.features[cell.feature]
        if feature.categorical:
            words, code = self.dataset.vocabularies.names[feature.name], int(cell.value)
            return words[code - 1] if code else None
        scaled_TNF = np.full((1, len(self.dataset.nodes.names), 1), cell.value, dtype=np.float32)
        return float(raw_units(self.dataset, scaled_TNF, [cell.feature])[0, cell.node, 0])

    def _date(self, date: dt.date) -> str | None:
        return None if self.dataset.manifest.undated else str(date)

    def _time(self, date: dt.date, step: int) -> str | None:
        if has_no_times(self.dataset):
            return None
        instant = int(self.dataset.times(self.dataset.manifest.day(date))[step])
        return spell(instant, self.dataset.manifest.timezone)


def _cell(cell: CellLoss) -> Cell:
    return Cell(cell.step, cell.node, cell.feature)
