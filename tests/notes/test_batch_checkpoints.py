"""The commands of the user's notes 2 (batch checkpoints), in their words: options, actions and names of files."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dateshard.cli import run
from tests.conftest import make_rows

TRAIN, MANAGE = "python train_with_your_data_improved.py ", "python manage_batch_checkpoints.py "
FOLDER = "checkpoints_improved"  # where the script of the notes saves by itself
BEFORE = [  # (what trains, batches an epoch of three dates, batches between saves)
    ("python train_with_your_data_improved.py --epochs 50 --batch_size 16", 269, 100),
    ("python train_with_your_data_improved.py --epochs 50 --batch_size 16 --save_freq 50", 269, 50),
    ("python train_with_your_data_improved.py --epochs 50 --batch_size 16 --save_freq 200", 269, 200),
    ("python train_with_your_data_improved.py --batch_size 8 --save_freq 50", 538, 50),
    ("python train_with_your_data_improved.py --batch_size 16 --save_freq 100", 269, 100),
    ("python train_with_your_data_improved.py --batch_size 32 --save_freq 200", 135, 200),
]
KEYS = {"epoch", "batch", "total_batches", "model_state_dict", "optimizer_state_dict", "train_loss"}


def ours(command: str, *more: str) -> list[str]:
    """The words of a command of the notes, after `dateshard`."""
    for script, words in ((TRAIN, ["train", "-c", "config.yaml"]), (MANAGE, ["checkpoints"])):
        if command.startswith(script):
            return [*words, *command.removeprefix(script).split(), *more]
    raise AssertionError(command)


@pytest.fixture
def make_prepared(make_world: Any) -> Callable[[int], None]:
    """make_prepared(dates): 90 batches of 16 windows from each; a training ends after two epochs, whatever it is asked."""

    def make(dates: int) -> None:
        world = make_world([], early_stopping={"patience": 1, "min_delta": 10})
        world.tree["pipeline"]["step"] = "1m"
        world.tree["trainer"]["model"] = {"name": "mlp", "hidden_units": []}
        for day in (dt.date(2024, 3, 1) + dt.timedelta(days=i) for i in range(dates)):
            world.rows[day] = make_rows(day, "UTC", ["n0"], 1, minutes=1, missing=0)
            world.write(day)
        world.config_file()
        world.prepare()

    return make


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """What a command prints, which must end well."""

    def call(words: list[str]) -> str:
        capsys.readouterr()
        code = run(words)
        out, err = capsys.readouterr()
        assert code == 0, err
        return out

    return call


@pytest.mark.parametrize(("command", "batches", "every"), BEFORE)
def test_a_training_of_the_notes_saves_as_often_as_it_says(
    make_prepared: Any, said: Any, command: str, batches: int, every: int
) -> None:
    make_prepared(4)  # three to train on
    said(ours(command, "--run", "r"))
    saved = {path.name for path in Path("data/runs/r/checkpoints").glob("checkpoint_epoch_1_batch_*")}
    wanted = {*range(every, batches + 1, every), batches}  # and at the epoch's end, with its validation
    assert saved == {f"checkpoint_epoch_1_batch_{batch}" for batch in wanted}


def test_checkpoints_of_the_notes_are_listed_shown_loaded_cleaned_and_resumed(make_prepared: Any, said: Any) -> None:
    make_prepared(7)
    said(ours(BEFORE[0][0], "--save_dir", FOLDER))
    listed = said(ours("python manage_batch_checkpoints.py --save_dir checkpoints_improved --action list"))
    names = re.findall(r"checkpoint_epoch_\d_batch_\d+", listed)
    assert {"checkpoint_epoch_1_batch_100", "checkpoint_epoch_2_batch_500"} <= set(names)
    assert "best_model.pth" in listed
    assert said(ours("python manage_batch_checkpoints.py --action list")).count("checkpoint_epoch_") == len(names)

    shown = said(ours("python manage_batch_checkpoints.py --action info --checkpoint checkpoint_epoch_1_batch_100.pth"))
    assert {"epoch\t1", "batch\t100", "total_batches\t539"} <= set(shown.splitlines())
    assert "\ntrain_loss\t" in shown
    loaded = said(
        ours("python manage_batch_checkpoints.py --action load --checkpoint checkpoint_epoch_1_batch_500.pth")
    )
    assert "parameters" in loaded
    assert torch.load(Path(FOLDER) / "best_model.pth", weights_only=True).keys() >= KEYS

    for count in (10, 5):
        said(ours(f"python manage_batch_checkpoints.py --action clean --keep_count {count}"))
        left = [path.name for path in Path(FOLDER).glob("checkpoint_epoch_*")]
        assert len(left) in (count, count + 1)  # the best one stays, wherever it stands
        assert "checkpoint_epoch_2_batch_539" in left
    resumed = said(["train", "--resume", "checkpoints_improved/best_model.pth", "--epochs", "3"])
    assert "exactly at checkpoint_epoch_1_batch_539" in resumed
