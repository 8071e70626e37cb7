"""Arguments of tasks on their way to other machines: large ones lie in the store, and only their names are sent.

Statistics and node lists of a hundred thousand nodes go with every task; they need not go through a scheduler thousands
of times.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from dateshard.shardstore.commands import to_run
from dateshard.shardstore.errors import DamagedError, Where

LARGE_BYTES = 32 << 10


@dataclass(frozen=True, slots=True)
class Parcel:
    """An argument that lies in a file, named by its SHA-256: a pickle that anybody else wrote there is never loaded."""

    path: Path


class Packer:
    """Packs tasks, and writes a large argument once, however many tasks have it. `folder`: for such files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._large: dict[int, tuple[Any, Parcel]] = {}  # by identity; holding it keeps the identity its own

    def packed(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> bytes:
        """A pickled task whose large arguments `unpacked` reads."""
        return pickle.dumps((function, tuple(map(self._packed, arguments))))

    def _packed(self, argument: Any) -> Any:
        if known := self._large.get(id(argument)):
            return known[1]
        data = pickle.dumps(argument)
        if len(data) < LARGE_BYTES:
            return argument
        parcel = Parcel(self._folder / hashlib.sha256(data).hexdigest())
        parcel.path.write_bytes(data)
        self._large[id(argument)] = argument, parcel
        return parcel


def unpacked(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments themselves.

    Raises:
        DamagedError: a file is not what was written.
    """
    return tuple(_load(argument.path) if isinstance(argument, Parcel) else argument for argument in arguments)


@lru_cache(maxsize=4)
def _load(path: Path) -> Any:
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != path.name:
        raise DamagedError(
            "it changed since this preprocess wrote it",
            where=Where(file=str(path)),
            todo=to_run("preprocess", config=True),
        )
    return pickle.loads(data)
