"""A stop by a signal: a checkpoint, the exit code, and a printed command that goes on exactly there."""

from __future__ import annotations

import re
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest

from trainer import checkpoint

RUN = Path("data/runs/cut")
BEGIN = ("train", "-c", "config.yaml", "--run", "cut")
SPLIT = {"train": "2024-03-01..2024-03-10", "validation": "2024-03-11..2024-03-14"}


def num_lines() -> int:
    path = RUN / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def printed_command(process: Any) -> tuple[tuple[int, int], list[str]]:
    """((epoch, batch), words after `dateshard`) of the stop that was told."""
    found = re.search(r"saved epoch (\d+) batch (\d+)\. Continue exactly here: dateshard (.+)", process.out)
    assert found, process.out
    return (int(found[1]), int(found[2])), shlex.split(found[3])


def ending(left: dict[str, bytes]) -> dict[str, bytes]:
    """The metrics, and the files of the last checkpoint of epoch 4 (it is `-2` if that epoch's end was saved before)."""
    last = re.compile(r"checkpoints/checkpoint_epoch_4_batch_\d+(-\d)?/")
    names = sorted(name for name in left if last.match(name))
    final = {Path(name).name: left[name] for name in names}  # a later name, a later version
    return final | {name: data for name, data in left.items() if name.startswith("metrics")}


def test_stopped_again_and_again_the_printed_command_ends_with_the_same_weights(
    small_training: Any, launch: Any, uninterrupted: Any, left_behind: Any, differing: Any
) -> None:
    """While the run starts, in the middle, in the middle again, and twice at once."""
    early = launch(*BEGIN)
    assert early.until((RUN / "run.json").exists)
    early.send(signal.SIGINT)
    early.wait(130)
    _, words = printed_command(early)

    for number, code, lines in ((signal.SIGTERM, 143, 150), (signal.SIGINT, 130, 250)):
        process = launch(*words)
        assert process.until(lambda wanted=lines: num_lines() >= wanted)
        process.send(number)
        process.wait(code)
        (epoch, batch), words = printed_command(process)
        saved, passed = checkpoint.newest(RUN / "checkpoints")
        assert saved is not None
        assert (saved.state["epoch"] + 1, saved.state["batch"]) == (epoch, batch)
        assert saved.name == f"checkpoint_epoch_{epoch}_batch_{batch}"
        assert passed == []

    twice = launch(*words)
    assert twice.until(lambda: num_lines() >= 350)
    for held in (signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
        twice.send(held)  # both wait, so that the second finds the first not yet obeyed
    twice.wait(-signal.SIGTERM)
    assert f"continuing cut exactly at {saved.name}" in twice.out
    assert "Continue exactly here" not in twice.out

    launch(*words).wait()
    assert differing(ending(left_behind(RUN)), ending(uninterrupted(small_training))) == []


def test_a_signal_during_validation_keeps_the_epochs_steps_and_validates_again(
    make_world: Any, launch: Any, uninterrupted: Any, left_behind: Any, differing: Any
) -> None:
    """Validation is 40 times as long as training, so that a signal after an epoch's last step falls into it."""
    split = {"train": "2024-03-01..2024-03-02", "validation": "2024-03-03.."}
    training = {"epochs": 4, "batch_size": 1}
    world = make_world(90, split=split, training=training, checkpoint={"save_freq": None})
    world.config_file()
    world.prepare()
    words: Any = BEGIN
    for epoch in range(1, 4):
        process = launch(*words)
        batches = 31  # 48 steps without the first 12 and the last 5
        assert process.until(lambda wanted=epoch * batches + epoch - 1: num_lines() >= wanted)
        process.send(signal.SIGINT)
        process.wait(130)
        place, words = printed_command(process)
        saved, _ = checkpoint.newest(RUN / "checkpoints")
        if place == (epoch, batches) and not saved.state["validated"]:
            break
    else:
        pytest.fail("no signal fell into a validation")
    launch(*words).wait()
    assert differing(ending(left_behind(RUN)), ending(uninterrupted(world))) == []


@pytest.mark.parametrize(
    ("workers", "group", "enough"), [(1, True, 0), (2, False, 3), (2, True, 3)], ids=["start", "parent", "terminal"]
)
def test_an_interrupted_preprocess_leaves_nothing_half_and_goes_on(
    make_world: Any, launch: Any, committed: Any, content: Any, workers: int, group: bool, enough: int
) -> None:
    """Ctrl-C in a terminal reaches the worker processes too; they leave the words to their parent."""
    world = make_world(14, split=SPLIT)
    world.config_file()
    words = ("preprocess", "-c", "config.yaml", "--workers", str(workers))
    process = launch(*words)
    lock = world.store / "writer.lock"
    assert process.until(lambda: lock.exists() and len(list(world.store.glob("staged/*/*"))) >= enough)
    process.send(signal.SIGINT, group=group)
    process.wait(130)
    assert process.err.strip() == "interrupted; what was committed stays, run the same command again to go on"
    assert committed(world) is None
    assert list((world.store / "staging").glob("*")) == []
    launch(*words).wait()
    found = committed(world)
    world.store.rename(world.folder / "away")
    world.prepare()
    assert found == content(world.open())
