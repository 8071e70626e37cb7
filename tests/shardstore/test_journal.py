"""commits.jsonl: every flipped bit is noticed in the line it is in; lines of older versions are taken as they are."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dateshard.shardstore.commit import StoreWriter
from dateshard.shardstore.journal import NAME, append, take_out_damaged, verify_journal

OLD = b'{"generation": 1, "at": "2026-11-20T10:00:00Z", "pid": 7, "dates": 3, "statistics": "ef44", "failed": 0}\n'


def row(number: int) -> dict[str, Any]:
    return {"generation": number, "at": "2026-11-29T02:00:00Z", "pid": 7, "dates": 3, "statistics": "e", "failed": 0}


def damaged(root: Path) -> list[str]:
    return [name for name, error in verify_journal(root) if error is not None]


def test_every_bit_of_every_line_counts(tmp_path: Path) -> None:
    """All of them: numbers, keys, quotes, the hash, white space and the ends of lines."""
    path = tmp_path / NAME
    for number in (1, 2):
        append(tmp_path, row(number))
    whole = path.read_bytes()
    assert damaged(tmp_path) == []
    ends = whole.index(b"\n")
    for bit in range(len(whole) * 8):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        told = damaged(tmp_path)
        assert told, f"bit {bit}: {bytes(data)!r}"
        assert f"{NAME}, line {1 if bit // 8 <= ends else 2}" in told or data.count(b"\n") > 2


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d[:-9], lambda d: d + b"\n", lambda d: d.upper()])
def test_a_line_that_is_cut_off_or_no_json_is_named(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    append(tmp_path, row(1))
    (tmp_path / NAME).write_bytes(change((tmp_path / NAME).read_bytes()))
    assert len(damaged(tmp_path)) == 1


def test_lines_of_older_versions_stay_and_are_no_damage(tmp_path: Path) -> None:
    assert damaged(tmp_path) == []
    (tmp_path / NAME).write_bytes(OLD)
    append(tmp_path, row(2))
    assert damaged(tmp_path) == []
    assert take_out_damaged(tmp_path) == ""
    (tmp_path / NAME).write_bytes(OLD.replace(b'"dates"', b'"datet"'))
    assert damaged(tmp_path) == [f"{NAME}, line 1"]


def test_only_damaged_lines_are_taken_out_and_the_file_as_it_was_is_kept(tmp_path: Path) -> None:
    (tmp_path / "quarantine").mkdir()
    for number in (1, 2, 3):
        append(tmp_path, row(number))
    path = tmp_path / NAME
    lines = path.read_bytes().splitlines(keepends=True)
    was = lines[0] + lines[1].replace(b"2", b"4", 1) + lines[2][:-3]
    path.write_bytes(was)
    note = take_out_damaged(tmp_path)
    assert "2 damaged lines taken out" in note
    assert path.read_bytes() == lines[0]
    (kept,) = (tmp_path / "quarantine").iterdir()
    assert str(kept) in note
    assert kept.read_bytes() == was


def test_commits_write_lines_that_verify_and_verify_names_a_damaged_one(make_world: Any) -> None:
    world = make_world(2, split={"train": "2024-03-01", "validation": "2024-03-02"})
    world.prepare()
    with StoreWriter(world.store) as writer:
        first, _ = writer.current()
        assert first is not None
        writer.commit(replace(first.manifest, failed=(dt.date(2024, 5, 5),)), first.sources, first)
    path = world.store / NAME
    assert [json.loads(line)["generation"] for line in path.read_text().splitlines()] == [1, 2]
    dataset = world.open()
    assert [error for _, error in dataset.verify(full=True) if error] == []
    path.write_bytes(path.read_bytes().replace(b'"pid": ', b'"pid": 1', 1))
    (error,) = (error for _, error in dataset.verify(full=True) if error)
    assert "commits.jsonl, row 1" in str(error)
    with StoreWriter(world.store) as writer:
        _, notes = writer.current()
    assert "1 damaged line taken out" in notes[0]
    assert [error for _, error in dataset.verify(full=True) if error] == []
