"""The file FORMAT: the version of a store's format, beside its generations on a disk or in a bucket."""

from __future__ import annotations

from pathlib import Path

from dateshard.shardstore.commands import to_run
from dateshard.shardstore.disk.durable import fsync_above, replace_file
from dateshard.shardstore.errors import DamagedError, StoreError, Where
from dateshard.shardstore.identity import expected_form, seal, unseal
from dateshard.shardstore.objects.bucket_store import read_committed

FORMAT = 1


def check_format(version: object, file: str) -> None:
    """Refuses a store of another format version.

    Raises:
        StoreError: a store of another format version.
    """
    if version != FORMAT:
        raise StoreError(
            f"store format {version}, this version reads {FORMAT}",
            where=Where(file=file),
            todo="Use the version of dateshard that wrote it, or prepare the dataset anew in another folder",
        )


def write_format(root: Path) -> str:
    """Puts a good FORMAT file into a new store, or in place of a damaged one; returns what was wrong with that.

    Raises:
        StoreError: a store of another format version.
    """
    try:
        read_format(root)
        return ""
    except DamagedError as error:
        fsync_above(root, 3)  # data/shards/<dataset> may all be new
        replace_file(root / "FORMAT", seal({"format": FORMAT, "name": "dateshard"}))
        return str(error) if (root / "CURRENT").exists() else ""


def read_format(root: Path) -> None:
    """Reads a store's format version, and refuses another than this code's.

    Raises:
        StoreError: a store of another format version. DamagedError: the file is missing or damaged.
    """
    path, todo = root / "FORMAT", f"{to_run('preprocess', config=True)} (it writes it anew)"
    try:
        data = read_committed(root, path.name)
    except OSError as error:
        raise DamagedError(f"cannot be read: {error.strerror}", where=Where(file=str(path)), todo=todo) from None
    content = unseal(data, str(path), todo)
    with expected_form(str(path), todo):
        check_format(content["format"], str(path))
