"""Two workers against one: the real `dateshard preprocess`, by turns, beside what two cores give when nothing is shared.

    python bench/workers.py [--dates 24] [--rows 3000000] [--rounds 3] [--small-rounds 3] [--folder DIR]

Two cases: dates of 217 MB of CSV (those of preparing_peers.py), and a year of dates of 17 MB. Each round runs all ways once:

- `1, one thread`: one worker, which works in the process itself, on one core.
- `2`: two workers.
- `half of the dates each`: two such commands of one thread at once, each over every other date into a store of its own.
  They share nothing but the machine: what it gives to two processes.

What counts is the least wall time of all rounds, beside CPU seconds with those of all children. `busy` is how many cores
were kept busy: CPU / wall of the best. A second table has bare loops alone and two at once, in CPU seconds: what two take
more than one is waiting for the memory that both use. Needs 0.3 GB of disk a large date and 12 GB for the year, and 12 minutes
on a quiet machine.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dateshard.pipeline.synthetic import City, write_long
from dateshard.shardstore.identity import hash_file

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from bench.dated import figure, heading, spread, table  # noqa: E402
from bench.peers.prepare_dates import FEATURES, NAMES  # noqa: E402
from bench.preparing_peers import write_raw  # noqa: E402

PR_SET_CHILD_SUBREAPER = 36  # orphans of our children become our own
ONE_THREAD = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
BASE, TWO, HALVES = WAYS = "1, one thread", "2", "half of the dates each"
HEADS = [
    "dates", "workers", "wall s, best (median, most)", "CPU s, least", "busy", "peak MB", f"times faster than `{BASE}`",
]  # fmt: skip
LOOP_HEADS = ["loop", "one alone, CPU s", "each of two at once, CPU s", "two do in the time of one, times as much"]
SMALL_DATES, SENSORS, LOOP_ROUNDS = 366, 1500, 2


@dataclass(frozen=True, slots=True)
class Case:
    """Dumps in a folder of their own, with config.yaml, and again in two folders with half of them each."""

    name: str
    folder: Path
    halves: tuple[Path, Path]
    rounds: int


@dataclass(slots=True)
class Times:
    """Wall and CPU seconds of every round, children included, and the peak that the command told."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak_bytes: int = 0


def large_case(folder: Path, num_dates: int, num_rows: int, rounds: int) -> Case:
    """Dates of preparing_peers.py: every date is a training date, gaps are carried forward."""
    write_raw(folder / "written", num_dates, num_rows, ("csv",))
    pipeline = {
        "source": {"path": "raw/{date}.csv", "time": "ts", "node": "node", "duplicates": "last"},
        "nodes": {"table": "nodes.csv", "id": "node"},
        "step": "1m",
        "features": {name: {"aggregate": "mean", "fill": "forward", "scale": "zscore"} for name in FEATURES},
    }
    nodes = "\n".join(["node", *NAMES]) + "\n"
    return laid_out(folder, sorted((folder / "written" / "csv").iterdir()), pipeline, nodes, rounds)


def small_case(folder: Path, rounds: int) -> Case:
    """A generated city's dates: 5-minute steps, nodes as they are found."""
    city = City(num_sensors=SENSORS)
    (folder / "written").mkdir(parents=True)
    paths = write_long(city, list(city.dates(SMALL_DATES)), folder / "written", "csv")
    pipeline = {
        "source": {"path": "raw/{date}.csv", "time": "timestamp", "node": "sensor_id"},
        "step": "5m",
        "features": {
            "speed": {"aggregate": "mean", "fill": "forward", "fill_limit": 12},
            "vehicles": {"aggregate": "sum", "fill": "zero", "transform": "log1p"},
        },
    }
    return laid_out(folder, sorted(paths), pipeline, "", rounds)


def laid_out(folder: Path, paths: list[Path], pipeline: dict[str, Any], nodes: str, rounds: int) -> Case:
    """Links the dumps into `all`, and every other one into each of two halves, each with a configuration."""
    for name, chosen in {"all": paths, "0": paths[::2], "1": paths[1::2]}.items():
        (folder / name / "raw").mkdir(parents=True)
        for path in chosen:
            (folder / name / "raw" / path.name).hardlink_to(path)
        (folder / name / "nodes.csv").write_text(nodes)
        split = {"train": f"{chosen[0].stem}..{chosen[-1].stem}"}
        settings = {"dataset": "dates", "pipeline": {**pipeline, "split": split}}
        (folder / name / "config.yaml").write_text(json.dumps(settings))
    megabytes = sum(path.stat().st_size for path in paths) / len(paths) / 1e6
    return Case(f"{len(paths)} x {megabytes:,.0f} MB", folder / "all", (folder / "0", folder / "1"), rounds)


def run(case: Case, way: str, times: Times) -> None:
    """Prepares all dates one way, from nothing."""
    folders = case.halves if way == HALVES else (case.folder,)
    workers = TWO if way == TWO else "1"
    environment = {**os.environ, **(ONE_THREAD if way != TWO else {}), "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "dateshard", "preprocess", "-c", "config.yaml", "--json", "-q", "--workers", workers]
    for folder in folders:
        shutil.rmtree(folder / "data", ignore_errors=True)
    os.sync()  # what an earlier turn left to write is not this one's
    before, began = _reap(), time.monotonic()
    commands = [
        subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for folder in folders
    ]
    printed = [command.communicate() for command in commands]
    times.wall.append(time.monotonic() - began)
    if any(command.returncode for command in commands):
        raise SystemExit(f"{case.name}, {way}: preprocess failed\n{printed}")
    times.cpu.append(_reap() - before)
    times.peak_bytes = max(times.peak_bytes, sum(json.loads(text)["peak_memory_bytes"] for text, _ in printed))


def _reap() -> float:
    """CPU seconds of all children so far. Workers come from a process that outlives the command by a moment: it becomes a
    child of this one, and counts once it is waited for."""
    while True:
        try:
            os.wait()
        except ChildProcessError:
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            return used.ru_utime + used.ru_stime


def measured(case: Case) -> list[list[str]]:
    """The rows of a case: each way once a round."""
    turns = {way: Times() for way in WAYS}
    for _ in range(case.rounds):
        for way in WAYS:
            run(case, way, turns[way])
            print(f"{case.name}, {way}: {turns[way].wall[-1]:.2f} s, CPU {turns[way].cpu[-1]:.2f} s", file=sys.stderr)
    rows = []
    for way, times in turns.items():
        best = min(range(case.rounds), key=times.wall.__getitem__)
        busy, faster = times.cpu[best] / times.wall[best], min(turns[BASE].wall) / times.wall[best]
        peak = f"{times.peak_bytes / 1e6:,.0f}"
        rows.append([case.name, way, spread(times.wall), figure(min(times.cpu)), f"{busy:.2f}", peak, f"{faster:.2f}"])
    return rows


def _arithmetic(dump: Path) -> None:
    numbers = np.ones(20_000)
    for _ in range(60_000):
        numbers += 1.0


def _copy(dump: Path) -> None:
    source = np.ones(8 << 20)
    copied = np.empty_like(source)
    for _ in range(60):
        copied[:] = source


def _new_memory(dump: Path) -> None:
    for _ in range(12):
        np.empty(16 << 20)[::512] = 1


def _sha256(dump: Path) -> None:
    text = bytes(16 << 20)
    for _ in range(30):
        hashlib.sha256(text)


def _hash_dump(dump: Path) -> None:
    for _ in range(8):
        hash_file(dump)


def _parse(dump: Path) -> None:
    import polars as pl

    pl.read_csv(dump)


LOOPS: dict[str, Callable[[Path], None]] = {
    "arithmetic in the cache": _arithmetic, "sha256 in the cache": _sha256, "copying 64 MB": _copy,
    "touching new memory": _new_memory, "hashing a dump of the page cache": _hash_dump, "polars' bare parse of it": _parse,
}  # fmt: skip


def loop(name: str, dump: Path) -> None:
    """Runs a loop once to warm up, and again when a line comes; prints the CPU seconds: a wait for memory is among them."""
    LOOPS[name](dump)
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.process_time()
    LOOPS[name](dump)
    print(time.process_time() - began, flush=True)


def at_once(name: str, dumps: list[Path]) -> float:
    """CPU seconds of a loop in as many processes at once as dumps: of the one that takes most."""
    words = [sys.executable, __file__, "--loop", name, "--dump"]
    environment, pipe = {**os.environ, **ONE_THREAD}, subprocess.PIPE
    loops = [
        subprocess.Popen([*words, dump], env=environment, stdin=pipe, stdout=pipe, text=True, bufsize=1)
        for dump in dumps
    ]
    pipes = [(process.stdin, process.stdout) for process in loops]
    for _, printed in pipes:
        assert printed is not None
        printed.readline()
    for given, _ in pipes:
        assert given is not None
        given.write("go\n")
    seconds = max(float(printed.readline()) for _, printed in pipes if printed is not None)
    for process in loops:
        process.communicate()
    return seconds


def bare_loops(dumps: list[Path]) -> Iterator[list[str]]:
    """The rows of bare loops, alone and two at once by turns."""
    for name in LOOPS:
        turns = [(at_once(name, dumps[:1]), at_once(name, dumps[:2])) for _ in range(LOOP_ROUNDS)]
        alone, both = [min(seconds) for seconds in zip(*turns, strict=True)]
        yield [name, figure(alone), figure(both), f"{2 * alone / both:.2f}"]


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dates", type=int, default=24)
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small-rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--loop", choices=list(LOOPS), help=argparse.SUPPRESS)
    parser.add_argument("--dump", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.loop:
        return loop(asked.loop, asked.dump)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        large = large_case(folder / "large", asked.dates, asked.rows, asked.rounds)
        small = small_case(folder / "small", asked.small_rounds)
        how = (
            f"real commands by turns, rounds: {large.rounds} of {large.name} of CSV ({asked.rows * 1.01 / 1e6:.2f} M rows x "
            f"{len(FEATURES)} features), {small.rounds} of {small.name}; least wall time of each"
        )
        print(heading("Two workers against one", how), flush=True)
        loops = list(bare_loops(sorted((large.folder / "raw").iterdir())))
        rows = [*measured(large), *measured(small)]
    print(table(HEADS, rows))
    print(table(LOOP_HEADS, loops))


if __name__ == "__main__":
    main()
