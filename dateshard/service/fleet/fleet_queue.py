"""A queue that is served in order by a number of replicas that changes: what waits, and how long.

All in closed form: what waits at the end of a second is how far the surplus of work stands above its lowest point so far.

Legend: S seconds.
"""

from __future__ import annotations

import numpy as np

from dateshard.service.fleet.fleet_load import Integers
from dateshard.shardstore.scaling.transform import Floats


def backlog(work_S: Floats, served_S: Floats) -> Floats:
    """Returns [S], the work that waits at the end of each second.

    Args:
        work_S: that arrives in each second. served_S: that all replicas can do in it.
    """
    surplus_S = np.cumsum(work_S - served_S)
    waits_S: Floats = surplus_S - np.minimum(np.minimum.accumulate(surplus_S), 0.0)
    return waits_S


def waiting(work_S: Floats, served_S: Floats) -> Integers:
    """Returns [S], the whole seconds until the last work that arrives in each second is done; 0: within that second.

    What is not done at the end waits until one second after it.
    """
    came_S = np.cumsum(work_S)
    done_S = np.maximum.accumulate(came_S - backlog(work_S, served_S))
    slack = 1e-9 * float(came_S[-1]) if len(came_S) else 0.0  # of sums of floats
    waits_S: Integers = np.maximum(0, np.searchsorted(done_S, came_S - slack) - np.arange(len(work_S)))
    return waits_S
