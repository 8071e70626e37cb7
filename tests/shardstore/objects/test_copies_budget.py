"""What copies may take: counted without looking at all of them, never too little, and made right where it matters."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dateshard.shardstore.objects import copies_budget
from dateshard.shardstore.objects.copies_budget import BUDGET, OBJECTS, TOTAL, copies, make_room, room_for

SIZE = 1000


def add(data: Path, number: int) -> Path:
    """A copy as a download makes it; older ones were used before it."""
    copy = data / OBJECTS / f"{number:032x}" / "bucket" / "key"
    with room_for(data, SIZE):
        copy.parent.mkdir(parents=True)
        copy.write_bytes(bytes(SIZE))
        os.utime(copy, ns=(number, number))
    return copy


def test_all_copies_are_looked_at_only_where_something_must_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks, walk = list[int](), copies_budget.copies
    monkeypatch.setattr(copies_budget, "copies", lambda data: (looks.append(1), walk(data))[1])
    monkeypatch.setenv(BUDGET, str(20 * SIZE / (1 << 30)))
    made = [add(tmp_path, number) for number in range(20)]
    assert len(looks) == 1  # there was no TOTAL
    assert all(copy.exists() for copy in made)
    made += [add(tmp_path, number) for number in range(20, 26)]
    assert len(looks) == 3  # room for two more each time, for a tenth of the budget is cleared
    kept = [copy for copy in made if copy.exists()]
    assert kept == made[-len(kept) :]  # those that were used last
    assert int((tmp_path / OBJECTS / TOTAL).read_text()) == SIZE * len(kept) <= 20 * SIZE


@pytest.mark.parametrize("text", ["", "12x", "999999999"])
def test_a_count_that_is_cut_or_too_high_is_made_right(tmp_path: Path, text: str) -> None:
    made = [add(tmp_path, number) for number in range(3)]
    (tmp_path / OBJECTS / TOTAL).write_text(text)  # too high: a download was killed once it was counted
    os.environ[BUDGET] = str(10 * SIZE / (1 << 30))
    try:
        made.append(add(tmp_path, 3))
    finally:
        del os.environ[BUDGET]
    assert all(copy.exists() for copy in made)
    assert int((tmp_path / OBJECTS / TOTAL).read_text()) == 4 * SIZE


def test_what_killed_downloads_left_goes_with_the_next_one(tmp_path: Path) -> None:
    side = tmp_path / "shards" / "world"
    left = [tmp_path / OBJECTS / "fetching" / "a", side / "fetching" / "b" / ".pushed", side / "fetching" / "b" / "x"]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    (side / "BUCKET").touch()
    add(tmp_path, 1)
    assert [path for path in left if path.exists()] == []
    assert list((side / "fetching").iterdir()) == []
    assert list((tmp_path / OBJECTS / "fetching").iterdir()) == []  # the folder stays: another download may begin in it


def test_a_folder_goes_as_a_whole_and_not_while_one_of_its_files_is_mapped(tmp_path: Path) -> None:
    side = tmp_path / "shards" / "world"
    folder = side / "shards" / "2024-03-01" / "ab12"
    (folder / "values").mkdir(parents=True)
    (folder / "values" / "0.0.0").write_bytes(bytes(SIZE))
    (folder / ".pushed").write_text(str(SIZE))
    (side / "BUCKET").touch()
    assert [size for _, _, size in copies(tmp_path)] == [SIZE]
    number = copies_budget.os.open(folder / "values" / "0.0.0", os.O_RDONLY)
    copies_budget.take_lock(number, copies_budget.fcntl.LOCK_SH, folder)
    os.environ[BUDGET] = "0"
    try:
        assert make_room(tmp_path, 0) == SIZE
        assert folder.exists()
        os.close(number)
        assert make_room(tmp_path, 0) == 0
    finally:
        del os.environ[BUDGET]
    assert not folder.exists()
