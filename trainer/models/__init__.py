"""Models, one file a family. `build` makes one by name from what the data look like.

Every model maps (history [B, H, N, Fi], codes [B, W] or None) to a forecast [B, P, N, Fo], all scaled. A module
attribute `uses_codes` says whether it asks for time codes.

Legend: B batch, H history, W window, P target steps, N nodes, Fi inputs, Fo targets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from shardstore.errors import UsageError
from trainer.config import ModelConfig
from trainer.models.dlinear import DLinear
from trainer.models.mlp import Mlp
from trainer.models.ridge import Ridge
from trainer.order import Window


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model must fit.

    Attributes:
        num_outputs: channels of the forecast: one a number, one a class of a categorical target.
        targets_in_inputs: each target's place among the inputs, or -1.
        numeric: whether every target is a number; then output k is target k.
    """

    window: Window
    num_nodes: int
    num_inputs: int
    num_outputs: int
    targets_in_inputs: tuple[int, ...]
    steps_per_day: int
    numeric: bool = True


def _mlp(shape: Shape, config: ModelConfig) -> nn.Module:
    return Mlp(
        shape.window.history * shape.num_inputs,
        (shape.window.target_steps, shape.num_outputs),
        shape.num_nodes,
        config.hidden_units,
        config.dropout_rate,
        anchor=shape.window.before,
        steps_per_day=shape.steps_per_day,
    )


def _dlinear(shape: Shape, config: ModelConfig) -> nn.Module:
    _needs_own_history(shape, "dlinear")
    return DLinear(shape.window.history, shape.window.target_steps, shape.targets_in_inputs, config.kernel)


def _ridge(shape: Shape, config: ModelConfig) -> nn.Module:
    _needs_own_history(shape, "ridge")
    return Ridge(shape.window.history, shape.window.target_steps, shape.targets_in_inputs)


def _needs_own_history(shape: Shape, name: str) -> None:
    if not shape.window.horizon:
        raise UsageError(
            f"{name} forecasts, it needs a horizon", todo="Set trainer.window.horizon, or take model.name: mlp"
        )
    if not shape.numeric:
        raise UsageError(f"{name} forecasts numbers, and a target is categorical", todo="Take model.name: mlp")
    if -1 in shape.targets_in_inputs:
        raise UsageError(
            f"{name} forecasts a target from its own history, but a target is not among the inputs",
            todo="Add the targets to trainer.inputs",
        )


BUILDERS: dict[str, Callable[[Shape, ModelConfig], nn.Module]] = {"mlp": _mlp, "dlinear": _dlinear, "ridge": _ridge}


def build(shape: Shape, config: ModelConfig) -> nn.Module:
    """A model with weights not yet drawn for training: the caller seeds before it calls.

    Raises:
        UsageError: the model cannot serve this window or these features.
    """
    return BUILDERS[config.name](shape, config)


def num_parameters(model: nn.Module) -> int:
    """Trainable numbers."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
