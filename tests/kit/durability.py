"""What a power cut could take: read off the order of a command's calls, without root and without a power cut.

POSIX promises no more than this: a file's bytes are on disk after an fsync of the file, a name is on disk (or gone from
it) after an fsync of its folder, and a syncfs does both for all. Between a commit's rename and that, everything may be
lost alone. What an older checkpoint's removal leaves must be on disk before it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from tests.kit.tracing import Call

STORE, RUN = "data/shards/world", "data/runs/(?:cut|away)"
ELSEWHERE = "data/far/elsewhere"  # where the checkpoints of `away` lie
CHECKPOINT = re.compile(rf"(?:{RUN}/checkpoints|{ELSEWHERE})/checkpoint_epoch_\d+_batch_\d+")
COMMIT = re.compile(rf"{STORE}/CURRENT|{CHECKPOINT.pattern}")
WHOLE = re.compile(  # files that count from the moment that their name is there
    rf"{STORE}/(CURRENT|FORMAT|manifests/.*|pins/.*\.json)|data/runs/ID|{RUN}/run\.json|{RUN}/evaluation-.*\.json"
    rf"|(data/copies|{ELSEWHERE}|{RUN}/checkpoints)/(checkpoint_[^/]*|[^/.]*\.pth|of_run\.json)|data/out/[^/.]+\..*"
)
NEEDED = re.compile(
    r"data(/(shards(/world(/(shards|parquet|nodes|statistics|staged|partials|manifests)(/.*)?|/CURRENT|/FORMAT"
    r"|/pins(/.*\.json)?)?)?|runs(/ID|/(cut|away)(/run\.json|/checkpoints(/checkpoint_.*|/[^/.]+\.pth)?)?)?"
    r"|(copies|far|far/elsewhere)(/of_run\.json|/checkpoint_.*|/[^/.]+\.pth)?|out/[^/.]+\.[^/]+))?"
)


@dataclass(slots=True)
class Memory:
    """What is in the page cache only.

    Attributes:
        bytes: files whose bytes are not flushed. names: paths whose names are not.
        gone: {path: its new name, or ''} of needed ones whose going is not.
    """

    bytes: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    gone: dict[str, str] = field(default_factory=dict)

    def needed(self) -> list[str]:
        """Of that, what a committed state stands on."""
        found = {f"the bytes of {path}" for path in self.bytes if NEEDED.fullmatch(path)}
        return sorted(found | {f"the name {path}" for path in self.names if NEEDED.fullmatch(path)})

    def below(self, path: str) -> list[str]:
        """A file, or files in a folder, whose bytes are not flushed."""
        return sorted(f"the bytes of {file}" for file in self.bytes if file == path or file.startswith(f"{path}/"))

    def play(self, call: Call) -> None:
        """What one call changes."""
        first, last = call.paths[0], call.paths[-1]
        if call.name in ("write", "pwrite64", "pwrite"):
            self.bytes.add(first)
        elif call.name in ("mkdir", "symlink") or (call.name == "openat" and "O_CREAT" in call.text):
            self.names.add(first)
        elif call.name in ("fsync", "fdatasync"):
            self.bytes.discard(first)
            self.names = {path for path in self.names if str(PurePath(path).parent) != first}
            self.gone = {path: new for path, new in self.gone.items() if str(PurePath(path).parent) != first}
        elif call.name == "syncfs":
            self.bytes, self.names, self.gone = set(), set(), {}
        elif call.name in ("rename", "link"):
            self.bytes = {_moved(path, first, last) for path in self.bytes}
            self.names = {_moved(path, first, last) for path in self.names} | {last}
            if call.name == "rename" and CHECKPOINT.fullmatch(first):
                self.gone[first] = last
        elif call.name in ("unlink", "unlinkat", "rmdir"):
            self.bytes.discard(first)
            self.names.discard(first)
            if call.name != "rmdir" and (WHOLE.fullmatch(first) or NEEDED.fullmatch(first)):
                self.gone[first] = ""


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
        last = call.paths[-1]
        if call.name in ("rename", "link") and WHOLE.fullmatch(last):
            found += [f"{what}, when {last} appears" for what in memory.below(last)]
        if call.name == "rename" and COMMIT.fullmatch(last):
            found += [f"{what}, when {last} is named" for what in memory.needed() if what != f"the name {last}"]
        if removes(call):
            found += [f"{what}, when {call.paths[0]} is removed" for what in memory.needed()]
        if call.name in ("unlink", "unlinkat"):
            taken = [old for old, new in memory.gone.items() if new and last.startswith(f"{new}/")]
            found += [f"{old} is taken apart, and may be there again" for old in taken]
    gone = [f"the going of {path}" for path in memory.gone]
    return found + [f"{what}, when the command ends" for what in (*memory.needed(), *gone)]
