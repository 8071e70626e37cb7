"""A store in a bucket: the bytes of one on a disk, one writer at a time, copies within a budget, and nothing lost by kills."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dateshard.cli
from dateshard.shardstore.objects import object_store
from tests.kit.conditional_server import ConditionalServer

pytest.importorskip("obstore")
SPLIT = {"train": "2024-03-01..2024-03-04", "validation": "2024-03-05..2024-03-06"}
FIRST = dt.date(2024, 3, 1)
BUCKET = "stores"


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConditionalServer]:
    with ConditionalServer(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def place(server: ConditionalServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where stores lie."""
    for name, value in {**server.environment(), "DATESHARD_SHARDS": f"s3://{BUCKET}/lake"}.items():
        monkeypatch.setenv(name, value)
    object_store.store_of.cache_clear()
    return f"{BUCKET}/lake/world/"


@pytest.fixture
def world(make_world: Any) -> Any:
    return make_world(6, split=SPLIT)


def run(world: Any, *words: str) -> int:
    return dateshard.cli.run([words[0], "-c", str(world.config_file()), *words[1:]])


OF_THIS_MACHINE = ("writer.lock", "dumps.json", "commits.jsonl", "BUCKET")


def files_of(store: Path) -> dict[str, bytes]:
    """The files of a store that belong to it, and not to the machine that prepared it."""
    files = {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    return {name: data for name, data in files.items() if name not in OF_THIS_MACHINE and Path(name).name != ".pushed"}


def test_first(world: Any, server: ConditionalServer, place: str, monkeypatch: Any, capfd: Any) -> None:
    world.prepare()
    files = files_of(world.store)
    shutil.rmtree(world.store)
    assert run(world, "preprocess", "--workers", "1") == 0
    print(capfd.readouterr())
    assert server.objects(place) == files
    shutil.rmtree("data")
    assert run(world, "status") == 0
    print(capfd.readouterr())
    assert run(world, "preprocess", "--workers", "1") == 0
    print(capfd.readouterr())
    assert run(world, "verify") == 0
    print(capfd.readouterr())
    assert run(world, "train", "trainer.training.epochs=1") == 0
    print(capfd.readouterr())
