"""A dataset of events in a folder: records of sessions at irregular instants, whose values a test can compute again."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.conftest import World

NS = 10**9
FIRST = dt.date(2024, 3, 1)


class Record(NamedTuple):
    """A raw row: instant in nanoseconds, session, value."""

    time: int
    cut: str
    value: float


def make_records(date: dt.date, count: int, cuts: tuple[str, ...], seed: int) -> list[Record]:
    """Records in no order, some at the same instant, values that float32 holds and that come once."""
    generator = np.random.default_rng([seed, date.toordinal()])
    start = int(dt.datetime(date.year, date.month, date.day, tzinfo=dt.UTC).timestamp()) * NS
    milliseconds = generator.integers(0, 86_400_000, count)
    milliseconds[1 : count // 8] = milliseconds[0]  # ties
    names = generator.choice(cuts, count)
    return [
        Record(start + int(at) * 1_000_000, str(name), float(1000 * (date - FIRST).days + k))
        for k, (at, name) in enumerate(zip(milliseconds, names, strict=True))
    ]


def event_world(
    folder: Path,
    records: dict[dt.date, list[Record]],
    *,
    cut: bool,
    features: dict[str, Any] | None = None,
    split: dict[str, Any] | None = None,
    **trainer: Any,
) -> World:
    """A world of events with its dumps written, nothing prepared; values are not scaled unless `features` say so."""
    raw = {"aggregate": "last", "scale": "none"}
    tree: dict[str, Any] = {
        "dataset": "world",
        "pipeline": {
            "source": {"path": str(folder / "raw" / "{date}.csv"), "time": "time", "time_format": "ns"},
            "layout": "events",
            "features": features or {"value": raw, "gap": {"aggregate": "gap", "scale": "none"}},
            "split": split,
        },
        "trainer": {
            "window": {"history": 5, "horizon": 2},
            "model": {"name": "mlp", "hidden_units": [8]},
            "training": {"epochs": 2, "batch_size": 16},
            **trainer,
        },
    }
    if cut:
        tree["pipeline"]["source"]["cut"] = "session"
    world = World(folder, tree)
    for date, rows in records.items():
        write(world, date, rows)
    return world


def write(world: World, date: dt.date, rows: list[Record]) -> None:
    """Writes a date's dump."""
    world.dump(date).parent.mkdir(parents=True, exist_ok=True)
    lines = ["time,session,value", *(f"{row.time},{row.cut},{row.value!r}" for row in rows)]
    world.dump(date).write_text("\n".join(lines) + "\n")


def in_order(rows: list[Record], *, cut: bool) -> list[Record]:
    """Records as a shard has them: by (cut, time, row)."""
    return sorted(rows, key=lambda row: (row.cut.encode() if cut else b"", row.time))
