"""Whatever happens in the middle of a command, nothing torn is ever read, and the same command ends the work.

The short form plays what fits into a minute; `make test-all` plays every call, and `bench/faults.py` prints the
figures. The bad protocols are in test_accidents_noticed.py: what catches none of them proves nothing.
"""

from __future__ import annotations

import pytest

from tests.kit.accidents import SEED, Play, of_each_kind, some
from tests.kit.durability import at_risk
from tests.kit.enumeration import in_order
from tests.kit.killing import kill_loop
from tests.kit.scenes import SCENES


@pytest.mark.parametrize("name", ["preprocess", "train", "checkpoints"])
def test_killed_before_any_change_on_disk_a_command_leaves_nothing_torn_and_ends_with_the_same_bytes(
    play: Play, name: str
) -> None:
    """A kill before a call that changes nothing leaves what a kill before the next change leaves."""
    scene = play.scene(name)
    assert play.bad(scene, of_each_kind(play.faults(scene, "KILL", only_changes=True))) == []


@pytest.mark.parametrize(
    ("name", "count"), [("preprocess", 30), ("rerun", 15), ("train", 20), ("clean", 10), ("checkpoints", 10)]
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
    found = kill_loop(play.scene(name), play.zygotes[0], 7, SEED, real_share=0.1 if name == "preprocess" else 0.0)
    print(found)
    assert found.bad == []
    assert found.kills >= 7
    assert found.landed > 0
    assert found.looks > found.kills


@pytest.mark.slow
@pytest.mark.cpu_seconds(3600)
@pytest.mark.parametrize("name", SCENES)
def test_readers_meet_whole_states_only_through_two_hundred_kills(play: Play, name: str) -> None:
    share = 0.1 if name in ("preprocess", "rerun", "refit") else 0.0
    assert kill_loop(play.scene(name), play.zygotes[0], 200, SEED + 1, real_share=share).bad == []
