"""A loss of one's own, and weights of targets and steps, against plain sums; and what is said where they do not fit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dateshard.shardstore.errors import UsageError
from dateshard.trainer.config import Trainer, Training
from dateshard.trainer.optimization.objective import Target, make_heads
from dateshard.trainer.optimization.own_loss import refuse_other_steps
from dateshard.trust import code_of
from tests.trainer.optimization.test_quantile_loss import batch_of, drawn

TARGETS = [Target("speed"), Target("volume")]
CODE = """
def each(forecast, target, observed):
    return (forecast - target).abs() ** 1.5
def mean(forecast, target, observed):
    return ((forecast - target).abs() ** 1.5)[observed].mean()
def wrong(forecast, target, observed):
    return forecast.sum(-1)
def failing(forecast, target, observed):
    raise ValueError("no")
"""


@pytest.fixture(autouse=True)
def _code(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("its_loss.py").write_text(CODE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "its_loss", raising=False)


def head_of(**training: Any) -> Any:
    (head,) = make_heads(Training.model_validate(training), TARGETS)
    return head


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["each", "mean"])
def test_a_loss_of_one_s_own_is_counted_over_the_observed(name: str, masked: bool) -> None:
    forecast, target = drawn(5, 3, 2, 2), drawn(5, 3, 2, 2, seed=4)
    seen = drawn(5, 3, 2, 2, seed=5) > 0 if masked else torch.ones_like(target, dtype=torch.bool)
    total, count = head_of(loss=f"its_loss:{name}").sums(forecast, batch_of(target, seen if masked else None))
    assert float(count) == float(seen.sum())
    torch.testing.assert_close(total / count, ((forecast - target).abs() ** 1.5)[seen].mean())


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"loss": "its_loss:wrong"}, r"must return a scalar or a tensor \[5, 3, 2, 2\], and returned \[5, 3, 2\]"),
        ({"loss": "its_loss:failing"}, r"fails on tensors \[5, 3, 2, 2\]: ValueError: no \(.*its_loss.py, line 9\)"),
        ({"loss": "its_loss:mean", "weights": {"steps": [1, 2, 3]}}, "returns a scalar, and trainer.training.weights"),
        ({"loss": "its_loss:none"}, "has no 'none'"),
        ({"loss": "mse", "weights": {"targets": {"sped": 2}}}, "names 'sped', which is not one of the targets"),
        ({"loss": "mse", "weights": {"steps": [0, 0, 0]}}, "steps are all 0"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(training: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        head_of(**training).sums(drawn(5, 3, 2, 2), batch_of(drawn(5, 3, 2, 2, seed=4), None))


def test_a_loss_that_is_none_is_refused_with_the_nearest_name_and_a_client_names_no_code() -> None:
    with pytest.raises(ValueError, match="no loss 'quantil'; did you mean 'quantile'"):
        Training.model_validate({"loss": "quantil"})
    with pytest.raises(ValueError, match="names code"):
        Trainer.model_validate({"training": {"loss": "its_loss:each"}}, context={"own_models": False})


@pytest.mark.parametrize("loss", ["mse", "quantile", "its_loss:each"])
def test_weights_multiply_the_losses_of_targets_and_steps_and_are_one_on_average(loss: str) -> None:
    weights = {"targets": {"volume": 3.0}, "steps": [1.0, 0.0, 5.0]}
    plain, weighty = head_of(loss=loss), head_of(loss=loss, weights=weights)
    outputs, target = drawn(5, 3, 2, len(plain.channels)), drawn(5, 3, 2, 2, seed=4)
    total, count = weighty.sums(outputs, batch_of(target, None))
    expected = 0.0
    for step, of_step in enumerate((0.5, 0.0, 2.5)):
        for place, of_target in enumerate((0.5, 1.5)):
            only = torch.zeros_like(target, dtype=torch.bool)
            only[:, step, :, place] = True
            expected += of_step * of_target * float(plain.sums(outputs, batch_of(target, only))[0])
    assert count == 60
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert head_of(loss=loss, weights={"targets": {"speed": 2, "volume": 2}}).weights[0] == (1.0, 1.0)


def test_weights_of_a_category_multiply_its_loss() -> None:
    targets = [Target("speed"), Target("gait", ("run", "walk"))]
    heads = make_heads(Training.model_validate({"weights": {"targets": {"gait": 3.0}}}), targets)
    plain = make_heads(Training(), targets)
    codes = torch.ones(5, 3, 2, 2)
    for head, other, factor in zip(heads, plain, (0.5, 1.5), strict=True):
        outputs = drawn(5, 3, 2, len(head.channels))
        total, count = head.sums(outputs, batch_of(codes, None))
        before, number = other.sums(outputs, batch_of(codes, None))
        assert float(count) == float(number)
        torch.testing.assert_close(total, before * factor)


def test_weights_of_other_steps_than_the_window_s_are_refused() -> None:
    weights = Training.model_validate({"weights": {"steps": [1, 2]}}).weights
    with pytest.raises(UsageError, match="has 2 weights, and a window 24 target steps"):
        refuse_other_steps(weights, 24)


def test_the_code_of_a_loss_is_imported_where_its_user_trusts_it() -> None:
    named = {"a": {"loss": "its_loss:mean", "targets": ["speed"]}, "b": {"loss": "mse", "targets": ["volume"]}}
    assert code_of(Trainer.model_validate({"training": {"losses": named}})) == {
        "training.losses.a.loss": "its_loss:mean"
    }
    assert code_of(Trainer.model_validate({"training": {"loss": "its_loss:each"}})) == {
        "training.loss": "its_loss:each"
    }
