"""Parquet beside Zarr: bytes on disk, CPU seconds to write and to read, and what the cache costs to train from.

    python bench/parquet.py [--example flights|traffic] [--repeats 5] [--write]

The example is made in a temporary folder. All acts run in this process, one worker, interleaved, after one round that
does not count; every round has stores of its own. Encodings: the same dates as Parquet of other settings.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import io
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dateshard.cli import run
from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.execute import preprocess
from dateshard.pipeline.planning.plan import Wish
from dateshard.pipeline.progress_events import Finished
from dateshard.pipeline.source import StoreConfig
from dateshard.settings import load_settings
from dateshard.shardstore.dataset import Dataset

FORMATS = {"Zarr": ("zarr",), "both": ("zarr", "parquet"), "Parquet": ("parquet",)}
Figures = dict[str, list[float]]


def prepare(config: Pipeline, root: Path, formats: tuple[str, ...], *, force: bool = False) -> None:
    """One preprocess; every date must come through."""
    chosen = config.model_copy(update={"store": StoreConfig.model_validate({"formats": formats})})
    *_, last = preprocess("bench", chosen, root, Wish(force=force), 1)
    assert isinstance(last, Finished)
    assert not last.failed


def touch(root: Path) -> None:
    """Every value and mask of every date, once, verified, as a training that maps would."""
    dataset = Dataset.open(root)
    for day in dataset.days:
        for name in ("values", "observed"):
            mapped = dataset.map(day.date, name)
            if mapped is not None:
                mapped.view(np.uint8).max()


def decode(root: Path) -> None:
    """Every date out of its file, without the cache."""
    dataset = Dataset.open(root)
    for day in dataset.days:
        dataset.arrays(day.date)


def taken(found: Figures, name: str, act: Callable[[], Any]) -> None:
    """CPU seconds of an act, all its threads, user and system."""
    began = time.process_time()
    act()
    found.setdefault(name, []).append(time.process_time() - began)


def measure(config: Pipeline, folder: Path) -> tuple[Figures, dict[str, int]]:
    """One round: seconds, and bytes of the shards as each format."""
    found: Figures = {}
    roots = {name: folder / name for name in FORMATS}
    for name, formats in FORMATS.items():
        taken(found, f"dumps -> {name}", lambda r=roots[name], f=formats: prepare(config, r, f))
    taken(found, "nothing to do, both", lambda: prepare(config, roots["both"], FORMATS["both"]))
    gains = shutil.copytree(roots["Zarr"], folder / "gains")
    taken(found, "Zarr gains Parquet", lambda: prepare(config, gains, FORMATS["both"]))
    taken(found, "map all of Zarr", lambda: touch(roots["Zarr"]))
    taken(found, "decode all of Parquet", lambda: decode(roots["Parquet"]))
    taken(found, "map all of Parquet, no cache yet", lambda: touch(roots["Parquet"]))
    taken(found, "map all of Parquet, cached", lambda: touch(roots["Parquet"]))
    sizes = {"Zarr": _bytes(roots["Zarr"] / "shards"), "Parquet": _bytes(roots["Parquet"] / "parquet")}
    sizes["cache"] = _bytes(roots["Parquet"] / "cache")
    return found, sizes


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def encodings(root: Path) -> list[str]:
    """Rows of a table: bytes of the floats' and masks' files under other settings, and the seconds of writing them."""
    tables = [pq.read_table(path) for path in sorted(root.glob("parquet/*/*/*.parquet"))]
    names = [field.name for field in tables[0].schema if pa.types.is_floating(field.type)]
    rows = []
    for codec in ("none", "snappy", "zstd"):
        for encoding in ("PLAIN", "BYTE_STREAM_SPLIT", "RLE_DICTIONARY"):
            split: dict[str, Any] = {"column_encoding": dict.fromkeys(names, encoding)}
            options = split if encoding != "RLE_DICTIONARY" else {}
            keys = ["time", "node"] + ([] if options else names)
            best, num_bytes = float("inf"), 0
            for _ in range(3):
                began, num_bytes = time.process_time(), 0
                for table in tables:
                    sink = pa.BufferOutputStream()
                    pq.write_table(table, sink, compression=codec, use_dictionary=keys, **options)
                    num_bytes += sink.getvalue().size
                best = min(best, time.process_time() - began)
            rows.append(f"| {encoding}, {codec} | {num_bytes / 1e6:.2f} | {best:.2f} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--example", choices=["flights", "traffic"], default="flights")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        with contextlib.redirect_stdout(io.StringIO()):
            assert run(["init", ".", "--example", chosen.example]) == 0
        config = load_settings([f"configs/{chosen.example}.yaml"]).preparing()
        rounds = []
        for number in range(chosen.repeats + 1):
            rounds.append(measure(config, Path(temporary) / str(number)))
            if number < chosen.repeats:
                shutil.rmtree(Path(temporary) / str(number))
        root = Path(temporary) / str(chosen.repeats) / "Parquet"
        manifest = Dataset.open(root).manifest
        other = encodings(root)
    figures = {name: [r[0][name][0] for r in rounds[1:]] for name in rounds[0][0]}
    shape = f"{len(manifest.dates)} dates x {next(iter(manifest.dates.values())).num_steps} steps"
    shape += f" x {manifest.num_nodes} nodes x {len(manifest.features)} features"
    lines = [
        f"Parquet beside Zarr, {dt.date.today()}, {platform.machine()}, {os.cpu_count()} cores, pyarrow {pa.__version__}, "
        f"{chosen.example}: {shape}; {chosen.repeats} rounds, interleaved, one worker; load {load:.1f}",
        "",
        "| CPU s | least | (to) | ms a date |",
        "|---|---|---|---|",
    ]
    for name, values in figures.items():
        each = 1000 * min(values) / len(manifest.dates)
        lines.append(f"| {name} | {min(values):.3f} | {max(values):.3f} | {each:.2f} |")
    lines += ["", "| folder | MB | kB a date |", "|---|---|---|"]
    for name, num_bytes in rounds[-1][1].items():
        lines.append(f"| {name} | {num_bytes / 1e6:.2f} | {num_bytes / 1e3 / len(manifest.dates):.2f} |")
    lines += ["", "| floats as | MB | CPU s |", "|---|---|---|", *other]
    print("\n".join(lines))
    if chosen.write:
        path = Path(__file__).parent / "results" / f"{dt.date.today()}-parquet.md"
        before = path.read_text() + "\n" if path.exists() else ""
        path.write_text(before + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
