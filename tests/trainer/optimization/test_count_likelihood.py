"""Counts: the likelihoods against torch's distributions, quantiles against sums of probabilities, and what is no count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dateshard.shardstore.errors import UsageError
from dateshard.trainer.config import Training
from dateshard.trainer.optimization.count_likelihood import CountForecast, CountScale, count_quantiles
from dateshard.trainer.optimization.objective import Target, make_heads
from dateshard.trainer.setup import make_session
from tests.conftest import World
from tests.trainer.optimization.test_quantile_loss import batch_of, drawn

SCALES = [
    CountScale(*(torch.tensor(x, dtype=torch.float64).expand(2) for x in (3.0, 0.25, 2.0)), False),
    CountScale(*(torch.tensor(x, dtype=torch.float64).expand(2) for x in (1.0, 0.5, 0.7)), True),
]
TARGETS = [Target("calls", scale=SCALES[0]), Target("rides", scale=SCALES[1])]
LEVELS = (0.01, 0.1, 0.5, 0.9, 0.99)


def head_of(loss: str) -> Any:
    (head,) = make_heads(Training.model_validate({"loss": loss}), TARGETS)
    return head


def counts_of(scaled: torch.Tensor) -> torch.Tensor:
    return torch.stack([scale.raw(scaled[..., place]) for place, scale in enumerate(SCALES)], dim=-1)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("loss", ["poisson", "negative_binomial"])
def test_the_loss_is_the_negative_log_likelihood_of_the_raw_counts(loss: str, masked: bool) -> None:
    head, count = head_of(loss), {"poisson": 1, "negative_binomial": 2}[loss]
    outputs = drawn(5, 3, 2, 2 * count).requires_grad_()
    raw = torch.randint(0, 30, (5, 3, 2, 2), generator=torch.Generator().manual_seed(2)).double()
    target = torch.stack([scale.scaled(raw[..., place]) for place, scale in enumerate(SCALES)], dim=-1)
    observed = drawn(5, 3, 2, 2, seed=5) > 0 if masked else None
    seen = torch.ones_like(target, dtype=torch.bool) if observed is None else observed
    target[~seen] = torch.nan
    total, number = head.sums(outputs, batch_of(target, observed))
    middle, spread, each = (3.25, 1.5), (2.0, 0.7), outputs.detach().double().reshape(5, 3, 2, 2, count)
    value = torch.stack(
        [spread[k] * torch.log1p(torch.exp(each[..., k, 0] + middle[k] / spread[k])) for k in (0, 1)], -1
    )
    mean = torch.stack([value[..., 0], torch.expm1(value[..., 1])], dim=-1)
    theirs: torch.distributions.Distribution = torch.distributions.Poisson(mean)
    if loss == "negative_binomial":
        size = 1 / (torch.log1p(torch.exp(each[..., 1])) + 1e-6)
        theirs = torch.distributions.NegativeBinomial(size, probs=mean / (mean + size))
    expected = -theirs.log_prob(raw)[seen].mean()
    assert float(total.detach() / number) == pytest.approx(float(expected), rel=1e-5)
    points = head.points(outputs.detach())
    for place, scale in enumerate(SCALES):
        torch.testing.assert_close(points[..., place], scale.scaled(mean[..., place]))
    total.backward()
    assert outputs.grad is not None
    assert bool(torch.isfinite(outputs.grad).all())
    assert not bool(outputs.grad.reshape(5, 3, 2, 2, count)[~seen].any())


@pytest.mark.parametrize("loss", ["poisson", "negative_binomial"])
@pytest.mark.parametrize("size", [1.0, 1e3, 1e6, 1e9])
def test_no_count_and_no_weights_give_what_is_no_number(loss: str, size: float) -> None:
    scale = CountScale(*(torch.tensor([x * size], dtype=torch.float64) for x in (0.3, 0.0, 0.5)), False)
    (head,) = make_heads(Training.model_validate({"loss": loss}), [Target("calls", scale=scale)])
    width = len(head.channels)
    grid = torch.tensor([-1e6, -300.0, -20.0, -1.0, 0.0, 1.0, 20.0, 300.0, 1e6])
    outputs = torch.cartesian_prod(*[grid] * width).reshape(-1, 1, 1, width).clone().requires_grad_()
    for count in (0.0, 1.0, size, 100 * size):
        target = scale.scaled(torch.full((len(outputs), 1, 1), count, dtype=torch.float64))[..., None]
        total, _ = head.sums(outputs, batch_of(target, None))
        total.backward()
        assert outputs.grad is not None
        assert bool(torch.isfinite(total))
        assert bool(torch.isfinite(outputs.grad).all())
    quantiles = head.quantiles_at(outputs.detach(), LEVELS)
    assert bool(torch.isfinite(quantiles).all())
    assert float(scale.raw(quantiles[..., 0, 0]).min()) >= 0


@pytest.mark.parametrize("a", [0.0, 0.01, 0.5, 4.0])
@pytest.mark.parametrize("mean", [0.0, 0.3, 7.0, 299.0, 301.0, 5000.0])
def test_quantiles_are_the_least_counts_whose_probabilities_add_up_to_the_level(mean: float, a: float) -> None:
    """Beyond 300 within a count, and with a variance in which nearly all that comes is 0, 0.1 % of the mean."""
    counts = torch.arange(400_000 if mean > 1000 else 60_000, dtype=torch.float64)
    theirs: torch.distributions.Distribution = torch.distributions.Poisson(torch.tensor(mean, dtype=torch.float64))
    if a:
        odds = torch.tensor(a * mean / (1 + a * mean), dtype=torch.float64)
        theirs = torch.distributions.NegativeBinomial(torch.tensor(1 / a, dtype=torch.float64), probs=odds)
    total = theirs.log_prob(counts).exp().cumsum(0)
    expected = [int((total < level).sum()) for level in LEVELS]
    given = count_quantiles(np.array([mean]), np.array([a]), LEVELS)[0]
    away = 0 if mean <= 300 and expected[-1] < 2000 else 1 + 0.001 * mean
    assert np.abs(given - expected).max() <= away, (given, expected)
    assert (np.diff(given) >= 0).all()


def test_a_forecast_knows_its_quantiles_in_scaled_units() -> None:
    outputs = drawn(2, 3, 2, 4)
    forecast = CountForecast.of(outputs, "negative_binomial", SCALES)
    expected = count_quantiles(forecast.log_mean.exp().numpy(), forecast.a.numpy(), LEVELS)
    quantiles = head_of("negative_binomial").quantiles_at(outputs, LEVELS)
    assert np.array_equal(np.stack([counts_of(quantiles[..., k]) for k in range(5)], axis=-1), expected)


@pytest.mark.parametrize(
    ("feature", "by", "words"),
    [
        ({"aggregate": "sum"}, -30.0, "'volume' is none: a value may be negative; its least training value is -"),
        ({"aggregate": "max"}, 0.5, "'volume' is none: .* is no whole number; its least training value is"),
        ({"aggregate": "mean"}, 0.0, "'volume' is none: a mean of records may be a fraction"),
        ({"aggregate": "max", "transform": "log1p", "scale_per": "node"}, 0.0, None),
        ({"aggregate": "count", "column": None}, 0.5, None),
    ],
)
def test_what_may_be_negative_or_a_fraction_is_refused_by_name_with_its_least_value(
    make_world: Any, feature: dict[str, Any], by: float, words: str | None
) -> None:
    world: World = make_world(3, split={"train": "2024-03-01..2024-03-02", "validation": "2024-03-03"})
    for date, rows in world.rows.items():
        changed = [(i, node, speed, volume + by) for i, node, speed, volume in rows]
        ends = (
            dict.fromkeys(range(40), 0.0) | {40: 1e6} if by == 0.5 else {}
        )  # the least and the largest value are whole
        world.rows[date] = [(*row[:3], ends.get(k, row[3])) for k, row in enumerate(changed)]
        world.write(date)
    volume = {key: value for key, value in {"column": "vehicles", **feature}.items() if value is not None}
    world.tree["pipeline"]["features"]["volume"] = volume
    world.tree["trainer"] |= {"targets": ["volume"], "training": {"loss": "poisson"}}
    assert not world.prepare().failed
    dataset = world.open()
    if words is None:
        make_session(world.settings.trainer, dataset, world.folder / "checkpoints")
        return
    with pytest.raises(UsageError, match=words):
        make_session(world.settings.trainer, dataset, world.folder / "checkpoints")


def test_ridge_has_no_distribution(make_world: Any) -> None:
    world = make_world(3, split={"train": "2024-03-01..2024-03-02", "validation": "2024-03-03"})
    world.tree["trainer"] |= {"model": {"name": "ridge"}, "training": {"loss": "quantile"}}
    assert not world.prepare().failed
    with pytest.raises(UsageError, match="ridge is solved for the squared error"):
        make_session(world.settings.trainer, world.open(), world.folder / "checkpoints")
