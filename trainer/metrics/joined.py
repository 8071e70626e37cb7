"""Metrics of several shares of one pass as those of the whole."""

from __future__ import annotations

from collections.abc import Sequence

from dateshard.trainer.devices.flat import fill, flatten
from dateshard.trainer.devices.mesh import Mesh
from dateshard.trainer.devices.shares import PairwiseSum
from dateshard.trainer.metrics.epoch import EpochMetrics


def added_up(mesh: Mesh, counted: Sequence[EpochMetrics], *, pairwise: bool) -> EpochMetrics:
    """The metrics of all shares of all processes, which are the same in each of them; uses up those that are given.

    Args:
        counted: of this process, in the order of its shares. pairwise: in an order that no number of processes changes.
    """
    first = counted[0]
    if mesh.world == 1 and not pairwise:
        return first
    adding = PairwiseSum()
    for metrics in counted:
        adding.add(flatten(metrics.totals()))
    total = adding.total()
    if pairwise:
        mesh.add_pairwise(total)
    else:
        mesh.add(total)
    fill(first.totals(), total)
    return first
