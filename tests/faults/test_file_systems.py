"""A file system that gives no lock: said in one sentence, nobody is called busy, and nothing is left behind."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from tests.faults.flips import CONFIG, Lab, one_sentence

WITHOUT_LOCKS = "int flock(int fd, int operation) { return __errno_location()[0] = 37, -1; }"
COMMANDS = {
    "a new run": ["train", *CONFIG, "--run", "nf", "-q"],
    "a new run elsewhere": ["train", *CONFIG, "--run", "nf", "--save-dir", "elsewhere", "-q"],
    "resume": ["train", "--resume", "cut", "-q"],
    "preprocess": ["preprocess", *CONFIG, "--force", "-q"],
    "a first preprocess": ["preprocess", *CONFIG, "dataset=second", "-q"],
    "clean": ["clean", *CONFIG],
    "checkpoints clean": ["checkpoints", "clean", "cut", "--keep-count", "1"],
    "checkpoints pin": ["checkpoints", "pin", "cut", "latest"],
}


def tree() -> set[str]:
    return {str(path) for path in Path().rglob("*") if path.name != ".lock"}


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO])
def test_no_lock_from_the_file_system_is_told_as_that_and_leaves_nothing_behind(
    fresh: Lab, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    before = tree()
    monkeypatch.setattr(fcntl, "flock", refuse)
    for name, words in COMMANDS.items():
        exit_code, text = fresh.say(*words)
        assert (exit_code, one_sentence(text)) == (1, True), (name, exit_code, text)
        assert "another process" not in text, name
        assert os.strerror(code) in text, name
        assert "lock" in text.partition(" (")[0], name
        assert "DATESHARD_DATA" in text, name
        assert tree() == before, name
    exit_code, text = fresh.say("runs")
    assert exit_code == 0
    assert "running" not in text
