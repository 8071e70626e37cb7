"""A queue that is served in order by a number of replicas that changes: what waits, and who waits too long.

All in closed form: what waits at the end of a second is how far the surplus of work stands above its lowest point so far.

Legend: S seconds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dateshard.shardstore.scaling.transform import Floats


def backlog(work_S: Floats, served_S: Floats) -> Floats:
    """Returns [S], the work that waits at the end of each second.

    Args:
        work_S: that arrives in each second. served_S: that all replicas can do in it.
    """
    surplus_S = np.cumsum(work_S - served_S)
    waits_S: Floats = surplus_S - np.minimum(np.minimum.accumulate(surplus_S), 0.0)
    return waits_S


def late(work_S: Floats, waits_S: Floats, objective: float) -> NDArray[np.bool_]:
    """Returns [S], whether the last work that arrives in each second is done more than so many seconds later.

    What is not done at the end is done one second after it.

    Args:
        waits_S: the backlog.
    """
    came_S, whole = np.cumsum(work_S), int(objective)
    slack = 1e-9 * float(came_S[-1]) if len(came_S) else 0.0  # of sums of floats
    done_S, until = came_S - waits_S, max(0, len(work_S) - whole)
    late_S = np.zeros(len(work_S), dtype=bool)
    late_S[:until] = done_S[whole:] < came_S[:until] - slack
    return late_S
