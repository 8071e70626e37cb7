"""A runs folder has one id, whoever makes it first; it goes where the folder goes, and never into another at its path."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest

from dateshard.shardstore.errors import DamagedError, DiskFullError
from dateshard.shardstore.pinning.runs_id import NAME, make_runs_id, runs_id


def test_processes_that_make_the_id_at_once_get_the_same_one(tmp_path: Path) -> None:
    workers = multiprocessing.get_context("fork").Pool(8)
    with workers:
        for number in range(20):
            folder = tmp_path / str(number)
            folder.mkdir()
            assert len(set(workers.map(make_runs_id, [folder] * 8, chunksize=1))) == 1
            assert [path.name for path in folder.iterdir()] == [NAME]


def test_whoever_comes_second_keeps_the_first_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overtaken(*names: Path) -> None:
        monkeypatch.setattr("os.link", honest)
        first.append(make_runs_id(tmp_path))
        honest(*names)

    first: list[str | None] = []
    honest = os.link
    monkeypatch.setattr("os.link", overtaken)
    assert [make_runs_id(tmp_path)] == first
    assert first[0]
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_an_id_goes_with_its_folder_and_with_all_that_a_glob_names(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    known = make_runs_id(folder)
    assert known == make_runs_id(folder) == runs_id(folder)
    (tmp_path / "mine").mkdir()
    for path in folder.glob("*"):
        shutil.move(path, tmp_path / "mine")
    assert (runs_id(folder), runs_id(tmp_path / "mine")) == (None, known)
    assert make_runs_id(folder) != known
    assert runs_id(tmp_path / "never") is None


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_folder_in_which_no_file_can_be_made_has_no_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refused(*given: object) -> None:
        raise OSError(code, os.strerror(code), str(tmp_path / NAME))

    monkeypatch.setattr("os.link", refused)
    assert make_runs_id(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_and_a_damaged_id_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(DiskFullError, match=f"{tmp_path}/{NAME}"):
            make_runs_id(tmp_path)
    assert list(tmp_path.iterdir()) == []
    known = make_runs_id(tmp_path)
    path = tmp_path / NAME
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    for act in (runs_id, make_runs_id):
        with pytest.raises(DamagedError, match=f"{path}.*Delete it: the next training writes another"):
            act(tmp_path)
    path.unlink()
    assert make_runs_id(tmp_path) not in (None, known)


def test_an_id_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "read_bytes", broken)
    for act in (runs_id, make_runs_id):
        with pytest.raises(OSError, match=f"{tmp_path}/{NAME}"):
            act(tmp_path)
