"""How much memory a process holds, and held at most."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

PAGE = os.sysconf("SC_PAGE_SIZE")


def private_bytes(process: psutil.Process | None = None) -> int:
    """Returns the bytes of a process (this one) that are no file's; if not on Linux, all that is resident."""
    try:
        with open(f"/proc/{process.pid if process else 'self'}/statm", "rb", buffering=0) as file:
            _, resident, shared, *_ = file.read(256).split()
        return (int(resident) - int(shared)) * PAGE
    except (OSError, ValueError):
        pass  # not on Linux, or it has just ended
    try:
        return int((process or psutil.Process()).memory_info().rss)
    except psutil.Error:
        return 0


def peak_bytes() -> int:
    """Returns the most that was ever resident of this process; if not on Linux, what is now."""
    try:
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return int(psutil.Process().memory_info().rss)
