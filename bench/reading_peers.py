"""Shuffled windows by dateshard and by others, by turns: CPU microseconds a window, beside memcpy in the same process.

    python bench/reading_peers.py [--shapes mid,big,long] [--who litdata,grain] [--seconds 2] [--repeats 5] [--write]

Each turn is a process of its own in the environment of its library (bench/peers/environments.toml; the first call installs
them). What each does: bench/peers/load_windows.py. Needs 6 GB below --folder for those that store windows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from bench.dated import figure, heading, keep, spread, table  # noqa: E402
from bench.peers.environments import PINNED, python_of  # noqa: E402

SHAPES = {  # days, steps a day, nodes, features, history, horizon; how many windows are stored by those that store them
    "mid": ((30, 1440, 200, 4, 12, 12), 16_000),
    "big": ((30, 1440, 512, 4, 12, 12), 6_000),
    "long": ((60, 1440, 1, 7, 96, 96), 20_000),
}
WHO = {"dateshard": "", "dataloader": "", "litdata": "litdata", "mds": "mds", "grain": "grain", "lancedb": "lancedb"}
NAMES = {"dataloader": "torch DataLoader", "mds": "MosaicML MDS", "lancedb": "LanceDB"}


def series_of(shape: str, folder: Path) -> Path:
    """A file of normal float32 numbers, made once."""
    days, steps, nodes, features, _, _ = SHAPES[shape][0]
    path = folder / f"{shape}.f32"
    if not path.exists():
        drawn = np.random.default_rng(0)
        with open(path, "wb") as file:
            for _ in range(days):
                file.write(drawn.standard_normal(steps * nodes * features, dtype=np.float32).tobytes())
    return path


def turn(who: str, shape: str, folder: Path, seconds: float) -> dict[str, float]:
    """One process: {us, memcpy_us}."""
    python = python_of(WHO[who]) if WHO[who] else Path(sys.executable)
    numbers, windows = SHAPES[shape]
    words: list[str | Path] = [
        python, ROOT / "bench" / "peers" / "load_windows.py", "--who", who, "--series", series_of(shape, folder),
        "--shape", ",".join(map(str, numbers)), "--folder", folder / shape, "--windows", str(windows),
        "--seconds", str(seconds),
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, env=environment, timeout=1800)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"who"')]
    if not lines:
        raise SystemExit(f"{who} on {shape} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(lines[-1])  # type: ignore[no-any-return]


def main() -> None:
    """Prints a row a shape and library."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--who", default=",".join(WHO))
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="kept; without it a temporary one")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    who = list(dict.fromkeys(["dateshard", *asked.who.split(",")]))
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for shape in asked.shapes.split(","):
            turns: dict[str, list[dict[str, float]]] = {name: [] for name in who}
            for _ in range(asked.repeats):
                for name in who:
                    turns[name].append(turn(name, shape, folder, asked.seconds))
            ours = min(one["us"] for one in turns["dateshard"])
            _, _, nodes, features, history, horizon = SHAPES[shape][0]
            size = f"{(history + horizon) * nodes * features * 4 / 1e3:.0f} kB"
            for name in who:
                costs = [one["us"] for one in turns[name]]
                copies = [one["us"] / one["memcpy_us"] for one in turns[name]]
                rows.append(
                    [
                        f"{shape}, {size}",
                        NAMES.get(name, name),
                        spread(costs),
                        figure(min(costs) / ours),
                        figure(min(copies)),
                    ]
                )
                print(rows[-1], file=sys.stderr, flush=True)
    how = (
        f"CPU us a window, least (median, most) of {asked.repeats} processes by turns, one thread, batch 64, warm cache"
    )
    versions = ", ".join(PINNED[WHO[name]][0] for name in who if WHO[name])
    heads = ["windows", "who", "CPU us a window", "times dateshard's", "times memcpy"]
    text = heading("Reading beside others", f"{how}; {versions}") + "\n" + table(heads, rows)
    print(text)
    if asked.write:
        keep("reading-peers", text)


if __name__ == "__main__":
    main()
