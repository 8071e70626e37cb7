"""What is different in the process that workers are forked from, and in a worker until it serves. Imported only there."""

from __future__ import annotations

import gc
import pickle
import sys
from types import TracebackType


def silent_without_parent(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An exception hook. A parent that is killed while it hands a worker its start is no fault, and nobody asks."""
    if not issubclass(kind, EOFError | pickle.UnpicklingError):
        sys.__excepthook__(kind, error, trace)


sys.excepthook = silent_without_parent
gc.disable()  # what is imported stays: looking through it while it comes takes a tenth of the time
