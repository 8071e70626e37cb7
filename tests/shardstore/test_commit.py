"""One writer at a time, generations that never change, pins, and folders that are published once."""

from __future__ import annotations

import datetime as dt
import gc
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dateshard.shardstore.commit import StoreWriter, copies_of, publish, staging_folder
from dateshard.shardstore.disk.durable import check_free_space, replace_file, write_file
from dateshard.shardstore.errors import BusyError, DamagedError, DiskFullError
from dateshard.shardstore.identity import canonical, hash_bytes, hash_file, nothing_to_collect, seal, unseal
from dateshard.shardstore.manifest import Manifest, generations


@pytest.fixture
def world(make_world: Callable[..., Any]) -> Any:
    made = make_world(3)
    made.prepare()
    return made


def test_a_second_writer_is_told_who_holds_the_lock(world: Any) -> None:
    with StoreWriter(world.store):
        with pytest.raises(BusyError, match=f"process {os.getpid()} on ") as caught:
            world.prepare()
        assert "writer.lock" in str(caught.value)
        refused = world.run("preprocess", "-c", str(world.config_file()), code=75)
        assert refused.stderr.count("\n") == 1
        assert f"(process {os.getpid()} on " in refused.stderr
        assert world.run("plan", "-c", str(world.config_file())).stderr == ""  # looking needs no lock
    assert world.prepare().generation == 1  # free again, and the refused one left nothing behind


def test_equal_content_makes_no_new_generation(world: Any) -> None:
    with StoreWriter(world.store) as writer:
        current, notes = writer.current()
        assert current is not None
        assert notes == []
        again = writer.commit(current.manifest, current.sources, current)
        assert again.generation == current.generation == 1
        other = writer.commit(current.manifest, replace(current.sources, basis="other"), current)
        assert other.generation == 2
    assert generations(world.store) == [1, 2]
    assert [json.loads(line)["generation"] for line in (world.store / "commits.jsonl").read_text().splitlines()] == [
        1,
        2,
    ]


@pytest.mark.parametrize("damaged", ["CURRENT", "manifests/g00000002.sources.json"])
def test_equal_content_is_committed_again_where_what_names_it_is_damaged(world: Any, damaged: str) -> None:
    with StoreWriter(world.store) as writer:
        first, _ = writer.current()
        assert first is not None
        second = writer.commit(replace(first.manifest, failed=(dt.date(2024, 5, 5),)), first.sources, first)
    path = world.store / damaged
    path.chmod(0o644)
    path.write_bytes(b"{}")
    with StoreWriter(world.store) as writer:
        current, notes = writer.current()
        assert current == second  # the older sources happen to be the same
        assert len(notes) == 1
        assert writer.commit(second.manifest, second.sources, current).generation == 3
        again, notes = writer.current()
        assert again is not None
        assert notes == []
        assert writer.commit(second.manifest, second.sources, again).generation == 3


def test_a_manifest_comes_back_from_its_json_as_it_was(world: Any) -> None:
    manifest = world.open().manifest
    content = json.loads(canonical(manifest.to_json()))
    assert Manifest.from_json(content, "somewhere") == manifest
    assert canonical(Manifest.from_json(content, "somewhere").to_json()) == canonical(manifest.to_json())


def test_a_manifest_holds_no_clock_host_path_or_number_of_its_own(world: Any) -> None:
    text = (world.store / "manifests" / "g00000001.json").read_text()
    for word in (str(world.folder), os.uname().nodename, "generation", str(os.getpid()) + '"', ".csv"):
        assert word not in text


def test_published_files_are_read_only_and_staging_is_left_empty(world: Any) -> None:
    for kind in ("shards", "staged", "partials", "statistics", "nodes", "manifests"):
        files = [path for path in (world.store / kind).rglob("*") if path.is_file()]
        assert files
        assert {path.stat().st_mode & 0o222 for path in files} == {0}
    assert list((world.store / "staging").iterdir()) == []


def test_what_a_killed_writer_left_in_staging_is_swept_by_the_next(world: Any) -> None:
    (world.store / "staging" / "left").mkdir()
    (world.store / "staging" / "left" / "values").write_bytes(b"half")
    world.prepare()
    assert list((world.store / "staging").iterdir()) == []


def publish_bytes(root: Path, data: bytes, *, claim: bytes | None = None) -> Path:
    claimed = data if claim is None else claim
    with staging_folder(root) as folder:
        folder.mkdir(parents=True)
        (folder / "values").write_bytes(data)
        hashes = {"values": (len(claimed), hash_bytes(claimed))}
        return publish(root, folder, root / "shards" / "id", hashes)


def test_a_folder_is_published_once_and_a_damaged_one_gets_a_copy_beside_it(tmp_path: Path) -> None:
    first = publish_bytes(tmp_path, b"content")
    stamp = (first / "values").stat().st_mtime_ns
    assert publish_bytes(tmp_path, b"content") == first
    assert (first / "values").stat().st_mtime_ns == stamp
    (first / "values").chmod(0o644)
    (first / "values").write_bytes(b"c0ntent")
    assert publish_bytes(tmp_path, b"content").name == "id-2"
    (tmp_path / "shards" / "id-2" / "values").unlink()
    assert publish_bytes(tmp_path, b"content").name == "id-3"
    assert publish_bytes(tmp_path, b"content").name == "id-3"
    assert (first / "values").read_bytes() == b"c0ntent"  # kept for whoever looks into it


def test_of_two_who_publish_the_same_at_once_both_return_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Path.rename

    def second(folder: Path, to: Path) -> Path:
        monkeypatch.undo()
        publish_bytes(tmp_path, b"content")  # another process, right before
        return honest(folder, to)

    monkeypatch.setattr(Path, "rename", second)
    assert publish_bytes(tmp_path, b"content").name == "id"
    assert [path.name for path in (tmp_path / "shards").iterdir()] == ["id"]


def test_what_does_not_read_back_as_written_is_never_published(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="just written, but it reads back differently"):
        publish_bytes(tmp_path, b"content", claim=b"c0ntent")
    assert not (tmp_path / "shards").exists()
    assert list((tmp_path / "staging").iterdir()) == []


@pytest.mark.parametrize("position", range(0, 90, 7))
def test_sealed_json_refuses_a_flipped_bit_anywhere(position: int) -> None:
    data = seal({"b": [1, 2.5, None], "a": "é", "nested": {"z": True}})
    assert unseal(data, "file") == {"a": "é", "b": [1, 2.5, None], "nested": {"z": True}}
    for bit in range(8):
        changed = bytearray(data)
        changed[position] ^= 1 << bit
        with pytest.raises(DamagedError, match=r"file: .* its own hash"):
            unseal(bytes(changed), "file")
    for cut in (b"", data[:-1], data + b" ", b"[" * 100_000):
        with pytest.raises(DamagedError):
            unseal(cut, "file")


def test_a_file_is_replaced_whole_and_a_new_one_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "CURRENT"
    for data in (b"one", b"two"):
        replace_file(path, data)
        assert path.read_bytes() == data
    with pytest.raises(FileExistsError):
        write_file(path, b"three")
    assert [entry.name for entry in tmp_path.iterdir()] == ["CURRENT"]
    assert hash_file(path) == (3, hash_bytes(b"two"))


def test_too_little_room_is_told_before_anything_is_written(tmp_path: Path) -> None:
    check_free_space(tmp_path, 1)
    with pytest.raises(DiskFullError, match="MB free, about"):
        check_free_space(tmp_path, 1 << 60)


def test_copies_are_those_of_the_same_id_the_newest_first(tmp_path: Path) -> None:
    for name in ("5e2b", "5e2b-2", "5e2b-9", "5e2b-10", "5e2bff", "5e2bff-2", "tmp-5e2b"):
        (tmp_path / name).mkdir()
    names = ["5e2b", "5e2b-10", "5e2b-9", "5e2b-2"]
    assert [folder.name for folder in copies_of(tmp_path / "5e2b")] == names[1:]
    assert [folder.name for folder in copies_of(tmp_path / "5e2b-9")] == ["5e2b-10", "5e2b-2", "5e2b"]
    assert copies_of(tmp_path / "nowhere" / "5e2b") == []


def test_what_was_read_is_old_for_the_collector_and_what_a_program_froze_stays_so() -> None:
    with nothing_to_collect():
        made = [[index] for index in range(50)]
    assert gc.isenabled()
    assert {*map(id, made)} <= {*map(id, gc.get_objects(generation=2))}
    gc.freeze()
    try:
        with nothing_to_collect():
            pass
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
