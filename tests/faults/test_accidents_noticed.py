"""What is played against good commands catches bad ones: without this it would prove nothing."""

from __future__ import annotations

import pytest

from tests.kit.accidents import SEED, Play, some
from tests.kit.durability import at_risk
from tests.kit.enumeration import in_order
from tests.kit.killing import kill_loop
from tests.kit.tracing import SYNCING

BAD_COMMITS = ("in place", "two renames")


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
