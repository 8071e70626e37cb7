"""Writing durably: files past the page cache, where that is allowed, and their last bytes by the usual way."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dateshard.shardstore.disk.durable import BLOCK, DIRECT_BYTES, write_file
from dateshard.shardstore.storage.zarr_raw import write_all
from dateshard.trainer.data.batch import aligned

CACHESTAT = 451  # a call of Linux since 6.5


def dirty_pages(path: Path) -> int | None:
    """How many pages of a file nobody has begun to write to the disk; None where the kernel does not say (cachestat)."""
    counts, whole = (ctypes.c_uint64 * 5)(), (ctypes.c_uint64 * 2)(0, 0)
    with open(path, "rb") as file:
        refused = ctypes.CDLL(None).syscall(CACHESTAT, file.fileno(), whole, counts, 0)
    return None if refused else counts[1]


def filled(num_bytes: int, shift: int = 0) -> memoryview:
    """Aligned memory of known bytes, `shift` bytes into it."""
    area = aligned(8 * DIRECT_BYTES)
    area[:] = np.random.default_rng(num_bytes).integers(0, 256, len(area), dtype=np.uint8)
    return area[shift : shift + num_bytes].data


@pytest.mark.parametrize("shift", [0, 1], ids=["aligned", "not aligned"])
@pytest.mark.parametrize("more", [-BLOCK, -1, 0, 1, BLOCK - 1, BLOCK, 3 * DIRECT_BYTES + 7])
def test_a_file_holds_the_bytes_that_were_given(tmp_path: Path, more: int, shift: int) -> None:
    data = filled(DIRECT_BYTES + more, shift)
    write_file(tmp_path / "file", data)
    assert (tmp_path / "file").read_bytes() == bytes(data)


def test_much_goes_past_the_page_cache_and_the_rest_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, seen = os.write, list[tuple[bool, int]]()

    def noted(descriptor: int, data: Any) -> int:
        count = write(descriptor, data)
        seen.append((bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT), count))
        return count

    monkeypatch.setattr(os, "write", noted)
    write_file(tmp_path / "large", filled(2 * DIRECT_BYTES + 5))
    write_file(tmp_path / "small", filled(DIRECT_BYTES - 1))
    assert seen == [(True, 2 * DIRECT_BYTES), (False, 5), (False, DIRECT_BYTES - 1)]


@pytest.mark.parametrize("at", [0, 1], ids=["at once", "after a part"])
def test_where_it_is_not_allowed_the_usual_way_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    write, calls = os.write, list[int]()

    def refusing(descriptor: int, data: Any) -> int:
        calls.append(len(data))
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            if len(calls) > at:
                raise OSError(errno.EINVAL, "Invalid argument")
            return write(descriptor, data[: 16 * BLOCK])
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", refusing)
    data = filled(DIRECT_BYTES + 9)
    write_file(tmp_path / "file", data)
    assert (tmp_path / "file").read_bytes() == bytes(data)
    assert len(calls) == at + 2


def test_a_full_disk_is_told_and_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_file(tmp_path / "file", filled(DIRECT_BYTES))
    assert caught.value.filename == str(tmp_path / "file")


@pytest.mark.skipif(dirty_pages(Path(__file__)) is None, reason="the kernel does not tell of a file's pages")
def test_the_disk_begins_with_what_was_written_before_anybody_waits_for_it(tmp_path: Path) -> None:
    with open(tmp_path / "file", "xb", buffering=0) as file:
        write_all(file.fileno(), np.ones(8 << 20, dtype=np.uint8))
    assert dirty_pages(tmp_path / "file") == 0
