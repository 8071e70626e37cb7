"""An epoch of a tiny model as `train` runs it, against a plain loop of torch over tensors in RAM, by turns in one process.

    python bench/small_step.py [--models nlinear dlinear] [--epochs 12] [--write]

About 8,000 windows of 336 + 64 hours, 7 series, batches of 32, validation included; generated dumps. Of ours everything is
on: metrics, a checkpoint every 100 batches and after each epoch, metrics.jsonl, run.log, the live line of a terminal that
is a file. The plain loop has the same module, Adam, batches and losses, and nothing else. CPU seconds are of all threads.
"""

from __future__ import annotations

import argparse
import copy
import datetime as dt
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, TextIO

sys.path.insert(0, str(Path(__file__).parents[1]))
import numpy as np
import torch
from torch import nn

import dateshard
from dateshard.places import shards_folder
from dateshard.settings import Settings, load_settings
from dateshard.shardstore.dataset import Dataset
from dateshard.terminal.screen import Screen
from dateshard.trainer import loop
from dateshard.trainer.runs.start import Started
from dateshard.training.train import TrainRequest, run_training
from dateshard.training.train_command import Shown

HISTORY, HORIZON, SERIES, BATCH = 336, 64, 7, 32
TRAINED, HELD = 350, 120  # dates
CONFIG = f"""dataset: small
pipeline:
  source: {{path: "dumps/{{date}}.csv", time: time, wide: {{value: load, nodes: "s*"}}}}
  step: 1h
  features: {{load: {{}}}}
  split: {{train: "2024-01-01..2024-12-15", validation: "2024-12-16.."}}
trainer:
  window: {{history: {HISTORY}, horizon: {HORIZON}}}
  training: {{batch_size: {BATCH}, device: cpu}}
  early_stopping: null
"""


class Terminal(Screen):
    """A terminal whose text goes to a file."""

    def __init__(self, out: TextIO) -> None:
        super().__init__(works=True, out=out)
        self.terminal = True


def write_dumps(folder: Path) -> None:
    """Writes a daily and a weekly rhythm with noise: a row an hour, a column a series."""
    folder.mkdir(parents=True)
    drawn, names = np.random.default_rng(7), ",".join(f"s{number}" for number in range(SERIES))
    level = drawn.uniform(30, 90, SERIES)
    for number in range(TRAINED + HELD):
        day = np.datetime64("2024-01-01", "D") + number
        hours = number * 24 + np.arange(24)
        wave = 10 * np.sin(hours / 24 * 2 * np.pi) + 5 * np.sin(hours / 168 * 2 * np.pi)
        values = level + wave[:, None] + drawn.normal(0, 2, (24, SERIES))
        stamps = (day.astype("datetime64[h]") + np.arange(24)).astype(str)
        rows = (f"{stamp}:00:00,{','.join(f'{x:.2f}' for x in row)}" for stamp, row in zip(stamps, values, strict=True))
        (folder / f"{day}.csv").write_text("\n".join([f"time,{names}", *rows]) + "\n")


class Plain:
    """The plain loop: rows of a split in RAM, windows gathered by their first rows in a random order."""

    def __init__(self, settings: Settings, started: Started) -> None:
        dataset, self.session = started.dataset, started.session
        self.model = copy.deepcopy(self.session.model)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.trainer.training.learning_rate)
        values = torch.from_numpy(np.concatenate([np.array(dataset.map(day.date)) for day in dataset.days]))
        self.shape, cells = values.shape[1:], values[0].numel()
        self.windows = values.reshape(len(values), -1).as_strided(
            (len(values) - HISTORY - HORIZON + 1, (HISTORY + HORIZON) * cells), (cells, 1)
        )
        self.count = TRAINED * 24 - HISTORY - HORIZON + 1
        assert self.count == self.session.train.order.num_windows
        first_held = TRAINED * 24 - HISTORY
        self.held = torch.arange(first_held, len(self.windows))
        assert self.session.validation is not None
        assert len(self.held) == self.session.validation.order.num_windows
        self.copying = 0.0  # seconds on the clock that the copying of training's batches took

    def _batch(self, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = self.windows[chosen].view(len(chosen), HISTORY + HORIZON, *self.shape)
        return rows[:, :HISTORY], rows[:, HISTORY:]

    def epoch(self) -> tuple[float, float]:
        """One epoch and its validation; the mean losses."""
        total, held = 0.0, 0.0
        self.model.train()
        for chosen in torch.randperm(self.count).split(BATCH):
            began = time.perf_counter()
            history, target = self._batch(chosen)
            self.copying += time.perf_counter() - began
            self.optimizer.zero_grad()
            loss = nn.functional.mse_loss(self.model(history), target)
            loss.backward()
            self.optimizer.step()
            total += loss.item() * len(chosen)
        self.model.eval()
        with torch.no_grad():
            for chosen in self.held.split(BATCH):
                history, target = self._batch(chosen)
                held += nn.functional.mse_loss(self.model(history), target).item() * len(chosen)
        return total / self.count, held / len(self.held)


class Turns:
    """Watches a training: after each of its epochs one of the plain loop, whose time is not the training's."""

    def __init__(self, settings: Settings, out: TextIO) -> None:
        self.settings, self.shown = settings, Shown(Terminal(out))
        self.plain: Plain | None = None
        self.since: tuple[float, float] = (0.0, 0.0)
        self.ours: list[tuple[float, float]] = []
        self.theirs: list[tuple[float, float]] = []
        self.losses: list[tuple[float | None, float | None, float, float]] = []
        self.wait = 0.0

    def watch(self, event: Any) -> None:
        """Shows an event as `train` does; an epoch of ours reaches from the end of one to the end of the next."""
        self.shown.watch(event)
        if isinstance(event, Started):
            self.plain = Plain(self.settings, event)
        if isinstance(event, loop.Stepped):
            self.wait += event.wait_seconds
        if isinstance(event, loop.EpochDone):
            assert self.plain is not None
            self.ours.append(passed(self.since))
            if len(self.ours) == 1:  # it reached from nowhere
                self.wait = 0.0
            self.since = now()
            losses = self.plain.epoch()
            self.theirs.append(passed(self.since))
            self.losses.append((event.train_loss, event.val_loss, *losses))
            self.since = now()


def now() -> tuple[float, float]:
    """Seconds on the clock and of CPU, of all threads."""
    return time.perf_counter(), time.process_time()


def passed(since: tuple[float, float]) -> tuple[float, float]:
    """The same since then."""
    wall, cpu = now()
    return wall - since[0], cpu - since[1]


def measured(model: str, epochs: int, folder: Path) -> str:
    """Rows of a table."""
    settings = load_settings(
        [str(folder / "config.yaml")], [f"trainer.model.name={model}", f"trainer.training.epochs={epochs + 2}"]
    )
    with open(folder / "terminal", "w") as out:
        turns = Turns(settings, out)
        run_training(settings, TrainRequest(), watch=turns.watch, should_stop=lambda: False)
    rows = ""
    for name, which in (("CPU s", 1), ("wall s", 0)):
        ours, theirs = (np.array(each)[2:, which] for each in (turns.ours, turns.theirs))  # two to warm up
        ratio = ours / theirs
        rows += (
            f"| {model}, {name} | {ours.min():.3f} ({np.median(ours):.3f}) | {theirs.min():.3f} ({np.median(theirs):.3f}) "
            f"| {np.median(ratio):.2f} ({ratio.min():.2f} - {ratio.max():.2f}) |\n"
        )
    assert turns.plain is not None
    waits = [
        100 * seconds / sum(wall for wall, _ in epochs)
        for seconds, epochs in ((turns.wait, turns.ours[1:]), (turns.plain.copying, turns.theirs))
    ]
    last = turns.losses[-1]
    return rows + (
        f"| {model}, last losses: training, validation | {last[0]:.4f}, {last[1]:.4f} | {last[2]:.4f}, {last[3]:.4f} "
        f"| |\n| {model}, % of the wall time that batches are waited for, or copied | {waits[0]:.2f} | {waits[1]:.2f} | |\n"
    )


def main() -> None:
    """Makes the data, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["nlinear", "dlinear"])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    results = Path(__file__).resolve().parent / "results"
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        write_dumps(Path("dumps"))
        Path("config.yaml").write_text(CONFIG)
        dateshard.preprocess("config.yaml", progress=False)
        load = os.getloadavg()[0]
        rows = [measured(model, asked.epochs, Path(name)) for model in asked.models]
        windows = Dataset.open(shards_folder("small"))
        os.chdir("/")
    text = (
        f"The small step, {dt.date.today()}, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"one thread; "
        f"{len(windows.days)} dates of 24 hours, {SERIES} series, windows of {HISTORY} + {HORIZON}, batches of {BATCH}; "
        f"{asked.epochs} epochs by turns after two; load {load:.1f}\n\n"
        f"| | ours: least (median) | plain loop: least (median) | ratio: median (least - most) |\n|---|---|---|---|\n"
    ) + "".join(rows)
    print(text)
    if asked.write:
        (results / f"{dt.date.today()}-small-step.md").write_text(text)


if __name__ == "__main__":
    main()
