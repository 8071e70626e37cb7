"""The one way from a batch to its forecast and losses: training, validation and trials pass here."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dateshard.trainer.data.batch import Batch
from dateshard.trainer.devices.precision import computed_in
from dateshard.trainer.optimization.objective import outputs, points_of
from dateshard.trainer.session import Session


@dataclass(frozen=True, slots=True)
class Forward:
    """A batch that went through the model.

    Attributes:
        batch: on the model's device; on the CPU the very same views.
        outputs: {head: [B, P, N, its channels]}.
        forecast: {head: [B, P, N, its targets, of a category its classes]}.
        sums: {head: (sum of its losses, number of observed elements)}.
    """

    batch: Batch
    outputs: dict[str, torch.Tensor]
    forecast: dict[str, torch.Tensor]
    sums: dict[str, tuple[torch.Tensor, torch.Tensor | float]]


def forward(session: Session, given: Batch) -> Forward:
    """Brings a batch to the device and through the model, in the mode that the model is in.

    A model that is being trained computes in `training.precision`, and all that is made of its outputs is float32.

    Raises:
        UsageError: a model of the user's own fails.
    """
    device = session.device
    # Without waiting: whoever asked for the batch reads its loss before its buffer is filled again.
    batch = given if device.type == "cpu" else given.to(device, non_blocking=True)
    with computed_in(session.config.training.precision if session.model.training else "fp32", device):
        out = {name: output.float() for name, output in outputs(session.model, batch, session.heads).items()}
    sums = {head.name: head.sums(out[head.name], batch) for head in session.heads}
    return Forward(batch, out, points_of(out, session.heads), sums)
