"""The optimizers of the configuration."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

import torch
from torch import nn

from dateshard.trainer.config import Training

KEPT = {"adam": 2, "adamw": 2, "sgd": 1}  # moments a weight; of sgd only with a momentum


def make_optimizer(training: Training, parameters: Iterable[torch.Tensor]) -> torch.optim.Optimizer | None:
    """Makes the configured optimizer; None for a model that is solved in closed form."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        return None
    _keep_compiler_away()
    rate, decay = training.learning_rate, training.weight_decay
    match training.optimizer:
        case "adam":
            return torch.optim.Adam(trained, lr=rate, weight_decay=decay)
        case "adamw":
            return torch.optim.AdamW(trained, lr=rate, weight_decay=decay)
        case "sgd":
            return torch.optim.SGD(trained, lr=rate, momentum=training.momentum, weight_decay=decay)


def update(optimizer: torch.optim.Optimizer) -> None:
    """Changes the weights as `optimizer.step()` does, without its marks for torch's profiler and compiler.

    They import the compiler, which takes longer than the training of a small model.
    """
    with torch.no_grad():
        inspect.unwrap(type(optimizer).step)(optimizer)


def total_norm(gradients: list[torch.Tensor]) -> torch.Tensor:
    """The norm over all gradients, the bits of torch's own function; of one type without grouping them by it first."""
    if len({gradient.dtype for gradient in gradients}) != 1:
        return nn.utils.get_total_norm(gradients)
    norm: torch.Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    return norm


def clear_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Forgets all gradients, as `optimizer.zero_grad()` does, without the mark for torch's profiler."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def _keep_compiler_away() -> None:
    """Lets torch make optimizers without importing its compiler only to tell it not to compile some methods of theirs.

    torch looks for this mark first. Where another version has another one, it imports, and all works as well.
    """
    for name in ("add_param_group", "load_state_dict", "state_dict"):
        method = inspect.unwrap(getattr(torch.optim.Optimizer, name))
        if not hasattr(method, "__dynamo_disable"):
            method.__dynamo_disable = method


def moments_a_weight(training: Training) -> int:
    """Numbers that the optimizer keeps of each trained one."""
    return 0 if training.optimizer == "sgd" and not training.momentum else KEPT[training.optimizer]
