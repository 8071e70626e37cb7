"""Who may hold how much memory: the limit of a preprocess, divided among its processes, and a date's part of it."""

from __future__ import annotations

import datetime as dt
import os

import psutil

from pipeline.config import Pipeline
from pipeline.plan import Plan
from shardstore.calendar import day_of, parse_step
from shardstore.errors import ResourceError, Where

FREE_SHARE = 0.7  # of the memory that is free when a preprocess begins, for all its processes
PARENT_BYTES = 120 << 20  # this process beside its workers, the one they are forked from, and the resource tracker
PROCESS_BYTES = 240 << 20  # the interpreter with its libraries, and a decoded block
LEAST_RECORDS = 32 << 20
GRIDS = 4  # arrays of a date's size that measuring and normalising hold at once


def shares(
    plan: Plan, config: Pipeline, num_workers: int | None, memory_bytes: int | None, num_nodes: int
) -> tuple[int, int]:
    """(processes, bytes that each may use): never more processes than dates, or by default than memory reaches for.

    Args:
        num_workers: as asked for; None for one a core.
        memory_bytes: for everything together; None for most of what is free now.
        num_nodes: of the node table, 0 without one.
    """
    total = memory_bytes or int(FREE_SHARE * psutil.virtual_memory().available)
    most = max(1, len(plan.to_measure), len(plan.to_normalise))
    if num_workers is None:
        dates = [date.date for date in plan.to_measure + plan.to_normalise]
        grid = grid_bytes(dates[0], config, num_nodes) if dates else 0
        most = min(most, max(1, (total - PARENT_BYTES) // (PROCESS_BYTES + LEAST_RECORDS + grid)))
    count = min(most, num_workers or len(os.sched_getaffinity(0)))
    return count, total if count == 1 else (total - PARENT_BYTES) // count


def grid_bytes(date: dt.date, config: Pipeline, num_nodes: int) -> int:
    """What the arrays of one date on so many nodes take."""
    day = day_of(date, config.source.timezone, parse_step(config.step))
    return GRIDS * 8 * day.num_steps * num_nodes * len(config.features)


def record_budget(memory_bytes: int, date: dt.date, config: Pipeline, num_nodes: int) -> int:
    """Bytes of decoded records that may be held beside the process itself and the date's grid.

    Raises:
        ResourceError: the grid of the node table alone needs more.
    """
    grid = grid_bytes(date, config, num_nodes)
    if PROCESS_BYTES + grid > memory_bytes:
        needed = PROCESS_BYTES + grid + LEAST_RECORDS
        num_steps = day_of(date, config.source.timezone, parse_step(config.step)).num_steps
        raise ResourceError(
            f"the grid of one date ({num_steps:,} steps x {num_nodes:,} nodes x {len(config.features)} features) "
            f"needs {needed / 1e6:,.0f} MB, a worker may have {memory_bytes / 1e6:,.0f} MB",
            where=Where(date=date),
            todo="Give more with --memory-limit, or use fewer --workers",
        )
    return max(LEAST_RECORDS, memory_bytes - PROCESS_BYTES - grid)
