"""Quantiles as outputs: the pinball loss, that they never cross whatever the weights, and which of them is the forecast."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dateshard.shardstore.errors import UsageError
from dateshard.trainer.assessment.quantiles import RawQuantiles, never_falling
from dateshard.trainer.config import ModelConfig, Training
from dateshard.trainer.data.batch import Batch
from dateshard.trainer.data.order import Window
from dateshard.trainer.models import build
from dateshard.trainer.models.shape import Shape
from dateshard.trainer.optimization.objective import Target, by_head, make_heads, points_of
from dateshard.trainer.optimization.quantile_loss import between, nearest_to_median
from tests.contracts.test_models import H, P, waves

TARGETS = [Target("speed"), Target("volume")]
LEVELS = (0.1, 0.25, 0.5, 0.9)


def head_of(levels: tuple[float, ...] = LEVELS, **training: Any) -> Any:
    (head,) = make_heads(Training.model_validate({"loss": "quantile", "quantiles": levels, **training}), TARGETS)
    return head


def drawn(*shape: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch_of(target: torch.Tensor, observed: torch.Tensor | None) -> Batch:
    history = torch.zeros(len(target), 1, target.shape[2], 1)
    return Batch(history_BHNF=history, target_BPNF=target, observed_BPNF=observed, codes_BW=None)


@pytest.mark.parametrize("masked", [False, True])
def test_the_loss_is_the_mean_pinball_loss_of_the_sorted_outputs_over_the_observed(masked: bool) -> None:
    outputs, target = drawn(5, 3, 2, 8), drawn(5, 3, 2, 2, seed=4)
    observed = drawn(5, 3, 2, 2, seed=5) > 0 if masked else None
    if observed is not None:
        target[~observed] = torch.nan
    total, count = head_of().sums(outputs, batch_of(target, observed))
    losses = []
    for cell in np.ndindex(5, 3, 2, 2):
        if observed is None or bool(observed[cell]):
            own = sorted(outputs[cell[:3]][4 * cell[3] : 4 * cell[3] + 4].tolist())
            error = [float(target[cell]) - value for value in own]
            losses.append(np.mean([max(q * e, (q - 1) * e) for q, e in zip(LEVELS, error, strict=True)]))
    assert float(total / count) == pytest.approx(np.mean(losses), rel=1e-5)


@settings(max_examples=50)
@given(st.lists(st.floats(-9, 9), min_size=4, max_size=4), st.floats(-9, 9))
def test_sorting_never_raises_the_pinball_loss(outputs: list[float], target: float) -> None:
    def loss(values: list[float]) -> float:
        return sum(max(q * (target - v), (q - 1) * (target - v)) for q, v in zip(LEVELS, values, strict=True))

    assert loss(sorted(outputs)) <= loss(outputs) + 1e-9


FAMILIES: list[dict[str, Any]] = [
    {"name": "mlp"}, {"name": "cnn"}, {"name": "lstm"}, {"name": "gru"}, {"name": "dlinear"}, {"name": "nlinear"},
    {"name": "nlinear", "revin": True}, {"name": "mlp", "revin": "affine", "observed": True},
]  # fmt: skip


class Unscaled:
    """Units that change nothing."""

    def raw(self, values: torch.Tensor) -> torch.Tensor:
        return values.double()


def random_model(config: dict[str, Any], head: Any, *, num_futures: int = 0) -> nn.Module:
    """A model of a head's channels, its weights large and random."""
    count = len(head.channels) // 2
    shape = Shape(
        window=Window(H, P),
        num_nodes=3,
        num_inputs=3,
        num_outputs=2 * count,
        targets_in_inputs=(2, 0),
        steps_per_day=24,
        target_channels=((count, head.values_a_target),) * 2,
        future_codes=(0,) * num_futures,
        heads={head.name: head.channels},
    )
    torch.manual_seed(1)
    model = build(shape, ModelConfig.model_validate({"hidden_units": [8], **config}))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


@pytest.mark.parametrize("config", FAMILIES, ids=str)
@pytest.mark.parametrize("futures", [0, 2])
def test_quantiles_never_cross_nor_leave_their_bounds_on_random_weights_of_any_family(
    config: dict[str, Any], futures: int
) -> None:
    head = head_of()
    model = random_model(config, head, num_futures=futures)
    whole, codes = waves((9, H + P, 3), 3)
    known = (torch.rand(9, H, 3, 3) > 0.2,) if getattr(model, "uses_known", False) else ()
    future = {"future_BPNF": torch.randn(9, P, 3, 2)} if futures else {}
    with torch.no_grad():
        outputs = by_head(model(whole[:, :H], codes, *known, **future), [head])
    assert outputs[head.name].shape == (9, P, 3, 8)
    raw = outputs[head.name].unflatten(-1, (2, 4))
    assert bool((raw.diff(dim=-1) < 0).any()), "the outputs themselves cross"
    bounds = torch.tensor([-0.2, 0.3])[:, None, None].expand(2, 3, 2)
    reader = RawQuantiles(
        heads=(head,),
        levels=LEVELS,
        units=Unscaled(),  # type: ignore[arg-type]
        bounds_2NF=bounds,
        bounds_2C=bounds[:, 0].double().numpy(),
    )
    levels = (0.1, 0.2, 0.25, 0.4, 0.5, 0.9)
    quantiles = reader.raw(outputs, levels)
    assert quantiles.shape == (9, P, 3, 2, 6)
    assert bool((np.diff(quantiles, axis=-1) >= 0).all())
    assert quantiles.min() >= np.float32(-0.2)
    assert quantiles.max() <= np.float32(0.3)
    free = replace(reader, bounds_2NF=None, bounds_2C=np.array([[-np.inf] * 2, [np.inf] * 2]))
    assert np.array_equal(free.raw(outputs, LEVELS)[..., 2], points_of(outputs, [head])[head.name].double().numpy())


@pytest.mark.parametrize(
    ("levels", "place"), [((0.1, 0.5, 0.9), 1), ((0.05, 0.4, 0.6), 1), ((0.9,), 0), ((0.2, 0.45, 0.48, 0.9), 2)]
)
def test_the_forecast_is_the_quantile_nearest_to_the_median_of_two_the_lower(
    levels: tuple[float, ...], place: int
) -> None:
    assert nearest_to_median(levels) == place
    head = head_of(levels)
    outputs = drawn(2, 3, 2, 2 * len(levels))
    expected = outputs.unflatten(-1, (2, len(levels))).sort(dim=-1).values[..., place]
    assert torch.equal(head.points(outputs), expected)


def test_a_level_between_two_is_interpolated_and_one_beyond_them_is_unknown() -> None:
    values = between(torch.tensor([[1.0, 3.0, 9.0]]), (0.1, 0.5, 0.9), (0.05, 0.1, 0.3, 0.9, 0.95))
    assert values.tolist()[0][1:4] == [1.0, 2.0, 9.0]
    assert torch.isnan(values[0, [0, 4]]).all()
    assert never_falling(np.array([np.nan, 2.0, 1.0, 3.0])).tolist()[1:] == [2.0, 2.0, 3.0]


def test_each_target_has_as_many_outputs_as_its_loss_needs_beside_other_losses() -> None:
    losses = {
        "spread": {"loss": "quantile", "targets": ["volume"], "quantiles": [0.2, 0.8]},
        "line": {"loss": "mse", "targets": ["speed"]},
        "kind": {"loss": "cross_entropy", "targets": ["gait"]},
    }
    targets = [*TARGETS, Target("gait", ("run", "walk"))]
    heads = make_heads(Training.model_validate({"losses": losses}), targets)
    assert [head.channels for head in heads] == [(1, 2), (0,), (3, 4, 5)]
    outputs = by_head(drawn(2, 3, 2, 6), heads)
    assert {name: tensor.shape[-1] for name, tensor in points_of(outputs, heads).items()} == {
        "spread": 1, "line": 1, "kind": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ([0.5, 0.1], "0.1 comes after 0.5"),
        ([0.1, 0.5, 0.5], "0.5 stands twice"),
        ([0.1, 1.0], "1 is no quantile's level"),
        ([0, 0.5], "0 is no quantile's level"),
        ([], "at least 1"),
    ],
)
def test_a_list_of_levels_that_is_none_is_refused_in_a_sentence(levels: list[float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Training.model_validate({"loss": "quantile", "quantiles": levels})


def test_a_categorical_target_has_no_quantiles() -> None:
    with pytest.raises(UsageError, match="'gait' is categorical, quantile is for numbers"):
        make_heads(Training(loss="quantile"), [Target("gait", ("run",))])
