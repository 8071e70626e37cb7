"""What makes a training faster and nothing else: a compiled forward, data that lie on the device. No run is judged by it."""

from __future__ import annotations

import os
import shutil
import sysconfig
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from dateshard.shardstore.errors import UsageError, counted
from dateshard.trainer.config import Trainer
from dateshard.trainer.data.reader import Reader
from dateshard.trainer.devices.device import free_bytes

GRAPHS = 64  # of one model: a batch's size, training or not; torch falls back to plain calls after 8


def without_acceleration(config: Trainer) -> Trainer:
    """Returns the configuration of the same run for a look at it: nothing is compiled, and nothing is made resident."""
    loading = config.loading.model_copy(update={"resident_on": None})
    training = config.training.model_copy(update={"compile": False})
    return config.model_copy(update={"loading": loading, "training": training})


def compile_forward(model: nn.Module, device: torch.device) -> None:
    """Has a model's forward compiled when it is first called; its parameters keep their names.

    Every size of a batch has a graph of its own, so that which one came before changes no bit.

    Raises:
        UsageError: there is nothing to compile it with.
    """
    if missing := _missing(device):
        what = f"trainer.training.compile: torch needs {missing} to compile a model for {device.type}"
        raise UsageError(what, todo="Install it, or leave trainer.training.compile out")
    with warnings.catch_warnings():  # torch's own, of parts of itself
        warnings.simplefilter("ignore")
        import torch._dynamo
        import torch._inductor.compile_fx  # seconds, which only this takes

    torch._dynamo.config.recompile_limit = GRAPHS
    model.compile(dynamic=False)


def _missing(device: torch.device) -> str:
    """What there is not here to compile for a device; empty if all is there."""
    compiler = os.environ.get("CXX") or "g++"
    if device.type != "cpu":
        return "" if find_spec("triton") else "the package triton"
    if shutil.which(compiler) is None:
        return f"a C++ compiler ('{compiler}' is not there; CXX names another)"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return "" if header.exists() else f"Python's headers (python3-dev; {header} is not there)"


def refuse_unresident(readers: Sequence[Reader], config: Trainer, device: torch.device, share: int) -> None:
    """Refuses to make resident what does not fit.

    Args:
        share: processes of this machine among which the memory budget is divided.

    Raises:
        UsageError: with what it takes and what there is.
    """
    if not config.loading.resident_on:
        return
    free, wanted = free_bytes(device), sum(reader.resident_bytes for reader in readers)
    there = config.loading.memory_budget // share * len(readers) if free is None else free
    if wanted <= there:
        return
    have, todo = f"{there / 1e6:,.3f} MB are free on {device}", "Leave resident_on out (the same batches)"
    if free is None:
        have = (
            f"trainer.loading.memory_budget allows {there / 1e6:,.3f} MB, of {counted(len(readers), 'reader')} together"
        )
        todo += ", or allow a larger budget"
    what = f"trainer.loading.resident_on: device takes {wanted / 1e6:,.3f} MB for all windows, and {have}"
    raise UsageError(what, todo=todo)
