"""A table of machines at their inspection: wear, a number, and state, a category, of age, load, heat and maker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from dateshard.pipeline.synthetic.machines import machines

if TYPE_CHECKING:
    from dateshard.examples import Content

NUM_ROWS, FILE = 12_000, "machines.csv"


def dumps(folder: Path) -> Iterator[tuple[str, Content]]:
    """Yields (file name, content): one CSV."""
    if not (folder / FILE).exists():
        yield FILE, _write


def _write(file: IO[bytes]) -> None:
    machines(NUM_ROWS).write_csv(file)
