"""What a feature's values go through before statistics are taken of them, and back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
BLOCK_CELLS = 1 << 15  # of an array that are worked on at once


def in_blocks(shape: Sequence[int]) -> Iterator[slice]:
    """Yields rows of an array of that shape, some at a time: what is worked on stays in the processor's cache."""
    size = max(1, BLOCK_CELLS // max(math.prod(shape[1:]), 1))
    yield from (slice(first, first + size) for first in range(0, shape[0], size))


def transform(values_TNF: Floats, names: Sequence[str], out: Floats | None = None) -> Floats:
    """Applies each feature's transform (`none` | `log1p`); returns the array itself where nothing is to be done.

    Args:
        out: may be the values, which are then changed; None: a copy is made where something is to be done.
    """
    if all(name == "none" for name in names):
        return values_TNF
    changed = values_TNF.copy() if out is None else out
    for index, name in enumerate(names):
        if name == "log1p":
            np.log1p(values_TNF[..., index], out=changed[..., index])
    return changed


def untransform(values: Floats, names: Sequence[str]) -> Floats:
    """The inverse of `transform`."""
    if all(name == "none" for name in names):
        return values
    changed = values.copy()
    for index, name in enumerate(names):
        if name == "log1p":
            changed[..., index] = np.expm1(values[..., index])
    return changed
