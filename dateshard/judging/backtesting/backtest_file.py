"""What is known of a backtest's origins: backtest.json in its folder, replaced whenever one of them is judged."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dateshard.places import backtests_folder
from dateshard.shardstore.disk.durable import disk_full_as_error, replace_file
from dateshard.shardstore.errors import DamagedError
from dateshard.shardstore.identity import seal_readable, unseal_readable

if TYPE_CHECKING:  # `clean` asks what is finished, and waits for no more
    from dateshard.documents.backtesting import OriginRow
    from dateshard.judging.backtesting.backtest_plan import BacktestPlan, Origin

NAME = "backtest.json"
VERSION = 1


def read_rows(plan: BacktestPlan) -> list[OriginRow]:
    """The rows of a backtest's origins, the oldest first; those that nothing is known of yet have no figures.

    A damaged file costs no training: its origins are looked at again.
    """
    known = {row["run"]: row for row in _read(plan.folder).get("origins", [])}
    return [known.get(origin.run) or _unjudged(origin) for origin in reversed(plan.origins)]


def write_rows(plan: BacktestPlan, rows: Sequence[OriginRow]) -> None:
    """Replaces the file, durably."""
    path = plan.folder / NAME
    content = {"version": VERSION, "dataset": plan.settings.dataset, "every": plan.every, "origins": list(rows)}
    with disk_full_as_error(path):
        replace_file(path, seal_readable(content))


def _read(folder: Path) -> dict[str, Any]:
    try:
        content = unseal_readable((folder / NAME).read_bytes(), str(folder / NAME))
    except (FileNotFoundError, DamagedError):
        return {}
    return content if content.get("version") == VERSION else {}


def _unjudged(origin: Origin) -> OriginRow:
    return {
        "origin": origin.number,
        "run": origin.run,
        "split": {name: [[str(low), str(high)] for low, high in ranges] for name, ranges in origin.split.items()},
        "dates": dict(origin.dates),
        "generation": None,
        "windows": None,
        "score": None,
        "best_baseline": None,
        "baseline_score": None,
        "gain": None,
        "low": None,
        "high": None,
        "outcome": None,
    }


def is_judged(row: OriginRow) -> bool:
    """Whether an origin is trained and judged."""
    return row["windows"] is not None


def finished_stores(dataset: str) -> Iterator[tuple[Path, int]]:
    """Yields (store, its own bytes) of each backtest of a dataset whose origins are all judged: nothing needs it any more.

    Files that another store has too are not counted: removing them frees nothing.
    """
    folders = sorted(backtests_folder().iterdir()) if backtests_folder().is_dir() else []
    for folder in folders:
        content, store = _read(folder), folder / "shards" / dataset
        if content.get("dataset") == dataset and all(map(is_judged, content["origins"])) and store.is_dir():
            files = (path.lstat() for path in store.rglob("*") if path.is_file())
            yield store, sum(file.st_size for file in files if file.st_nlink == 1)


def remove_store(store: Path) -> None:
    """Removes the store of a backtest. Its runs, its table and its page stay."""
    shutil.rmtree(store)
