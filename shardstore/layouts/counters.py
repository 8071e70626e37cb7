"""Counters, such as a meter's reading: a step's value is what the reading grew by since the step before.

Legend: T steps of a stretch of the date, N nodes, R records.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dateshard.shardstore.layouts.feature import Feature
from dateshard.shardstore.layouts.records import Records
from dateshard.shardstore.scaling.transform import Floats, Integers
from dateshard.shardstore.times.calendar import Day


class Counters:
    """The features with `aggregate: difference` of one date, whose stretches come one after the other.

    Nothing is known of the date before: the first step with a reading is not observed, nor is one after a step without.

    Attributes:
        places: {place of such a feature: its name}.
        resets: {feature: readings that lie below the one before them}.
    """

    def __init__(self, features: Sequence[Feature], num_nodes: int) -> None:
        self.places = {
            place: feature.name for place, feature in enumerate(features) if feature.aggregate == "difference"
        }
        self._latest = {place: np.full(num_nodes, np.nan) for place in self.places}  # reading of a node, however old
        self._before = {place: np.full(num_nodes, np.nan) for place in self.places}  # at the end of the step before
        self.resets: dict[str, int] = {}

    def take(self, values_TNF: Floats, records: Records, orders: Sequence[Integers], stretch: Day) -> None:
        """Makes increases of the last readings of a stretch's steps, in place; a step with a reset becomes unobserved.

        Args:
            orders: positions of the records that count, by (step, node, instant, row), in parts.
        """
        if not self.places:
            return
        order = np.concatenate([*orders, np.empty(0, dtype=np.int64)])
        node = records.node_R[order]
        order = order[np.argsort(node.astype(np.min_scalar_type(len(values_TNF[0]))), kind="stable")]
        for place, name in self.places.items():
            column = records.values[place]
            assert column is not None, "only count works without a column; the configuration holds this"
            kept = order[~np.isnan(column[order])]
            reading_TN = values_TNF[..., place].copy()
            with np.errstate(over="ignore"):  # what becomes infinite is refused as a value that float32 cannot hold
                values_TNF[1:, :, place] -= reading_TN[:-1]
                values_TNF[0, :, place] -= self._before[place]
            self._before[place] = reading_TN[-1]
            fallen = self._fallen(place, column[kept], records.node_R[kept])
            if fallen.any():
                step = (records.time_R[kept] - stretch.start) // stretch.step
                values_TNF[step[fallen], records.node_R[kept][fallen], place] = np.nan
                self.resets[name] = self.resets.get(name, 0) + int(fallen.sum())

    def _fallen(self, place: int, column: Floats, node: Integers) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Which readings lie below their node's one before; by node and instant, as they are given."""
        if not len(column):
            return np.zeros(0, dtype=bool)
        latest, border = self._latest[place], node[1:] != node[:-1]
        first, last = np.append(True, border), np.append(border, True)
        before = np.append(np.nan, column[:-1])
        before[first] = latest[node[first]]
        latest[node[last]] = column[last]
        return column < before
