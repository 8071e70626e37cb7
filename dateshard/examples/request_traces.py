"""A trace of LLM requests in BurstGPT's columns: four weeks with rhythm, bursts, sessions and failures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from dateshard.pipeline.synthetic.request_load import Workload
from dateshard.pipeline.synthetic.request_rows import write_burstgpt

if TYPE_CHECKING:
    from dateshard.examples import Content

ROWS_A_DAY, FILE = 20_000, "requests.csv"


def dumps(folder: Path) -> Iterator[tuple[str, Content]]:
    """Yields (file name, content): one CSV."""
    if not (folder / FILE).exists():
        yield FILE, _write


def _write(file: IO[bytes]) -> None:
    write_burstgpt(Workload(rows_a_day=ROWS_A_DAY), file)
