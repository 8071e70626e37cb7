"""Bytes that may not change by themselves: another shard, statistic or manifest needs a raised code or format number."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

HOUR = 3600 * 10**9
WRITTEN = {
    "manifest": "6b0fcf8886d49a10d9be7c8e2e44503ec379f252ac7151c0900d1f3eecb69236",
    "nodes": "770d2f5035d6beb8",
    "shards": "cf88e86531bcb1920d0c3f9ffd69605422f5f705826b576f04edccaf33f50ba0",
    "statistics": "132a5d6c103a4063",
}


def rows_of(date: dt.date, seed: int) -> list[tuple[int, str, float | None, float]]:
    """Rows from a congruential generator: numpy's streams are not promised. A fifth of the cells stays empty."""
    start = int(dt.datetime.combine(date, dt.time(), dt.UTC).timestamp()) * 10**9
    state, rows = seed, []
    for step in range(24):
        for node in ("b", "a", "\u00e9"):
            for _ in range(2):
                state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
                draw = state >> 40
                if draw % 5:
                    speed = None if draw % 7 == 0 else (draw % 4096) / 64 + 30
                    rows.append((start + step * HOUR + draw % 3599 * 10**9, node, speed, float(draw % 40)))
    return rows


def digest(paths: list[Path]) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(paths))).hexdigest()


def test_a_store_made_of_known_rows_keeps_its_bytes(make_world: Callable[..., Any]) -> None:
    world = make_world(4, split={"train": "..2024-03-03", "validation": "2024-03-04.."})
    for seed, date in enumerate(world.rows):
        world.rows[date] = rows_of(date, seed)
        world.write(date)
    world.tree["pipeline"]["features"] = {
        "speed": {"aggregate": "mean", "fill": "forward", "fill_limit": 3},
        "volume": {"column": "vehicles", "aggregate": "sum", "fill": "zero", "scale_per": "node"},
        "records": {"aggregate": "count", "scale": "none"},
        "latest": {"column": "speed", "aggregate": "last", "scale": "none"},
    }
    world.prepare()
    store, manifest = world.store, world.open().manifest
    assert {
        "manifest": digest(list((store / "manifests").glob("g00000001.json"))),
        "nodes": manifest.nodes,
        "shards": digest([path for path in (store / "shards").rglob("*") if path.is_file()]),
        "statistics": manifest.statistics,
    } == WRITTEN
