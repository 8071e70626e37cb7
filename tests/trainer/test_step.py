"""One optimizer step: several batches as one, several losses in one, and a gradient that is no number."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from dateshard.shardstore.errors import DateshardError
from dateshard.trainer import checkpoint
from dateshard.trainer.checkpoint import Saved
from dateshard.trainer.data.batch import Batch
from dateshard.trainer.forward import forward
from dateshard.trainer.loop import Ended, EpochDone, Stepped, train
from dateshard.trainer.optimization.loss_scale import LossScale
from dateshard.trainer.optimization.objective import by_head
from dateshard.trainer.optimization.optimizer import clear_gradients
from dateshard.trainer.session import Session
from dateshard.trainer.step import Step

Make = Callable[..., Any]
SPLIT = {"train": "2024-03-01..2024-03-04", "validation": "2024-03-05"}
MODEL = {"name": "mlp", "hidden_units": [8], "dropout_rate": 0.0}


def never() -> bool:
    return False


def copied(batch: Batch) -> Batch:
    """A batch that outlives the ring."""
    observed, codes = batch.observed_BPNF, batch.codes_BW
    assert observed is not None
    assert codes is not None
    return Batch(
        history_BHNF=batch.history_BHNF.clone(),
        target_BPNF=batch.target_BPNF.clone(),
        observed_BPNF=observed.clone(),
        codes_BW=codes.clone(),
    )


def joined(batches: list[Batch]) -> Batch:
    names = ("history_BHNF", "target_BPNF", "observed_BPNF", "codes_BW")
    return Batch(**{name: torch.cat([getattr(batch, name) for batch in batches]) for name in names})


@pytest.fixture
def start(make_world: Make, session_of: Make) -> Callable[..., Session]:
    """A session on a world of five dates with gaps."""

    def make(**trainer: Any) -> Session:
        world = make_world(5, missing=0.5, split=SPLIT, **{"model": MODEL, **trainer})
        world.prepare()
        found: Session = session_of(world)
        return found

    return make


def gradients(session: Session) -> torch.Tensor:
    return torch.cat([p.grad.ravel() for p in session.model.parameters() if p.grad is not None])


def test_accumulated_batches_have_the_gradient_the_loss_and_the_metrics_of_one_large_batch(
    start: Callable[..., Session],
) -> None:
    """Each batch misses another share, so that a mean of means would be another number."""
    session = start()
    batches = [copied(batch) for batch in session.train.batches(0)]
    shares = [float(b.observed_BPNF.float().mean()) for b in batches if b.observed_BPNF is not None]
    assert max(shares) - min(shares) > 0.02
    assert batches[-1].size < batches[0].size
    found = []
    for given in (batches, [joined(batches)]):
        other = copy.deepcopy(session.model)
        session.model, session.metrics = other, session.metrics.fresh()
        step = Step(session=session, num_windows=sum(batch.size for batch in given))
        for batch in given:
            step.add(batch)
        outcome = step.finish()
        found.append((gradients(session), outcome.loss, outcome.parts["mse"], session.metrics.loss()))
        session.model = other
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(other), rtol=1e-5, atol=1e-7)


def test_a_step_takes_accumulate_batches_and_an_epochs_last_step_what_is_left(start: Callable[..., Session]) -> None:
    session = start(training={"batch_size": 16, "accumulate": 3, "epochs": 2}, checkpoint={"save_freq": 2})
    events = list(train(session, never))
    steps = [event for event in events if isinstance(event, Stepped)]
    assert [(e.epoch, e.batch, e.step, e.size) for e in steps] == [
        (0, 3, 1, 48), (0, 5, 2, 31), (1, 3, 3, 48), (1, 5, 4, 31),
    ]  # fmt: skip
    saved = [(e.epoch, e.batch) for e in events if isinstance(e, Saved)]
    assert saved == [(0, 3), (0, 5), (1, 3), (1, 5)]  # the first step's end after every second batch; the epoch's end


def test_several_losses_have_the_gradient_of_their_weighted_sum(start: Callable[..., Session]) -> None:
    losses = {
        "fast": {"loss": "huber", "targets": ["speed"], "weight": 2.0, "huber_delta": 0.5},
        "many": {"loss": "mae", "targets": ["volume"], "weight": 0.25},
    }
    session = start(training={"losses": losses})
    batch = copied(next(iter(session.train.batches(0))))
    observed = batch.observed_BPNF
    assert observed is not None
    plain = copy.deepcopy(session.model)
    error = plain(batch.history_BHNF, batch.codes_BW) - batch.target_BPNF
    size, seen = error[..., 0].numel(), observed.sum()
    huber = torch.nn.functional.huber_loss(error, torch.zeros_like(error), delta=0.5, reduction="none")[..., 0]
    fast, many = huber[observed[..., 0]].sum(), error[..., 1].abs()[observed[..., 1]].sum()
    expected = (2.0 * fast / size + 0.25 * many / size) * (2 * size / seen)
    expected.backward()
    step = Step(session=session, num_windows=batch.size)
    step.add(batch)
    outcome = step.finish()
    torch.testing.assert_close(outcome.loss, expected.detach())
    torch.testing.assert_close(outcome.parts["fast"], fast.detach() / observed[..., 0].sum())
    torch.testing.assert_close(outcome.parts["many"], many.detach() / observed[..., 1].sum())
    wanted = torch.cat([p.grad.ravel() for p in plain.parameters() if p.grad is not None])
    torch.testing.assert_close(gradients(session), wanted, rtol=1e-4, atol=1e-7)
    assert session.metrics.losses() == pytest.approx({k: float(v) for k, v in outcome.parts.items()}, rel=1e-6)


@pytest.mark.parametrize("scale", [None, 1024.0])
def test_the_gradient_is_that_of_the_weighted_sum_as_autograd_takes_it_to_the_bit(
    start: Callable[..., Session], scale: float | None
) -> None:
    losses = {
        "fast": {"loss": "huber", "targets": ["speed"], "weight": 0.7},
        "many": {"loss": "mse", "targets": ["volume"], "weight": 0.3},
    }
    session = start(training={"losses": losses})
    session.state.loss_scale = scale and LossScale(scale)
    batch = copied(next(iter(session.train.batches(0))))
    step = Step(session=session, num_windows=batch.size)
    step.add(batch)
    given = gradients(session).clone()
    clear_gradients(session.optimizer)
    sums, size = forward(session, batch).sums, batch.target_BPNF[..., 0].numel()
    whole = sum(head.weight * sums[head.name][0] / size for head in session.heads)
    (whole if scale is None else whole * scale).backward()
    assert torch.equal(given, gradients(session))


def test_every_named_loss_is_told_of_each_step_of_each_epoch_and_of_each_checkpoint(
    start: Callable[..., Session],
) -> None:
    losses = {name: {"loss": "mse", "targets": [name]} for name in ("speed", "volume")}
    session = start(training={"losses": losses, "epochs": 1})
    events = list(train(session, never))
    assert all(event.losses.keys() == losses.keys() for event in events if isinstance(event, Stepped))
    (done,) = (event for event in events if isinstance(event, EpochDone))
    assert done.validation is not None
    assert done.validation["losses"].keys() == losses.keys()
    found, _ = checkpoint.scan(session.checkpoints)
    assert found[-1].state.losses == done.train["losses"]
    assert done.train["losses"]["speed"] == pytest.approx(session.metrics.sums.metrics(feature=0)["mse"], rel=1e-6)


class Broken(torch.nn.Module):
    """A model whose forecast, or whose gradient, is no number in some steps."""

    uses_codes = True

    def __init__(self, inner: torch.nn.Module, steps: set[int], *, gradient: bool) -> None:
        super().__init__()
        self.inner, self.steps, self.gradient, self.count = inner, steps, gradient, 0

    def forward(self, history: torch.Tensor, codes: torch.Tensor | None) -> torch.Tensor:
        out: torch.Tensor = self.inner(history, codes)
        self.count += self.training
        if self.training and self.count in self.steps:
            nothing = torch.zeros_like(out).sum() * next(self.inner.parameters()).sum()
            out = out + torch.sqrt(nothing) * 0 if self.gradient else out * float("inf")
        return out


@pytest.mark.parametrize("gradient", [False, True], ids=["loss", "gradient"])
def test_a_step_without_a_finite_gradient_changes_no_weight_and_is_counted(
    start: Callable[..., Session], gradient: bool
) -> None:
    session = start(training={"epochs": 1, "batch_size": 16})
    session.model = Broken(session.model, {2, 4}, gradient=gradient)

    def weights() -> torch.Tensor:
        return torch.cat([p.detach().ravel().clone() for p in session.model.parameters()])

    steps = [(event.skipped, weights()) for event in train(session, never) if isinstance(event, Stepped)]
    assert [skipped for skipped, _ in steps] == [0, 1, 1, 2, 2]
    changed = [not torch.equal(before[1], after[1]) for before, after in pairwise(steps)]
    assert changed == [False, True, False, True]
    assert session.state.skipped_in_a_row == 0
    assert session.metrics.loss() is not None


def test_too_many_such_steps_in_a_row_end_the_run_with_a_post_mortem_that_names_the_dates(
    start: Callable[..., Session],
) -> None:
    session = start(training={"epochs": 1, "batch_size": 16, "max_skipped": 2}, checkpoint={"save_freq": None})
    session.model = Broken(session.model, {2, 4, 5}, gradient=False)
    with pytest.raises(DateshardError, match=r"2 steps in a row .* epoch 1 batch 5 \(windows of 2024-03-0") as told:
        list(train(session, never))
    assert told.value.where is not None
    content = json.loads(Path(str(told.value.where.file)).read_text())
    assert (content["batches"], content["step"], content["skipped_in_a_row"]) == ([5, 5], 5, 2)
    assert set(content["dates"]) <= {f"2024-03-0{day}" for day in range(1, 5)}
    assert content["inputs"][0]["windows"] == 15
    found, _ = checkpoint.scan(session.checkpoints)
    assert [(one.state.batch, one.state.skipped) for one in found] == [(5, 3)]
    with pytest.raises(DateshardError, match="max_skipped=4") as again:  # resumed: at once, no step more
        list(train(session, never))
    assert (str(again.value), session.state.step) == (str(told.value), 5)
    more = session.config.training.model_copy(update={"max_skipped": 3})
    session.config = session.config.model_copy(update={"training": more})
    assert any(isinstance(event, EpochDone) for event in train(session, never))


@pytest.mark.parametrize("limits", [{"epochs": 2}, {"max_steps": 3}])
def test_a_run_without_a_finite_step_ends_with_its_post_mortem_and_never_as_complete(
    start: Callable[..., Session], limits: dict[str, int]
) -> None:
    session = start(training={"batch_size": 64, **limits})
    session.model = Broken(session.model, set(range(99)), gradient=False)
    with pytest.raises(DateshardError, match=r"all \d steps of the run had no finite loss") as told:
        list(train(session, never))
    assert told.value.exit_code == 1
    assert Path(str(told.value.where and told.value.where.file)).is_file()
    with pytest.raises(DateshardError) as again:  # continued: there is nothing left to do, and it says the same
        list(train(session, never))
    assert str(again.value) == str(told.value)


def test_a_run_with_one_finite_step_ends_as_it_should(start: Callable[..., Session]) -> None:
    session = start(training={"epochs": 1, "batch_size": 64})
    session.model = Broken(session.model, {2, 3, 4}, gradient=False)
    assert isinstance(list(train(session, never))[-1], Ended)


def test_a_run_that_was_stopped_before_a_finite_step_may_go_on(start: Callable[..., Session]) -> None:
    session = start(training={"epochs": 2, "batch_size": 64})
    session.model = Broken(session.model, {1}, gradient=False)
    (*_, ended) = train(session, lambda: True)
    assert isinstance(ended, Ended)
    assert ended.why == "stopped"


def test_a_dict_of_heads_trains_as_one_tensor_does(start: Callable[..., Session]) -> None:
    losses = {name: {"loss": "mse", "targets": [name]} for name in ("speed", "volume")}
    session = start(training={"losses": losses, "epochs": 1})
    other = copy.deepcopy(session.model)

    class Heads(torch.nn.Module):
        uses_codes = True

        def __init__(self) -> None:
            super().__init__()
            self.inner = other

        def forward(self, history: torch.Tensor, codes: torch.Tensor | None) -> dict[str, torch.Tensor]:
            return by_head(self.inner(history, codes), session.heads)

    batch, found = copied(next(iter(session.train.batches(0)))), []
    for model in (session.model, Heads()):
        session.model = model
        step = Step(session=session, num_windows=batch.size)
        step.add(batch)
        step.finish()
        found.append(gradients(session))
    assert torch.equal(*found)
