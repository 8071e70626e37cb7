"""Pins: which generations training runs need. Cleaning keeps a pinned generation as long as its run's folder lives.

A reader writes its pin and then looks whether the manifest is still there, cleaning reads the pins and then removes
manifests; `pins/lock` keeps one from happening in the middle of the other.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shardstore.durable import disk_full_as_error, replace_file
from shardstore.errors import DamagedError, StoreError, Where, naming
from shardstore.identity import expected_form, seal, unseal
from shardstore.lock import take_lock
from shardstore.manifest import load_manifest


@dataclass(frozen=True, slots=True)
class Pin:
    """One run's claim on a generation."""

    file: Path
    generation: int
    owner: Path

    @property
    def alive(self) -> bool:
        """Whether the run's folder is still there."""
        return self.owner.exists()


def write_pin(root: Path, name: str, generation: int, owner: Path) -> None:
    """Keeps `generation` from being cleaned as long as the folder `owner` lives; then checks that it is still there.

    The owner is noted relative to the store, so that a data folder may be moved as a whole.

    Raises:
        NotThereError: the generation was cleaned away before the pin stood.
    """
    file = root / "pins" / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    content = {"generation": generation, "owner": os.path.relpath(owner.resolve(), root.resolve())}
    with pins_lock(root, fcntl.LOCK_SH), disk_full_as_error(file):
        replace_file(file, seal(content))
        load_manifest(root, generation)


def read_pins(root: Path) -> list[Pin]:
    """All pins.

    Raises:
        DamagedError: one cannot be read, so nobody knows what its run needs.
    """
    return [read_pin(root, file) for file in pin_files(root)]


def pin_files(root: Path) -> list[Path]:
    """One file a run."""
    return sorted((root / "pins").glob("*.json"))


def read_pin(root: Path, file: Path) -> Pin:
    """Raises:
    DamagedError: naming the file, and the run that writes it anew.
    """
    run = file.stem
    todo = f"Run: dateshard train --resume {run} (it writes the pin anew), or delete the file if {run} is over"
    try:
        data = file.read_bytes()
    except OSError as error:
        what = f"the pin cannot be read: {error.strerror}"
        raise DamagedError(what, where=Where(file=str(file)), todo=todo) from None
    content = unseal(data, str(file), todo)
    with expected_form(str(file), todo):
        owner = Path(os.path.normpath(root.resolve() / content["owner"]))
        return Pin(file, int(content["generation"]), owner)


@contextmanager
def pins_lock(root: Path, kind: int) -> Iterator[None]:
    """Holds pins/lock, shared (to pin) or exclusive (to remove manifests); it dies with the process."""
    path = root / "pins" / "lock"
    try:
        with disk_full_as_error(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        where = Where(file=str(path))
        raise StoreError(f"cannot be opened: {error.strerror}", where=where, todo="Check its permissions") from None
    try:
        take_lock(descriptor, kind, path)
        yield
    finally:
        with naming(path):
            os.close(descriptor)
