"""One library makes dense, scaled and filled dates of raw rows; what that took, as JSON.

    PYTHON bench/peers/prepare_dates.py --who duckdb --raw RAW --suffix csv|parquet --dates N --out OUT

Reads RAW/<suffix>/2024-01-01.<suffix> and on: columns ts, node and f0 to f3, unordered, with repeated rows and gaps. First
pass: mean and standard deviation of each feature over all dates. Second pass: rows of the same time and node once, the mean
of each minute and node, scaled, the last value carried forward, to OUT/<index>.f32, float32 [1440, 512, 4]. Nothing is
hashed or made durable, and the statistics are of rows, as the libraries offer them (dateshard's are of cells). `parse` is
no library: polars alone reads each dump with its timestamps, once. One thread. bench/preparing_peers.py runs this in the
environment of each library and compares what they make.
"""

from __future__ import annotations

import argparse
import datetime as dt
import gc
import json
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

STEPS, NODES, MINUTE = 1440, 512, 60_000
NAMES = [f"node_{number:04d}" for number in range(NODES)]
FEATURES = [f"f{number}" for number in range(4)]
FIRST = dt.date(2024, 1, 1)
Paths = list[Path]
Way = Callable[[Paths, Path], None]


def midnight(path: Path) -> int:
    """The first millisecond of a dump's date."""
    return int(np.datetime64(path.stem, "ms").astype(np.int64))


class Moments:
    """Count, sum and sum of squared distances of each feature, merged date by date."""

    def __init__(self) -> None:
        self.count, self.mean, self.m2 = (np.zeros(len(FEATURES)) for _ in range(3))

    def add(self, count: Any, mean: Any, variance: Any) -> None:
        """Merges another date's."""
        count, mean, variance = (np.asarray(values, dtype=float) for values in (count, mean, variance))
        total, apart = self.count + count, mean - self.mean
        self.m2 += variance * count + apart**2 * self.count * count / total
        self.mean += apart * count / total
        self.count = total

    @property
    def deviation(self) -> Any:
        """The standard deviation of each feature."""
        return np.sqrt(self.m2 / self.count)


def write(path: Path, cell: Any, columns: Iterator[Any], moments: Moments) -> None:
    """Scatters means into the grid, scales it, carries values forward, and writes it; 0 before the first value."""
    grid = np.full((STEPS * NODES, len(FEATURES)), np.nan)
    for index, column in enumerate(columns):
        grid[cell, index] = column
    scaled = ((grid - moments.mean) / moments.deviation).astype(np.float32).reshape(STEPS, NODES, len(FEATURES))
    np.nan_to_num(scaled[0], copy=False)
    for step in range(1, STEPS):
        np.copyto(scaled[step], scaled[step - 1], where=np.isnan(scaled[step]))
    scaled.tofile(path)


def _scan(path: Path) -> Any:
    import polars as pl

    kinds = {"ts": pl.String, "node": pl.Enum(NAMES)} | dict.fromkeys(FEATURES, pl.Float64)
    if path.suffix == ".csv":
        frame = pl.scan_csv(path, schema=kinds)
        time_ms = pl.col("ts").str.to_datetime("%Y-%m-%dT%H:%M:%S%.3f", time_unit="ms")
    else:
        frame = pl.scan_parquet(path).with_columns(pl.col("node").cast(pl.Enum(NAMES)))
        time_ms = pl.col("ts").dt.cast_time_unit("ms")
    return frame.with_columns((time_ms.to_physical() - midnight(path)).alias("ts"), pl.col("node").to_physical())


def parse(paths: Paths, out: Path) -> None:
    """Polars reads every column of each dump, timestamps decoded."""
    for path in paths:
        _scan(path).collect()


def polars(paths: Paths, out: Path) -> None:
    """Two passes of the streaming engine."""
    import polars as pl

    moments = Moments()
    for path in paths:
        of = pl.col(FEATURES)
        frame = _scan(path).select(
            of.count().name.suffix("n"), of.mean().name.suffix("m"), of.var(ddof=0).name.suffix("v")
        )
        row = frame.collect(engine="streaming").row(0)
        moments.add(row[:4], row[4:8], row[8:])
    cell = (pl.col("ts") // MINUTE * NODES + pl.col("node")).alias("cell")
    for index, path in enumerate(paths):
        single = _scan(path).unique(subset=["ts", "node"], keep="any")
        means = single.group_by(cell).agg(pl.col(FEATURES).mean()).collect(engine="streaming")
        write(out / f"{index}.f32", means["cell"].to_numpy(), (means[name].to_numpy() for name in FEATURES), moments)


def duckdb(paths: Paths, out: Path) -> None:
    """Two queries a date."""
    import duckdb as library

    connection = library.connect(config={"threads": 1, "preserve_insertion_order": False})
    connection.execute("CREATE TABLE nodes AS SELECT unnest(?) AS node, unnest(range(?)) AS place", [NAMES, NODES])
    kinds = {"ts": "TIMESTAMP", "node": "VARCHAR"} | dict.fromkeys(FEATURES, "DOUBLE")
    sources = {
        path: f"read_csv('{path}', header=true, columns={kinds})"
        if path.suffix == ".csv"
        else f"read_parquet('{path}')"
        for path in paths
    }
    moments = Moments()
    for source in sources.values():
        asked = ", ".join(f"{what}({name})" for what in ("count", "avg", "var_pop") for name in FEATURES)
        row = connection.execute(f"SELECT {asked} FROM {source}").fetchone()
        moments.add(row[:4], row[4:8], row[8:])
    for index, (path, source) in enumerate(sources.items()):
        anyone, means = (", ".join(f"{what}({name}) AS {name}" for name in FEATURES) for what in ("any_value", "avg"))
        rows = connection.execute(
            f"WITH single AS (SELECT ts, place, {anyone} FROM {source} JOIN nodes USING (node) GROUP BY ts, place) "
            f"SELECT (epoch_ms(ts) - {midnight(path)}) // {MINUTE} * {NODES} + place AS cell, {means} FROM single GROUP BY cell"
        ).fetchnumpy()
        columns = (np.ma.filled(rows[name], np.nan) for name in FEATURES)
        write(out / f"{index}.f32", np.asarray(rows["cell"], dtype=np.int64), columns, moments)


def _frame(path: Path) -> Any:
    import pandas as pd

    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    kinds = {"node": "category"} | dict.fromkeys(FEATURES, "float64")
    return pd.read_csv(path, engine="pyarrow", dtype=kinds, parse_dates=["ts"])


def _write_frame(path: Path, frame: Any, day: int, moments: Moments) -> None:
    import pandas as pd

    single = frame.drop_duplicates(["ts", "node"], keep="last")
    node = pd.Categorical(single["node"], categories=NAMES).codes.astype("int64")
    minute = (single["ts"].astype("datetime64[ms]").astype("int64").to_numpy() - day) // MINUTE
    means = single[FEATURES].groupby(minute * NODES + node).mean()
    write(path, means.index.to_numpy(), (means[name].to_numpy() for name in FEATURES), moments)


def pandas(paths: Paths, out: Path) -> None:
    """Whole dumps in memory, each read twice."""
    moments = Moments()
    for path in paths:
        values = _frame(path)[FEATURES]
        moments.add(values.count(), values.mean(), values.var(ddof=0))
    for index, path in enumerate(paths):
        _write_frame(out / f"{index}.f32", _frame(path), midnight(path), moments)


def dask(paths: Paths, out: Path) -> None:
    """One lazy frame over all dates for the statistics, then a task a date."""
    import dask as library
    import dask.dataframe as dd

    library.config.set(scheduler="synchronous")
    kinds = {"node": "str"} | dict.fromkeys(FEATURES, "float64")
    names = [str(path) for path in paths]
    frame = (
        dd.read_parquet(names) if paths[0].suffix == ".parquet" else dd.read_csv(names, blocksize="64MB", dtype=kinds)
    )
    moments, values = Moments(), frame[FEATURES]
    moments.add(*library.compute(values.count(), values.mean(), values.var(ddof=0)))

    def one_date(index: int, path: Path) -> None:
        _write_frame(out / f"{index}.f32", _frame(path), midnight(path), moments)

    library.compute(*(library.delayed(one_date)(index, path) for index, path in enumerate(paths)))


def datasets(paths: Paths, out: Path) -> None:
    """Loads each dump into its Arrow cache and scales rows by `map`; the grid, which it has no word for, is pandas' work."""
    import datasets as library

    library.disable_progress_bars()
    moments, loaded = Moments(), []
    for path in paths:
        kind = path.suffix[1:]
        rows = library.load_dataset(kind, data_files=str(path), split="train", cache_dir=str(out / "cache"))
        values = np.stack([rows.data[name].to_numpy() for name in FEATURES])
        moments.add(np.sum(~np.isnan(values), axis=1), np.nanmean(values, axis=1), np.nanvar(values, axis=1))
        loaded.append(rows)

    def scaled(batch: dict[str, Any]) -> dict[str, Any]:
        places = enumerate(FEATURES)
        return {name: (np.asarray(batch[name], float) - moments.mean[k]) / moments.deviation[k] for k, name in places}

    nothing = Moments()
    nothing.add(*(np.ones(len(FEATURES)), np.zeros(len(FEATURES)), np.ones(len(FEATURES))))  # rows are scaled already
    for index, (path, rows) in enumerate(zip(paths, loaded, strict=True)):
        frame = (
            rows.with_format("numpy", dtype=np.float64, columns=FEATURES, output_all_columns=True)
            .map(scaled, batched=True, batch_size=100_000)
            .data.to_pandas()
        )
        frame["ts"] = frame["ts"].astype("datetime64[ms]")
        _write_frame(out / f"{index}.f32", frame, midnight(path), nothing)


def dateshard(paths: Paths, out: Path) -> None:
    """The real `preprocess` with one worker: hashes, staged arrays and durable shards with it."""
    import preprocess_ours as ours

    table = out / "nodes.csv"
    table.write_text("\n".join(["node", *NAMES]) + "\n")
    dates = [dt.date.fromisoformat(path.stem) for path in paths]
    raw, suffix = paths[0].parents[1], paths[0].suffix[1:]
    others = [dt.date.fromisoformat(path.stem) for path in sorted(paths[0].parent.iterdir()) if path not in paths]
    config = ours.configuration(raw, suffix, table, dates)
    config = config.model_copy(update={"exclude": tuple((date, date) for date in others)})
    ours.prepare(config, out / "store")
    dataset = ours.Dataset.open(out / "store")
    for index, date in enumerate(dates):
        (part,) = dataset.manifest.dates[date].parts
        (out / f"{index}.f32").hardlink_to(dataset.root / "shards" / str(date) / part.id / ours.chunk_file("values"))


WAYS: dict[str, tuple[Way, tuple[str, ...]]] = {  # and what each imports before the clock of its work begins
    "dateshard": (dateshard, ("preprocess_ours", "polars", "pyarrow.parquet")), "parse": (parse, ("polars",)),
    "polars": (polars, ("polars",)), "duckdb": (duckdb, ("duckdb",)),
    "pandas": (pandas, ("pandas", "pyarrow.csv", "pyarrow.parquet")),
    "dask": (dask, ("dask.dataframe",)), "datasets": (datasets, ("datasets",)),
}  # fmt: skip


def main() -> None:
    """Prints {who, cpu, held}: CPU seconds without imports, and the bytes that are resident after them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--who", choices=list(WAYS), required=True)
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--suffix", choices=["csv", "parquet"], required=True)
    parser.add_argument("--dates", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    shutil.rmtree(asked.out, ignore_errors=True)
    asked.out.mkdir(parents=True)
    way, modules = WAYS[asked.who]
    if asked.who == "dateshard":
        sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    for module in modules:
        __import__(module)
    days = [FIRST + dt.timedelta(days=index) for index in range(asked.dates)]
    held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    before = time.process_time()
    way([asked.raw / asked.suffix / f"{day}.{asked.suffix}" for day in days], asked.out)
    print(json.dumps({"who": asked.who, "cpu": time.process_time() - before, "held": held}), flush=True)
    gc.freeze()  # no way's end is looked through for garbage, as that of the command line is not


if __name__ == "__main__":
    main()
