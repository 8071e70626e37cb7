"""Device choice, and memory that a device copies into. The only file that names cuda.

The accelerator paths are written with care and untested on hardware.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from dateshard.shardstore.errors import UsageError


def choose(name: str, local_rank: int | None = None) -> torch.device:
    """Chooses a device by name; `auto` takes an accelerator where there is one.

    Args:
        local_rank: of several processes on this machine, each of which takes an accelerator of its own.

    Raises:
        UsageError: the device does not exist here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and local_rank is not None:
        name = f"cuda:{local_rank}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"device '{name}' cannot be used: {str(error).splitlines()[0]}", todo="Use auto or cpu"
        ) from None
    return device


def count_accelerators() -> int:
    """How many accelerators this machine has."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def compute_in_one_thread() -> None:
    """Makes the order of additions within an operation that of one thread, from here on in this process."""
    torch.set_num_threads(1)


def backend_of(device: torch.device) -> str:
    """Names what carries tensors from process to process on such a device."""
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 itself; processors do, if slowly."""
    return device.type != "cuda" or bool(torch.cuda.is_bf16_supported(including_emulation=False))


def describe() -> tuple[str, str]:
    """Returns (what torch is built for, `cpu` or with a version; the accelerator it finds here, or nothing)."""
    version = torch.version.cuda
    name = torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""
    return (f"cuda {version}" if version else "cpu"), name


def reseed(seed: int) -> None:
    """Seeds every generator that a step may draw from. 1 us on CPU, where torch.manual_seed costs 117."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)


def pinned(num_bytes: int) -> NDArray[np.uint8]:
    """Host memory that an accelerator copies into by itself."""
    return pinned_bytes(num_bytes).numpy()


def pinned_bytes(num_bytes: int) -> torch.Tensor:
    """Host memory that an accelerator copies from, and into, by itself."""
    return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)


def bytes_on(device: torch.device, num_bytes: int) -> torch.Tensor:
    """Memory of a device."""
    return torch.empty(num_bytes, dtype=torch.uint8, device=device)


def free_bytes(device: torch.device) -> int | None:
    """How much memory an accelerator has left; None of the processor, which has the machine's."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def empty_cache() -> None:
    """Gives back the accelerator's memory that no tensor uses."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def peak_device_bytes() -> int:
    """The most that this process's tensors ever took of the accelerator's memory, 0 without one."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0  # type: ignore[no-untyped-call]


def wait_for_copies() -> None:
    """Returns when what was copied from an accelerator without waiting is there."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
