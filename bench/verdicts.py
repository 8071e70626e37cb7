"""How often two forecasters of equal skill are told apart: the verdict's interval on simulated errors by date.

    python bench/verdicts.py [--runs 2000] [--write]

Each date has a difficulty that both share (log-normal, correlated 0.5 with the date before), and each forecaster an error
of its own about it, correlated `rho` with its own of the date before. Neither is better: an interval at 95 % should
exclude 0 in 5 % of the runs.
`--write` puts the table under bench/results/ with date and machine.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
from pathlib import Path

import numpy as np

from dateshard.trainer.assessment import paired
from dateshard.trainer.metrics.sums import Floats

DATES = (4, 7, 10, 14, 21, 30, 46, 90, 180, 365)
RHOS = (0.0, 0.3, 0.5, 0.7)
CUTS = (4, 5, 6, 8, 10, 20, 50, 200)
SHARED = 0.5  # correlation of a date's difficulty with that of the date before
WARM = 50


def correlated(generator: np.random.Generator, runs: int, dates: int, rho: float) -> Floats:
    """[runs, dates] of unit variance, each correlated `rho` with the one before."""
    noise = generator.normal(size=(runs, dates + WARM))
    for place in range(1, dates + WARM):
        noise[:, place] = rho * noise[:, place - 1] + np.sqrt(1 - rho**2) * noise[:, place]
    return noise[:, WARM:]


def errors(runs: int, dates: int, rho: float, seed: int, shared_rho: float) -> tuple[Floats, Floats]:
    """Squared errors [runs, dates] of two forecasters of equal skill."""
    generator = np.random.default_rng([seed, dates, int(100 * rho)])
    shared = np.exp(0.5 * correlated(generator, runs, dates, shared_rho))
    first, second = (shared * np.exp(0.2 * correlated(generator, runs, dates, rho)) for _ in range(2))
    return first, second


def told_apart(runs: int, units: int, rho: float, seed: int = 1, *, cuts: bool = False) -> float:
    """The share of runs in which one is told to be better, over dates or over cuts (which share no difficulty)."""
    apart = 0
    for mine, theirs in zip(*errors(runs, units, rho, seed, 0.0 if cuts else SHARED), strict=True):
        low, high = paired.interval(theirs - mine, theirs, None if cuts else 0)[1]
        apart += low is not None and high is not None and (low > 0 or high < 0)
    return apart / runs


def main() -> None:
    parser = argparse.ArgumentParser(description="How often equal forecasters are told apart.")
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__}"
    )
    lines = [
        f"Verdicts on equal forecasters, {dt.date.today()}, {machine}; {arguments.runs:,} runs of each",
        "",
        "Told apart, % (5 is right; above: too sure, below: too careful), by the correlation of an error with that of the",
        "date before:",
        "",
        "| dates | " + " | ".join(f"{rho:g}" for rho in RHOS) + " |",
        "|" + "---|" * (len(RHOS) + 1),
    ]
    print("\n".join(lines))
    for dates in DATES:
        shares = " | ".join(f"{100 * told_apart(arguments.runs, dates, rho):.1f}" for rho in RHOS)
        lines.append(f"| {dates} | {shares} |")
        print(lines[-1], flush=True)
    lines += ["", "Over cuts, which are independent of each other:", "", "| cuts | told apart |", "|---|---|"]
    print("\n".join(lines[-5:]))
    for cuts in CUTS:
        lines.append(f"| {cuts} | {100 * told_apart(arguments.runs, cuts, 0.0, cuts=True):.1f} |")
        print(lines[-1], flush=True)
    if arguments.write:
        path = Path(__file__).parent / "results" / f"{dt.date.today()}-verdicts.md"
        path.write_text("\n".join(lines) + "\n")
        print(path)


if __name__ == "__main__":
    main()
