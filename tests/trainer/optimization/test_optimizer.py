"""Optimizers are torch's own, step for step, without its compiler."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from dateshard.trainer.config import Training
from dateshard.trainer.optimization.optimizer import clear_gradients, make_optimizer, total_norm, update

CHOICES: list[dict[str, Any]] = [
    {"optimizer": "adam", "weight_decay": 0.1},
    {"optimizer": "adamw", "weight_decay": 0.1},
    {"optimizer": "sgd", "momentum": 0.9},
]


@pytest.mark.parametrize("chosen", CHOICES, ids=lambda chosen: chosen["optimizer"])
def test_an_update_is_a_step_of_torch_to_the_bit(chosen: dict[str, Any]) -> None:
    torch.manual_seed(7)
    ours = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    theirs = copy.deepcopy(ours)
    by_us, by_torch = (make_optimizer(Training(**chosen), model.parameters()) for model in (ours, theirs))
    assert by_us
    assert by_torch
    for _ in range(4):
        given = torch.randn(5, 3)
        clear_gradients(by_us)
        by_torch.zero_grad()
        for model in (ours, theirs):
            model(given).square().mean().backward()
        update(by_us)
        by_torch.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in ours.parameters())
    clear_gradients(by_us)
    assert all(parameter.grad is None for parameter in ours.parameters())


def test_a_training_step_does_not_import_the_compiler() -> None:
    """It takes longer than the training of a small model."""
    script = """
import sys, torch
from dateshard.trainer.config import Training
from dateshard.trainer.optimization.optimizer import clear_gradients, make_optimizer, total_norm, update
weight = torch.nn.Parameter(torch.ones(2))
optimizer = make_optimizer(Training(), [weight])
weight.square().sum().backward()
update(optimizer)
clear_gradients(optimizer)
optimizer.load_state_dict(optimizer.state_dict())
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize(
    "kinds", [(torch.float32, torch.float32), (torch.float32, torch.float64)], ids=["one type", "two"]
)
def test_the_norm_of_gradients_is_torchs_own_to_the_bit(kinds: tuple[torch.dtype, ...]) -> None:
    torch.manual_seed(7)
    model = nn.ModuleList(nn.Linear(31, 17, dtype=kind) for kind in (*kinds, kinds[0]))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    gradients = [parameter.grad for parameter in model.parameters()]
    assert torch.equal(total_norm(gradients), nn.utils.get_total_norm(gradients))
    assert total_norm([]) == 0
