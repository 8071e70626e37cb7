"""What a feature's values go through before statistics are taken of them, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


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
