"""Sizes that no machine has: one sentence with the key, its value, the bytes it asks for and those that there are."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dateshard.shardstore.errors import of_memory
from dateshard.trainer.config import ModelConfig, Trainer
from dateshard.trainer.data.order import Window
from dateshard.trainer.memory import memory_need
from dateshard.trainer.models import build
from dateshard.trainer.models.shape import Shape
from tests.conftest import World, build_world

SPLIT = {"train": "2024-03-01..2024-03-03", "validation": "2024-03-04"}
COMMANDS = {"estimate": ["estimate"], "dry run": ["train", "--dry-run"], "train": ["train", "-q"]}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = build_world(tmp_path_factory.mktemp("large"), 4, split=SPLIT, baselines=["repeat"])
    world.prepare()
    world.config_file()
    return world


@pytest.fixture
def told(prepared: World, monkeypatch: pytest.MonkeyPatch, ds: Callable[..., Any]) -> Callable[..., str]:
    """told(command, code, "trainer.key=value", ...) -> its one line on stderr; no run was made."""

    def call(command: str, code: int, *overrides: str) -> str:
        done = ds(*COMMANDS[command], "-c", "config.yaml", *overrides, code=code)
        assert done.err.count("\n") == 1, done.err
        assert "Traceback" not in done.err
        assert not Path("data/runs").exists()
        return str(done.err)

    monkeypatch.chdir(prepared.folder)
    return call


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["mlp", "lstm"])
def test_a_layer_beyond_any_machine_is_named_with_its_bytes(told: Callable[..., str], command: str, name: str) -> None:
    line = told(command, 2, f"trainer.model={{name: {name}, hidden_units: [100000000000, 8]}}")
    assert re.search(r"trainer\.model\.hidden_units: \[100000000000, 8\] asks for (more than )?[\d,]{6,} GB", line)
    assert re.search(r"\(weights, gradients and moments .* GB\), and there are [\d.,]+ GB\.", line)


def test_a_window_longer_than_the_data_is_named(told: Callable[..., str]) -> None:
    assert "trainer.window: history 100,000,000,000, horizon 6" in told(
        "train", 2, "trainer.window.history=100000000000"
    )
    assert "the longest stretch of joined dates has 96 steps" in told(
        "estimate", 2, "trainer.window.horizon=100000000000"
    )


def test_a_batch_is_as_large_as_the_windows_that_there_are_and_refused_beyond_the_machine(
    told: Callable[..., str], monkeypatch: pytest.MonkeyPatch, ds: Callable[..., Any]
) -> None:
    huge = "trainer.training.batch_size=10000000000"
    assert ds("estimate", "-c", "config.yaml", "--json", huge).document["batches"] == 1
    monkeypatch.setattr(memory_need, "machine_bytes", lambda: 100_000)
    line = told("train", 2, huge)
    assert re.search(
        r"trainer\.training\.batch_size: 10000000000 asks for 0\.1 MB of memory \(batches 0\.1 MB\), and there are 0\.1 MB",
        line,
    )
    monkeypatch.setattr(memory_need, "machine_bytes", lambda: 1 << 40)
    ds("train", "-c", "config.yaml", "--dry-run", huge)


@pytest.mark.parametrize(
    "override",
    [
        "window.history=1{}",
        "window.stride=1{}",
        "training.batch_size=1{}",
        "model.hidden_units=[1{}]",
        "loading.days_per_batch=1{}",
        "loading.shuffle={{days_per_run: 1{}, runs_per_block: 1}}",
    ],
)
def test_what_64_bits_cannot_count_is_refused_by_its_key(told: Callable[..., str], override: str) -> None:
    key = override.partition("=")[0]
    assert f"trainer.{key}" in (line := told("estimate", 2, f"trainer.{override.format('0' * 20)}"))
    assert "must be less than or equal to 1000000000000" in line


def test_blocks_of_many_days_are_cut_at_once(ds: Callable[..., Any], prepared: World, monkeypatch: Any) -> None:
    """Their divisors were counted one by one: 1e11 took for ever."""
    from dateshard.trainer.data.shuffle import of_days

    for days, least in ((12, 1), (12, 5), (97, 2), (1, 1), (360, 7)):
        slow = next((run for run in range(1, days + 1) if days % run == 0 and run >= least), days)
        assert of_days(days, least).days_per_run == slow
    monkeypatch.chdir(prepared.folder)
    ds("estimate", "-c", "config.yaml", "trainer.loading.days_per_batch=100000000003")


def test_a_ridge_that_looks_back_further_than_there_are_steps_is_refused(
    ds: Callable[..., Any], prepared: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(prepared.folder)
    far = ds("evaluate", "-c", "config.yaml", "--split", "validation", "--baselines", "ridge:100000000000", code=2)
    assert "no training window has 100,000,000,000 steps of history" in far.err
    ds("evaluate", "-c", "config.yaml", "--split", "validation", "--baselines", f"ridge:1{'0' * 20}", code=2)


def test_an_allocation_that_fails_all_the_same_is_one_sentence(
    prepared: World, monkeypatch: pytest.MonkeyPatch, ds: Callable[..., Any]
) -> None:
    monkeypatch.chdir(prepared.folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for library, text in (("torch", "torch.empty(10**15)"), ("numpy", "numpy.empty(10**15)")):
        Path(f"large_{library}.py").write_text(f"import {library}\ndef build(shape, config): {text}\n")
        line = ds("train", "-c", "config.yaml", f"trainer.model.name=large_{library}:build", code=1).err
        assert re.match(
            r"Error: out of memory: [\d.,]+ (GB|PiB) more were asked for; this machine has [\d.,]+ GB", line
        )
        assert line.count("\n") == 1
        assert "dateshard estimate" in line


@pytest.mark.parametrize("name", ["mlp", "stid", "cnn", "lstm", "gru", "dlinear", "nlinear", "ridge"])
def test_weights_are_counted_as_they_will_be(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, model = (
        Shape(
            window=Window(24, 6), num_nodes=5, num_inputs=2, num_outputs=2, targets_in_inputs=(0, 1), steps_per_day=24
        ),
        ModelConfig(name=name, hidden_units=(12, 7)),
    )
    monkeypatch.setattr(memory_need, "FEW", 0)
    expected = sum(tensor.nbytes for tensor in build(shape, model).state_dict().values())
    assert memory_need.weights_bytes(model, shape) == expected
    before = torch.get_rng_state()
    memory_need.weights_bytes(model, shape)
    assert torch.equal(before, torch.get_rng_state())
    counts = memory_need.Counts(windows=1000, row_values=10, mask=True, readers=2)
    parts = memory_need.needed(Trainer(model=model), shape, counts)
    assert parts["weights, gradients and moments"] == 4 * expected
    assert parts["batches"] == 2 * 2 * 32 * (30 * (10 * 4 + 4) + 6 * 10)


@pytest.mark.parametrize("name", ["mlp", "stid", "cnn", "lstm", "gru"])
def test_a_model_of_sequences_keeps_its_layers_for_every_column_of_a_table(name: str) -> None:
    shape = Shape(
        window=Window(1, 0),
        num_nodes=1,
        num_inputs=50,
        num_outputs=1,
        targets_in_inputs=(-1,),
        steps_per_day=24,
        columns=(1,) * 50,
    )
    config = Trainer(model=ModelConfig(name=name, hidden_units=(12, 7)))
    parts = memory_need.needed(config, shape, memory_need.Counts(windows=1000, row_values=51, mask=False, readers=2))
    steps = 1 if name in ("mlp", "stid") else 50
    assert parts["layers and forecasts of a batch"] == 2 * 32 * (19 * steps + 1) * 4


def test_other_errors_are_none_of_memory() -> None:
    assert of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert of_memory(OSError(errno.EACCES, "no")) is None
    assert "8.00 PiB" in str(of_memory(failure(lambda: np.empty(2**50))))
    assert "out of memory; this machine has" in str(of_memory(OSError(errno.ENOMEM, "Cannot allocate memory")))


def failure(act: Callable[[], object]) -> BaseException:
    try:
        act()
    except MemoryError as error:
        return error
    raise AssertionError("it was allocated")
