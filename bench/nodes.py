"""A store of many nodes: CPU seconds of every command that reads it, whole processes, imports included.

    python bench/nodes.py [--nodes 200000] [--few 200] [--repeats 3] [--folder DIR]      some minutes, 1 GB of disk

Three dates of four steps and two features, a table of nodes with positions. The two stores take turns. `export` and
`predict` write a row a node. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

OURS = str(Path(__file__).parents[1])
FIRST, DATES, STEPS = dt.date(2024, 3, 1), 3, 4
LAST = str(FIRST + dt.timedelta(days=DATES - 1))
COMMANDS = {
    "preprocess, everything": ("preprocess", "--workers", "1"),
    "preprocess, nothing to do": ("preprocess",),
    "preprocess, one date": ("preprocess", LAST, "--force", "--workers", "1"),
    "preprocess, refit": ("preprocess", "--refit-statistics", "--workers", "1"),
    "plan": ("plan",),
    "status": ("status",),
    "verify --full": ("verify", "--full"),
    "inspect": ("inspect",),
    "statistics --drift": ("statistics", "--drift"),
    "statistics --by-date": ("statistics", "--by-date"),
    "report --data": ("report", "--data"),
    "export --to parquet": ("export", LAST, "--to", "parquet", "--force"),
    "export --to csv": ("export", LAST, "--to", "csv", "--force"),
    "export --to npy": ("export", LAST, "--to", "npy", "--force"),
    "estimate": ("estimate",),
    "train": ("train", "--run", "r"),
    "runs": ("runs",),
    "evaluate": ("evaluate", "r"),
    "report RUN": ("report", "r"),
    "predict": ("predict", "r", "--at", "latest", "--out", "forecast.parquet"),
    "predict, of dumps": ("predict", "r", "--history", "raw/{date}.csv", "--out", "dumps.parquet"),
    "checkpoints list": ("checkpoints", "list", "r"),
    "clean": ("clean", "--dry-run"),
}


@dataclass(slots=True)
class Nodes:
    """A dataset of so many nodes in a folder of its own."""

    folder: Path
    num_nodes: int
    costs: dict[str, list[float]] = field(default_factory=dict)

    def write(self) -> None:
        """Dumps, the node table and the configuration."""
        draw, names = np.random.default_rng(7), [f"s{index:06}" for index in range(self.num_nodes)]
        (self.folder / "raw").mkdir(parents=True)
        for day in range(DATES):
            starts = [dt.datetime.combine(FIRST + dt.timedelta(days=day), dt.time(6 * s)) for s in range(STEPS)]
            times = np.repeat([start.isoformat() + "Z" for start in starts], self.num_nodes)
            speed = np.round(draw.normal(60, 12, len(times)), 3)
            frame = pl.DataFrame(
                {"time": times, "node": names * STEPS, "speed": speed, "volume": draw.poisson(20, len(times))}
            )
            kept = frame.filter(pl.Series(draw.random(len(times)) > 0.1))
            kept.write_csv(self.folder / "raw" / f"{FIRST + dt.timedelta(days=day)}.csv")
        places = pl.DataFrame({"id": names, "lat": draw.random(len(names)), "lon": draw.random(len(names))})
        places.write_csv(self.folder / "nodes.csv")
        (self.folder / "config.yaml").write_text(json.dumps(self._tree()))

    def _tree(self) -> dict[str, object]:
        days = [str(FIRST + dt.timedelta(days=day)) for day in range(DATES)]
        return {
            "dataset": "many",
            "pipeline": {
                "source": {"path": "raw/{date}.csv", "time": "time", "node": "node"},
                "nodes": {"table": "nodes.csv", "id": "id", "position": ["lat", "lon"]},
                "step": "6h",
                "features": {"speed": {"fill": "forward", "scale_per": "node"}, "volume": {"aggregate": "sum"}},
                "split": dict(zip(("train", "validation", "test"), days, strict=True)),
            },
            "trainer": {
                "window": {"history": 2, "horizon": 1},
                "model": {"name": "nlinear"},
                "training": {"epochs": 1, "batch_size": 2},
                "baselines": ["repeat", "mean"],
            },
        }

    def run(self, what: str) -> None:
        """Appends the CPU seconds of one call to costs[what]."""
        words = COMMANDS[what]
        config = () if words[0] in ("runs", "checkpoints", "predict") or "r" in words[1:2] else ("-c", "config.yaml")
        command = [sys.executable, "-m", "dateshard", *words, *config]
        for name in ("forecast.parquet", "dumps.parquet"):
            (self.folder / name).unlink(missing_ok=True)
        if what == "train":
            subprocess.run(["rm", "-rf", str(self.folder / "data/runs")], check=True)
        before = os.times()
        environment = {**os.environ, "PYTHONPATH": OURS, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        after = os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        self.costs.setdefault(what, []).append(cpu)


def main() -> None:
    """Makes two stores, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=200_000)
    parser.add_argument("--few", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        stores = [Nodes(Path(name) / str(count), count) for count in (asked.few, asked.nodes)]
        for store in stores:
            store.write()
        for _ in range(asked.repeats):
            for what in COMMANDS:
                for store in stores:
                    if what == "preprocess, everything":
                        subprocess.run(["rm", "-rf", str(store.folder / "data")], check=True)
                    store.run(what)
    few, many = stores
    print(
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}."
    )
    print(
        f"\n| CPU seconds, least of {asked.repeats} | {few.num_nodes:,} nodes | {many.num_nodes:,} nodes |\n|---|---|---|"
    )
    for what in COMMANDS:
        print(f"| {what} | {min(few.costs[what]):.2f} | {min(many.costs[what]):.2f} |")


if __name__ == "__main__":
    main()
