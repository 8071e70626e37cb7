"""How a run disappears: by one rename to a hidden name, under its lock, and then what was renamed.

A process that is killed anywhere leaves a whole run, or a folder `.gone-*` that is no run's and that the next removal
deletes. Its generation is not pinned from the rename on.
"""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

from dateshard.shardstore.commands import command
from dateshard.shardstore.disk.durable import fsync_path
from dateshard.shardstore.disk.naming import naming
from dateshard.shardstore.errors import BusyError, UsageError, Where, counted
from dateshard.trainer import checkpoint
from dateshard.trainer.checkpoint.removal import GONE, is_pinned
from dateshard.trainer.runs.run_folder import TrainingRun
from dateshard.trainer.runs.status import is_locked


def bytes_of_run(run: TrainingRun) -> int:
    """The bytes of all files in a run's folder; what lies behind links is not counted, and not removed."""
    sizes = (os.lstat(path).st_size for path in run.folder.rglob("*") if not path.is_symlink() and path.is_file())
    return sum(sizes)


def refuse_needed(run: TrainingRun) -> None:
    """Refuses to remove a run that is trained now, or a checkpoint of which is pinned.

    Raises:
        BusyError: a process trains it. UsageError: a checkpoint is pinned.
    """
    where = Where(file=str(run.folder))
    if is_locked(run):
        raise BusyError("a process trains this run", where=where, todo="Stop it first, or wait for it")
    pinned = [saved.name for saved in checkpoint.scan(run.checkpoints)[0] if is_pinned(saved.folder)]
    if pinned:
        todo = f"Let go of it: {command('checkpoints', 'unpin', run.name, pinned[0])}"
        what = f"{counted(len(pinned), 'checkpoint')} of this run {'is' if len(pinned) == 1 else 'are'} pinned: {pinned[0]}"
        raise UsageError(what, where=where, todo=todo)


def remove_run(run: TrainingRun) -> None:
    """Removes a run's folder.

    Raises:
        BusyError: a process trains it. UsageError: a checkpoint is pinned.
    """
    refuse_needed(run)
    lock = run.lock()
    try:
        gone = run.folder.with_name(f"{GONE}{uuid.uuid4().hex}")
        with naming(run.folder):
            run.folder.rename(gone)
            fsync_path(gone.parent)  # before its files go: a power cut must not bring back half of it under its name
        shutil.rmtree(gone, ignore_errors=True)
    finally:
        os.close(lock)


def sweep_runs(parent: Path) -> None:
    """Deletes what a killed removal left."""
    for gone in parent.glob(f"{GONE}*"):
        shutil.rmtree(gone, ignore_errors=True)
