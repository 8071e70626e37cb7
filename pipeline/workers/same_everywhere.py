"""What must be the same on every machine of a cluster: the code and its libraries, the store's folder and the dumps."""

from __future__ import annotations

import hashlib
import os
import platform
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import dateshard.pipeline
import dateshard.shardstore
from dateshard.pipeline.raw.object_files import shown
from dateshard.shardstore.commands import Door

COMPARED = ("dateshard", "numpy", "polars", "pyarrow", "zarr", "distributed")
PROOF = "proof"
LOOKS, BETWEEN_SECONDS = 20, 0.1  # a network file system may show a new file a little later


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a preprocess expects of each worker of its cluster.

    Attributes:
        run: names the preprocess. door: where its messages are read.
        working_directory: that paths are relative to.
        folder: of the store, for what lies there only during this preprocess. proof: the content of the file `proof` in it.
        dumps: (path, bytes) of some.
    """

    run: str
    door: Door
    working_directory: str
    folder: Path
    proof: str
    dumps: tuple[tuple[Path, int], ...]
    versions: tuple[tuple[str, str], ...]


def versions() -> tuple[tuple[str, str], ...]:
    """Names what the bytes of shards may depend on, and what workers and their client talk with."""
    python = ".".join(platform.python_version_tuple()[:2])
    return (("python", python), *((name, _version(name)) for name in COMPARED))


def _version(name: str) -> str:
    try:
        number = version(name)
    except PackageNotFoundError:
        number = "of no release"
    return f"{number} (code {code_hash()})" if name == "dateshard" else number


@cache
def code_hash() -> str:
    """Hashes the code that prepares: a release number alone would not tell a machine that was not updated."""
    digest = hashlib.sha256()
    for package in (dateshard.pipeline, dateshard.shardstore):
        for path in sorted(Path(*package.__path__).rglob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:8]


def why_unfit(expected: Expected) -> str:
    """Says what is not here as the preprocess expects it; empty where all is."""
    return next(_unfit(expected), "")


def _unfit(expected: Expected) -> Iterator[str]:
    differ = [(name, here, there) for (name, here), (_, there) in zip(versions(), expected.versions, strict=True)]
    if others := [f"{name} {here} instead of {there}" for name, here, there in differ if here != there]:
        yield f"has {', '.join(others)}"
    start = Path(expected.working_directory)
    if not start.is_dir():
        yield f"does not see the working directory {start}"
    proof = start / expected.folder / PROOF
    if _read(proof) != expected.proof:
        yield f"does not see the folder of the store, {proof.parents[2]}, as it is"
    try:
        (proof.parent / uuid.uuid4().hex).touch()
    except OSError as error:
        yield f"cannot write to the folder of the store, {proof.parents[2]} ({error.strerror})"
    for path, size in expected.dumps:
        if _size(start / path) != size:
            yield f"does not see the dump {start / path}, or another one"


def _read(path: Path) -> str:
    for _ in range(LOOKS):
        with suppress(OSError):
            return path.read_text()
        time.sleep(BETWEEN_SECONDS)
    return ""


def _size(path: Path) -> int:
    with suppress(OSError):
        return os.stat(path).st_size
    return -1


def some_of(files: Sequence[Path], most: int = 8) -> tuple[tuple[Path, int], ...]:
    """The first file of each folder with its size, of some folders. A copy of an object may come and go."""
    first = {path.parent: path for path in reversed(files) if shown(path) == str(path) and path.exists()}
    return tuple((path, os.stat(path).st_size) for path in sorted(first.values())[:most])
