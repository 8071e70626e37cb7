"""Real processes that are killed at a moment which something on disk tells, and what they leave behind."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import environment
from tests.kit import states
from tests.kit.limits import PATIENCE_SECONDS
from tests.kit.zygote import Forked, forkable

# Runs a command and kills it (SIGKILL, from inside) right before a change of a name or file under data/: the first
# that matches a pattern, or the n-th after that. The same is the same point again: a failure can be replayed. If there
# is no such point it lives, and tells all points on stderr.
AT_POINT = """
import os, re, signal, sys
pattern, after, points, left = sys.argv[1], int(sys.argv[2]), [], None
CHANGES = {"os.mkdir", "os.rename", "os.link", "os.remove", "os.chmod", "shutil.rmtree"}
def look(event, arguments):
    global left
    if event != "open" and event not in CHANGES:
        return
    changes = event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if changes and str(arguments[0]).startswith("data/"):
        points.append(" ".join([event, *map(str, arguments[:2])]))
        left = left - 1 if left is not None else after if re.search(pattern, points[-1]) else None
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(look)
from dateshard.cli import run
code = run(sys.argv[3:])
print("POINTS", *points, sep="\\n", file=sys.stderr)
sys.exit(code)
"""

# Runs a command whose main thread waits, once, as long as a file `held<pid>` is there: after the n-th `step` of training or
# `date` of preparing, or when the n-th `validation` or `act` begins. Signals are noted meanwhile, other threads go on.
HELD = """
import os, sys, time
from contextlib import closing
place, wanted, seen = sys.argv[1], int(sys.argv[2]), 0
def arrive():
    global seen
    seen += 1
    if seen == wanted:
        mark = f"held{os.getpid()}"
        open(mark, "x").close()
        while os.path.exists(mark):
            time.sleep(0.001)
def before(honest):
    return lambda *arguments, **more: (arrive(), honest(*arguments, **more))[1]
def after(honest):
    return lambda *arguments, **more: (honest(*arguments, **more), arrive())[0]
def train(*arguments, **more):
    with closing(honest(*arguments, **more)) as events:
        for event in events:
            yield event
            if isinstance(event, loop.Stepped):
                arrive()
if place in ("step", "validation"):
    from dateshard.trainer import loop
    honest = loop.train
    if place == "step":
        loop.train = train
    else:
        loop.validate = before(loop.validate)
else:
    from dateshard.terminal.progress import Progress
    if place == "date":
        Progress.done = after(Progress.done)
    else:
        Progress.begin = before(Progress.begin)
from dateshard.cli import run
sys.exit(run(sys.argv[3:]))
"""

# Runs a command that may write no file larger than n bytes: the n-th byte of a file is a full disk (EFBIG).
WITH_LIMIT = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
from dateshard.cli import run
sys.exit(run(sys.argv[2:]))
"""


class Process:
    """One running command in a session of its own: forked from a process that has imported everything, where it may be.

    A command that starts workers is started by Python anew, as is one with a `prefix` of its own.
    """

    def __init__(
        self, folder: Path, number: int, words: tuple[str, ...], script: str | None, prefix: tuple[str, ...]
    ) -> None:
        self._folder = folder
        self._files = out, err = folder / f"process{number}.out", folder / f"process{number}.err"
        self._popen: subprocess.Popen[bytes] | Forked
        if not prefix and forkable(words):
            self._popen = Forked(words, folder, script, self._files)
        else:
            command = [sys.executable, *(prefix or (("-c", script) if script else ("-m", "dateshard"))), *words]
            with open(out, "wb") as to, open(err, "wb") as beside:
                self._popen = subprocess.Popen(
                    command, cwd=folder, env=environment(), stdout=to, stderr=beside, start_new_session=True
                )

    @property
    def out(self) -> str:
        return self._files[0].read_text()

    @property
    def err(self) -> str:
        return self._files[1].read_text()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    def until(self, seen: Callable[[], bool]) -> bool:
        """Looks every millisecond until `seen()`; False if the process ended before."""
        end = time.monotonic() + PATIENCE_SECONDS
        while self._popen.poll() is None:
            if seen():
                return True
            assert time.monotonic() < end, f"waited in vain\n{self.out}\n{self.err}"
            time.sleep(0.001)
        return seen()

    def until_held(self) -> None:
        """Looks until it waits at its place (see HELD)."""
        assert self.until(self._mark.exists), f"it never came there\n{self.out}\n{self.err}"

    def let_go(self) -> None:
        """What was sent to it before is answered before it goes on."""
        self._mark.unlink()

    @property
    def _mark(self) -> Path:
        return self._folder / f"held{self._popen.pid}"

    def send(self, number: int, *, group: bool = False) -> None:
        """A signal to this process alone, or to its whole group as a terminal's Ctrl-C does."""
        if self._popen.poll() is None:
            (os.killpg if group else os.kill)(self._popen.pid, number)

    def kill(self) -> None:
        """SIGKILL to this process alone; returns when it and everything it had started are gone by themselves."""
        family = self.family()
        self.send(signal.SIGKILL)
        self._popen.wait(PATIENCE_SECONDS)
        _, alive = psutil.wait_procs(family, timeout=PATIENCE_SECONDS)
        assert not alive, f"the parent was killed, these live on: {alive}"

    def family(self) -> list[psutil.Process]:
        """All processes that it has started and that have not ended."""
        try:
            return psutil.Process(self._popen.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def wait(self, code: int | None = 0) -> int:
        """Its exit code, which must be `code` unless that is None; a traceback is never printed."""
        found = self._popen.wait(PATIENCE_SECONDS)
        assert "Traceback" not in self.err, self.err
        assert code in (None, found), f"exit {found}, not {code}\n{self.out}\n{self.err}"
        return found

    def end(self) -> None:
        """For the teardown: ends it and its children, whatever state they are in."""
        for process in self.family():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        self._popen.kill()
        self._popen.wait(PATIENCE_SECONDS)


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """launch("train", "-c", ...) -> Process, ended with the test. `script`, or Python's `prefix`: instead of `dateshard`."""
    started: list[Process] = []
    number = itertools.count()

    def start(*words: str, script: str | None = None, prefix: tuple[str, ...] = ()) -> Process:
        started.append(Process(tmp_path, next(number), words, script, prefix))
        return started[-1]

    yield start
    for process in started:
        process.end()


@pytest.fixture
def launch_to_point(launch: Callable[..., Process]) -> Callable[..., Process]:
    """launch_to_point(pattern, n, "train", ...) -> Process that dies n changes after that change (see AT_POINT)."""
    return lambda pattern, after, *words: launch(pattern, str(after), *words, script=AT_POINT)


@pytest.fixture
def launch_held(launch: Callable[..., Process]) -> Callable[..., Process]:
    """launch_held("step", 20, "train", ...) -> Process that waits after its 20th step; it is there already (see HELD)."""

    def start(place: str, number: int, *words: str) -> Process:
        process = launch(place, str(number), *words, script=HELD)
        process.until_held()
        return process

    return start


@pytest.fixture
def points_of(launch_to_point: Callable[..., Process]) -> Callable[..., list[str]]:
    """points_of("train", ...) -> all changes on disk of that command, which runs to its end."""

    def tell(*words: str) -> list[str]:
        process = launch_to_point("(?!)", 0, *words)
        process.wait()
        return process.err.split("POINTS\n")[1].splitlines()

    return tell


@pytest.fixture
def launch_with_limit(launch: Callable[..., Process]) -> Callable[..., Process]:
    """launch_with_limit(num_bytes, "train", ...) -> Process that can write no larger file (see WITH_LIMIT)."""
    return lambda num_bytes, *words: launch(str(num_bytes), *words, script=WITH_LIMIT)


@pytest.fixture
def content() -> Callable[[Any], states.State]:
    """content(dataset) -> {path: bytes} of all that a generation is made of; the manifest's number is left out."""
    return states.content


@pytest.fixture
def committed() -> Callable[[Any], states.State | None]:
    """committed(world) -> content of its current generation, every file verified; None before the first commit."""
    return lambda world: states.committed(world.store)


@pytest.fixture
def left_behind() -> Callable[[Path], states.State]:
    """left_behind(run's folder) -> {path: bytes} of its checkpoints, and its metrics without the times."""
    return states.left_behind


@pytest.fixture
def training_world(make_world: Callable[..., Any]) -> Callable[..., Any]:
    """training_world(**trainer settings) -> a prepared world of ten training and four validation dates."""

    def make(**trainer: Any) -> Any:
        split = {"train": "2024-03-01..2024-03-10", "validation": "2024-03-11..2024-03-14"}
        made = make_world(14, split=split, **trainer)
        made.config_file()
        made.prepare()
        return made

    return make


@pytest.fixture
def small_training(training_world: Callable[..., Any]) -> Any:
    """Four epochs of 112 batches, about 2 ms each with what is saved."""
    return training_world(training={"epochs": 4, "batch_size": 2}, checkpoint={"save_freq": 9})


@pytest.fixture(scope="session")
def _known_runs() -> dict[str, dict[str, bytes]]:
    return {}


@pytest.fixture
def uninterrupted(
    launch: Callable[..., Process],
    left_behind: Callable[[Path], dict[str, bytes]],
    _known_runs: dict[str, dict[str, bytes]],
) -> Callable[[Any], dict[str, bytes]]:
    """uninterrupted(world) -> what a training of this world leaves behind that nothing disturbs; trained once."""

    def train(world: Any) -> dict[str, bytes]:
        key = repr([world.tree["trainer"], world.tree["pipeline"]["split"], sorted(world.rows)])
        if key not in _known_runs:
            launch("train", "-c", str(world.config_file()), "--run", "whole").wait()
            _known_runs[key] = left_behind(world.folder / "data" / "runs" / "whole")
        return _known_runs[key]

    return train


@pytest.fixture
def differing() -> Callable[[states.State, states.State], list[str]]:
    """differing(a, b) -> names that are in one only, or whose bytes differ."""
    return states.differing
