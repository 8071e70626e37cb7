"""A backtest that is killed goes on with the same command, trains no finished origin again, and ends as if undisturbed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dateshard.trainer import checkpoint

WORDS = ("backtest", "-c", "config.yaml", "--origins", "2", "--every", "2", "--workers", "1")
SPLIT = {"train": "2024-03-01..2024-03-08", "validation": "2024-03-09", "test": "2024-03-10.."}


def tensors(run: Path) -> dict[str, torch.Tensor]:
    """All tensors of a run's newest checkpoint: model, optimizer and running sums."""
    saved, passed = checkpoint.newest(run / "checkpoints")
    assert saved is not None
    assert passed == []
    groups = checkpoint.read_files(saved)
    return {f"{stem} {name}": tensor for stem, group in groups.items() for name, tensor in group.items()}


def table_of(folder: Path) -> Any:
    return json.loads((folder / "backtest.json").read_text())["origins"]


def test_a_backtest_that_is_killed_twice_ends_like_an_undisturbed_one(
    make_world: Callable[..., Any], launch: Any, launch_held: Any
) -> None:
    training = {"epochs": 3, "batch_size": 4}
    world = make_world(12, split=SPLIT, training=training, checkpoint={"save_freq": 3}, baselines=["repeat", "mean"])
    world.config_file()
    launch(*WORDS).wait()
    [folder] = Path("data/backtests").iterdir()
    names = [row["run"] for row in table_of(folder)]
    whole, table = {name: tensors(folder / "runs" / name) for name in names}, table_of(folder)
    newest, oldest = (folder / "runs" / name for name in reversed(names))
    steps = json.loads((newest / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    shutil.rmtree("data")

    process = launch(*WORDS)
    assert process.until(lambda: (folder / "shards" / "world" / "CURRENT").exists())  # while the first is prepared
    process.kill()
    process = launch_held("step", steps + 8, *WORDS)  # in the second training
    assert process.until(lambda: checkpoint.scan(oldest / "checkpoints")[0] != [])
    process.kill()
    finished = (newest / "metrics.jsonl").stat().st_mtime_ns
    process = launch(*WORDS)
    process.wait()

    assert f"continuing {names[0]} exactly at" in process.out
    assert (newest / "metrics.jsonl").stat().st_mtime_ns == finished
    assert table_of(folder) == table
    for name in names:
        ours = tensors(folder / "runs" / name)
        assert ours.keys() == whole[name].keys()
        assert all(torch.equal(tensor, whole[name][key]) for key, tensor in ours.items())
