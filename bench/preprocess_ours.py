"""Our whole offline stage on the work of a neutral harness: decode, drop duplicates, mean per minute and node, global
statistics, forward fill, scale, committed and durable shards. Measured as a process of its own.

    python bench/preprocess_ours.py --raw RAW --fmt csv|parquet --dates N --out OUT [--profile FILE]

Reads RAW/<fmt>/2024-01-01.<fmt> and on (columns ts, node, f0..f3), through the real `preprocess` with one worker, into a
store under OUT; then links each date's chunk of values to OUT/data.zarr/c/<index>/0/0, raw float32 [1440, 512, 4].
"""

from __future__ import annotations

import argparse
import cProfile
import datetime as dt
import os
import shutil
import time
from pathlib import Path
from typing import Any

from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.execute import preprocess
from dateshard.pipeline.planning.plan import Wish
from dateshard.pipeline.progress_events import DateFailed
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.storage.zarr_raw import chunk_file

FIRST = dt.date(2024, 1, 1)
NODES = [f"node_{number:04d}" for number in range(512)]
FEATURES = [f"f{number}" for number in range(4)]


def configuration(raw: Path, fmt: str, table: Path, dates: list[dt.date]) -> Pipeline:
    """The harness's work in our words: every date is a training date, gaps are carried forward without a limit."""
    tree: dict[str, Any] = {
        "source": {"path": str(raw / fmt / f"{{date}}.{fmt}"), "time": "ts", "node": "node", "duplicates": "last"},
        "nodes": {"table": str(table), "id": "node"},
        "step": "1m",
        "features": {name: {"aggregate": "mean", "fill": "forward", "scale": "zscore"} for name in FEATURES},
        "split": {"train": f"{dates[0]}..{dates[-1]}"},
    }
    return Pipeline.model_validate(tree)


def main() -> None:
    """Prepares, then lays the chunks where the harness looks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--fmt", choices=["csv", "parquet"], required=True)
    parser.add_argument("--dates", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--profile", type=Path, help="writes the statistics of cProfile there, in CPU seconds")
    given = parser.parse_args()
    shutil.rmtree(given.out, ignore_errors=True)
    given.out.mkdir(parents=True)
    table = given.out / "nodes.csv"
    table.write_text("\n".join(["node", *NODES]) + "\n")
    dates = [FIRST + dt.timedelta(days=index) for index in range(given.dates)]
    config = configuration(given.raw, given.fmt, table, dates)
    others = [(date, date) for date in _dates_of(given.raw / given.fmt) if date not in dates]
    config = config.model_copy(update={"exclude": tuple(others)})
    profile = cProfile.Profile(time.process_time)  # CPU seconds: another process on the core counts nothing
    if given.profile:
        profile.enable()
    prepare(config, given.out / "store")
    if given.profile:
        profile.disable()
        profile.dump_stats(given.profile)
    link_chunks(Dataset.open(given.out / "store"), dates, given.out)


def _dates_of(folder: Path) -> list[dt.date]:
    return [dt.date.fromisoformat(path.stem) for path in sorted(folder.iterdir())]


def prepare(config: Pipeline, store: Path) -> None:
    """The offline stage; any failed date ends it."""
    for event in preprocess("harness", config, store, Wish(), 1):
        if isinstance(event, DateFailed):
            raise event.error


def link_chunks(dataset: Dataset, dates: list[dt.date], out: Path) -> None:
    """OUT/data.zarr/c/<index>/0/0: hard links to the committed chunks."""
    for index, date in enumerate(dates):
        (part,) = dataset.manifest.dates[date].parts
        chunk = dataset.root / "shards" / str(date) / part.id / chunk_file("values")
        place = out / "data.zarr" / "c" / str(index) / "0" / "0"
        place.parent.mkdir(parents=True)
        os.link(chunk, place)


if __name__ == "__main__":
    main()
