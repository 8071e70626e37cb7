"""What the user's notes 4 (memory of the metrics) look at while a job runs: `low_memory`, the log's lines, the samples."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dateshard.cli import run
from dateshard.training import view

LOW_MEMORY = Path(__file__).parents[2] / "configs" / "low_memory.yaml"
BATCH = re.compile(r"Epoch: (\d+), Batch: (\d+)/(\d+), Loss: \d+\.\d{6}")
EPOCH = re.compile(r"Epoch (\d+)/(\d+) - Time: \d+\.\d\ds - Train Loss: \d+\.\d+ - Val Loss: \d+\.\d+")


def test_low_memory_is_laid_over_a_configuration_and_changes_what_it_says(make_world: Any) -> None:
    world = make_world()
    world.config_file()
    world.prepare()
    world.run("train", "-c", "config.yaml", "-c", str(LOW_MEMORY), "--run", "r")
    config = json.loads((world.folder / "data/runs/r/run.json").read_text())["config"]
    assert (config["loading"]["days_per_batch"], config["training"]["accumulate"]) == ("auto", 4)
    assert config["metrics"]["buffer"] == {"train": 100, "evaluation": 50}
    assert config["training"]["epochs"] == 2  # what it does not name stays


def test_the_log_of_a_training_has_the_two_lines_of_the_notes(
    make_world: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(view, "LINE_SECONDS", 0.0)
    world = make_world()
    world.config_file()
    world.prepare()
    assert run(["train", "-c", "config.yaml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    batches = [match.groups() for line in lines if (match := BATCH.match(line))]
    assert {epoch for epoch, _, _ in batches} == {"0", "1"}  # epochs and batches count from 0, as in the notes
    assert all(int(batch) < int(of) for _, batch, of in batches)
    epochs = [match.groups() for line in lines if (match := EPOCH.match(line))]
    assert epochs == [("0", "2"), ("1", "2")]
