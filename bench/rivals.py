"""Architectures against the tuned ridge and the built-in models: which deserves to be built in.

    python bench/rivals.py [--examples traffic,flights] [--models stid,mlp] [--seeds 7,8,9] [--tries 4] [--folder DIR] [--write]

Each model of bench/candidates.py, and the mlp, is tuned on validation with the first seed: the better of two learning rates,
then twice the width, then (patches alone) RevIN; the others keep the example's. Epochs, schedule, early stopping
and batches are those of the example for all. The setting that validation chooses is trained with every seed and judged once
on the test split, beside the ridge that `evaluate` tunes. One thread. `--folder` keeps examples, runs and figures: a second
call there goes on where the first was stopped.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import re
import resource
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from candidates import TRIED
from seeds import ROOT, say

LEARNING_RATES = (0.003, 0.001)
BUILT_IN = {"mlp": {"traffic": (64, 32), "flights": (128, 64)}}  # tuned likewise: the narrower of two widths


def trained(folder: Path, example: str, name: str, settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Trains once, or reads what an earlier call kept: run, validation loss, epochs and CPU seconds of the command."""
    run = "-".join(re.findall(r"[\w.]+", f"{example} {name} {' '.join(map(str, settings.values()))} {seed}"))
    kept = folder / f"{run}.json"
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    chosen = {
        "name": f"candidates:{name}" if name in TRIED else name,
        **{key: value for key, value in settings.items() if key != "learning_rate"},
    }
    words = [f"trainer.model.{key}={value}" for key, value in chosen.items()]
    if "learning_rate" in settings:
        words.append(f"trainer.training.learning_rate={settings['learning_rate']}")
    shutil.rmtree(folder / "data/runs" / run, ignore_errors=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    asked = ["train", "-c", f"configs/{example}.yaml", "--run", run, "-q", "--json"]
    ended = say(folder, *asked, *words, f"trainer.training.seed={seed}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    row = {"run": run, "loss": ended["best_val_loss"], "epochs": ended["epoch"], "cpu": cpu, "settings": dict(settings)}
    kept.write_text(json.dumps(row))
    print(f"{run}: validation {row['loss']:.4f}, {row['epochs']} epochs, {cpu:.0f} CPU s", flush=True)
    return row


def tuned(folder: Path, example: str, name: str, seed: int, tries: int) -> dict[str, Any]:
    """The settings with the lowest validation loss, one thing changed at a time."""
    if name not in TRIED and name not in BUILT_IN:
        return {}

    def settings(rate: float, times: int) -> dict[str, Any]:
        if name in BUILT_IN:
            return {"learning_rate": rate, "hidden_units": [times * width for width in BUILT_IN[name][example]]}
        width, others = TRIED[name][example]
        options = ", ".join(f"{key}: {value}" for key, value in {"width": times * width, **others}.items())
        return {"learning_rate": rate, "options": f"{{{options}}}"}

    results = [trained(folder, example, name, settings(rate, 1), seed) for rate in LEARNING_RATES[:tries]]

    def best() -> dict[str, Any]:
        return dict(min(results, key=lambda row: float(row["loss"]))["settings"])

    if tries > 2:
        results.append(trained(folder, example, name, settings(best()["learning_rate"], 2), seed))
    if tries > 3 and name == "patches":
        results.append(trained(folder, example, name, {**best(), "revin": "true"}, seed))
    return best()


def judged(folder: Path, run: str) -> dict[str, Any]:
    """Scaled test MSE of the model and of ridge, and the paired gain over ridge with its interval."""
    told = say(folder, "evaluate", run, "--json", "--baselines", "ridge")
    error = {row["name"] if row["kind"] == "baseline" else "model": row["scaled"]["mse"] for row in told["rows"]}
    (against,) = (row for row in told["comparisons"] if row["target"] is None and row["baseline"] == "ridge")
    return {"mse": error["model"], "ridge": error["ridge"], **{key: against[key] for key in ("gain", "low", "high")}}


def line(folder: Path, example: str, name: str, seeds: list[int], tries: int) -> str:
    """One row of the table: settings, parameters, cost, errors by seed and the verdicts of every seed."""
    settings = tuned(folder, example, name, seeds[0], tries)
    runs = [trained(folder, example, name, settings, seed) for seed in seeds]
    verdicts = [judged(folder, row["run"]) for row in runs]
    record = json.loads((folder / "data/runs" / runs[0]["run"] / "run.json").read_text())
    cpu = sum(row["cpu"] for row in runs) / sum(row["epochs"] for row in runs)
    mean = sum(row["mse"] for row in verdicts) / len(verdicts)
    by_seed = ", ".join(f"{row['mse']:.4f}" for row in verdicts)
    gains = "; ".join(
        f"{100 * row['gain']:.1f} ({100 * row['low']:.1f} to {100 * row['high']:.1f})" for row in verdicts
    )
    said = ", ".join(f"{key} {value}" for key, value in settings.items()) or "those of the example"
    losses = ", ".join(f"{row['loss']:.4f}" for row in runs)
    row = f"| {name} | {said} | {record['parameters']:,} | {cpu:.1f} | {losses} | {mean:.4f} ({by_seed}) | {gains} |"
    print(row, f"ridge {verdicts[0]['ridge']:.4f}", flush=True)
    return row


def table(folder: Path, example: str, models: list[str], seeds: list[int], tries: int) -> str:
    """Markdown of one example; the models tuned and trained one after another."""
    if not (folder / f"configs/{example}.yaml").exists():
        say(folder, "init", "--example", example)
        say(folder, "preprocess", "-c", f"configs/{example}.yaml", "-q")
    head = [
        "model",
        "settings",
        "parameters",
        "CPU s an epoch",
        "validation",
        "test MSE (by seed)",
        "% less than ridge",
    ]
    rows = [line(folder, example, name, seeds, tries) for name in models]
    return "\n".join([f"## {example}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", default="traffic,flights")
    parser.add_argument("--models", default="stid,mlp,tide,patches,mixer,nlinear,dlinear")
    parser.add_argument("--seeds", default="7,8,9")
    parser.add_argument("--tries", type=int, default=4, help="of the four settings tried on validation, the first N")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    seeds, models = [int(seed) for seed in given.seeds.split(",")], given.models.split(",")
    with tempfile.TemporaryDirectory() as name:
        folder = given.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(__file__).with_name("candidates.py"), folder)
        text = "\n".join(table(folder, example, models, seeds, given.tries) for example in given.examples.split(","))
    print(text)
    if given.write:
        head = (
            f"# Architectures against the tuned ridge, {dt.date.today()}\n\n`python bench/rivals.py --examples {given.examples} "
            f"--models {given.models} --seeds {given.seeds} --tries {given.tries}`\n"
            f"{platform.machine()}, {os.cpu_count()} cores, one thread, Python "
            f"{platform.python_version()}. Scaled mean squared errors; the test split was looked at once, after tuning.\n\n"
        )
        (ROOT / f"bench/results/{dt.date.today()}-rivals.md").write_text(head + text)


if __name__ == "__main__":
    main()
