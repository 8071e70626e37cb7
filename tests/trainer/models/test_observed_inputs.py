"""Which cells were observed, as inputs: value by value, and that a model learns what no value tells."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dateshard.shardstore.errors import UsageError
from dateshard.trainer.config import ModelConfig
from dateshard.trainer.data.order import Window
from dateshard.trainer.models import build
from dateshard.trainer.models.observed_inputs import ObservedInputs
from dateshard.trainer.models.shape import Shape
from tests.trainer.runs.test_resume import Lab, Make, differing

SHAPE = Shape(window=Window(4, 1), num_nodes=2, num_inputs=2, num_outputs=1, targets_in_inputs=(0,), steps_per_day=24)


class Echo(nn.Module):
    """Gives back what it is given."""

    def __init__(self, *, known: bool) -> None:
        super().__init__()
        self.uses_known = known

    def forward(self, *given: Any) -> Any:
        return given


@pytest.mark.parametrize("known", [True, False])
def test_a_mask_stands_beside_each_input(known: bool) -> None:
    history = torch.arange(16.0).reshape(1, 4, 1, 4)[..., :2]
    mask = torch.tensor([[1, 0], [0, 0], [1, 1], [0, 1]], dtype=torch.bool).reshape(1, 4, 1, 2)
    model = ObservedInputs(Echo(known=known))
    given, _, *also = model(history, None, mask)
    assert torch.equal(given[..., :2], history)
    assert torch.equal(given[..., 2:], mask.float())
    assert len(also) == known
    assert not known or torch.equal(also[0], torch.cat([mask, torch.ones_like(mask)], dim=-1))
    whole, *_ = model(history, None, None)
    assert (whole[..., 2:] == 1).all()


@pytest.mark.parametrize("name", ["mlp", "stid", "cnn", "lstm", "gru"])
def test_a_family_learns_from_the_mask_what_no_value_tells(name: str) -> None:
    torch.manual_seed(1)
    mask = torch.rand(256, 4, 2, 2) < 0.5
    history, codes = torch.zeros(256, 4, 2, 2), torch.zeros(256, 5, dtype=torch.int32)
    target = mask[:, -1, :, :1].float()[:, None]
    losses = {}
    for observed in (True, False):
        model = build(SHAPE, ModelConfig(name=name, hidden_units=(8,), dropout_rate=0.0, observed=observed))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
        for _ in range(120):
            optimizer.zero_grad()
            loss = ((model(history, codes, *((mask,) if observed else ())) - target) ** 2).mean()
            loss.backward()
            optimizer.step()
        losses[observed] = float(loss.detach())
    assert losses[True] < 0.02
    assert losses[False] > 0.2  # the variance of the coin


@pytest.mark.parametrize("name", ["dlinear", "nlinear", "ridge"])
def test_linear_families_of_own_histories_refuse_it(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} reads each target's own values"):
        build(SHAPE, ModelConfig(name=name, observed=True))


def test_a_training_with_masks_resumes_to_the_same_bits(make_world: Make) -> None:
    world = make_world(5, missing=0.5, split={"train": "2024-03-01..2024-03-04", "validation": "2024-03-05"})
    world.prepare()
    lab, model = Lab(world), {"name": "gru", "hidden_units": [4], "observed": True}
    whole = lab.leg("whole", model=model)
    lab.leg("cut", 3, model=model)
    assert differing(lab.leg("cut", resume="cut", model=model), whole) == []
