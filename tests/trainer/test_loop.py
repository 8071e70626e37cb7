"""One step, one epoch, one training: against plain torch and plain arithmetic."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from dateshard.trainer.checkpoint import Saved
from dateshard.trainer.data.batch import Batch
from dateshard.trainer.loop import Ended, EpochDone, Stepped, train, validate
from dateshard.trainer.session import Session, State
from dateshard.trainer.step import Step

Make = Callable[..., Any]
SPLIT = {"train": "2024-03-01..2024-03-04", "validation": "2024-03-05"}


def never() -> bool:
    return False


def train_step(session: Session, *batches: Batch) -> torch.Tensor:
    """One step over these batches; returns its loss."""
    step = Step(session=session, num_windows=sum(batch.size for batch in batches))
    for batch in batches:
        step.add(batch)
    return step.finish().loss


@pytest.fixture
def session(make_world: Make, session_of: Make) -> Session:
    world = make_world(5, missing=0.5, split=SPLIT, model={"name": "mlp", "hidden_units": [8], "dropout_rate": 0.0})
    world.prepare()
    return session_of(world)


def plain_gradients(session: Session, batch: Batch) -> list[torch.Tensor]:
    """Of mean squared error over the observed cells, chosen by indexing, in a copy of the model."""
    model = copy.deepcopy(session.model).train()
    forecast = model(batch.history_BHNF.clone(), batch.codes_BW)
    error = (forecast - batch.target_BPNF) ** 2
    chosen = error if batch.observed_BPNF is None else error[batch.observed_BPNF]
    chosen.mean().backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def test_the_gradient_of_a_step_is_that_of_a_plain_masked_mean(session: Session) -> None:
    for batch in session.train.batches(0):  # the last one is short
        assert batch.observed_BPNF is not None
        assert not batch.observed_BPNF.all()
        expected = plain_gradients(session, batch)
        loss = train_step(session, batch)
        session.state.step += 1
        for parameter, gradient in zip(session.model.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-7)
        assert math.isfinite(float(loss))


def test_without_a_mask_the_gradient_is_that_of_the_mean(session: Session) -> None:
    given = next(iter(session.train.batches(0)))
    batch = Batch(
        history_BHNF=given.history_BHNF, target_BPNF=given.target_BPNF, observed_BPNF=None, codes_BW=given.codes_BW
    )
    expected = plain_gradients(session, batch)
    train_step(session, batch)
    for parameter, gradient in zip(session.model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-7)


def test_a_batch_with_nothing_observed_has_no_gradient_and_no_loss(session: Session) -> None:
    given = next(iter(session.train.batches(0)))
    nothing = torch.zeros_like(given.target_BPNF, dtype=torch.bool)
    before = copy.deepcopy(session.model.state_dict())
    loss = train_step(
        session,
        Batch(
            history_BHNF=given.history_BHNF,
            target_BPNF=given.target_BPNF,
            observed_BPNF=nothing,
            codes_BW=given.codes_BW,
        ),
    )
    assert float(loss) == 0.0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in session.model.parameters())
    after = session.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not session.metrics.sums.values_6GF.any()


def test_values_that_were_not_observed_do_not_train(session: Session) -> None:
    given = next(iter(session.train.batches(0)))
    assert given.observed_BPNF is not None
    wild = torch.where(given.observed_BPNF, given.target_BPNF, torch.tensor(1e6))
    expected = plain_gradients(session, given)
    train_step(
        session,
        Batch(
            history_BHNF=given.history_BHNF,
            target_BPNF=wild,
            observed_BPNF=given.observed_BPNF,
            codes_BW=given.codes_BW,
        ),
    )
    for parameter, gradient in zip(session.model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-7)


def test_gradients_are_clipped_after_they_are_rescaled(make_world: Make, session_of: Make) -> None:
    model = {"name": "mlp", "hidden_units": [8], "dropout_rate": 0.0}
    training = {"batch_size": 16, "clip_norm": 0.01}
    world = make_world(5, missing=0.5, split=SPLIT, model=model, training=training)
    world.prepare()
    session = session_of(world)
    batch = next(iter(session.train.batches(0)))
    plain = torch.cat([gradient.ravel() for gradient in plain_gradients(session, batch)])
    train_step(session, batch)
    found = torch.cat([parameter.grad.ravel() for parameter in session.model.parameters()])
    assert float(plain.norm()) > 0.1
    assert float(found.norm()) == pytest.approx(0.01, rel=1e-3)
    torch.testing.assert_close(found / found.norm(), plain / plain.norm(), rtol=1e-3, atol=1e-6)


def test_a_step_repeats_its_own_dropout_whatever_was_drawn_before(make_world: Make, session_of: Make) -> None:
    model = {"name": "mlp", "hidden_units": [32], "dropout_rate": 0.5}
    world = make_world(5, split=SPLIT, model=model)
    world.prepare()
    weights = []
    for disturbance in (0, 1000):
        session = session_of(world)
        session.state.step = 41
        torch.rand(disturbance)
        session.model.train()
        train_step(session, next(iter(session.train.batches(0))))
        weights.append(torch.cat([parameter.detach().ravel() for parameter in session.model.parameters()]))
    assert torch.equal(*weights)


def test_two_steps_draw_different_dropout(make_world: Make, session_of: Make) -> None:
    world = make_world(5, split=SPLIT, model={"name": "mlp", "hidden_units": [32], "dropout_rate": 0.5})
    world.prepare()
    forecasts = []
    for step in (41, 42):
        session = session_of(world)
        session.state.step = step
        session.model.train()
        session.model.register_forward_hook(lambda _model, _given, out: forecasts.append(out.detach().clone()))
        train_step(session, next(iter(session.train.batches(0))))
    assert not torch.equal(*forecasts)


def test_training_metrics_of_each_epoch_are_those_of_all_its_windows_at_once(session: Session) -> None:
    """Every forecast is taken again from the same weights right before its step, and all are put together in float64."""
    model, events = session.model, train(session, never)
    for epoch in (0, 1):
        batches = [
            tuple(part.clone() for part in (b.history_BHNF, b.target_BPNF, b.observed_BPNF, b.codes_BW))
            for b in session.train.batches(epoch)
        ]
        errors, targets = [], []
        for history, target, observed, codes in batches:
            with torch.no_grad():
                error = model(history, codes).double() - target
            errors.append(error[observed].numpy())
            targets.append(target[observed].double().numpy())
            assert next(event for event in events if isinstance(event, Stepped)).epoch == epoch
        report = next(event for event in events if isinstance(event, EpochDone)).train
        error, target = np.concatenate(errors), np.concatenate(targets)
        mean = math.fsum(target) / len(target)
        assert report["count"] == len(error)
        assert report["mse"] == pytest.approx(math.fsum(error**2) / len(error), rel=1e-12)
        assert report["mae"] == pytest.approx(math.fsum(abs(error)) / len(error), rel=1e-12)
        assert report["bias"] == pytest.approx(math.fsum(error) / len(error), rel=1e-12)
        assert report["r2"] == pytest.approx(1 - math.fsum(error**2) / math.fsum((target - mean) ** 2), rel=1e-12)
        assert len(report["by_horizon"]) == 6


def test_validation_is_of_all_its_windows_without_dropout_and_leaves_no_trace(
    make_world: Make, session_of: Make
) -> None:
    world = make_world(5, split=SPLIT, model={"name": "mlp", "hidden_units": [8], "dropout_rate": 0.5})
    world.prepare()
    session = session_of(world)
    before = copy.deepcopy(session.model.state_dict())
    first, second = validate(session, never), validate(session, never)
    assert first == second
    session.model.eval()
    errors = []
    for batch in session.validation.batches(0):
        with torch.no_grad():
            error = session.model(batch.history_BHNF, batch.codes_BW).double() - batch.target_BPNF
        errors.append(error[batch.observed_BPNF].numpy())
    error = np.concatenate(errors)
    assert first is not None
    assert first["count"] == len(error)
    assert first["mse"] == pytest.approx(math.fsum(error**2) / len(error), rel=1e-12)
    after = session.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_events_tell_every_batch_every_save_and_every_epoch(make_world: Make, session_of: Make) -> None:
    world = make_world(5, split=SPLIT, checkpoint={"save_freq": 2}, scheduler={"type": "step", "step_size": 1})
    world.prepare()
    session = session_of(world)
    events = list(train(session, never))
    steps = [event for event in events if isinstance(event, Stepped)]
    assert [(e.epoch, e.batch, e.step) for e in steps] == [(i // 5, i % 5 + 1, i + 1) for i in range(10)]
    assert [e.size for e in steps] == [16, 16, 16, 16, 15] * 2
    assert {e.num_batches for e in steps} == {5}
    assert [e.learning_rate for e in steps] == pytest.approx([1e-3] * 5 + [1e-4] * 5)
    saved = [event for event in events if isinstance(event, Saved)]
    assert [(e.epoch, e.batch) for e in saved] == [(0, 2), (0, 4), (0, 5), (1, 2), (1, 4), (1, 5)]
    names = [f"checkpoint_epoch_{e}_batch_{b}" for e in (1, 2) for b in (2, 4, 5)]
    assert [e.folder.name for e in saved] == names
    done = [event for event in events if isinstance(event, EpochDone)]
    assert [e.epoch for e in done] == [0, 1]
    assert all(e.val_loss == e.validation["loss"] == pytest.approx(e.validation["mse"], rel=1e-6) for e in done)
    assert isinstance(events[-1], Ended)
    assert events[-1].why == "epochs"


def test_without_save_freq_only_validated_weights_are_saved(make_world: Make, session_of: Make) -> None:
    world = make_world(5, split=SPLIT, checkpoint={"save_freq": None})
    world.prepare()
    saved = [e for e in train(session_of(world), never) if isinstance(e, Saved)]
    assert [(e.epoch, e.batch) for e in saved] == [(0, 5), (1, 5)]


def test_early_stopping_ends_the_training_and_says_so(make_world: Make, session_of: Make) -> None:
    """A min_delta that nothing reaches: the first validation counts, then patience runs out."""
    training, stopping = {"epochs": 50, "batch_size": 16}, {"patience": 2, "min_delta": 1e9}
    world = make_world(5, split=SPLIT, training=training, early_stopping=stopping)
    world.prepare()
    session = session_of(world)
    events = list(train(session, never))
    assert sum(isinstance(event, EpochDone) for event in events) == 3
    assert events[-1].why == "early stopping"
    assert list(train(session, never)) == [Ended("early stopping", session.state)]


@pytest.mark.parametrize("name", ["dlinear", "ridge"])
def test_the_other_models_train_save_and_end_alike(make_world: Make, session_of: Make, name: str) -> None:
    world = make_world(5, split=SPLIT, model={"name": name})
    world.prepare()
    session = session_of(world)
    untrained = validate(session, never)
    events = list(train(session, never))
    assert isinstance(events[-1], Ended)
    done = [event for event in events if isinstance(event, EpochDone)]
    assert len(done) == (1 if name == "ridge" else 2)
    assert untrained is not None
    assert done[-1].val_loss is not None
    assert done[-1].val_loss < untrained["mse"]
    assert any(isinstance(event, Saved) for event in events)


def test_a_training_learns_what_is_there_to_learn(make_world: Make, session_of: Make) -> None:
    """A daily wave without noise: the perceptron's error falls to a small share of the variance."""
    split = {"train": "2024-03-01..2024-03-08", "validation": "2024-03-09..2024-03-10"}
    model = {"name": "mlp", "hidden_units": [32], "dropout_rate": 0.0}
    training = {"epochs": 12, "batch_size": 8, "learning_rate": 0.01}
    world = make_world(10, missing=0.0, split=split, model=model, training=training)
    for date, rows in world.rows.items():
        wave = [(i, n, 50 + 20 * math.sin(i / 1e9 / 86400 * 2 * math.pi)) for i, n, _, _ in rows]
        world.rows[date] = [(i, n, speed, 100 - speed) for i, n, speed in wave]
        world.write(date)
    world.prepare()
    session = session_of(world)
    done = [event for event in train(session, never) if isinstance(event, EpochDone)]
    assert done[-1].validation["r2"] > 0.97
    assert session.state == State(
        epoch=11,
        batch=session.train.order.num_batches,
        step=12 * session.train.order.num_batches,
        validated=True,
        train_loss=done[-1].train_loss,
        val_loss=done[-1].val_loss,
        progress=session.state.progress,
    )
