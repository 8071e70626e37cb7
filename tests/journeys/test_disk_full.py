"""A full disk: exit 28 in one sentence, nothing half written, and with more room the same command goes on."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dateshard.trainer import checkpoint
from tests.kit.limits import PATIENCE_SECONDS

PREPARE = ("preprocess", "-c", "config.yaml", "--workers")


def mount(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["mount", "-t", "tmpfs", *words], capture_output=True, text=True, timeout=PATIENCE_SECONDS)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], None]]:
    """small_disk(kilobytes) makes data/ a file system of that size, or gives the one that is there another size."""
    folder = tmp_path / "data"

    def resize(kilobytes: int) -> None:
        options = f"size={kilobytes}k" if not os.path.ismount(folder) else f"remount,size={kilobytes}k"
        folder.mkdir(exist_ok=True)
        done = mount("-o", options, "tmpfs", str(folder))
        if done.returncode:
            pytest.skip(f"a file system of its own cannot be mounted here: {done.stderr.strip()}")

    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    try:
        yield resize
    finally:
        if os.path.ismount(folder):
            subprocess.run(["umount", str(folder)], check=True, timeout=PATIENCE_SECONDS)


def refuses(process: Any) -> None:
    """Exit 28, and one sentence that says so."""
    process.wait(28)
    assert process.err.startswith("Error: ")
    assert len(process.err.splitlines()) == 1
    assert "no space left" in process.err or "MB free" in process.err
    assert "None" not in process.err


def all_good(run: Path) -> list[str]:
    """Names of the run's checkpoints, each verified; nothing but checkpoints, two notes, an export and a lock lies there."""
    found, passed = checkpoint.scan(run / "checkpoints")
    assert passed == []
    for one in found:
        checkpoint.read_files(one)
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert names - {one.name for one in found} <= {".lock", "latest.json", "best_model.json", "best_model.pth"}
    return [one.name for one in found]


@pytest.mark.parametrize(("what", "workers"), [("dumps.json", 1), ("values.f64", 2), ("g00000001.json", 1)])
def test_preprocess_without_room_for_one_file_commits_nothing_and_goes_on(
    make_world: Any, launch: Any, launch_with_limit: Any, committed: Any, what: str, workers: int
) -> None:
    world = make_world(5, split={"train": "2024-03-01..2024-03-03", "validation": "2024-03-04.."})
    world.config_file()
    world.prepare()
    whole, limit = committed(world), next(world.store.rglob(what)).stat().st_size - 1
    world.store.rename(world.folder / "away")
    refuses(launch_with_limit(limit, *PREPARE, str(workers)))
    assert committed(world) is None
    launch(*PREPARE, str(workers)).wait()
    assert committed(world) == whole


def test_training_without_room_for_a_checkpoint_keeps_the_earlier_ones_and_goes_on(
    training_world: Any,
    launch: Any,
    launch_held: Any,
    launch_with_limit: Any,
    uninterrupted: Any,
    left_behind: Any,
    differing: Any,
) -> None:
    """The optimizer's file is the one that does not fit; then not even the metrics do."""
    model = {"name": "mlp", "hidden_units": [64], "dropout_rate": 0.2}
    world = training_world(model=model, training={"epochs": 2, "batch_size": 8}, checkpoint={"save_freq": 10})
    whole, run = uninterrupted(world), Path("data/runs/cut")
    process = launch_held("step", 22, "train", "-c", "config.yaml", "--run", "cut")
    process.send(signal.SIGTERM)
    process.let_go()
    process.wait(143)
    before = all_good(run)
    sizes = {name.rsplit("/")[-1]: len(data) for name, data in whole.items()}
    for limit in (sizes["optimizer.safetensors"] - 1, (run / "metrics.jsonl").stat().st_size + 200):
        refuses(launch_with_limit(limit, "train", "--resume", "cut"))
        assert all_good(run) == before
    launch("train", "--resume", "cut").wait()
    left = left_behind(run)
    assert differing({name: left[name] for name in whole}, whole) == []


def test_a_full_file_system_costs_no_generation(make_world: Any, launch: Any, small_disk: Any, committed: Any) -> None:
    world = make_world(8, split={"train": "2024-03-01..2024-03-06", "validation": "2024-03-07.."})
    world.config_file()
    small_disk(300)
    refuses(launch(*PREPARE, "1"))
    assert committed(world) is None
    small_disk(20_000)
    launch(*PREPARE, "1").wait()
    old = committed(world)

    date = dt.date(2024, 3, 2)
    world.rows[date] = world.rows[date][:-20]
    world.write(date)
    ballast = world.folder / "data" / "ballast"
    leave_free(ballast, kilobytes=60)
    refuses(launch(*PREPARE, "1", "--refit-statistics"))
    assert committed(world) == old
    ballast.unlink()
    launch(*PREPARE, "1", "--refit-statistics").wait()
    assert committed(world) != old


@pytest.mark.slow
def test_a_full_file_system_costs_no_checkpoint(
    training_world: Any, launch: Any, small_disk: Any, left_behind: Any, differing: Any
) -> None:
    small_disk(20_000)
    world = training_world(training={"epochs": 3, "batch_size": 8}, checkpoint={"save_freq": 4})
    ballast = world.folder / "data" / "ballast"
    launch("train", "-c", "config.yaml", "--run", "whole").wait()
    whole = left_behind(Path("data/runs/whole"))
    leave_free(ballast, kilobytes=150)
    refuses(launch("train", "-c", "config.yaml", "--run", "cut"))
    assert len(all_good(Path("data/runs/cut"))) > 1
    ballast.unlink()
    launch("train", "--resume", "cut").wait()
    assert differing(left_behind(Path("data/runs/cut")), whole) == []


def leave_free(ballast: Path, kilobytes: int) -> None:
    """Fills the file system of `ballast` but for so much."""
    status = os.statvfs(ballast.parent)
    ballast.write_bytes(bytes(status.f_bavail * status.f_frsize - (kilobytes << 10)))
