"""What tests of stores in a bucket share: where they lie, commands as processes, and the files of a store."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import dateshard.cli
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.objects import object_store
from dateshard.shardstore.objects.bucket_store import lie_in_bucket
from tests.conftest import command, environment
from tests.kit.limits import PATIENCE_SECONDS

BUCKET = "stores"
PLACE = f"s3://{BUCKET}/lake"
BELOW = f"{BUCKET}/lake/world/"  # of the store's objects
ONE = ("--workers", "1")
OF_THIS_MACHINE = {"writer.lock", "dumps.json", "commits.jsonl", "BUCKET"}


def reach(monkeypatch: Any, variables: dict[str, str], place: str = PLACE) -> None:
    """Has this process, and those that it starts, keep stores in a bucket of that server."""
    for name, value in {**variables, "DATESHARD_SHARDS": place}.items():
        monkeypatch.setenv(name, value)
    object_store.store_of.cache_clear()


def run(world: Any, *words: str) -> int:
    """A command in this process; returns its exit code."""
    return dateshard.cli.run([words[0], "-c", str(world.config_file()), *words[1:]])


def begin(config: Path, data: str, *words: str) -> subprocess.Popen[str]:
    """A command as a process, on a machine whose data folder is `data`."""
    kept = {name: value for name, value in os.environ.items() if name.startswith("DATESHARD_")}
    variables = {**environment(), **kept, "DATESHARD_DATA": data}
    words = words or ("preprocess", *ONE)
    arguments = command(words[0], "-c", str(config), *words[1:])
    return subprocess.Popen(arguments, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ended(process: subprocess.Popen[str]) -> str:
    """What a command said that ended well."""
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, err
    return out


def files_of(store: Path) -> dict[str, bytes]:
    """The files of a store that belong to it, and not to the machine that prepared it."""
    files = {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    return {name: data for name, data in files.items() if name not in OF_THIS_MACHINE and Path(name).name != ".pushed"}


def on_disk(world: Any) -> dict[str, bytes]:
    """The files that a disk has of what is prepared now; nothing of it stays."""
    world.prepare()
    files = files_of(world.store)
    shutil.rmtree(world.store)
    return files


def seen_elsewhere() -> Dataset:
    """The store as a machine sees it that has nothing of it; every object that it needs is fetched and verified."""
    shutil.rmtree("elsewhere", ignore_errors=True)
    root = Path("elsewhere/shards/world")
    lie_in_bucket(root, f"{PLACE}/world")
    dataset = Dataset.open(root)
    assert [error for _, error in dataset.verify(full=True) if error] == []
    return dataset


def copied(data: str = "data") -> int:
    """Bytes of the folders that a machine has of stores in a bucket, and may remove."""
    marks = Path(data).glob("shards/*/*/*/*/.pushed")
    return sum(
        path.stat().st_size
        for mark in marks
        for path in mark.parent.rglob("*")
        if path.name != ".pushed" and path.is_file()
    )
