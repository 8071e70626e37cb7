"""How a checkpoint appears: every file durable, the manifest last, then one rename. An equal one is kept."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dateshard.shardstore.disk.durable import appearing, disk_full_as_error, fsync_above, fsync_path, write_file
from dateshard.shardstore.errors import StoreError, UsageError, Where
from dateshard.shardstore.identity import canonical, hash_bytes, seal
from dateshard.trainer.checkpoint.checkpoint_folder import VERSION, Checkpoint, inspect, read_files, verify
from dateshard.trainer.checkpoint.checkpoint_state import CheckpointState


def write(parent: Path, state: CheckpointState, data: Mapping[str, memoryview]) -> Path:
    """Writes one checkpoint durably and returns its folder; an equal one that is there already is kept.

    Args:
        data: {file's name: its bytes}.

    Raises:
        DiskFullError: nothing is left behind, older checkpoints are untouched.
    """
    parent.mkdir(parents=True, exist_ok=True)
    files = {name: [len(content), hash_bytes(content)] for name, content in data.items()}
    content = {"version": VERSION, "state": state.to_json(), "files": files}
    stem = f"checkpoint_epoch_{state.epoch + 1}_batch_{state.batch}"
    if (equal := _equal(parent, stem, content)) is not None:
        return equal
    temporary = parent / f".tmp-{uuid.uuid4().hex}"
    try:
        with disk_full_as_error(parent / stem):
            temporary.mkdir()
            for name, blob in data.items():
                write_file(temporary / name, blob)
            write_file(temporary / "manifest.json", seal(content))
            fsync_path(temporary)
            final = _free_name(parent, stem)
            temporary.rename(final)
            fsync_path(parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def copy(checkpoint: Checkpoint, directory: Path) -> Path:
    """A verified, durable copy below `directory`; an equal one that lies there already is kept. Its pin stays behind.

    Raises:
        DamagedError: the checkpoint is, or what was read back is not what was written. UsageError: another checkpoint of
            that name lies there.
    """
    final = directory / checkpoint.name
    with disk_full_as_error(final):
        directory.mkdir(parents=True, exist_ok=True)
        fsync_above(directory / "below", 3)
    if final.exists():
        there = inspect(final)
        verify(there)
        if (there.state, there.files) != (checkpoint.state, checkpoint.files):
            what = "another checkpoint of that name lies there"
            raise UsageError(what, where=Where(file=str(final)), todo="Name another folder")
        return final
    temporary = directory / f".tmp-{uuid.uuid4().hex}"
    try:
        with disk_full_as_error(final):
            temporary.mkdir()
            for name in (*checkpoint.files, "manifest.json"):
                shutil.copyfile(checkpoint.folder / name, temporary / name)
                shutil.copystat(checkpoint.folder / name, temporary / name)  # when it was saved, not when it was copied
                fsync_path(temporary / name)
            verify(inspect(temporary))
            fsync_path(temporary)
            temporary.rename(final)
            fsync_path(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def _equal(parent: Path, stem: str, content: Mapping[str, Any]) -> Path | None:
    """A checkpoint of this position that verifies and holds the same: a replayed batch need not be saved again."""
    for folder in parent.glob(f"{stem}*"):
        try:
            checkpoint = inspect(folder)
            files = {name: list(file) for name, file in checkpoint.files.items()}
            if canonical({"version": VERSION, "state": checkpoint.state.to_json(), "files": files}) == canonical(
                content
            ):
                read_files(checkpoint)
                return folder
        except StoreError:
            continue
    return None


def _free_name(parent: Path, stem: str) -> Path:
    names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, 1000))
    return next(parent / name for name in names if not (parent / name).exists())


def point(folder: Path, file: str, state: CheckpointState) -> None:
    """Notes beside a checkpoint, for people, that it is the latest or the best; nothing trusts it."""
    text = {
        "checkpoint": folder.name,
        "epoch": state.epoch + 1,
        "batch": state.batch,
        "val_loss": state.val_loss,
    }
    half = folder.with_name(f".{file}.tmp")  # always that name: what a killed process left is written over
    with appearing(folder.with_name(file), half, durable=False) as temporary:
        temporary.write_text(json.dumps(text) + "\n")
