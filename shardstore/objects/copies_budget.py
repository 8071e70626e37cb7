"""What copies of objects may take on this machine, all together, and which of them go first.

    data/objects/<content hash>/<bucket>/<key>      a copy of a dump, one file
    data/shards/<dataset>/shards/<date>/<id>/       a folder of a store that lies in a bucket; its file `.pushed` marks it
    data/objects/TOTAL                              bytes of all of them, never less than there are

A reader holds a shared lock on a copy, and only what nobody holds is removed, the least recently used first. The file
TOTAL is counted up before a copy appears: only where it exceeds the budget all copies are looked at, and it is made right.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from dateshard.shardstore.disk.lock import take_lock
from dateshard.shardstore.errors import UsageError

OBJECTS, NOTES, TOTAL = "objects", "known", "TOTAL"
BUCKET_FILE, PUSHED, FETCHING = "BUCKET", ".pushed", "fetching"
BUDGET, BUDGET_GIB = "DATESHARD_OBJECTS_GIB", 20.0
KEPT_SHARE = 0.9  # of the budget, once something must go: so that not every download looks at all copies


def budget_bytes() -> int:
    """What all copies together may take.

    Raises:
        UsageError: it is no number.
    """
    text = os.environ.get(BUDGET) or str(BUDGET_GIB)
    try:
        return int(float(text) * (1 << 30))
    except (ValueError, OverflowError):
        raise UsageError(f"{BUDGET}={text} is no number of GiB") from None


@contextmanager
def room_for(data: Path, num_bytes: int) -> Iterator[None]:
    """Removes copies until one more keeps to the budget, as far as nobody holds them; it appears within this context.

    Args:
        data: the data folder.
    """
    (data / OBJECTS).mkdir(parents=True, exist_ok=True)
    with open(os.open(data / OBJECTS / TOTAL, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
        take_lock(file.fileno(), fcntl.LOCK_EX, data / OBJECTS / TOTAL)
        _remove_left(data)
        total = _read_total(file, data) + num_bytes
        _write_total(file, total if total <= budget_bytes() else make_room(data, num_bytes))
        yield


def _read_total(file: BinaryIO, data: Path) -> int:
    try:
        return int(file.read())
    except ValueError:  # new, or cut
        return sum(size for _, _, size in copies(data))


def _write_total(file: BinaryIO, total: int) -> None:
    file.seek(0)
    file.write(f"{total}\n".encode())
    file.truncate()
    file.flush()


def make_room(data: Path, num_bytes: int) -> int:
    """Removes the copies that were not used for the longest time, so that so many bytes more keep to the budget.

    Returns the bytes of all, with those that come. None is removed that is in use."""
    there = sorted(copies(data))
    total = sum(size for _, _, size in there) + num_bytes
    for _, path, size in there:
        if total <= KEPT_SHARE * budget_bytes():
            break
        if remove_folder(path) if path.name == PUSHED else remove_copy(path):
            total -= size
    return total


def _remove_left(data: Path) -> None:
    """Removes what killed downloads left."""
    for left in (data / OBJECTS / FETCHING).glob("*"):
        remove_copy(left)
    for left in data.glob(f"shards/*/{FETCHING}/*/{PUSHED}"):
        remove_folder(left)


def copies(data: Path) -> Iterator[tuple[int, Path, int]]:
    """All copies that may be removed: when each was used last (ns), its file or the mark of its folder, its bytes."""
    folder = data / OBJECTS
    for parent, _, names in os.walk(folder):
        for name in names if Path(parent) not in (folder, folder / NOTES, folder / FETCHING) else ():
            with suppress(FileNotFoundError):
                status = os.stat(Path(parent, name))
                yield status.st_mtime_ns, Path(parent, name), status.st_size
    for root in [path.parent for path in data.glob(f"shards/*/{BUCKET_FILE}")]:
        for mark in root.glob(f"*/*/*/{PUSHED}"):
            with suppress(FileNotFoundError, ValueError):
                yield mark.stat().st_mtime_ns, mark, int(mark.read_text())


def remove_copy(path: Path) -> bool:
    """Removes a copy of one file, and its empty folders, unless somebody holds it; returns whether it did."""
    with suppress(OSError), open(path, "r+b") as stream:  # NFS locks exclusively only what may be written
        take_lock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB, path)
        if not lies_at(path, stream.fileno()):
            return False
        path.unlink()
        for parent in path.parents:
            if parent.name in (OBJECTS, FETCHING):  # another download may just be about to begin there
                break
            with suppress(OSError):
                parent.rmdir()
        return True
    return False


def remove_folder(mark: Path) -> bool:
    """Removes a folder that a bucket has, by one rename, unless somebody holds it or a file of it."""
    folder = mark.parent
    with suppress(OSError), ExitStack() as opened:
        first = opened.enter_context(open(mark, "r+b"))
        take_lock(first.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB, mark)
        for path in [path for path in folder.rglob("*") if path.is_file() and path != mark]:
            number = opened.enter_context(open(path, "r+b")).fileno()
            take_lock(number, fcntl.LOCK_EX | fcntl.LOCK_NB, path)
        if not lies_at(mark, first.fileno()):
            return False
        root = next(parent for parent in folder.parents if (parent / BUCKET_FILE).exists())
        trash = root / FETCHING / uuid.uuid4().hex
        trash.parent.mkdir(exist_ok=True)
        folder.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)
        return True  # its date's folder stays: another process may be about to publish there
    return False


def lies_at(path: Path, number: int) -> bool:
    """Whether a path still leads to an open file: another process may have removed it, and even fetched it again."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(number), os.stat(path))
    return False
