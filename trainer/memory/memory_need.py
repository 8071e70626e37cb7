"""What a training must hold, worked out before any of it is there: too much is one sentence, and no failed allocation.

A lower bound: weights, gradients and moments, two batches a reader, what the hidden layers keep of one, the sample. What
is refused cannot fit; what is not refused may still turn out too large for what else the machine does.

Legend: B batch, W window steps, P target steps, N nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from resource import RLIM_INFINITY, RLIMIT_AS, RLIMIT_DATA, getrlimit
from typing import Any

import psutil
import torch

from dateshard.shardstore.commands import command
from dateshard.shardstore.errors import UsageError
from dateshard.trainer.config import ModelConfig, Trainer, is_own
from dateshard.trainer.models import build
from dateshard.trainer.models.columns import WIDTH
from dateshard.trainer.models.shape import Shape
from dateshard.trainer.optimization.optimizer import moments_a_weight

FLOAT = 4
BEYOND = 1 << 63  # more bytes than torch can count
GATES, EMBEDDED = 8, 1024  # a layer has at most so many matrices of its widths, a node or category so many numbers
FEW = 1 << 28  # weights: below, nobody need count them (a second, most of it importing)
BY_STEP = ("cnn", "lstm", "gru")  # keep their hidden layers for every step of the history, or column of a table
SIZES = ("model.hidden_units", "training.batch_size", "window.history", "window.horizon", "metrics.buffer_bytes")
CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What the data give: windows of the training split, numbers of a step, whether cells are missing, readers.

    `processes`: that share the machine and the batches, each with weights of its own.
    """

    windows: int
    row_values: int
    mask: bool
    readers: int
    processes: int = 1


def machine_bytes() -> int:
    """The memory that there is for this process: the machine's, its container's, or a limit set on the process."""
    limits = [int(psutil.virtual_memory().total)]
    limits += [limit for kind in (RLIMIT_AS, RLIMIT_DATA) if (limit := getrlimit(kind)[0]) != RLIM_INFINITY]
    for path in CGROUPS:
        with suppress(OSError, ValueError):  # there is none, or it says `max`
            limits.append(int(Path(path).read_text()))
    return min(limits)


def needed(config: Trainer, shape: Shape, counts: Counts) -> dict[str, int]:
    """Returns {part: bytes} that a training holds at least, all its processes of a machine together."""
    training, window, moments = config.training, shape.window, moments_a_weight(config.training)
    batch = max(1, min(training.batch_size, counts.windows))
    cells, targets = counts.row_values * FLOAT, shape.num_nodes * shape.num_outputs
    row = window.length * (cells + FLOAT) + (window.target_steps * counts.row_values if counts.mask else 0)
    window_sample = 9 * window.target_steps * targets
    sampled = min(counts.windows, config.metrics.buffer.train * batch, config.metrics.buffer_bytes // window_sample)
    steps = (len(shape.columns) or window.history) if config.model.name in BY_STEP else 1
    layers = 0 if is_own(config.model.name) else sum(config.model.hidden_units) * shape.num_nodes * steps
    return {
        "weights, gradients and moments": min(
            BEYOND, weights_bytes(config.model, shape) * (2 + moments) * counts.processes
        ),
        "batches": 2 * counts.readers * batch * row,
        "layers and forecasts of a batch": 2 * batch * (layers + window.target_steps * targets) * FLOAT,
        "sample": sampled * window_sample if config.metrics.custom else 0,
    }


def weights_bytes(model: ModelConfig, shape: Shape) -> int:
    """Returns the bytes of the weights, 0 for those of the user's own model.

    Exact where they may be many: the model is built without its memory."""
    if is_own(model.name):
        return 0
    window, width = shape.window, sum(model.hidden_units) + EMBEDDED * (1 + len(shape.categorical_inputs))
    inputs = len(shape.columns) * WIDTH if model.name in BY_STEP and shape.columns else shape.num_inputs
    ends = window.history * inputs + window.target_steps * shape.num_outputs
    if GATES * (width + ends) ** 2 + EMBEDDED * (shape.num_nodes + sum(shape.input_codes)) < FEW:
        return 0
    try:
        with torch.device("meta"):
            return sum(tensor.nbytes for tensor in build(shape, model).state_dict().values())
    except (RuntimeError, TypeError, OverflowError):
        return BEYOND


def refuse_too_large(config: Trainer, parts_of: Callable[[Trainer], Mapping[str, int]]) -> None:
    """Refuses a training that cannot fit into memory.

    Raises:
        UsageError: a training of these settings cannot fit, naming the key that asks for most of it.
    """
    parts, there = parts_of(config), min(machine_bytes(), config.training.memory_limit or BEYOND)
    total = min(BEYOND, sum(parts.values()))
    if total <= there:
        return
    key = min(SIZES, key=lambda name: sum(parts_of(_with_default(config, name)).values()))
    largest = max(parts, key=lambda name: parts[name])
    value = _leaf(config.model_dump(mode="json"), key)
    raise UsageError(
        f"trainer.{key}: {value} asks for {size(total)} of memory ({largest} {size(parts[largest])}), "
        f"and there are {size(there)}",
        todo=f"Make it smaller; {command('estimate', config=True)} says what a training takes",
    )


def size(num_bytes: int) -> str:
    """Writes a size as `1.6 MB`, `1.6 GB`, `16,000 GB`."""
    if num_bytes < 1e9:
        return f"{num_bytes / 1e6:,.1f} MB"
    return f"{'more than ' if num_bytes >= BEYOND else ''}{num_bytes / 1e9:,.{1 if num_bytes < 1e11 else 0}f} GB"


def _with_default(config: Trainer, key: str) -> Trainer:
    section, _, name = key.partition(".")
    inner = getattr(config, section)
    default = type(inner).model_fields[name].default
    return config.model_copy(update={section: inner.model_copy(update={name: default})})


def _leaf(tree: Mapping[str, Any], key: str) -> Any:
    section, _, name = key.partition(".")
    return tree[section][name]
