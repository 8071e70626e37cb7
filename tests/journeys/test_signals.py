"""A stop by a signal: a checkpoint, the exit code, and a printed command that goes on exactly there."""

from __future__ import annotations

import random
import re
import shlex
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from dateshard.trainer import checkpoint
from tests.kit.limits import PATIENCE_SECONDS

RUN = Path("data/runs/cut")
BEGIN = ("train", "-c", "config.yaml", "--run", "cut")
SPLIT = {"train": "2024-03-01..2024-03-10", "validation": "2024-03-11..2024-03-14"}


def printed_command(process: Any) -> tuple[tuple[int, int], list[str]]:
    """((epoch, batch), words after `dateshard`) of the stop that was told."""
    found = re.search(r"saved epoch (\d+) batch (\d+)\. Continue exactly here: .*dateshard (.+)", process.out)
    assert found, process.out
    return (int(found[1]), int(found[2])), shlex.split(found[3])


def ending(left: dict[str, bytes], epoch: int = 4) -> dict[str, bytes]:
    """The metrics, and the files of the epoch's last checkpoint (it is `-2` if that epoch's end was saved before)."""
    last = re.compile(rf"checkpoints/checkpoint_epoch_{epoch}_batch_\d+(-\d)?/")
    names = sorted(name for name in left if last.match(name))
    final = {Path(name).name: left[name] for name in names}  # a later name, a later version
    return final | {name: data for name, data in left.items() if name.startswith("metrics")}


def test_stopped_again_and_again_the_printed_command_ends_with_the_same_weights(
    small_training: Any, launch: Any, launch_held: Any, uninterrupted: Any, left_behind: Any, differing: Any
) -> None:
    """At the first step, in the middle, in the middle again, and twice at once."""
    words: Any = BEGIN
    stops = ((signal.SIGINT, 130, 1, (1, 1)), (signal.SIGTERM, 143, 149, (2, 38)), (signal.SIGINT, 130, 100, (3, 26)))
    for number, code, steps, expected in stops:  # an epoch has 112 batches
        process = launch_held("step", steps, *words)
        process.send(number)
        process.let_go()
        process.wait(code)
        (epoch, batch), words = printed_command(process)
        assert (epoch, batch) == expected
        saved, passed = checkpoint.newest(RUN / "checkpoints")
        assert saved is not None
        assert (saved.state.epoch + 1, saved.state.batch) == (epoch, batch)
        assert saved.name == f"checkpoint_epoch_{epoch}_batch_{batch}"
        assert passed == []

    twice = launch_held("step", 100, *words)
    for number in (signal.SIGINT, signal.SIGTERM):
        twice.send(number)  # it is held, so that the second finds the first not yet obeyed
    twice.wait(-signal.SIGTERM)
    assert f"continuing cut exactly at {saved.name}" in twice.out
    assert "Continue exactly here" not in twice.out

    launch(*words).wait()
    assert differing(ending(left_behind(RUN)), ending(uninterrupted(small_training))) == []


def test_a_signal_during_validation_keeps_the_epochs_steps_and_validates_again(
    training_world: Any, launch: Any, launch_held: Any, uninterrupted: Any, left_behind: Any, differing: Any
) -> None:
    world = training_world(training={"epochs": 3, "batch_size": 8}, checkpoint={"save_freq": None})
    process = launch_held("validation", 2, *BEGIN)
    process.send(signal.SIGINT)
    process.let_go()
    process.wait(130)
    place, words = printed_command(process)
    saved, _ = checkpoint.newest(RUN / "checkpoints")
    assert place == (2, 28)
    assert not saved.state.validated
    launch(*words).wait()
    assert differing(ending(left_behind(RUN), 3), ending(uninterrupted(world), 3)) == []


PREPARE = ("preprocess", "-c", "config.yaml", "--workers")
GOES_ON = re.compile(r"To continue: .*dateshard (.+)")


def interrupted(process: Any, world: Any, number: int, *, group: bool) -> list[str]:
    """Sends the signal to a process that is held; the words of the command that is printed on stderr."""
    family = process.family()
    process.send(number, group=group)
    process.let_go()
    process.wait(128 + number)
    assert not psutil.wait_procs(family, timeout=PATIENCE_SECONDS)[1], "processes that live on"
    (line,) = process.err.strip().splitlines()
    assert line.startswith("stopped: what was measured is kept, what was committed stays. To continue: ")
    assert process.out.count("To continue if it is interrupted: ") <= 1  # before the work, if it came so far
    assert list((world.store / "staging").glob("*")) == []
    found = GOES_ON.search(line)
    assert found
    return shlex.split(found[1])


@pytest.mark.parametrize(
    ("workers", "number", "group", "place"),
    [
        (1, signal.SIGINT, True, ("act", 1)),
        (1, signal.SIGTERM, False, ("date", 3)),
        (2, signal.SIGTERM, False, ("date", 3)),
        (2, signal.SIGINT, True, ("date", 3)),
        (2, signal.SIGTERM, True, ("date", 3)),
    ],
    ids=["start", "one process", "parent", "terminal", "group"],
)
def test_an_interrupted_preprocess_leaves_nothing_half_and_the_printed_command_goes_on(
    make_world: Any,
    launch: Any,
    launch_held: Any,
    committed: Any,
    content: Any,
    workers: int,
    number: int,
    group: bool,
    place: tuple[str, int],
) -> None:
    """Ctrl-C in a terminal reaches the worker processes too; they leave the words to their parent."""
    world = make_world(14, split=SPLIT)
    world.config_file()
    words = (*PREPARE, str(workers))
    again = interrupted(launch_held(*place, *words), world, number, group=group)
    assert again == list(words)
    assert committed(world) is None
    measured = len(list(world.store.glob("staged/*/*")))
    process = launch(*again)
    process.wait()
    assert f"{14 - measured} dates measured" in process.out.replace("1 date ", "1 dates ")
    found = committed(world)
    world.store.rename(world.folder / "away")
    world.prepare()
    assert found == content(world.open())


def test_a_second_signal_ends_at_once_and_no_worker_lives_on(make_world: Any, launch: Any, launch_held: Any) -> None:
    world = make_world(14, split=SPLIT)
    world.config_file()
    process = launch_held("date", 2, *PREPARE, "2")
    family = process.family()
    assert len(family) >= 2
    for number in (signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGCONT):  # stopped: else it may end between
        process.send(number)
    code = process.wait(None)  # whichever is handled second: two threads may take them in either order
    assert code in (-signal.SIGINT, -signal.SIGTERM), f"exit {code}\n{process.out}\n{process.err}"
    assert not psutil.wait_procs(family, timeout=PATIENCE_SECONDS)[1], "processes that live on"
    launch(*PREPARE, "2").wait()


@pytest.mark.slow
def test_interrupted_at_random_moments_preprocess_never_hangs_and_never_half(
    make_world: Any, launch: Any, committed: Any
) -> None:
    """Every moment of a run of two workers, their start and their end included; at most 0.05 s are left out."""
    world = make_world(14, split=SPLIT)
    world.config_file()
    chance = random.Random(11)
    codes: Counter[int] = Counter()
    for _ in range(60):
        shutil.rmtree(world.store, ignore_errors=True)
        process = launch(*PREPARE, "2")
        assert process.until((world.store / "writer.lock").exists)
        time.sleep(chance.uniform(0, 1.5))
        number = chance.choice([signal.SIGINT, signal.SIGTERM])
        family = process.family()
        process.send(number, group=chance.random() < 0.5)
        code = process.wait(None)
        codes[code] += 1
        if code != 0:
            assert code == 128 + number, (code, process.err)
            assert GOES_ON.search(process.err)
            assert list((world.store / "staging").glob("*")) == []
        committed(world)
        assert not psutil.wait_procs(family, timeout=PATIENCE_SECONDS)[1], "processes that live on"
    assert codes[130] > 5, codes
    assert codes[143] > 5, codes
