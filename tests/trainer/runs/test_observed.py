"""A split of which nothing was observed decides nothing: training and evaluating say so and end."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dateshard.cli import run
from dateshard.trainer.runs import start

SPLIT = {"train": "..2024-03-03", "validation": "2024-03-04", "test": "2024-03-05"}


def blinded(world: Any, *dates: int) -> None:
    """Takes the speeds out of days of March: rows of known nodes stay."""
    for day in dates:
        date = dt.date(2024, 3, day)
        world.rows[date] = [(at, node, None, volume) for at, node, _, volume in world.rows[date]]
        world.write(date)


@pytest.fixture
def world(make_world: Callable[..., Any]) -> Any:
    training = {"epochs": 1, "batch_size": 64}
    return make_world(5, split=SPLIT, training=training, targets=["speed"], model={"name": "nlinear"})


def test_a_run_whose_validation_observes_nothing_is_not_begun(world: Any, capsys: pytest.CaptureFixture[str]) -> None:
    blinded(world, 4)
    world.prepare()
    assert run(["train", "-c", str(world.config_file())]) == 2
    told = capsys.readouterr().err
    assert "no cell of the targets (speed) was observed on the validation dates (2024-03-04)" in told
    assert "Set pipeline.split" in told
    assert not list(Path("data").glob("runs/*"))


def test_a_run_that_was_begun_so_goes_on_with_a_warning(
    world: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    blinded(world, 4)
    world.prepare()
    with monkeypatch.context() as before:
        before.setattr(start, "refuse_blind", lambda _: None)
        assert run(["train", "-c", str(world.config_file()), "--run", "old"]) == 0
    assert run(["train", "--resume", "old", "--epochs", "2"]) == 0
    assert "warning: data/shards/world: no cell of the targets" in capsys.readouterr().out


def test_a_split_of_which_nothing_was_observed_is_not_judged(world: Any, capsys: pytest.CaptureFixture[str]) -> None:
    blinded(world, 5)
    world.prepare()
    config = str(world.config_file())
    assert run(["train", "-c", config, "--run", "a"]) == 0
    for words in (["evaluate", "a"], ["evaluate", "-c", config]):
        capsys.readouterr()
        assert run(words) == 2
        told = capsys.readouterr().err
        assert "not one target of the 19 windows of split 'test' was observed: nothing can be judged" in told
        assert "dateshard inspect test" in told
    assert run(["evaluate", "a", "--split", "validation"]) == 0


def test_a_target_that_was_never_observed_beside_one_that_was_is_named(
    world: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    world.tree["trainer"]["targets"] = ["speed", "volume"]
    blinded(world, 5)
    world.prepare()
    assert run(["evaluate", "-c", str(world.config_file()), "--baselines", "repeat"]) == 0
    assert "speed: no cell of it was observed on the dates of split 'test'" in capsys.readouterr().out


def test_a_target_without_a_training_value_is_refused_before_the_first_batch(
    world: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    world.tree["trainer"]["targets"] = ["speed", "volume"]
    blinded(world, 1, 2, 3)
    world.prepare()
    config = str(world.config_file())
    said = (
        "no cell of the target speed was observed in the training data (2024-03-01..2024-03-03): there is nothing to "
        "learn. Leave it out of trainer.targets"
    )
    for more in ([], ["--dry-run"], ["--overfit", "1"], ["--resume", "auto"]):
        assert run(["train", "-c", config, *more]) == 2
        assert said in capsys.readouterr().err
    assert not list(Path("data").glob("runs/*"))
    assert run(["train", "-c", config, "trainer.targets=[volume]"]) == 0
    assert "warning: no cell of the input speed was observed in the training data" in capsys.readouterr().out


def test_a_run_that_was_begun_without_a_training_value_goes_on_with_a_warning(
    world: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.tree["trainer"]["targets"] = ["speed", "volume"]
    blinded(world, 1, 2, 3)
    world.prepare()
    with monkeypatch.context() as before:
        before.setattr(start, "refuse_blind", lambda _: None)
        assert run(["train", "-c", str(world.config_file()), "--run", "old"]) == 0
    assert run(["train", "--resume", "old", "--epochs", "2"]) == 0
    assert "warning: data/shards/world: no cell of the target speed" in capsys.readouterr().out
    assert run(["evaluate", "old"]) == 0


def test_a_target_that_the_frozen_statistics_do_not_know_is_refused_with_the_command_that_mends_it(
    world: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    speeds = {date: list(rows) for date, rows in world.rows.items()}
    blinded(world, 1, 2, 3)
    world.prepare()
    world.rows = speeds
    world.write(dt.date(2024, 3, 2))
    world.prepare()
    config = str(world.config_file())
    assert run(["train", "-c", config]) == 4
    said = "the frozen statistics hold no value of speed, so it is not scaled, though the training data has it now"
    told = capsys.readouterr()
    assert f"{said}. Run: dateshard preprocess --refit-statistics -c {config}" in told.err
    assert run(["train", "-c", config, "trainer.targets=[volume]"]) == 0
    assert f"warning: {said}" in capsys.readouterr().out
    world.prepare(refit=True)
    assert run(["train", "-c", config]) == 0


@pytest.mark.parametrize("scale", ["zscore", "minmax", "robust", "none"])
def test_commands_that_read_a_store_bear_a_feature_without_any_training_value(
    world: Any, capsys: pytest.CaptureFixture[str], scale: str
) -> None:
    world.tree["pipeline"]["features"]["speed"] |= {"scale": scale, "scale_per": "node"}
    blinded(world, 1, 2, 3)
    world.prepare()
    config = ["-c", str(world.config_file())]
    read = (
        ["inspect"],
        ["statistics", "--by-date"],
        ["statistics", "--drift"],
        ["report", "--data"],
        ["plan"],
        ["status"],
        ["verify", "--full"],
        ["estimate"],
        ["preprocess", "2024-03-02", "--force", "--workers", "1"],
        ["export", "2024-03-04", "--to", "csv"],
    )
    for words in read:
        assert run([*words, *config]) == 0, words
    shown = capsys.readouterr()
    assert "nan" not in shown.out
    assert shown.err == ""
    assert run(["evaluate", *config]) == 0
    assert "warning: no cell of speed was observed in the training data" in capsys.readouterr().out
