"""Imports that code of the user's own wrote before `dateshard` was the only name: `trainer.models` and its kind.

Only while such code may run is the name known, and a module of the user's own that is called so wins.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

PACKAGES = ("shardstore", "pipeline", "trainer")
MOVED = {"pipeline.formats": "pipeline.raw.formats"}  # what the documentation named, and where it is


class _Known(Loader):
    """Gives a module that is imported already, under another name; it stays what it is."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # the import has put its own there


class _FormerNames(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package = fullname.partition(".")[0]
        if package not in PACKAGES or not _is_ours(package, fullname):
            return None
        module = import_module(f"dateshard.{_now(fullname)}")
        return ModuleSpec(fullname, _Known(module), is_package=hasattr(module, "__path__"))


def _now(name: str) -> str:
    """Returns the module's name of today: `pipeline.raw.formats.csv` for `pipeline.formats.csv`."""
    old = next((old for old in MOVED if f"{name}.".startswith(f"{old}.")), None)
    return name if old is None else MOVED[old] + name[len(old) :]


def _is_ours(package: str, fullname: str) -> bool:
    """Whether the name leads to us: nobody else's package is imported, or would be found."""
    if package != fullname:
        return sys.modules.get(package) is import_module(f"dateshard.{package}")
    other = PathFinder.find_spec(package)
    ours = os.path.join(os.path.dirname(os.path.abspath(str(sys.modules["dateshard"].__file__))), package)
    return other is None or (
        other.origin is not None and os.path.realpath(os.path.dirname(other.origin)) == os.path.realpath(ours)
    )


def know() -> None:
    """Makes former names importable from here on; once is enough."""
    if not any(isinstance(finder, _FormerNames) for finder in sys.meta_path):
        sys.meta_path.insert(0, _FormerNames())
