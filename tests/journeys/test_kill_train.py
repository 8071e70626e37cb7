"""A training that is killed and resumed, again and again, ends as if nothing had happened: every byte it leaves."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dateshard.shardstore.pinning.runs_id import make_runs_id
from dateshard.trainer import checkpoint

CONTINUE = ("train", "--resume", "cut")


def num_lines(run: Path) -> int:
    try:
        return (run / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def runs_in(folder: Path) -> list[Path]:
    return [path.parent for path in folder.glob("*/run.json")]


def saving(run: Path) -> bool:
    """A checkpoint is being written at this moment."""
    folder = run / "checkpoints"
    return folder.is_dir() and any(path.name.startswith(".tmp-") for path in folder.iterdir())


def kill_and_resume(launch: Callable[..., Any], run: Path, num_lines_whole: int, kills: int, seed: int) -> None:
    """Kills at random batches, every other time in the middle of a save after it; then lets it end."""
    print(f"replay with seed {seed}")
    chance = random.Random(seed)
    words: tuple[str, ...] = ("train", "-c", "config.yaml", "--run", run.name)
    for number in range(kills):
        step = max(1, 2 * (num_lines_whole - num_lines(run)) // (kills - number + 1))
        target = num_lines(run) + chance.randint(1, step)
        process = launch(*words)
        alive = process.until(lambda wanted=target: num_lines(run) >= wanted)
        if alive and number % 2:
            process.until(lambda: saving(run))
        process.kill()
        words = CONTINUE
    launch(*words).wait()


def assert_same_tensors(ours: Path, whole: dict[str, bytes]) -> None:
    """All tensors of the last checkpoint, one by one: model, optimizer and running sums."""
    last, passed = checkpoint.newest(ours / "checkpoints")
    assert last is not None
    assert passed == []
    folder = ours.parent / "expected" / last.name
    folder.mkdir(parents=True)
    for name in ("manifest.json", *last.files):
        (folder / name).write_bytes(whole[f"checkpoints/{last.name}/{name}"])
    expected = checkpoint.read_files(checkpoint.inspect(folder))
    found = checkpoint.read_files(last)
    assert {stem: set(group) for stem, group in found.items()} == {k: set(group) for k, group in expected.items()}
    assert set(found) == {"model", "optimizer", "metrics"}
    assert all(found.values())
    for stem, group in found.items():
        for name, tensor in group.items():
            assert torch.equal(tensor, expected[stem][name]), f"{stem} {name}"


@pytest.mark.parametrize("seed", [2024])
def test_training_killed_at_random_batches_ends_like_an_uninterrupted_one(
    small_training: Any, launch: Any, uninterrupted: Any, left_behind: Any, differing: Any, seed: int
) -> None:
    whole, run = uninterrupted(small_training), Path("data/runs/cut")
    kill_and_resume(launch, run, sum("metrics" in name for name in whole), kills=3, seed=seed)
    assert_same_tensors(run, whole)
    assert differing(left_behind(run), whole) == []


def test_quantiles_of_what_depends_on_known_futures_end_like_those_of_an_uninterrupted_training(
    training_world: Any, launch: Any, uninterrupted: Any, left_behind: Any, differing: Any
) -> None:
    training = {"epochs": 2, "batch_size": 16, "loss": "quantile", "quantiles": [0.1, 0.5, 0.9]}
    world = training_world(targets=["speed"], training=training, checkpoint={"save_freq": 5})
    world.tree["pipeline"]["features"]["volume"]["future"] = True
    world.config_file()
    world.prepare()
    whole, run = uninterrupted(world), Path("data/runs/cut")
    kill_and_resume(launch, run, sum("metrics" in name for name in whole), kills=1, seed=7)
    assert_same_tensors(run, whole)
    last, _ = checkpoint.newest(run / "checkpoints")
    assert last is not None
    model = checkpoint.read_files(last)["model"]
    assert model["out.weight"].shape[0] == 3  # of the correction: an output a level
    assert bool(model["out.weight"].any())
    assert differing(left_behind(run), whole) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "loading",
    [{"policy": "mapped"}, {"policy": "blocks", "days_per_batch": 2}, {"policy": "streaming"}],
    ids=lambda loading: loading["policy"],
)
def test_training_killed_many_times_ends_like_an_uninterrupted_one(
    training_world: Any, launch: Any, uninterrupted: Any, left_behind: Any, differing: Any, loading: Any, seed: int
) -> None:
    more: dict[str, Any] = {"loading": loading, "scheduler": {"type": "step", "step_size": 2}}
    world = training_world(training={"epochs": 4, "batch_size": 2}, checkpoint={"save_freq": 9}, **more)
    whole, run = uninterrupted(world), Path("data/runs/cut")
    kill_and_resume(launch, run, sum("metrics" in name for name in whole), kills=8, seed=seed)
    assert_same_tensors(run, whole)
    assert differing(left_behind(run), whole) == []


@pytest.fixture
def short(training_world: Any) -> Any:
    """28 batches an epoch, two epochs, two saves within each."""
    return training_world(training={"epochs": 2, "batch_size": 8}, checkpoint={"save_freq": 10})


def test_killed_before_the_first_and_around_the_last_save_of_an_epoch_nothing_is_lost(
    short: Any, launch: Any, launch_to_point: Any, uninterrupted: Any, left_behind: Any, differing: Any
) -> None:
    """The printed command begins a run again that has no checkpoint; no line of the metrics is lost or told twice."""
    whole, run = uninterrupted(short), Path("data/runs/cut")
    killed = launch_to_point("os.mkdir .*/.tmp-", 0, "train", "-c", "config.yaml", "--run", "cut")
    killed.wait(-9)
    assert "To continue if it is interrupted: dateshard train --resume cut" in killed.out
    assert list((run / "checkpoints").iterdir()) == []
    rename = "os.rename .*/checkpoint_epoch_{}_batch_28"
    for epoch, after in ((1, 1), (2, 0)):  # right after the rename, and right before it
        launch_to_point(rename.format(epoch), after, *CONTINUE).wait(-9)
        assert (run / f"checkpoints/checkpoint_epoch_{epoch}_batch_28").exists() == bool(after)
    launch(*CONTINUE).wait()
    assert differing(left_behind(run), whole) == []


def test_killed_in_the_middle_of_a_write_that_runs_beside_training_the_older_checkpoint_goes_on(
    short: Any, launch: Any, launch_to_point: Any, uninterrupted: Any, left_behind: Any, differing: Any
) -> None:
    """Between two files of the second checkpoint, which the writing thread makes: half of it is there."""
    whole, run = uninterrupted(short), Path("data/runs/cut")
    words: tuple[str, ...] = ("train", "-c", "config.yaml", "--run", "cut")
    launch_to_point("os.rename .*/checkpoint_epoch_1_batch_20", 0, *words).wait(-9)
    [half] = (run / "checkpoints").glob(".tmp-*")
    assert (half / "manifest.json").exists()
    assert [path.name for path in (run / "checkpoints").glob("checkpoint_*")] == ["checkpoint_epoch_1_batch_10"]
    launch_to_point("open .*/.tmp-.*/metrics.safetensors", 0, *CONTINUE).wait(-9)
    [half] = (run / "checkpoints").glob(".tmp-*")
    assert sorted(path.name for path in half.iterdir()) == ["model.safetensors", "optimizer.safetensors"]
    continued = launch(*CONTINUE)
    continued.wait()
    assert "continuing cut exactly at checkpoint_epoch_1_batch_10" in continued.out
    assert differing(left_behind(run), whole) == []


@pytest.mark.slow
@pytest.mark.cpu_seconds(1800)
def test_killed_at_every_change_on_disk_a_run_can_be_continued_exactly(
    training_world: Any, launch: Any, launch_to_point: Any, points_of: Any, left_behind: Any, differing: Any
) -> None:
    """Every single point of a whole training; before run.json there is no run, and the same command begins it."""
    training_world(training={"epochs": 2, "batch_size": 32}, checkpoint={"save_freq": 5})
    Path("data/runs").mkdir()  # so that the first run makes no folder, and no ID, that the others find
    make_runs_id(Path("data/runs"))
    points = points_of("train", "-c", "config.yaml", "--run", "whole")
    whole = left_behind(Path("data/runs/whole"))
    for point, line in enumerate(points):
        name = f"cut{point}"
        launch_to_point("", point, "train", "-c", "config.yaml", "--run", name).wait(-9)
        there = Path("data/runs", name, "run.json").exists()
        launch("train", *(("--resume", name) if there else ("-c", "config.yaml", "--run", name))).wait()
        assert differing(left_behind(Path("data/runs", name)), whole) == [], f"{point}: {line}"


def test_resume_auto_continues_what_was_cut_off_and_only_that(
    small_training: Any, launch: Any, launch_held: Any, uninterrupted: Any, left_behind: Any, differing: Any
) -> None:
    whole, runs = uninterrupted(small_training), Path("data/runs")
    auto = ("train", "-c", "config.yaml", "--resume", "auto")
    if runs.is_dir():
        runs.rename(small_training.folder / "away")
    process = launch_held("step", 31, *auto)
    [run] = runs_in(runs)
    assert process.until(lambda: any((run / "checkpoints").glob("checkpoint_*")))
    process.kill()

    continued = launch(*auto, "--json")
    continued.wait()
    assert f"continuing {run.name} exactly at checkpoint_epoch_" in continued.err
    assert json.loads(continued.out)["run"] == run.name
    assert differing(left_behind(run), whole) == []

    complete = launch(*auto, "--json")
    complete.wait()
    assert f"{run.name} is complete" in complete.err
    assert json.loads(complete.out)["state"] == "complete"
    assert differing(left_behind(run), whole) == []
    assert runs_in(runs) == [run]

    other = launch(*auto, "trainer.training.learning_rate=0.01", "--epochs", "1", "--json")
    other.wait()
    assert json.loads(other.out)["run"] != run.name
    assert json.loads(other.out)["state"] == "epochs"
    assert "continuing" not in other.err
    assert len(runs_in(runs)) == 2
    assert differing(left_behind(run), whole) == []
