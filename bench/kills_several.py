"""SIGKILL for random processes of a run at random moments: a resume in the same number of them ends in the same bits.

python bench/kills_several.py [--kills 100] [--processes 2] [--seed 1] [--write]
"""

from __future__ import annotations

import argparse
import datetime as dt
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.conftest import build_world
from tests.kit.several import Several, kill_loop

SPLIT = {"train": "..2024-03-04", "validation": "2024-03-05", "test": "2024-03-06.."}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        world = build_world(Path(folder), 6, split=SPLIT, missing=0.3)
        world.tree["trainer"]["training"] = {"epochs": 4, "batch_size": 6}
        world.tree["trainer"]["model"]["dropout_rate"] = 0.2
        world.tree["trainer"]["checkpoint"] = {"save_freq": 5}
        world.config_file()
        world.prepare()
        met = kill_loop(Several(world), given.kills, given.seed, world_size=given.processes)
    line = (
        f"{dt.date.today()}: {met.kills} kills of one of {given.processes} processes at random moments (seed {given.seed}), "
        f"{met.training} after a step was taken, {met.first} of the first process, in {met.runs} runs: "
        f"{len(met.bad)} bad; every run ended with weights, optimizer, metrics and logged rows of one that was never killed"
    )
    print(line if not met.bad else "\n".join([line, *met.bad]))
    if given.write and not met.bad:
        (Path(__file__).parent / "results" / f"{dt.date.today()}-kills-of-processes.md").write_text(line + "\n")


if __name__ == "__main__":
    main()
