"""Global statistics: the partial statistics of the training dates, merged in date order."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dateshard.shardstore.identity import identity
from dateshard.shardstore.scaling.histogram import HistogramSum
from dateshard.shardstore.scaling.partials import ROWS, PartialStatistics
from dateshard.shardstore.scaling.scale import Scale, scale_of
from dateshard.shardstore.scaling.transform import Floats


@dataclass(frozen=True)
class Statistics:
    """Merged over the training dates.

    Attributes:
        features: names, in order.
        merged: [6, N, F] moments per node.
        sources: (date, id of its partial statistics) of every training date that went in, in date order.
    """

    features: tuple[str, ...]
    merged: PartialStatistics
    sources: tuple[tuple[dt.date, str], ...]

    @staticmethod
    def of(features: Sequence[str], partials: Iterable[tuple[dt.date, PartialStatistics]]) -> Statistics:
        """Merges partial statistics on the frozen node list, one at a time: memory does not grow with the dates.

        They must come in date order: another order gives other bytes.
        """
        merged, tally, sources = None, HistogramSum(), list[tuple[dt.date, str]]()
        for date, partial in partials:
            assert not sources or sources[-1][0] < date, "not in date order"
            tally.add(partial.histogram)
            moments = PartialStatistics(partial.moments_6NF)
            merged = moments if merged is None else merged.merge(moments)
            sources.append((date, partial.id))
        moments = merged or PartialStatistics.empty(0, len(features))
        return Statistics(tuple(features), PartialStatistics(moments.moments_6NF, tally.total()), tuple(sources))

    @property
    def id(self) -> str:
        """The id of the statistics, made of features, sources and moments."""
        return identity([self.describe(), self.merged.id])

    def on(self, num_nodes: int) -> Statistics:
        """The statistics on a list with more nodes at its end, of which nothing is known."""
        known = self.merged.moments_6NF.shape[1]
        if num_nodes == known:
            return self
        return replace(self, merged=self.merged.on_nodes(np.arange(known), num_nodes))

    @property
    def trained_nodes(self) -> NDArray[np.bool_]:
        """Returns [N]: which nodes have an observed cell on a training date."""
        seen_N: NDArray[np.bool_] = self.merged.moments_6NF[0].any(axis=1)
        return seen_N

    @cached_property
    def over_nodes(self) -> Floats:
        """Merges the moments of all nodes, [6, F], once: it takes 0.2 us a node and feature."""
        return self.merged.over_nodes().moments_6NF[:, 0]

    def describe(self) -> dict[str, Any]:
        """What is written as statistics.json beside the moments."""
        return {
            "features": list(self.features),
            "rows": list(ROWS),
            "shape": list(self.merged.moments_6NF.shape),
            "sources": [[date.isoformat(), partial] for date, partial in self.sources],
        }

    def scale(self, specs: Sequence[tuple[str, str]], nodes: Sequence[str] = ()) -> Scale:
        """The scale of every node and feature, see `scale_of`."""
        return scale_of(self.features, self.merged, self.over_nodes, specs, nodes)


def drift(frozen: Statistics, fresh: Statistics) -> list[dict[str, Any]]:
    """How far each feature's mean and spread would move: rows of feature, mean_shift (in frozen sd), spread_ratio."""
    rows = []
    for index, name in enumerate(frozen.features):
        old, new = (s.over_nodes[:, index] for s in (frozen, fresh))
        old_sd, new_sd = (float(np.sqrt(m[3] / max(m[0], 1.0))) for m in (old, new))
        shift = float((new[1] - old[1]) + (new[2] - old[2])) / (old_sd or 1.0)
        rows.append({"feature": name, "mean_shift": shift, "spread_ratio": new_sd / old_sd if old_sd else 1.0})
    return rows
