"""A named pipe, a device, a socket or a folder where a file should be: one sentence, and nothing waits for it."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dateshard.shardstore.errors import DumpError, refuse_special
from dateshard.trainer.checkpoint import inspect
from dateshard.trainer.checkpoint.pth import read
from tests.kit.limits import PATIENCE_SECONDS

Make = Callable[..., Any]
SPLIT = {"train": "2024-03-01..2024-03-02", "validation": "2024-03-03"}


@pytest.fixture(autouse=True)
def _ends_what_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)

    def end(*_: object) -> None:
        pytest.fail("it waits")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(int(PATIENCE_SECONDS))
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def closed_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))  # 107 characters at most


KINDS: dict[str, tuple[Callable[[Path], None], str]] = {
    "pipe": (pipe, "it is a named pipe, not a file"),
    "device": (device, "it is a device, not a file"),
    "socket": (closed_socket, "it is a socket, not a file"),
}
ALL = {**KINDS, "folder": (Path.mkdir, "Is a directory")}


@pytest.mark.parametrize(("make", "said"), KINDS.values(), ids=KINDS)
def test_only_the_date_fails_whose_dump_is_no_file(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, make: Any, said: str
) -> None:
    world = make_world(3, split=SPLIT)
    date = sorted(world.rows)[1]
    world.dump(date).unlink()
    monkeypatch.chdir(world.folder)
    make(world.dump(date))
    finished = world.prepare()
    assert [str(failed) for failed in finished.failed] == [str(date)]
    (told,) = (str(error) for error in finished.failed.values())
    assert f"raw/{date}.csv" in told
    assert f"cannot be read: {said}" in told


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "csv.zst", "csv.xz", "jsonl", "parquet", "arrow"])
def test_no_format_waits_for_a_pipe(suffix: str, tmp_path: Path) -> None:
    from dateshard.pipeline.raw.formats import Request, reader_of

    path = tmp_path / f"dump.{suffix}"
    pipe(path)
    with pytest.raises(DumpError, match="cannot be read: it is a named pipe, not a file"):
        list(reader_of(path, "auto")(path, Request(columns={"t": "text"})))


@pytest.mark.parametrize(("make", "said"), ALL.values(), ids=ALL)
def test_a_configuration_a_table_and_a_list_of_dates_are_named(
    make_world: Make, ds: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, make: Any, said: str
) -> None:
    world = make_world(3, split=SPLIT)
    config = str(world.config_file())
    monkeypatch.chdir(world.folder)
    make(Path("odd"))
    for words in (["config", "check", "-c", "odd"], ["plan", "@odd", "-c", config]):
        assert said in ds(*words, code=2).err
    table = "pipeline.nodes={table: odd, id: n}"
    error = ds("plan", "-c", config, table, code=2).err
    assert f"odd: the node table cannot be read: {said}" in error


@pytest.mark.parametrize(("make", "said"), ALL.values(), ids=ALL)
def test_a_checkpoint_and_a_file_of_weights_are_named(tmp_path: Path, make: Any, said: str) -> None:
    folder = tmp_path / "checkpoint_epoch_1_batch_1"
    folder.mkdir()
    make(folder / "manifest.json")
    make(tmp_path / "weights.pth")
    for look in (lambda: inspect(folder), lambda: read(tmp_path / "weights.pth")):
        with pytest.raises(Exception, match=said):
            look()


def test_a_shell_s_own_pipe_is_read(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    refuse_special(f"/dev/fd/{reading}")
    os.close(writing)
    os.close(reading)
    with pytest.raises(FileNotFoundError):
        refuse_special(tmp_path / "nothing")
