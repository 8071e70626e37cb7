"""Stores of many nodes: CPU seconds and memory of every command that reads them, whole processes, imports included.

    python bench/nodes.py [--nodes 200 --nodes 200000] [--repeats 3] [--folder DIR]      some minutes, 1 GB of disk
    python bench/nodes.py --nodes 100000 --dates 5 --dates 30 --steps 96 --suffix parquet --model dlinear --repeats 1 \\
        --memory-budget 200MiB --only 'preprocess, everything' --only train ...        ten minutes, 20 GB of disk

Dates of so many steps and two features, a table of nodes with positions; 24 windows a date at most. The stores take
turns. One with fewer dates is trained for so many epochs more that all see about as many batches. `export` and `predict`
write a row a node. The memory is the most that was resident in the command's process. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

OURS = str(Path(__file__).parents[1])
sys.path.insert(0, OURS)
from bench.process_cost import ProcessCost, process_cost  # noqa: E402

FIRST, LAST = dt.date(2024, 3, 1), "LAST"
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


@dataclass(slots=True, kw_only=True)
class Nodes:
    """A dataset of so many nodes in a folder of its own."""

    folder: Path
    num_nodes: int
    num_dates: int = 3
    steps: int = 4
    suffix: str = "csv"
    model: str = "nlinear"
    memory_budget: str | None = None
    epochs: int = 1
    costs: dict[str, list[ProcessCost]] = field(default_factory=dict)

    @property
    def dates(self) -> list[dt.date]:
        """All dates, in order."""
        return [FIRST + dt.timedelta(days=day) for day in range(self.num_dates)]

    def write(self, known: Path | None = None) -> None:
        """Dumps, the node table and the configuration; dumps of the folder `known` are the same, and linked."""
        names = pl.Series([f"s{index:06}" for index in range(self.num_nodes)])
        (self.folder / "raw").mkdir(parents=True)
        for day, date in enumerate(self.dates):
            path = self.folder / "raw" / f"{date}.{self.suffix}"
            if known is not None and (known / path.name).exists():
                path.hardlink_to(known / path.name)
            else:
                self._write_date(path, day, names)
        draw = np.random.default_rng(7)
        places = pl.DataFrame({"id": names, "lat": draw.random(len(names)), "lon": draw.random(len(names))})
        places.write_csv(self.folder / "nodes.csv")
        (self.folder / "config.yaml").write_text(json.dumps(self._tree()))

    def _write_date(self, path: Path, day: int, names: pl.Series) -> None:
        """A daily rhythm with a level a node; a tenth of the rows is missing."""
        draw = np.random.default_rng([7, day])
        first = np.datetime64(FIRST + dt.timedelta(days=day), "ms")
        times_T = first + np.arange(self.steps) * (86_400_000 // self.steps)
        rhythm_T = 10 * np.sin(2 * np.pi * np.arange(self.steps) / self.steps)
        level_N = np.random.default_rng(8).normal(60, 8, self.num_nodes)
        speed_TN = rhythm_T[:, None] + level_N + draw.normal(0, 4, (self.steps, self.num_nodes))
        step, node = np.nonzero(draw.random((self.steps, self.num_nodes)) > 0.1)
        kept = pl.DataFrame(
            {
                "time": pl.Series(times_T[step]).dt.replace_time_zone("UTC"),
                "node": names.gather(node),
                "speed": np.round(speed_TN[step, node], 3),
                "volume": draw.poisson(20, len(node)),
            }
        )
        if self.suffix == "parquet":
            kept.write_parquet(path)
        else:
            kept.with_columns(pl.col("time").dt.strftime("%Y-%m-%dT%H:%M:%SZ")).write_csv(path)

    def _tree(self) -> dict[str, object]:
        days = [str(date) for date in self.dates]
        loading = {"memory_budget": self.memory_budget, "days_per_batch": "auto"} if self.memory_budget else {}
        train = days[0] if self.num_dates == 3 else f"{days[0]}..{days[-3]}"
        return {
            "dataset": "many",
            "pipeline": {
                "source": {"path": f"raw/{{date}}.{self.suffix}", "time": "time", "node": "node"},
                "nodes": {"table": "nodes.csv", "id": "id", "position": ["lat", "lon"]},
                "step": f"{1440 // self.steps}m",
                "features": {"speed": {"fill": "forward", "scale_per": "node"}, "volume": {"aggregate": "sum"}},
                "split": {"train": train, "validation": days[-2], "test": days[-1]},
            },
            "trainer": {
                "window": {
                    "history": max(2, self.steps // 12),
                    "horizon": max(1, self.steps // 24),
                    "stride": max(1, self.steps // 24),
                },
                "model": {"name": self.model},
                "training": {"epochs": self.epochs, "batch_size": 2},
                "early_stopping": None,
                "loading": loading,
                "baselines": ["repeat", "mean"],
            },
        }

    def run(self, what: str, limit: float = 3600.0) -> None:
        """Appends what one call takes to costs[what]; a call of more than `limit` seconds is ended."""
        words = [str(self.dates[-1]) if word == LAST else word for word in COMMANDS[what]]
        words = [word.replace(".csv", f".{self.suffix}") if word.startswith("raw/") else word for word in words]
        config = () if words[0] in ("runs", "checkpoints", "predict") or "r" in words[1:2] else ("-c", "config.yaml")
        command = [sys.executable, "-m", "dateshard", *words, *config]
        for name in ("forecast.parquet", "dumps.parquet"):
            (self.folder / name).unlink(missing_ok=True)
        if what == "train":
            shutil.rmtree(self.folder / "data" / "runs", ignore_errors=True)
        environment = {**os.environ, "PYTHONPATH": OURS, "OMP_NUM_THREADS": "1"}
        cost = process_cost(command, self.folder, environment, limit=limit)
        self.costs.setdefault(what, []).append(cost)


def main() -> None:
    """Makes the stores, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, action="append")
    parser.add_argument("--dates", type=int, action="append")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--suffix", choices=["csv", "parquet"], default="csv")
    parser.add_argument("--model", default="nlinear")
    parser.add_argument("--memory-budget", help="train from blocks of as many dates as this holds")
    parser.add_argument("--only", action="append", choices=list(COMMANDS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    commands = [what for what in COMMANDS if not asked.only or what in asked.only]
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        stores = []
        for nodes in asked.nodes or [200, 200_000]:
            for dates in sorted(asked.dates or [3], reverse=True):
                shape = {"num_nodes": nodes, "num_dates": dates, "steps": asked.steps}
                folder = Path(name) / f"{nodes}x{dates}"
                rest = {"suffix": asked.suffix, "model": asked.model, "memory_budget": asked.memory_budget}
                epochs = max(1, (max(asked.dates or [3]) - 2) // (dates - 2))
                store = Nodes(folder=folder, **shape, **rest, epochs=epochs)
                same = [other.folder / "raw" for other in stores if other.num_nodes == nodes]
                store.write(same[0] if same else None)
                stores.append(store)
        for _ in range(asked.repeats):
            for what in commands:
                for store in reversed(stores):
                    if what == "preprocess, everything":
                        shutil.rmtree(store.folder / "data", ignore_errors=True)
                    store.run(what)
                    print(store.folder.name, what, store.costs[what][-1], file=sys.stderr, flush=True)
    print(table(stores[::-1], commands, asked.repeats))


def table(stores: Sequence[Nodes], commands: Sequence[str], repeats: int) -> str:
    """Returns a Markdown table: a row a command, a column a store, of CPU seconds and of MB."""
    first = stores[0]
    blocks = f" from blocks of {first.memory_budget}" if first.memory_budget else ""
    heads = [f"{store.num_nodes:,} nodes, {store.num_dates} dates" for store in stores]
    lines = [
        f"Nodes, {dt.date.today()}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; "
        f"dates of {first.steps} steps, {first.suffix}, {first.model}{blocks}; CPU seconds and most resident MB of whole "
        f"processes, least of {repeats}; load {os.getloadavg()[0]:.1f}",
        "",
        f"| command | {' | '.join(heads)} |",
        "|---" * (len(stores) + 1) + "|",
    ]
    for what in commands:
        cells = [
            f"{min(c.cpu for c in store.costs[what]):.2f} s, {min(c.peak for c in store.costs[what]) / 1e6:,.0f} MB"
            for store in stores
        ]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
