"""Names the file in what the system refuses: a call on an open descriptor tells none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike


@contextmanager
def naming(path: str | PathLike[str]) -> Iterator[None]:
    """Adds `path` to an OSError raised within this context, unless it names a file: calls on a descriptor know none."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
