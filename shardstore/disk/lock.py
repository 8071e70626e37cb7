"""Locks between processes (flock): held through an open file, and gone with the process that holds them."""

from __future__ import annotations

import fcntl
from pathlib import Path

from dateshard.shardstore.commands import to_run
from dateshard.shardstore.errors import DateshardError, Where


def take_lock(descriptor: int, kind: int, path: Path) -> None:
    """Locks an open file or folder until its descriptor is closed.

    Args:
        kind: fcntl.LOCK_SH or fcntl.LOCK_EX; with fcntl.LOCK_NB it does not wait.
        path: what the descriptor was opened for.

    Raises:
        BlockingIOError: with LOCK_NB, another process holds it. DateshardError: the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, kind)
    except BlockingIOError:
        raise
    except OSError as error:
        raise DateshardError(
            f"this file cannot be locked ({error.strerror}): its file system has no locks that work",
            where=Where(file=str(path)),
            todo=f"Keep data, runs and checkpoints on a local disk: set DATESHARD_DATA. {to_run('doctor')}",
        ) from None
