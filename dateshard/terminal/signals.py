"""SIGINT and SIGTERM of a long command: the first asks for a stop, a second ends the process at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable

SHOW_CURSOR = b"\x1b[?25h"  # a live line hides it


class StopSignal:
    """A context in which a signal is noted and handed on, once, to `ask`. Only a main thread can have it."""

    def __init__(self, ask: Callable[[], None] = lambda: None) -> None:
        self.received: int | None = None
        self._ask = ask

    def __enter__(self) -> StopSignal:
        self._before, self._unraisable = {}, sys.unraisablehook
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
            sys.unraisablehook = self._unless_noted
        return self

    def __exit__(self, *_: object) -> None:
        for number_, handler in self._before.items():
            signal.signal(number_, handler)
        sys.unraisablehook = self._unraisable

    def _unless_noted(self, unraisable: sys.UnraisableHookArgs) -> None:
        """An interrupt that falls into the end of a generator can be raised to nobody. It is noted; no traceback."""
        if self.received is None or not issubclass(unraisable.exc_type, KeyboardInterrupt):
            self._unraisable(unraisable)

    def _note(self, number_: int, _: object) -> None:
        if self.received is not None:
            if sys.stdout.isatty():
                os.write(sys.stdout.fileno(), SHOW_CURSOR)
            signal.signal(number_, signal.SIG_DFL)
            signal.raise_signal(number_)
        self.received = number_
        self._ask()

    def asked(self) -> bool:
        """Whether a stop was asked for."""
        return self.received is not None

    @property
    def exit_code(self) -> int:
        """What a command that stopped for it returns."""
        return 128 + (self.received or signal.SIGINT)
