"""A model of one's own: `model: {name: my_package.module:build, options: {...}}`, and the check that every model passes.

`build(shape, config) -> nn.Module` is called once, after the seed is set. Legend: B batch, H history, P target steps,
N nodes, F inputs, C output channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from dateshard.shardstore.errors import UsageError, of_memory, shorten
from dateshard.shardstore.own_code.user_code import describe_error, load
from dateshard.trainer.config import ModelConfig
from dateshard.trainer.models.shape import Shape

TRIED = 2  # windows of the dry forward


def build_own(shape: Shape, config: ModelConfig) -> nn.Module:
    """What the named function returns.

    Raises:
        UsageError: it cannot be imported, fails, or returns no module with something to train.
    """
    make = load(config.name, "trainer.model.name")
    try:
        model = make(shape, config)
    except UsageError:
        raise
    except Exception as error:
        if failure := of_memory(error):
            raise failure from None
        what = f"trainer.model.name: {config.name} fails: {describe_error(error)}"
        raise UsageError(what, todo="Correct it; it is called as build(shape, config)") from None
    if not isinstance(model, nn.Module):
        what = f"trainer.model.name: {config.name} returned {_form(model)}, not a torch.nn.Module"
        raise UsageError(what, todo="Return the model")
    return model


def refuse_unfit(model: nn.Module, shape: Shape, name: str) -> None:
    """One forward in evaluation mode, without gradients, on batches laid out as real ones are.

    A lazy module has its parameters from then on.

    Raises:
        UsageError: it fails, or what it returns is not what training needs, names both shapes; or a checkpoint could not
            hold its state.
    """
    batch, future = _example(model, shape, TRIED)
    training = model.training
    try:
        with torch.no_grad():
            out = model.eval()(*batch, **future)
    except UsageError:
        raise
    except Exception as error:
        if failure := of_memory(error):
            raise failure from None
        what = f"the model '{name}' fails on a history of {_form(batch[0])} and codes {_form(batch[1])}: {describe_error(error)}"
        raise UsageError(what, todo="Correct it; a batch is a view and not contiguous: .reshape, not .view") from None
    finally:
        model.train(training)
    _refuse_form(out, shape, name)
    _refuse_state(model, name)


def _refuse_state(model: nn.Module, name: str) -> None:
    for key, tensor in model.state_dict().items():
        plain = (
            isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided and tensor.dtype is not torch.complex128
        )
        if not plain or tensor.is_quantized:
            what = (
                f"the model '{name}' keeps '{shorten(key)}', {_form(tensor)}, in its state: a checkpoint cannot hold it"
            )
            raise UsageError(what, todo="Keep plain tensors there (register_buffer; no get_extra_state, no complex128)")


def failure_in_training(model: nn.Module, shape: Shape, count: int) -> str:
    """Why the model cannot train on a batch of `count` windows, as BatchNorm cannot on one; empty if it can.

    Neither its weights nor its buffers change.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    training = model.training
    try:
        with torch.no_grad():
            functional_call(model.train(), buffers, *_example(model, shape, count))
    except Exception as error:
        if failure := of_memory(error):
            raise failure from None
        return str(error) if isinstance(error, UsageError) else describe_error(error)
    finally:
        model.train(training)
    return ""


def _example(
    model: nn.Module, shape: Shape, count: int
) -> tuple[tuple[torch.Tensor | None, ...], dict[str, torch.Tensor]]:
    """Makes an example input of zeros: what is given by place, and by name.

    History [B, H, N, F] is a view of whole windows; codes [B, W], what was observed of the history and what is known ahead
    come if the model asks for them."""
    window = shape.window
    device = next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
    whole = torch.zeros(count, window.length, shape.num_nodes, shape.num_inputs + 1, device=device)
    codes = torch.zeros(count, window.length, dtype=torch.int32, device=device)
    history = whole[:, : window.history, :, : shape.num_inputs]
    known = (torch.ones_like(history, dtype=torch.bool),) if getattr(model, "uses_known", False) else ()
    ahead = torch.zeros(count, window.target_steps, shape.num_nodes, len(shape.future_codes), device=device)
    future = {"future_BPNF": ahead} if getattr(model, "uses_future", False) else {}
    return (history, codes if getattr(model, "uses_codes", False) else None, *known), future


def _refuse_form(out: Any, shape: Shape, name: str) -> None:
    sizes = (TRIED, shape.window.target_steps, shape.num_nodes)
    wanted = {head: (*sizes, len(channels)) for head, channels in shape.heads.items()}
    if isinstance(out, Mapping):
        wrong = next((head for head in wanted if not _fits(out.get(head), wanted[head])), None)
        if wrong is not None:
            returned = (
                _form(out[wrong]) if wrong in out else f"none (it returned {', '.join(map(repr, out)) or 'nothing'})"
            )
            raise _misfit(name, f"for '{wrong}' float32 {list(wanted[wrong])}", returned)
    elif not _fits(out, (*sizes, shape.num_outputs)):
        heads = f", or a dict with a tensor for each of {', '.join(wanted)}" if len(wanted) > 1 else ""
        raise _misfit(name, f"float32 {[*sizes, shape.num_outputs]}{heads}", _form(out))


def _misfit(name: str, wanted: str, returned: str) -> UsageError:
    what = f"the model '{name}' must return {wanted}, and returned {returned}"
    return UsageError(what, todo="The axes are windows, target steps, nodes, channels (one a number, one a class)")


def _fits(value: Any, wanted: tuple[int, ...]) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.float32 and tuple(value.shape) == wanted


def _form(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return "None" if value is None else f"a {shorten(type(value).__name__)}"
