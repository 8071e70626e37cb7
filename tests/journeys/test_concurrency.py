"""Several commands on one store at once: each does its own work as if it were alone, or says who is before it."""

from __future__ import annotations

import datetime as dt
import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from dateshard.pipeline.clean import clean
from dateshard.shardstore.cleaning.garbage import Runs
from dateshard.shardstore.manifest import generations

PREPARE = ("preprocess", "-c", "config.yaml", "--workers", "1")
CLEAN = ("clean", "-c", "config.yaml", "--keep", "1")
CHANGED = dt.date(2024, 3, 4)  # a training date

# Runs a command that stops itself (SIGSTOP) right before the first change on disk that matches a pattern.
STOP_AT_POINT = """
import os, re, signal, sys
pattern, stopped = sys.argv[1], False
def look(event, arguments):
    global stopped
    if not stopped and event in ("open", "os.mkdir") and re.search(pattern, str(arguments[0])):
        stopped = True
        os.kill(os.getpid(), signal.SIGSTOP)
sys.addaudithook(look)
from dateshard.cli import run
sys.exit(run(sys.argv[2:]))
"""


def stopped(process: Any) -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def change(world: Any, *, refit: bool = False) -> bool:
    """Another dump for a training date, prepared by this process, which is another than the one under test."""
    world.rows[CHANGED] = [(at, node, speed, volume + 1) for at, node, speed, volume in world.rows[CHANGED]]
    world.write(CHANGED)
    return bool(world.prepare(refit=refit).written)


def sweep(world: Any) -> list[int]:
    """Cleans down to the current generation and the pinned ones; returns those that stay."""
    return list(clean(world.settings.preparing(), world.store, 1, dry_run=False, runs=Runs()).kept)


def test_of_several_writers_one_works_and_the_others_name_it(make_world: Any, launch: Any, committed: Any) -> None:
    world = make_world(4, split={"train": "2024-03-01..2024-03-03", "validation": "2024-03-04.."})
    world.config_file()
    first = launch("staging/", *PREPARE, script=STOP_AT_POINT)
    assert first.until(lambda: stopped(first))
    others = [launch(*PREPARE), launch(*PREPARE, "--force"), launch(*CLEAN)]
    for other in others:
        other.wait(75)
        assert f"another process is writing this dataset (process {first.pid} on " in other.err
        assert len(other.err.splitlines()) == 1
    first.send(signal.SIGCONT)
    first.wait()
    assert generations(world.store) == [1]
    assert committed(world)
    last = launch(*PREPARE)
    last.wait()
    assert last.out.startswith("nothing to do: generation 1")


@pytest.mark.parametrize(
    "loading",
    [{"policy": "mapped"}, {"policy": "blocks", "days_per_batch": 2}, {"policy": "streaming"}],
    ids=lambda loading: loading["policy"],
)
def test_reruns_refits_and_cleaning_change_no_loss_of_a_running_training(
    training_world: Any,
    launch: Any,
    launch_held: Any,
    uninterrupted: Any,
    left_behind: Any,
    differing: Any,
    loading: Any,
) -> None:
    world = training_world(training={"epochs": 3, "batch_size": 1}, checkpoint={"save_freq": 40}, loading=loading)
    quiet = uninterrupted(world)
    training = launch_held("step", 100, "train", "-c", "config.yaml", "--run", "cut")
    commits = 0
    while training.running:  # this process is the other one
        commits += change(world, refit=bool(commits % 2))
        sweep(world)
        if commits == 3:
            training.let_go()
    training.wait()
    assert differing(left_behind(Path("data/runs/cut")), quiet) == []
    assert generations(world.store) == [1, 1 + commits]


def test_a_checkpoint_is_continued_on_its_own_generation_or_refused_with_what_to_do(
    small_training: Any, launch: Any, launch_held: Any, uninterrupted: Any, left_behind: Any, differing: Any
) -> None:
    whole, run, world = uninterrupted(small_training), Path("data/runs/cut"), small_training
    process = launch_held("step", 20, "train", "-c", "config.yaml", "--run", "cut")
    assert process.until(lambda: any((run / "checkpoints").glob("checkpoint_*")))
    process.kill()
    shutil.copytree(run, "late")  # a run that nothing pins: its folder comes from elsewhere
    for _ in range(4):
        change(world)
    assert sweep(world) == [1, 5]
    resumed = launch("train", "--resume", "cut")
    resumed.wait()
    assert "the run stays on generation 1; the dataset is at 5 now" in resumed.out
    assert differing(left_behind(run), whole) == []

    shutil.rmtree(run)  # its pin goes with it
    for name in ("cut", "whole"):
        shutil.rmtree(run.with_name(name), ignore_errors=True)
    assert sweep(world) == [5]
    shutil.move("late", run.with_name("late"))
    late = launch("train", "--resume", "late")
    late.wait(4)
    assert re.search(r"g00000001.json: generation 1 is not in the store.*dateshard train -c CONFIG", late.err)


def test_a_run_that_is_copied_pins_its_generation_when_it_is_continued(
    small_training: Any, launch: Any, launch_held: Any
) -> None:
    run, world = Path("data/runs/cut"), small_training
    process = launch_held("step", 20, "train", "-c", "config.yaml", "--run", "cut")
    assert process.until(lambda: any((run / "checkpoints").glob("checkpoint_*")))
    process.kill()
    run.rename(run.with_name("moved"))
    change(world)
    launch("train", "--resume", "moved").wait()
    assert sweep(world) == [1, 2]


def test_a_training_whose_generation_is_cleaned_before_it_is_pinned_takes_the_current_one(
    small_training: Any, launch: Any
) -> None:
    world = small_training
    training = launch(r"pins/", "train", "-c", "config.yaml", "--run", "late", "--epochs", "1", script=STOP_AT_POINT)
    assert training.until(lambda: stopped(training))
    for _ in range(4):
        change(world)
    assert sweep(world) == [5]
    training.send(signal.SIGCONT)
    training.wait()
    assert "generation 5" in training.out
    sweep(world)
    evaluated = launch("evaluate", "late", "--split", "validation", "--json")
    evaluated.wait()
    assert json.loads(evaluated.out)["windows"] > 0
