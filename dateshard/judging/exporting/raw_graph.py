"""All that is done between raw values and a raw forecast, as one torch module without a branch: what becomes a graph.

It says in torch what `encode`, the forecaster and the forecast table say in numpy; the export compares the two.

Legend: B batch, H history, W window steps, P target steps, N nodes, I inputs, T targets that are numbers, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from dateshard.shardstore.layouts.category_codes import UNSEEN
from dateshard.shardstore.layouts.feature import Feature
from dateshard.shardstore.scaling.scale import Scale
from dateshard.trainer.assessment.forecaster import Forecaster
from dateshard.trainer.bounds import bounds_of, clamped, points_within, scaled_bounds
from dateshard.trainer.optimization.objective import by_head


class RawGraph(nn.Module):
    """Maps raw history [B, H, N, I], what of it was observed, and time codes [B, W] to `output_names`.

    `value` is [B, P, N, T] in raw units, with the numbers in the order of the targets; `quantiles` of a run with quantile
    loss [B, P, N, T, its levels]; `probability_<target>` of a categorical one is [B, P, N, its categories].
    """

    bounds: torch.Tensor | None

    def __init__(self, forecaster: Forecaster) -> None:
        super().__init__()
        dataset, self.heads = forecaster.dataset, forecaster.heads
        self.model, self.history = forecaster.model, forecaster.window.history
        self.uses_codes, self.uses_known = (
            bool(getattr(self.model, f"uses_{what}", False)) for what in ("codes", "known")
        )
        inputs, placed = list(forecaster.columns.inputs), sorted(forecaster.numbers)
        numbers = [forecaster.columns.targets[place] for place in placed]
        names = dataset.vocabularies.names
        features = [dataset.features[place] for place in inputs]
        codes = [len(names[feature.name]) if feature.categorical else None for feature in features]
        self.encoder = Encoder(features, dataset.scale.of(inputs), codes)
        reader = forecaster.quantiles
        learned = [head.loss == "quantile" for head in reader.heads]
        self.levels = reader.levels if learned and all(learned) else ()  # of counts no graph can search them
        self.order = [forecaster.numbers.index(place) for place in placed]
        self.categorical = {head.name: forecaster.targets[head.targets[0]].name for head in forecaster.categorical}
        low_high = bounds_of(forecaster.config, dataset, numbers)
        scale, features = dataset.scale.of(numbers), [dataset.features[place] for place in numbers]
        arrays = {name: getattr(scale, f"{name}_NF") for name in ("spread", "delta", "pivot")}
        arrays |= {"low": low_high[0], "high": low_high[1]}
        keep(self, arrays | {"log1p": [feature.transform == "log1p" for feature in features]})
        asked = [forecaster.columns.targets[place] for place in forecaster.numbers]  # as the heads give them
        self.register_buffer("bounds", scaled_bounds(forecaster.config, dataset, asked))

    @property
    def output_names(self) -> list[str]:
        """The names of what comes out, in order."""
        numbers = ["value", *(["quantiles"] if self.levels else [])] if self.order else []
        return [*numbers, *(f"probability_{name}" for name in self.categorical.values())]

    def forward(self, history: torch.Tensor, observed: torch.Tensor, time_codes: torch.Tensor) -> list[torch.Tensor]:
        known = observed & ~torch.isnan(history)
        scaled = self.encoder(history, known, time_codes[:, : self.history])
        given = (scaled, time_codes if self.uses_codes else None, *((known,) if self.uses_known else ()))
        channels = clamped(by_head(self.model(*given), self.heads), self.heads, self.bounds)
        forecast = points_within(channels, self.heads, self.bounds)
        parts = [forecast[head.name] for head in self.heads if head.loss != "cross_entropy"]
        outputs = [self._raw(torch.cat(parts, dim=-1)[..., self.order])] if parts else []
        if self.levels:
            numbers = [head for head in self.heads if head.loss == "quantile"]
            each = [head.quantiles_at(channels[head.name], self.levels).movedim(-1, 0) for head in numbers]
            outputs.append(self._raw(torch.cat(each, dim=-1)[..., self.order]).movedim(0, -1))
        return [*outputs, *(forecast[name][..., 1:].double().softmax(-1) for name in self.categorical)]

    def _raw(self, scaled: torch.Tensor) -> torch.Tensor:
        spread, delta, pivot, low, high, log1p = map(
            self.get_buffer, ("spread", "delta", "pivot", "low", "high", "log1p")
        )
        raw = scaled.double() * spread + delta + pivot
        return torch.where(log1p, torch.expm1(raw), raw).clamp(low, high)


class Encoder(nn.Module):
    """Fills, transforms, scales and clips raw values [B, H, N, I] as `encode` does; a date begins with a weekday.

    Args:
        codes: the largest code of each feature that is categorical; a larger one is taken as unseen.
    """

    def __init__(self, features: list[Feature], scale: Scale, codes: list[int | None]) -> None:
        super().__init__()
        kinds = [feature.fill for feature in features]
        limits = [math.inf if feature.fill_limit is None else feature.fill_limit for feature in features]
        clips = [feature.clip or (-math.inf, math.inf) for feature in features]
        arrays = {
            **{name: getattr(scale, f"{name}_NF") for name in ("pivot", "delta", "spread", "mean", "empty")},
            "log1p": [feature.transform == "log1p" for feature in features],
            "carried": [kind == "forward" for kind in kinds],
            "to_mean": [kind == "mean" for kind in kinds],
            "limit": [limit if kind != "none" else -1 for kind, limit in zip(kinds, limits, strict=True)],
            "most": [math.inf if code is None else code for code in codes],
            "clip": np.transpose(clips),
        }
        keep(self, arrays)

    def forward(self, history: torch.Tensor, known: torch.Tensor, codes_BH: torch.Tensor) -> torch.Tensor:
        weekday = codes_BH & 7
        begins = torch.cat(
            [torch.ones_like(weekday[:, :1], dtype=torch.bool), weekday[:, 1:] != weekday[:, :-1]], dim=1
        )
        step = torch.arange(codes_BH.shape[1], dtype=torch.int32)[None, :, None, None]
        first = newest_place(begins[..., None, None], step)
        last = torch.maximum(newest_place(known, step), first - 1)  # the one before the date where it has none
        carries, to_mean, limit, log1p = map(self.get_buffer, ("carried", "to_mean", "limit", "log1p"))
        filled = ~known & (step - last <= limit) & (~carries | (last >= first))
        carried = torch.where(known, history, 0.0).gather(1, last.clamp(min=0).long())
        values = torch.where(carries & filled, carried, torch.where(known, history, 0.0))
        values = torch.where(values > self.get_buffer("most"), UNSEEN, values)
        pivot, delta, spread, mean, empty = map(self.get_buffer, ("pivot", "delta", "spread", "mean", "empty"))
        scaled = (torch.where(log1p, torch.log1p(values), values) - pivot - delta) / spread
        scaled = torch.where(known | filled, torch.where(filled & to_mean, mean, scaled), empty)
        return scaled.clamp(*self.get_buffer("clip")).float()


def keep(module: nn.Module, arrays: Mapping[str, Any]) -> None:
    """Makes arrays buffers of a module."""
    for name, array in arrays.items():
        module.register_buffer(name, torch.from_numpy(np.array(array)))


def newest_place(given: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """Returns of each step [B, H, N] the newest step up to it that is given, -1 without one; by doubling what is seen."""
    place, reach = torch.where(given, step, -1), 1
    while reach < given.shape[1]:
        before = torch.cat([torch.full_like(place[:, :reach], -1), place[:, :-reach]], dim=1)
        place, reach = torch.maximum(place, before), 2 * reach
    return place
