"""An epoch as training runs it, against the same model and steps fed one batch that never changes.

    python bench/epoch.py [--repeats 9] [--write]

The flights example is prepared anew in a temporary folder. All is on one thread, and each repeat takes every case in turn:

    from shards        batches as training has them: drawn, gathered from a block, and from the second epoch on nothing read
    one fixed batch    what the model and the steps cost alone, with a batch that the processor's cache may keep
    ready batches      the same of an epoch's batches, each copied to memory of its own before: what fresh data costs any loader

The first epoch of a reader also reads its shards: with the page cache warm; and cold, where every file of the store was
given up to the kernel before (posix_fadvise with DONTNEED, which needs no root). What the disk had to give then is told.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import numpy as np
import torch

import dateshard
from dateshard.places import shards_folder
from dateshard.settings import Settings, load_settings
from dateshard.shardstore.dataset import Dataset
from dateshard.trainer.checkpoint import CheckpointWriter
from dateshard.trainer.data.batch import Batch
from dateshard.trainer.loop import Session, _train_epoch
from dateshard.trainer.setup import make_session

CONFIG = "configs/flights.yaml"
Seconds = tuple[float, float]  # on the clock and of CPU


class Ready:
    """The reader's face over copied batches: as many an epoch, none of them read."""

    def __init__(self, session: Session, count: int) -> None:
        self.order = session.train.order
        self.kept = [batch.copy() for batch, _ in zip(session.train.batches(0), range(count), strict=False)]

    def batches(self, epoch: int, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """The batches, again from the first one where there are too few."""
        for number in range(start, self.order.num_batches):
            yield self.kept[number % len(self.kept)]


def epoch(session: Session) -> Seconds:
    """One epoch's steps."""
    session.state.epoch, session.state.batch = session.state.epoch + 1, 0
    began, used = time.perf_counter(), time.process_time()
    for _ in _train_epoch(
        session, CheckpointWriter(session.checkpoints)
    ):  # which nothing is given to: save_freq is null
        pass
    return time.perf_counter() - began, time.process_time() - used


def forget(store: Path) -> None:
    """Has the kernel drop a store's files from its cache; what nobody has mapped goes."""
    for path in store.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


def read_from_disk() -> int:
    """Bytes that this process has made the disk give so far."""
    return int(Path("/proc/self/io").read_text().split("\nread_bytes: ")[1].split()[0])


class Cases:
    """Sessions of the same training, fed in different ways."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder, self.disk = settings, folder, list[int]()
        self.real, self.fixed, self.ready = (self._session() for _ in range(3))
        self.fixed.train = Ready(self.real, 1)  # type: ignore[assignment]
        self.ready.train = Ready(self.real, self.real.train.order.num_batches)  # type: ignore[assignment]
        self.first = self._session()

    def _session(self) -> Session:
        return make_session(self.settings.trainer, Dataset.open(shards_folder(self.settings.dataset)), self.folder)

    def anew(self) -> Seconds:
        """The first epoch of a reader."""
        self.first.train = self._session().train
        return epoch(self.first)

    def cold(self) -> Seconds:
        """The same, none of its shards in memory."""
        self.first.train = self._session().train
        forget(shards_folder(self.settings.dataset))
        before = read_from_disk()
        taken = epoch(self.first)
        self.disk.append(read_from_disk() - before)
        return taken

    def all(self) -> dict[str, Callable[[], Seconds]]:
        """The cases by name."""
        return {
            "shards": lambda: epoch(self.real),
            "fixed": lambda: epoch(self.fixed),
            "ready": lambda: epoch(self.ready),
            "first": self.anew,
            "cold": self.cold,
        }


def row(name: str, figures: dict[str, list[float]], case: str) -> str:
    """A row of the table: a case beside the two that read nothing."""
    ours, fixed, ready = (np.array(figures[key]) for key in (case, "fixed", "ready"))
    medians = " | ".join(f"{np.median(each):.3f}" for each in (ours, fixed, ready))
    ratios = " | ".join(
        f"{np.median(ratio):.3f} ({ratio.min():.3f} - {ratio.max():.3f})" for ratio in (ours / fixed, ours / ready)
    )
    return f"| {name} | {medians} | {ratios} |\n"


def main() -> None:
    """Prepares, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        subprocess.run([sys.executable, "-m", "dateshard", "init", "--example", "flights"], check=True, stdout=2)
        dateshard.preprocess(CONFIG, progress=False)
        settings = load_settings([CONFIG], ["trainer.checkpoint.save_freq=null"])
        cases = Cases(settings, Path(folder))
        taken: dict[str, list[Seconds]] = {name: [] for name in cases.all()}
        for repeat in range(asked.repeats + 1):
            for name, case in cases.all().items():
                seconds = case()
                if repeat:  # the first one warms up
                    taken[name].append(seconds)
        os.chdir("/")
    wall, cpu = ({name: [each[k] for each in seconds] for name, seconds in taken.items()} for k in (0, 1))
    text = (
        f"Epoch, {dt.date.today()}, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, one thread; "
        f"{CONFIG}, {settings.trainer.model.name}, {cases.real.train.order.num_batches} batches of "
        f"{settings.trainer.training.batch_size}; {asked.repeats} repeats of all cases by turns; in a cold epoch the disk "
        f"gave {np.median(cases.disk) / 1e6:.1f} MB; load {os.getloadavg()[0]:.1f}\n\n"
        "| | from shards | one fixed batch | ready batches | ratio: median (min - max) | to ready batches: median (min - max) |\n"
        "|---|---|---|---|---|---|\n"
    )
    for what, case in (("", "shards"), ("first epoch: ", "first"), ("first epoch, cold: ", "cold")):
        text += row(f"{what}CPU s", cpu, case) + row(f"{what}wall s", wall, case)
    print(text)
    if asked.write:
        (Path(__file__).resolve().parent / "results" / f"{dt.date.today()}-epoch.md").write_text(text)


if __name__ == "__main__":
    main()
