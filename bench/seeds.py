"""Models beside baselines over several seeds: scaled test MSE of whole trainings on the examples.

    python bench/seeds.py [--examples traffic,flights] [--models mlp,cnn] [--seeds 1,2,3] [--write]

Makes the examples in a temporary folder (they are generated, or come from a package), prepares them, trains every model
with every seed through the command line and evaluates its best checkpoint on the test split. `--write` puts the table
under bench/results/ with date and machine.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def say(folder: Path, *words: str) -> Any:
    """One command in the folder; its JSON document."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "dateshard", *words], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"dateshard {' '.join(words)}: exit {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout) if "--json" in words else None


def measure(example: str, models: list[str], seeds: list[int]) -> tuple[dict[str, list[float]], dict[str, float]]:
    """({model: test MSE by seed}, {baseline: test MSE}), scaled."""
    found: dict[str, list[float]] = {}
    baselines: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, config = Path(name), f"configs/{example}.yaml"
        say(folder, "init", "--example", example)
        say(folder, "preprocess", "-c", config, "-q")
        for model in models:
            for seed in seeds:
                run, began = f"{model}-{seed}", time.monotonic()
                chosen = [f"trainer.model.name={model}", f"trainer.training.seed={seed}"]
                say(folder, "train", "-c", config, "--run", run, "-q", "--json", *chosen)
                told = say(folder, "evaluate", run, "--json")
                for row in told["rows"]:
                    if row["kind"] == "model":
                        found.setdefault(model, []).append(row["scaled"]["mse"])
                    else:
                        baselines[row["name"]] = row["scaled"]["mse"]
                print(f"{example} {run}: {found[model][-1]:.4f} in {time.monotonic() - began:.0f} s", flush=True)
    return found, baselines


def table(example: str, found: dict[str, list[float]], baselines: dict[str, float]) -> str:
    """Markdown: the models with their spread, then the baselines."""
    lines = [f"## {example}", "", "| | mean | by seed |", "|---|---|---|"]
    for model, values in found.items():
        lines.append(f"| {model} | {sum(values) / len(values):.4f} | {', '.join(f'{value:.4f}' for value in values)} |")
    ranked = sorted(baselines.items(), key=lambda row: row[1])
    lines += [f"| {name} | {value:.4f} | (no seed) |" for name, value in ranked]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", default="traffic,flights")
    parser.add_argument("--models", default="mlp,cnn")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    parts = []
    for example in given.examples.split(","):
        parts.append(table(example, *measure(example, given.models.split(","), seeds)))
        print(parts[-1], flush=True)
    if given.write:
        date = dt.date.today()
        head = (
            f"# Models over seeds, {date}\n\n`python bench/seeds.py --examples {given.examples} --models {given.models} "
            f"--seeds {given.seeds}`\n{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}. "
            "Scaled mean squared error on the test split, best checkpoint by validation; lower is better.\n\n"
        )
        path = ROOT / "bench" / "results" / f"{date}-seeds.md"
        path.write_text(head + "\n".join(parts))


if __name__ == "__main__":
    main()
