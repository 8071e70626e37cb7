"""Example configurations of `dateshard init`, and the data to run them on, from PyPI packages or generated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import IO

from dateshard.examples import flights, request_traces, sensors, tabular, traffic
from dateshard.shardstore.disk.durable import appearing
from dateshard.shardstore.errors import UsageError

EXAMPLES = ("flights", "traffic", "sensors", "tabular", "requests")
Content = bytes | Callable[[IO[bytes]], None]  # of a file, or what writes it
STARTER = """\
# What lies where, and what becomes of it. All keys: docs/configuration.md, or the command `config show`
dataset: mydata
pipeline:
  # one file of many dates: a path without {date}; no column that names a node: no `node`; another dialect:
  # csv: {separator: ";", decimal: ",", missing: ["", "-9999"]}, and without a header csv: {columns: [timestamp, sensor, value]}
  source: {path: "data/raw/mydata/{date}.csv", time: timestamp, timezone: UTC, node: sensor}
  step: 5m
  features:
    value: {aggregate: mean, fill: forward, fill_limit: 12}
  split: {train: ..latest-14, validation: latest-13..latest-7, test: last:7}   # counted in dates (15 at least): new ones move it
trainer:
  window: {history: 12, horizon: 12}
  model: {name: dlinear}
"""


def configuration(name: str) -> str:
    """The text of an example's configuration (`configs` is a link to the checkout's; a wheel carries the files)."""
    path = files("dateshard.examples") / "configs" / f"{name}.yaml"
    if not path.is_file():
        raise UsageError(f"there is no example '{name}'", todo=f"Choose from {', '.join(EXAMPLES)}")
    return path.read_text()


def contents(
    name: str, folder: Path, num_dates: int | None = None, num_sensors: int | None = None
) -> Iterator[tuple[str, Content]]:
    """Yields (file name, content) of an example's data that `folder` may lack; nothing where they are complete.

    Raises:
        UsageError: a size that the example cannot have.
    """
    if name == "traffic":
        return traffic.dumps(folder, num_dates, num_sensors)
    if num_dates is not None or num_sensors is not None:
        raise UsageError(f"the example {name} has one size", todo="Leave --dates and --sensors out, or choose traffic")
    if name == "flights":
        return iter(()) if flights.complete(folder) else flights.dumps()
    dumps = {"sensors": sensors.dumps, "tabular": tabular.dumps, "requests": request_traces.dumps}[name]
    return dumps(folder)


def write_missing(folder: Path, contents: Iterator[tuple[str, Content]]) -> int:
    """Writes those files that are not there yet (a dump that was changed stays changed); returns how many."""
    written = 0
    for name, content in contents:
        path = folder / name
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with appearing(path, durable=False) as temporary, open(temporary, "wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
        written += 1
    return written
