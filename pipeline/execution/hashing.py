"""Hashes the dumps that no preprocess saw yet, some at a time, while the process starts that workers are forked from."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from threading import Thread

from dateshard.pipeline.planning.observe import Cache, HashNew, stamped_hash
from dateshard.pipeline.workers.child_process import start_forkserver
from dateshard.shardstore.errors import DateshardError

MOST_THREADS = 4  # a few read as fast as memory or a disk gives


def hashing_ahead(num_workers: int | None, *, start: bool) -> HashNew | None:
    """What hashes new dumps for so many workers; None for one worker, which leaves the other cores alone.

    Args:
        num_workers: None for one a core.
        start: whether the process that workers are forked from starts meanwhile.
    """
    cores = len(os.sched_getaffinity(0))
    num_threads = min(num_workers or cores, cores, MOST_THREADS)
    return None if num_workers == 1 else lambda files: _hash_all(files, num_threads, start=start)


def _hash_all(files: Sequence[str], num_threads: int, *, start: bool) -> Cache:
    """Hashes files on this thread and on others; one that cannot be read is left to who needs it.

    An interrupt leaves no lock held that anybody waits for: the other threads end with the file that they are at, and a
    process that ends does not wait for them.
    """
    if start:
        with suppress(OSError):  # starting a worker tries again, and tells
            start_forkserver()
    rows, left = Cache(), deque(files)

    def hash_some() -> None:
        while left:
            with suppress(IndexError, OSError, DateshardError):  # another thread took the last one
                file = left.popleft()
                rows[file] = stamped_hash(file)

    others = [Thread(target=hash_some, daemon=True) for _ in range(min(num_threads, len(files)) - 1)]
    try:
        for thread in others:
            thread.start()
        hash_some()
        for thread in others:
            thread.join()
    finally:
        left.clear()
    return rows
