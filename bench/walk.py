"""What one date passes from its rows to its shard, and one window from its shard to its gradient: files, rooms and calls.

    python bench/walk.py [--tree FOLDER]

Runs the real commands in this process with one worker, on a made-up date of 24 hours and two nodes, under
`sys.setprofile`. A room is what stands directly on a floor (`pipeline.raw`, `trainer.step`); a package is a folder; a move
is a call whose nearest caller of ours is in another one. The front door, and what is imported meanwhile, are not counted.
The first command of a kind is run twice and only the second one watched. `--tree` watches another checkout, also one from
before the floors were imported by the one name.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

FLOORS = ("shardstore", "pipeline", "trainer")
LEVELS: dict[str, Callable[[str], str]] = {
    "files": lambda file: file,
    "rooms": lambda file: "/".join(file.removesuffix(".py").split("/")[:2]),
    "packages": lambda file: file.rpartition("/")[0],
}
PREPARE = ("pipeline/execute.py", "preprocess"), ("pipeline/execute.py", "_finished")
STEP = ("reader.py", "batches"), ("trainer/step.py", "finish")
CONFIG: dict[str, Any] = {
    "pipeline": {
        "source": {"path": "raw/{date}.csv", "time": "time", "timezone": "UTC", "node": "node"},
        "step": "1h",
        "features": {"speed": {"aggregate": "mean", "fill": "forward"}},
        "split": {"train": "2024-03-01"},
    },
    "trainer": {
        "window": {"history": 4, "horizon": 2},
        "model": {"name": "mlp", "hidden_units": [4]},
        "training": {"epochs": 1, "batch_size": 1},
    },
}


@dataclass(slots=True)
class Walk:
    """Calls of our files between the first call of `begin` and the first return of `end`, each (file, function)."""

    tree: str
    begin: tuple[str, str]
    end: tuple[str, str]
    watching: bool = False
    over: bool = False
    files: dict[str, None] = field(default_factory=dict)  # in order of their first call
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)  # (caller's file, callee's)
    num_calls: int = 0

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """Takes one event of the profiler."""
        file = None if self.over or event not in ("call", "return") else place(frame.f_code.co_filename, self.tree)
        if file is None or frame.f_code.co_name == "<module>":
            return
        name = frame.f_code.co_name
        if event == "call" and name == self.begin[1] and file.endswith(self.begin[0]):
            self.watching = True
        if self.watching and event == "call":
            self.files.setdefault(file)
            self.num_calls += 1
            if (caller := self._caller(frame)) is not None:
                self.calls[caller, file] += 1
        if self.watching and event == "return" and name == self.end[1] and file.endswith(self.end[0]):
            self.over = True

    def _caller(self, frame: FrameType) -> str | None:
        above = frame.f_back
        while above is not None:
            if file := place(above.f_code.co_filename, self.tree):
                return file
            above = above.f_back
        return None

    def moves(self, level: str) -> Counter[tuple[str, str]]:
        """{(from, to): calls} between different files, rooms or packages."""
        name, moves = LEVELS[level], Counter[tuple[str, str]]()
        for (caller, callee), count in self.calls.items():
            if name(caller) != name(callee):
                moves[name(caller), name(callee)] += count
        return moves

    def report(self, title: str) -> str:
        """Markdown: the counts, then the rooms in order."""
        lines = [f"### {title}", "", "| | passed | different moves | moves |", "|---|---|---|---|"]
        for level, name in LEVELS.items():
            moves = self.moves(level)
            lines.append(f"| {level} | {len({name(file) for file in self.files})} | {len(moves)} | {moves.total()} |")
        rooms = dict.fromkeys(map(LEVELS["rooms"], self.files))
        return "\n".join([*lines, "", f"{self.num_calls} calls. Rooms in order: {', '.join(rooms)}.", ""])


@cache
def place(filename: str, tree: str) -> str | None:
    """`pipeline/raw/decode.py` of a file on one of the three floors, else None."""
    real = os.path.realpath(filename)
    file = os.path.relpath(real, tree) if real.startswith(tree + os.sep) else ""
    return file if file.split(os.sep)[0] in FLOORS else None


def walk(tree: str, span: tuple[tuple[str, str], tuple[str, str]], words: list[str]) -> Walk:
    """Watches one command."""
    from dateshard.cli import run

    watched = Walk(tree, *span)
    threading.setprofile(watched)
    sys.setprofile(watched)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            code = run(words)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    if code or not watched.over:
        raise SystemExit(f"dateshard {' '.join(words)}: exit {code}, watched to its end: {watched.over}")
    return watched


def lay_out() -> None:
    """Writes the raw file and the configuration of two datasets into the working directory."""
    rows = [f"2024-03-01T{hour:02}:00:00+00:00,{node},{50 + hour}\n" for hour in range(24) for node in ("a", "b")]
    Path("raw").mkdir()
    Path("raw/2024-03-01.csv").write_text("time,node,speed\n" + "".join(rows))
    for name in ("first", "second"):
        Path(f"{name}.yaml").write_text(json.dumps({"dataset": name, **CONFIG}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, default=Path(__file__).parents[1])
    tree = os.path.realpath(parser.parse_args().tree)
    sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in str(finder)]
    sys.path.insert(0, tree)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        lay_out()
        for name in ("first", "second"):
            prepared = walk(tree, PREPARE, ["preprocess", "-c", f"{name}.yaml", "--workers", "1", "-q"])
            stepped = walk(tree, STEP, ["train", "-c", f"{name}.yaml", "--run", name, "--max-steps", "1", "-q"])
        os.chdir(tree)
    print(prepared.report("One date, from its rows to its shard"))
    print(stepped.report("One window, from its shard to its gradient"))


if __name__ == "__main__":
    main()
