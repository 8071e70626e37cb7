"""Tells a process from another one that was given its number later, also after a restart of the machine."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

GONE = "ZX"  # states in /proc: ended, whether its parent looked or not


class ProcessIdentity(NamedTuple):
    """A process by its number, the tick at which it started, and the boot of the machine."""

    pid: int
    started: int
    boot: str


@cache
def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def identity_of(pid: int) -> ProcessIdentity | None:
    """The identity of a process that runs; None where there is none, or it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in GONE else ProcessIdentity(pid, int(fields[19]), _boot())


def is_alive(process: ProcessIdentity) -> bool:
    """Tells whether this very process still runs."""
    return identity_of(process.pid) == process


def memory_bytes(pid: int) -> int | None:
    """Resident memory of a process in bytes; None where it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
    except (OSError, IndexError, ValueError):
        return None
