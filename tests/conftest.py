"""Shared ground: small datasets whose every raw row is known, prepared by the real pipeline in this process."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from dateshard.pipeline.execute import preprocess
from dateshard.pipeline.planning.plan import Wish
from dateshard.pipeline.progress_events import Event, Finished
from dateshard.settings import Settings, validate
from dateshard.shardstore.dataset import Dataset
from tests.kit.limits import pytest_runtest_protocol
from tests.kit.untraced import pytest_unconfigure
from tests.kit.zygote import forkable, shared

__all__ = ["pytest_runtest_protocol", "pytest_unconfigure"]  # hooks of pytest

NODES = ["n0", "n1", "n2"]
# No example is held against the clock: the machine may have other work. `--hypothesis-profile` still says otherwise.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@dataclass
class World:
    """One dataset's dumps, configuration tree and store under a temporary folder.

    `rows[date]` holds the raw rows as (instant in ns, node, speed or None, volume), in file order.
    """

    folder: Path
    tree: dict[str, Any]
    rows: dict[dt.date, list[tuple[int, str, float | None, float]]] = field(default_factory=dict)

    @property
    def store(self) -> Path:
        return self.folder / "data" / "shards" / self.tree["dataset"]

    @property
    def settings(self) -> Settings:
        return validate(self.tree)

    def dump(self, date: dt.date) -> Path:
        return self.folder / "raw" / f"{date}.csv"

    def write(self, date: dt.date) -> None:
        """Writes a date's rows as a CSV with local times and offsets."""
        zone = ZoneInfo(self.tree["pipeline"]["source"]["timezone"])
        lines = ["time,node,speed,vehicles\n"]
        for instant, node, speed, volume in self.rows[date]:
            local = dt.datetime.fromtimestamp(instant / 1e9, zone)
            lines.append(f"{local.isoformat()},{node},{'' if speed is None else repr(speed)},{volume!r}\n")
        self.dump(date).parent.mkdir(parents=True, exist_ok=True)
        self.dump(date).write_text("".join(lines))

    def prepare(self, num_workers: int = 1, **wish: Any) -> Finished:
        """Runs preprocess in this process and returns its last event."""
        events: list[Event] = list(
            preprocess(self.tree["dataset"], self.settings.preparing(), self.store, Wish(**wish), num_workers)
        )
        assert isinstance(events[-1], Finished)
        return events[-1]

    def open(self, generation: int | None = None) -> Dataset:
        return Dataset.open(self.store, generation)

    def config_file(self) -> Path:
        """The configuration as a YAML file (JSON is YAML)."""
        import json

        path = self.folder / "config.yaml"
        path.write_text(json.dumps(self.tree, indent=1, default=str))
        return path

    def run(self, *arguments: str, code: int | None = 0, **options: Any) -> subprocess.CompletedProcess[str]:
        """The real command in a process of its own, in this world's folder; checks the exit code unless it is None.

        It is forked from a process that has imported everything, unless it starts workers or `options` (those of
        `subprocess.run`) are given.
        """
        if options or not forkable(arguments):
            done = subprocess.run(
                command(*arguments), cwd=self.folder, text=True, capture_output=True, env=environment(), **options
            )
        else:
            ended = shared().run(arguments, self.folder)
            done = subprocess.CompletedProcess(list(arguments), ended.code, ended.out, ended.err)
        assert code is None or done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dateshard", *arguments]


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("DATESHARD")}
    return {**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "120", "PYTHONWARNINGS": "error"}


def make_rows(
    date: dt.date, zone: str, nodes: list[str], seed: int, *, minutes: int = 20, missing: float = 0.1
) -> list[tuple[int, str, float | None, float]]:
    """Rows every `minutes` for each node over one local date, a share of them left out, some without a speed."""
    start = dt.datetime(date.year, date.month, date.day, tzinfo=ZoneInfo(zone)).timestamp()
    after = date + dt.timedelta(days=1)
    end = dt.datetime(after.year, after.month, after.day, tzinfo=ZoneInfo(zone)).timestamp()
    generator = np.random.default_rng([seed, date.toordinal()])
    rows: list[tuple[int, str, float | None, float]] = []
    for second in range(int(start), int(end), minutes * 60):
        for node in nodes:
            if generator.random() < missing:
                continue
            speed = None if generator.random() < 0.05 else round(float(generator.normal(60, 12)), 3)
            rows.append((second * 10**9, node, speed, float(generator.integers(0, 40))))
    return rows


def build_world(
    folder: Path,
    dates: int | list[dt.date] = 10,
    *,
    first: str = "2024-03-01",
    zone: str = "UTC",
    nodes: list[str] = NODES,
    missing: float = 0.1,
    gaps: tuple[int, ...] = (),
    split: dict[str, str] | None = None,
    seed: int = 1,
    **trainer: Any,
) -> World:
    """A world in `folder` with its dumps written, nothing prepared; `trainer` replaces sections of that half."""
    begin = dt.date.fromisoformat(first)
    chosen = [begin + dt.timedelta(days=i) for i in range(dates)] if isinstance(dates, int) else dates
    chosen = [date for index, date in enumerate(chosen) if index not in gaps]
    tree: dict[str, Any] = {
        "dataset": "world",
        "pipeline": {
            "source": {
                "path": str(folder / "raw" / "{date}.csv"),
                "time": "time",
                "timezone": zone,
                "node": "node",
            },
            "step": "1h",
            "features": {
                "speed": {"aggregate": "mean", "fill": "forward", "fill_limit": 3},
                "volume": {"column": "vehicles", "aggregate": "sum", "fill": "zero"},
            },
            "split": split,
        },
        "trainer": {
            "window": {"history": 12, "horizon": 6},
            "model": {"name": "mlp", "hidden_units": [8], "dropout_rate": 0.2},
            "training": {"epochs": 2, "batch_size": 16},
            **trainer,
        },
    }
    world = World(folder, tree)
    for date in chosen:
        world.rows[date] = make_rows(date, zone, nodes, seed, missing=missing)
        world.write(date)
    return world


@pytest.fixture
def make_world(tmp_path: Path) -> Callable[..., World]:
    """make_world(dates=10, zone=..., missing=..., gaps=[...], **trainer settings) -> World with dumps written."""
    return partial(build_world, tmp_path)


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test stands in a folder of its own, untouched by the caller's environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))  # what is trusted here is no tester's own
    for name in list(os.environ):
        if name.startswith("DATESHARD"):
            monkeypatch.delenv(name)
    yield
    second = {"pipeline", "trainer", "shardstore"} & sys.modules.keys()
    assert not second, f"{second}: imported beside dateshard, every module is there twice"
