"""One run trained by several real processes: the same windows whatever their number, and the same bits at the same one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import command, environment
from tests.kit.limits import PATIENCE_SECONDS
from tests.kit.several import Several, kill_loop

SPLIT = {"train": "..2024-03-04", "validation": "2024-03-05", "test": "2024-03-06.."}
NORM = """import torch
from torch import nn
class Normed(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.form = (shape.window.target_steps, shape.num_nodes, shape.num_outputs)
        self.norm, self.drop = nn.BatchNorm1d(shape.num_inputs), nn.Dropout(0.3)
        self.out, self.unused = nn.Linear(shape.num_inputs, shape.num_outputs), nn.Linear(2, 2)
        self.register_buffer("lowest", torch.full((2,), torch.finfo(torch.float32).min))
    def forward(self, history, codes):
        last = history[:, -1].mean(1)
        last = self.out(self.drop(self.norm(last) if len(last) > 1 or not self.training else last))
        return last[:, None, None].expand(-1, *self.form)
def build(shape, config):
    return Normed(shape)
"""

MUTE = """import os, signal, time
from pathlib import Path
from dateshard.trainer.devices import partners
from torch import nn
partners.PARTING_SECONDS, CHILD = 0.2, Path("child")
class Mute(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.form, self.count = (shape.window.target_steps, shape.num_nodes, shape.num_outputs), 0
        self.out = nn.Linear(shape.num_inputs, shape.num_outputs)
    def forward(self, history, codes):
        self.count += self.training
        if self.count == 9 and os.environ["RANK"] == "1" and not CHILD.exists():
            if child := os.fork():
                CHILD.write_text(str(child))
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(100)
        return self.out(history[:, -1].mean(1))[:, None, None].expand(-1, *self.form)
def build(shape, config):
    return Mute(shape)
"""


@pytest.fixture
def several(make_world: Callable[..., Any]) -> Iterator[Several]:
    """Four training dates with gaps, 79 windows in batches of 6: the last batch has one window, a process of three none."""
    world = make_world(6, split=SPLIT, missing=0.3)
    world.tree["trainer"]["training"] = {"epochs": 2, "batch_size": 6}
    world.tree["trainer"]["model"]["dropout_rate"] = 0.0
    world.tree["trainer"]["checkpoint"] = {"save_freq": 5}
    world.config_file()
    world.prepare()
    return Several(world)


def alike(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], *, to: float) -> bool:
    """Whether each tensor differs by `to` of its largest value at most; 0: not in a bit."""
    assert one.keys() == other.keys()
    if not to:
        return all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    return all(
        (tensor.double() - other[name].double()).abs().max() <= to * tensor.double().abs().max()
        for name, tensor in one.items()
        if not name.startswith("optimizer") and tensor.numel()
    )


def test_two_or_three_processes_end_with_the_weights_and_figures_of_one(several: Several) -> None:
    for name, world_size in (("one", 1), ("two", 2), ("three", 3)):
        several.train(world_size, name)
    whole, by_one = several.tensors("one"), several.rows("one")
    assert len(by_one) == 2 * 14 + 2
    for name in ("two", "three"):
        assert alike(whole, several.tensors(name), to=1e-6)
        assert not alike(whole, several.tensors(name), to=0)  # they did add up in another order
        for row, of_one in zip(several.rows(name), by_one, strict=True):
            assert row == pytest.approx(of_one, rel=1e-6)
    assert sorted(path.name for path in (several.world.folder / "data/runs").iterdir() if path.is_dir()) == [
        "one",
        "three",
        "two",
    ]


def test_after_a_stop_and_after_a_kill_two_processes_go_on_to_the_same_bits(several: Several) -> None:
    """SIGTERM to the second one alone stops both after the same step; SIGKILL costs what came after the last save."""
    several.train(2, "whole", "trainer.model.dropout_rate=0.2")
    whole = several.tensors("whole")
    for name, number in (("stopped", signal.SIGTERM), ("killed", signal.SIGKILL)):
        words = ("train", "-c", "config.yaml", "--run", name, "trainer.model.dropout_rate=0.2")
        jobs = several.start(2, *words, "trainer.training.epochs=2")
        folder = several.world.folder / "data/runs" / name / "checkpoints"
        end = time.monotonic() + PATIENCE_SECONDS
        while not list(folder.glob("checkpoint_*/manifest.json")) and time.monotonic() < end and jobs[1].alive:
            time.sleep(0.002)
        os.kill(jobs[1].pid, number)
        first, second = several.wait(jobs)
        if second.code in (143, -9):  # else it was quicker than the signal
            assert first.code == (130 if number == signal.SIGTERM else 75), first
            last = "Continue exactly here" if number == signal.SIGTERM else "another process of this training is gone"
            assert last in first.out + first.err
        several.train(2, name, resume=True)
        assert alike(several.tensors(name), whole, to=0), name


def test_a_process_that_waits_for_a_killed_one_ends_though_the_connection_stays_open(several: Several) -> None:
    """A child of the killed one holds the connection open: gloo itself would wait for half an hour."""
    (several.world.folder / "mute.py").write_text(MUTE)
    words = ("train", "-c", "config.yaml", "--run", "left", "trainer.model.name=mute:build")
    first, second = several.wait(several.start(2, *words))
    os.kill(int((several.world.folder / "child").read_text()), signal.SIGKILL)
    assert second.code == -signal.SIGKILL
    assert first.code == 75
    assert "another process of this training is gone" in first.err
    several.train(2, "left", resume=True)
    assert len([row for row in several.rows("left") if "batch" in row]) == 28


def test_one_two_and_again_one_process_continue_the_same_sequence(several: Several) -> None:
    several.train(1, "whole", "--max-steps", "27")
    several.train(1, "turns", "--max-steps", "4")
    several.train(2, "turns", "--max-steps", "17", resume=True)
    several.train(1, "turns", "--max-steps", "27", resume=True)
    assert alike(several.tensors("turns"), several.tensors("whole"), to=1e-6)
    steps = [row["step"] for row in several.rows("turns") if "batch" in row]
    assert steps == list(range(1, 28))


def test_with_micro_batches_one_two_and_four_processes_end_with_the_same_bits(several: Several) -> None:
    """Of a model with dropout and BatchNorm; of the last batch, with one window, three micro-batches have none."""
    (several.world.folder / "norm.py").write_text(NORM)
    words = ("trainer.model.name=norm:build", "trainer.training.micro_batches=4")
    words += ("trainer.scheduler={type: plateau, patience: 0}", "trainer.training.clip_norm=0.5")
    several.train(1, "one", *words)
    several.train(1, "plain", *(word for word in words if "micro" not in word))
    several.train(2, "two", *words)
    several.train(4, "four", *words)
    for world_size, limit in ((2, 3), (1, 6), (4, 16)):
        several.train(world_size, "turns", *(words if limit == 3 else ()), "--max-steps", str(limit), resume=limit > 3)
    several.train(2, "turns", "--max-steps", "null", resume=True)
    whole = several.tensors("one")
    assert whole["model/norm.running_mean"].any()
    assert (whole["model/lowest"] == torch.finfo(torch.float32).min).all()
    assert not any(name.startswith("optimizer") and "unused" in name for name in whole)
    for name in ("two", "four", "turns"):
        assert alike(whole, several.tensors(name), to=0), name
        assert several.rows(name) == several.rows("one")
    shown = several.world.run("replay", "four", "--step", "16", "--trace", "--json").stdout
    assert json.loads(shown)["equal"] is True
    traced = json.loads(several.world.run("replay", "plain", "--step", "16", "--trace", "--json").stdout)
    windows = [
        sorted((window["anchor"], window["batch"]) for window in document["trace"])
        for document in (json.loads(shown), traced)
    ]
    assert windows[0] == windows[1]


def test_a_number_of_processes_that_micro_batches_do_not_fit_is_refused(several: Several) -> None:
    ended = several.train(3, "three", "trainer.training.micro_batches=4", code=2)
    assert "3 processes cannot share 4 micro-batches evenly" in ended[0].err
    assert "Train in 1, 2, 4 of them" in ended[0].err


def test_what_one_process_does_alone_is_refused_by_the_first_and_ends_all(several: Several) -> None:
    ended = several.train(2, "solved", "trainer.model.name=ridge", code=2)
    assert "ridge is solved in one pass by one process" in ended[0].err
    refused = several.train(2, "nothing", "trainer.window.history=5000", code=2)
    assert "no training window fits" in refused[0].err
    assert not (several.world.folder / "data/runs/nothing").exists()


def test_the_command_starts_the_processes_hands_signals_on_and_tells_of_one_that_was_killed(several: Several) -> None:
    several.train(1, "one")
    several.world.run("train", "-c", "config.yaml", "--run", "two", "--devices", "2", timeout=PATIENCE_SECONDS)
    assert alike(several.tensors("two"), several.tensors("one"), to=1e-6)
    words = command("train", "-c", "config.yaml", "--run", "killed", "--devices", "2", "--epochs", "2000")
    begun = subprocess.Popen(words, cwd=several.world.folder, env=environment(), stderr=subprocess.PIPE, text=True)
    metrics = several.world.folder / "data/runs/killed/metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size) and begun.poll() is None:
        time.sleep(0.01)
    children = Path(f"/proc/{begun.pid}/task/{begun.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    _, err = begun.communicate(timeout=PATIENCE_SECONDS)
    assert begun.returncode == 75
    assert "process 1 of 2 was ended by SIGKILL" in err
    assert "another process of this training is gone" in err
    assert "saved epoch" in err or "this one waited for it" in err  # where its connection does not tell
    assert "train --devices 2 --resume killed" in err or "train --resume latest" in err
    assert "2 processes" in (several.world.folder / "data/runs/killed/run.log").read_text()
    assert all(not Path(f"/proc/{child}").exists() for child in children)
    assert several.world.run("train", "-c", "config.yaml", "--devices", "none", code=2).stderr.startswith(
        "Error: --devices"
    )


def test_after_kills_at_random_moments_a_run_ends_with_the_bits_of_one_that_was_never_killed(several: Several) -> None:
    met = kill_loop(several, 3, 7, "trainer.model.dropout_rate=0.2")
    assert met.kills == 3
    assert met.bad == []


@pytest.mark.slow
def test_seeds_are_trained_one_after_the_other_in_several_processes(several: Several) -> None:
    seed = several.world.settings.trainer.training.seed
    several.train(1, "first")
    words = ("train", "-c", "config.yaml", "--run", "sown", "--seeds", "2", "--devices=2", "--seed", str(seed))
    shown = several.world.run(*words, timeout=PATIENCE_SECONDS).stdout
    assert alike(several.tensors(f"sown-seed{seed}"), several.tensors("first"), to=1e-6)
    assert not alike(several.tensors(f"sown-seed{seed + 1}"), several.tensors("first"), to=1e-6)
    assert shown.count("2 processes") == 2
    assert "standard deviation" in shown
    again = several.world.run(*words, timeout=PATIENCE_SECONDS).stdout
    assert again.count("is complete") == 2


@pytest.mark.slow
def test_torchrun_starts_anew_after_a_kill_and_ends_with_the_same_bits(several: Several) -> None:
    words = ("--resume", "auto", "--epochs", "40")
    several.train(2, "whole", "--epochs", "40")
    (several.world.folder / "data/runs/whole").rename(several.world.folder / "whole")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=2"]
    elastic = {**environment(), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "GLOO_SOCKET_IFNAME": "lo"}
    elastic["PYTHONWARNINGS"] = "default"  # its own are not ours to mend
    begun = subprocess.Popen(
        [*launcher, "-m", "dateshard", "train", "-c", "config.yaml", *words], cwd=several.world.folder, env=elastic
    )
    runs = several.world.folder / "data/runs"
    while not list(runs.glob("*/checkpoints/checkpoint_*/manifest.json")) and begun.poll() is None:
        time.sleep(0.01)
    children = Path(f"/proc/{begun.pid}/task/{begun.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    assert begun.wait(PATIENCE_SECONDS) == 0
    (name,) = (path.name for path in runs.iterdir() if path.is_dir())
    assert (runs / name / "run.log").read_text().count("2 processes") == 2  # it began, and was continued
    (several.world.folder / "whole").rename(runs / "whole")
    assert alike(several.tensors(name), several.tensors("whole"), to=0)


LOUD = """import torch
from torch import nn
class Loud(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.form = (shape.window.target_steps, shape.num_nodes, shape.num_outputs)
        self.out = nn.Linear(shape.num_inputs, shape.num_outputs)
    def forward(self, history, codes):
        last = self.out(history[:, -1].mean(1))
        last = last + 30 * (last - last.detach()) if self.training else last
        return last[:, None, None].expand(-1, *self.form)
def build(shape, config):
    return Loud(shape)
"""


def test_processes_in_fp16_skip_the_same_steps_and_scale_alike(several: Several) -> None:
    """Every process decides of the sum of all gradients; a run goes on with the scale that it had."""
    (several.world.folder / "loud.py").write_text(LOUD)
    words = ("trainer.model.name=loud:build", "trainer.training.precision=fp16", "trainer.training.micro_batches=2")
    words += ("--epochs", "1")
    several.train(1, "one", *words)
    several.train(2, "two", *words, "--max-steps", "7")
    several.train(2, "two", "--max-steps", "null", resume=True)
    by_one = several.rows("one")
    assert 1 < by_one[-1]["skipped"] < 14
    assert several.rows("two") == by_one
    assert alike(several.tensors("one"), several.tensors("two"), to=0)
