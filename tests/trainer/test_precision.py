"""Steps computed in half precision: the same bits after a cut, figures in float32, and a loss scale that follows torch's."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from dateshard.shardstore.errors import UsageError
from dateshard.trainer.checkpoint.bound_settings import that_bind
from dateshard.trainer.devices.device import choose
from dateshard.trainer.forward import Forward, forward
from dateshard.trainer.loop import Stepped, train, validate
from dateshard.trainer.optimization import loss_scale
from dateshard.trainer.optimization.loss_scale import LossScale
from dateshard.trainer.session import Session
from dateshard.trainer.setup import make_session
from dateshard.trainer.step import Step

Make = Callable[..., Any]
SPLIT = {"train": "2024-03-01..2024-03-04", "validation": "2024-03-05"}
MODEL = {"name": "mlp", "hidden_units": [8], "dropout_rate": 0.2}


def never() -> bool:
    return False


@pytest.fixture
def start(make_world: Make, tmp_path: Any) -> Callable[..., Session]:
    """Makes sessions on one world of five dates with gaps."""
    world = make_world(5, missing=0.5, split=SPLIT, model=MODEL)
    world.prepare()
    number = itertools.count()

    def make(model: dict[str, Any] = MODEL, **training: Any) -> Session:
        tree = world.settings.trainer.model_dump(mode="json")
        tree["model"], tree["training"] = {**tree["model"], **model}, {**tree["training"], **training}
        config = type(world.settings.trainer).model_validate(tree)
        return make_session(config, world.open(), tmp_path / str(next(number)))

    return make


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_layers_compute_in_half_precision_in_a_step_and_in_float32_in_a_validation(
    start: Callable[..., Session], precision: str
) -> None:
    session, kinds = start(precision=precision), dict[str, set[torch.dtype]]()
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]

    def watch(module: torch.nn.Module, _given: Any, out: torch.Tensor) -> None:
        kinds.setdefault("train" if module.training else "validation", set()).add(out.dtype)

    for module in session.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(watch)
    seen: list[Forward] = []
    step = Step(session=session, num_windows=16, watch=lambda passed, _: seen.append(passed))
    step.add(next(iter(session.train.batches(0))))
    step.finish()
    assert validate(session, never) is not None
    assert kinds == {"train": {half}, "validation": {torch.float32}}
    (passed,) = seen
    tensors = [*passed.outputs.values(), *passed.forecast.values(), *(total for total, _ in passed.sums.values())]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}
    assert {p.dtype for p in session.model.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in session.model.parameters() if p.grad is not None} == {torch.float32}


def test_a_sum_of_losses_beyond_what_half_precision_holds_is_finite(start: Callable[..., Session]) -> None:
    """fp16 ends at 65,504: targets of 1,000 have squares of a million each."""
    session = start(precision="fp16")
    batch = next(iter(session.train.batches(0)))
    batch.target_BPNF.fill_(1000.0)
    passed = forward(session, batch)
    assert float(passed.sums["mse"][0].detach()) > 1e8


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_what_float32_learns(start: Callable[..., Session], precision: str) -> None:
    losses = []
    for kind in ("fp32", precision):
        session = start({"dropout_rate": 0.0}, precision=kind, epochs=2)
        steps = [event for event in train(session, never) if isinstance(event, Stepped)]
        assert not any(event.skipped for event in steps)
        losses.append(torch.stack([event.loss for event in steps]))
    torch.testing.assert_close(losses[1], losses[0], rtol=2e-2, atol=0)
    assert not torch.equal(*losses)


def test_the_loss_scale_follows_the_rule_of_torchs_scaler(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.amp.GradScaler("cpu").get_growth_interval() == loss_scale.GROWTH_INTERVAL
    monkeypatch.setattr(loss_scale, "GROWTH_INTERVAL", 20)
    flags = [step in (0, 1, 3, 43) for step in range(59)]
    scaler = torch.amp.GradScaler("cpu", growth_interval=20)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    scale = LossScale()
    seen = set()
    for skipped in flags:
        scaler.scale(weight.sum()).backward()
        assert weight.grad is not None
        assert float(weight.grad) == scale.value
        weight.grad.fill_(float("inf") if skipped else 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        scale = scale.after(skipped=skipped)
        assert (scale.value, scale.finite_steps) == (scaler.get_scale(), scaler._get_growth_tracker())
        seen.add(scale.value)
    assert seen == {32768.0, 16384.0, 8192.0}
    assert scale == LossScale(8192.0, 15)


def test_a_loss_scale_leaves_the_numbers_that_floats_have_neither_above_nor_below() -> None:
    high, low = LossScale(2.0**127, 1999), LossScale(2.0**-126)
    assert high.after(skipped=False).value == 2.0**127
    assert low.after(skipped=True).value == 2.0**-126


class Loud(torch.nn.Module):
    """A model whose gradient overflows fp16 above a loss scale, and which may have one that is no number at all."""

    uses_codes = True

    def __init__(self, inner: torch.nn.Module, factor: float) -> None:
        super().__init__()
        self.inner, self.factor = inner, factor

    def forward(self, history: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        half: torch.Tensor = self.inner(history, codes).half()
        return half + (half * self.factor - (half * self.factor).detach()) if self.training else half


def louder(session: Session, factor: float) -> Iterator[Stepped]:
    session.model = Loud(session.model, factor)
    return (event for event in train(session, never) if isinstance(event, Stepped))


def test_a_step_whose_scaled_gradient_overflows_changes_nothing_is_counted_and_the_next_scales_less(
    start: Callable[..., Session],
) -> None:
    session = start(precision="fp16", accumulate=2, clip_norm=0.5, epochs=3)
    before = [p.detach().clone() for p in session.model.parameters()]
    steps = louder(session, 30.0)
    first = next(steps)
    assert first.skipped == 1
    assert session.state.skipped_in_a_row == 1
    assert session.state.loss_scale == LossScale(32768.0)
    assert all(torch.equal(p, was) for p, was in zip(session.model.parameters(), before, strict=True))
    later = list(steps)
    finite = next(event for event in later if event.gradient_norm is not None and event.gradient_norm.isfinite())
    assert not all(torch.equal(p, was) for p, was in zip(session.model.parameters(), before, strict=True))
    gradients = [p.grad for p in session.model.parameters() if p.grad is not None]
    assert float(torch.nn.utils.get_total_norm(gradients)) <= 0.5 * 1.001  # clipped once the scale was taken out
    assert finite.gradient_norm is not None
    assert float(finite.gradient_norm) > 0.5


def test_the_norm_of_a_scaled_gradient_is_that_of_the_plain_one(start: Callable[..., Session]) -> None:
    norms = []
    for precision in ("fp32", "fp16"):
        session = start({"dropout_rate": 0.0}, precision=precision)
        norms.append(next(event.gradient_norm for event in train(session, never) if isinstance(event, Stepped)))
    torch.testing.assert_close(norms[1], norms[0], rtol=1e-2, atol=0)


def test_what_is_solved_or_cannot_be_computed_in_half_precision_is_refused_in_a_sentence(
    start: Callable[..., Session],
) -> None:
    with pytest.raises(UsageError, match=r"ridge is solved in closed form, in float64.*precision is bf16"):
        start({"name": "ridge"}, precision="bf16")
    session = start({"name": "lstm", "hidden_units": [4]}, precision="bf16")
    next(iter(train(session, never)))
    if choose("auto").type == "cpu":
        with pytest.raises(
            UsageError, match="the model 'lstm' cannot be trained in fp16 on cpu: RuntimeError: could not create"
        ):
            start({"name": "lstm", "hidden_units": [4]}, precision="fp16")


@pytest.mark.parametrize("name", ["stid", "cnn", "gru", "dlinear", "nlinear"])
def test_every_family_trains_in_both_half_precisions(start: Callable[..., Session], name: str) -> None:
    for precision in ("bf16", "fp16"):
        session = start({"name": name, "hidden_units": [6, 4], "revin": True}, precision=precision, epochs=1)
        steps = [event for event in train(session, never) if isinstance(event, Stepped)]
        assert not steps[-1].skipped
        assert all(bool(torch.isfinite(p).all()) for p in session.model.parameters())


def test_a_run_from_before_there_was_a_choice_was_trained_in_float32() -> None:
    assert that_bind({})["training.precision"] == "fp32"
