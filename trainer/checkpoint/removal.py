"""Pins, and how a checkpoint disappears: its export, then the folder by one rename, then what was renamed.

Every removal and every pin holds `checkpoints/.lock`, so that what is pinned is never on its way out. A process killed
anywhere leaves a whole checkpoint, or a `.gone-*` folder that the next removal deletes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dateshard.shardstore.commands import command
from dateshard.shardstore.disk.durable import disk_full_as_error, fsync_path
from dateshard.shardstore.disk.lock import take_lock
from dateshard.shardstore.errors import NotThereError, Where

PIN, GONE, LOCK = "pinned", ".gone-", ".lock"


@contextmanager
def removal_lock(parent: Path) -> Iterator[None]:
    """Holds `parent/.lock`, which is held briefly by all; it dies with the process."""
    path = parent / LOCK
    with disk_full_as_error(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        take_lock(descriptor, fcntl.LOCK_EX, path)
        yield
    finally:
        with suppress(OSError):  # let go of first: a close that fails may leave it open
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        with suppress(OSError):  # nothing was written through it
            os.close(descriptor)


def pin(folder: Path) -> None:
    """Keeps a checkpoint from any removal, durably. The mark lies in its folder and moves with it.

    Raises:
        NotThereError: it was removed meanwhile.
    """
    with removal_lock(folder.parent), disk_full_as_error(folder / PIN):
        if not folder.is_dir():
            todo = f"See: {command('checkpoints', 'list', '--dir', folder.parent)}"
            raise NotThereError("this checkpoint is gone", where=Where(file=str(folder)), todo=todo)
        (folder / PIN).touch()
        fsync_path(folder)


def unpin(folder: Path) -> bool:
    """Whether it was pinned."""
    with removal_lock(folder.parent):
        if not is_pinned(folder):
            return False
        (folder / PIN).unlink()
        fsync_path(folder)
        return True


def is_pinned(folder: Path) -> bool:
    """Whether a checkpoint carries the mark."""
    return (folder / PIN).exists()


def export_of(folder: Path) -> Path:
    """Where a checkpoint's `.pth` lies, if it has one."""
    return folder.with_name(f"{folder.name}.pth")


def remove(folders: Iterable[Path]) -> int:
    """Removes checkpoints that lie in one folder, and their exports. Under `removal_lock`. Returns the bytes freed.

    One that is pinned, or gone already, is left.
    """
    freed = 0
    for folder in folders:
        if is_pinned(folder) or not folder.is_dir():
            continue
        freed += bytes_of(folder)
        export_of(folder).unlink(missing_ok=True)
        gone = folder.with_name(f"{GONE}{uuid.uuid4().hex}")
        folder.rename(gone)
        fsync_path(gone.parent)  # before its files go: a power cut must not bring back half of it under its name
        shutil.rmtree(gone, ignore_errors=True)
    return freed


def sweep(parent: Path) -> None:
    """Deletes what a killed removal left."""
    for gone in parent.glob(f"{GONE}*"):
        shutil.rmtree(gone, ignore_errors=True)


def bytes_of(folder: Path) -> int:
    """Returns the bytes of a checkpoint's files and its export."""
    total = 0
    for path in (*folder.iterdir(), export_of(folder)):
        with suppress(OSError):
            total += path.stat().st_size
    return total
