"""Chooses the precision that a step's layers compute in; weights, losses, sums and every validation are float32 or float64."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from dateshard.shardstore.errors import UsageError
from dateshard.trainer.config import Trainer
from dateshard.trainer.devices.device import computes_in_bfloat16
from dateshard.trainer.models.own import TRIED, failure_in_training
from dateshard.trainer.models.shape import Shape

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def computed_in(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Has the layers called within compute in a precision where torch deems that safe (autocast)."""
    kind = HALF.get(precision)
    return nullcontext() if kind is None else torch.autocast(device.type, kind)


def refuse_uncomputed(model: nn.Module, shape: Shape, config: Trainer, device: torch.device) -> None:
    """Refuses a precision that the device, or one of the model's layers on it, does not compute in.

    Raises:
        UsageError: naming the model and the precision.
    """
    precision = config.training.precision
    if precision == "fp32":
        return
    why = "it would only imitate it"
    if precision == "fp16" or computes_in_bfloat16(device):
        with computed_in(precision, device):
            why = failure_in_training(model, shape, TRIED)
    if why:
        what = f"the model '{config.model.name}' cannot be trained in {precision} on {device.type}: {why}"
        other = "bf16, or fp32" if precision == "fp16" else "fp32"
        raise UsageError(what, todo=f"Set trainer.training.precision: {other}")
