"""Training faster, to the same bits: windows that lie on the device, a compiled forward, and devices beside the processor."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dateshard.shardstore.errors import UsageError
from dateshard.trainer.config import Trainer
from dateshard.trainer.devices import acceleration
from dateshard.trainer.loop import train
from dateshard.trainer.runs.start import environment_notes
from dateshard.trainer.session import Session
from dateshard.trainer.setup import make_session
from tests.kit.devices import DEVICES, deterministic

Make = Callable[..., Any]
SPLIT = {"train": "2024-03-01..2024-03-04", "validation": "2024-03-05"}


def never() -> bool:
    return False


@pytest.fixture
def world(make_world: Make) -> Any:
    made = make_world(5, missing=0.5, split=SPLIT, loading={"shuffle": {"days_per_run": 1, "runs_per_block": 2}})
    made.prepare()
    return made


@pytest.fixture
def start(world: Any, tmp_path: Path) -> Callable[..., Session]:
    def make(name: str = "run", *, loading: dict[str, Any] | None = None, **training: Any) -> Session:
        tree = world.settings.trainer.model_dump(mode="json")
        tree["loading"] |= loading or {}
        tree["training"] |= training
        return make_session(Trainer.model_validate(tree), world.open(), tmp_path / name)

    return make


def weights(session: Session) -> dict[str, torch.Tensor]:
    for _ in train(session, never):
        pass
    return session.model.state_dict()


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("device", DEVICES)
def test_a_training_on_resident_windows_ends_in_the_bits_of_one_on_maps(
    start: Callable[..., Session], device: str
) -> None:
    with torch.random.fork_rng(), deterministic(device):
        mapped = start("mapped", loading={"policy": "mapped"}, device=device)
        resident = start("resident", loading={"resident_on": "device"}, device=device)
        assert (mapped.train.policy, resident.train.policy) == ("mapped", "resident")
        assert resident.validation is not None
        assert next(resident.train.batches(0)).history_BHNF.device.type == device
        assert equal(weights(mapped), weights(resident))


def test_windows_that_do_not_fit_are_refused_with_figures_and_estimate_names_them(world: Any) -> None:
    world.tree["trainer"]["loading"] |= {"resident_on": "device"}
    world.config_file()
    words = ("-c", "config.yaml", "trainer.training.device=cpu")
    shown = world.run("estimate", *words).stdout
    assert "served from resident" in shown
    assert re.search(r"all rows of training and validation lie on cpu: [\d.]+ kB, counted under blocks", shown)
    ended = world.run("train", *words, "trainer.loading.memory_budget=2KB", code=2)
    assert "resident_on: device takes 0.006 MB for all windows" in ended.stderr
    assert "memory_budget allows 0.004 MB, of 2 readers together" in ended.stderr
    both = world.run("train", *words, "trainer.loading.policy=mapped", code=2)
    assert "resident_on and policy both say where windows are read from; leave policy out" in both.stderr
    half = ("trainer.training.precision=bf16", "--epochs", "1", "--run", "one")
    assert "resident on cpu" in world.run("train", *words, *half).stdout
    world.run("train", "--resume", "one", "trainer.loading.resident_on=null", "--epochs", "2")
    judged = world.run("evaluate", "one", "--split", "validation").stdout
    assert "note: trained in bf16; its forecasts, here and elsewhere, are computed in fp32" in judged


def test_without_a_compiler_it_is_said_what_is_missing(
    start: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UsageError, match=r"compile a model for cpu.*Install it, or leave trainer.training.compile out"):
        start(compile=True, device="cpu")
    monkeypatch.setenv("CXX", "sh")
    monkeypatch.setattr(acceleration.sysconfig, "get_path", lambda _: "/nowhere")
    with pytest.raises(UsageError, match=r"/nowhere/Python.h is not there"):
        start(compile=True, device="cpu")


def test_a_look_at_a_run_compiles_nothing_and_makes_nothing_resident() -> None:
    config = Trainer.model_validate({"loading": {"resident_on": "device"}, "training": {"compile": True}})
    assert acceleration.without_acceleration(config) == Trainer()


def test_a_run_that_is_no_longer_compiled_says_so_when_it_goes_on() -> None:
    assert "compiled True -> None" in environment_notes({"torch": "2", "compiled": True}, {"torch": "2"})[0]
    assert environment_notes({"torch": "2"}, {"torch": "2"}) == []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_a_compiled_model_trains_resumes_and_exchanges_checkpoints_with_a_plain_one(world: Any) -> None:
    """Batches of two sizes, a mask and dropout; two processes of a run compile the same code."""
    world.config_file()
    words = ("-c", "config.yaml", "trainer.training.device=cpu", "trainer.checkpoint.save_freq=2")
    options: dict[str, Any] = {"timeout": 600}
    world.run("train", *words, "--run", "plain")
    world.run("train", *words, "--run", "compiled", "trainer.training.compile=true", **options)
    world.run("train", *words, "--run", "cut", "trainer.training.compile=true", "--max-steps", "3", **options)
    world.run("train", "--resume", "cut", "--max-steps", "null", **options)
    world.run("train", *words, "--run", "turn", "trainer.training.compile=true", "--max-steps", "3", **options)
    turned = world.run("train", "--resume", "turn", "--max-steps", "null", "trainer.training.compile=false", **options)
    assert "compiled True -> None" in turned.stdout
    plain, compiled, cut, turn = (newest(world, name) for name in ("plain", "compiled", "cut", "turn"))
    assert equal(compiled, cut)
    assert plain.keys() == compiled.keys()
    assert turn.keys() == plain.keys()
    assert not any("_orig_mod" in name for name in compiled)
    world.run("evaluate", "compiled", "--split", "validation")


def newest(world: Any, run: str) -> dict[str, torch.Tensor]:
    from dateshard.trainer import checkpoint
    from dateshard.trainer.checkpoint.checkpoint_folder import read_files

    saved, _ = checkpoint.find(world.folder / "data/runs" / run / "checkpoints", "latest")
    return read_files(saved)["model"]
