"""Several output channels a target, as quantiles need them, of a family that forecasts each target from its own history.

Legend: B batch, P target steps, N nodes, T targets, C output channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn

from dateshard.trainer.models.around import Around
from dateshard.trainer.models.shape import Shape


class SeveralOutputs(Around):
    """Has the inner model forecast as many times the target steps as a target has channels, and lays them side by side.

    Args:
        counts: channels of each target; the inner model forecasts the most of them for all.
    """

    def __init__(self, inner: nn.Module, counts: Sequence[int]) -> None:
        super().__init__(inner)
        self.width = max(counts)
        self.chosen = [target * self.width + channel for target, count in enumerate(counts) for channel in range(count)]

    def forward(
        self, history_BHNF: torch.Tensor, codes_BW: torch.Tensor | None, known_BHNF: torch.Tensor | None = None
    ) -> torch.Tensor:
        steps = self.ask(history_BHNF, codes_BW, known_BHNF, {})
        assert isinstance(steps, torch.Tensor), "the families return one"
        apart = steps.reshape(steps.shape[0], -1, self.width, *steps.shape[2:])  # [B, P, width, N, T]
        return apart.permute(0, 1, 3, 4, 2).flatten(3)[..., self.chosen]


def with_several(make: Callable[[Shape], nn.Module], shape: Shape) -> nn.Module:
    """Makes a family of own histories for a shape, of whatever number of channels."""
    counts = [count for count, _ in shape.channels]
    if max(counts) == 1:
        return make(shape)
    longer = replace(shape.window, horizon=shape.window.target_steps * max(counts))
    return SeveralOutputs(make(replace(shape, window=longer)), counts)
