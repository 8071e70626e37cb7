"""A checkpoint as one `.pth`, with the keys of the user's notes; and weights read from any such file.

Nothing here is needed to continue a run: a `.pth` is for other programs, which read it with
`torch.load(weights_only=True)`, and for `--init-from`. It is read in no other way here either.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from dateshard.shardstore.disk.durable import appearing
from dateshard.shardstore.errors import DamagedError, NotThereError, Where, refuse_special, shorten
from dateshard.trainer.checkpoint.checkpoint_folder import Checkpoint, verify
from dateshard.trainer.checkpoint.checkpoint_state import CheckpointState
from dateshard.trainer.config import Training
from dateshard.trainer.optimization.optimizer import make_optimizer

BUFFER_BYTES = 1 << 20


def export(saved: Checkpoint, path: Path) -> None:
    """Writes `path` durably, in place of what was there; the checkpoint is verified first and never touched.

    Memory: the tensors are mapped, not read; one of them is copied at a time.

    Raises:
        DamagedError: the checkpoint is. DiskFullError: `path` is as it was.
    """
    verify(saved)
    exported = content(saved)
    half = path.with_name(f".tmp-{uuid.uuid4().hex}.pth")  # a name that `tidy` knows
    with appearing(path, half) as temporary, open(temporary, "xb", buffering=BUFFER_BYTES) as file:
        out = _Out(file)
        torch.save(exported, cast(IO[bytes], out))
        if out.error is not None:
            raise out.error


class _Out:
    """A file for torch.save that keeps the first error to itself: none may fly through its C++ code."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """All of it, or nothing any more."""
        if self.error is None:
            try:
                self.file.write(data)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        """Left to whoever opened the file."""


def content(checkpoint: Checkpoint) -> dict[str, Any]:
    """The notes' keys, then what else is known. Epochs count from 1, as in the checkpoint's name."""
    state = checkpoint.state
    groups = {name.partition(".")[0]: _mapped(checkpoint.folder / name) for name in checkpoint.files}
    losses = {f"{name}_loss": loss for name, loss in state.losses.items()}
    return {
        **losses,
        "epoch": state.epoch + 1,
        "batch": state.batch,
        "total_batches": state.num_batches,
        "model_state_dict": groups["model"],
        "optimizer_state_dict": _optimizer(state, groups["model"], groups["optimizer"]),
        "train_loss": state.train_loss,
        "val_loss": state.val_loss,
        "losses": state.losses,
        "step": state.step,
        "checkpoint": checkpoint.name,
        "config": state.config,
    }


def _mapped(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        first = shorten((str(error) or type(error).__name__).splitlines()[0], 100)
        raise DamagedError(f"cannot be read: {first}", where=Where(file=str(path)), todo="Take another one") from None


def _optimizer(
    state: CheckpointState, model: Mapping[str, torch.Tensor], moments: Mapping[str, torch.Tensor]
) -> dict[str, Any] | None:
    """What the optimizer's own state_dict() gives: moments by the parameter's number, and its groups."""
    names = list(state.parameters or ()) or list(dict.fromkeys(name.rpartition("//")[0] for name in moments))
    parameters = [torch.empty_like(model[name], device="meta").requires_grad_() for name in names]
    optimizer = make_optimizer(Training.model_validate(state.config["training"]), parameters)
    if optimizer is None:
        return None
    held: dict[int, dict[str, torch.Tensor]] = {}
    for joined, tensor in moments.items():
        name, _, moment = joined.rpartition("//")
        held.setdefault(names.index(name), {})[moment] = tensor
    rate = {} if state.learning_rate is None else {"lr": state.learning_rate}
    groups = [{**group, **rate} for group in optimizer.state_dict()["param_groups"]]
    return {"state": dict(sorted(held.items())), "param_groups": groups}


def matches(path: Path, checkpoint: Checkpoint) -> bool:
    """Whether `path` holds exactly this checkpoint."""
    try:
        return _equal(read(path), content(checkpoint))
    except (NotThereError, DamagedError):
        return False


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        bits = [tensor.contiguous().view(-1).view(torch.uint8) for tensor in (left, right)]
        return (left.shape, left.dtype) == (right.shape, right.dtype) and torch.equal(*bits)
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(_equal, left, right))
    return type(left) is type(right) and left == right


def read(path: Path) -> Any:
    """What a `.pth` holds. Tensors, numbers and text alone are ever made of it: code in it is refused, never run.

    Raises:
        NotThereError, DamagedError: naming the file.
    """
    try:
        refuse_special(path)
        with open(path, "rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        where = Where(file=str(path))
        raise NotThereError(f"cannot be read: {error.strerror}", where=where, todo="Name another file") from None
    except Exception as error:  # whatever a file can make torch say
        raise _unusable(path, _reason(error)) from None


def _reason(error: Exception) -> str:
    text = str(error)
    if "Weights only load failed" in text or "weights_only" in text:
        return "it holds more than tensors, numbers and text, and that is never loaded"
    return shorten(text.splitlines()[0] if text else type(error).__name__, 100)


def _unusable(path: Path, reason: str) -> DamagedError:
    todo = "Name a file that torch.load(weights_only=True) reads, with {name: tensor} or a model_state_dict"
    return DamagedError(f"not a file of weights: {reason}", where=Where(file=str(path)), todo=todo)


def weights(path: Path) -> dict[str, torch.Tensor]:
    """The model's tensors of a `.pth`: of `model_state_dict` or `state_dict`, or {name: tensor} as it is.

    Raises:
        NotThereError, DamagedError: naming the file.
    """
    given = read(path)
    for key in ("model_state_dict", "state_dict"):
        if isinstance(given, dict) and isinstance(given.get(key), dict):
            given = given[key]
    if not isinstance(given, dict) or not given or not all(map(_is_weight, given.items())):
        raise _unusable(path, "it does not hold {name: tensor}")
    bare = all(name.startswith("module.") for name in given)  # of a model that was wrapped to run on several devices
    return {name.removeprefix("module.") if bare else name: tensor for name, tensor in given.items()}


def _is_weight(item: tuple[Any, Any]) -> bool:
    name, tensor = item
    plain = isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided and tensor.device.type == "cpu"
    return isinstance(name, str) and plain and not tensor.is_quantized


def misfit(given: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> str:
    """The first thing in which weights do not fit a model; empty if they fit."""
    for name, tensor in wanted.items():
        if name not in given:
            return f"'{shorten(name)}' is missing"
        if given[name].shape != tensor.shape:
            return f"'{shorten(name)}' is {_form(given[name])}, this model's is {_form(tensor)}"
    extra = _first(name for name in given if name not in wanted)
    return f"'{shorten(extra)}' is not one of this model's" if extra else ""


def _first(names: Iterable[str]) -> str:
    return next(iter(names), "")


def _form(tensor: torch.Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"
