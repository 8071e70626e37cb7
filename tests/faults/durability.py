"""What a power cut could take: read off the order of a command's calls, without root and without a power cut.

POSIX promises no more than this: a file's bytes are on disk after an fsync of the file, a name is on disk after an
fsync of its folder, and a syncfs does both for all. Between a commit's rename and that, everything may be lost alone.
What an older checkpoint's removal leaves must be on disk before it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from tests.faults.tracing import Call

CHECKPOINT = re.compile(r"data/runs/cut/checkpoints/checkpoint_epoch_\d+_batch_\d+")
COMMIT = re.compile(rf"data/shards/world/CURRENT|{CHECKPOINT.pattern}")
NEEDED = re.compile(
    r"data(/(shards(/world(/(shards|nodes|statistics|staged|partials|manifests)(/.*)?|/CURRENT|/FORMAT)?)?"
    r"|runs(/cut(/run\.json|/checkpoints(/checkpoint_epoch_.*)?)?)?))?"
)


@dataclass(slots=True)
class Memory:
    """What is in the page cache only: files whose bytes, and paths whose names are not flushed."""

    bytes: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)

    def needed(self) -> list[str]:
        """Of that, what a committed state stands on."""
        found = {f"the bytes of {path}" for path in self.bytes if NEEDED.fullmatch(path)}
        return sorted(found | {f"the name {path}" for path in self.names if NEEDED.fullmatch(path)})

    def play(self, call: Call) -> None:
        """What one call changes."""
        first, last = call.paths[0], call.paths[-1]
        if call.name in ("write", "pwrite64"):
            self.bytes.add(first)
        elif call.name == "mkdir" or (call.name == "openat" and "O_CREAT" in call.text):
            self.names.add(first)
        elif call.name in ("fsync", "fdatasync"):
            self.bytes.discard(first)
            self.names = {path for path in self.names if str(PurePath(path).parent) != first}
        elif call.name == "syncfs":
            self.bytes, self.names = set(), set()
        elif call.name in ("rename", "link"):
            self.bytes = {_moved(path, first, last) for path in self.bytes}
            self.names = {_moved(path, first, last) for path in self.names} | {last}
        elif call.name in ("unlink", "unlinkat", "rmdir"):
            self.bytes.discard(first)
            self.names.discard(first)


def _moved(path: str, old: str, new: str) -> str:
    return new + path[len(old) :] if path == old or path.startswith(old + "/") else path


def removes(call: Call) -> bool:
    """Whether it takes a checkpoint away: under its name, or what it stands on."""
    away = call.name == "rename" and CHECKPOINT.fullmatch(call.paths[0]) and not CHECKPOINT.fullmatch(call.paths[-1])
    unlinks = call.name in ("unlink", "unlinkat") and PurePath(call.paths[-1]).name == "manifest.json"
    return bool(away or (unlinks and CHECKPOINT.fullmatch(str(PurePath(call.paths[-1]).parent))))


def at_risk(calls: Sequence[Call]) -> list[str]:
    """What a power cut could take from under a committed state: at the rename that commits, and when success is said."""
    memory, found = Memory(), []
    for call in calls:
        if not call.paths or call.failed:
            continue
        memory.play(call)
        if call.name == "rename" and COMMIT.fullmatch(call.paths[-1]):
            found += [
                f"{what}, when {call.paths[-1]} is named"
                for what in memory.needed()
                if call.paths[-1] not in what.split()[-1:]
            ]
        if removes(call):
            found += [f"{what}, when {call.paths[0]} is removed" for what in memory.needed()]
    return found + [f"{what}, when the command ends" for what in memory.needed()]
