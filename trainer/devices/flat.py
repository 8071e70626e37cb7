"""Many tensors as a few long ones, so that processes exchange them at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

Kind = tuple[torch.dtype, torch.device]
Flat = dict[Kind, torch.Tensor]  # one of each kind of number, in memory of its own


def flatten(tensors: Sequence[torch.Tensor]) -> Flat:
    """Copies tensors, each kind of number into one row."""
    kinds = dict.fromkeys((tensor.dtype, tensor.device) for tensor in tensors)
    return {kind: torch.cat([t.detach().reshape(-1) for t in tensors if (t.dtype, t.device) == kind]) for kind in kinds}


def parts(flat: Flat, like: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yields views of a flat one in the shapes of the tensors that it was made of."""
    at = dict.fromkeys(flat, 0)
    for tensor in like:
        kind = (tensor.dtype, tensor.device)
        yield flat[kind][at[kind] : at[kind] + tensor.numel()].view(tensor.shape)
        at[kind] += tensor.numel()


def fill(tensors: Sequence[torch.Tensor], flat: Flat) -> None:
    """Copies a flat one back into the tensors that it was made of."""
    for tensor, value in zip(tensors, parts(flat, tensors), strict=True):
        tensor.copy_(value)
