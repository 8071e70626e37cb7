"""What `dateshard preprocess` holds under `--memory-limit`, on dates of 3 million rows: the real command, beside the limit.

    python bench/memory_limits.py [--rows 3000000] [--limits 192,256,384,512] [--repeats 2] [--folder DIR]      two minutes

A date of 512 nodes and 4 features, of one minute a step and of five: what of a date cannot be divided is its grid. One worker
prepares one date, two prepare two. Memory is the resident peak as the kernel notes it (VmHWM), of all processes together;
of one process also less what it holds that has imported all that preparing imports. Where a run ends well, its shards must be
those of a run without a limit. CPU seconds are those of one worker. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]
from bench.dated import figure, heading, spread, table  # noqa: E402
from bench.peers.prepare_dates import FEATURES, FIRST, NAMES  # noqa: E402
from bench.preparing_peers import write_raw  # noqa: E402
from tests.conftest import command, environment  # noqa: E402
from tests.kit.memory import MIB, Ran, run_limited  # noqa: E402

STEPS = {"1m": "1,440 steps", "5m": "288 steps"}
TWO_WORKERS = 768  # MiB, for two dates side by side
IMPORTED = (
    "import dateshard.pipeline.execute, dateshard.cli.preparing; from dateshard.pipeline.arrays import loaded_bytes; "
    "print(loaded_bytes())"
)


def write_config(folder: Path, suffix: str, step: str, dates: int) -> None:
    """folder/config.yaml: the first dates, which are all training dates."""
    source = {"path": f"raw/{suffix}/{{date}}.{suffix}", "time": "ts", "node": "node", "duplicates": "last"}
    pipeline = {
        "source": source, "nodes": {"table": "nodes.csv", "id": "node"}, "step": step,
        "features": {name: {"aggregate": "mean", "fill": "forward"} for name in FEATURES},
        "split": {"train": f"{FIRST}..{FIRST + dt.timedelta(days=dates - 1)}"},
    }  # fmt: skip
    (folder / "config.yaml").write_text(json.dumps({"dataset": "limited", "pipeline": pipeline}))


def prepare(folder: Path, workers: int, limit: int | None) -> tuple[Ran, Any]:
    """Prepares into a new store; what was committed of dates and statistics."""
    shutil.rmtree(folder / "data", ignore_errors=True)
    words = command("preprocess", "-c", "config.yaml", "--workers", str(workers))
    ran = run_limited(folder, 16384 * MIB, [*words, *(["--memory-limit", f"{limit}MiB"] if limit else [])])
    if ran.code:
        return ran, None
    (manifest,) = (folder / "data" / "shards" / "limited" / "manifests").glob("g*[0-9].json")
    content = json.loads(manifest.read_bytes())["content"]
    return ran, {key: content[key] for key in ("dates", "statistics", "nodes")}


def measured(folder: Path, workers: int, limit: int, repeats: int, whole: Any, imported: int) -> list[str]:
    """The cells of a limit: how it ends, the peak, that above imports, CPU seconds."""
    runs = list[Ran]()
    for _ in range(repeats):
        ran, made = prepare(folder, workers, limit)
        if ran.code:
            return [refusal(ran.output), "", "", ""]
        if made != whole:
            raise SystemExit(f"other bytes under {limit} MiB than without a limit")
        runs.append(ran)
    peak = max(ran.resident_bytes for ran in runs)
    verdict = "stays below" if peak <= limit * MIB else "**exceeds it**"
    return [verdict, *held(peak, workers, imported), "" if workers > 1 else spread([ran.cpu_seconds for ran in runs])]


def refusal(output: str) -> str:
    """What a refused limit is said to need: before any date, or with the grid of one."""
    words = " ".join(output.split())
    least = re.search(r"([\d,]+ MiB) are needed before any date", words)
    grid = re.search(r"that is ([\d,]+ MiB), and a process may have [\d,]+ MiB", words)
    if least:
        return f"refused: {least[1]} are needed before any date"
    if grid:
        return f"refused: {grid[1]} a process are needed with the grid of a date"
    raise SystemExit(output)


def held(peak: int, workers: int, imported: int) -> list[str]:
    """A peak, and what of it one process holds above its imports."""
    return [f"{peak / MIB:,.0f}", "" if workers > 1 else f"{(peak - imported) / MIB:,.0f}"]


def rows_of(folder: Path, limits: Sequence[int], repeats: int, imported: int) -> list[list[str]]:
    """A row a format, step, number of workers and limit."""
    rows = []
    for suffix in ("csv", "parquet"):
        for step, said in STEPS.items():
            for workers, tried in ((1, limits), (2, [TWO_WORKERS])):
                write_config(folder, suffix, step, dates=workers)
                ran, whole = prepare(folder, workers, None)
                if ran.code:
                    raise SystemExit(ran.output)
                about = [suffix, said, str(workers)]
                cells = held(ran.resident_bytes, workers, imported)
                rows.append([*about, "none", "", *cells, "" if workers > 1 else figure(ran.cpu_seconds)])
                for limit in tried:
                    rows.append([*about, str(limit), *measured(folder, workers, limit, repeats, whole, imported)])
                    print(rows[-1], file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--limits", default="192,256,384,512")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        write_raw(folder / "raw", 2, asked.rows)
        (folder / "nodes.csv").write_text("\n".join(["node", *NAMES]) + "\n")
        words = [sys.executable, "-c", IMPORTED]
        imported = int(
            subprocess.run(words, env=environment(), stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT).stdout
        )
        limits = [int(limit) for limit in asked.limits.split(",")]
        how = (
            f"`preprocess --memory-limit`, dates of {asked.rows * 1.01 / 1e6:.2f} M rows, 512 nodes and 4 features; MiB, the "
            f"most of {asked.repeats}; a process with its imports holds {imported / MIB:.0f} MiB"
        )
        rows = rows_of(folder, limits, asked.repeats, imported)
    print(heading("Memory limits", how))
    heads = ["format", "a date", "workers", "limit, MiB", "how it ends", "peak MiB, all processes", "above imports",
             "CPU s: least (median, most)"]  # fmt: skip
    print(table(heads, rows))


if __name__ == "__main__":
    main()
