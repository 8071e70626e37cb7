"""What a whole process takes: CPU seconds, the most resident memory, seconds on the clock. Read by scripts of this folder.

The kernel counts what a process held before it became another program (exec), so that a child of a large parent never
seems smaller than the parent: the command is started by a small process of its own, which also ends it when time is up.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_START = """
import json, os, subprocess, sys, threading, time
limit, log, *words = sys.argv[1:]
began = time.perf_counter()
with open(log, "wb") as file:
    process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT)
    clock = threading.Timer(float(limit), process.kill)
    clock.daemon = True
    clock.start()
    _, status, used = os.wait4(process.pid, 0)
wall = time.perf_counter() - began
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, wall, os.waitstatus_to_exitcode(status)]), flush=True)
os._exit(0)
"""


@dataclass(frozen=True, slots=True)
class ProcessCost:
    """Of one process and of the children it waited for: CPU seconds, the most resident bytes of one, seconds on the clock."""

    cpu: float
    peak: int
    wall: float


class CommandError(Exception):
    """A measured command ended with another code than 0, or was ended after its time."""


def process_cost(
    words: Sequence[str | Path],
    folder: Path,
    environment: Mapping[str, str],
    *,
    limit: float = 3600.0,
    log: str = "log",
) -> ProcessCost:
    """Runs a command in a folder to its end; what it prints is in the folder's `log`.

    Raises:
        CommandError: it ended with another code than 0, or took more than `limit` seconds.
    """
    launch = [sys.executable, "-S", "-E", "-c", _START, str(limit), log, *map(str, words)]
    printed = subprocess.run(launch, cwd=folder, env=dict(environment), check=True, capture_output=True).stdout
    cpu, peak, wall, code = json.loads(printed)
    if code:
        end = (folder / log).read_text(errors="replace")[-4000:]
        raise CommandError(f"{' '.join(map(str, words))} ended with {code} after {wall:.0f} s:\n{end}")
    return ProcessCost(cpu, peak, wall)
