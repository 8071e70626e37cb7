"""Mutated raw files of every format through `decode`: how many are refused, how many change nothing, how many are read.

    python bench/raw_fuzz.py [50000] [--seed 1] [--first 0] [--write]

Prints a Markdown table by format. Everything wrong is told on stderr with the seed and number that replay it.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.kit.raw_mutants import HANG_SECONDS, rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=50_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        tallies = rounds(Path(folder), chosen.seed, range(chosen.first, chosen.first + chosen.count))
    seconds = time.perf_counter() - began
    for tally in tallies.values():
        for wrong in tally.wrong:
            print(wrong, file=sys.stderr)
    rows = [(name, t.mutants, t.refused, t.same, t.changed, t.rejected, len(t.wrong)) for name, t in tallies.items()]
    total = ("**all**", *(sum(row[k] for row in rows) for k in range(1, 7)))
    last = chosen.first + chosen.count - 1
    lines = [
        f"Mutated raw files, {dt.date.today()}, {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, seed {chosen.seed}, numbers {chosen.first:,} to {last:,}: one to three",
        "mutations of a file of 24 rows each: bits, bytes that mean something, fields that readers differ about, lines,",
        "cuts, parts in another encoding.",
        "",
        "*Refused*: one sentence that names the file. *Same*: every record as in the original. *Changed*: read, with",
        "other content; where the standard library reads the format too (csv, csv plain, gz, zst, jsonl) it finds the",
        "same records and as many rejected rows. Three in ten text files were read again in blocks of 300 bytes, to the",
        "same. *With rejected rows*: of those that were read. *Wrong*: any other exception, more than one line, no",
        f"answer in {HANG_SECONDS:g} s, rows that do not add up, other records than the standard library's. Formats",
        "without a checksum (arrow, parquet without page checksums) cannot tell a flipped bit of a value from a value.",
        "",
        "| format | mutants | refused | same | changed | with rejected rows | wrong |",
        "|---|---|---|---|---|---|---|",
        *("| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else cell for cell in row) + " |" for row in [*rows, total]),
        "",
        f"{seconds:,.0f} s.",
    ]  # fmt: skip
    print("\n".join(lines))
    if chosen.write:
        path = Path(__file__).parent / "results" / f"{dt.date.today()}-raw-fuzz.md"
        path.write_text("# Mutated raw files\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
