"""How much memory a process holds, and held at most."""

from __future__ import annotations

from pathlib import Path

import psutil


def private_bytes(process: psutil.Process | None = None) -> int:
    """Returns the bytes of a process (this one) that are no file's; if not on Linux, all that is resident."""
    held = _noted(process.pid if process else "self", "RssAnon:")
    if held is not None:
        return held
    try:
        return int((process or psutil.Process()).memory_info().rss)
    except psutil.Error:
        return 0


def peak_bytes() -> int:
    """Returns the most that was ever resident of this process; if not on Linux, what is now."""
    peak = _noted("self", "VmHWM:")
    return int(psutil.Process().memory_info().rss) if peak is None else peak


def _noted(pid: int | str, name: str) -> int | None:
    """A field of a process's status in bytes; None where there is none."""
    try:
        return int(Path(f"/proc/{pid}/status").read_text().split(name)[1].split()[0]) * 1024
    except (OSError, IndexError):
        return None
