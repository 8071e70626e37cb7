"""Training from a store without Zarr: through a cache that nobody has to believe, the same batches bit for bit."""

from __future__ import annotations

import datetime as dt
import errno
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import DamagedError, DiskFullError
from dateshard.trainer.loop import train
from tests.kit.limits import PATIENCE_SECONDS

SPLIT = {"train": "2024-03-01..2024-03-05", "validation": "2024-03-06.."}
FIRST = dt.date(2024, 3, 1)
Make = Callable[..., Any]


@pytest.fixture
def worlds(tmp_path: Path) -> tuple[Any, Any]:
    """The same dumps in Zarr and in Parquet alone."""
    from tests.conftest import build_world

    found = []
    for name, formats in (("zarr", ["zarr"]), ("parquet", ["parquet"])):
        world = build_world(tmp_path / name, 7, split=SPLIT, missing=0.4, loading={"days_per_batch": 2})
        world.tree["pipeline"]["store"] = {"formats": formats}
        world.prepare()
        found.append(world)
    return found[0], found[1]


def parts(batch: Any) -> list[torch.Tensor]:
    found = (batch.history_BHNF, batch.target_BPNF, batch.observed_BPNF, batch.codes_BW)
    return [part.clone() for part in found if part is not None]


@pytest.mark.parametrize("policy", ["blocks", "mapped"])
def test_a_store_of_parquet_gives_the_batches_of_one_of_zarr(worlds: Any, reader: Make, policy: str) -> None:
    other = worlds[1]
    assert not list(other.store.glob("shards/*"))
    ids = [[entry.parts[0].id for entry in world.open().manifest.dates.values()] for world in worlds]
    assert ids[0] == ids[1]
    served = [reader(world.settings.trainer, world.open(), policy=policy) for world in worlds]
    count = 0
    for epoch in range(2):
        for one, two in zip(*(r.batches(epoch) for r in served), strict=True):
            pairs = list(zip(parts(one), parts(two), strict=True))
            assert len(pairs) == 4
            assert all(torch.equal(a, b) for a, b in pairs)
            count += one.size
    assert count == 2 * served[0].order.num_windows
    assert sorted(path.name for path in (other.store / "cache").iterdir()) == [f"2024-03-0{k}" for k in range(1, 6)]


def test_training_from_parquet_ends_in_the_same_weights(worlds: Any, tmp_path: Path) -> None:
    from dateshard.trainer.setup import make_session

    weights = []
    for index, world in enumerate(worlds):
        session = make_session(world.settings.trainer, world.open(), tmp_path / f"checkpoints{index}")
        for _ in train(session, lambda: None):
            pass
        weights.append({name: value.clone() for name, value in session.model.state_dict().items()})
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def values(dataset: Dataset, date: dt.date = FIRST) -> np.ndarray:
    out = np.empty((24, 3, 2), np.float32)
    dataset.read(date, slice(None), out)
    return out


@pytest.mark.parametrize("harm", ["flip", "cut", "chunk gone", "folder gone", "folder empty"])
def test_a_harmed_cache_is_built_again(worlds: Any, harm: str) -> None:
    world = worlds[1]
    good = values(world.open())
    (chunk,) = world.store.glob(f"cache/{FIRST}/*/values/0.0.0")
    shard, data = chunk.parents[1], bytearray(chunk.read_bytes())
    if harm == "flip":
        data[100] ^= 1
        chunk.write_bytes(data)
    elif harm == "cut":
        chunk.write_bytes(data[:-8])
    elif harm == "chunk gone":
        chunk.unlink()
    else:
        shutil.rmtree(shard)
        if harm == "folder empty":
            shard.mkdir()
    assert values(world.open()).tobytes() == good.tobytes()
    assert [path.name for path in shard.parent.iterdir()] == [shard.name]


def test_a_dataset_that_is_open_notices_a_cache_that_is_harmed_or_cleaned_meanwhile(worlds: Any) -> None:
    dataset = worlds[1].open()
    good = values(dataset)
    (chunk,) = dataset.root.glob(f"cache/{FIRST}/*/values/0.0.0")
    chunk.write_bytes(bytes(chunk.stat().st_size))
    assert values(dataset).tobytes() == good.tobytes()
    shutil.rmtree(dataset.root / "cache")
    assert values(dataset).tobytes() == good.tobytes()


def test_what_a_killed_builder_left_goes(worlds: Any) -> None:
    left = worlds[1].store / "cache" / str(FIRST) / "tmp-0123"
    left.mkdir(parents=True)
    (left / "zarr.json").write_text("{")
    values(worlds[1].open())
    assert not left.exists()


def test_a_damaged_parquet_file_is_refused_and_no_cache_is_made_of_it(worlds: Any) -> None:
    world = worlds[1]
    (path,) = world.store.glob(f"parquet/{FIRST}/*/*.parquet")
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.chmod(0o644)
    path.write_bytes(data)
    with pytest.raises(DamagedError, match=f"{path.name}.*dateshard preprocess {FIRST} --force -c CONFIG"):
        values(world.open())
    assert not list(world.store.glob(f"cache/{FIRST}/*"))


def test_a_full_disk_is_said_and_leaves_nothing(worlds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, *_: Any) -> None:
        folder.mkdir()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dateshard.shardstore.storage.zarr_raw.write", full)
    with pytest.raises(DiskFullError, match=f"cache/{FIRST}"):
        values(worlds[1].open())
    assert not list((worlds[1].store / "cache" / str(FIRST)).iterdir())


def test_a_folder_that_others_clean_away_while_it_is_built_is_built_again(
    worlds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dateshard.shardstore.storage import zarr_cache as cache

    write, turns = cache.zarr_raw.write, list[int]()

    def cleaned(folder: Path, *given: Any) -> Any:
        turns.append(1)
        if len(turns) < 3:
            shutil.rmtree(folder.parent)
        return write(folder, *given)

    monkeypatch.setattr("dateshard.shardstore.storage.zarr_raw.write", cleaned)
    good = worlds[0].open()
    assert values(worlds[1].open()).tobytes() == values(good).tobytes()
    assert len(turns) == 3


def test_a_lock_on_a_folder_that_was_cleaned_away_meanwhile_is_none(
    worlds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else who waited for it and who made the folder again would build the same date at once."""
    import fcntl

    from dateshard.shardstore.storage import zarr_cache as cache

    parent, lock, held = worlds[1].store / "cache" / str(FIRST), fcntl.flock, list[bool]()

    def late(descriptor: int, kind: int) -> None:
        if not held:
            parent.rmdir()
            parent.mkdir()
        lock(descriptor, kind)
        held.append(os.path.samestat(os.fstat(descriptor), parent.stat()))

    write = cache._write
    monkeypatch.setattr(cache.fcntl, "flock", late)
    monkeypatch.setattr(cache, "_write", lambda *given: (held.append(held[-1]), write(*given)))
    assert values(worlds[1].open()).tobytes() == values(worlds[0].open()).tobytes()
    assert held == [False, True, True]


def test_threads_that_want_one_date_build_it_once(worlds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from dateshard.shardstore.storage import zarr_cache as cache

    built, write = [], cache._write
    monkeypatch.setattr(cache, "_write", lambda *given: (built.append(given[0]), write(*given)))
    datasets, found = [worlds[1].open() for _ in range(6)], list[bytes]()
    threads = [threading.Thread(target=lambda d=d: found.append(values(d).tobytes())) for d in datasets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(found)) == len(built) == 1


def read_all(root: str, barrier: Any, answers: Any) -> None:
    dataset = Dataset.open(root)
    barrier.wait()
    answers.put([np.asarray(dataset.map(day.date)).tobytes() for day in dataset.days])


def test_several_processes_build_it_at_once(worlds: Any) -> None:
    context = multiprocessing.get_context("forkserver")
    barrier, answers = context.Barrier(3), context.Queue()
    processes = [context.Process(target=read_all, args=(str(worlds[1].store), barrier, answers)) for _ in range(3)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=PATIENCE_SECONDS) for _ in processes]
    for process in processes:
        process.join()
    plain = worlds[0].open()
    assert found == [[np.asarray(plain.map(day.date)).tobytes() for day in plain.days]] * 3
    assert not list(worlds[1].store.glob("cache/*/tmp-*"))
