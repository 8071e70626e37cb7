"""What the tests of the offline stage share."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.raw.decode import decode
from dateshard.pipeline.raw.row_counts import RowCounts

OF_THE_RUN = ("CURRENT", "commits.jsonl", "dumps.json", "writer.lock")  # clocks, paths and numbers of commits


@pytest.fixture
def tree_of() -> Callable[..., dict[str, tuple[int, str]]]:
    """tree_of(folder, times=False) -> {path: (mtime or 0, hash)} of every file but those about the run itself."""

    def snapshot(folder: Path, *, times: bool = False) -> dict[str, tuple[int, str]]:
        return {
            str(path.relative_to(folder)): (
                path.stat().st_mtime_ns if times else 0,
                hashlib.sha256(path.read_bytes()).hexdigest(),
            )
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in OF_THE_RUN
        }

    return snapshot


@dataclass(frozen=True)
class Read:
    """A decoded dump: what became of its rows, and of each record its UTC clock, its node and its values by feature."""

    rows: RowCounts
    clock: list[str]
    nodes: list[str]
    values: dict[str, list[float]]


@pytest.fixture
def read_dump(tmp_path: Path) -> Callable[..., Read]:
    """read_dump(text or bytes, "x.csv", date=..., features=..., step=..., nodes=..., **source) -> Read."""

    def read(
        data: str | bytes,
        name: str = "x.csv",
        *,
        date: str = "2024-03-01",
        features: dict[str, Any] | None = None,
        step: str = "1h",
        nodes: tuple[str, ...] | None = None,
        **source: Any,
    ) -> Read:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        given = {"path": "{date}", "time": "time", "node": "node"} | source
        tree = {"source": given, "step": step, "features": features or {"speed": {}}}
        config = Pipeline.model_validate(tree)
        decoded = decode([path], dt.date.fromisoformat(date), config, nodes, 1 << 30, tmp_path / "spilled")
        [(_, records)] = decoded.stretches()
        clock = [str(np.datetime64(int(at), "ns"))[:19] for at in records.time_R]
        columns = zip(config.features, records.values, strict=True)
        values = {feature: column.tolist() for feature, column in columns if column is not None}
        return Read(decoded.rows, clock, [decoded.nodes[node] for node in records.node_R.tolist()], values)

    return read
