"""Steps in half precision beside float32, and windows gathered from resident rows beside maps and blocks, in one run.

    python bench/precision.py [--epochs 4] [--config configs/flights.yaml] [--write]

The example must be prepared (make preprocess). Epochs of all kinds take turns, each with its own model from the same seed.
"""

from __future__ import annotations

import argparse
import datetime as dt
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch

from dateshard.places import shards_folder
from dateshard.settings import load_settings
from dateshard.shardstore.dataset import Dataset
from dateshard.trainer.config import Trainer
from dateshard.trainer.loop import take_steps, validate
from dateshard.trainer.session import Session
from dateshard.trainer.setup import make_session

KINDS = {
    "fp32, blocks": {},
    "bf16, blocks": {"training": {"precision": "bf16"}},
    "fp16, blocks": {"training": {"precision": "fp16"}},
    "fp32, mapped": {"loading": {"policy": "mapped"}},
    "fp32, resident": {"loading": {"resident_on": "device"}},
}


def epoch(session: Session, number: int) -> float:
    """Trains an epoch; returns the CPU seconds of a step."""
    session.state.epoch, session.state.batch = number, 0
    session.metrics = session.metrics.fresh(number)
    began, steps = time.process_time(), 0
    for event in take_steps(session):
        steps, session.state.batch = steps + 1, event.batch
    return (time.process_time() - began) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--config", default="configs/flights.yaml")
    parser.add_argument("--model", default="mlp")
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    settings = load_settings([Path(chosen.config)])
    dataset = Dataset.open(shards_folder(settings.dataset))
    sessions, seconds = dict[str, Session](), {kind: list[float]() for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        for kind, changes in KINDS.items():
            tree = settings.trainer.model_dump(mode="json")
            tree["model"]["name"], tree["training"]["device"] = chosen.model, "cpu"
            for section, values in changes.items():
                tree[section] |= values
            sessions[kind] = make_session(Trainer.model_validate(tree), dataset, Path(folder) / kind)
        for number in range(chosen.epochs):
            for kind, session in sessions.items():
                seconds[kind].append(epoch(session, number))
        lines = [f"{'':16}{'CPU ms a step':>14}{'least':>8}{'errors':>8}{'validation loss':>17}"]
        for kind, session in sessions.items():
            middle, least = (1000 * of(seconds[kind]) for of in (statistics.median, min))
            report = validate(session, lambda: False)
            loss = report["loss"] if report else float("nan")
            lines.append(f"{kind:16}{middle:14.2f}{least:8.2f}{session.state.skipped:8}{loss:17.6f}")
    table = "\n".join(lines)
    print(table)
    if chosen.write:
        today = dt.date.today()
        text = (
            f"# {chosen.model} in half precision, and from resident rows\n\n`python bench/precision.py --config {chosen.config} "
            f"--model {chosen.model} --epochs {chosen.epochs}`, {today}, one thread of a shared machine without a GPU, "
            f"{platform.machine()}, torch {torch.__version__}. Epochs take turns; median and least of {chosen.epochs}.\n\n"
        )
        path = Path(__file__).parent / "results" / f"{today}-precision.md"
        before = path.read_text() + "\n" if path.exists() else ""
        path.write_text(before + text + "".join(f"    {line}\n" for line in lines))


if __name__ == "__main__":
    main()
