"""`training.memory_limit`: a run that holds more is saved and stops, and goes on to the same bits."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dateshard
from dateshard.shardstore.errors import ResourceError
from dateshard.trainer.memory import memory_watch
from dateshard.trainer.memory.process_memory import private_bytes
from tests.conftest import World, build_world

SPLIT = {"train": "2024-03-01..2024-03-04", "validation": "2024-03-05"}
LEAK = 100 * 10**6  # bytes a step: ten steps are a gigabyte
MODEL = f"""
import os
import numpy
from torch import nn

class Leaking(nn.Sequential):
    def forward(self, history, codes):
        if self.training and os.path.exists("leak"):
            HELD.append(numpy.ones({LEAK}, dtype=numpy.uint8))
        return super().forward(history)

HELD = []

def build(shape, config):
    size = (shape.window.target_steps, shape.num_nodes, shape.num_outputs)
    inputs = shape.window.history * shape.num_nodes * shape.num_inputs
    return Leaking(nn.Flatten(), nn.Dropout(0.3), nn.Linear(inputs, size[0] * size[1] * size[2]), nn.Unflatten(1, size))
"""


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = build_world(tmp_path, 5, split=SPLIT, model={"name": "leaking:build"})
    made.prepare()
    made.config_file()
    (tmp_path / "leaking.py").write_text(MODEL)
    return made


def files(run: str) -> Any:
    """Every file of the run's last checkpoint, by its hash."""
    path = Path(f"data/runs/{run}/checkpoints/checkpoint_epoch_2_batch_5/manifest.json")
    return json.loads(path.read_bytes())["content"]["files"]


def test_a_process_that_leaks_is_saved_and_stops_and_goes_on_to_the_same_bits(world: World) -> None:
    world.run("train", "-c", "config.yaml", "--run", "whole")
    Path("leak").touch()
    done = world.run("train", "-c", "config.yaml", "--run", "leaks", "--memory-limit", "900MB", code=75)
    words = re.search(
        r"saved epoch (\d) batch (\d)\. Stopped: the process holds more than its memory limit", done.stdout
    )
    assert words, done.stdout
    assert "train --resume leaks" in done.stdout
    assert 1 < 5 * (int(words[1]) - 1) + int(words[2]) < 10
    state = json.loads(Path("data/runs/leaks/state.json").read_bytes())
    assert (state["state"], state["why"]) == ("stopped", "memory limit")
    assert "leaks" in world.run("runs", "--state", "stopped").stdout
    world.run("train", "--resume", "leaks", "--memory-limit", "8GB")
    assert files("leaks") == files("whole")


@pytest.fixture
def held(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """held(n): from the n-th look on, the process holds 8 GB."""

    def from_look(number: int) -> None:
        looks = [0]

        def look() -> int:
            looks[0] += 1
            return 8 * 10**9 if looks[0] >= number else 10**8

        monkeypatch.setattr(memory_watch, "private_bytes", look)

    monkeypatch.syspath_prepend(str(world.folder))
    return from_look


def test_python_says_it_by_an_error_and_goes_on(world: World, held: Callable[[int], None]) -> None:
    """Also in a validation, whose epoch is kept."""
    dateshard.train(world.tree, run="whole", progress=False)
    held(8)  # before the first batch, after 5 steps, and after a batch of the validation
    with pytest.raises(ResourceError, match="cut was saved and stopped at its memory limit"):
        dateshard.train(world.tree, run="cut", progress=False, memory_limit="1GB")
    assert dateshard.Run("cut").checkpoints["batch"].max() == 5
    dateshard.train(resume="cut", progress=False, memory_limit="null")
    assert files("cut") == files("whole")


def test_a_limit_below_what_a_process_holds_before_it_trains_is_refused(
    held: Callable[[int], None], ds: Callable[..., Any]
) -> None:
    held(1)
    line = ds("train", "-c", "config.yaml", "--memory-limit", "1GB", code=2).err
    assert "trainer.training.memory_limit is 1.0 GB, and the process holds 8.0 GB before its first batch" in line
    line = ds("train", "-c", "config.yaml", "--memory-limit", "1kB", code=2).err
    assert re.search(r"asks for .* of memory .*, and there are 0\.0 MB", line)


def test_a_child_of_a_fork_reads_its_own_memory() -> None:
    """The file that a process reads its memory from stays open, also in the child, where it is still the parent's."""
    private_bytes()
    coming, going = os.pipe()
    if not (child := os.fork()):
        before = private_bytes()
        held = bytearray(b"1") * LEAK
        os.write(going, str(private_bytes() - before).encode())
        os._exit(not held)
    os.close(going)
    with open(coming) as file:
        grown = int(file.read())
    assert os.waitpid(child, 0)[1] == 0
    assert grown > 0.9 * LEAK
