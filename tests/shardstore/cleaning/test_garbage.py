"""Cleaning removes what nothing needs, and only that; pins and cleaning never pass each other unseen."""

from __future__ import annotations

import datetime as dt
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dateshard.pipeline.clean import clean
from dateshard.shardstore.cleaning.garbage import Garbage, Runs
from dateshard.shardstore.commit import StoreWriter
from dateshard.shardstore.errors import BusyError, DamagedError, NotThereError
from dateshard.shardstore.identity import seal, unseal
from dateshard.shardstore.manifest import generations
from dateshard.shardstore.pinning.pins import pin_files, pins_lock, read_pins, write_pin
from dateshard.shardstore.pinning.runs_id import runs_id

FIRST = dt.date(2024, 3, 1)


@pytest.fixture
def world(make_world: Callable[..., Any]) -> Any:
    """Five dates, the first three of them training; one generation."""
    made = make_world(5, split={"train": "2024-03-01..2024-03-03", "validation": "2024-03-04.."})
    made.prepare()
    return made


def change(world: Any, date: dt.date = FIRST) -> int:
    """Another dump for a date, committed; returns the new generation."""
    world.rows[date] = world.rows[date][:-2]
    world.write(date)
    generation: int = world.prepare().generation
    return generation


def swept(world: Any, keep: int = 3, *, dry_run: bool = False) -> Garbage:
    return clean(world.settings.preparing(), world.store, keep, dry_run=dry_run, runs=Runs())


def owner_of(world: Any, name: str = "run") -> Path:
    folder: Path = world.folder / "data" / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def everything(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def verifies(world: Any, generation: int) -> bool:
    return not [error for _, error in world.open(generation).verify(full=True) if error]


def test_the_newest_three_generations_stay_whole_and_older_ones_go(world: Any) -> None:
    for _ in range(4):
        change(world)
    assert generations(world.store) == [1, 2, 3, 4, 5]
    shards = len(list(world.store.glob("shards/*/*")))
    found = swept(world)
    assert list(found.kept) == [3, 4, 5]
    assert generations(world.store) == [3, 4, 5]
    assert len(list(world.store.glob("shards/*/*"))) == shards - 2
    assert all(verifies(world, number) for number in (3, 4, 5))
    with pytest.raises(NotThereError, match="generation 2 is not in the store"):
        world.open(2)
    assert list((world.store / "staging").iterdir()) == []
    assert swept(world).sizes == {"generations": (0, 0)}


def test_a_dry_run_says_the_same_and_removes_nothing(world: Any) -> None:
    for _ in range(4):
        change(world)
    before = everything(world.store)
    told = swept(world, dry_run=True)
    assert everything(world.store) - before <= {"pins/lock"}
    assert before <= everything(world.store)
    done = swept(world)
    assert (told.kept, told.sizes, told.folders) == (done.kept, done.sizes, done.folders)
    gone = before - everything(world.store)
    assert gone
    assert sum(count for count, _ in done.sizes.values()) == 2 * 4  # a generation, a shard, a staged array, a partial


def test_a_pinned_generation_stays_as_long_as_its_runs_folder(world: Any) -> None:
    world.open().pin(owner_of(world))
    for _ in range(4):
        change(world)
    assert swept(world, keep=1).kept == {1: ["run"], 5: []}
    assert verifies(world, 1)
    shutil.rmtree(owner_of(world))
    found = swept(world, keep=1)
    assert generations(world.store) == [5]
    assert [look.pin.run for look in found.pins] == ["run"]
    assert read_pins(world.store) == []


def test_a_data_folder_that_was_moved_as_a_whole_keeps_its_pins(world: Any) -> None:
    world.open().pin(owner_of(world))
    for _ in range(4):
        change(world)
    (world.folder / "data").rename(world.folder / "elsewhere")
    moved = world.folder / "elsewhere" / "shards" / "world"
    assert clean(world.settings.preparing(), moved, 1, dry_run=False, runs=Runs()).kept == {1: ["run"], 5: []}


def test_a_pin_names_generation_and_owner_and_wants_the_generation_there(world: Any) -> None:
    owner = owner_of(world)
    write_pin(world.store, 1, owner)
    [path] = pin_files(world.store)
    assert unseal(path.read_bytes(), str(path)) == {
        "generation": 1,
        "run": "run",
        "runs": runs_id(owner.parent),
        "place": "../../runs",
        "seen": str(owner.parent),
    }
    world.open().pin(owner)  # again is the same
    assert pin_files(world.store) == [path]
    with pytest.raises(NotThereError, match="generation 7 is not in the store"):
        write_pin(world.store, 7, owner_of(world, "late"))
    assert pin_files(world.store) == [path]


def test_a_damaged_pin_stops_the_cleaning_and_is_named(world: Any) -> None:
    world.open().pin(owner_of(world))
    for _ in range(4):
        change(world)
    [path], before = pin_files(world.store), everything(world.store)
    good = path.read_bytes()
    path.write_bytes(good.replace(b":1,", b":4,"))
    with pytest.raises(DamagedError, match=r"pins/run@\w+.json.*dateshard train --resume run \(it writes"):
        swept(world)
    path.write_bytes(seal({"generation": 1}))
    with pytest.raises(DamagedError, match="its content is not that of such a file"):
        swept(world)
    assert everything(world.store) == before
    path.write_bytes(good)
    swept(world)


def test_a_pin_that_goes_while_it_is_looked_for_is_no_damage(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world.open().pin(owner_of(world))
    [file] = pin_files(world.store)
    for module in ("pinning.pins", "dataset"):
        monkeypatch.setattr(f"dateshard.shardstore.{module}.pin_files", lambda _: [file.with_name("gone.json"), file])
    assert verifies(world, 1)
    assert [pin.run for pin in read_pins(world.store)] == ["run"]


def test_a_damaged_manifest_that_must_stay_stops_the_cleaning_until_it_is_given_up(world: Any) -> None:
    for _ in range(4):
        change(world)
    path = world.store / "manifests" / "g00000004.json"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DamagedError, match="Nothing was removed") as caught:
        swept(world)
    assert generations(world.store) == [1, 2, 3, 4, 5]
    words = caught.value.todo.rpartition("mv ")[2].split()
    Path(words[0]).rename(Path(words[1]) / path.name)
    swept(world)
    assert generations(world.store) == [2, 3, 5]


def test_measured_arrays_that_the_next_run_would_take_stay(world: Any) -> None:
    """A date measured by a run that was killed before its commit: no generation names it."""
    date = dt.date(2024, 3, 5)
    (shard,) = (world.store / "shards" / str(date)).iterdir()
    for _ in range(3):
        change(world)
    world.rows[date] = world.rows[date][:-3]
    world.write(date)
    (staged_before,) = (world.store / "staged" / str(date)).iterdir()
    assert world.prepare().generation == 5
    (world.store / "manifests" / "g00000005.json").unlink()
    (world.store / "CURRENT").write_bytes(seal({"generation": 4, "manifest": "g00000004.json"}))
    found = swept(world)
    assert list(found.kept) == [2, 3, 4]
    assert [folder for folder in found.folders if folder.parts[-3] == "shards" and folder.parts[-2] == str(date)]
    assert len(list((world.store / "staged" / str(date)).iterdir())) == 2
    assert staged_before.exists()
    assert shard.exists()
    assert world.prepare().measured == 0
    assert verifies(world, world.open().generation)


def test_mended_copies_stay_while_a_kept_generation_names_the_damaged_one_and_then_it_is_put_aside(world: Any) -> None:
    (shard,) = (world.store / "shards" / str(FIRST)).iterdir()
    values = shard / "values" / "0.0.0"
    values.chmod(0o644)
    values.write_bytes(b"\0" * values.stat().st_size)
    assert world.prepare(dates=frozenset([FIRST]), force=True).generation == 2
    copy = shard.with_name(f"{shard.name}-2")
    assert swept(world).folders == []
    assert shard.exists()
    assert copy.exists()
    found = swept(world, keep=1)
    assert found.damaged == [shard]
    assert not shard.exists()
    assert [path.name.startswith(f"{FIRST}-{shard.name}-") for path in (world.store / "quarantine").iterdir()] == [True]
    assert verifies(world, 2)


def test_mended_copies_that_no_manifest_names_stay_with_what_they_mend(world: Any) -> None:
    """Manifests name statistics by content: their mended copy is found by its name alone."""
    (folder,) = (world.store / "statistics").iterdir()
    moments = folder / "moments.f64"
    moments.chmod(0o644)
    moments.write_bytes(b"\0" * moments.stat().st_size)
    world.prepare(refit=True)
    assert folder.with_name(f"{folder.name}-2").exists()
    swept(world, keep=1)
    assert verifies(world, world.open().generation)


def test_a_damaged_sources_file_keeps_all_measured_arrays(world: Any) -> None:
    for _ in range(4):
        change(world)
    path = world.store / "manifests" / "g00000005.sources.json"
    path.chmod(0o644)
    path.write_bytes(b"{}")
    staged = len(list(world.store.glob("staged/*/*")))
    found = swept(world)
    assert any("g00000005.sources.json" in note for note in found.notes)
    assert len(list(world.store.glob("staged/*/*"))) == staged
    assert generations(world.store) == [3, 4, 5]


def test_cleaning_waits_for_nobody_who_writes(world: Any) -> None:
    with StoreWriter(world.store), pytest.raises(BusyError, match=f"process {os.getpid()} on "):
        swept(world)


def test_a_reader_that_is_about_to_pin_is_either_seen_or_told(world: Any) -> None:
    """Cleaning waits for a pin that is being written; a pin that comes after it finds its generation gone."""
    for _ in range(4):
        change(world)
    dataset = world.open(1)
    cleaned: list[Garbage] = []
    with pins_lock(world.store, fcntl.LOCK_SH):  # where a reader stands between its pin and its look at the manifest
        thread = threading.Thread(target=lambda: cleaned.append(swept(world, keep=1)))
        thread.start()
        time.sleep(0.3)
        assert generations(world.store) == [1, 2, 3, 4, 5]
        (world.store / "pins" / "run.json").write_bytes(seal({"generation": 1, "owner": "../../runs/run"}))
        owner_of(world)
    thread.join()
    assert cleaned[0].kept == {1: ["run"], 5: []}
    (world.store / "pins" / "run.json").unlink()
    swept(world, keep=1)
    with pytest.raises(NotThereError, match="generation 1 is not in the store"):
        dataset.pin(owner_of(world))


def test_a_reader_without_a_pin_is_told_that_its_generation_was_cleaned_away(world: Any) -> None:
    dataset = world.open()
    for _ in range(3):
        change(world)
    swept(world, keep=1)
    out = np.empty((24, 3, 2), np.float32)
    with pytest.raises(NotThereError, match=r"generation 1 was cleaned away while it was read\. Run the command again"):
        dataset.read(FIRST, slice(None), out)
