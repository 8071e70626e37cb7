"""What every model keeps. A model of one's own passes by subclassing `ModelContract` with a `make`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from dateshard.trainer.config import ModelConfig
from dateshard.trainer.data.order import Window
from dateshard.trainer.models import build
from dateshard.trainer.models.own import refuse_unfit
from dateshard.trainer.models.ridge import Ridge
from dateshard.trainer.models.shape import Shape

H, P, STEPS = 8, 4, 24


def waves(sizes: tuple[int, int, int], num_inputs: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, W, N, F] daily waves of any phase and height, a little above zero, and their codes [B, W]."""
    batch, length, nodes = sizes
    draw = torch.Generator().manual_seed(seed)
    phase = torch.rand(batch, 1, nodes, num_inputs, generator=draw) * 6.28
    height = 0.5 + torch.rand(batch, 1, nodes, num_inputs, generator=draw)
    steps = torch.arange(length)
    first = torch.randint(0, STEPS, (batch, 1), generator=draw)
    codes = ((first + steps) % STEPS * 8 + first % 7).int()
    return height * torch.sin(steps[None, :, None, None] * 6.28 / 12 + phase) + 0.2, codes


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Hundreds of steps over a handful of numbers: threads would wait for each other most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class ModelContract:
    """Subclass it, name it Test..., and say how the model is made.

    Attributes:
        horizon_0: it can serve targets at the history's own steps.
        targets: of the inputs, those that are forecast; -1 for one that is no input.
        inputs: the least number of inputs.
        by_node: parameters whose first axis is the nodes. A permutation of the nodes, these permuted too, permutes the
            forecast; None where a model makes no such promise.
        idle: parameters that no gradient reaches.
    """

    horizon_0 = True
    targets: tuple[int, ...] = (2, 0)
    inputs = 3
    by_node: Sequence[str] | None = ()
    idle: Sequence[str] = ()

    def make(self, shape: Shape) -> nn.Module:
        """The model for a shape."""
        raise NotImplementedError

    def fit(self, model: nn.Module, history: torch.Tensor, target: torch.Tensor, codes: torch.Tensor) -> None:
        """Trains it on one batch, again and again."""
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(150):
            optimizer.zero_grad()
            self.loss(model, history, target, codes).backward()
            optimizer.step()

    # from here on: what is kept

    def shape(self, nodes: int = 3, horizon: int = P) -> Shape:
        return Shape(
            window=Window(H, horizon),
            num_nodes=nodes,
            num_inputs=self.inputs,
            num_outputs=len(self.targets),
            targets_in_inputs=self.targets,
            steps_per_day=STEPS,
        )

    def made(self, shape: Shape, seed: int = 1) -> nn.Module:
        torch.manual_seed(seed)
        return self.make(shape)

    def buffer(self, shape: Shape, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Whole windows [B, W, N, F] and their codes."""
        return waves((batch, shape.window.length, shape.num_nodes), self.inputs)

    def given(self, shape: Shape, batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """History, target and codes, the first two as views of one buffer, as in training."""
        whole, codes = self.buffer(shape, batch)
        begin = H if shape.window.horizon else 0
        chosen = [max(target, 0) for target in self.targets]
        return whole[:, :H], whole[:, begin : begin + shape.window.target_steps][..., chosen], codes

    @staticmethod
    def tensors(out: Any) -> list[torch.Tensor]:
        return [out] if isinstance(out, torch.Tensor) else list(out.values())

    def loss(self, model: nn.Module, history: torch.Tensor, target: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return ((torch.cat(self.tensors(model(history, codes)), dim=-1) - target) ** 2).mean()

    def windows(self) -> list[int]:
        return [P, 0] if self.horizon_0 else [P]

    @pytest.mark.parametrize("nodes", [1, 3])
    @pytest.mark.parametrize("batch", [1, 7])
    def test_a_forecast_has_the_promised_shape_and_type(self, batch: int, nodes: int) -> None:
        for horizon in self.windows():
            shape = self.shape(nodes, horizon)
            history, _, codes = self.given(shape, batch)
            model = self.made(shape)
            out = torch.cat(self.tensors(model(history, codes)), dim=-1)
            assert out.shape == (batch, shape.window.target_steps, nodes, shape.num_outputs)
            assert out.dtype == torch.float32
            assert all(p.dtype == torch.float32 for p in model.parameters())
            refuse_unfit(model, shape, "it")

    def test_without_a_horizon_it_serves_or_is_refused(self) -> None:
        if not self.horizon_0:
            with pytest.raises(Exception, match="horizon"):
                self.made(self.shape(horizon=0))

    def test_views_of_any_stride_give_what_their_copies_give(self) -> None:
        for horizon in self.windows():
            shape = self.shape(horizon=horizon)
            history, _, codes = self.given(shape, 5)
            strided = history.transpose(1, 3).contiguous().transpose(1, 3)
            model = self.made(shape).eval()
            assert not strided.is_contiguous()
            found = [self.tensors(model(given, codes)) for given in (history, strided, history.contiguous())]
            for tensors in zip(*found, strict=True):
                torch.testing.assert_close(tensors[0], tensors[2])
                torch.testing.assert_close(tensors[1], tensors[2])

    def test_a_seed_draws_the_same_model_again_and_the_same_forecast_in_training(self) -> None:
        shape = self.shape()
        history, _, codes = self.given(shape, 4)
        states, outs = [], []
        for _ in range(2):
            model = self.made(shape, seed=5).train()
            states.append(model.state_dict())
            torch.manual_seed(6)
            outs.append(self.tensors(model(history, codes)))
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
        assert all(torch.equal(*pair) for pair in zip(*outs, strict=True))

    def test_evaluation_draws_nothing_and_changes_nothing(self) -> None:
        shape = self.shape()
        history, _, codes = self.given(shape, 4)
        model = self.made(shape).eval()
        before, kept = {n: t.clone() for n, t in model.state_dict().items()}, history.clone()
        generator = torch.get_rng_state()
        first = self.tensors(model(history, codes))
        assert torch.equal(torch.get_rng_state(), generator)
        torch.rand(3)
        assert all(torch.equal(*pair) for pair in zip(first, self.tensors(model(history, codes)), strict=True))
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
        assert torch.equal(history, kept)

    def test_a_gradient_reaches_every_parameter_or_it_is_named_idle(self) -> None:
        for horizon in self.windows():
            shape = self.shape(horizon=horizon)
            model = self.made(shape).eval()
            if not list(model.parameters()):
                return
            self.loss(model, *self.given(shape, 16)).backward()
            reached = {n for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
            assert {name for name, _ in model.named_parameters()} - reached == set(self.idle)

    def test_its_state_goes_through_safetensors_into_another_one(self) -> None:
        shape = self.shape()
        history, _, codes = self.given(shape, 4)
        model, other = self.made(shape, seed=1).eval(), self.made(shape, seed=2).eval()
        state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        other.load_state_dict(load(save(state)), strict=True)
        pairs = zip(self.tensors(model(history, codes)), self.tensors(other(history, codes)), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)

    def test_a_permutation_of_the_nodes_permutes_the_forecast(self) -> None:
        if self.by_node is None:
            return
        for horizon in self.windows():
            shape = self.shape(5, horizon)
            history, _, codes = self.given(shape, 4)
            model, order = self.made(shape).eval(), torch.tensor([3, 0, 4, 1, 2])
            plain = self.tensors(model(history, codes))
            for name in self.by_node:
                parameter = model.get_parameter(name)
                parameter.data = parameter.data[order]
            moved = self.tensors(model(history[:, :, order], codes))
            for one, other in zip(plain, moved, strict=True):
                torch.testing.assert_close(one[:, :, order], other)
                assert not torch.allclose(one, other)

    def test_each_window_is_forecast_for_itself(self) -> None:
        shape = self.shape()
        history, _, codes = self.given(shape, 6)
        model = self.made(shape).eval()
        alone = self.tensors(model(history[2:3], codes[2:3]))
        for one, whole in zip(alone, self.tensors(model(history, codes)), strict=True):
            torch.testing.assert_close(one, whole[2:3])

    def test_what_is_to_be_forecast_does_not_leak_into_the_forecast(self) -> None:
        """History and horizon lie in one buffer; whatever stands in the horizon, the forecast is the same."""
        shape = self.shape()
        whole, codes = self.buffer(shape, 4)
        model = self.made(shape).eval()
        plain = [tensor.clone() for tensor in self.tensors(model(whole[:, :H], codes))]
        whole[:, H:] = float("nan")
        assert all(torch.equal(*p) for p in zip(plain, self.tensors(model(whole[:, :H], codes)), strict=True))

    def test_eight_windows_are_learned_by_heart(self) -> None:
        for horizon in self.windows():
            shape = self.shape(1, horizon)
            given = self.given(shape, 8)
            model = self.made(shape)
            with torch.no_grad():
                before = float(self.loss(model.eval(), *given))
            self.fit(model.train(), *given)
            with torch.no_grad():
                after = float(self.loss(model.eval(), *given))
            assert after < 0.1 * before, (horizon, before, after)

    def test_it_moves_to_another_device_as_a_whole(self) -> None:
        """The meta device takes shapes alone: any tensor left behind on the CPU is an error there."""
        shape = self.shape()
        history, _, codes = self.given(shape, 4)
        out = self.made(shape).to("meta")(history.to("meta"), codes.to("meta"))
        assert {tensor.device.type for tensor in self.tensors(out)} == {"meta"}


class Built(ModelContract):
    """A built-in family by name."""

    name = ""
    settings: ClassVar[dict[str, Any]] = {"hidden_units": [16, 8], "dropout_rate": 0.1}

    def make(self, shape: Shape) -> nn.Module:
        return build(shape, ModelConfig.model_validate({"name": self.name, **self.settings}))


class TestMlp(Built):
    name, by_node = "mlp", ("node.weight",)


class TestMlpForAnOutsideTarget(TestMlp):
    targets = (1, -1)


class TestStid(Built):
    name, by_node = "stid", ("node.weight",)


class TestCnn(Built):
    name, by_node = "cnn", ("node.weight",)


class TestLstm(Built):
    name, by_node = "lstm", ("node.weight",)


class TestGru(Built):
    name, by_node = "gru", ("node.weight",)


class Linear(Built):
    horizon_0 = False


class TestDLinear(Linear):
    name = "dlinear"


class TestNLinear(Linear):
    name = "nlinear"


class TestRidge(Linear):
    name = "ridge"

    def fit(self, model: nn.Module, history: torch.Tensor, target: torch.Tensor, codes: torch.Tensor) -> None:
        """Its weights as least squares give them; how it finds them itself is tested in tests/trainer."""
        assert isinstance(model, Ridge)
        for feature, place in enumerate(model.targets):
            own, wanted = (
                part.transpose(1, 2).flatten(0, 1).double() for part in (history[..., place], target[..., feature])
            )
            own = torch.cat([own, torch.ones(len(own), 1, dtype=own.dtype)], dim=1)
            model.weight[feature] = torch.linalg.lstsq(own, wanted, driver="gelsd").solution

    def made(self, shape: Shape, seed: int = 1) -> nn.Module:
        model = super().made(shape, seed)
        assert isinstance(model, Ridge)
        model.weight.normal_()
        return model


class TestRevin(Linear):
    """Around a perceptron, in its affine form; one target is no input."""

    name, by_node = "mlp", ("inner.node.weight",)
    settings: ClassVar = {**Built.settings, "revin": "affine"}
    targets = (2, -1)


class TestRevinOnNlinear(Linear):
    name = "nlinear"
    settings: ClassVar = {"revin": True}


class TestObservedInputs(Built):
    """Around a model: which cells were observed."""

    name, by_node = "gru", ("inner.node.weight",)
    settings: ClassVar[dict[str, Any]] = {"hidden_units": [16, 8], "dropout_rate": 0.1, "observed": True}


class TestObservedCategoriesBehindRevin(Built):
    """All that may stand around a model at once."""

    horizon_0 = False
    name, by_node = "mlp", ("inner.inner.node.weight",)
    settings: ClassVar[dict[str, Any]] = {"hidden_units": [16], "dropout_rate": 0.1, "observed": True, "revin": True}


class Knowing(nn.Module):
    """A model that is given the same futures with every window."""

    uses_codes = True

    def __init__(self, inner: nn.Module, horizon: int) -> None:
        super().__init__()
        self.inner, self.horizon = inner, horizon

    def forward(self, history: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        steps = torch.arange(self.horizon, device=history.device)[None, :, None, None]
        future = torch.cat([steps / 4.0, steps % 3], dim=-1).expand(len(history), -1, history.shape[2], -1)
        out: torch.Tensor = self.inner(history, codes, future_BPNF=future)
        return out


class TestKnownFutures(Built):
    """Around a model: futures that are a number and a category."""

    horizon_0, idle = False, ("inner.hidden.weight", "inner.hidden.bias", "inner.embeddings.0.weight")
    by_node = ("inner.inner.node.weight",)

    def make(self, shape: Shape) -> nn.Module:
        if not shape.window.horizon:
            raise ValueError("nothing is known ahead where there is no horizon")
        knowing = replace(shape, future_codes=(0, 3))
        return Knowing(build(knowing, ModelConfig(name="mlp", hidden_units=(16,))), shape.window.horizon)


class TestCategoricalInputs(Built):
    """Input 1 is a category of five codes."""

    name, by_node = "gru", ("inner.node.weight",)

    def shape(self, nodes: int = 3, horizon: int = P) -> Shape:
        return Shape(
            window=Window(H, horizon),
            num_nodes=nodes,
            num_inputs=3,
            num_outputs=2,
            targets_in_inputs=self.targets,
            steps_per_day=STEPS,
            input_codes=(0, 5, 0),
        )

    def buffer(self, shape: Shape, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        whole, codes = super().buffer(shape, batch)
        whole[..., 1] = (whole[..., 1].abs() * 10 % 5).floor()
        return whole, codes


class Table(Built):
    """Rows of three columns, the second a category of five codes, read as a sequence."""

    idle = ("inner.missing",)  # nothing is missing

    def shape(self, nodes: int = 3, horizon: int = 0) -> Shape:
        return Shape(
            window=Window(1, 0),
            num_nodes=nodes,
            num_inputs=3,
            num_outputs=2,
            targets_in_inputs=self.targets,
            steps_per_day=STEPS,
            input_codes=(0, 5, 0),
            columns=(1, 1, 1),
        )

    def windows(self) -> list[int]:
        return [0]

    def buffer(self, shape: Shape, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        whole, codes = super().buffer(shape, batch)
        whole[..., 1] = (whole[..., 1].abs() * 10 % 5).floor()
        return whole, codes


class TestStidOnATable(Table):
    """It reads all columns of a row at once."""

    idle: ClassVar[Sequence[str]] = ()
    name, by_node = "stid", ("inner.node.weight",)


class TestCnnOnATable(Table):
    name, by_node = "cnn", ("inner.inner.node.weight",)


class TestLstmOnATable(Table):
    name, by_node = "lstm", ("inner.inner.node.weight",)


class TestGruOnATable(Table):
    name, by_node = "gru", ("inner.inner.node.weight",)


@pytest.mark.parametrize("wrong", ["nothing", "leaks", "views", "draws", "keeps", "idles", "swaps"])
def test_a_model_that_breaks_its_word_is_found_out(wrong: str) -> None:
    """Six faults, each in an otherwise good model, each found by the promise that it breaks."""

    class Broken(nn.Module):
        def __init__(self, shape: Shape) -> None:
            super().__init__()
            self.map, self.idle = nn.Linear(H * 3, P * 2), nn.Linear(1, 1) if wrong == "idles" else None
            self.plain = torch.ones(1)
            self.node = nn.Parameter(torch.randn(shape.num_nodes, 1))

        def forward(self, history: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
            batch, _, nodes, _ = history.shape
            if wrong == "views":
                history.view(batch, -1)
            if wrong == "leaks":
                history = history + history.as_strided((batch, H, nodes, 3), history.stride(), history.stride(1) * P)
            rows = history.transpose(1, 2).flatten(2)
            if wrong == "draws":
                rows = rows + torch.rand(1)
            if wrong == "keeps":
                rows = rows * self.plain
            out: torch.Tensor = self.map(rows).view(batch, nodes, P, 2) + self.node[None, :, None]
            return out.transpose(1, 2) + (rows[:, :1, None, :1].transpose(1, 2) if wrong == "swaps" else 0)

    class Suite(ModelContract):
        horizon_0, by_node = False, ("node",)

        def make(self, shape: Shape) -> nn.Module:
            return Broken(shape)

    suite = Suite()
    breaks = {
        "leaks": suite.test_what_is_to_be_forecast_does_not_leak_into_the_forecast,
        "views": suite.test_views_of_any_stride_give_what_their_copies_give,
        "draws": suite.test_evaluation_draws_nothing_and_changes_nothing,
        "keeps": suite.test_it_moves_to_another_device_as_a_whole,
        "idles": suite.test_a_gradient_reaches_every_parameter_or_it_is_named_idle,
        "swaps": suite.test_a_permutation_of_the_nodes_permutes_the_forecast,
    }
    if wrong in breaks:
        with pytest.raises((AssertionError, RuntimeError)):
            breaks[wrong]()
    else:
        for promise in breaks.values():
            promise()
