"""New dumps are hashed on several threads, to the hashes that one gives, and only new ones."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dateshard.pipeline.execution import hashing
from dateshard.pipeline.planning.observe import Cache, observe, stamped_hash, write_cache


def test_several_threads_give_the_hashes_of_one_and_leave_out_what_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [str(tmp_path / f"{number}.csv") for number in range(8)]
    for number, file in enumerate(files):
        Path(file).write_bytes(bytes([number]) * (1 << (10 + number)))
    expected = {file: stamped_hash(file) for file in files}
    together = threading.Barrier(2)  # the hash of a first file ends when another thread is at another one
    first = set(files[:2])

    def at_once(file: str) -> list[Any]:
        if file in first:
            together.wait(timeout=60)
        return stamped_hash(file)

    monkeypatch.setattr(hashing, "stamped_hash", at_once)
    asked = [*files[:2], str(tmp_path / "gone.csv"), str(tmp_path), *files[2:]]
    assert hashing._hash_all(asked, 2, start=False) == expected


def test_one_worker_hashes_as_it_plans() -> None:
    assert hashing.hashing_ahead(1, start=False) is None


def test_only_new_dumps_are_hashed_ahead_and_what_is_seen_stays_the_same(make_world: Any) -> None:
    world = make_world(4)
    config, store = world.settings.preparing(), world.store
    (store / "staging").mkdir(parents=True)
    given = list[list[str]]()

    def ahead(files: Sequence[str]) -> Cache:
        given.append([Path(file).name for file in files])
        return {file: stamped_hash(file) for file in files}

    dates = sorted(world.rows)
    moved = [world.dump(date) for date in dates[:2]]
    texts = [path.read_text() for path in moved]
    for path in moved:
        path.unlink()
    alone, _, cache = observe(config, store, None)
    write_cache(store, cache)
    for path, text in zip(moved, texts, strict=True):
        path.write_text(text)
    plain, _, plain_cache = observe(config, store, None)
    seen, _, cache = observe(config, store, None, ahead)
    assert given == [[path.name for path in moved]]
    assert (seen.dumps, cache) == (plain.dumps, plain_cache)
    assert sorted(set(seen.dumps) - set(alone.dumps)) == dates[:2]
