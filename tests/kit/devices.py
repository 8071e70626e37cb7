"""The devices that a test runs on: the processor in any case, an accelerator where there is one (`make test-gpu`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from dateshard.trainer.devices.device import count_accelerators

NONE = "there is no accelerator here"
GPU = (pytest.mark.gpu, pytest.mark.skipif(not count_accelerators(), reason=NONE))
TWO_GPUS = (pytest.mark.gpu, pytest.mark.skipif(count_accelerators() < 2, reason="there are no two accelerators here"))
DEVICES = ("cpu", pytest.param("cuda", marks=GPU))


@contextmanager
def deterministic(device: str) -> Iterator[None]:
    """Has an accelerator add in one order, as a run that is to be repeated to the bit asks for."""
    if device == "cpu":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
