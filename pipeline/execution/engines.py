"""Which engine runs the tasks of a plan: processes of this machine, or the cluster that was named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dateshard.pipeline.arrays import loaded_bytes
from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.memory_shares import share_of, shares
from dateshard.pipeline.planning.plan import Observed, Plan
from dateshard.pipeline.workers.engine import Engine
from dateshard.pipeline.workers.pool import Workers
from dateshard.pipeline.workers.stopping import Stop

if TYPE_CHECKING:
    from dateshard.pipeline.workers.dask_client import Cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """What was asked for.

    Attributes:
        num_workers: tasks at once; None for as many as there is room for.
        memory_bytes: for all processes of this machine.
        cluster: None: processes of this machine.
    """

    num_workers: int | None
    memory_bytes: int | None
    stop: Stop
    cluster: Cluster | None


@contextmanager
def engine_for(
    request: EngineRequest, config: Pipeline, root: Path, plan: Plan, seen: Observed
) -> Iterator[tuple[Engine, int]]:
    """Yields what runs the tasks of a plan, and the bytes that each may hold.

    Raises:
        UsageError: the limit is too low for any date, or the cluster is not fit. ResourceError: the cluster is gone.
    """
    dates = ([date.date for date in plan.to_measure], [date.date for date in plan.to_normalise])
    dumps = [seen.dumps[date] for date in dates[0] if date in seen.dumps]
    if request.cluster and (plan.to_measure or plan.to_normalise or plan.to_store or plan.merge):
        from dateshard.pipeline.workers.dask_engine import DaskEngine

        files = [file for dump in dumps for file in dump.files]
        with DaskEngine(request.cluster, root, files, request.num_workers) as there:
            yield there, there.task_bytes
        return
    largest = max((dump.size for dump in dumps), default=0)
    num_nodes = len(seen.node_names or ())
    most, share = shares(*dates, config, request.num_workers, request.memory_bytes, num_nodes, largest)
    with Workers(most, request.stop) as here:
        if request.memory_bytes and plan.to_measure:
            share = share_of(request.memory_bytes, here, loaded_bytes)
        yield here, share
