"""A preprocess from a configuration and a wish to its end, shown on a screen: what the command and the function share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from typing import TYPE_CHECKING, Any

from dateshard.pipeline import progress_events as e
from dateshard.pipeline.execute import preprocess
from dateshard.pipeline.planning.plan import Wish
from dateshard.pipeline.workers.stopping import Stop
from dateshard.places import shards_folder
from dateshard.preparing.pace import watch
from dateshard.preparing.preprocess import Ending, follow, settled
from dateshard.settings import Settings
from dateshard.shardstore.errors import UsageError
from dateshard.terminal.screen import Screen
from dateshard.trainer.config import parse_bytes
from dateshard.trust import admit, code_of

if TYPE_CHECKING:
    from dateshard.pipeline.workers.dask_client import Cluster

LOCAL = "local"  # the engine: processes of this machine
LEAST_MEMORY = 1 << 20  # below this a unit was forgotten


def carry_out(
    settings: Settings,
    wish: Wish,
    screen: Screen,
    again: str,
    *,
    engine: str = LOCAL,
    workers: int | None = None,
    memory_bytes: int | None = None,
    fail_fast: bool = False,
    stop: Stop | None = None,
    on_event: Callable[[e.Event], None] | None = None,
) -> Ending:
    """Carries out a preprocess on the dataset of a configuration, and shows it.

    Args:
        engine: what runs the tasks: `local`, or `dask:` and where a scheduler is.
        on_event: is called with each event before it is shown.
    """
    stop = stop or Stop()
    root, config = shards_folder(settings.dataset), settings.preparing()
    options: dict[str, Any] = {"fail_fast": fail_fast, "stop": stop}
    with _cluster(engine, memory_bytes, stop) as cluster:
        made = preprocess(settings.dataset, config, root, wish, workers, memory_bytes, **options, cluster=cluster)
        with closing(made) as events:
            passed = _handed(settled(events), on_event) if on_event else settled(events)
            timed = passed if cluster else watch(settings.dataset, passed, workers or cores())
            ending = follow(screen, settings.dataset, timed, again)
    admit(root, code_of(config))
    return ending


def _cluster(engine: str, memory_bytes: int | None, stop: Stop) -> AbstractContextManager[Cluster | None]:
    """Connects to the cluster that an engine names, if it names one.

    Raises:
        UsageError: no such engine, or none of these options. ResourceError: no scheduler answers there.
    """
    if engine == LOCAL:
        return nullcontext()
    if not engine.startswith("dask:"):
        raise UsageError(f"--engine {engine}: the engines are local, dask:ADDRESS and dask:SCHEDULER_FILE")
    if memory_bytes is not None:
        todo = "Leave it out: a worker's own limit counts (dask worker --memory-limit)"
        raise UsageError(
            "--memory-limit is for processes of this machine, and there are none with --engine dask", todo=todo
        )
    from dateshard.pipeline.workers.dask_client import connect

    return connect(engine, stop)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def _handed(events: Iterable[e.Event], to: Callable[[e.Event], None]) -> Iterator[e.Event]:
    for event in events:
        to(event)
        yield event


def memory_of(limit: str | None, name: str) -> int | None:
    """Bytes of a memory limit such as 4GiB; None where there is none.

    Args:
        name: of the option or keyword, for messages.

    Raises:
        UsageError: it is no size, or holds no process.
    """
    if limit is None:
        return None
    try:
        memory: int = parse_bytes(limit)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None
    if memory < LEAST_MEMORY:
        raise UsageError(f"{name}: {memory:,} bytes hold no process; write it with its unit, as 4GiB")
    return memory
