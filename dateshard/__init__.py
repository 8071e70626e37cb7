"""The front door: what a person or a client touches. Names are loaded on first use, so that `--help` stays quick."""

from __future__ import annotations

from importlib import import_module
from typing import Any

SENTINEL = "dateshard:dateshard"
__version__ = "0.1.0"
_LAZY = {
    "open": ("dateshard.notebook", "open_dataset"),
    "predict": ("dateshard.judging.prediction", "predict"),
    "train": ("trainer.loop", "train"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'dateshard' has no attribute '{name}'")
    module, attribute = _LAZY[name]
    return getattr(import_module(module), attribute)
