"""File systems that give no lock, have no room or may not be written: one sentence, and nothing is left behind."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dateshard.shardstore.disk.durable import appearing
from dateshard.shardstore.errors import DiskFullError, of_system
from tests.kit.flips import CONFIG, RUNS, STORE, Lab, one_sentence

LOCKING = {
    "a new run": ["train", *CONFIG, "--run", "nf", "-q"],
    "a new run elsewhere": ["train", *CONFIG, "--run", "nf", "--save-dir", "elsewhere", "-q"],
    "resume": ["train", "--resume", "cut", "-q"],
    "preprocess": ["preprocess", *CONFIG, "--force", "-q"],
    "a first preprocess": ["preprocess", *CONFIG, "dataset=second", "-q"],
    "clean": ["clean", *CONFIG],
    "checkpoints clean": ["checkpoints", "clean", "cut", "--keep-count", "1"],
    "checkpoints pin": ["checkpoints", "pin", "cut", "latest"],
}
OUT = Path("data/out")
FILES = {  # command: the file or folder that it names where it cannot be written
    ("predict", "cut", "--at", "latest", "--interval", "none", "-q", "--out", f"{OUT}/x.csv"): f"{OUT}/x.csv",
    ("predict", "cut", "--at", "latest", "--interval", "none", "-q", "--out", f"{OUT}/x.parquet"): f"{OUT}/x.parquet",
    ("export", *CONFIG, "--to", "csv", "--force", "--out", str(OUT)): f"{OUT}/2024-03-01.csv",
    ("export", *CONFIG, "--to", "parquet", "--force", "--out", str(OUT)): f"{OUT}/2024-03-01.parquet",
    ("export", *CONFIG, "--to", "npy", "--force", "--out", str(OUT)): f"{OUT}/axes.json",
    ("report", "cut", "-o", f"{OUT}/x.html"): f"{OUT}/x.html",
    ("report", "--data", *CONFIG, "-o", f"{OUT}/x.html"): f"{OUT}/x.html",
    ("checkpoints", "export", "cut", "latest", f"{OUT}/x.pth", "--force"): f"{OUT}/x.pth",
    ("checkpoints", "copy", "cut", "latest", str(OUT)): f"{OUT}/checkpoint_epoch_",
    ("init", str(OUT)): f"{OUT}/configs",
    ("train", *CONFIG, "--run", "nf", "-q"): f"{RUNS}/nf",
    ("preprocess", *CONFIG, "--force", "-q"): f"{STORE}/",
    ("drop", *CONFIG, "2024-03-06", "-y"): f"{STORE}/",
}
READING = (
    ["status", *CONFIG],
    ["verify", *CONFIG],
    ["inspect", *CONFIG],
    ["runs"],
    ["evaluate", "cut", "--baselines", "repeat"],
    ["predict", "cut", "--at", "latest", "-q"],
    ["checkpoints", "list", "cut"],
    ["checkpoints", "clean", "cut", "--keep-count", "1", "--dry-run"],
    ["clean", *CONFIG, "--dry-run"],
)


def tree() -> dict[str, bytes]:
    """All files but empty locks, which block nothing."""
    files = (path for path in Path().rglob("*") if path.is_file() and path.name not in (".lock", "writer.lock"))
    return {str(path): path.read_bytes() for path in files}


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO])
def test_no_lock_from_the_file_system_is_told_as_that_and_leaves_nothing_behind(
    fresh: Lab, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    before = tree()
    monkeypatch.setattr(fcntl, "flock", refuse)
    for name, words in LOCKING.items():
        exit_code, text = fresh.say(*words)
        assert (exit_code, one_sentence(text)) == (1, True), (name, exit_code, text)
        assert "another process" not in text, name
        assert os.strerror(code) in text, name
        assert "lock" in text.partition(" (")[0], name
        assert "DATESHARD_DATA" in text, name
        assert tree() == before, name
        assert not any(path.exists() for path in (RUNS / "nf", Path("elsewhere"), STORE.with_name("second"))), name
    exit_code, text = fresh.say("runs")
    assert exit_code == 0
    assert "running" not in text


@contextlib.contextmanager
def no_larger_file_than(num_bytes: int) -> Iterator[None]:
    """The next byte of a file is a full disk (EFBIG)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


NOTES = (  # what `predict` says of the lab's node that training never saw, before it writes
    "1 node has no value of speed, volume in the history: late. Their forecasts are made from filled cells, so low and high "
    "are empty.\n",
    "1 node unseen by training, forecast as an unknown node: late.\n",
)


def without_notes(text: str) -> str:
    """What a command says beside them."""
    for note in NOTES:
        text = text.replace(note, "", 1)
    return text


def occupied() -> dict[Path, bytes]:
    """Files of the user's where commands are told to write, forecasts where those are; their bytes."""
    OUT.mkdir()
    for name in ("x.html", "x.pth", "axes.json", "2024-03-01.csv", "2024-03-01.parquet"):
        (OUT / name).write_text("mine")
    forecast = pl.DataFrame({name: ["mine"] for name in ("feature", "horizon", "value", "low", "high")})
    forecast.write_csv(OUT / "x.csv")
    forecast.write_parquet(OUT / "x.parquet")
    return {path: path.read_bytes() for path in OUT.iterdir()}


def test_a_full_disk_is_told_with_the_file_and_leaves_what_was_there_and_nothing_else(fresh: Lab) -> None:
    occupied()
    for words, file in FILES.items():
        before = tree()
        with no_larger_file_than(100):
            code, said = fresh.say(*words)
        text = without_notes(said)
        assert (code, one_sentence(text)) == (28, True), (words, code, text)
        assert text.startswith(f"Error: {file}"), (words, text)
        assert "no space left on the disk (File too large). Free some space" in text, (words, text)
        assert tree() == before, words
        assert not (RUNS / "nf").exists()


@pytest.mark.parametrize("words", [words for words, file in FILES.items() if Path(file).suffix])
def test_a_file_whose_last_byte_finds_no_room_is_not_there(fresh: Lab, words: tuple[str, ...]) -> None:
    mine = occupied()
    assert fresh.say(*words)[0] == 0
    largest = max(sorted(OUT.iterdir()), key=lambda path: path.stat().st_size)
    limit = largest.stat().st_size - 1
    there = mine.get(largest, b"mine")
    largest.write_bytes(there)
    with no_larger_file_than(limit):
        code, said = fresh.say(*words)
    text = without_notes(said)
    assert (code, one_sentence(text)) == (28, True), text
    assert text.startswith(f"Error: {largest}: no space left")
    assert largest.read_bytes() == there
    assert [path for path in OUT.iterdir() if path.name.startswith(".")] == []


def test_an_evaluation_whose_page_cannot_be_written_prints_one_document(fresh: Lab) -> None:
    with no_larger_file_than(100):
        code, text = fresh.say("evaluate", "cut", "--report", "data/x.html", "--json")
    document, _, rest = text.partition("\nError: ")
    assert (code, json.loads(document)["error"]["exit_code"]) == (28, 28)
    assert rest.startswith("data/x.html: no space left")


def test_a_full_disk_of_an_example_leaves_whole_files_only_and_the_same_command_goes_on(fresh: Lab) -> None:
    words = ("init", "data/city", "--example", "traffic", "--dates", "10", "--sensors", "1")
    with no_larger_file_than(10_000):
        code, text = fresh.say(*words)
    assert code == 28
    raw = Path("data/city/data/raw/traffic")
    assert f"Error: {raw}/2024-03-01.csv: no space left" in text
    assert list(raw.iterdir()) == []
    assert fresh.say(*words)[0] == 0
    assert len(list(raw.glob("*.csv"))) == 11


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Within it the folder is on a file system that may only be read, and it is the working directory."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    with contextlib.chdir("/"):
        done = subprocess.run(["mount", "--bind", str(folder), str(folder)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
        try:
            subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
            with contextlib.chdir(folder):
                yield
        finally:
            subprocess.run(["umount", str(folder)], check=True)


def test_a_read_only_disk_is_told_with_the_file_and_the_next_step_and_can_be_read(fresh: Lab) -> None:
    occupied()
    before = tree()
    with read_only(fresh.folder):
        for words, file in FILES.items():
            code, said = fresh.say(*words)
            text = without_notes(said)
            assert (code, one_sentence(text)) == (1, True), (words, code, text)
            named = str(OUT) if words[:2] == ("checkpoints", "copy") else file  # of a folder to be made in it
            assert text.startswith(f"Error: {named}"), (words, text)
            assert "Read-only file system. Mount it for writing, or write elsewhere" in text, (words, text)
        for words in READING:
            code, text = fresh.say(*words)
            assert code in (0, 4), (words, text)
            assert "Error" not in text, (words, text)
    assert tree() == before


def test_a_new_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with appearing(path) as temporary:
        temporary.write_bytes(b"one")
        assert not path.exists()
    with pytest.raises(KeyError), appearing(path) as temporary:  # noqa: PT012
        temporary.write_bytes(b"two")
        raise KeyError("here")
    with pytest.raises(FileExistsError) as caught, appearing(path, over=False) as temporary:
        temporary.write_bytes(b"three")
    assert caught.value.filename == str(path)
    with pytest.raises(DiskFullError, match=f"{path}: no space left"), appearing(path) as temporary:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(temporary))
    assert [other.name for other in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"one"


def test_a_pipe_or_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with appearing(pipe) as there:
        there.write_bytes(b"one")
    assert os.read(reader, 10) == b"one"
    os.close(reader)
    assert pipe.is_fifo()


def test_what_the_system_refuses_names_the_file_and_the_next_step() -> None:
    refused = {
        code: str(of_system(OSError(code, os.strerror(code), "data/y")))
        for code in (errno.EACCES, errno.EDQUOT, errno.EIO)
    }
    assert refused[errno.EACCES].startswith("data/y: Permission denied. Change its permissions, or write elsewhere")
    assert refused[errno.EDQUOT].startswith("data/y: no space left on the disk (Disk quota exceeded). Free some space")
    assert refused[errno.EIO].startswith("data/y: Input/output error. Check the disk")
    assert str(of_system(OSError("without a number\nand more"))) == "without a number"
