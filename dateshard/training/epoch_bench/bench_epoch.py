"""Measures the ways one after the other, each in a process of its own, and watches the memory of each."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from dateshard.documents.benching import BenchEpochDocument, WayRow
from dateshard.pipeline.recent.dates_from_dumps import DumpDataset
from dateshard.settings import Settings
from dateshard.shardstore.commands import by_door
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import UsageError
from dateshard.terminal.screen import size
from dateshard.trainer.config import Trainer
from dateshard.trainer.memory.memory_need import machine_bytes
from dateshard.trainer.memory.process_memory import private_bytes
from dateshard.trainer.setup import refuse_unready
from dateshard.training.epoch_bench.feeds import RAM, WAYS, loaded_dates, stacked_bytes
from dateshard.training.unprepared_dates import open_to_look

LOOK_SECONDS = 0.005
DAYS = 2  # of a batch of dates, where the configuration does not say
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")
EMPTY = dict.fromkeys(
    ("windows", "batches", "peak_bytes", "first_batch_seconds", "epoch_seconds", "train_loss", "val_loss")
)


def bench_epoch(
    settings: Settings, watch: Callable[[WayRow], None] = lambda row: None, ways: Sequence[str] = ()
) -> BenchEpochDocument:
    """Trains one epoch of the configured model each way, on the same windows. Nothing is kept of it.

    Args:
        watch: is called with each row as it is measured.
        ways: only these.

    Raises:
        UsageError: the model is not trained by batches. StoreError: the dataset is not ready.
    """
    config, dataset = settings.trainer, open_to_look(settings)
    if config.model.name == "ridge":
        what = "ridge is solved at once: it has no epoch to measure"
        raise UsageError(what, todo=f"Name another model: {by_door('trainer.model.name=mlp', 'model mlp')}")
    refuse_unready(dataset)
    days = config.loading.days_per_batch
    days_per_batch = days if isinstance(days, int) else DAYS
    stacking, held = _stacking(config, dataset)
    free = min(psutil.virtual_memory().available, machine_bytes())
    _warm(dataset, free)
    rows = []
    for way in ways or WAYS:
        if way == RAM and held > free:
            what = f"all windows in RAM take {size(held)} while they are copied, and {size(free)} are free"
            row = _skipped(way, what)
        elif way == "mapped" and isinstance(dataset, DumpDataset) and dataset.raw.dumps:
            row = _skipped(way, "dates without a shard cannot be mapped")
        else:
            row = _measured(way, settings, dataset, days_per_batch)
        watch(row)
        rows.append(row)
    return {
        "dataset": settings.dataset,
        "generation": dataset.generation,
        "model": config.model.name,
        "batch_size": config.training.batch_size,
        "days_per_batch": days_per_batch,
        "budget_bytes": config.loading.memory_budget,
        "stacked_bytes": stacking,
        "free_bytes": free,
        "date": str(dt.date.today()),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, torch {torch.__version__}",
        "ways": rows,
        "page": None,
    }


def _stacking(config: Trainer, dataset: Dataset) -> tuple[int, int]:
    """Bytes of all windows, and of them and the rows that they are copied from."""
    loaded = loaded_dates(config, dataset)
    stacking = stacked_bytes(loaded)
    return stacking, stacking + loaded.bytes_of(range(len(dataset.days)))


def _warm(dataset: Dataset, free: int) -> None:
    """Reads every date once, so that no way pays for the disk that the others do not; not where memory could not keep it."""
    if sum(day.num_steps for day in dataset.days) * dataset.row_values * 4 > free // 2:
        return
    for day in dataset.days:
        dataset.read_day(day)


def _measured(way: str, settings: Settings, dataset: Dataset, days_per_batch: int) -> WayRow:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wish = {"way": way, "store": str(dataset.root), "generation": dataset.generation}
        wish |= {"days_per_batch": days_per_batch, "settings": settings.model_dump(mode="json")}
        (folder / "asked.json").write_text(json.dumps(wish))
        code, peak = _watch_process(folder)
        if code or not (folder / "answer.json").exists():
            return _skipped(way, _why(code, (folder / "stderr").read_text(errors="backslashreplace")))
        figures: dict[str, Any] = json.loads((folder / "answer.json").read_text())
    if "skipped" in figures:
        return _skipped(way, figures["skipped"])
    idle = figures.pop("idle_bytes")
    row: WayRow = {"way": way, "peak_bytes": max(0, peak - idle), "skipped": None, **figures}  # type: ignore[typeddict-item]
    return row


def _watch_process(folder: Path) -> tuple[int, int]:
    """Runs one process to its end: (exit code, the most private memory it had in its epoch)."""
    words = [sys.executable, "-m", "dateshard.training.epoch_bench.measured_epoch", str(folder)]
    environment, peak = {**os.environ, **dict.fromkeys(THREADS, "1")}, 0
    with (folder / "stderr").open("wb") as errors:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, env=environment)
        try:
            while process.poll() is None:
                if (folder / "begun").exists() and not (folder / "trained").exists():
                    peak = max(peak, private_bytes(psutil.Process(process.pid)))
                time.sleep(LOOK_SECONDS)
        finally:
            process.kill()
            process.wait()
    return process.returncode, peak


def _skipped(way: str, why: str) -> WayRow:
    row: WayRow = {"way": way, "skipped": why, **EMPTY}  # type: ignore[typeddict-item]
    return row


def _why(code: int, complaint: str) -> str:
    """What a process ended by that gave no answer."""
    if code == -signal.SIGKILL:
        return "its process was killed: the machine had no memory left"
    last = complaint.strip().splitlines()[-1:] or [f"exit code {code}"]
    return f"its process failed: {last[0]}"
