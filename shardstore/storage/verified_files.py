"""Committed files of shards, opened: each is hashed whole at first touch and then remembered."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable
from pathlib import Path

from dateshard.shardstore.commands import to_run
from dateshard.shardstore.disk.naming import naming
from dateshard.shardstore.errors import DamagedError, StoreError, Where
from dateshard.shardstore.identity import hash_descriptor


class VerifiedFiles:
    """Opens committed files. A file that was verified once is known by inode, size and times: one `fstat` from then on.

    Memory: about 0.3 kB a file.
    """

    def __init__(self, refuse_if_cleaned: Callable[[str | None], None], open_file: Callable[[Path], int]) -> None:
        """Begins with no file verified; `refuse_if_cleaned` raises where a missing file's generation is gone."""
        self._open_file = open_file
        self._verified: dict[str, tuple[int, ...]] = {}
        self._refuse_if_cleaned = refuse_if_cleaned

    def open(self, path: Path, size: int, digest: str, date: dt.date) -> int:
        """Returns a descriptor of the verified file, which the caller closes.

        Raises:
            DamagedError: it cannot be opened, or its size or hash is not what was committed.
        """
        descriptor = self._open(path)
        try:
            self._verify(path, descriptor, size, digest, date)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def forget(self, path: Path) -> None:
        """Has the file hashed again when it is opened next."""
        self._verified.pop(str(path), None)

    def _open(self, path: Path) -> int:
        try:
            return self._open_file(path)
        except OSError as error:
            self._refuse_if_cleaned(str(path))
            raise DamagedError(
                f"a committed file cannot be opened: {error.strerror}",
                where=Where(file=str(path)),
                todo=repair_of(path),
            ) from None

    def _verify(self, path: Path, descriptor: int, size: int, digest: str, date: dt.date) -> None:
        status = os.fstat(descriptor)
        stamp = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        key = str(path)
        if self._verified.get(key) == stamp:
            return
        try:
            actual = hash_descriptor(descriptor) if status.st_size == size else None
        except OSError as error:
            raise DamagedError(
                f"a committed file cannot be read: {error.strerror}",
                where=Where(file=key, date=date),
                todo=repair_of(path),
            ) from None
        if actual != (size, digest):
            raise DamagedError(
                "size or hash is not what was committed; nothing of it was used",
                where=Where(file=key, date=date),
                todo=repair_of(path),
            )
        self._verified[key] = stamp


def repair_of(path: Path) -> str:
    """The command that mends a shard's file: shards/<date>/<id>/<array>/<chunk>."""
    return to_run("preprocess", path.parents[2].name, "--force", config=True)


def read_at(descriptor: int, view: memoryview, offset: int, count: int, path: Path) -> None:
    """Reads `count` bytes from `offset` of an open file into `view`.

    Raises:
        DamagedError: the file ends before.
    """
    view, done = view[:count], 0
    while done < count:
        with naming(path):
            got = os.preadv(descriptor, [view[done:]], offset + done)
        if got == 0:
            raise DamagedError(
                "the file ended early while it was read", where=Where(file=str(path)), todo=repair_of(path)
            )
        done += got


def judged(path: Path, look: Callable[[], object]) -> tuple[str, StoreError | None]:
    """Returns (name, what `look` raises or None); a file is named with its folder."""
    name = "/".join(path.parts[-2:])
    try:
        look()
    except StoreError as error:
        return name, error
    return name, None
