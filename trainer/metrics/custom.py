"""A user's own metric: `my.module:function`, called with the sampled targets and predictions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dateshard.shardstore.errors import shorten
from dateshard.shardstore.own_code import user_code
from dateshard.trainer.metrics.sums import finite

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Custom:
    """Calls function(targets, predictions) or function(targets, predictions, observed) -> {name: number}.

    Both are [S, P, N, T] float64 in raw units, a categorical target as its code; `observed` is bool of the same
    shape. A function that does not ask for it finds NaN where nothing was observed.
    """

    name: str
    function: Callable[..., Any]
    masked: bool

    def call(self, targets: Array, predictions: Array, observed: Array) -> dict[str, Any]:
        """Returns {"metrics": {name: number or None}, "error": None or what went wrong}; whatever the function does."""
        try:
            if self.masked:
                returned = self.function(targets, predictions, observed)
            else:
                nothing = np.where(observed, 0.0, np.nan)
                returned = self.function(targets + nothing, predictions + nothing)
            return {"metrics": _numbers(returned), "error": None}
        except Exception as error:
            said = shorten(str(error).splitlines()[0] if str(error) else "", 200)
            return {"metrics": {}, "error": f"{self.name}: {type(error).__name__}: {said}"}


def _numbers(returned: Any) -> dict[str, float | None]:
    if not isinstance(returned, Mapping):
        raise TypeError(f"returned {type(returned).__name__}, not a dict of numbers")
    return {str(name): finite(float(value)) for name, value in returned.items()}


def load(path: str) -> Custom:
    """The function named `my.module:function`; modules of the working directory are found too.

    Raises:
        UsageError: it cannot be imported or called; said before anything is trained.
    """
    function = user_code.load(path, "trainer.metrics.custom")
    return Custom(path, function, _takes_observed(function))


def _takes_observed(function: Callable[..., Any]) -> bool:
    try:
        return "observed" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # written in C, without a signature
        return False
