"""Standard streams that are closed, as a daemon's are, or whose reader went away: nothing is written where it must not."""

from __future__ import annotations

import itertools
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import command, environment

Make = Callable[..., Any]
CLOSINGS = ["".join(part) for size in range(4) for part in itertools.combinations(("<&- ", ">&- ", "2>&- "), size)]
LOOK = """
import os, pathlib, sys
from dateshard.__main__ import open_streams
open_streams()
new = os.open("new", os.O_CREAT | os.O_WRONLY)
print("out"); print("err", file=sys.stderr); sys.stdout.flush(); sys.stderr.flush()
ready = all(map(os.get_inheritable, range(3)))
pathlib.Path("seen").write_text(repr((new > 2, os.fstat(new).st_size, ready, sys.stdin.read())))
"""


def shell(closing: str, *words: str, after: str = "") -> subprocess.CompletedProcess[str]:
    script = f'"$@" {closing}{after}'
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", script, "bash", *words],
        text=True,
        capture_output=True,
        env=environment(),
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("closing", CLOSINGS, ids=lambda closing: closing or "none")
def test_no_file_gets_the_number_of_a_stream_that_is_closed(closing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    done = shell(closing, sys.executable, "-c", LOOK)
    assert done.returncode == 0, done.stderr
    assert Path("seen").read_text() == repr((True, 0, True, ""))
    assert done.stdout == ("" if ">&- " in closing.replace("2>&- ", "") else "out\n")
    assert done.stderr == ("" if "2>&- " in closing else "err\n")


@pytest.fixture
def world(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> Any:
    made = make_world(3, split={"train": "2024-03-01..2024-03-02", "validation": "2024-03-03"})
    made.config_file()
    monkeypatch.chdir(made.folder)
    return made


def test_commands_do_their_work_with_all_streams_closed(world: Any) -> None:
    """Workers too: nothing meant for people lies in a shard, and the exit codes are the same."""
    config = ["-c", "config.yaml"]
    done = shell("<&- >&- 2>&-", *command("preprocess", *config, "--workers", "2"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    verified = json.loads(world.run("verify", *config, "--full", "--json").stdout)
    assert verified["damaged"] == []
    done = shell(">&-", *command("status", *config))
    assert (done.returncode, done.stderr) == (0, "")
    done = shell("2>&-", *command("status", "-c", "nowhere.yaml"))
    assert (done.returncode, done.stdout) == (2, "")


def test_a_reader_that_went_away_ends_a_command_quietly(world: Any) -> None:
    done = shell("", *command("config", "show", "-c", "config.yaml"), after="| true")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_work_goes_on_where_the_reader_of_its_text_went_away(world: Any) -> None:
    gone = "import sys; sys.stdin.readline()"  # reads a line, and closes the pipe
    for words in (("preprocess",), ("train", "--run", "r")):
        # The status is the command's own, written to a file; the shell gives that of the reader.
        line = f"({shlex.join(command(*words, '-c', 'config.yaml'))}; echo $? > code) | {sys.executable} -c '{gone}'"
        done = subprocess.run(["sh", "-c", line], cwd=world.folder, capture_output=True, text=True, env=environment())
        assert ((world.folder / "code").read_text(), done.stderr) == ("0\n", "")
    (run,) = json.loads(world.run("runs", "--json").stdout)
    assert run["state"].startswith("ended")
