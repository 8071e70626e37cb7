"""The optimizers of the configuration."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from dateshard.trainer.config import Training

KEPT = {"adam": 2, "adamw": 2, "sgd": 1}  # moments a weight; of sgd only with a momentum


def make_optimizer(training: Training, parameters: Iterable[torch.Tensor]) -> torch.optim.Optimizer | None:
    """Makes the configured optimizer; None for a model that is solved in closed form."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        return None
    rate, decay = training.learning_rate, training.weight_decay
    match training.optimizer:
        case "adam":
            return torch.optim.Adam(trained, lr=rate, weight_decay=decay)
        case "adamw":
            return torch.optim.AdamW(trained, lr=rate, weight_decay=decay)
        case "sgd":
            return torch.optim.SGD(trained, lr=rate, momentum=training.momentum, weight_decay=decay)


def moments_a_weight(training: Training) -> int:
    """Numbers that the optimizer keeps of each trained one."""
    return 0 if training.optimizer == "sgd" and not training.momentum else KEPT[training.optimizer]
