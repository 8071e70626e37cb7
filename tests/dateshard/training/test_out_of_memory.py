"""A training that runs out of memory says at which batch, is saved as of its last whole step, and goes on to the same bits."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dateshard.trainer.data.reader import Reader
from dateshard.trainer.memory.out_of_memory import smaller_batches
from dateshard.trainer.metrics import EpochMetrics
from tests.conftest import World, build_world

SPLIT = {"train": "2024-03-01..2024-03-04", "validation": "2024-03-05"}
MODEL = """
import os
import numpy, torch
from torch import nn

HUGE = 10**15
GPU = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.80 GiB of which 1.00 GiB is free."

def fail(how):
    if how == "torch": torch.empty(HUGE)
    if how == "numpy": numpy.empty(HUGE)
    if how == "cuda": raise torch.cuda.OutOfMemoryError(GPU)

class Backward(torch.autograd.Function):
    @staticmethod
    def forward(context, x): return x.clone()
    @staticmethod
    def backward(context, gradient): torch.empty(HUGE)

class Hungry(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.passes, self.size = 0, (shape.window.target_steps, shape.num_nodes, shape.num_outputs)
        self.norm, self.drop = nn.BatchNorm1d(shape.window.history * shape.num_nodes * shape.num_inputs), nn.Dropout(0.3)
        self.out = nn.Linear(self.norm.num_features, self.size[0] * self.size[1] * self.size[2])

    def forward(self, history, codes):
        x = self.out(self.drop(self.norm(history.flatten(1))))
        at, _, how = os.environ.get("HUNGRY", "").partition(":")
        self.passes += torch.is_grad_enabled() if how != "validation" else not self.training
        if at and self.passes == int(at):
            if how == "backward": x = Backward.apply(x)
            fail({"validation": "torch"}.get(how, how))
        return x.unflatten(1, self.size)

def build(shape, config): return Hungry(shape)
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> World:
    training = {"epochs": 2, "batch_size": 8, "accumulate": 2}
    folder = tmp_path_factory.mktemp("hungry")
    model = {"name": "hungry:build"}
    metrics = {"custom": "error:mean"}
    world = build_world(folder, 5, missing=0.5, split=SPLIT, model=model, training=training, metrics=metrics)
    world.prepare()
    world.config_file()
    (folder / "hungry.py").write_text(MODEL)
    (folder / "error.py").write_text(
        "def mean(targets, predictions): return {'mean': float((targets - predictions).mean())}"
    )
    return world


Train = Callable[..., Any]


@pytest.fixture
def train(prepared: World, monkeypatch: pytest.MonkeyPatch, ds: Callable[..., Any]) -> Train:
    monkeypatch.chdir(prepared.folder)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def call(*words: str, hungry: str = "", code: int = 0) -> Any:
        monkeypatch.setenv("HUNGRY", hungry)
        named = () if "--resume" in words else ("-c", "config.yaml")
        return ds("train", *named, *words, code=code)

    if not Path("data/runs/whole").is_dir():
        call("--run", "whole")
    return call


def files(run: str, name: str = "checkpoint_epoch_2_batch_10") -> Any:
    """Every file of the run's last checkpoint, by its hash."""
    return json.loads(Path(f"data/runs/{run}/checkpoints/{name}/manifest.json").read_bytes())["content"]["files"]


def epochs(run: str) -> list[float]:
    """The losses of the epochs that its metrics tell of."""
    rows = map(json.loads, Path(f"data/runs/{run}/metrics.jsonl").read_text().splitlines())
    return [row["train_loss"] for row in rows if "train_loss" in row]


@pytest.mark.parametrize(
    ("hungry", "batch", "saved"),
    [
        ("4:torch", "epoch 1 batch 4 of 10", "saved epoch 1 batch 2"),
        ("3:numpy", "epoch 1 batch 3 of 10", "saved epoch 1 batch 2"),
        ("16:cuda", "epoch 2 batch 6 of 10", "saved epoch 2 batch 4"),
        ("11:torch", "epoch 2 batch 1 of 10", "the last checkpoint is checkpoint_epoch_1_batch_10"),
        ("6:backward", "epoch 1 batch 6 of 10", "saved epoch 1 batch 4"),
        ("3:validation", "epoch 1 validation batch 2 of 3", "saved epoch 1 batch 10"),
    ],
)
def test_the_batch_is_named_and_the_run_goes_on_from_its_last_whole_step_to_the_same_bits(
    train: Train, hungry: str, batch: str, saved: str
) -> None:
    run = hungry.replace(":", "_")
    line = train("--run", run, hungry=hungry, code=1).err.splitlines()[-1]
    form = r"\(8 windows: history \[8, 12, \d, 2\], targets \[8, 6, \d, 2\]\)"
    assert re.search(rf"out of memory at {batch} {form}: [\d.,]+ (GB|GiB|PiB) more were asked for", line), line
    assert re.search(r"the process took [\d,.]+ [MG]B at its peak", line)
    assert f"{saved}." in line
    assert f"train --resume {run}" in line
    state = json.loads(Path(f"data/runs/{run}/state.json").read_bytes())
    assert (state["state"], "out of memory at" in state["why"]) == ("failed", True)
    train("--resume", run)
    assert files(run) == files("whole")
    assert epochs(run) == epochs("whole")


def test_the_accumulation_that_keeps_the_steps_is_computed(train: Train) -> None:
    line = train("--run", "advice", hungry="3:cuda", code=1).err.splitlines()[-1]
    assert "trainer.training.batch_size=2 trainer.training.accumulate=8" in line
    assert "139.80 GiB" in line
    assert "train --init-from advice" in line
    refused = train("--resume", "advice", "trainer.training.batch_size=2", "trainer.training.accumulate=8", code=2).err
    assert "trainer.training.batch_size: checkpoint 8, now 2" in refused
    words = re.findall(r"trainer\.training\.\w+=\d+", line)
    train("--run", "smaller", "--init-from", "advice", *words, "trainer.training.drop_last=true")
    steps = [
        [json.loads(row)["step"] for row in Path(f"data/runs/{run}/metrics.jsonl").read_text().splitlines()][-1]
        for run in ("smaller", "whole")
    ]
    assert steps[0] == steps[1]


@pytest.mark.parametrize(
    ("batch", "accumulate", "windows", "asked", "expected"),
    [
        (64, 1, 10_000, None, (16, 4)),
        (32, 3, 10_000, None, (8, 12)),
        (30, 1, 10_000, None, (6, 5)),
        (64, 1, 10_000, 3.0, (8, 8)),  # one allocation of three times what there is
        (10**9, 1, 1_000, None, (250, 4)),  # a batch is never larger than the windows that there are
        (2, 1, 100, None, (1, 2)),
        (1, 4, 100, None, None),
    ],
)
def test_smaller_batches_make_the_same_steps(
    batch: int, accumulate: int, windows: int, asked: float | None, expected: tuple[int, int] | None
) -> None:
    assert smaller_batches(batch, accumulate, windows, asked or 0.0) == expected


def test_what_a_failed_step_counted_is_taken_back(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sums of the batch stand already when its sample no longer fits."""
    add, seen = EpochMetrics.add, [0]

    def hungry(self: EpochMetrics, *given: Any) -> None:
        add(self, *given)
        seen[0] += 1
        if seen[0] == 17:  # 10 of training and 3 of validation before
            raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(EpochMetrics, "add", hungry)
        assert "saved epoch 2 batch 2." in train("--run", "sums", code=1).err
    train("--resume", "sums")
    assert files("sums") == files("whole")


def test_reading_a_batch_may_fail_too(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = Reader.batches

    def hungry(self: Reader, *given: Any, **named: Any) -> Any:
        for number, batch in enumerate(batches(self, *given, **named), start=1):
            if number == 4:
                raise MemoryError
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(Reader, "batches", hungry)
        line = train("--run", "read", code=1).err
    assert "out of memory at epoch 1, reading batch 4 of 10" in line
    assert "saved epoch 1 batch 2." in line
    train("--resume", "read")
    assert files("read") == files("whole")


def test_weights_that_were_being_changed_are_not_saved_and_the_message_says_so(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, seen = torch.optim.Adam.step, [0]

    def torn(self: torch.optim.Adam, *given: Any) -> Any:
        seen[0] += 1
        if seen[0] == 8:
            with torch.no_grad():
                self.param_groups[0]["params"][0].add_(1)
            raise MemoryError
        return step(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", torn)
        line = train("--run", "torn", "--save-freq", "4", code=1).err.splitlines()[-1]
    assert "out of memory at epoch 2 batch 6 of 10" in line
    assert "the weights were being changed; the last checkpoint is checkpoint_epoch_2_batch_4" in line
    train("--resume", "torn", "--save-freq", "100")
    assert files("torn") == files("whole")
