"""Raw values <-> scaled values, and how the scale comes from the merged statistics of the training dates.

Legend: N nodes, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dateshard.shardstore.errors import UsageError
from dateshard.shardstore.scaling.histogram import bins_of
from dateshard.shardstore.scaling.partials import PartialStatistics
from dateshard.shardstore.scaling.transform import Floats

ROUNDING = 8  # units in the last place of the mean: a smaller deviation is that of a constant


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Scales x to ((x - pivot) - delta) / spread, each [N, F] float64; the difference is taken before anything is rounded.

    Attributes:
        mean_NF: the training mean in scaled units.
        empty_NF: what a cell holds that fill leaves empty, in scaled units.
    """

    pivot_NF: Floats
    delta_NF: Floats
    spread_NF: Floats
    mean_NF: Floats
    empty_NF: Floats

    def of(self, features: Sequence[int]) -> Scale:
        """The scale of some features, in this order."""
        chosen = list(features)
        return Scale(**{field.name: getattr(self, field.name)[:, chosen] for field in fields(self)})

    def nodes(self, chosen: slice) -> Scale:
        """The scale of some nodes."""
        return Scale(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    def apply(self, values: Floats, out: Floats | None = None) -> Floats:
        """Scaled float64 values of [..., N, F] raw ones, in `out` where that is given: it may be the raw ones."""
        scaled = np.subtract(values, self.pivot_NF, out=out)
        scaled -= self.delta_NF
        scaled /= self.spread_NF
        return scaled

    def undo(self, values: NDArray[Any]) -> Floats:
        """Raw float64 values of [..., N, F] scaled ones."""
        return (values.astype(np.float64) * self.spread_NF + self.delta_NF) + self.pivot_NF


@dataclass(frozen=True, slots=True)
class _Column:
    """The training cells of one feature, seen from each node: moments [6, N], those of its own or of all nodes."""

    name: str
    moments_6N: Floats
    constant_N: NDArray[np.bool_]
    quartiles_N3: Floats  # NaN where none were taken


def scale_of(
    features: Sequence[str],
    merged: PartialStatistics,
    over_nodes_6F: Floats,
    specs: Sequence[tuple[str, str]],
    nodes: Sequence[str] = (),
) -> Scale:
    """The scale of every node and feature.

    A standard deviation of 0, or one that rounding alone explains (a constant), becomes a spread of 1; a node never
    observed takes its feature's scale.

    Args:
        over_nodes_6F: the moments of all nodes together.
        specs: (`none` | `zscore` | `minmax` | `robust`, per `feature` | `node`) of each feature.
        nodes: names, for messages.

    Raises:
        UsageError: `robust`, where the histogram cannot tell the quartiles apart.
    """
    shape = merged.moments_6NF.shape[1:]
    pivot, delta, spread = np.zeros(shape), np.zeros(shape), np.ones(shape)
    mean, empty = np.zeros(shape), np.zeros(shape)
    for index, (method, per) in enumerate(specs):
        column = _column(features[index], merged, over_nodes_6F, index, (method, per))
        center = _center(method, column, nodes)
        pivot[:, index], delta[:, index], spread[:, index] = center
        _, first, rest, *_ = column.moments_6N
        mean[:, index] = ((first - pivot[:, index]) + (rest - delta[:, index])) / spread[:, index]
        if method == "minmax":  # whose 0.0 is the least value, not a middle
            empty[:, index] = mean[:, index]
    return Scale(pivot_NF=pivot, delta_NF=delta, spread_NF=spread, mean_NF=mean, empty_NF=empty)


def _column(name: str, merged: PartialStatistics, over_nodes_6F: Floats, index: int, spec: tuple[str, str]) -> _Column:
    own, pooled = merged.moments_6NF[:, :, index], over_nodes_6F[:, index : index + 1]
    per_node = (own[0] > 0) & (spec[1] == "node")
    moments = np.where(per_node, own, pooled)
    rounding = ROUNDING * np.finfo(np.float64).eps * np.abs(moments[1] + moments[2])
    constant = ~(_deviation(moments) > rounding)
    quartiles = np.full((len(per_node), 3), np.nan)
    if spec[0] == "robust":
        quartiles[:] = merged.histogram.quartiles(index)
        if spec[1] == "node":
            mine = merged.histogram.quartiles_by_node(index, len(per_node))
            quartiles = np.where(per_node[:, None], mine, quartiles)
    return _Column(name, moments, constant, quartiles)


def _deviation(moments_6N: Floats) -> Floats:
    deviation: Floats = np.sqrt(moments_6N[3] / np.maximum(moments_6N[0], 1))
    return deviation


def _center(method: str, column: _Column, nodes: Sequence[str]) -> tuple[Floats, Floats, Floats]:
    """Returns (pivot, delta, spread), each [N]."""
    count, first, rest, _, low, high = column.moments_6N
    zeros, ones = np.zeros(len(count)), np.ones(len(count))
    if method == "none":
        return zeros, zeros, ones
    if method == "zscore":
        return first, rest, np.where(column.constant_N, 1.0, _deviation(column.moments_6N))
    if method == "minmax":
        seen = count > 0
        low, high = np.where(seen, low, 0.0), np.where(seen, high, 0.0)
        return low, zeros, np.where(high > low, high - low, 1.0)
    return _robust(column, nodes)


def _robust(column: _Column, nodes: Sequence[str]) -> tuple[Floats, Floats, Floats]:
    """Median and distance of the quartiles; a constant takes its mean, which no bin has rounded.

    Raises:
        UsageError: the quartiles lie in one bin or in neighbouring ones: half of the cells are alike, or their spread
            is small beside their size.
    """
    lower, median, upper = column.quartiles_N3.T
    apart = bins_of(np.nan_to_num(upper)) - bins_of(np.nan_to_num(lower))
    unresolved = ~column.constant_N & (apart < 2)  # with a bin between them the spread is right within a factor of two
    if unresolved.any():
        node = int(unresolved.argmax())
        place = f" at node {nodes[node]!r}" if nodes and (~unresolved).any() else ""
        raise UsageError(
            f"robust cannot scale feature '{column.name}'{place}: bins of 0.8 % do not tell its quartiles apart (about "
            f"{lower[node]:.6g} and {upper[node]:.6g}, of cells from {column.moments_6N[4, node]:.9g} to "
            f"{column.moments_6N[5, node]:.9g})",
            todo=f"Set pipeline.features.{column.name}.scale to zscore",
        )
    _, first, rest, *_ = column.moments_6N
    pivot = np.where(column.constant_N, first, median)
    return pivot, np.where(column.constant_N, rest, 0.0), np.where(column.constant_N, 1.0, upper - lower)
