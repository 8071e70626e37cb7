"""What a model in closed form has no place for: refused before anything is read."""

from __future__ import annotations

from collections.abc import Sequence

from dateshard.shardstore.errors import UsageError
from dateshard.trainer.config import Trainer
from dateshard.trainer.optimization.objective import DISTRIBUTIONAL, Head

TRAINED = "or take model.name: nlinear, which is trained"


def refuse_solved(config: Trainer, heads: Sequence[Head]) -> None:
    """Refuses a closed form for what only steps have: weights, a precision, or a loss that asks more than a forecast.

    Raises:
        UsageError: naming it.
    """
    if config.model.name != "ridge":
        return
    training, other = config.training, next((head.loss for head in heads if head.loss in DISTRIBUTIONAL), None)
    if other is not None:
        what = f"ridge is solved for the squared error in closed form, and trainer.training's loss is {other}"
        raise UsageError(what, todo="Take mse, mae or huber; or model.name: nlinear, which is trained")
    if training.weights is not None:
        what = "ridge is solved in closed form, in which trainer.training.weights have no place"
        raise UsageError(what, todo=f"Leave them out; {TRAINED}")
    if training.precision != "fp32":
        what = f"ridge is solved in closed form, in float64, and trainer.training.precision is {training.precision}"
        raise UsageError(what, todo=f"Leave it out; {TRAINED}")
    if training.compile:
        what = "ridge is solved in closed form: trainer.training.compile has nothing to compile"
        raise UsageError(what, todo=f"Leave it out; {TRAINED}")
