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
from dateshard.trainer.assessment.quantiles import RawQuantiles
from dateshard.trainer.assessment.ranking import Ranked, Ranking, cell_errors, drawn_node, mean_errors
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


class DrawnEnds:
    """The ends of intervals of the windows that may be drawn, as they stood when each was forecast; scaled.

    An interval follows the windows before it, so it cannot be told of a single window later. Memory: two ends of the drawn
    targets, at one or two nodes, of the thousand windows that a `Ranking` chooses among.
    """

    def __init__(self) -> None:
        self._by_place: dict[tuple[int, int], Floats] = {}

    def add(
        self, ranking: Ranking, positions: range, cells: tuple[Floats, NDArray[np.bool_]], ends_2BPNF: Floats
    ) -> None:
        """Keeps the ends of a batch's windows that may be chosen, after they were ranked, and forgets those that cannot be."""
        chances = {kind: set(places.tolist()) for kind, places in ranking.chances().items()}
        errors_BN, errors_B = mean_errors(cells, (1, 3)), mean_errors(cells, (1, 2, 3))
        for row, position in enumerate(positions):
            for kind in (kind for kind, places in chances.items() if position in places):
                node = drawn_node(errors_BN[row], kind, float(errors_B[row]))
                self._by_place[position, node] = ends_2BPNF[:, row, :, node, :MOST_TARGETS].astype(np.float32)
        possible = set[int]().union(*chances.values())
        for place in [place for place in self._by_place if place[0] not in possible]:
            del self._by_place[place]

    def of(self, position: int, node: int) -> Floats | None:
        """Returns [2, P, numeric targets]; None where there is no interval."""
        return self._by_place.get((position, node))


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Reads single windows of a pass again.

    Attributes:
        targets: places among the dataset's features. forecasts: the model first, then whom it is drawn beside.
        instant_of: where one of them is told when the steps are.
        ends: of the model's intervals at `level`, where it has such.
        quantiles: reads those of the model, which are drawn where it has no intervals; `outputs` gives all its outputs.
    """

    reader: Reader
    form: Form
    targets: tuple[int, ...]
    forecasts: Mapping[str, Forecast]
    instant_of: InstantOf | None = None
    ends: DrawnEnds
    level: float
    quantiles: RawQuantiles | None
    outputs: Forecast | None

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
        node = drawn_node(errors_N, example.kind, example.error)
        values, time_T = self._read(example.position)
        names, interval = [target.name for target in self.form.targets], self._interval(example.position, node, batch)
        targets = []
        for place, name in enumerate(names[:MOST_TARGETS]):
            by_name = {who: self._raw(forecast, place, node) for who, forecast in predicted.items()}
            target = {"name": name, "values": _plain(values[:, node, place]), "forecasts": by_name}
            targets.append({**target, "interval": interval.get(place)})
        return {
            "kind": example.kind,
            "error": example.error if np.isfinite(example.error) else None,
            "node": self.reader.dataset.nodes.names[node],
            "first_ns": int(time_T[0]),
            "begins": spell(int(time_T[-self.form.num_steps]), self.reader.dataset.manifest.timezone),
            "horizon_from": len(values) - self.form.num_steps,
            "targets": targets,
        }

    def _interval(self, position: int, node: int, batch: Batch) -> dict[int, dict[str, Any]]:
        """Returns {numeric target: its interval, raw} at a node; the outermost quantiles where the model has no interval."""
        units, quantiles, ends_2PF = self.form.units, self.quantiles, self.ends.of(position, node)
        assert units is not None, "form_of always gives them"
        if ends_2PF is not None:
            numbers, nodes = self.form.numbers, self.reader.dataset.manifest.num_nodes
            scaled_2PNF = torch.zeros(*ends_2PF.shape[:2], nodes, len(numbers), dtype=torch.float64)
            scaled_2PNF[:, :, node, : ends_2PF.shape[-1]] = torch.from_numpy(ends_2PF)
            raw_2PF = units.raw(scaled_2PNF)[:, :, node, : ends_2PF.shape[-1]].numpy()
            about: dict[str, Any] = {"level": self.level, "quantiles": None}
        elif self.outputs is not None and quantiles is not None and len(quantiles.levels) > 1:
            outer = (quantiles.levels[0], quantiles.levels[-1])
            raw_2PF = np.moveaxis(quantiles.raw(self.outputs(batch), outer)[0, :, node], -1, 0)
            about = {"level": float(f"{outer[1] - outer[0]:.6g}"), "quantiles": list(outer)}
        else:
            return {}
        return {
            place: {**about, "low": _plain(raw_2PF[0, :, at]), "high": _plain(raw_2PF[1, :, at])}
            for at, place in enumerate(self.form.numbers[: raw_2PF.shape[-1]])
            if not np.isnan(raw_2PF[..., at]).all()
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
