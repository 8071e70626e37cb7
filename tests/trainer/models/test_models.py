"""Models against plain formulas: DLinear, the perceptron's inputs. Ridge has a file of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from dateshard.shardstore.errors import UsageError
from dateshard.trainer.config import ModelConfig, Trainer
from dateshard.trainer.data.batch import Batch
from dateshard.trainer.data.order import Window
from dateshard.trainer.models import build, num_parameters
from dateshard.trainer.models.ridge import Ridge
from dateshard.trainer.models.shape import Shape

Make = Callable[..., Any]
B, H, P, N, F = 16, 6, 4, 3, 3
TARGETS = (2, 0)  # targets are inputs 2 and 0


def batches(seed: int, count: int, *, masked: bool) -> list[Batch]:
    """Windows of an autoregressive process, the last batch short."""
    generator = np.random.default_rng(seed)
    found = []
    for number in range(count):
        size = B if number < count - 1 else 5
        values = np.cumsum(generator.normal(size=(size, H + P, N, F)), axis=1) * 0.3 + 0.5
        values = torch.from_numpy(values.astype(np.float32))
        observed = torch.from_numpy(generator.random((size, P, N, 2)) < 0.6) if masked else None
        found.append(
            Batch(
                history_BHNF=values[:, :H],
                target_BPNF=values[:, H:, :, list(TARGETS)],
                observed_BPNF=observed,
                codes_BW=None,
            )
        )
    return found


@pytest.mark.parametrize("kernel", [1, 3, 4, 25])
def test_dlinear_is_two_linear_maps_of_moving_average_and_remainder(kernel: int) -> None:
    shape = Shape(
        window=Window(H, P),
        num_nodes=N,
        num_inputs=F,
        num_outputs=len(TARGETS),
        targets_in_inputs=TARGETS,
        steps_per_day=24,
    )
    torch.manual_seed(1)
    model = build(shape, ModelConfig(name="dlinear", kernel=kernel))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    given = batches(1, 1, masked=False)[0].history_BHNF
    found = model(given).detach().numpy()
    width = min(kernel, H) | 1
    weights = {name: parameter.detach().numpy().astype(float) for name, parameter in model.named_parameters()}
    for feature, place in enumerate(TARGETS):
        for window in range(len(given)):
            for node in range(N):
                own = given[window, :, node, place].numpy().astype(float)
                padded = [own[0]] * (width // 2) + list(own) + [own[-1]] * (width // 2)
                trend = np.array([sum(padded[i : i + width]) / width for i in range(H)])
                expected = weights["trend.weight"] @ trend + weights["trend.bias"]
                expected += weights["rest.weight"] @ (own - trend) + weights["rest.bias"]
                np.testing.assert_allclose(found[window, :, node, feature], expected, rtol=1e-4, atol=1e-5)


def test_dlinear_begins_as_the_mean_of_the_history() -> None:
    shape = Shape(
        window=Window(H, P),
        num_nodes=N,
        num_inputs=F,
        num_outputs=len(TARGETS),
        targets_in_inputs=TARGETS,
        steps_per_day=24,
    )
    model = build(shape, ModelConfig(name="dlinear"))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
    given = batches(1, 1, masked=False)[0].history_BHNF
    expected = given[..., list(TARGETS)].mean(1, keepdim=True).expand(-1, P, -1, -1)
    torch.testing.assert_close(model(given), expected, rtol=1e-5, atol=1e-6)


def perceptron(**config: Any) -> torch.nn.Module:
    torch.manual_seed(3)
    shape = Shape(
        window=Window(H, P),
        num_nodes=N,
        num_inputs=F,
        num_outputs=len(TARGETS),
        targets_in_inputs=TARGETS,
        steps_per_day=24,
    )
    return build(shape, ModelConfig(name="mlp", **config)).eval()


def codes(hour: int = 5, weekday: int = 2) -> torch.Tensor:
    """Codes of whole windows whose anchor (step H) is at this hour of this weekday."""
    steps = [(hour - H + step) % 24 * 8 + weekday for step in range(H + P)]
    return torch.tensor(steps, dtype=torch.int32).expand(B, -1)


def test_the_perceptron_is_its_layers_on_history_node_and_time_and_a_linear_map_beside_them() -> None:
    model = perceptron(hidden_units=[8, 4], dropout_rate=0.5)
    torch.nn.init.normal_(model.get_parameter("linear.weight"))
    history = batches(1, 2, masked=False)[0].history_BHNF
    found = model(history, codes(5, 2)).detach().numpy()
    assert found.shape == (B, P, N, len(TARGETS))
    weights = {name: parameter.detach().numpy().astype(float) for name, parameter in model.named_parameters()}
    time = [np.sin(2 * np.pi * 5 / 24), np.cos(2 * np.pi * 5 / 24), *(float(day == 2) for day in range(7))]
    for window in range(0, B, 5):
        for node in range(N):
            own = history[window, :, node].numpy().astype(float).ravel()
            x = np.concatenate([own, weights["node.weight"][node], time])
            for layer in (0, 3):
                x = np.maximum(weights[f"hidden.{layer}.weight"] @ x + weights[f"hidden.{layer}.bias"], 0)
            flat = weights["out.weight"] @ x + weights["out.bias"] + weights["linear.weight"] @ own
            expected = flat.reshape(P, len(TARGETS))
            np.testing.assert_allclose(found[window, :, node], expected, rtol=1e-4, atol=1e-5)


def test_the_perceptron_reads_the_time_of_the_anchor_alone() -> None:
    model, history = perceptron(), batches(1, 2, masked=False)[0].history_BHNF
    other = codes().clone()
    other[:, :H] = 77
    other[:, H + 1 :] = 78
    assert torch.equal(model(history, codes()), model(history, other))
    assert not torch.equal(model(history, codes()), model(history, codes(hour=6)))
    assert not torch.equal(model(history, codes()), model(history, codes(weekday=3)))


def test_a_seed_draws_the_same_weights_again() -> None:
    left, right = perceptron().state_dict(), perceptron().state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_hidden_units_are_the_widths_of_the_layers() -> None:
    wide, out = H * F + 8 + 9, P * len(TARGETS)
    beside = N * 8 + H * F * out  # embedding and linear map
    assert (
        num_parameters(perceptron(hidden_units=[20, 10])) == beside + (wide + 1) * 20 + (20 + 1) * 10 + (10 + 1) * out
    )
    assert num_parameters(perceptron(hidden_units=[])) == beside + (wide + 1) * out
    assert num_parameters(Ridge(H, P, TARGETS)) == 0


@pytest.mark.parametrize("name", ["ridge", "dlinear"])
def test_forecasters_refuse_a_window_without_horizon_and_targets_that_are_no_inputs(name: str) -> None:
    config = Trainer.model_validate({"model": {"name": name}}).model
    with pytest.raises(UsageError, match="horizon"):
        build(
            Shape(
                window=Window(H, 0), num_nodes=N, num_inputs=F, num_outputs=1, targets_in_inputs=(0,), steps_per_day=24
            ),
            config,
        )
    with pytest.raises(UsageError, match=r"trainer\.inputs"):
        build(
            Shape(
                window=Window(H, P),
                num_nodes=N,
                num_inputs=F,
                num_outputs=2,
                targets_in_inputs=(0, -1),
                steps_per_day=24,
            ),
            config,
        )
