"""Who may hold how much memory: the limit of a preprocess, divided among its processes, and a date's part of it.

Memory is what is resident (RSS): the interpreter and its libraries count, in each process. docs/decisions/0013 has the
measurements behind the figures.
"""

from __future__ import annotations

import ctypes
import datetime as dt
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

import psutil

from dateshard.pipeline.config import Pipeline
from dateshard.shardstore.errors import DateshardError, ResourceError, UsageError, Where, counted
from dateshard.shardstore.times.calendar import Day

if TYPE_CHECKING:
    from dateshard.pipeline.workers.engine import Engine

FREE_SHARE = 0.7  # of the memory that is free when a preprocess begins, for all its processes
PARENT_BYTES = 160 << 20  # this process beside its workers, the one they are forked from, and the resource tracker
PROCESS_BYTES = 220 << 20  # a worker with its libraries, and what reading adds; both choose a default number of workers
READING_BYTES = 96 << 20  # what decoding a dump's blocks adds to a process, its records apart
LEAST_RECORDS = 16 << 20
BATCH_BYTES, SPILL_FORMAT = 32 << 20, "dateshard.pipeline.raw.cutting:read"  # a spill is read a batch at a time
PARENT_GROWTH = 16 << 20  # of this process once its workers run: plans, receipts, statistics
ROW_BYTES = 24  # of a record in a dump, if it is a short one
GRIDS = 4  # arrays of a date's size that measuring and normalising hold at once


def shares(
    to_measure: Sequence[dt.date],
    to_normalise: Sequence[dt.date],
    config: Pipeline,
    num_workers: int | None,
    memory_bytes: int | None,
    num_nodes: int,
    largest_dump: int = 0,
) -> tuple[int, int]:
    """Returns (processes, bytes for each): never more processes than parts of dates, or by default than memory reaches for.

    Args:
        num_workers: as asked for; None for one a core.
        memory_bytes: for everything together; None for most of what is free now.
        num_nodes: of the node table, 0 without one.
        largest_dump: its bytes, by which the records of a layout without steps are guessed.
    """
    cores, divided = len(os.sched_getaffinity(0)), config.store.nodes_per_part
    parts = len(config.store.parts_of(num_nodes)) if num_nodes or not divided else num_workers or cores
    num_nodes = min(num_nodes or divided, divided) if divided else num_nodes  # what one task holds
    total = memory_bytes or int(FREE_SHARE * psutil.virtual_memory().available)
    most = max(1, len(to_measure), len(to_normalise) * parts)
    if num_workers is None:
        dates = [*to_measure, *to_normalise]
        guessed = 0 if config.step_length else largest_dump // ROW_BYTES
        grid = grid_bytes(config.day(dates[0], guessed), config, num_nodes if config.step_length else 1) if dates else 0
        most = min(most, max(1, (total - PARENT_BYTES) // (PROCESS_BYTES + LEAST_RECORDS + grid)))
    count = min(most, num_workers or cores)
    return count, total if count == 1 else (total - PARENT_BYTES) // count


def share_of(memory_bytes: int, workers: Engine, held: Callable[[], int]) -> int:
    """What each worker may have of a limit that the user named, itself included. Starts a worker, to look at it.

    Args:
        held: what a worker holds once it can measure (`arrays.loaded_bytes`).

    Raises:
        UsageError: the limit is below what these processes need for any date at all.
    """
    (own,) = (result for _, result in workers.run([(None, held, ())]) if isinstance(result, int | DateshardError))
    if isinstance(own, DateshardError):
        raise own
    count, least = workers.num_workers, own + READING_BYTES + LEAST_RECORDS
    others = _family_bytes() - own + PARENT_GROWTH if count > 1 else 0
    each = f"{_mib(own)} for the program and {_mib(READING_BYTES + LEAST_RECORDS)} to read a dump with"
    what = f"{count} workers, each {each}, and {_mib(others)} beside them" if count > 1 else each
    refuse_less(memory_bytes, others + count * least, what, f"--workers 1 needs {_mib(least)}" if count > 1 else "")
    return (memory_bytes - others) // count


def refuse_less(memory_bytes: int, least: int, what: str, otherwise: str = "") -> None:
    """Refuses a memory limit that the program itself and reading exceed.

    Raises:
        UsageError: a limit that the user named is below what the program itself and reading need.
    """
    if memory_bytes < least:
        problem = f"--memory-limit is {_mib(memory_bytes)}, and {_mib(least)} are needed before any date: {what}"
        raise UsageError(
            problem, todo=f"Give more; the arrays of a date need memory as well{'; ' + otherwise if otherwise else ''}"
        )


def give_back() -> None:
    """Returns to the system what the C library holds free."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def give_back_at_once(memory_bytes: int | None) -> None:
    """Under a limit that was named, lets polars' allocator return memory as it is freed, not seconds later.

    Here and in processes started from here. Without effect once polars is loaded; it costs a fifth of polars' time.
    """
    if memory_bytes is not None:
        os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:0,muzzy_decay_ms:0")


def own_bytes() -> int:
    """What this process held when it was first asked, and when it was first asked with what measuring imports."""
    return _held("polars" in sys.modules)


@cache
def _held(_measuring: bool) -> int:
    return int(psutil.Process().memory_info().rss)


def _family_bytes() -> int:
    own = psutil.Process()
    return sum(int(process.memory_info().rss) for process in [own, *own.children(recursive=True)])


def _mib(num_bytes: int) -> str:
    return f"{-(-num_bytes >> 20):,} MiB"


def grid_bytes(day: Day, config: Pipeline, num_nodes: int) -> int:
    """What the arrays of one date on so many nodes take."""
    return GRIDS * 8 * day.num_steps * num_nodes * len(config.features)


def record_budget(memory_bytes: int, day: Day, config: Pipeline, num_nodes: int) -> int:
    """Bytes of decoded records that may be held beside the process itself and the date's grid.

    Raises:
        ResourceError: the grid needs more.
    """
    reading = READING_BYTES + (BATCH_BYTES if config.source.format == SPILL_FORMAT else 0)
    rest = _beside_grid(memory_bytes - reading - LEAST_RECORDS, memory_bytes, day, config, num_nodes)
    return rest + LEAST_RECORDS


def refuse_grid(memory_bytes: int, day: Day, config: Pipeline, num_nodes: int) -> None:
    """Refuses a date whose grid does not fit into memory.

    Raises:
        ResourceError: a date's grid on so many nodes does not fit into a process of so much memory.
    """
    _beside_grid(memory_bytes, memory_bytes, day, config, num_nodes)


def _beside_grid(free: int, memory_bytes: int, day: Day, config: Pipeline, num_nodes: int) -> int:
    grid = grid_bytes(day, config, num_nodes)
    rest = free - own_bytes() - grid
    if rest < 0:
        rows = counted(day.num_steps, "record")
        if day.step:
            rows = f"{counted(day.num_steps, 'step')} x {counted(num_nodes, 'node')}"
        what = f"the {'grid' if day.step else 'array'} of one date"
        raise ResourceError(
            f"{what} ({rows} x {counted(len(config.features), 'feature')}) takes "
            f"{_mib(grid)}; with the program and what reading takes that is {_mib(memory_bytes - rest)}, "
            f"and a process may have {_mib(memory_bytes)}",
            where=Where(date=day.date),
            todo="Give more with --memory-limit, or use fewer --workers",
        )
    return rest
