"""A loss of one's own, named `my_module:loss`, and weights of targets and of target steps.

    loss(forecast, target, observed) -> a scalar, the mean over what was observed; or a tensor with each element's loss

All three are [B, P, N, F] tensors on the model's device: scaled float32, scaled float32, bool. Where `observed` is False,
`target` holds what fill left, or anything.

Legend: B batch, P target steps, N nodes, F targets of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from dateshard.shardstore.errors import UsageError, of_memory
from dateshard.shardstore.own_code.user_code import describe_error
from dateshard.trainer.config import LossWeights

OwnLoss = Callable[..., Any]
Weights = tuple[tuple[float, ...], tuple[float, ...]]  # of the targets of a head, and of the steps; empty: all 1


def losses_of(
    own: OwnLoss, name: str, tensors: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None], *, weighed: bool
) -> torch.Tensor:
    """Returns the loss of each element, [B, P, N, F]; a scalar is the loss of all of them.

    Args:
        tensors: forecast, target, and which were observed; None: all.
        weighed: elements have weights, which a scalar has no place for.

    Raises:
        UsageError: the function fails, or returns no such tensor.
    """
    forecast, target, mask = tensors
    observed = torch.ones_like(target, dtype=torch.bool) if mask is None else mask
    try:
        losses = own(forecast, target, observed)
    except Exception as error:
        if failure := of_memory(error):
            raise failure from None
        what = f"the loss '{name}' fails on tensors {list(forecast.shape)}: {describe_error(error)}"
        raise UsageError(what, todo="Correct it; it is called as loss(forecast, target, observed)") from None
    if not isinstance(losses, torch.Tensor) or losses.shape not in ((), forecast.shape):
        form = list(losses.shape) if isinstance(losses, torch.Tensor) else type(losses).__name__
        what = f"the loss '{name}' must return a scalar or a tensor {list(forecast.shape)}, and returned {form}"
        raise UsageError(what, todo="Return the mean, or the loss of each element")
    if weighed and not losses.shape:
        what = f"the loss '{name}' returns a scalar, and trainer.training.weights are of its elements"
        raise UsageError(what, todo="Return the loss of each element, or leave the weights out")
    return losses.expand(forecast.shape)


def weights_of(weights: LossWeights | None, names: Sequence[str], chosen: Sequence[int]) -> Weights:
    """Returns the weights of some of the targets and of the steps, both 1 on average over all targets and all steps.

    Raises:
        UsageError: a name that is no target, or weights that are all 0.
    """
    if weights is None:
        return (), ()
    if stray := sorted(set(weights.targets) - set(names)):
        what = (
            f"trainer.training.weights.targets names '{stray[0]}', which is not one of the targets ({', '.join(names)})"
        )
        raise UsageError(what, todo="Correct the name, or leave it out")
    of_targets = _mean_one([weights.targets.get(name, 1.0) for name in names], "targets")
    steps = () if weights.steps is None else _mean_one(weights.steps, "steps")
    return tuple(of_targets[place] for place in chosen), steps


def _mean_one(weights: Sequence[float], which: str) -> tuple[float, ...]:
    if not sum(weights):
        raise UsageError(
            f"trainer.training.weights.{which} are all 0: nothing would be learned", todo="Give one of them more"
        )
    return tuple(weight * len(weights) / sum(weights) for weight in weights)


def weighed(losses_BPNF: torch.Tensor, weights: Weights) -> torch.Tensor:
    """Returns losses times the weights of their targets and steps."""
    of_targets, of_steps = weights
    if of_targets:
        losses_BPNF = losses_BPNF * losses_BPNF.new_tensor(of_targets)
    if of_steps:
        losses_BPNF = losses_BPNF * losses_BPNF.new_tensor(of_steps)[:, None, None]
    return losses_BPNF


def refuse_other_steps(weights: LossWeights | None, num_steps: int) -> None:
    """Refuses weights of steps that are not one for each target step.

    Raises:
        UsageError: naming both numbers.
    """
    if weights is not None and weights.steps is not None and len(weights.steps) != num_steps:
        what = f"trainer.training.weights.steps has {len(weights.steps)} weights, and a window {num_steps} target steps"
        raise UsageError(what, todo="Give one for each step, or leave them out")
