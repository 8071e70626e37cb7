"""A training run: its folder, what is written there, and what a resumed run must share with it.

data/runs/<run>/  run.json  run.lock  metrics.jsonl  checkpoints/
"""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import os
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from shardstore.dataset import Dataset
from shardstore.durable import disk_full_as_error, replace_file
from shardstore.errors import BusyError, NotThereError, UsageError, Where
from shardstore.identity import identity
from trainer import checkpoint
from trainer.config import Trainer, binding
from trainer.shuffle import Shuffle


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """A run's folder. Make it with `create` or `open`."""

    folder: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def checkpoints(self) -> Path:
        """Where its checkpoints lie."""
        return self.folder / "checkpoints"

    @staticmethod
    def create(parent: Path, dataset: str, name: str | None, facts: Mapping[str, Any]) -> TrainingRun:
        """A new run `<dataset>-<yyyymmdd>-<hhmm>` (`_2` and so on if taken), or of the given name.

        Raises:
            UsageError: a run of that name exists.
        """
        if name and not re.fullmatch(r"\w[\w.-]{0,63}", name):
            raise UsageError(f"'{name}' is no name for a run", todo="Use letters, digits, '_', '-' and '.'")
        stem = name or f"{dataset}-{dt.datetime.now():%Y%m%d-%H%M}"
        names = [stem] if name else [stem, *(f"{stem}_{n}" for n in range(2, 1000))]
        for candidate in names:
            folder = parent / candidate
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                if not name or (folder / "run.json").exists():  # without it: killed before it was a run
                    continue
            run = TrainingRun(folder)
            run.checkpoints.mkdir(exist_ok=True)
            run.write("run.json", {"name": candidate, "created": dt.datetime.now().astimezone().isoformat(), **facts})
            return run
        raise UsageError(
            f"run '{stem}' exists",
            where=Where(file=str(parent / stem)),
            todo=f"Continue it: dateshard train --resume {stem}",
        )

    @staticmethod
    def open(parent: Path, name: str) -> TrainingRun:
        """Raises:
        NotThereError: no such run; lists those there are.
        """
        folder = parent / name
        if not (folder / "run.json").is_file():
            there = ", ".join(run.name for run in all_runs(parent)[:5]) or "none yet"
            raise NotThereError(
                f"no run '{name}' (newest: {there})", where=Where(file=str(parent)), todo="Name one of them"
            )
        return TrainingRun(folder)

    def facts(self) -> dict[str, Any]:
        """run.json."""
        try:
            found: dict[str, Any] = json.loads((self.folder / "run.json").read_bytes())
            _ = found["data"]["name"], found["config"], found["settings"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NotThereError(f"run.json cannot be read: {error}", where=Where(file=str(self.folder))) from None
        return found

    def write(self, file: str, value: Any) -> None:
        """Replaces one JSON file of the run, durably."""
        with disk_full_as_error(self.folder / file):
            replace_file(self.folder / file, json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n")

    def lock(self) -> int:
        """Holds the run for this process until the descriptor is closed.

        Raises:
            BusyError: another process trains it.
        """
        descriptor = os.open(self.folder / "run.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise BusyError(
                "another process trains this run",
                where=Where(file=str(self.folder)),
                todo="Wait for it, or start another",
            ) from None
        return descriptor

    def rewind_metrics(self, step: int, *, validated: bool = True) -> None:
        """Drops the lines of metrics.jsonl that will come again, and a line torn by a crash.

        Args:
            step: lines of later steps come again.
            validated: False if the line of the epoch that ends at `step` comes again as well.
        """
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return
        kept = [line for line in path.read_text(errors="replace").splitlines() if _step_of(line) <= step]
        if kept and not validated and _step_of(kept[-1]) == step and "val_loss" in json.loads(kept[-1]):
            kept.pop()
        with disk_full_as_error(path):
            replace_file(path, "".join(line + "\n" for line in kept).encode())

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Lines of metrics.jsonl."""
        path = self.folder / "metrics.jsonl"
        if path.exists():
            for line in path.read_text(errors="replace").splitlines():
                if _step_of(line) >= 0:
                    yield json.loads(line)


def _step_of(line: str) -> float:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def all_runs(parent: Path) -> list[TrainingRun]:
    """Runs, newest first."""
    if not parent.is_dir():
        return []
    found = [folder for folder in parent.iterdir() if (folder / "run.json").is_file()]
    return [
        TrainingRun(folder) for folder in sorted(found, key=lambda f: (f / "run.json").stat().st_mtime, reverse=True)
    ]


def data_identity(dataset: Dataset) -> dict[str, Any]:
    """Which data a run is bound to: name, generation, and the manifest's content."""
    return {
        "name": dataset.manifest.dataset,
        "generation": dataset.generation,
        "id": identity(dataset.manifest.to_json()),
    }


def environment(device: torch.device) -> dict[str, Any]:
    """What equal bits depend on beside configuration and data. A difference is warned of, not refused."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": device.type,
        "machine": platform.machine(),
    }


def bound(config: Trainer, dataset: Dataset, shuffle: Shuffle) -> dict[str, Any]:
    """What stands in every checkpoint and must be the same to continue from it."""
    order = asdict(shuffle)
    return {"settings": binding(config), "data": data_identity(dataset), "order": order}


def refuse_difference(found: Mapping[str, Any], wanted: Mapping[str, Any], where: Path) -> None:
    """Raises:
    UsageError: naming every setting in which a checkpoint and the run that would continue it differ.
    """
    differences = []
    for section in ("data", "order", "settings"):
        old, new = found[section], wanted[section]
        for key in sorted(set(old) | set(new)):
            if old.get(key) != new.get(key):
                prefix = "trainer" if section == "settings" else section
                differences.append(f"{prefix}.{key}: checkpoint {old.get(key)!r}, now {new.get(key)!r}")
    if differences:
        raise UsageError(
            "this checkpoint cannot be continued exactly: " + "; ".join(differences),
            where=Where(file=str(where)),
            todo="Set them back, or start a new run: dateshard train -c CONFIG",
        )


def find_continuable(parent: Path, config: Trainer, dataset: str) -> TrainingRun | None:
    """The newest run of the same dataset and settings that has a checkpoint."""
    wanted = binding(config)
    for run in all_runs(parent):
        try:
            facts = run.facts()
        except NotThereError:  # a run.json that cannot be read names no settings
            continue
        same = facts.get("settings") == wanted and facts.get("data", {}).get("name") == dataset
        if same and checkpoint.newest(run.checkpoints)[0] is not None:
            return run
    return None
