"""Dense, scaled dates from raw rows, by dateshard and by others, by turns: CPU seconds a date, and memory.

    python bench/preparing_peers.py [--dates 2] [--rows 3000000] [--suffixes csv,parquet] [--who duckdb] [--repeats 5] [--write]

Each turn is a process of its own in the environment of its library, one thread (bench/peers/environments.toml). What each
does, and what it leaves out: bench/peers/prepare_dates.py. What they make is compared: but for a factor and an offset a
feature (their statistics are of rows, dateshard's of cells) it must agree. Needs 0.3 GB a date below --folder.
Bytecode lies in a cache, as that of an installed program does: a turn of each that makes it goes before those that count. A
decoded day has 8 bytes of time, 4 of node and 8 a value in each row; above imports is what a process held after them.
`--who parse`, the default of `make bench`, is polars alone that reads each dump once: it needs no other environment.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from bench.dated import figure, heading, keep, spread, table  # noqa: E402
from bench.peers.environments import PINNED, python_of  # noqa: E402
from bench.peers.prepare_dates import FEATURES, FIRST, NAMES, NODES, STEPS, dt  # noqa: E402
from bench.process_cost import ProcessCost, process_cost  # noqa: E402

WHO = {
    "dateshard": "", "parse": "", "polars": "frames", "duckdb": "frames", "pandas": "frames", "dask": "frames",
    "datasets": "datasets",
}  # fmt: skip
TOLD = {
    "parse": "polars, bare parse", "polars": "polars, two passes", "duckdb": "duckdb, two queries",
    "datasets": "HF datasets",
}  # fmt: skip
ROW_BYTES = 8 + 4 + 8 * len(FEATURES)


def write_raw(folder: Path, dates: int, rows: int, suffixes: Sequence[str] = ("csv", "parquet")) -> None:
    """CSV, Parquet or both of each date: 512 nodes, four features; seconds out of order, 1 % sent again, 1 % gaps."""
    day_ms = 86_400_000
    for index in range(dates):
        day = FIRST + dt.timedelta(days=index)
        paths = {suffix: folder / suffix / f"{day}.{suffix}" for suffix in suffixes}
        if all(path.exists() for path in paths.values()):
            continue
        drawn = np.random.default_rng([17, index])
        sent = np.sort(drawn.integers(0, day_ms, rows))
        order = np.argsort(sent + drawn.integers(-2_000, 2_000, rows), kind="stable")
        again = np.sort(drawn.choice(rows, rows // 100, replace=False))
        order = np.insert(order, np.minimum(again + drawn.integers(1, 5_000, len(again)), rows), order[again])
        midnight = np.datetime64(day, "ms").astype(np.int64)
        node = drawn.integers(0, NODES, rows)
        columns: dict[str, pl.Series] = {
            "ts": pl.Series((midnight + sent)[order]).cast(pl.Datetime("ms")),
            "node": pl.Series(node[order].astype(np.uint32)).replace_strict(
                dict(enumerate(NAMES)), return_dtype=pl.String
            ),
        }
        for name, spread_of, level in zip(FEATURES, (1, 10, 0.1, 1e3), (0, 50, 1e4, 1e6), strict=True):
            values = level + spread_of * (np.sin(sent / day_ms * 2 * np.pi) + drawn.standard_normal(rows))
            values[drawn.random(rows) < 0.01] = np.nan
            columns[name] = pl.Series(np.round(values, 4)[order]).fill_nan(None)
        frame = pl.DataFrame(columns)
        for path in paths.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        if "csv" in paths:
            frame.write_csv(paths["csv"], datetime_format="%Y-%m-%dT%H:%M:%S%.3f")
        if "parquet" in paths:
            frame.write_parquet(paths["parquet"], compression="zstd")


@dataclass(frozen=True, slots=True)
class Turn:
    """One process: what it took, its CPU seconds without imports, and what it held after them."""

    whole: ProcessCost
    alone: float
    held: int


def turn(who: str, raw: Path, suffix: str, dates: int, out: Path) -> Turn:
    """Lets a library prepare the dates once."""
    python = python_of(WHO[who]) if WHO[who] else Path(sys.executable)
    script = ROOT / "bench" / "peers" / "prepare_dates.py"
    words = [python, script, "--who", who, "--raw", raw, "--suffix", suffix, "--dates", str(dates), "--out", out / who]
    threads = dict.fromkeys(("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ARROW_NUM_THREADS"), "1")
    cached = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(out / "bytecode" / WHO[who])}
    silent = {"HF_DATASETS_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    cost = process_cost(words, out, os.environ | threads | cached | silent)
    printed = [line for line in (out / "log").read_text().splitlines() if line.startswith('{"who"')]
    facts = json.loads(printed[-1])
    return Turn(cost, facts["cpu"], facts["held"])


def refuse_unlike(who: str, out: Path) -> None:
    """Ends the run where a library's first date is not dateshard's but for a factor and an offset of each feature."""
    ours, theirs = (
        np.fromfile(out / name / "0.f32", dtype="<f4").reshape(-1, len(FEATURES)) for name in ("dateshard", who)
    )
    for feature in range(len(FEATURES)):
        x, y = theirs[STEPS:, feature].astype(float), ours[STEPS:, feature].astype(float)
        factor, offset = np.polyfit(x, y, 1)
        apart = np.quantile(np.abs(factor * x + offset - y), 0.999)
        if not apart < 1e-3:
            raise SystemExit(
                f"{who} makes other values of {FEATURES[feature]}: {apart:.2g} of a standard deviation apart"
            )


def main() -> None:
    """Prints a row a format and library."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dates", type=int, default=2)
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--suffixes", default="csv,parquet")
    parser.add_argument("--who", default=",".join(WHO))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="kept; without it a temporary one")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    who = list(dict.fromkeys(["dateshard", *asked.who.split(",")]))
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.folder or Path(scratch)
        (folder / "out").mkdir(parents=True, exist_ok=True)
        write_raw(folder / "raw", asked.dates, asked.rows)
        for suffix in asked.suffixes.split(","):
            turns: dict[str, list[Turn]] = {name: [] for name in who}
            for number in range(asked.repeats + 1):
                for name in who:
                    made = turn(name, folder / "raw", suffix, asked.dates, folder / "out")
                    turns[name] += [made] if number else []  # the first one makes the bytecode
                    if name not in ("dateshard", "parse"):
                        refuse_unlike(name, folder / "out")
            whole = {name: [made.whole.cpu for made in turns[name]] for name in who}
            alone = {name: [made.alone for made in turns[name]] for name in who}
            for name in who:
                peak = min(made.whole.peak for made in turns[name]) / 1e6
                above = min(made.whole.peak - made.held for made in turns[name]) / (asked.rows * 1.01 * ROW_BYTES)
                costs = [spread([value / asked.dates for value in of[name]]) for of in (whole, alone)]
                ratios = [figure(min(of[name]) / min(of["dateshard"])) for of in (whole, alone)]
                sizes = [f"{peak:,.0f}", figure(above)]
                rows.append([suffix, TOLD.get(name, name), costs[0], ratios[0], costs[1], ratios[1], *sizes])
                print(rows[-1], file=sys.stderr, flush=True)
    how = (
        f"{asked.dates} dates of {asked.rows * 1.01 / 1e6:.2f} M rows x 4 features, CPU s a date, least (median, most) of "
        f"{asked.repeats} by turns, one thread"
    )
    versions = ", ".join(sorted({package for name in who if WHO[name] for package in PINNED[WHO[name]]}))
    heads = [
        "format",
        "who",
        "CPU s a date, whole process",
        "times dateshard's",
        "without imports",
        "times dateshard's without",
        "peak MB",
        "peak above imports / decoded day",
    ]
    text = (
        heading("Preparing beside others", f"{how}; {versions or 'polars ' + pl.__version__}")
        + "\n"
        + table(heads, rows)
    )
    print(text)
    if asked.write:
        keep("preparing-peers", text)


if __name__ == "__main__":
    main()
