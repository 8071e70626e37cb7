"""Scenes that are made once for a file of tests, and which of their accidents the short form plays."""

from __future__ import annotations

import random
import re
from pathlib import Path

from tests.kit.enumeration import enumerate_faults, faults, points
from tests.kit.scenes import Scene, make_scene
from tests.kit.tracing import Call, Fault
from tests.kit.zygote import Zygote

SEED = 20_240_301
PUBLISHING = ("rename", "link")


class Play:
    """Scenes in a folder, each made and traced when it is first asked for: an accident plays in a copy."""

    def __init__(self, folder: Path, zygotes: list[Zygote]) -> None:
        self.folder, self.zygotes = folder, zygotes
        self._scenes: dict[tuple[str, str | None], Scene] = {}
        self._points: dict[tuple[str, str | None], list[Call]] = {}

    def scene(self, name: str, protocol: str | None = None) -> Scene:
        key = (name, protocol)
        if key not in self._scenes:
            self._scenes[key] = make_scene(name, self.folder / f"{name} {protocol}", self.zygotes[0], protocol)
        return self._scenes[key]

    def bad(self, scene: Scene, chosen: list[Fault]) -> list[str]:
        """What the faults left that is wrong; every one of them was played."""
        assert chosen
        tally = enumerate_faults(scene, chosen, self.zygotes)
        assert tally.runs == len(chosen)
        return tally.bad

    def faults(self, scene: Scene, *kinds: str, only_changes: bool = False, forever: bool = False) -> list[Fault]:
        key = (scene.name, scene.protocol)
        if key not in self._points:
            self._points[key] = points(scene, self.zygotes[0])
        calls = [call for call in self._points[key] if call.changes or not only_changes]
        return faults(calls, kinds, forever=forever)


def some(chosen: list[Fault], count: int) -> list[Fault]:
    """A seeded sample."""
    print(f"replay with seed {SEED}")
    return random.Random(SEED).sample(chosen, min(count, len(chosen)))


def of_each_kind(chosen: list[Fault]) -> list[Fault]:
    """Every fault at a call that gives a name, and of others that differ only in numbers (a date's, a batch's) one."""
    kinds: dict[str, list[Fault]] = {}
    for place, fault in enumerate(chosen):
        kind = re.sub(r"[0-9a-f]*\d[0-9a-f]*", "#", fault.call.label)
        kinds.setdefault(f"{place}" if fault.call.name in PUBLISHING else kind, []).append(fault)
    return [fault for faults in kinds.values() for fault in some(faults, 1)]
