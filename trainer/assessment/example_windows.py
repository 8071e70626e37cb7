"""Windows to look at: what was known, what came, what the model and the best baseline said, in the data's units.

A window is drawn at one node: the worst ones at the node with the largest error, the others at the node whose error is
nearest to the window's own. A cell that was not observed is None.

Legend: H drawn history steps, P target steps, N nodes, T targets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dateshard.shardstore.scaling.transform import Floats, untransform
from dateshard.shardstore.times.instants import spell
from dateshard.trainer.assessment.ranking import Ranked, cell_errors, mean_errors
from dateshard.trainer.config import Trainer
from dateshard.trainer.data.batch import Batch
from dateshard.trainer.data.reader import Reader
from dateshard.trainer.data.window_dates import InstantOf
from dateshard.trainer.metrics.epoch import Form

MOST_TARGETS = 4  # drawn of a window
HISTORIES = 2  # horizons of history that are drawn, and no more steps than
MOST_HISTORY = 400

Forecast = Callable[[Batch], Mapping[str, torch.Tensor]]


def mapped(config: Trainer) -> Trainer:
    """Returns the configuration for reading a few single windows: no block is filled for them."""
    return config.model_copy(update={"loading": config.loading.model_copy(update={"policy": "mapped"})})


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Reads single windows of a pass again.

    Attributes:
        targets: places among the dataset's features. forecasts: the model first, then whom it is drawn beside.
        instant_of: where one of them is told when the steps are.
    """

    reader: Reader
    form: Form
    targets: tuple[int, ...]
    forecasts: Mapping[str, Forecast]
    instant_of: InstantOf | None = None

    @torch.no_grad()
    def windows(self, ranked: Sequence[Ranked]) -> list[dict[str, Any]]:
        """Each as JSON; memory: one batch at a time."""
        return [self._window(example) for example in ranked]

    def _window(self, example: Ranked) -> dict[str, Any]:
        batch = self._batch(example.position)
        predicted = {name: forecast(batch) for name, forecast in self.forecasts.items()}
        cells = cell_errors(self.form, next(iter(predicted.values())), batch)
        assert cells is not None, "it was ranked"
        errors_N = mean_errors(cells, (0, 1, 3))
        away = -errors_N if example.kind == "worst" else np.abs(errors_N - example.error)
        node = int(np.argmin(np.where(np.isnan(away), np.inf, away)))
        values, time_T = self._read(example.position)
        names = [target.name for target in self.form.targets]
        targets = []
        for place, name in enumerate(names[:MOST_TARGETS]):
            by_name = {who: self._raw(forecast, place, node) for who, forecast in predicted.items()}
            targets.append({"name": name, "values": _plain(values[:, node, place]), "forecasts": by_name})
        return {
            "kind": example.kind,
            "error": example.error if np.isfinite(example.error) else None,
            "node": self.reader.dataset.nodes.names[node],
            "first_ns": int(time_T[0]),
            "begins": spell(int(time_T[-self.form.num_steps]), self.reader.dataset.manifest.timezone),
            "horizon_from": len(values) - self.form.num_steps,
            "targets": targets,
        }

    def _batch(self, position: int) -> Batch:
        size = self.reader.order.batch_size
        batch, row = next(iter(self.reader.batches(0, start=position // size))), position % size
        batch = batch.rows(slice(row, row + 1))
        return batch if self.instant_of is None else self.instant_of.on(batch, range(position, position + 1))

    def _read(self, position: int) -> tuple[Floats, NDArray[np.int64]]:
        """Returns (raw [H + P, N, T] with NaN where nothing was observed, the instant of each step)."""
        order, dataset = self.reader.order, self.reader.dataset
        piece = order.epoch(0).pieces(position, position + 1)[0]
        run, anchor = order.runs[int(piece.block_runs[piece.run_K[0]])], int(piece.anchor_K[0])
        window, steps = self.reader.wanted.window, self.form.num_steps
        known = min(window.history, HISTORIES * steps, MOST_HISTORY) if window.horizon else 0
        known = min(known, anchor - run.begin)
        first = anchor - known if window.horizon else anchor - window.history + 1
        shape = (known + steps, dataset.manifest.num_nodes, len(dataset.features))
        scaled, seen = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.bool_)
        time_T = np.empty(known + steps, dtype=np.int64)
        dataset.read_span(run.segment, first, first + known + steps, scaled, seen, times=time_T)
        raw = untransform(dataset.scale.undo(scaled), [feature.transform for feature in dataset.features])
        raw[~seen] = np.nan
        values = raw[..., list(self.targets)]
        for place in self._categorical():
            values[values[..., place] < 0.5, place] = np.nan  # code 0: unseen in training
        return values, time_T

    def _categorical(self) -> list[int]:
        return [head.targets[0] for head in self.form.categorical]

    def _raw(self, forecast: Mapping[str, torch.Tensor], place: int, node: int) -> list[float | None]:
        """Returns [P] of one target at one node; of a category its code."""
        head = next(head for head in self.form.heads if place in head.targets)
        if head.name not in forecast:
            return [None] * self.form.num_steps
        given = forecast[head.name][0].detach().cpu()
        if head.loss == "cross_entropy":
            return _plain(given[:, node, 1:].argmax(-1).numpy().astype(np.float64) + 1)
        units, at = self.form.units, self.form.numbers.index(place)
        assert units is not None, "form_of always gives them"
        joined = torch.zeros(*given.shape[:2], len(self.form.numbers), dtype=torch.float64)
        joined[..., at] = given[..., head.targets.index(place)]
        return _plain(units.raw(joined)[:, node, at].numpy())


def _plain(values: Floats) -> list[float | None]:
    """Seven digits, None where there is no number."""
    return [float(f"{value:.7g}") if np.isfinite(value) else None for value in values.tolist()]
