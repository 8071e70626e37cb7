"""How work that takes long is told to stop: by a question that it asks between two pieces."""

from __future__ import annotations

from collections.abc import Callable

ShouldStop = Callable[[], bool]


class Interrupted(Exception):  # noqa: N818 - told by whoever asked to stop, no fault
    """A stop was asked for in the middle of a validation or of a closed form."""


def ask(should_stop: ShouldStop) -> None:
    """Stops where `should_stop` says so.

    Raises:
        Interrupted: `should_stop()`.
    """
    if should_stop():
        raise Interrupted
