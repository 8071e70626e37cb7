"""An epoch as training runs it, against the same model and steps fed one batch that never changes.

    python bench/epoch.py [--repeats 5] [--write]

The flights example must be prepared (make preprocess). The ratio is what reading, ordering and the events cost.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from dateshard.places import shards_folder
from dateshard.settings import load_settings
from dateshard.shardstore.dataset import Dataset
from dateshard.trainer.checkpoint import CheckpointWriter
from dateshard.trainer.data.batch import Batch
from dateshard.trainer.loop import Session, _train_epoch
from dateshard.trainer.setup import make_session


class OneBatch:
    """The reader's face over one copied batch: as many batches an epoch, none of them read."""

    def __init__(self, session: Session) -> None:
        self.order = session.train.order
        first = next(iter(session.train.batches(0)))
        self.batch = first.copy()

    def batches(self, epoch: int, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        for _ in range(start, self.order.num_batches):
            yield self.batch


def epoch(session: Session) -> tuple[float, float]:
    """(wall, CPU) seconds of one epoch's steps."""
    session.state.epoch, session.state.batch = session.state.epoch + 1, 0
    began, used = time.perf_counter(), time.process_time()
    for _ in _train_epoch(
        session, CheckpointWriter(session.checkpoints)
    ):  # which nothing is given to: save_freq is null
        pass
    return time.perf_counter() - began, time.process_time() - used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--config", default="configs/flights.yaml")
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    settings = load_settings([chosen.config], ["trainer.checkpoint.save_freq=null"])
    dataset = Dataset.open(shards_folder(settings.dataset))
    with tempfile.TemporaryDirectory() as folder:
        real = make_session(settings.trainer, dataset, Path(folder))
        fixed = make_session(settings.trainer, dataset, Path(folder))
        fixed.train = OneBatch(fixed)  # type: ignore[assignment]
        epoch(real), epoch(fixed)
        pairs = [(epoch(real), epoch(fixed)) for _ in range(chosen.repeats)]
    wall, cpu = (np.array([[a[k], b[k]] for a, b in pairs]) for k in (0, 1))
    text = (
        f"Epoch, {dt.date.today()}, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__} "
        f"({torch.get_num_threads()} threads), {chosen.config}, {settings.trainer.model.name}, "
        f"{real.train.order.num_batches} batches of {settings.trainer.training.batch_size}; {chosen.repeats} pairs, interleaved; "
        f"load {os.getloadavg()[0]:.1f}\n\n| | from shards | one fixed batch | ratio: median (min - max) |\n|---|---|---|---|\n"
    )
    for name, figures in (("wall s", wall), ("CPU s", cpu)):
        ratio = figures[:, 0] / figures[:, 1]
        low, high = np.median(figures, axis=0)
        text += (
            f"| {name} | {low:.3f} | {high:.3f} | {np.median(ratio):.3f} ({ratio.min():.3f} - {ratio.max():.3f}) |\n"
        )
    print(text)
    if chosen.write:
        (Path(__file__).parent / "results" / f"{dt.date.today()}-epoch.md").write_text(text)


if __name__ == "__main__":
    main()
