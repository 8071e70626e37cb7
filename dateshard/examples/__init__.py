"""`dateshard init`: example configurations, and the data to run them on, from PyPI packages or generated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

from dateshard.examples import flights
from shardstore.errors import UsageError

WRITERS: dict[str, Callable[[Path], Iterator[tuple[str, bytes]]]] = {"flights": flights.dumps}
STARTER = """\
# What lies where, and what becomes of it. All keys: docs/configuration.md
dataset: mydata
pipeline:
  source: {path: "data/raw/mydata/{date}.csv", time: timestamp, timezone: UTC, node: sensor}
  step: 5m
  features:
    value: {aggregate: mean, fill: forward, fill_limit: 12}
  split: {train: 0.7, validation: 0.15, test: 0.15}   # shares of the dates, or ranges such as 2024-01-01..2024-01-31
trainer:
  window: {history: 12, horizon: 12}
  model: {name: dlinear}
"""


def configuration(name: str) -> str:
    """The text of an example's configuration (`configs` is a link to the checkout's; a wheel carries the files)."""
    path = files("dateshard.examples") / "configs" / f"{name}.yaml"
    if not path.is_file():
        raise UsageError(f"there is no example '{name}'", todo=f"Choose from {', '.join(WRITERS)}")
    return path.read_text()


def write_missing(folder: Path, contents: Iterator[tuple[str, bytes]]) -> int:
    """Writes those files that are not there yet (a dump that was changed stays changed); returns how many."""
    written = 0
    for name, data in contents:
        path = folder / name
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_bytes(data)
        temporary.replace(path)
        written += 1
    return written


def complete(folder: Path, name: str) -> bool:
    """Whether an example's data lie there already."""
    return (
        name == "flights"
        and len(list(folder.glob("2013-*.csv"))) == flights.NUM_DATES
        and (folder / "nodes.csv").exists()
    )
