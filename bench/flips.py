"""Flipped bits in every kind of file of a store and of training runs: is each met by name, and mended as printed?

    python bench/flips.py [1000] [--seed 1] [--write]

Prints a Markdown table by kind of file. Every bad flip is told on stderr with the seed and number that replay it.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.kit.flips import KINDS, Lab, quick_folder, rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    began = time.perf_counter()
    with quick_folder() as folder:
        tallies = rounds(Lab(folder, chosen.seed), chosen.count, tell=lambda text: print(text, file=sys.stderr))
    seconds = time.perf_counter() - began
    lines = [
        f"Flipped bits, {dt.date.today()}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"seed {chosen.seed}: one random bit of one random file at a time, then a command that uses the file.",
        "",
        "*Refused*: exit 4, the file named; the printed command, run as printed, mended it. *Passed over*: the command ended",
        "well without the damaged file, and said so. *Bad*: anything else: another exit code, no name, a traceback, a command",
        "that does not mend, `verify --full` not clean afterwards, or other bytes than before in any array or weight.",
        "(`dumps.json`, a cache, is passed over in silence by `preprocess`; `verify` names it.)",
        "",
        "| file | flips | refused and mended | passed over and mended | bad |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {kind} | {t.flips} | {t.refused} | {t.passed_over} | {len(t.bad)} |" for kind, t in tallies.items()]
    total = [
        sum(column)
        for column in zip(*((t.flips, t.refused, t.passed_over, len(t.bad)) for t in tallies.values()), strict=True)
    ]
    lines += ["| **all " + f"{len(KINDS)} kinds** | " + " | ".join(map(str, total)) + " |", "", f"{seconds:,.0f} s."]
    text = "\n".join(lines) + "\n"
    print(text)
    if chosen.write:
        (Path(__file__).parent / "results" / f"{dt.date.today()}-flips.md").write_text(text)
    sys.exit(1 if total[3] else 0)


if __name__ == "__main__":
    main()
