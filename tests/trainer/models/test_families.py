"""Convolutions, recurrent layers and NLinear against plain formulas; RevIN and embedded categories by what they promise."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dateshard.shardstore.errors import UsageError
from dateshard.trainer.config import ModelConfig
from dateshard.trainer.data.order import Window
from dateshard.trainer.models import build, num_parameters
from dateshard.trainer.models.category_inputs import CategoricalInputs, width_of
from dateshard.trainer.models.revin import RevIN
from dateshard.trainer.models.shape import Shape

Make = Callable[..., Any]
Weights = dict[str, np.ndarray]
B, H, P, N, F, STEPS = 3, 6, 4, 2, 3, 24


def made(name: str, horizon: int = P, **config: Any) -> tuple[nn.Module, Weights]:
    """A model whose every weight is random, and its weights."""
    torch.manual_seed(3)
    shape = Shape(
        window=Window(H, horizon),
        num_nodes=N,
        num_inputs=F,
        num_outputs=2,
        targets_in_inputs=(2, 0),
        steps_per_day=STEPS,
    )
    model = build(shape, ModelConfig.model_validate({"name": name, "hidden_units": [5, 4], **config})).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model, {name: parameter.detach().numpy().astype(float) for name, parameter in model.named_parameters()}


def given(length: int = H + P) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(4)
    codes = torch.randint(0, STEPS, (B, length), generator=draw) * 8 + torch.randint(0, 7, (B, length), generator=draw)
    return torch.randn(B, length, N, F, generator=draw)[:, :H], codes.int()


def step_inputs(weights: Weights, history: torch.Tensor, codes: torch.Tensor, window: int, node: int) -> np.ndarray:
    """[H, F + 17] of one node: its numbers, its embedding, and each step's time."""
    rows = []
    for step in range(H):
        code = int(codes[window, step])
        angle = 2 * np.pi * (code >> 3) / STEPS
        time = [np.sin(angle), np.cos(angle), *(float(day == code & 7) for day in range(7))]
        rows.append(np.concatenate([history[window, step, node].numpy(), weights["node.weight"][node], time]))
    return np.array(rows)


def read_out(weights: Weights, features: np.ndarray, own: np.ndarray) -> np.ndarray:
    return weights["read.out.weight"] @ features + weights["read.out.bias"] + weights["read.linear.weight"] @ own


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def convolved(weights: Weights, x: np.ndarray) -> np.ndarray:
    """[H, channels]: two layers of three steps, reaching one step and two to either side, zeros beyond."""
    for layer, reach in ((0, 1), (3, 2)):
        kernel, bias = weights[f"hidden.{layer}.weight"][..., 0], weights[f"hidden.{layer}.bias"]
        out = np.zeros((H, len(bias)))
        for step in range(H):
            at = [step - reach, step, step + reach]
            out[step] = bias + sum(kernel[:, :, k] @ x[s] for k, s in enumerate(at) if 0 <= s < H)
        x = np.maximum(out, 0)
    return x


def lstm(weights: Weights, x: np.ndarray) -> np.ndarray:
    for layer in (0, 1):
        wx, wh, bx, bh = (
            weights[f"hidden.{layer}.{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        hidden = cell = np.zeros(wh.shape[1])
        out = []
        for row in x:
            enter, forget, new, show = np.split(wx @ row + bx + wh @ hidden + bh, 4)
            cell = sigmoid(forget) * cell + sigmoid(enter) * np.tanh(new)
            hidden = sigmoid(show) * np.tanh(cell)
            out.append(hidden)
        x = np.array(out)
    return x


def gru(weights: Weights, x: np.ndarray) -> np.ndarray:
    for layer in (0, 1):
        wx, wh, bx, bh = (
            weights[f"hidden.{layer}.{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        hidden = np.zeros(wh.shape[1])
        out = []
        for row in x:
            (reset_x, keep_x, new_x), (reset_h, keep_h, new_h) = (
                np.split(wx @ row + bx, 3),
                np.split(wh @ hidden + bh, 3),
            )
            keep = sigmoid(keep_x + keep_h)
            hidden = (1 - keep) * np.tanh(new_x + sigmoid(reset_x + reset_h) * new_h) + keep * hidden
            out.append(hidden)
        x = np.array(out)
    return x


@pytest.mark.parametrize("name", ["cnn", "lstm", "gru"])
@pytest.mark.parametrize("horizon", [P, 0])
def test_layers_over_a_nodes_own_history_are_their_plain_formulas(name: str, horizon: int) -> None:
    model, weights = made(name, horizon, dropout_rate=0.5)
    history, codes = given(H + horizon)
    found = model(history, codes).detach().numpy()
    assert found.shape == (B, horizon or H, N, 2)
    layers = {"cnn": convolved, "lstm": lstm, "gru": gru}[name]
    for window in range(B):
        for node in range(N):
            features = layers(weights, step_inputs(weights, history, codes, window, node))
            own = history[window, :, node].numpy().astype(float)
            if horizon:
                read = features.ravel() if name == "cnn" else features[-1]
                expected = read_out(weights, read, own.ravel()).reshape(P, 2)
            else:
                expected = np.array([read_out(weights, features[step], own[step]) for step in range(H)])
            np.testing.assert_allclose(found[window, :, node], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_recurrent_layers_at_the_historys_own_steps_see_no_later_step(name: str) -> None:
    model, _ = made(name, 0)
    history, codes = given(H)
    changed = history.clone()
    changed[:, 4:] += 1
    one, other = model(history, codes), model(changed, codes)
    assert torch.equal(one[:, :4], other[:, :4])
    assert not torch.isclose(one[:, 4:], other[:, 4:]).any()


@pytest.mark.parametrize("name", ["cnn", "lstm", "gru"])
def test_hidden_units_are_the_sizes_of_successive_layers_and_each_is_followed_by_dropout(name: str) -> None:
    wide, out = F + 8 + 9, P * 2
    gates = {"cnn": 3, "lstm": 4, "gru": 3}[name]

    def layer(inputs: int, size: int) -> int:
        if name == "cnn":
            return (gates * inputs + 1) * size
        return gates * size * (inputs + size + 2)

    for units in ([5], [7, 4], []):
        model, _ = made(name, hidden_units=units, dropout_rate=0.5)
        widths = [wide, *units]
        read = widths[-1] * (H if name == "cnn" else 1)
        layers = sum(layer(a, b) for a, b in pairwise(widths))
        assert num_parameters(model) == N * 8 + layers + (read + 1) * out + H * F * out
    model, _ = made(name, hidden_units=[7, 4], dropout_rate=0.5)
    calls: list[int] = []
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            assert module.p == 0.5
            module.register_forward_hook(lambda *_: calls.append(1))
    model(*given())
    assert len(calls) == 2


@pytest.mark.parametrize("horizon", [P, 0])
@pytest.mark.parametrize("units", [[10, 5], []])
def test_stid_is_residual_layers_over_a_history_and_the_embeddings_of_node_time_and_weekday(
    horizon: int, units: list[int]
) -> None:
    model, weights = made("stid", horizon, hidden_units=units, dropout_rate=0.5)
    history, codes = given(H + horizon)
    found = model(history, codes).detach().numpy()
    quarter = 3 if units else 8
    for window in range(B):
        code = int(codes[window, H if horizon else H - 1])
        day, week = weights["day.weight"][code >> 3], weights["week.weight"][code & 7]
        for node in range(N):
            own = weights["own.weight"] @ history[window, :, node].numpy().ravel() + weights["own.bias"]
            row = np.concatenate([own, weights["node.weight"][node], day, week])
            assert row.shape == (4 * quarter,)
            for layer in range(len(units)):
                enter, leave = (f"hidden.{layer}.{name}" for name in ("enter", "leave"))
                hidden = np.maximum(weights[f"{enter}.weight"] @ row + weights[f"{enter}.bias"], 0)
                row = row + weights[f"{leave}.weight"] @ hidden + weights[f"{leave}.bias"]
            expected = (weights["out.weight"] @ row + weights["out.bias"]).reshape(-1, 2)
            np.testing.assert_allclose(found[window, :, node], expected, rtol=1e-4, atol=1e-5)


def test_a_day_of_many_steps_has_an_embedding_for_every_five_minutes() -> None:
    shape = Shape(
        window=Window(H, P), num_nodes=N, num_inputs=F, num_outputs=2, targets_in_inputs=(2, 0), steps_per_day=86_400
    )
    model = build(shape, ModelConfig(name="stid")).eval()
    history, _ = given()
    assert model.day.num_embeddings == 288

    def at(second: int) -> torch.Tensor:
        out: torch.Tensor = model(history, torch.full((B, H + P), second * 8, dtype=torch.int32))
        return out

    assert torch.equal(at(0), at(299))
    assert not torch.equal(at(299), at(300))
    assert not torch.equal(at(86_399), at(86_000))


def test_nlinear_is_a_linear_map_of_the_changes_since_the_last_step_and_begins_by_repeating_it() -> None:
    model, weights = made("nlinear")
    history, _ = given()
    found = model(history).detach().numpy()
    for feature, place in enumerate((2, 0)):
        own = history[..., place].numpy().astype(float)
        change = np.einsum("ph,bhn->bpn", weights["linear.weight"], own - own[:, -1:])
        expected = change + weights["linear.bias"][None, :, None] + own[:, -1:]
        np.testing.assert_allclose(found[..., feature], expected, rtol=1e-4, atol=1e-5)
    fresh = build(
        Shape(
            window=Window(H, P), num_nodes=N, num_inputs=F, num_outputs=2, targets_in_inputs=(2, 0), steps_per_day=STEPS
        ),
        ModelConfig(name="nlinear"),
    )
    assert torch.equal(fresh(history), history[:, -1:, :, [2, 0]].expand(-1, P, -1, -1))


class Inner(nn.Module):
    """Keeps what it is given and forecasts the targets' last values, a class score and a target that is no input."""

    def __init__(self, *, heads: bool = False) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, history: torch.Tensor, codes: torch.Tensor | None) -> Any:
        self.seen = history
        out = torch.cat([history[:, -1:, :, [2]], history[:, -1:, :, [1, 1]], history[:, -1:, :, [0]]], dim=-1)
        return {"geo": out[..., [0, 3]], "cls": out[..., 1:3], "more": out} if self.heads else out


OUTPUTS = (2, -1, -1, 0)  # number, two classes, number
HEADS = {"geo": (0, 3), "cls": (1, 2)}


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("heads", [False, True])
def test_revin_moves_each_windows_targets_to_mean_0_and_spread_1_and_its_forecast_back(
    heads: bool, affine: bool
) -> None:
    inner = Inner(heads=heads)
    model = RevIN(inner, OUTPUTS, HEADS, affine=affine)
    history = given()[0] * torch.tensor([5.0, 1.0, 0.1]) + torch.tensor([100.0, 3.0, -2.0])
    factor, offset = np.ones(2), np.zeros(2)
    if affine:
        with torch.no_grad():
            model.log_factor.copy_(torch.tensor([0.5, -1.0]))
            model.offset.copy_(torch.tensor([2.0, -3.0]))
        factor, offset = np.exp([0.5, -1.0]), np.array([2.0, -3.0])
    kept = history.clone()
    out = model(history, None)
    assert torch.equal(history, kept)
    plain = history.numpy().astype(float)
    for k, place in enumerate((0, 2)):
        own = plain[..., place]
        moved = (own - own.mean(1, keepdims=True)) / np.sqrt(own.var(1, keepdims=True) + 1e-5) * factor[k] + offset[k]
        np.testing.assert_allclose(inner.seen[..., place].detach(), moved, atol=1e-3)
    assert torch.equal(inner.seen[..., 1], history[..., 1])
    last = history[:, -1:]
    joined = out if not heads else torch.cat([out["geo"][..., :1], out["cls"], out["geo"][..., 1:]], dim=-1)
    torch.testing.assert_close(joined, last[..., [2, 1, 1, 0]], rtol=1e-5, atol=1e-5)
    if heads:
        assert torch.equal(out["more"], inner.seen[:, -1:, :, [2, 1, 1, 0]])


@pytest.mark.parametrize("name", ["mlp", "stid", "cnn", "lstm", "gru", "dlinear", "nlinear"])
def test_with_revin_a_forecast_moves_with_its_window(name: str) -> None:
    """Another level and another scale of a window's targets are those of its forecast; without RevIN they are not."""
    history, codes = given()
    moved = history.clone()
    moved[..., [2, 0]] = moved[..., [2, 0]] * 3 + 7
    for revin in (True, False):
        model, _ = made(name, revin=revin)
        one, other = model(history, codes) * 3 + 7, model(moved, codes)
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-3) == revin


def test_a_constant_history_gives_a_finite_forecast_about_itself() -> None:
    model, _ = made("mlp", revin=True)
    history, codes = given()
    history = history.clone()
    history[..., [0, 2]] = 4.0
    out = model(history, codes)
    assert (out - 4.0).abs().max() < 0.1
    model.zero_grad()
    out.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "ridge"}, "closed form"),
        ({"window": Window(H, 0)}, "horizon is 0"),
        ({"targets_in_inputs": (-1, -1)}, "none of them is an input"),
        ({"num_outputs": 5, "target_codes": (4, 0), "targets_in_inputs": (1, -1)}, "none of them is an input"),
    ],
)
def test_revin_is_refused_where_it_has_no_meaning(changes: dict[str, Any], told: str) -> None:
    name = changes.pop("name", "mlp")
    sizes = {"window": Window(H, P), "num_nodes": N, "num_inputs": F, "num_outputs": 2, "targets_in_inputs": (2, 0)}
    with pytest.raises(UsageError, match=told):
        build(Shape(**{**sizes, "steps_per_day": STEPS, **changes}), ModelConfig(name=name, revin=True))


@pytest.mark.parametrize(("codes", "width"), [(2, 2), (3, 3), (4, 3), (5, 4), (17, 6), (1000, 11), (2**24, 16)])
def test_a_category_becomes_so_many_numbers(codes: int, width: int) -> None:
    assert width_of(codes) == width


def test_a_model_sees_the_numbers_and_then_each_categorys_embedding() -> None:
    inner = Inner()
    model = CategoricalInputs(inner, (0, 3), {1: 5, 2: 3}, {1: 4, 2: 2})
    history = torch.randn(B, H, N, 4)
    history[..., 1] = torch.randint(0, 5, (B, H, N)).float()
    history[..., 2] = torch.randint(0, 3, (B, H, N)).float()
    model(history, None)
    first, second = (table.weight.detach() for table in model.embeddings)
    assert first.shape == (5, 4)
    assert not first[0].any()
    assert not second[0].any()
    expected = [history[..., [0, 3]], first[history[..., 1].long()], second[history[..., 2].long()]]
    assert torch.equal(inner.seen, torch.cat(expected, dim=-1))


def test_an_embedding_width_of_0_hands_on_the_bare_codes() -> None:
    shape = Shape(
        window=Window(H, P),
        num_nodes=N,
        num_inputs=F,
        num_outputs=2,
        targets_in_inputs=(2, 0),
        steps_per_day=STEPS,
        input_codes=(0, 9, 0),
    )
    assert isinstance(build(shape, ModelConfig()), CategoricalInputs)
    assert not isinstance(build(shape, ModelConfig(embedding_width=0)), CategoricalInputs)
    wide = build(shape, ModelConfig(embedding_width=7, name="lstm"))
    assert [table.embedding_dim for table in wide.embeddings] == [7]


@pytest.mark.parametrize("name", ["dlinear", "nlinear", "ridge"])
def test_linear_models_keep_to_the_targets_own_history_and_refuse_a_category_as_target(name: str) -> None:
    shape = Shape(
        window=Window(H, P),
        num_nodes=N,
        num_inputs=F,
        num_outputs=2,
        targets_in_inputs=(2, 0),
        steps_per_day=STEPS,
        input_codes=(0, 9, 0),
    )
    model = build(shape, ModelConfig(name=name))
    assert not isinstance(model, CategoricalInputs)
    history, _ = given()
    changed = history.clone()
    changed[..., 1] += 5
    assert torch.equal(model(history), model(changed))
    with pytest.raises(UsageError, match=f"{name} forecasts numbers, and a target is categorical"):
        build(
            Shape(
                window=Window(H, P),
                num_nodes=N,
                num_inputs=F,
                num_outputs=10,
                targets_in_inputs=(2, 1),
                steps_per_day=STEPS,
                target_codes=(0, 9),
            ),
            ModelConfig(name=name),
        )


@pytest.fixture
def kinds(make_world: Make) -> Any:
    """A world with a category beside its numbers, told by the text of the node and the hour."""
    world = make_world(5, split={"train": "2024-03-01..2024-03-04", "validation": "2024-03-05"})
    world.tree["pipeline"]["features"]["kind"] = {"categorical": True}
    for date in world.rows:
        path = world.dump(date)
        head, *lines = path.read_text().splitlines()
        told = [f"{line},{('low', 'middle', 'high')[int(line[11:13]) // 8]}" for line in lines]
        path.write_text("\n".join([f"{head},kind", *told]) + "\n")
    return world


def test_a_session_embeds_the_datasets_categories_and_sizes_its_outputs_by_them(kinds: Any, session_of: Make) -> None:
    kinds.tree["trainer"] |= {"inputs": ["kind", "speed"], "targets": ["speed", "kind"]}
    kinds.prepare()
    model = session_of(kinds).model
    assert isinstance(model, CategoricalInputs)
    assert model.numbers == [1]
    assert [tuple(table.weight.shape) for table in model.embeddings] == [(4, 3)]
    assert model.inner.target == (6, 1 + 4)
    kinds.tree["trainer"]["model"] = {"name": "gru", "hidden_units": [4], "revin": "affine"}
    around = session_of(kinds).model
    assert isinstance(around, RevIN)
    assert around.index_K.tolist() == [1]
    assert around.index_C.tolist() == [0, 1, 1, 1, 1]
    kinds.tree["trainer"]["model"] = {"name": "nlinear"}
    with pytest.raises(UsageError, match="a target is categorical"):
        session_of(kinds)


def test_training_learns_an_embedding_for_every_category_that_it_meets(kinds: Any, session_of: Make) -> None:
    from dateshard.trainer.loop import train

    kinds.tree["trainer"] |= {"inputs": ["kind", "speed"], "targets": ["speed"]}
    kinds.prepare()
    session = session_of(kinds)
    assert isinstance(session.model, CategoricalInputs)
    table = session.model.embeddings[0]
    before = table.weight.detach().clone()
    for _ in train(session, lambda: False):
        pass
    moved = (table.weight.detach() != before).any(1).tolist()
    assert moved[1:] == [True, True, True]
