"""How the windows of a batch are shared out, and their figures added up in an order that no number of processes changes.

8 micro-batches of one process:  ((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7))
of two:  process 0 adds ((0 + 4) + (2 + 6)), process 1 ((1 + 5) + (3 + 7)), and the last addition is between them
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from dateshard.trainer.data.batch import Batch
from dateshard.trainer.devices.flat import Flat
from dateshard.trainer.devices.mesh import Mesh


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Windows number, number + of, number + 2 of, ... of every batch.

    Attributes:
        chosen: where they lie among the rows that this process has of the batch; None: they are all of them.
    """

    number: int
    of: int
    chosen: slice | None = None

    def take(self, given: Batch) -> Batch:
        """The share's windows; of a micro-batch in memory of their own, so that nothing tells where they came from."""
        if self.chosen is None:
            return given
        return given.rows(self.chosen).changed(lambda rows: rows.clone(memory_format=torch.contiguous_format))


def shares_of(mesh: Mesh, micro_batches: int | None) -> list[Share]:
    """The shares that a process has of every batch, in the order in which their figures are added up."""
    if micro_batches is None:
        return [Share(number=mesh.rank, of=mesh.world)]
    count = micro_batches // mesh.world
    return [
        Share(number=mesh.rank + mesh.world * place, of=micro_batches, chosen=slice(place, None, count))
        for place in _by_halves(count)
    ]


def sizes_of(num_windows: int, shares: int) -> set[int]:
    """The numbers of windows that shares of a batch have."""
    return {num_windows // shares, -(-num_windows // shares)}


def _by_halves(count: int) -> list[int]:
    """Numbers below a power of two, so that neighbours differ in the highest bit, pairs of them in the next, ..."""
    return [0] if count == 1 else [place for half in _by_halves(count // 2) for place in (half, half + count // 2)]


@dataclass(slots=True)
class PairwiseSum:
    """Adds neighbours, then pairs, then pairs of pairs, as they come.

    Memory: one set of figures for each level of pairs.
    """

    _waiting: list[tuple[int, Flat]] = field(default_factory=list)

    def add(self, figures: Flat) -> None:
        """Takes the figures of one more share, which it may change."""
        level = 0
        while self._waiting and self._waiting[-1][0] == level:
            _, before = self._waiting.pop()
            for kind, row in before.items():
                row += figures[kind]
            figures, level = before, level + 1
        self._waiting.append((level, figures))

    def total(self) -> Flat:
        """The sum of a power of two of them."""
        (_, total), *rest = self._waiting
        assert not rest, "a power of two of shares"
        return total
