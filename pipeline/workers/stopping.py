"""How a preprocess is told to stop: a flag that is looked at between dates, never an exception at an arbitrary place.

A KeyboardInterrupt that falls into a lock's `__enter__` leaves the lock held, and what waits for it waits for ever
(docs/decisions/0012). So a signal only notes that a stop is asked for. Where the work itself runs in this process, with
no lock and no thread of ours around it, it is obeyed on the spot.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Stop:
    """Whether a stop was asked for. A signal's handler, or another thread, calls `ask`."""

    def __init__(self) -> None:
        self.asked = False
        self._at_once = False

    def ask(self) -> None:
        """Notes it; within `at_once` (of this very thread: a signal's handler) the work ends here.

        Raises:
            KeyboardInterrupt: within `at_once`.
        """
        self.asked = True
        if self._at_once:
            raise KeyboardInterrupt

    def check(self) -> None:
        """Stops where a stop was asked for.

        Raises:
            KeyboardInterrupt: a stop was asked for.
        """
        if self.asked:
            raise KeyboardInterrupt

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Long work in this process that may be left anywhere: what it publishes is whole or not there.

        An error that a library made of the interrupt is an interrupt again.
        """
        self._at_once = True
        try:
            self.check()
            yield
        except BaseException:
            self.check()
            raise
        finally:
            self._at_once = False
