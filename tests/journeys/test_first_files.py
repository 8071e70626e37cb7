"""Files as people have them become an evaluated model with a configuration of at most 12 lines and the docs alone."""

from __future__ import annotations

import datetime as dt
import gzip
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from dateshard.cli import run

README = Path(__file__).parents[2] / "README.md"
QUICK = ["trainer.training.epochs=1", "trainer.training.batch_size=512", "trainer.baselines=[repeat, mean]"]
START = dt.datetime(2024, 2, 20)
STATIONS = """
dataset: air
pipeline:
  source:
    path: raw/{node}.csv
    csv: {separator: ";", decimal: ",", missing: ["-9999"]}
    time: [Datum, Uhrzeit]
    time_format: "%d.%m.%Y %H.%M"
    timezone: Etc/GMT-1
  step: 10m
  features: {Temperatur: {}, Wind: {}}
  split: {train: 0.6, validation: 0.2, test: 0.2}
trainer: {window: {history: 24, horizon: 12}}
"""
DETECTORS = """
dataset: detectors
pipeline:
  source:
    path: raw/d11_{date:%Y_%m_%d}.txt.gz
    csv: {columns: [time, station, "", "", flow, speed, ...]}
    time: time
    time_format: "%m/%d/%Y %H:%M:%S"
    node: station
  step: 5m
  features: {flow: {}, speed: {}}
  split: {train: ..latest-2, validation: latest-1, test: last:1}
trainer: {window: {history: 12, horizon: 12}}
"""


def day(at: dt.datetime) -> float:
    return math.sin((at.hour + at.minute / 60) * math.pi / 12)


def write_stations(folder: Path) -> None:
    """Ten-minute readings, a file a station: two empty last columns, points in the time of day, a sentinel."""
    for number, station in enumerate(("Aachen", "Köln")):
        lines = ["Datum;Uhrzeit;Temperatur;Wind;;\n"]
        for k in range(5 * 144):
            at = START + k * dt.timedelta(minutes=10)
            wind = "-9999" if k % 50 == 7 else f"{3 + number},5"
            warmth = f"{10 * day(at):.1f}".replace(".", ",")
            lines.append(f"{at:%d.%m.%Y;%H.%M};{warmth};{wind};;\n")
        (folder / f"{station}.csv").write_text("".join(lines))


def write_detectors(folder: Path) -> None:
    """A packed file a day, without a header, with columns that nobody uses."""
    for number in range(4):
        times = [START + dt.timedelta(days=number, minutes=5 * k) for k in range(288)]
        rows = (
            f"{at:%m/%d/%Y %H:%M:%S},{s},N,0.4,{50 + 40 * day(at):.0f},{60 - 9 * day(at):.1f},,,\n"
            for at in times
            for s in (7, 9)
        )
        (folder / f"d11_{times[0]:%Y_%m_%d}.txt.gz").write_bytes(gzip.compress("".join(rows).encode(), 1))


def write_hours(folder: Path) -> None:
    """One file, a column of times and columns of values."""
    times = [START + k * dt.timedelta(hours=1) for k in range(60 * 24)]
    rows = (f"{at},{100 + 30 * day(at):.1f},{10 + 5 * day(at):.1f}\n" for at in times)
    (folder.parent / "energy.csv").write_text("date,load,temperature\n" + "".join(rows))


def of_the_readme() -> str:
    (config,) = re.findall(r"```yaml\n(.*?)```", README.read_text(), re.S)
    return str(config)


@pytest.mark.parametrize(
    ("write", "config", "cells"),
    [
        (write_stations, lambda: STATIONS, "observed cells: train 99 %"),
        (write_detectors, lambda: DETECTORS, "observed cells: train 100 %"),
        (write_hours, of_the_readme, "observed cells: train 100 %"),
    ],
)
def test_a_first_file_becomes_an_evaluated_model_in_at_most_twelve_lines(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    write: Callable[[Path], None],
    config: Callable[[], str],
    cells: str,
) -> None:
    (tmp_path / "raw").mkdir()
    write(tmp_path / "raw")
    assert run(["init"]) == 0
    (tmp_path / "configs" / "mydata.yaml").write_text(config())
    assert len(config().strip().splitlines()) <= 12
    assert run(["config", "check"]) == 0
    assert run(["preprocess", "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert cells in said
    assert "warning" not in said
    assert run(["train", *QUICK]) == 0
    assert run(["evaluate", "latest"]) == 0
    assert "test: " in capsys.readouterr().out
