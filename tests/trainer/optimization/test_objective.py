"""Named losses against plain torch; heads that fit their targets, and what is said where they do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from dateshard.shardstore.errors import UsageError
from dateshard.trainer.config import Training
from dateshard.trainer.data.batch import Batch
from dateshard.trainer.optimization.objective import Head, Target, by_head, make_heads

B, P, N = 5, 3, 4
SPEED, VOLUME = Target("speed"), Target("volume")
GAIT = Target("gait", ("run", "stand", "walk"), (9, 10, 0, 30))


def batch_of(target: torch.Tensor, observed: torch.Tensor | None = None) -> Batch:
    return Batch(
        history_BHNF=torch.zeros(len(target), 1, N, 1), target_BPNF=target, observed_BPNF=observed, codes_BW=None
    )


def drawn(channels: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(B, P, N, channels, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("loss", "theirs"),
    [
        ("mse", functional.mse_loss),
        ("mae", functional.l1_loss),
        ("huber", lambda f, t: functional.huber_loss(f, t, delta=0.3)),
    ],
)
def test_the_loss_of_numbers_is_that_of_torch_over_the_observed(loss: str, theirs: Any, masked: bool) -> None:
    forecast, target = drawn(2), drawn(2, seed=4)
    observed = drawn(2, seed=5) > 0 if masked else None
    total, count = Head(name=loss, loss=loss, weight=1.0, targets=(0, 1), channels=(0, 1), huber_delta=0.3).sums(
        forecast, batch_of(target, observed)
    )
    chosen = observed if observed is not None else torch.ones_like(target, dtype=torch.bool)
    torch.testing.assert_close(total / count, theirs(forecast[chosen], target[chosen]))


def test_a_value_that_is_no_number_behind_the_mask_reaches_neither_loss_nor_gradient() -> None:
    forecast, target = drawn(1).requires_grad_(), drawn(1, seed=4)
    observed = torch.ones_like(target, dtype=torch.bool)
    target[0, 0, 0], observed[0, 0, 0] = float("nan"), False
    total, _ = Head(name="mae", loss="mae", weight=1.0, targets=(0,), channels=(0,)).sums(
        forecast, batch_of(target, observed)
    )
    total.backward()
    assert torch.isfinite(total)
    assert forecast.grad is not None
    assert float(forecast.grad[0, 0, 0]) == 0.0


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("weights", [None, {"run": 3.0, "walk": 0.5}, "balanced"])
def test_cross_entropy_is_that_of_torch_without_code_0(weights: Any, masked: bool) -> None:
    logits, codes = drawn(4), torch.randint(0, 4, (B, P, N, 1), generator=torch.Generator().manual_seed(1))
    observed = drawn(1, seed=5) > 0 if masked else None
    (head,) = make_heads(Training(class_weights=weights), [GAIT])
    assert (head.name, head.channels) == ("gait", (0, 1, 2, 3))
    total, count = head.sums(logits, batch_of(codes.float(), observed))
    seen = (codes > 0) if observed is None else (codes > 0) & observed
    # balanced: 40 elements of 2 classes that occur
    by_class = {None: [0, 1, 1, 1], "balanced": [0, 40 / (2 * 10), 0, 40 / (2 * 30)]}
    expected = by_class.get(weights if not isinstance(weights, dict) else "", [0, 3.0, 1.0, 0.5])
    plain = functional.cross_entropy(
        logits[seen[..., 0]], codes[seen], weight=torch.tensor(expected, dtype=torch.float)
    )
    torch.testing.assert_close(total / count, plain)


def test_without_a_setting_numbers_share_one_loss_and_each_category_has_its_own() -> None:
    heads = make_heads(Training(), [SPEED, GAIT, VOLUME])
    assert [(h.name, h.loss, h.targets, h.channels) for h in heads] == [
        ("mse", "mse", (0, 2), (0, 5)),
        ("gait", "cross_entropy", (1,), (1, 2, 3, 4)),
    ]


def test_named_losses_take_their_channels_out_of_one_tensor_or_out_of_a_dict() -> None:
    losses = {
        "cls": {"loss": "cross_entropy", "targets": ["gait"], "weight": 0.3},
        "geo": {"loss": "huber", "targets": ["volume", "speed"], "huber_delta": 2},
    }
    heads = make_heads(Training.model_validate({"losses": losses}), [SPEED, VOLUME, GAIT])
    output = drawn(6)
    found = by_head(output, heads)
    assert torch.equal(found["cls"], output[..., 2:])
    assert torch.equal(found["geo"], output[..., [1, 0]])
    assert by_head({**found, "aside": output}, heads).keys() == {"cls", "geo"}
    with pytest.raises(UsageError, match="no 'geo'"):
        by_head({"cls": found["cls"]}, heads)
    alone = make_heads(
        Training.model_validate({"losses": {"geo": {"loss": "mse", "targets": ["volume", "speed"]}}}), [SPEED, VOLUME]
    )
    assert torch.equal(by_head(output[..., :2], alone)["geo"], output[..., [1, 0]])  # in the order of its targets


@pytest.mark.parametrize(
    ("training", "targets", "words"),
    [
        ({"loss": "cross_entropy"}, [SPEED], "'speed' is a number"),
        ({"loss": "mse"}, [GAIT], "'gait' is categorical"),
        ({"losses": {"a": {"loss": "mse", "targets": ["speed"]}}}, [SPEED, VOLUME], "no loss names the target 'volume'"),
        ({"losses": {x: {"loss": "mse", "targets": ["speed"]} for x in "ab"}}, [SPEED], "'speed' is named by the losses a and b"),
        ({"losses": {"a": {"loss": "mse", "targets": ["speed", "spead"]}}}, [SPEED], "'spead'"),
        ({"class_weights": {"wolk": 2}}, [GAIT], "'wolk'"),
        ({"losses": {"a": {"loss": "cross_entropy", "targets": ["gait", "gait2"]}}},
         [GAIT, Target("gait2", ("a",))], "one target, not 2"),
    ],
)  # fmt: skip
def test_a_loss_that_does_not_fit_is_refused_by_name(training: Any, targets: list[Target], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make_heads(Training.model_validate(training), targets)


def test_loss_and_losses_together_are_refused() -> None:
    with pytest.raises(ValueError, match="give one of them"):
        Training.model_validate({"loss": "mse", "losses": {"a": {"loss": "mse", "targets": ["speed"]}}})
