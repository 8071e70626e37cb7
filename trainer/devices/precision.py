"""Chooses the precision that a step's layers compute in; weights, losses, sums and every validation are float32 or float64."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from dateshard.shardstore.errors import UsageError
from dateshard.trainer.devices.device import computes_in_bfloat16

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def computed_in(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Has the layers called within compute in a precision where torch deems that safe (autocast)."""
    kind = HALF.get(precision)
    return nullcontext() if kind is None else torch.autocast(device.type, kind)


def refuse_unsupported(precision: str, device: torch.device) -> None:
    """Refuses a precision that the device would only imitate.

    Raises:
        UsageError: the accelerator is too old.
    """
    if precision == "bf16" and not computes_in_bfloat16(device):
        what = f"trainer.training.precision: bf16: the accelerator '{device}' does not compute in it"
        raise UsageError(what, todo="Set trainer.training.precision: fp16, or fp32")
