"""SIGKILL at random moments, with a reader at work: what it opens is whole, never older than before, never lost.

A round begins with a fresh copy of a scene, kills its command a few times, lets it end, and compares every byte with
an undisturbed run. The moment is drawn by time or by the number of changes on disk; a seed repeats the draw, though not
the race that it starts. What was there once must be there after a kill, or something newer.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.conftest import environment
from tests.kit.limits import PATIENCE_SECONDS
from tests.kit.scenes import Position, Scene
from tests.kit.states import State
from tests.kit.zygote import ROOT, Zygote

MOST_KILLS = 3  # of one command before it may end
PATIENT = 6  # the moments draw nearer with each that comes too late
START_SECONDS = 2.0  # of a process that imports everything itself


@dataclass(slots=True)
class Kills:
    """What a kill loop found. `landed`: kills that met the command alive; `acknowledged`: commands that said success."""

    kills: int = 0
    landed: int = 0
    acknowledged: int = 0
    looks: int = 0
    bad: list[str] = field(default_factory=list)


class Reader(threading.Thread):
    """Opens what is there again and again, verifies every file, and notes what is wrong."""

    def __init__(self, scene: Scene, cwd: Path) -> None:
        super().__init__(daemon=True)
        self.scene, self.cwd = scene, cwd
        self.looks, self.bad, self.acknowledged = 0, list[str](), False
        self.furthest: Position = ()
        self._over, self._state, self._names = threading.Event(), 0, set[str]()
        self.start()

    def run(self) -> None:
        look = self.scene.look or self.scene.observe
        while not self._over.is_set():
            floor = 1 if self.acknowledged else 0  # asked before looking: what is acknowledged then must be seen
            try:
                found = look(self.cwd)
                wrong = self._went_back(found) if self.scene.position else self._other(found, floor)
            except Exception as error:
                wrong = f"{type(error).__name__}: {error}"
            if wrong:
                self.bad.append(f"a reader met: {wrong}")
                return
            self.looks += 1
            time.sleep(0.002)

    def end(self) -> None:
        """Lets it finish its look."""
        self._over.set()
        self.join(PATIENCE_SECONDS)

    def _other(self, found: State | None, floor: int) -> str | None:
        places = [place for place, state in enumerate(self.scene.seen) if state == found]
        if not places:
            return "neither the old state nor the new"
        if max(places) < max(floor, self._state):
            return "an older state than before"
        self._state = max(self._state, min(places))
        return None

    def _went_back(self, found: State | None) -> str | None:
        strange = [name for name, data in (found or {}).items() if self.scene.known.get(name) != data]
        gone = set[str]() if self.scene.forgets else self._names - set(found or {})
        self._names = set(found or {})
        if strange or gone:
            return f"other bytes in {strange}, gone: {sorted(gone)}"
        before, self.furthest = self.furthest, max(self.furthest, self.scene.place(found))
        return f"{self.scene.place(found)} after {before}" if self.scene.place(found) < before else None


class Changes:
    """How many names below `data/` came or went since it was made."""

    def __init__(self, cwd: Path) -> None:
        self.data, self.count = cwd / "data", 0
        self._known = self._list()

    def look(self) -> int:
        """The count, as far as a listing every millisecond can tell."""
        found = self._list()
        self.count += len(found ^ self._known)
        self._known = found
        return self.count

    def _list(self) -> set[str]:
        return {f"{folder}/{name}" for folder, names, files in os.walk(self.data) for name in (*names, *files)}


def kill_loop(scene: Scene, zygote: Zygote, kills: int, seed: int, *, real_share: float = 0.0) -> Kills:
    """Rounds until so many kills were sent and one met its command alive, or `PATIENT` times as many were sent.

    Args:
        real_share: share of the rounds whose commands are `python -m dateshard ... --workers 2`.

    A command that continues is shorter, and the machine is not always as busy: the moments draw nearer while kills come
    too late, and move away again while they don't.
    """
    chance, total = random.Random(seed), Kills()
    most_changes, reach = _changes_of(scene, zygote), 1.0
    number = 0
    while total.kills < kills or (not total.landed and total.kills < PATIENT * kills):
        cwd = scene.fresh(f"kill{seed}-{number}")
        number += 1
        reader = Reader(scene, cwd)
        attack = _attack_real if chance.random() < real_share else _attack
        for _ in range(min(chance.randint(1, MOST_KILLS), max(1, kills - total.kills))):
            by_time = chance.random() < 0.5
            moment = chance.uniform(0.0, scene.seconds) if by_time else float(chance.randint(1, most_changes))
            code = attack(scene, zygote, cwd, by_time, moment * reach)
            reach = min(1.0, reach * 1.1) if code == -9 else reach * 0.8
            total.kills, total.landed = total.kills + 1, total.landed + (code == -9)
            reader.acknowledged |= code == 0
            total.acknowledged += code == 0
            found = scene.judge(cwd, acknowledged=reader.acknowledged, floor=reader.furthest)
            wrong = found if code in (0, -9) else f"exit {code}"
            total.bad += [f"{scene.name}, seed {seed}, kill {total.kills}: {wrong}"] if wrong else []
        wrong = scene.finish(zygote, cwd)
        total.acknowledged += wrong is None
        reader.end()
        total.looks += reader.looks
        total.bad += [f"{scene.name}, seed {seed}, kill {total.kills}: {what}" for what in (wrong, *reader.bad) if what]
        shutil.rmtree(cwd)
    return total


def _changes_of(scene: Scene, zygote: Zygote) -> int:
    cwd = scene.fresh("changes")
    changes = Changes(cwd)
    job = zygote.start(scene.words, cwd, protocol=scene.protocol)
    while job.alive:
        changes.look()
    zygote.wait(job)
    shutil.rmtree(cwd)
    return changes.count


def _attack(scene: Scene, zygote: Zygote, cwd: Path, by_time: bool, moment: float) -> int:
    """Runs the command and kills it at the moment; its exit code."""
    job = zygote.start(scene.again(cwd), cwd, protocol=scene.protocol)
    _wait_for(cwd, lambda: job.alive, by_time, moment)
    job.kill()
    return zygote.wait(job).code


def _attack_real(scene: Scene, zygote: Zygote, cwd: Path, by_time: bool, moment: float) -> int:
    """The same with a process of its own and two workers; they must end by themselves when it is killed."""
    words = ["2" if word == "1" else word for word in scene.again(cwd)]
    options = {"env": {**environment(), "PYTHONPATH": str(ROOT)}, "start_new_session": True}
    with subprocess.Popen(
        [sys.executable, "-m", "dateshard", *words],
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **options,
    ) as process:
        _wait_for(cwd, lambda: process.poll() is None, by_time, moment + (START_SECONDS if by_time else 0.0))
        try:
            family = psutil.Process(process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            family = []
        process.kill()
        code = process.wait(PATIENCE_SECONDS)
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_SECONDS)
    assert not alive, f"the parent was killed, these live on: {alive}"
    return code


def _wait_for(cwd: Path, alive: Callable[[], bool], by_time: bool, moment: float) -> None:
    """Until `moment` seconds passed or so many changes were seen, or the command ended."""
    began, changes = time.monotonic(), Changes(cwd)
    while alive() and (time.monotonic() - began if by_time else changes.look()) < moment:
        assert time.monotonic() - began < PATIENCE_SECONDS, "it hangs"
        time.sleep(0.0005)
