"""A preprocess that is killed and run again, until it ends, leaves the bytes of one that nothing disturbed.

After every kill a reader finds the old generation or the new one, whole; before the first commit it finds none.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.test_killed_workers import KILLED, as_parent
from tests.kit.limits import PATIENCE_SECONDS

SPLIT = {"train": "2024-03-01..2024-03-08", "validation": "2024-03-09..2024-03-12"}
CHANGED = dt.date(2024, 3, 5)  # a training date
PREPARE = ("preprocess", "-c", "config.yaml", "--json", "--workers")
State = dict[str, bytes]


@pytest.fixture
def world(make_world: Callable[..., Any]) -> Any:
    """Twelve dates of which nothing is prepared."""
    made = make_world(12, split=SPLIT)
    made.config_file()
    return made


class Seen:
    """Counts every path under the store that was ever there, staging included: how far a process has come."""

    def __init__(self, store: Path) -> None:
        self.store, self.paths = store, set(store.rglob("*"))
        self.before = len(self.paths)

    def count(self) -> int:
        for folder, names, files in os.walk(self.store):
            self.paths.update(Path(folder, name) for name in (*names, *files))
        return len(self.paths) - self.before


def receipts(store: Path) -> dict[str, tuple[int, int]]:
    """{staged date: (inode, mtime)} of what is measured."""
    found = {path.parent.parent.name: path.stat() for path in store.glob("staged/*/*/receipt.json")}
    return {date: (status.st_ino, status.st_mtime_ns) for date, status in found.items()}


def undisturbed(world: Any, committed: Any, **wish: Any) -> State:
    """What the same act leaves in an untouched copy of the world's store; the store itself stays as it is."""
    away = world.folder / "away"
    if world.store.exists():
        shutil.copytree(world.store, away)
    world.prepare(**wish)
    found: State = committed(world)
    shutil.rmtree(world.store)
    if away.exists():
        away.rename(world.store)
    return found


def kill_until_it_ends(
    world: Any, launch: Any, committed: Any, words: tuple[str, ...], allowed: list[State | None], chance: random.Random
) -> Any:
    """Kills at random moments, three times at most; then lets it end. Returns the last one's JSON document."""
    total = 60
    for _ in range(3):
        seen, target = Seen(world.store), chance.randint(1, total)
        process = launch(*words)
        alive = process.until(lambda s=seen, t=target: s.count() >= t)
        process.kill()
        assert committed(world) in allowed
        if not alive and process.wait(None) == 0:
            break
    known = receipts(world.store)
    process = launch(*words)
    process.wait()
    after = receipts(world.store)
    assert {date: after[date] for date in known} == known, "what was measured was written again"
    document = json.loads(process.out)
    if "--force" not in words:
        assert document["measured"] == len(after) - len(known)
    return document


def first_run(world: Any, launch: Any, committed: Any, workers: int, seed: int) -> State:
    """Kills one; returns what one leaves that nothing disturbed."""
    print(f"replay with seed {seed}")
    new = undisturbed(world, committed)
    words = (*PREPARE, str(workers))
    kill_until_it_ends(world, launch, committed, words, [None, new], random.Random(seed))
    return new


def rerun(world: Any, launch: Any, committed: Any, workers: int, seed: int, *, refit: bool) -> State:
    """Kills one after a dump changed: of that date alone, or of the statistics and every shard. Returns as `first_run`."""
    print(f"replay with seed {seed}")
    world.prepare()
    old: State = committed(world)
    world.rows[CHANGED] = [(at, node, None if x is None else x + 7, y) for at, node, x, y in world.rows[CHANGED]]
    world.write(CHANGED)
    more = ("--refit-statistics",) if refit else (str(CHANGED), "--force")
    wish = {"refit": True} if refit else {"dates": frozenset([CHANGED]), "force": True}
    new = undisturbed(world, committed, **wish)
    assert old != new
    words = (*PREPARE, str(workers), *more)
    kill_until_it_ends(world, launch, committed, words, [old, new], random.Random(seed))
    return new


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_first_run_goes_on_and_measures_nothing_twice(
    world: Any, launch: Any, committed: Any, workers: int
) -> None:
    new = first_run(world, launch, committed, workers, seed=workers)
    assert committed(world) == new
    assert list((world.store / "staging").glob("*")) == []


@pytest.mark.parametrize(("refit", "workers"), [(False, 2), (True, 1)], ids=["one date", "statistics"])
def test_a_killed_rerun_leaves_the_old_generation_or_the_new_one(
    world: Any, launch: Any, committed: Any, workers: int, refit: bool
) -> None:
    new = rerun(world, launch, committed, workers, seed=workers, refit=refit)
    assert committed(world) == new


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 20))
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_many_times_the_store_ends_with_the_same_bytes(
    world: Any, launch: Any, committed: Any, workers: int, seed: int
) -> None:
    new = first_run(world, launch, committed, workers, seed)
    assert committed(world) == new
    assert list((world.store / "staging").glob("*")) == []
    shutil.rmtree(world.store)
    new = rerun(world, launch, committed, workers, seed, refit=bool(seed % 2))
    assert committed(world) == new


def test_workers_of_a_killed_or_terminated_parent_end_by_themselves(world: Any, launch: Any, committed: Any) -> None:
    """One of them is in the middle of a date all the time, so that the parent can't have ended before."""
    new = undisturbed(world, committed)
    mark = Path(f"worker-{KILLED[0]}")
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = launch(*PREPARE, "2", prefix=as_parent("measure_waiting"))
        assert process.until(mark.exists)
        mark.unlink()
        family = process.family()
        assert len(family) >= 3  # forkserver, tracker, a worker
        process.send(number)
        assert process.wait(None) in (-number, 128 + number)
        process.kill()
        for member in family:
            member.wait(timeout=PATIENCE_SECONDS)
        assert committed(world) is None
    launch(*PREPARE, "2").wait()
    assert committed(world) == new


def wrong_points(
    world: Any, launch_to_point: Any, committed: Any, words: tuple[str, ...], chosen: list[int], old: State | None
) -> list[int]:
    """Kills one command at each chosen change on disk, each time in a fresh copy of `before`, and runs it again.

    Returns the changes after which there was another state than the old or the new one, or not the new one in the end,
    or something was left in staging/.
    """
    data, before, new, wrong = world.folder / "data", world.folder / "before", None, []
    for point in chosen:
        shutil.rmtree(data, ignore_errors=True)
        if before.exists():
            shutil.copytree(before, data)
        killed = launch_to_point("", point, *words)
        killed.wait(-9)
        left = committed(world)
        again = launch_to_point("(?!)", 0, *words)
        again.wait()
        new = new or committed(world)
        if left not in (old, new) or committed(world) != new or any((world.store / "staging").glob("*")):
            wrong.append(point)
    return wrong


def test_killed_at_each_step_of_a_commit_the_generation_is_the_old_or_the_new(
    make_world: Any, launch_to_point: Any, points_of: Any, committed: Any
) -> None:
    world = make_world(2, split={"train": "2024-03-01"})
    world.config_file()
    words = ("preprocess", "-c", "config.yaml", "--workers", "1")
    points = points_of(*words)
    steps = [n for n, line in enumerate(points) if line.startswith("os.link") or line.endswith("/CURRENT")]
    assert len(steps) == 3
    chosen = sorted({n + more for n in steps for more in (0, 1)})  # right before each, right after each
    assert wrong_points(world, launch_to_point, committed, words, chosen, None) == []


@pytest.mark.slow
@pytest.mark.cpu_seconds(1800)
@pytest.mark.parametrize("act", ["first", "force", "refit"])
def test_killed_at_every_change_on_disk_the_store_ends_with_the_same_bytes(
    make_world: Any, launch_to_point: Any, points_of: Any, committed: Any, act: str
) -> None:
    world = make_world(2, split={"train": "2024-03-01..2024-03-02"})
    world.config_file()
    date, old = dt.date(2024, 3, 1), None
    words: tuple[str, ...] = ("preprocess", "-c", "config.yaml", "--workers", "1")
    if act != "first":
        world.prepare()
        old = committed(world)
        world.rows[date] = world.rows[date][:-9]
        world.write(date)
        words += (str(date), "--force") if act == "force" else ("--refit-statistics",)
        shutil.copytree(world.folder / "data", world.folder / "before")
    points = points_of(*words)
    assert wrong_points(world, launch_to_point, committed, words, list(range(len(points))), old) == []
