"""Models against plain formulas: ridge's closed form and its choice of a penalty, DLinear, the perceptron's inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from shardstore.errors import UsageError
from trainer.batch import Batch
from trainer.config import ModelConfig, Trainer
from trainer.models import build, num_parameters
from trainer.models.ridge import Equations, Ridge, fit
from trainer.models.shape import Shape
from trainer.order import Window

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
        found.append(Batch(values[:, :H], values[:, H:, :, list(TARGETS)], observed, None))
    return found


def written_out(given: list[Batch], feature: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """X with a column of ones and y, in float64, of the observed rows of one target feature and step."""
    x = np.concatenate([b.history_BHNF[..., TARGETS[feature]].numpy().transpose(0, 2, 1).reshape(-1, H) for b in given])
    y = np.concatenate([b.target_BPNF[:, step, :, feature].numpy().ravel() for b in given])
    seen = [
        np.ones(b.size * N, bool) if b.observed_BPNF is None else b.observed_BPNF[:, step, :, feature].numpy().ravel()
        for b in given
    ]
    rows = np.concatenate(seen)
    return np.column_stack([x, np.ones(len(x))])[rows].astype(float), y[rows].astype(float)


def closed_form(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """Least squares of rows stacked with sqrt(penalty x rows) times the unit matrix; the intercept is free."""
    size = x.shape[1]
    ridge = np.eye(size) * np.sqrt(penalty * len(x))
    ridge[-1, -1] = 0.0
    return np.linalg.lstsq(np.vstack([x, ridge]), np.concatenate([y, np.zeros(size)]), rcond=None)[0]


def equations(given: list[Batch]) -> Equations:
    made = Equations(H, P, len(TARGETS))
    for batch in given:
        made.add(batch, TARGETS)
    return made


@pytest.mark.parametrize("penalty", [0.0, 1e-4, 0.1, 10.0])
@pytest.mark.parametrize("masked", [False, True])
def test_ridge_is_the_closed_form_of_least_squares(masked: bool, penalty: float) -> None:
    given = batches(1, 5, masked=masked)
    weight = equations(given).solve(penalty)
    assert weight.shape == (len(TARGETS), H + 1, P)
    for feature in range(len(TARGETS)):
        for step in range(P):
            expected = closed_form(*written_out(given, feature, step), penalty)
            np.testing.assert_allclose(weight[feature, :, step], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("masked", [False, True])
def test_squared_error_of_the_equations_is_that_of_the_windows(masked: bool) -> None:
    weight = equations(batches(1, 5, masked=masked)).solve(0.1)
    held = batches(2, 3, masked=masked)
    total = 0.0
    for feature in range(len(TARGETS)):
        for step in range(P):
            x, y = written_out(held, feature, step)
            total += float(((x @ weight[feature, :, step].numpy() - y) ** 2).sum())
    assert float(equations(held).squared_error(weight)) == pytest.approx(total, rel=1e-10)


@pytest.mark.parametrize("masked", [False, True])
def test_the_penalty_is_the_best_one_on_validation(masked: bool) -> None:
    train, held = batches(1, 2, masked=masked), batches(2, 4, masked=masked)
    penalties = (1e-6, 1e-3, 0.03, 0.3, 3.0, 100.0)
    model = Ridge(H, P, TARGETS)
    best, errors = fit(model, train, held, penalties)
    plain = {}
    for penalty in penalties:
        parts = []
        for feature in range(len(TARGETS)):
            for step in range(P):
                weight = closed_form(*written_out(train, feature, step), penalty)
                x, y = written_out(held, feature, step)
                parts.append((x @ weight - y) ** 2)
        plain[penalty] = float(np.concatenate(parts).mean())
    assert errors == pytest.approx(plain, rel=1e-6)
    assert best == min(plain, key=plain.__getitem__)
    assert torch.equal(model.weight, equations(train).solve(best))


def test_without_validation_windows_ridge_takes_the_smallest_penalty() -> None:
    best, _ = fit(Ridge(H, P, TARGETS), batches(1, 2, masked=False), [], (1.0, 0.01, 0.1))
    assert best == 0.01


def test_a_forecast_of_ridge_is_its_weights_times_the_history() -> None:
    given = batches(1, 3, masked=False)
    model = Ridge(H, P, TARGETS)
    fit(model, given, given, (0.01,))
    forecast = model(given[0].history_BHNF)
    assert forecast.shape == (B, P, N, len(TARGETS))
    for feature, place in enumerate(TARGETS):
        own = given[0].history_BHNF[..., place].numpy().astype(float)
        weight = model.weight[feature].numpy()
        expected = np.einsum("bhn,hp->bpn", own, weight[:-1]) + weight[-1][None, :, None]
        np.testing.assert_allclose(forecast[..., feature], expected, rtol=1e-4, atol=1e-5)


def test_a_step_that_was_never_observed_gets_finite_weights() -> None:
    given = batches(1, 2, masked=True)
    for batch in given:
        assert batch.observed_BPNF is not None
        batch.observed_BPNF[:, 1] = False
    model = Ridge(H, P, TARGETS)
    fit(model, given, given, (0.0, 0.1))
    assert torch.isfinite(model.weight).all()
    assert not model.weight[:, :, 1].any()


def test_ridge_on_a_dataset_equals_numpy_on_its_raw_rows(make_world: Make, session_of: Make, plain: Make) -> None:
    """From dumps to weights by two ways that share nothing."""
    world = make_world(
        10,
        split={"train": "2024-03-01..2024-03-07", "validation": "2024-03-08..2024-03-10"},
        model={"name": "ridge", "penalties": [0.01]},
    )
    world.prepare()
    session = session_of(world)
    assert isinstance(session.model, Ridge)
    fit(session.model, session.train.batches(0), session.validation.batches(0), (0.01,))
    windows = plain(world).windows("train", 12, 6)
    for feature in range(2):
        for step in range(6):
            pairs = [(w.scaled[:12, n, feature], w.scaled[12 + step, n, feature]) for w in windows for n in range(3)]
            seen = [bool(w.observed[12 + step, n, feature]) for w in windows for n in range(3)]
            x = np.array([[*history, 1.0] for history, _ in pairs])[seen]
            y = np.array([target for _, target in pairs])[seen]
            np.testing.assert_allclose(session.model.weight[feature, :, step], closed_form(x, y, 0.01), atol=1e-6)


@pytest.mark.parametrize("kernel", [1, 3, 4, 25])
def test_dlinear_is_two_linear_maps_of_moving_average_and_remainder(kernel: int) -> None:
    shape = Shape(Window(H, P), N, F, len(TARGETS), TARGETS, 24)
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
    shape = Shape(Window(H, P), N, F, len(TARGETS), TARGETS, 24)
    model = build(shape, ModelConfig(name="dlinear"))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
    given = batches(1, 1, masked=False)[0].history_BHNF
    expected = given[..., list(TARGETS)].mean(1, keepdim=True).expand(-1, P, -1, -1)
    torch.testing.assert_close(model(given), expected, rtol=1e-5, atol=1e-6)


def perceptron(**config: Any) -> torch.nn.Module:
    torch.manual_seed(3)
    shape = Shape(Window(H, P), N, F, len(TARGETS), TARGETS, 24)
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
        build(Shape(Window(H, 0), N, F, 1, (0,), 24), config)
    with pytest.raises(UsageError, match=r"trainer\.inputs"):
        build(Shape(Window(H, P), N, F, 2, (0, -1), 24), config)
