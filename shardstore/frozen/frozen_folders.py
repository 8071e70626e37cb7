"""The folders of what is frozen: published by their content, and the first whole one of a folder and its copies."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from dateshard.shardstore.commands import to_run
from dateshard.shardstore.commit import content_of, copies_of, publish, staging_folder
from dateshard.shardstore.errors import DamagedError, StoreError, Where
from dateshard.shardstore.identity import hash_bytes
from dateshard.shardstore.objects.bucket_store import discard, in_use

Loaded = TypeVar("Loaded")


def refuse_other_id(content_id: str, folder: Path) -> None:
    """Refuses a folder that is not named by its content, as a mended copy `<id>-2` is too.

    Raises:
        ValueError: it has another content.
    """
    if content_id != content_of(folder.name):
        raise ValueError(content_id)


def read_whole(path: Path, expected: list[Any]) -> bytes:
    """Reads a file whose [bytes, xxh3_128] are known.

    Raises:
        StoreError: it is missing. DamagedError: it is not what was committed.
    """
    data = read_file(path)
    if [len(data), hash_bytes(data)] != expected:
        raise DamagedError("size or hash is not what was committed", where=Where(file=str(path)), todo=how_to_mend())
    return data


def first_good(folder: Path, load: Callable[[Path], Loaded]) -> Loaded:
    """What `load` gives of the folder, or of a later copy of it; the folder's own error where none is good."""
    try:
        with in_use(folder):
            return load(folder)
    except StoreError:
        again = [folder] if discard(folder) else []  # of a store in a bucket: it is fetched again
        for copy in (*copies_of(folder), *again):
            with suppress(StoreError), in_use(copy):
                return load(copy)
        raise


def publish_files(root: Path, final: Path, files: dict[str, bytes]) -> Path:
    """Publishes a folder of these files (not yet durable) and returns it."""
    with staging_folder(root) as folder:
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        return publish(root, folder, final, {name: (len(data), hash_bytes(data)) for name, data in files.items()})


def read_file(path: Path) -> bytes:
    """Reads a file whole.

    Raises:
        StoreError: it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"cannot be read: {error.strerror}", where=Where(file=str(path)), todo=how_to_mend()) from None


def how_to_mend() -> str:
    """The command that mends anything that is frozen."""
    return to_run("preprocess", "--refit-statistics", config=True)
