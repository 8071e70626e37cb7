"""Models that forecast from a window's own level take it from what was observed, not from what fill left there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dateshard.cli import run
from dateshard.trainer.assessment.evaluate import evaluate
from dateshard.trainer.config import ModelConfig
from dateshard.trainer.data.order import Window
from dateshard.trainer.models import build
from dateshard.trainer.models.category_inputs import CategoricalInputs
from dateshard.trainer.models.naive import LOOKED, newest
from dateshard.trainer.models.nlinear import NLinear
from dateshard.trainer.models.revin import RevIN
from dateshard.trainer.models.shape import Shape
from tests.conftest import World

B, H, P, N, F = 5, 40, 3, 4, 3
SPLIT = {"train": "..2024-03-04", "validation": "2024-03-05", "test": "2024-03-06"}


def given(share: float = 0.6) -> tuple[torch.Tensor, torch.Tensor]:
    """History and what was observed of it; one node was never, one only long ago. Missing cells hold what is no value."""
    draw = torch.Generator().manual_seed(3)
    known = torch.rand(B, H, N, F, generator=draw) < share
    known[:, :, 0] = False
    known[:, 1:, 1], known[:, 0, 1] = False, True
    history = torch.randn(B, H, N, F, generator=draw) + 5
    return torch.where(known, history, torch.tensor(-100.0)), known


def newest_by_hand(history: torch.Tensor, known: torch.Tensor) -> np.ndarray:
    """[B, N, F]: the last observed value, the last of all where none was."""
    found = history[:, -1].numpy().copy()
    for place in np.ndindex(B, N, F):
        steps = np.flatnonzero(known[place[0], :, place[1], place[2]].numpy())
        if len(steps):
            found[place] = history[place[0], steps[-1], place[1], place[2]]
    return found


def test_nlinear_begins_at_the_newest_observed_value() -> None:
    model = build(
        Shape(
            window=Window(H, P), num_nodes=N, num_inputs=F, num_outputs=2, targets_in_inputs=(2, 0), steps_per_day=24
        ),
        ModelConfig(name="nlinear"),
    )
    history, known = given()
    wanted = newest_by_hand(history, known)[:, None, :, [2, 0]]
    assert H > LOOKED  # so far back that it is no longer looked for step by step
    np.testing.assert_array_equal(model(history, None, known).detach().numpy(), np.broadcast_to(wanted, (B, P, N, 2)))


@pytest.mark.parametrize("length", [LOOKED - 1, LOOKED, LOOKED + 1, H])
def test_the_newest_value_is_found_however_far_back_it_lies(length: int) -> None:
    values = torch.arange(length, dtype=torch.float32).reshape(1, length, 1, 1)
    for step in range(length):
        known = torch.zeros(1, length, 1, 1, dtype=torch.bool)
        known[0, step] = True
        assert newest(values, known, 1, 1, values[:, -1:]).item() == step
    assert newest(values, torch.zeros_like(values, dtype=torch.bool), 1, 1, torch.tensor(-1.0)).item() == -1


@pytest.mark.parametrize("affine", ["", "affine"])
def test_revin_moves_a_window_by_what_was_observed_of_it(affine: str) -> None:
    class Inner(nn.Module):
        def forward(self, history: torch.Tensor, codes: torch.Tensor | None) -> torch.Tensor:
            self.seen = history
            return history[:, -P:, :, [2]]

    inner = Inner()
    model = RevIN(inner, (2,), {}, affine=bool(affine))
    history, known = given()
    out = model(history, None, known)
    np.testing.assert_allclose(out.detach(), history[:, -P:, :, [2]], rtol=1e-3)  # there and back by the same figures
    for window, node in np.ndindex(B, N):
        own, seen = history[window, :, node, 2].double().numpy(), known[window, :, node, 2].numpy()
        chosen = own[seen] if seen.any() else own
        wanted = (own - chosen.mean()) / np.sqrt(chosen.var() + 1e-5)
        np.testing.assert_allclose(inner.seen[window, :, node, 2].detach(), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("config", [ModelConfig(name="nlinear"), ModelConfig(name="nlinear", revin=True)])
def test_where_nothing_is_missing_every_bit_is_as_before(config: ModelConfig) -> None:
    torch.manual_seed(0)
    model = build(
        Shape(
            window=Window(H, P), num_nodes=N, num_inputs=F, num_outputs=2, targets_in_inputs=(2, 0), steps_per_day=24
        ),
        config,
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    history, known = given()
    assert torch.equal(model(history, None, None), model(history, None, torch.ones_like(known)))
    assert not torch.equal(model(history, None, None), model(history, None, known))


def test_checkpoints_of_before_fit() -> None:
    assert list(NLinear(H, P, (0,)).state_dict()) == ["linear.weight", "linear.bias"]
    assert list(RevIN(NLinear(H, P, (0,)), (0,), {}, affine=True).state_dict()) == [
        *("log_factor", "offset", "inner.linear.weight", "inner.linear.bias")
    ]


def test_a_model_of_ones_own_is_told_what_was_observed_behind_revin_and_embeddings() -> None:
    class Own(nn.Module):
        uses_known = True

        def forward(
            self, history: torch.Tensor, codes: torch.Tensor | None, known: torch.Tensor | None
        ) -> torch.Tensor:
            self.history, self.known = history, known
            return history[:, -1:, :, :1]

    own = Own()
    history, known = given()
    history[..., 1] = 1.0
    model = RevIN(CategoricalInputs(own, (0, 2), {1: 4}, {1: 2}), (0,), {}, affine=False)
    model(history, None, known)
    assert own.known is not None
    assert own.known.shape == own.history.shape == (B, H, N, 4)
    assert torch.equal(own.known, known[..., [0, 2, 1, 1]])
    model(history, None, None)
    assert own.known is None


def walks(world: World, share: float) -> None:
    """Random walks far from 0, of which some records are missing."""
    draw = np.random.default_rng(5)
    levels: dict[str, float] = {}
    for date, rows in world.rows.items():
        kept = []
        for at, node, _, volume in rows:
            levels[node] = levels.get(node, 500.0) + float(draw.normal())
            if draw.random() < share:
                kept.append((at, node, levels[node], volume))
        world.rows[date] = kept
        world.write(date)
    world.tree["pipeline"]["features"] = {"speed": {"aggregate": "last"}}
    world.prepare()


@pytest.mark.parametrize("model", [{"name": "nlinear"}, {"name": "dlinear"}])
def test_an_untrained_nlinear_errs_as_repeating_the_newest_observed_value_does(
    make_world: Callable[..., World], session_of: Callable[..., Any], model: dict[str, Any]
) -> None:
    world = make_world(6, split=SPLIT, missing=0.0, model=model)
    walks(world, 0.3)
    session = session_of(world)
    batch = next(iter(session.train.batches(0)))
    assert (batch.known_BHNF is not None) == (model["name"] == "nlinear")  # only who asks for it is given it
    config, dataset = world.settings.trainer, world.open()
    result = evaluate(config, dataset, split="test", baselines=["repeat"], model=("it", session.model))
    repeat, it = (row.scaled["mae"] for row in result.rows)
    assert (it == pytest.approx(repeat)) == (model["name"] == "nlinear")


def test_where_nothing_is_missing_no_mask_is_made(
    make_world: Callable[..., World], session_of: Callable[..., Any]
) -> None:
    world = make_world(6, split=SPLIT, missing=0.0, model={"name": "nlinear"})
    walks(world, 1.0)
    batch = next(iter(session_of(world).train.batches(0)))
    assert (batch.known_BHNF, batch.observed_BPNF) == (None, None)


@pytest.mark.parametrize(
    ("model", "fill", "told"),
    [
        ({"name": "nlinear"}, "none", True),
        ({"name": "nlinear"}, "forward", False),
        ({"name": "dlinear"}, "none", False),
        ({"name": "dlinear", "revin": True}, "none", True),
    ],
)
def test_missing_cells_that_nothing_fills_are_warned_of_where_a_model_anchors(
    make_world: Callable[..., World], capsys: pytest.CaptureFixture[str], model: dict[str, Any], fill: str, told: bool
) -> None:
    world = make_world(6, split=SPLIT, missing=0.0, model=model, training={"epochs": 1, "batch_size": 64})
    walks(world, 0.3)
    world.tree["pipeline"]["features"]["speed"]["fill"] = fill
    world.prepare()
    assert run(["train", "-c", str(world.config_file())]) == 0
    assert ("of the cells of 'speed' are missing" in (out := capsys.readouterr().out)) == told
    assert ("Set pipeline.features.speed.fill: forward" in out) == told
