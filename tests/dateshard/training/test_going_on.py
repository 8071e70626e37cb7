"""A training that has ended: what it says, and that the command which it names goes on."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import World

Run = Callable[..., Any]
SPLIT = {"train": "2024-03-01..2024-03-03", "validation": "2024-03-04"}
NEVER_BETTER = {"patience": 1, "min_delta": 1e9}  # it stops after the second epoch


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    made = make_world(4, split=SPLIT, training={"epochs": 3, "batch_size": 16}, early_stopping=NEVER_BETTER)
    made.prepare()
    made.config_file()
    return made


def command_in(text: str) -> list[str]:
    """The words of the command that `To continue` names, without `dateshard`."""
    (command,) = re.findall(r"To continue: dateshard (.*)$", text, re.MULTILINE)
    return shlex.split(command)


def test_a_run_that_stopped_early_says_so_and_what_goes_on(world: World, ds: Run) -> None:
    ended = ds("train", "-c", "config.yaml", "--run", "one").out
    assert "one ended (early stopping): best validation loss" in ended
    again = ds("train", "--resume", "one", "--epochs", "20").out
    assert "one stopped early in epoch 2 of 20: 1 epoch without a loss lower by more than 1e+09" in again
    assert "(early_stopping.patience 1); the best is" in again
    assert "More epochs alone do not continue it." in again
    assert "complete" not in again
    words = command_in(again)
    assert words == ["train", "--resume", "one", "trainer.early_stopping.patience=2"]
    assert command_in(ended) == words
    document = ds(*words, "--json").document
    assert (document["state"], document["epoch"]) == ("early stopping", 3)


def test_make_train_of_a_run_that_stopped_early_does_not_call_it_complete(
    world: World, ds: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds("train", "-c", "config.yaml", "--run", "one", "-q")
    monkeypatch.delenv("MAKELEVEL", raising=False)
    told = ds("train", "-c", "config.yaml", "--resume", "auto").out
    assert "one stopped early in epoch 2 of 3" in told
    assert "--resume none trains anew" in told
    monkeypatch.setenv("MAKELEVEL", "1")  # what make sets for its commands
    assert "make train NEW=1 trains anew" in ds("train", "-c", "config.yaml", "--resume", "auto").out
    document = ds("train", "-c", "config.yaml", "--resume", "auto", "--json").document
    assert (document["state"], document["why"]) == ("complete", "early stopping")
    assert document["go_on"] == "dateshard train --resume one trainer.early_stopping.patience=2"


@pytest.mark.parametrize(
    ("change", "why", "command"),
    [
        ({"training": {"epochs": 1, "batch_size": 16}}, "epochs", ["--epochs", "2"]),
        ({"training": {"epochs": 9, "max_steps": 3}}, "max steps", ["--max-steps", "null"]),
        (
            {"training": {"epochs": 2, "batch_size": 16, "max_steps": 8}},
            "early stopping",
            ["trainer.early_stopping.patience=2", "--epochs", "3", "--max-steps", "null"],
        ),
    ],
    ids=["epochs", "max steps", "all of them"],
)
def test_whatever_ended_it_the_command_that_is_named_goes_on(
    world: World, ds: Run, change: dict[str, Any], why: str, command: list[str]
) -> None:
    world.tree["trainer"] |= change
    world.config_file()
    ds("train", "-c", "config.yaml", "--run", "one", "-q")
    document = ds("train", "--resume", "one", "--json").document
    assert (document["state"], document["why"]) == ("complete", why)
    words = command_in(ds("train", "--resume", "one").out)
    assert words == ["train", "--resume", "one", *command]
    before = len(list(Path("data/runs/one/checkpoints").glob("checkpoint_epoch_*_batch_*")))
    after = ds(*words, "--json").document
    assert after["state"] != "complete"
    assert len(list(Path("data/runs/one/checkpoints").glob("checkpoint_epoch_*_batch_*"))) > before


def test_fewer_epochs_than_were_trained_change_nothing(world: World, ds: Run) -> None:
    world.tree["trainer"]["training"] |= {"epochs": 2}
    world.tree["trainer"]["early_stopping"] = None
    world.config_file()
    ds("train", "-c", "config.yaml", "--run", "one", "-q")
    before = Path("data/runs/one/run.json").read_bytes()
    told = ds("train", "--resume", "one", "--epochs", "1").out
    assert "one has trained 2 epochs, and training.epochs is 1." in told
    assert command_in(told) == ["train", "--resume", "one", "--epochs", "3"]
    assert Path("data/runs/one/run.json").read_bytes() == before
    assert "one is complete: it has trained its 2 epochs" in ds("train", "--resume", "one").out


def test_a_ridge_is_complete_and_nothing_goes_on_with_it(world: World, ds: Run) -> None:
    ds("train", "-c", "config.yaml", "--run", "one", "-q", "trainer.model.name=ridge")
    told = ds("train", "--resume", "one").out
    assert "one is complete: a ridge is solved in one pass" in told
    assert "To continue:" not in told
    assert ds("train", "--resume", "one", "--json").document["go_on"] is None


def test_a_run_without_finite_steps_names_the_command_that_goes_over_them(
    world: World, ds: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from dateshard.trainer import step

    with monkeypatch.context() as patch:
        patch.setattr(step.Step, "add", _spoiled(step.Step.add, torch))
        failed = ds("train", "-c", "config.yaml", "--run", "one", "trainer.training.max_skipped=2", code=1)
    (command,) = re.findall(r"To continue over them: dateshard (.*)$", failed.err, re.MULTILINE)
    assert ds(*shlex.split(command), "--json").document["state"] == "early stopping"


def _spoiled(add: Any, torch: Any) -> Any:
    def spoiled(self: Any, batch: Any) -> None:
        add(self, batch)
        for parameter in self.session.model.parameters():
            if parameter.grad is not None:
                parameter.grad.fill_(torch.nan)

    return spoiled
