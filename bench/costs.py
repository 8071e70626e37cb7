"""What preparing, opening and an epoch cost while a dataset grows from 1x to 100x: in dates, rows, nodes and windows.

    python bench/costs.py [--only dates,nodes] [--repeats 3] [--folder DIR] [--write]      ten minutes, 1 GB of disk

Whole processes with one thread, imports included, but for `open`, which is `Dataset.open` alone; sizes take turns. The growth
is the power p of cost = fixed + each x size^p that fits best: 1 is a straight line, whatever is fixed; `flat` where 100x
costs less than a fifth more than 1x. `--write` puts the tables into results/, and a plot of each into docs/images/.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import math
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from xml.dom import XMLNS_NAMESPACE

import numpy as np
import polars as pl

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from bench.dated import figure, heading, keep, table  # noqa: E402
from bench.process_cost import ProcessCost, process_cost  # noqa: E402
from dateshard.reports.charts import Axis, LineEnd, canvas, line, names_beside, rulers, text  # noqa: E402

FIRST = dt.date(2024, 1, 1)
TIMES = (1, 3, 10, 30, 100)
ACTS = ("prepare", "open", "epoch")
FLAT = 0.2
SVG = XMLNS_NAMESPACE.replace("xmlns/", "svg")  # its neighbour, which makes a file of its own of a drawing
OPENING = """
import json, resource, sys, time
from dateshard.shardstore.dataset import Dataset
took = []
for _ in range(5):
    before = time.process_time()
    Dataset.open(sys.argv[1])
    took.append(time.process_time() - before)
print(json.dumps(min(took)))
"""
STYLE = (
    "svg{font:11.5px system-ui,sans-serif;background:#fff}.label{fill:#5c636b}.name{font-weight:600}.grid{stroke:#ece9e3}"
    ".axis,.lead{stroke:#8d939a;fill:none}.line{fill:none;stroke-width:2}.line.a{stroke:#256d8f}.line.b{stroke:#c4621c}"
    ".line.ink{stroke:#1c2126}.name.a{fill:#256d8f}.name.b{fill:#c4621c}.name.ink{fill:#1c2126}"
)
COLOURS = {"prepare": "a", "open": "b", "epoch": "ink"}


@dataclass(slots=True, kw_only=True)
class Sized:
    """A dataset of some size: dumps of some records a cell, `stride` steps from one window to the next."""

    dates: int = 8
    steps: int = 96
    nodes: int = 50
    records: int = 1
    stride: int = 1
    costs: dict[str, list[ProcessCost]] = field(default_factory=lambda: {act: [] for act in ACTS})

    def write(self, folder: Path) -> None:
        """Writes a Parquet dump a date and the configuration."""
        (folder / "raw").mkdir(parents=True)
        names = pl.Series([f"s{node:06}" for node in range(self.nodes)])
        places = np.arange(self.steps * self.records)
        for day in range(self.dates):
            midnight = np.datetime64(FIRST + dt.timedelta(days=day), "ms")
            drawn = np.random.default_rng([5, day])
            times = midnight + places * (86_400_000 // len(places))
            frame = pl.DataFrame({
                "time": np.repeat(times, self.nodes), "node": pl.concat([names] * len(places)),
                "speed": drawn.normal(60, 9, len(places) * self.nodes), "volume": drawn.poisson(9, len(places) * self.nodes),
            })  # fmt: skip
            frame.write_parquet(folder / "raw" / f"{FIRST + dt.timedelta(days=day)}.parquet")
        (folder / "config.yaml").write_text(json.dumps(self._tree()))

    def _tree(self) -> dict[str, object]:
        source = {"path": "raw/{date}.parquet", "time": "time", "timezone": "UTC", "node": "node"}
        features = {"speed": {}, "volume": {"aggregate": "sum", "scale": "none"}}
        held = str(FIRST + dt.timedelta(days=self.dates - 2))
        return {
            "dataset": "sized",
            "pipeline": {
                "source": source, "step": f"{86_400 // self.steps}s", "features": features,
                "split": {"train": f"..{held}", "validation": str(FIRST + dt.timedelta(days=self.dates - 1))},
            },
            "trainer": {
                "window": {"history": 12, "horizon": 4, "stride": self.stride}, "model": {"name": "nlinear"},
                "training": {"epochs": 1, "batch_size": 32},
            },
        }  # fmt: skip

    def measure(self, folder: Path) -> None:
        """One turn: prepares anew, opens, trains an epoch."""
        shutil.rmtree(folder / "data", ignore_errors=True)
        one = dict.fromkeys(("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        environment = os.environ | one | {"PYTHONPATH": str(ROOT)}
        program = [sys.executable, "-m", "dateshard"]
        words = [*program, "preprocess", "-c", "config.yaml", "--workers", "1"]
        self.costs["prepare"].append(process_cost(words, folder, environment))
        cost = process_cost([sys.executable, "-c", OPENING, "data/shards/sized"], folder, environment)
        self.costs["open"].append(replace(cost, cpu=json.loads((folder / "log").read_text())))
        self.costs["epoch"].append(process_cost([*program, "train", "-c", "config.yaml"], folder, environment))

    def least(self, act: str, what: str) -> float:
        """The least CPU seconds, or MB, of an act over all turns."""
        return min(cost.cpu if what == "cpu" else cost.peak / 1e6 for cost in self.costs[act])


# What grows, and the dataset of each size. Windows: of one series, every 100th to every one (at 30x every third).
GROWING = {
    "dates": lambda k: Sized(dates=4 * k),
    "rows": lambda k: Sized(dates=3, steps=24, nodes=50, records=10 * k),
    "nodes": lambda k: Sized(dates=4, nodes=100 * k),
    "windows": lambda k: Sized(dates=110, steps=288, nodes=10, stride=100 // k),
}


def power(at: dict[int, float]) -> str:
    """The power p of cost = fixed + each x size^p that fits best, by relative errors."""
    sizes, costs = np.array(list(at), dtype=float), np.array(list(at.values()))
    if costs[-1] - costs[0] < FLAT * costs[0]:
        return "flat"

    def unlike(p: float) -> float:
        terms = np.stack([np.ones_like(sizes), sizes**p], axis=1) / costs[:, None]
        by = np.linalg.lstsq(terms, np.ones_like(sizes))[0]
        return float(np.sum((terms @ by - 1) ** 2))

    return f"{min(np.arange(0.1, 3.01, 0.05), key=unlike):.2f}"


def plot(what: str, sizes: dict[int, Sized]) -> str:
    """An SVG of CPU seconds and memory against size, both logarithmic."""
    panels = [
        panel(
            f"{words}, {what} x",
            {act: {k: one.least(act, unit) for k, one in sizes.items()} for act in ACTS},
            520 * index,
        )
        for index, (unit, words) in enumerate((("cpu", "CPU seconds"), ("mb", "most resident MB")))
    ]
    drawn = canvas(1040, 250, f"what preparing, opening and an epoch cost against {what}", panels)
    return drawn.replace("<svg", f'<svg xmlns="{SVG}"', 1).replace(">", f"><style>{STYLE}</style>", 1)


def panel(title: str, series: dict[str, dict[int, float]], left: float) -> str:
    """One chart of lines, from `left` on."""
    values = [value for of in series.values() for value in of.values()]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    marks = tuple((10.0**mark, f"{10.0**mark:g}") for mark in range(low, high + 1))
    axis = Axis(marks, lambda value: 210 - (math.log10(value) - low) / (high - low or 1) * 175)
    begin, wide = left + 56.0, 370.0

    def across(times: int) -> float:
        return begin + math.log10(times) / 2 * wide

    parts = [text(begin, 18, title, css="name ink"), rulers(axis, begin, begin + wide)]
    parts.append(f'<path class="axis" d="M{begin:g},210h{wide:g}"/>')
    for times in TIMES:
        parts.append(f'<path class="axis" d="M{across(times):.1f},210v4"/>')
        parts.append(text(across(times), 226, str(times), anchor="middle"))
    ends = []
    for act, of in series.items():
        points = [(across(times), axis.place(value)) for times, value in of.items()]
        parts.append(line(points, COLOURS[act]))
        ends.append(LineEnd(*points[-1], act, COLOURS[act]))
    return "".join([*parts, names_beside(ends, begin + wide + 8, 35, 210)])


def main() -> None:
    """Prints a table of CPU seconds and one of memory, a row a kind of growth and act."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(GROWING))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    rows: dict[str, list[list[str]]] = {"cpu": [], "mb": []}
    for what in asked.only.split(","):
        sizes = {k: GROWING[what](k) for k in TIMES}
        with tempfile.TemporaryDirectory(dir=asked.folder) as scratch:
            for k, sized in sizes.items():
                sized.write(Path(scratch) / str(k))
            for _ in range(asked.repeats):
                for k, sized in sizes.items():
                    sized.measure(Path(scratch) / str(k))
        for unit, lines in rows.items():
            for act in ACTS:
                at = {k: sized.least(act, unit) for k, sized in sizes.items()}
                cells = [figure(at[k]) if k in at else "" for k in TIMES]
                lines.append([what, act, *cells, power(at)])
                print(unit, lines[-1], file=sys.stderr, flush=True)
        if asked.write:
            (ROOT / "docs" / "images" / f"cost-{what}.svg").write_text(plot(what, sizes))
    of = {
        unit: table(["what grows", "act", *(f"{k}x" for k in TIMES), "growth"], lines) for unit, lines in rows.items()
    }
    sizes_told = (
        "1x: 4 dates of 4,800 rows; 3 dates of 12,000 rows; 4 dates of 100 nodes; every 100th window of 110 dates"
    )
    text_of = heading("Cost against size", f"least of {asked.repeats} by turns, one thread; {sizes_told}")
    result = f"{text_of}\nCPU seconds:\n\n{of['cpu']}\nMost resident MB of the process:\n\n{of['mb']}"
    print(result)
    if asked.write:
        keep("costs", result)


if __name__ == "__main__":
    main()
