"""What worker processes are given to do in tests. It imports nothing heavy: they start in a moment."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

from dateshard.shardstore.commands import command
from dateshard.shardstore.errors import DumpError, Where


def double(number: int) -> int:
    return 2 * number


def printed(name: str) -> str:
    return command(name, config=True)


def die(how: int) -> None:
    os.kill(os.getpid(), how)


def leave(code: int) -> None:
    os._exit(code)


def die_once(marker: Path, number: int) -> int:
    """Killed the first time only: the memory was short, not the date too large."""
    if not marker.exists():
        marker.touch()
        die(signal.SIGKILL)
    return double(number)


def refuse(number: int) -> int:
    raise DumpError("no use", where=Where(row=number))


def run_out() -> None:
    raise MemoryError


class UnsendableError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("unsendable")


def fault(kind: str) -> None:
    if kind == "unsendable":
        raise UnsendableError(1, 2)
    if kind == "disk":
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    raise KeyError("a bug")


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds
