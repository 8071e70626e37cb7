"""Models, one file a family. `build` makes one by name from what the data look like.

Every model maps (history [B, H, N, Fi], codes [B, W] or None) to a forecast [B, P, N, C], all scaled; or to a dict with
a tensor for each of `training.losses`. A module attribute `uses_codes` says whether it asks for time codes, `uses_known`
whether it is also given which cells of the history were observed ([B, H, N, Fi] bool; None where nothing is missing),
`uses_future` whether it is given what is known ahead, by the name `future_BPNF` ([B, P, N, Fu], scaled).
docs/models.md says how to bring one's own; tests/contracts/test_models.py is what every model keeps.

Legend: B batch, H history, W window, P target steps, N nodes, Fi inputs, C output channels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from torch import nn

from dateshard.shardstore.errors import UsageError
from dateshard.trainer.config import ModelConfig, is_own
from dateshard.trainer.models.category_inputs import CategoricalInputs, width_of
from dateshard.trainer.models.cnn import Cnn
from dateshard.trainer.models.columns import Columns
from dateshard.trainer.models.dlinear import DLinear
from dateshard.trainer.models.known_futures import KnownFutures
from dateshard.trainer.models.mlp import Mlp
from dateshard.trainer.models.nlinear import NLinear
from dateshard.trainer.models.observed_inputs import ObservedInputs
from dateshard.trainer.models.own import build_own
from dateshard.trainer.models.recurrent import Recurrent
from dateshard.trainer.models.revin import RevIN
from dateshard.trainer.models.ridge import Ridge
from dateshard.trainer.models.several_outputs import with_several
from dateshard.trainer.models.shape import Shape
from dateshard.trainer.models.stid import Stid

Make = Callable[[Shape, ModelConfig], nn.Module]


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of model.

    Attributes:
        own_history: forecasts each target from its own history and from nothing else, so all of them must be numbers.
        closed_form: is solved, not trained.
    """

    make: Make
    own_history: bool = False
    closed_form: bool = False


def _of_sequences(make: Make) -> Family:
    """A family that reads steps: of a table, its columns."""
    return Family(
        lambda shape, config: (
            Columns(shape, lambda inner: make(inner, config)) if shape.columns else make(shape, config)
        )
    )


def _linear(make: Make, *, closed_form: bool = False) -> Family:
    def several(shape: Shape, config: ModelConfig) -> nn.Module:
        return with_several(lambda longer: make(longer, config), shape)

    return Family(make if closed_form else several, own_history=True, closed_form=closed_form)


def _dlinear(shape: Shape, config: ModelConfig) -> nn.Module:
    return DLinear(shape.window.history, shape.window.target_steps, shape.targets_in_inputs, config.kernel)


def _nlinear(shape: Shape, _config: ModelConfig) -> nn.Module:
    return NLinear(shape.window.history, shape.window.target_steps, shape.targets_in_inputs)


def _ridge(shape: Shape, _config: ModelConfig) -> nn.Module:
    return Ridge(shape.window.history, shape.window.target_steps, shape.targets_in_inputs)


FAMILIES: dict[str, Family] = {
    "mlp": Family(lambda shape, config: Mlp(shape, config.hidden_units, config.dropout_rate)),
    "stid": Family(lambda shape, config: Stid(shape, config.hidden_units, config.dropout_rate)),
    "cnn": _of_sequences(lambda shape, config: Cnn(shape, config.hidden_units, config.dropout_rate)),
    "lstm": _of_sequences(lambda shape, config: Recurrent("lstm", shape, config.hidden_units, config.dropout_rate)),
    "gru": _of_sequences(lambda shape, config: Recurrent("gru", shape, config.hidden_units, config.dropout_rate)),
    "dlinear": _linear(_dlinear),
    "nlinear": _linear(_nlinear),
    "ridge": _linear(_ridge, closed_form=True),
}
OWN = Family(build_own)


def build(shape: Shape, config: ModelConfig) -> nn.Module:
    """A model with weights not yet drawn for training: the caller seeds before it calls.

    Which cells were observed comes as inputs where `model.observed` asks for it, categorical inputs become embeddings,
    `model.revin` goes around these, and what is known ahead corrects the forecast of all; a model of one's own is given
    what is known ahead, if it asks.

    Raises:
        UsageError: the model cannot serve this window or these features, or one's own cannot be made.
    """
    family = OWN if is_own(config.name) else FAMILIES[config.name]
    if family.own_history:
        _refuse_other_history(shape, config.name)
    if config.observed and family.own_history:
        what = f"{config.name} reads each target's own values, and model.observed would be more inputs"
        raise UsageError(what, todo="Leave it out, or take model.name: mlp, stid, cnn, lstm or gru")
    if config.options and family is not OWN:
        what = f"trainer.model.options are for a model of your own, which '{config.name}' is not"
        raise UsageError(what, todo="Leave them out")
    if config.revin:
        _refuse_irreversible(shape, config.name, family)
    if family.own_history:
        model = family.make(shape, config)
    elif config.observed:
        model = ObservedInputs(_behind_categories(family.make, shape.with_observed(), config))
    else:
        model = _behind_categories(family.make, shape, config)
    if config.revin:
        model = RevIN(model, shape.outputs_in_inputs, shape.heads, affine=config.revin == "affine")
    knows = shape.future_codes and family is not OWN and not family.closed_form
    return KnownFutures(model, shape) if knows else model


def _behind_categories(make: Make, shape: Shape, config: ModelConfig) -> nn.Module:
    """The model, its categorical inputs embedded unless `embedding_width` is 0."""
    codes = shape.categorical_inputs
    if not codes or config.embedding_width == 0:
        return make(shape, config)
    widths = {place: config.embedding_width or width_of(count) for place, count in codes.items()}
    numbers = tuple(place for place in range(shape.num_inputs) if place not in codes)
    each = (1,) * len(numbers) + tuple(widths.values())
    inner = make(shape.with_inputs(numbers, sum(each), each if shape.columns else ()), config)
    return CategoricalInputs(inner, numbers, codes, widths)


def _refuse_other_history(shape: Shape, name: str) -> None:
    others = "Take model.name: mlp, stid, cnn, lstm or gru"
    if shape.columns:
        raise UsageError(f"{name} forecasts from a past, and the rows of a table have none", todo=others)
    if not shape.window.horizon:
        raise UsageError(f"{name} forecasts, it needs a horizon", todo=f"Set trainer.window.horizon. {others}")
    if not shape.numeric:
        raise UsageError(f"{name} forecasts numbers, and a target is categorical", todo=others)
    if -1 in shape.targets_in_inputs:
        raise UsageError(
            f"{name} forecasts a target from its own history, but a target is not among the inputs",
            todo="Add the targets to trainer.inputs",
        )


def _refuse_irreversible(shape: Shape, name: str, family: Family) -> None:
    todo = "Leave model.revin out"
    if family.closed_form:
        raise UsageError(f"{name} is solved in closed form, and model.revin is for models that are trained", todo=todo)
    if not shape.window.horizon:
        raise UsageError("model.revin is for forecasts, and trainer.window.horizon is 0", todo=todo)
    if max(shape.outputs_in_inputs) < 0:
        what = "model.revin normalises the targets that are numbers by their own history, and none of them is an input"
        raise UsageError(what, todo=f"Add the targets to trainer.inputs. {todo}")


def unused_of_nodes(name: str, static: Collection[str], num_edges: int) -> list[str]:
    """Sentences on what is known of nodes and a model does not read.

    Args:
        name: of the model. static: names of the static columns.
    """
    if is_own(name):
        return []
    edges = f"{name} does not read the {num_edges:,} edges between nodes: they are for models of your own"
    unused = [edges] if num_edges else []
    if not FAMILIES[name].own_history or not static:
        return unused
    return [*unused, f"{name} does not read the static columns ({', '.join(static)}): mlp, cnn, lstm and gru do"]


def num_parameters(model: nn.Module) -> int:
    """Counts a model's trainable weights."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
