"""A histogram whose bins are the 16-bit floats: counts are integers, so it merges exactly and in any order.

Each cell counts in the bin of its nearest float of 8 significant bits: float32 rounded to its upper 16 bits, ties away
from zero. A bin stands for that float, which is within 2^-8 (0.4 %) of every cell in it, and equal to it for integers
up to 256. A quantile is that of the rounded cells: of every cell's rank only the place inside its own bin is lost.

Legend: T steps, N nodes, K occupied bins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from dateshard.shardstore.identity import hash_bytes
from dateshard.shardstore.scaling.transform import Floats, Integers

POOLED = -1  # stands for all nodes
NUM_BINS = 1 << 16
ZERO = 1 << 15  # the bin of 0.0
GREATEST = 0x7F7F  # the greatest finite 16-bit float: a cell just below float32's end does not round up to infinity
MERGE_AT = 1 << 16  # occupied bins that wait at least before they are merged


def bins_of(values: Floats) -> Integers:
    """The bin of each value, any shape, in the order of the values; -0.0 is 0.0. They must be finite in float32."""
    bits = (values + 0.0).astype(np.float32).view(np.uint32).astype(np.int64)
    rounded = np.minimum(((bits & 0x7FFF_FFFF) + 0x8000) >> 16, GREATEST)
    bins: Integers = np.where(bits >> 31, ZERO - 1 - rounded, ZERO + rounded)
    return bins


def representatives(bins: Integers) -> Floats:
    """The float that each bin stands for."""
    negative = bins < ZERO
    short = np.where(negative, ZERO - 1 - bins, bins - ZERO).astype(np.uint32)
    magnitude = (short << np.uint32(16)).view(np.float32).astype(np.float64)
    return np.where(negative, 0.0 - magnitude, magnitude)


def _no_rows() -> Integers:
    return np.empty((4, 0), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Occupied bins of some features: `rows_4K` int64 holds feature, node, bin and count, sorted by the first three."""

    rows_4K: Integers = field(default_factory=_no_rows)

    @staticmethod
    def of(values_TNF: Floats, wanted: Sequence[tuple[int, str]]) -> Histogram:
        """Counts the finite cells by bin; `wanted` = (feature, per `feature` | `node`), ascending.

        Memory: a few arrays of one feature's size.
        """
        parts = [_no_rows()]
        for feature, per in wanted:
            column_TN = values_TNF[..., feature]
            seen = np.isfinite(column_TN)
            node = np.nonzero(seen)[1] if per == "node" else np.full(int(seen.sum()), POOLED)
            key, count = np.unique((node + 1) * NUM_BINS + bins_of(column_TN[seen]), return_counts=True)
            parts.append(np.stack([np.full(len(key), feature), key // NUM_BINS - 1, key % NUM_BINS, count]))
        return Histogram(np.concatenate(parts, axis=1))

    @staticmethod
    def merged(parts: Iterable[Histogram]) -> Histogram:
        """Sums histograms; the sum is the same whatever the parts and their order."""
        occupied = [histogram.rows_4K for histogram in parts if histogram.rows_4K.size]
        if not occupied:
            return Histogram()
        rows = np.concatenate(occupied, axis=1)
        feature, node, place, count = rows
        width = int(node.max()) + 2
        key, which = np.unique((feature * width + node + 1) * NUM_BINS + place, return_inverse=True)
        total = np.zeros(len(key), dtype=np.int64)
        np.add.at(total, which, count)  # in integers: bincount would add them as floats
        group = key // NUM_BINS
        return Histogram(np.stack([group // width, group % width - 1, key % NUM_BINS, total]))

    def on_nodes(self, positions: Integers) -> Histogram:
        """Moves the bins to another node list; `positions[i]` is where node i goes, -1 drops it. Pooled bins stay."""
        if not self.rows_4K.size:
            return self
        feature, node, place, count = self.rows_4K
        moved = np.where(node == POOLED, POOLED, np.append(positions, POOLED)[node])
        kept = (node == POOLED) | (moved >= 0)
        return Histogram.merged([Histogram(np.stack([feature, moved, place, count])[:, kept])])

    def quartiles(self, feature: int) -> Floats:
        """Returns [3]: the 25, 50 and 75 % quantiles of a feature's cells over all nodes; NaN where nothing was seen."""
        rows = self.rows_4K[:, self.rows_4K[0] == feature]
        return _quartiles(rows[:, np.argsort(rows[2], kind="stable")])

    def quartiles_by_node(self, feature: int, num_nodes: int) -> Floats:
        """Returns [N, 3]: each node's quartiles of a feature whose bins are per node; NaN where nothing was seen."""
        rows = self.rows_4K[:, self.rows_4K[0] == feature]
        edges = np.searchsorted(rows[1], np.arange(num_nodes + 1))
        return np.asarray([_quartiles(rows[:, first:last]) for first, last in pairwise(edges)]).reshape(num_nodes, 3)

    @property
    def hash(self) -> str:
        """The hash of the bytes as they are stored."""
        return hash_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Returns the rows as they are stored: int64 [4, K], little-endian."""
        return np.ascontiguousarray(self.rows_4K, dtype="<i8").tobytes()

    @staticmethod
    def from_bytes(data: bytes | memoryview) -> Histogram:
        """The inverse of `to_bytes`.

        Raises:
            ValueError: bytes that are no sorted rows.
        """
        rows = np.frombuffer(data, dtype="<i8").reshape(4, -1).astype(np.int64)
        if not np.array_equal(Histogram.merged([Histogram(rows)]).rows_4K, rows):
            raise ValueError(rows.shape)
        return Histogram(rows)


def _quartiles(rows_4K: Integers) -> Floats:
    """Returns the quartiles of rows sorted by bin.

    Of n sorted cells the quantile q lies at (n - 1) q, between two cells on a straight line: type 7 of Hyndman and Fan
    (1996), as in numpy and as `inclusive` in Python's statistics.
    """
    if not rows_4K.shape[1]:
        return np.full(3, np.nan)
    upto, values = np.cumsum(rows_4K[3]), representatives(rows_4K[2])
    last = int(upto[-1]) - 1
    quarter = np.arange(1, 4)
    place, rest = np.divmod(last * quarter, 4)
    low, high = (values[np.searchsorted(upto, at, side="right")] for at in (place, np.minimum(place + 1, last)))
    quantiles: Floats = (low * (4 - rest) + high * rest) / 4
    return quantiles


class HistogramSum:
    """A running sum of histograms, merged in batches: adding a small one to a great one costs nothing until enough wait.

    Memory: at most about twice the sum, or `MERGE_AT` bins, and the last one added.
    """

    def __init__(self) -> None:
        self._parts: list[Histogram] = []
        self._waiting = 0

    def add(self, histogram: Histogram) -> None:
        """Adds the histogram of one part."""
        self._parts.append(histogram)
        self._waiting += histogram.rows_4K.shape[1]
        if self._waiting > max(self._parts[0].rows_4K.shape[1], MERGE_AT):
            self._parts, self._waiting = [self.total()], 0

    def total(self) -> Histogram:
        """The sum of all that were added."""
        return Histogram.merged(self._parts)
