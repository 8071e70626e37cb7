"""Dates of a store without Zarr, written out as Zarr once, so that training can map them.

    cache/<date>/<id>/      as in shards/: the same folder, the same hashes

Nothing of it is believed: whoever maps a file compares it with the manifest first, and a missing or damaged folder is
built again. So nothing is made durable here, all of it may be removed at any time, and `clean` removes what no kept
generation needs. One process builds a date while others wait for it (a lock on cache/<date>, which dies with its holder).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from dateshard.shardstore.commit import first_damaged
from dateshard.shardstore.disk.durable import check_free_space, disk_full_as_error
from dateshard.shardstore.disk.lock import take_lock
from dateshard.shardstore.errors import StoreError, Where
from dateshard.shardstore.storage import Arrays, zarr_raw

MOST_TRIES = 5  # while others clean the folder away


def build(
    final: Path, hashes: Mapping[str, tuple[int, str]], load: Callable[[], Arrays], feature_names: Sequence[str]
) -> None:
    """Makes `final` a folder whose files have the given hashes; leaves it alone where it is.

    Args:
        load: the date's arrays, verified.

    Raises:
        DamagedError: by `load`. DiskFullError. StoreError: somebody removes the folder again and again.
    """
    for _ in range(MOST_TRIES):
        try:
            with disk_full_as_error(final), _only_builder(final.parent):
                if first_damaged(final, hashes) is None:
                    return
                _write(final, load(), feature_names)
                return
        except FileNotFoundError:  # `clean` took it in the middle
            continue
    where = Where(file=str(final))
    raise StoreError("it vanished each time while it was built", where=where, todo="Run the command again")


@contextmanager
def _only_builder(parent: Path) -> Iterator[None]:
    """Holds the folder's lock, so that one process at a time builds in it.

    Raises:
        FileNotFoundError: `clean` took the folder while its lock was waited for.
    """
    parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(parent, os.O_RDONLY)
    try:
        take_lock(descriptor, fcntl.LOCK_EX, parent)
        if not os.path.samestat(os.fstat(descriptor), os.stat(parent)):  # another folder by now: its lock is another
            raise FileNotFoundError(parent)
        yield
    finally:
        os.close(descriptor)


def _remove_left_behind(parent: Path) -> None:
    """What killed builders left; nobody else builds now."""
    for folder in parent.glob("tmp-*"):
        shutil.rmtree(folder, ignore_errors=True)


def _write(final: Path, arrays: Arrays, feature_names: Sequence[str]) -> None:
    check_free_space(final.parent, sum(array.nbytes for array in arrays.values()))
    temporary = final.with_name(f"tmp-{uuid.uuid4().hex}")
    try:
        zarr_raw.write(temporary, arrays, feature_names)
        if final.exists():  # damaged; who maps it keeps what it has mapped
            final.rename(final.with_name(f"tmp-damaged-{uuid.uuid4().hex}"))
        temporary.rename(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _remove_left_behind(final.parent)
