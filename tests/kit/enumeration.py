"""Every system call of a command on its store, each once the last one (KILL), once failing (EIO, ENOSPC).

A kill must leave the old state or the new one, and the same command must then end with the bytes of a run that nothing
disturbed. A failing call must be told in one sentence by an exit code, must not be repeated if it was an fsync, and
must cost no more than a kill does. What the product may pass over in silence is listed in `BEST_EFFORT`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from tests.kit.durability import CHECKPOINT
from tests.kit.scenes import Scene
from tests.kit.tracing import BOTH, SYNCING, Call, Fault, trace
from tests.kit.zygote import MAIN, Ended, Zygote

STORE = "data/shards/world"
CHECKPOINTS = "data/runs/cut/checkpoints"
READ = f"^\\w+: (openat|read|preadv) {STORE}/"
LIST = "(opendir|getdents64)"
# What may fail without failing the command, by command and call. The result must be the new state all the same.
BEST_EFFORT = (
    (r"commits\.jsonl", "a log for people; no data depends on it"),
    (rf"(unlink|unlinkat|rmdir|openat|{LIST}) {STORE}/staging", "removing temporary things: the next writer does"),
    (READ + r"dumps\.json", "a cache: losing it costs hashing the dumps again"),
    (READ + r"(staged|partials)/", "what was measured is measured again"),
    (READ + r"(nodes|statistics|shards)/", "published again, beside what cannot be read"),
    (READ + r"FORMAT", "it is written anew"),
    (r"^\w+: mkdir ", "the folder is there already"),
    (rf"^clean: rmdir {STORE}/(shards|staged|partials)/", "an empty folder of a date without any"),
    (rf"^clean: {LIST} {STORE}/(nodes|statistics|shards|staged|partials)/", "sizes, which are only told"),
    (
        r"^retain: (openat|read) data/runs/cut/checkpoints/checkpoint_",
        "what retention can't read is left for the next time",
    ),
    (
        r"data/runs/\w+/\.?(run\.log|state\.json)",
        "what people read of a run; the lock and the checkpoints tell how it stands",
    ),
    (rf"(unlink|unlinkat|rmdir|openat|{LIST}) {CHECKPOINTS}/\.gone-", "the next removal deletes it"),
    (rf"(close|flock) {CHECKPOINTS}/\.lock", "nothing was written through it"),
    (rf"^checkpoints: (openat|read) {CHECKPOINTS}/checkpoint_\w+/", "named as damaged, and left as it is"),
    (r"^clean: (openat|read) data/runs/ID", "its runs are kept, and clean says so"),
    (r"^clean: (openat|read) \S*\.sources\.json", "every measured array is kept, and clean says so"),
    (r"data/pace", "how long it took, for the next plan's estimate"),
    (r"^\w+: (openat|read) \S*\.sources\.json", "sizes of dumps, for the same; a plan that needs it fails"),
)


@dataclass(slots=True)
class Tally:
    """What an enumeration found."""

    runs: int = 0
    tolerated: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Takes another's figures in."""
        self.runs += other.runs
        self.tolerated += other.tolerated
        self.bad += other.bad


def points(scene: Scene, zygote: Zygote) -> list[Call]:
    """All calls of an undisturbed run that touch `data/`, of one thread after the other."""
    return [call for thread in scene.threads for call in _calls_of(scene, zygote, thread)]


def in_order(scene: Scene, zygote: Zygote) -> list[Call]:
    """The same in the order in which they returned."""
    return _calls_of(scene, zygote, BOTH if len(scene.threads) > 1 else MAIN)


def _calls_of(scene: Scene, zygote: Zygote, thread: str) -> list[Call]:
    cwd = scene.fresh("traced")
    ended, calls = trace(zygote, scene.words, cwd, protocol=scene.protocol, thread=thread)
    assert ended.code == 0, ended.err
    shutil.rmtree(cwd)
    unsteady = [call.text for call in calls if "/maps>" in call.text]
    assert unsteady == [], "as many reads as there are mappings: call number k is not the same in every run"
    return [call for call in calls if call.paths]


def faults(calls: Iterable[Call], kinds: Sequence[str], *, forever: bool = False) -> list[Fault]:
    """Every fault of these kinds that a kernel could answer these calls with."""
    return [Fault(kind, call, forever) for kind in kinds for call in calls if call.may_answer(kind)]


def enumerate_faults(scene: Scene, chosen: Sequence[Fault], zygotes: Sequence[Zygote]) -> Tally:
    """Plays every fault in a fresh copy of the scene, one at a time on each zygote."""

    def play_share(number: int) -> Tally:
        tally = Tally()
        for fault in chosen[number :: len(zygotes)]:
            play(scene, fault, zygotes[number], f"play{number}", tally)
        return tally

    total = Tally()
    with ThreadPoolExecutor(len(zygotes)) as pool:
        for share in pool.map(play_share, range(len(zygotes))):
            total.add(share)
    return total


def play(scene: Scene, fault: Fault, zygote: Zygote, name: str, tally: Tally) -> None:
    """One accident; what is wrong after it goes into the tally."""
    cwd = scene.fresh(name)
    ended, calls = trace(zygote, scene.words, cwd, fault, protocol=scene.protocol)
    found = [scene.judge(cwd, floor=scene.place(named(calls)))]
    if fault.kind == "KILL":
        found.append(None if ended.code == -9 else f"exit {ended.code}, not killed")
    elif ended.code == 0:
        reason = next(
            (reason for pattern, reason in BEST_EFFORT if re.search(pattern, f"{scene.name}: {fault.call.label}")), None
        )
        tally.tolerated.append(f"{fault}: {reason}")
        found.append(None if reason else "exit 0")
    else:
        found += [told(fault, ended, cwd), repeated_fsync(fault, calls)]
    found.append(scene.finish(zygote, cwd))
    tally.runs += 1
    tally.bad += [f"{scene.name}: {fault}: {what}" for what in found if what]
    shutil.rmtree(cwd)


def named(calls: Sequence[Call]) -> dict[str, bytes]:
    """The checkpoints that these calls gave their names."""
    places = [PurePath(call.paths[-1]) for call in calls if call.name == "rename" and call.text.endswith(" = 0")]
    return {place.name: b"" for place in places if CHECKPOINT.fullmatch(str(place))}


def told(fault: Fault, ended: Ended, cwd: Path) -> str | None:
    """What is wrong with how a failure was told: exit code, one sentence, the file, no traceback."""
    if fault.kind == "ENOSPC" and ended.code != 28:
        return f"exit {ended.code}, not 28: {ended.err}"
    if fault.kind == "ENOLCK" and (ended.code != 1 or "has no locks" not in ended.err):
        return f"exit {ended.code}, not told as what it is: {ended.err}"
    if fault.forever and fault.call.name in ("write", "openat", "read", "close"):
        return None  # stderr, or a module that the message needs, fails as well
    if "Traceback" in ended.err or not re.fullmatch(r"Error: .+\n", ended.err):
        return f"exit {ended.code}, not one sentence: {ended.err!r}"
    return None if re.search(r"\bdata\b", ended.err) or str(cwd) in ended.err else f"names no file: {ended.err!r}"


def repeated_fsync(fault: Fault, calls: Sequence[Call]) -> str | None:
    """An fsync that is tried again on a file whose fsync failed: the second one says nothing about the first's data."""
    if fault.call.name not in SYNCING:
        return None
    [failed] = [call for call in calls if call.name == fault.call.name and call.ordinal == fault.call.ordinal]
    later = [call for call in calls[calls.index(failed) + 1 :] if call.name in SYNCING and call.paths == failed.paths]
    return f"fsync repeated after it failed: {later[0].text}" if later else None
