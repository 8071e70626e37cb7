"""A package's public names, loaded on first use: importing the package costs nothing, and `__all__` says what is public."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Returns a `__getattr__` for a package that loads its public names on first use.

    Args:
        names: {public name: module below the package in which it stands by that name, or `module:other_name`}.
    """

    def load(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        module, _, attribute = names[name].partition(":")
        return getattr(import_module(f"{package}.{module}"), attribute or name)

    return load
