"""Whatever happens in the middle of a command, nothing torn is ever read, and the same command ends the work.

The short form plays what fits into two minutes; `make test-all` plays every call, and `bench/faults.py` prints the
figures. The bad protocols come last: what catches none of them proves nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import tracing
from tests.kit.durability import at_risk
from tests.kit.enumeration import enumerate_faults, faults, in_order, points
from tests.kit.killing import kill_loop
from tests.kit.scenes import SCENES, Scene, make_scene
from tests.kit.tracing import SYNCING, Fault
from tests.kit.zygote import Zygote

SEED = 20_240_301
BAD_COMMITS = ("in place", "two renames")


@pytest.fixture(scope="module")
def zygotes() -> Iterator[list[Zygote]]:
    """Two, for two cores."""
    if reason := tracing.why_not():
        pytest.skip(reason)
    started = [Zygote(), Zygote()]
    yield started
    for zygote in started:
        zygote.close()


@pytest.fixture
def play(tmp_path: Path, zygotes: list[Zygote]) -> Play:
    return Play(tmp_path, zygotes)


class Play:
    """Scenes in the test's folder."""

    def __init__(self, folder: Path, zygotes: list[Zygote]) -> None:
        self.folder, self.zygotes = folder, zygotes

    def scene(self, name: str, protocol: str | None = None) -> Scene:
        return make_scene(name, self.folder / name, self.zygotes[0], protocol)

    def bad(self, scene: Scene, chosen: list[Fault]) -> list[str]:
        """What the faults left that is wrong; every one of them was played."""
        assert chosen
        tally = enumerate_faults(scene, chosen, self.zygotes)
        assert tally.runs == len(chosen)
        return tally.bad

    def faults(self, scene: Scene, *kinds: str, only_changes: bool = False, forever: bool = False) -> list[Fault]:
        calls = [call for call in points(scene, self.zygotes[0]) if call.changes or not only_changes]
        return faults(calls, kinds, forever=forever)


def some(chosen: list[Fault], count: int) -> list[Fault]:
    """A seeded sample."""
    print(f"replay with seed {SEED}")
    return random.Random(SEED).sample(chosen, min(count, len(chosen)))


@pytest.mark.parametrize("name", ["preprocess", "train", "checkpoints"])
def test_killed_before_any_change_on_disk_a_command_leaves_nothing_torn_and_ends_with_the_same_bytes(
    play: Play, name: str
) -> None:
    """A kill before a call that changes nothing leaves what a kill before the next change leaves."""
    scene = play.scene(name)
    assert play.bad(scene, play.faults(scene, "KILL", only_changes=True)) == []


@pytest.mark.parametrize(
    ("name", "count"), [("preprocess", 50), ("rerun", 20), ("train", 30), ("clean", 15), ("checkpoints", 15)]
)
def test_a_failing_call_is_told_in_one_sentence_and_costs_nothing_committed(play: Play, name: str, count: int) -> None:
    scene = play.scene(name)
    assert play.bad(scene, some(play.faults(scene, "EIO", "ENOSPC"), count)) == []


@pytest.mark.parametrize("name", ["preprocess", "train"])
def test_a_lock_that_the_file_system_does_not_give_is_told_as_that_and_costs_nothing(play: Play, name: str) -> None:
    scene = play.scene(name)
    assert play.bad(scene, [fault for fault in play.faults(scene, "ENOLCK") if fault.call.name == "flock"]) == []


def test_what_was_measured_and_cannot_be_read_any_more_never_becomes_a_shard(play: Play) -> None:
    """A library's reader may take a failed read for a short one, and give back whatever lay in memory."""
    scene = play.scene("preprocess")
    reads = [fault for fault in play.faults(scene, "EIO", forever=True) if fault.call.name in ("read", "preadv")]
    assert play.bad(scene, [fault for fault in reads if "/staged/" in fault.call.label]) == []


@pytest.mark.slow
@pytest.mark.cpu_seconds(3600)
@pytest.mark.parametrize("kind", ["KILL", "EIO", "ENOSPC"])
@pytest.mark.parametrize("name", SCENES)
def test_every_call_may_be_the_last_or_fail(play: Play, name: str, kind: str) -> None:
    scene = play.scene(name)
    assert play.bad(scene, play.faults(scene, kind)) == []


@pytest.mark.slow
@pytest.mark.cpu_seconds(3600)
@pytest.mark.parametrize("name", SCENES)
def test_a_disk_that_fails_from_one_call_on_costs_nothing_committed(play: Play, name: str) -> None:
    scene = play.scene(name)
    assert play.bad(scene, play.faults(scene, "EIO", "ENOSPC", forever=True)) == []


@pytest.mark.parametrize("name", SCENES)
def test_what_is_committed_is_flushed_before_it_is_named(play: Play, name: str) -> None:
    assert at_risk(in_order(play.scene(name), play.zygotes[0])) == []


@pytest.mark.parametrize("name", SCENES)
def test_readers_meet_whole_states_only_while_commands_are_killed(play: Play, name: str) -> None:
    found = kill_loop(play.scene(name), play.zygotes[0], 10, SEED, real_share=0.1 if name == "preprocess" else 0.0)
    print(found)
    assert found.bad == []
    assert found.kills == 10
    assert found.landed > 0
    assert found.looks > found.kills


@pytest.mark.slow
@pytest.mark.cpu_seconds(3600)
@pytest.mark.parametrize("name", SCENES)
def test_readers_meet_whole_states_only_through_two_hundred_kills(play: Play, name: str) -> None:
    share = 0.1 if name in ("preprocess", "rerun", "refit") else 0.0
    assert kill_loop(play.scene(name), play.zygotes[0], 200, SEED + 1, real_share=share).bad == []


@pytest.mark.parametrize("protocol", BAD_COMMITS)
def test_the_harness_catches_commits_that_are_not_one_step(play: Play, protocol: str) -> None:
    scene = play.scene("rerun", protocol)
    faults = play.faults(scene, "KILL", only_changes=True)
    published = [fault for fault in faults if "/staging/" not in fault.call.label]  # where a wrong commit shows
    assert play.bad(scene, some(published, 25))


def test_the_harness_catches_a_commit_that_takes_no_answer_from_fsync(play: Play) -> None:
    scene = play.scene("rerun", "fsync errors ignored")
    chosen = [fault for fault in play.faults(scene, "EIO") if fault.call.name in SYNCING]
    bad = play.bad(scene, some(chosen, 8))
    assert len(bad) == 8
    assert all(line.endswith("exit 0") for line in bad)


def test_the_harness_catches_a_checkpoint_and_an_id_that_are_written_under_their_final_names(play: Play) -> None:
    scene = play.scene("train", "checkpoint in place")
    kills = play.faults(scene, "KILL", only_changes=True)
    of_id = [fault for fault in kills if fault.call.label.endswith("data/runs/ID")]
    assert any("data/runs/ID: the file's content" in line for line in play.bad(scene, of_id))
    assert play.bad(scene, some([fault for fault in kills if fault not in of_id], 25))


def test_the_harness_catches_a_checkpoint_that_is_removed_before_the_next_one_is_there(play: Play) -> None:
    found = kill_loop(play.scene("retain", "older checkpoint first"), play.zygotes[0], 20, SEED)
    assert any("was there, now" in line or " after (" in line for line in found.bad), found


@pytest.mark.slow
@pytest.mark.cpu_seconds(3600)
@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        *(("rerun", p) for p in BAD_COMMITS),
        ("train", "checkpoint in place"),
        ("retain", "older checkpoint first"),
    ],
)
def test_random_kills_catch_them_too(play: Play, name: str, protocol: str) -> None:
    assert kill_loop(play.scene(name, protocol), play.zygotes[0], 200, SEED).bad


@pytest.mark.parametrize("name", ["preprocess", "rerun", "refit", "train"])
def test_the_harness_catches_a_commit_that_flushes_nothing(play: Play, name: str) -> None:
    assert at_risk(in_order(play.scene(name, "without fsync"), play.zygotes[0]))
