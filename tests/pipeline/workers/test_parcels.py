"""Tasks on their way to other machines: large arguments lie in a file, once."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from dateshard.pipeline.workers.dask_worker import run_durably
from dateshard.pipeline.workers.parcels import LARGE_BYTES, Packer, unpacked
from dateshard.shardstore.errors import DamagedError
from tests.kit.chores import double


def test_a_large_argument_is_written_once_and_comes_out_as_it_was(tmp_path: Path) -> None:
    packer, names = Packer(tmp_path), tuple(f"node {number}" for number in range(10_000))
    values = np.arange(20_000.0)
    tasks = [packer.packed(double, (date, names, values)) for date in range(50)]
    assert max(map(len, tasks)) < 1_000
    assert len(list(tmp_path.iterdir())) == 2
    for date, task in enumerate(tasks):
        function, arguments = pickle.loads(task)
        own, found, array = unpacked(arguments)
        assert (function, own, found) == (double, date, names)
        assert np.array_equal(array, values)


def test_what_a_task_published_is_flushed_by_the_machine_that_wrote_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store").mkdir()
    flushed, fsync = set[str](), os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda number: (flushed.add(os.readlink(f"/proc/self/fd/{number}")), fsync(number))
    )
    assert run_durably(str(tmp_path), publish, (Path("store"),)) == Path("store/staged/new")
    names = ("staged/new/values", "staged/new", "staged", "")
    assert flushed == {str((tmp_path / "store" / name).resolve()) for name in names}


def publish(root: Path) -> Path:
    """A task that publishes a folder."""
    folder = root / "staged" / "new"
    folder.mkdir(parents=True)
    (folder / "values").write_bytes(b"1")
    return folder


def test_small_arguments_need_no_file_and_another_large_one_has_its_own(tmp_path: Path) -> None:
    packer = Packer(tmp_path / "missing")
    assert unpacked(pickle.loads(packer.packed(double, (1, "x")))[1]) == (1, "x")
    packer = Packer(tmp_path)
    for letter in "ab":
        assert unpacked(pickle.loads(packer.packed(double, (letter * LARGE_BYTES,)))[1]) == (letter * LARGE_BYTES,)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_that_somebody_else_changed_is_never_loaded(tmp_path: Path) -> None:
    task = Packer(tmp_path).packed(double, ("x" * LARGE_BYTES,))
    (file,) = tmp_path.iterdir()
    file.write_bytes(pickle.dumps("y" * LARGE_BYTES))
    with pytest.raises(DamagedError, match="it changed since this preprocess wrote it"):
        unpacked(pickle.loads(task)[1])
