"""Any step of a run is taken again to the same bits, and the rows behind its losses are named."""

from __future__ import annotations

import datetime as dt
import json
import math
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import dateshard
from dateshard.bookkeeping.listing import open_run
from dateshard.settings import Settings
from dateshard.shardstore.errors import NotThereError, StoreError, UsageError
from dateshard.trainer.loop import Stepped
from dateshard.trainer.runs.start import Started
from dateshard.training.replay import replay_step
from dateshard.training.train import TrainRequest, run_training
from tests.kit.zygote import shared

# Runs a command that is killed once the row of a step is in metrics.jsonl.
KILLED = """
import os, signal, sys
from dateshard.training.metric_rows import MetricRows
honest = MetricRows.add
def add(self, event):
    honest(self, event)
    if getattr(event, "batch", None) and event.step == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
MetricRows.add = add
from dateshard.cli import run
sys.exit(run(sys.argv[2:]))
"""
Weights = dict[str, torch.Tensor]
SPLIT = {"train": "..2024-03-04", "validation": "2024-03-05"}
MODEL = {"name": "mlp", "hidden_units": [8], "dropout_rate": 0.3}
TRAINING = {"epochs": 3, "batch_size": 8, "accumulate": 2}
POISONED, ROW = dt.date(2024, 3, 3), 105


class Recorded:
    """A training that keeps the weights of every step, and may be stopped after some of them."""

    def __init__(self, settings: Settings, name: str) -> None:
        self.settings, self.name = settings, name
        self.weights = dict[int, Weights]()
        self._started: Started | None = None

    def train(self, *, stop_at: int = 10**9) -> Recorded:
        """Begins the run, or continues it."""
        request = TrainRequest(resume=self.name) if self.weights else TrainRequest(name=self.name)
        run_training(self.settings, request, watch=self._watch, should_stop=lambda: max(self.weights) >= stop_at)
        return self

    def _watch(self, event: Any) -> None:
        if isinstance(event, Started):
            self._started = event
        if isinstance(event, Stepped):
            assert self._started is not None
            state = self._started.session.model.state_dict()
            self.weights[event.step] = {name: tensor.clone() for name, tensor in state.items()}


def equal(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_equal(recorded: Recorded, steps: list[int]) -> None:
    run = open_run(recorded.name)
    for step in steps:
        again = replay_step(run, step)
        assert equal(again.weights, recorded.weights[step]), step
        assert again.document["equal"] is not False, (step, again.document["differences"])


@pytest.fixture
def prepared(make_world: Callable[..., Any]) -> Callable[..., Any]:
    def make(**trainer: Any) -> Any:
        chosen = {"model": MODEL, "training": TRAINING, "checkpoint": {"save_freq": 6}, **trainer}
        world = make_world(5, split=SPLIT, **chosen)
        world.prepare()
        return world

    return make


def test_random_steps_of_a_run_that_was_stopped_and_resumed_are_the_same_bits(prepared: Any, tmp_path: Path) -> None:
    recorded = Recorded(prepared().settings, "a").train(stop_at=7).train(stop_at=9).train()
    last = max(recorded.weights)
    before = files(tmp_path)
    assert_equal(recorded, [1, last, *random.Random(7).sample(range(2, last), 8)])
    assert files(tmp_path) == before  # nothing is written


def test_steps_are_the_same_bits_where_only_the_newest_checkpoint_is_left(prepared: Any) -> None:
    plateau = {"type": "plateau", "patience": 0, "factor": 0.1, "threshold": 0.9}
    recorded = Recorded(prepared(scheduler=plateau).settings, "a").train()
    run, last = open_run("a"), max(recorded.weights)
    for folder in sorted(run.checkpoints.glob("checkpoint_epoch_*")):
        if folder.name.startswith(("checkpoint_epoch_2", "checkpoint_epoch_3")):
            shutil.rmtree(folder)
    rates = {row["learning_rate"] for row in run.metrics() if "batch" in row}
    assert len(rates) > 1  # which depends on the validation of epochs that are trained again on the way
    assert replay_step(run, last).document["steps_taken"] > last // 2
    assert_equal(recorded, [last])


def test_a_damaged_checkpoint_is_passed_over_and_said(prepared: Any) -> None:
    recorded = Recorded(prepared().settings, "a").train(stop_at=5)
    path = open_run("a").checkpoints / "checkpoint_epoch_1_batch_6" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    again = replay_step(open_run("a"), 5)
    assert again.document["from_checkpoint"] is None
    assert any("checkpoint_epoch_1_batch_6" in note for note in again.document["notes"])
    assert equal(again.weights, recorded.weights[5])


def test_what_a_killed_training_left_is_enough(prepared: Any) -> None:
    world = prepared()
    recorded = Recorded(world.settings, "a").train(stop_at=9)
    words = ("9", "train", "-c", str(world.config_file()), "--run", "b")
    assert shared().run(words, world.folder, script=KILLED).code == -signal.SIGKILL
    assert dateshard.Run("b").state == "cut off"
    for step in (3, 8, 9):
        again = replay_step(open_run("b"), step)
        assert equal(again.weights, recorded.weights[step])
        assert again.document["equal"]


def test_a_figure_that_is_not_the_logged_one_is_a_finding(prepared: Any, ds: Any) -> None:
    Recorded(prepared().settings, "a").train(stop_at=4)
    path = open_run("a").folder / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[2]["loss"] += 1e-7
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if row["step"] != 4))
    document = ds("replay", "a", "--step", "3", "--json", code=4).document
    assert document["equal"] is False
    assert [row["key"] for row in document["differences"]] == ["loss"]
    assert document["differences"][0]["logged"] == rows[2]["loss"]
    text = ds("replay", "a", "--step", "3", code=4).out
    assert "NOT what metrics.jsonl says" in text
    assert "equal to its row" in ds("replay", "a", "--step", "2").out
    rows = [row for row in rows if row["step"] != 3] + [{"step": 3, "epoch": 1, "train_loss": 1.0, "val_loss": 1.0}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))  # an epoch's row tells of no step
    assert dateshard.Run("a").replay(3).equal is None


def test_a_skipped_step_is_replayed_as_such_and_shows_the_windows_that_are_no_number(
    prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "losses_with_a_hole.py").write_text(
        "import torch\n"
        "def loss(forecast, target, observed):\n"
        "    return torch.where(target > 2.0, torch.nan, (forecast - target) ** 2)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings = prepared(training={**TRAINING, "loss": "losses_with_a_hole:loss"}).settings
    recorded = Recorded(settings, "a").train(stop_at=3)
    again = replay_step(open_run("a"), 3, trace=True)
    assert again.document["skipped"]
    assert (again.document["loss"], again.document["losses"], again.document["equal"]) == (None, {}, True)
    assert equal(again.weights, recorded.weights[3])
    holes = [math.isnan(window["loss"]) for window in again.document["trace"]]
    assert holes == sorted(holes, reverse=True)
    assert len(set(holes)) == 2
    assert math.isnan(again.document["trace"][0]["cells"][0]["loss"])


def test_a_run_or_a_step_that_cannot_be_replayed_is_refused_in_a_sentence(prepared: Any) -> None:
    world = prepared()
    Recorded(world.settings, "a").train(stop_at=4)
    with pytest.raises(UsageError, match="a has no step 5: its checkpoints and"):
        replay_step(open_run("a"), 5)
    for path in world.store.glob("manifests/*"):
        path.rename(path.with_name(path.name.replace("00001", "00009").replace("g1", "g9")))
    with pytest.raises(StoreError, match="the data of a, generation 1, is gone"):
        replay_step(open_run("a"), 2)


def test_a_ridge_is_refused_for_it_has_no_steps(prepared: Any) -> None:
    settings = prepared(model={"name": "ridge"}, training={}).settings
    run_training(settings, TrainRequest(name="a"), watch=lambda _: None, should_stop=lambda: False)
    with pytest.raises(UsageError, match="a has no steps: a ridge is solved in one pass over all windows"):
        replay_step(open_run("a"), 1)


def test_a_run_whose_first_weights_are_gone_is_refused_by_their_name(prepared: Any) -> None:
    settings = prepared().settings
    Recorded(settings, "a").train(stop_at=8)
    request = TrainRequest(name="b", init_from="a")
    run_training(settings, request, watch=lambda _: None, should_stop=lambda: True)
    assert replay_step(open_run("b"), 1).document["equal"]
    shutil.rmtree(open_run("a").folder)
    with pytest.raises(NotThereError, match="the weights that this run began with cannot be read again"):
        replay_step(open_run("b"), 1)


def poison(world: Any) -> None:
    """Writes 1e6 into one speed of a training date."""
    path = world.dump(POISONED)
    lines = path.read_text().splitlines(keepends=True)
    time, node, _, volume = lines[ROW - 1].split(",")
    lines[ROW - 1] = f"{time},{node},1000000.0,{volume}"
    path.write_text("".join(lines))


def trained(world: Any) -> dateshard.Run:
    """A run of two epochs with one step each, over all windows."""
    world.tree["trainer"]["training"] = {"batch_size": 1024, "epochs": 2}
    run_training(world.settings, TrainRequest(name="a"), watch=lambda _: None, should_stop=lambda: False)
    return dateshard.Run("a")


def worst(run: dateshard.Run) -> dict[str, Any]:
    cell: dict[str, Any] = run.replay(2, trace=True).document["trace"][0]["cells"][0]
    return cell


def test_a_poisoned_cell_is_named_by_file_and_row(make_world: Any, ds: Any) -> None:
    world = make_world(5, split=SPLIT, model=MODEL, training=TRAINING)
    poison(world)
    world.prepare()
    run = trained(world)
    document = ds("replay", "a", "--step", "2", "--trace", "--json").document
    losses = [window["loss"] for window in document["trace"]]
    assert losses == sorted(losses, reverse=True)
    assert len(losses) == document["windows"]
    assert abs(sum(losses) / len(losses) - document["loss"]) < 0.1 * document["loss"]
    cell = worst(run)
    assert cell["rows"][0] == {"file": str(world.dump(POISONED)), "row": ROW, "value": 1e6}
    assert cell["time"] == world.dump(POISONED).read_text().splitlines()[ROW - 1][:13] + ":00:00+00:00"
    text = ds("replay", "a", "--step", "2", "--trace").out
    assert f"{world.dump(POISONED)} row {ROW} (1000000.0)" in text
    assert text.count("window of") == 5
    poison(world)  # the same bytes: nothing changed
    assert worst(run)["rows"]
    world.dump(POISONED).write_text(world.dump(POISONED).read_text() + "\n")
    again = run.replay(2, trace=True)
    assert again.document["trace"][0]["cells"][0]["rows"] is None
    assert any("the dump has changed since it was prepared" in note for note in again.document["notes"])
    world.dump(POISONED).unlink()
    assert any("the dump is gone" in note for note in run.replay(2, trace=True).document["notes"])


def test_a_poisoned_cell_of_one_big_file_is_named_by_its_row_there(make_world: Any) -> None:
    world = make_world(5, split=SPLIT, model=MODEL, training=TRAINING)
    poison(world)
    dumps = [world.dump(date).read_text().splitlines(keepends=True) for date in sorted(world.rows)]
    whole = world.folder / "whole.csv"
    whole.write_text("".join([dumps[0][0], *(line for lines in dumps for line in lines[1:])]))
    world.tree["pipeline"]["source"]["path"] = str(whole)
    world.prepare()
    row = 1 + next(k for k, line in enumerate(whole.read_text().splitlines()) if ",1000000.0," in line)
    run = trained(world)
    assert worst(run)["rows"][0] == {"file": str(whole), "row": row, "value": 1e6}
    whole.write_text(whole.read_text().replace(",1000000.0,", ",1000001.0,"))
    assert worst(run)["rows"] is None


def test_a_poisoned_record_of_a_table_is_named_by_its_row(make_world: Any) -> None:
    world = make_world(5, split=SPLIT, model=MODEL, training=TRAINING)
    poison(world)
    del world.tree["pipeline"]["step"], world.tree["pipeline"]["source"]["node"]
    world.tree["pipeline"] |= {
        "layout": "events",
        "features": {"speed": {"fill": "forward"}, "volume": {"column": "vehicles"}},
    }
    world.prepare()
    assert worst(trained(world))["rows"][0]["row"] == ROW


@pytest.mark.slow
def test_a_thousand_random_steps_are_the_same_bits(prepared: Any) -> None:
    settings = prepared(
        training={"epochs": 130, "batch_size": 4, "accumulate": 2},
        checkpoint={"save_freq": 12},
        scheduler={"type": "plateau", "patience": 1},
        early_stopping=None,
    ).settings
    recorded = Recorded(settings, "a")
    for stop in (37, 200, 431):
        recorded.train(stop_at=stop)
    recorded.train()
    chance = random.Random(11)
    assert_equal(recorded, chance.sample(sorted(recorded.weights), 1000))
