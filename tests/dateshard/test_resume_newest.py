"""`train --resume latest|best` without -c: the newest run of all goes on with its own settings."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
SPLIT = {"train": "2024-03-01..2024-03-03", "validation": "2024-03-04"}


def test_the_newest_run_of_all_goes_on_with_its_own_settings(
    make_world: Callable[..., Any], ds: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(4, split=SPLIT, training={"epochs": 1, "batch_size": 16, "learning_rate": 0.002})
    monkeypatch.chdir(world.folder)
    world.config_file()
    assert "no run yet" in ds("train", "--resume", "latest", code=4).err
    assert "no configuration" in ds("train", "--resume", "auto", code=2).err
    ds("preprocess", "-c", "config.yaml", "--workers", "1", "-q")
    ds("train", "-c", "config.yaml", "--run", "old", "-q")
    ds("train", "-c", "config.yaml", "--run", "new", "--learning-rate", "0.003", "-q")
    os.utime("data/runs/old/run.json", (1, 1))
    for which, epochs in (("latest", 2), ("best", 3)):
        done = ds("train", "--resume", which, "--epochs", str(epochs), "--json").document
        assert (done["run"], done["epoch"], done["state"]) == ("new", epochs, "epochs")
    assert (
        "learning_rate: checkpoint 0.003, now 0.004"
        in ds("train", "--resume", "latest", "--learning-rate", "0.004", code=2).err
    )
    assert len(list(Path("data/runs").glob("*/run.json"))) == 2
