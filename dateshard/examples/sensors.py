"""Recordings of movement: twelve sensors and twenty joint angles of some subjects, a session a day each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

from dateshard.pipeline.synthetic.motion import Lab, dates, recording

if TYPE_CHECKING:
    import datetime as dt

    from dateshard.examples import Content

NUM_DATES = 4


def dumps(folder: Path) -> Iterator[tuple[str, Content]]:
    """Yields (file name, content): one CSV a date."""
    return (
        (f"{date}.csv", partial(_write, date)) for date in dates(NUM_DATES) if not (folder / f"{date}.csv").exists()
    )


def _write(date: dt.date, file: IO[bytes]) -> None:
    recording(Lab(), date).write_csv(file)
