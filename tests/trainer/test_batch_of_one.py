"""A last batch that is short: left out where that is asked for, and a model that cannot take it is refused by name."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dateshard.cli import run
from dateshard.shardstore.errors import UsageError
from dateshard.trainer.binding import refuse_difference
from dateshard.trainer.checkpoint.bound_settings import binding
from dateshard.trainer.checkpoint.checkpoint_state import Bound, DataIdentity
from dateshard.trainer.config import Trainer
from dateshard.trainer.data.window_sample import WindowSample
from dateshard.trainer.loop import EpochDone, Stepped, train
from dateshard.trainer.setup import make_session, refuse_batch_of_one

Make = Callable[..., Any]
SPLIT = {"train": "2024-03-01..2024-03-04", "validation": "2024-03-05"}
WINDOWS = 79  # of training
NORM = """from torch import nn
class M(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.form = (shape.window.target_steps, shape.num_nodes, shape.num_outputs)
        self.norm, self.out = nn.BatchNorm1d(shape.num_inputs), nn.Linear(shape.num_inputs, shape.num_outputs)
    def forward(self, history, codes):
        last = self.out(self.norm(history[:, -1].mean(1)))
        return last[:, None, None].expand(-1, *self.form)
def build(shape, config):
    return M(shape)
"""


@pytest.fixture(autouse=True)
def _a_module_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("norm", None)


@pytest.fixture
def normed(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A prepared world whose model has BatchNorm; 79 = 6 x 13 + 1 windows."""
    Path("norm.py").write_text(NORM)
    training = {"epochs": 1, "batch_size": 13}
    world = make_world(5, split=SPLIT, model={"name": "norm:build"}, training=training, loading={"shuffle": "global"})
    world.prepare()
    world.config_file()
    monkeypatch.chdir(world.folder)
    Path("norm.py").write_text(NORM)
    return world


def session_of(world: Any, **training: Any) -> Any:
    tree = world.settings.trainer.model_dump(mode="json")
    tree["training"] |= training
    return make_session(Trainer.model_validate(tree), world.open(), world.folder / "checkpoints")


@pytest.mark.parametrize("command", [["train", "--run", "n"], ["train", "--dry-run"]], ids=str)
def test_batchnorm_and_a_last_batch_of_one_are_refused_before_the_first_step(
    normed: Any, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert run([*command, "-c", "config.yaml"]) == 2
    error = capsys.readouterr().err
    assert "the model 'norm:build' cannot train on a batch of one: ValueError: Expected more than 1 value" in error
    assert "the last batch of an epoch has one window (79 in batches of 13)" in error
    assert "trainer.training.drop_last: true" in error
    assert not list(Path("data").glob("runs/n"))
    assert run([*command, "-c", "config.yaml", "-q", "trainer.training.drop_last=true"]) == 0


def test_batchnorm_in_batches_of_one_is_told_another_remedy(normed: Any) -> None:
    with pytest.raises(UsageError, match=r"every batch has one window\. Set trainer\.training\.batch_size to 2"):
        refuse_batch_of_one(session_of(normed, batch_size=1))


@pytest.mark.parametrize("training", [{"max_steps": 6}, {"batch_size": 12}, {"max_steps": 3, "accumulate": 2}], ids=str)
def test_batchnorm_trains_where_no_batch_of_one_is_reached(normed: Any, training: dict[str, Any]) -> None:
    session = session_of(normed, **training)
    before = {name: tensor.clone() for name, tensor in session.model.state_dict().items()}
    refuse_batch_of_one(session)
    assert all(torch.equal(tensor, before[name]) for name, tensor in session.model.state_dict().items())
    assert [event for event in train(session, lambda: False) if isinstance(event, Stepped)]


def test_trying_a_batch_of_one_changes_nothing_of_the_model(make_world: Make) -> None:
    Path("norm.py").write_text(
        NORM.replace("history[:, -1].mean(1))", "history[:, -1].repeat(2, 1, 1).mean(1))[: len(history)]")
    )
    world = make_world(5, split=SPLIT, model={"name": "norm:build"}, training={"batch_size": 13})
    world.prepare()
    session = session_of(world)
    before = {name: tensor.clone() for name, tensor in session.model.state_dict().items()}
    refuse_batch_of_one(session)  # two rows a window: it can
    assert all(torch.equal(tensor, before[name]) for name, tensor in session.model.state_dict().items())


def test_a_model_that_fails_in_the_middle_of_a_training_is_one_sentence(
    normed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = "        if self.training and history.any(): raise KeyError('x')\n        last ="
    Path("norm.py").write_text(NORM.replace("        last =", failing))
    assert run(["train", "-c", "config.yaml", "--run", "n", "-q", "trainer.training.batch_size=16"]) == 2
    error = capsys.readouterr().err
    assert "the model fails on a batch of 16 windows: KeyError: 'x' (" in error
    assert "norm.py, line 8)" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("batch_size", [1, 4, 13, 16, WINDOWS])
def test_drop_last_leaves_out_the_short_batch_and_nothing_else(make_world: Make, batch_size: int) -> None:
    world = make_world(5, split=SPLIT, training={"epochs": 2, "batch_size": batch_size})
    world.prepare()
    whole, dropping = session_of(world), session_of(world, drop_last=True)
    assert dropping.train.order.num_batches == WINDOWS // batch_size
    assert whole.train.order.num_batches == math.ceil(WINDOWS / batch_size)
    assert dropping.validation.order == whole.validation.order
    for epoch in (0, 1):
        wanted = [batch.copy() for batch in whole.train.batches(epoch) if batch.size == batch_size]
        served = [batch.copy() for batch in dropping.train.batches(epoch)]
        assert len(served) == len(wanted)
        assert all(torch.equal(a.history_BHNF, b.history_BHNF) for a, b in zip(served, wanted, strict=True))
    last = [batch.copy() for batch in dropping.train.batches(1, start=dropping.train.order.num_batches - 1)]
    assert torch.equal(last[0].target_BPNF, served[-1].target_BPNF)
    done = [event for event in train(dropping, lambda: False) if isinstance(event, EpochDone)]
    assert [event.step for event in done] == [WINDOWS // batch_size, 2 * (WINDOWS // batch_size)]


def test_other_windows_are_left_out_in_every_epoch() -> None:
    from tests.trainer.data.test_order import MEMBERS, Window, batches_of, order_of

    order = replace(order_of(Window(12, 6), MEMBERS["all"], (1, 3), batch=16), drop_last=True)
    assert order.num_anchors % 16
    assert order.num_windows == order.num_anchors // 16 * 16
    first, second = ({w for batch in batches_of(order, epoch) for w in batch} for epoch in (0, 1))
    assert len(first) == len(second) == order.num_windows
    assert first != second
    part = replace(order, sample=WindowSample(order.num_anchors, 50, 7))
    assert (part.num_windows, [len(batch) for batch in batches_of(part, 0)]) == (48, [16, 16, 16])


@pytest.mark.parametrize("training", [{"batch_size": WINDOWS + 1}, {"batch_size": 16, "sample_size": 15}], ids=str)
def test_drop_last_that_leaves_no_batch_is_refused(make_world: Make, training: dict[str, Any]) -> None:
    world = make_world(5, split=SPLIT)
    world.prepare()
    count = training.get("sample_size", WINDOWS)
    with pytest.raises(UsageError, match=rf"its {count} training windows? do(es)? not fill one of .*drop_last: false"):
        session_of(world, **training, drop_last=True)


def test_a_run_from_before_drop_last_goes_on_without_it_and_not_with_it() -> None:
    data = DataIdentity("world", 1, "id")
    now = Bound(settings=binding(Trainer()), data=data, order={})
    before = {key: value for key, value in now.settings.items() if key != "training.drop_last"}
    then = replace(now, settings=before)
    refuse_difference(then, now, Path("c"))
    other = binding(Trainer.model_validate({"training": {"drop_last": True}}))
    with pytest.raises(UsageError, match=r"trainer\.training\.drop_last: checkpoint False, now True"):
        refuse_difference(then, replace(now, settings=other), Path("c"))


def test_an_error_of_a_model_that_is_built_in_is_no_fault_of_the_user(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(5, split=SPLIT)
    world.prepare()
    session = session_of(world)

    def broken(*_: Any) -> Any:
        raise KeyError("ours")

    monkeypatch.setattr(type(session.model), "forward", broken)
    with pytest.raises(KeyError, match="ours"):
        list(train(session, lambda: False))
