"""A store that begins with another's files: whole or not there, and what one store removes the other keeps."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dateshard.pipeline.clean import clean
from dateshard.pipeline.execute import preprocess
from dateshard.pipeline.planning.plan import Wish
from dateshard.shardstore.cleaning.linked_store import link_store
from dateshard.shardstore.commit import StoreWriter
from dateshard.shardstore.dataset import Dataset
from tests.conftest import World

SPLIT = {"train": "2024-03-01..2024-03-02", "validation": "2024-03-03"}


def linked(world: World, target: Path) -> Dataset:
    current, _ = StoreWriter(world.store).current()
    assert current is not None
    staged = {str(date): row.staged for date, row in current.sources.dates.items()}
    link_store(world.store, target, current, staged)
    return Dataset.open(target)


@pytest.mark.parametrize("links", [True, False])
def test_a_linked_store_is_whole_and_keeps_what_the_other_removes(
    make_world: Callable[..., World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    world, target = make_world(3, split=SPLIT), tmp_path / "other" / "world"
    world.prepare()
    (target.parent / ".world.half" / "shards").mkdir(parents=True)  # of a process that was killed

    def no_links(*_: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    ours = linked(world, target)
    assert not (target.parent / ".world.half").exists()
    shutil.rmtree(world.store)
    assert [error for _, error in ours.verify(full=True)] == [None] * len(list(ours.verify(full=True)))


def test_cleaning_a_linked_store_takes_nothing_from_the_other(make_world: Callable[..., World], tmp_path: Path) -> None:
    world, target = make_world(3, split=SPLIT), tmp_path / "other" / "world"
    world.prepare()
    linked(world, target)
    world.tree["pipeline"]["features"]["speed"]["scale"] = "minmax"
    config = world.settings.preparing()
    list(preprocess("world", config, target, Wish(), 1))
    removed = clean(config, target, 1, dry_run=False)
    assert (removed.generations, removed.sizes["shards"][0]) == ([1], 3)
    assert [error for _, error in world.open().verify(full=True) if error] == []
