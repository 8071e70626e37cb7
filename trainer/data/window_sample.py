"""A part of a split's windows, drawn evenly and without a list: `training.sample_size`.

All windows of the split, in date order, form a circle that is cut into N cells of nearly equal length, from a place that
the seed draws; of each cell the seed draws one window. So every window is as likely as any other, every stretch of dates
gives its share, and which windows they are depends on nothing but (seed, N, number of windows): no shuffle, no policy
and no memory changes the sample, and each of its windows is computed from its number alone.

Legend: I numbers of drawn windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dateshard.trainer.data.permutation import Integers, key, splitmix64


@dataclass(frozen=True)
class WindowSample:
    """Samples `size` of `total` windows. Memory O(1).

    Attributes:
        size: at least 1, at most total. seed: of the training.
    """

    total: int
    size: int
    seed: int

    @cached_property
    def _turn(self) -> int:
        """Where on the circle window 0 stands; cell 0 begins at 0."""
        return key(self.seed, 5, self.size) % self.total

    @cached_property
    def _key(self) -> np.uint64:
        return np.uint64(key(self.seed, 6, self.size))

    @cached_property
    def _first(self) -> int:
        """Cells whose window comes before window 0 on the circle."""
        return int(self._before(np.array([self._turn]))[0])

    def windows(self, numbers_I: Integers) -> Integers:
        """Which windows the drawn ones of these numbers are; both count in date order."""
        cell = (numbers_I + self._first) % self.size
        return (self._drawn(cell) - self._turn) % self.total

    def below(self, windows: Integers) -> Integers:
        """How many of windows [0, w) are drawn, for each w."""
        place = self._turn + windows
        around = place >= self.total
        drawn = self._before(np.where(around, place - self.total, place)) - self._first
        return np.where(around, drawn + self.size, drawn)

    def _edges(self, cell: Integers) -> Integers:
        """Where cells begin: cell x total / size, rounded down; no product above size squared."""
        whole, rest = divmod(self.total, self.size)
        return cell * whole + cell * rest // self.size

    def _drawn(self, cell: Integers) -> Integers:
        """The place that the seed draws of each cell."""
        low, high = self._edges(cell), self._edges(cell + 1)
        noise = splitmix64(cell.astype(np.uint64) ^ self._key)
        return low + (noise % (high - low).astype(np.uint64)).astype(np.int64)

    def _before(self, places: Integers) -> Integers:
        """How many cells have their drawn window before these places of the circle."""
        cell = (places * (self.size / self.total)).astype(np.int64)  # of the place, or beside it by rounding
        cell += (self._edges(cell + 1) <= places).astype(np.int64) - (self._edges(cell) > places)
        cell = np.minimum(cell, self.size - 1)
        return cell + (self._drawn(cell) < places)
