"""A process that has imported everything once and forks a child for each command: 0.1 s instead of 2 s.

    with Zygote() as zygote:
        job = zygote.start(["preprocess", "-c", "config.yaml"], cwd, stopped=MAIN)      -> runs in a session of its own
        ...attach a tracer, os.kill(job.pid, signal.SIGCONT), or signal.SIGKILL...
        ended = zygote.wait(job)                                                        -> exit code, stdout, stderr

Which thread is to be traced is said by `stopped`: the command's own, or the one that writes checkpoints (`WRITER`), which
then stops all of the process at its first job, under the name that /proc tells it by.

A child is a real process: it is killed by real signals, and its files, locks and descriptors are its own. Two things
differ from `python -m dateshard`: modules are loaded already, and it ends by `_exit`. Nothing of polars or torch is
*used* before a fork (a used thread pool does not survive one), and `--workers 1` is the only number that may be given.

The line protocol: a job as JSON on stdin; `started PID` and later `ended PID CODE` on stdout.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

from tests.kit.limits import CPU_SECONDS, PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
PACKAGES = ("dateshard",)
MAIN, WRITER = "main", "writer"  # threads of a command
LOADED = ("zarr", "psutil", "numpy.ctypeslib", "torch._dynamo", "ruamel.yaml.mergevalue")  # imported at first use


@dataclass(frozen=True, slots=True)
class Job:
    """A command that was started."""

    pid: int
    words: tuple[str, ...]
    out: Path
    err: Path

    @property
    def alive(self) -> bool:
        """False as soon as it ended, reaped or not."""
        return self.state not in "ZX"

    @property
    def state(self) -> str:
        """As in /proc: R, S, T (stopped), Z (ended), ...; X if it is gone."""
        return state_of(self.pid)

    def stopped(self, thread: str) -> int | None:
        """The id of that thread if it has stopped."""
        return next((tid for tid in self._named(thread) if state_of(tid) == "T"), None)

    def _named(self, thread: str) -> list[int]:
        if thread == MAIN:
            return [self.pid]
        try:
            tasks = list(Path(f"/proc/{self.pid}/task").iterdir())
            return [int(task.name) for task in tasks if (task / "comm").read_text() == f"{thread}\n"]
        except OSError:
            return []

    def kill(self) -> None:
        """SIGKILL; nothing if it is gone."""
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def state_of(task: int) -> str:
    """Of a process or a thread."""
    try:
        return Path(f"/proc/{task}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: exit code, or minus the signal's number."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Order:
    """What the forked child is told.

    Attributes:
        script: Python text that runs in place of `dateshard <words>`, with the words as its arguments.
    """

    words: list[str]
    cwd: str
    out: str
    err: str
    script: str | None = None
    stopped: str | None = None
    protocol: str | None = None
    file_limit: int | None = None


class Zygote:
    """The driver's end. Several children may run at once; children that are left are killed by `close`."""

    def __init__(self) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("DATESHARD")}
        threads = {
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "POLARS_MAX_THREADS": "1",
            "PYTHONHASHSEED": "0",
        }
        self._output = tempfile.TemporaryDirectory(prefix="zygote-")
        environment = {
            **kept,
            **threads,
            "COLUMNS": "120",
            "PYTHONWARNINGS": "error",
            "XDG_STATE_HOME": self._output.name,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.kit.zygote"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._lines = selectors.DefaultSelector()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._lines.register(self._process.stdout, selectors.EVENT_READ)
        self._rest, self._count = "", 0
        self._jobs: dict[int, Job] = {}
        self._codes: dict[int, int] = {}
        assert self._line() == "ready"

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(
        self,
        words: Sequence[str],
        cwd: Path,
        *,
        script: str | None = None,
        stopped: str | None = None,
        protocol: str | None = None,
        file_limit: int | None = None,
        output: tuple[Path, Path] | None = None,
    ) -> Job:
        """Forks a child that runs `dateshard <words>` in `cwd`.

        Args:
            script: Python text that runs instead, with the words as its arguments.
            stopped: the thread that stops the child before its first call, so that a tracer can attach; SIGCONT lets
                it go. Returns when it has.
            protocol: name of a bad protocol in `controls.PROTOCOLS` that is put in the product's place.
            file_limit: RLIMIT_FSIZE in bytes.
            output: files for stdout and stderr, which stay; without them they are this object's, and go with `wait`.
        """
        self._count += 1
        own = (Path(self._output.name, f"{self._count}.{name}") for name in ("out", "err"))
        out, err = output or own
        out.touch()  # the child may be killed before it opens them
        err.touch()
        order = Order(list(words), str(cwd), str(out), str(err), script, stopped, protocol, file_limit)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(order)) + "\n")
        while not (line := self._line()).startswith("started "):
            self._note(line)
        job = Job(int(line.split()[1]), tuple(words), out, err)
        self._jobs[job.pid] = job
        while stopped and job.alive and job.stopped(stopped) is None:  # else SIGCONT could come before the stop
            time.sleep(0.0005)
        return job

    def wait(self, job: Job, seconds: float = PATIENCE_SECONDS) -> Ended:
        """How the command ended. A hang is a failure: the child is killed and what it said is shown."""
        while job.pid not in self._codes:
            try:
                self._note(self._line(seconds))
            except TimeoutError:
                job.kill()
                raise AssertionError(f"{job.words} hangs\n{job.out.read_text()}\n{job.err.read_text()}") from None
        del self._jobs[job.pid]
        ended = Ended(self._codes.pop(job.pid), job.out.read_text(), job.err.read_text())
        for path in (job.out, job.err):
            if path.is_relative_to(self._output.name):
                path.unlink()
        return ended

    def run(self, words: Sequence[str], cwd: Path, **options: Any) -> Ended:
        """Start and wait."""
        return self.wait(self.start(words, cwd, **options))

    def close(self) -> None:
        """Kills what still runs and ends the zygote."""
        for job in self._jobs.values():
            job.kill()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._lines.close()
        self._process.stdout.close()
        self._output.cleanup()

    def _note(self, line: str) -> None:
        word, pid, code = line.split()
        assert word == "ended", line
        self._codes[int(pid)] = int(code)

    def _line(self, seconds: float = PATIENCE_SECONDS) -> str:
        end = time.monotonic() + seconds
        while "\n" not in self._rest:
            if not self._lines.select(max(0.0, end - time.monotonic())):
                raise TimeoutError
            assert self._process.stdout is not None
            data = os.read(self._process.stdout.fileno(), 1 << 16).decode()
            if not data:
                raise RuntimeError("the zygote ended")
            self._rest += data
        line, _, self._rest = self._rest.partition("\n")
        return line


class Forked:
    """A child of the shared zygote with what of `subprocess.Popen` the tests use; its output stays in two files."""

    def __init__(self, words: Sequence[str], cwd: Path, script: str | None, output: tuple[Path, Path]) -> None:
        self._job = shared().start(words, cwd, script=script, output=output)
        self._code: int | None = None
        self.pid = self._job.pid

    def poll(self) -> int | None:
        """Its exit code, or minus the signal's number; None while it runs."""
        return None if self._code is None and self._job.alive else self.wait()

    def wait(self, timeout: float = PATIENCE_SECONDS) -> int:
        """As `poll`, once it has ended."""
        if self._code is None:
            self._code = shared().wait(self._job, timeout).code
        return self._code

    def kill(self) -> None:
        """SIGKILL; nothing if it has ended."""
        if self._code is None:
            self._job.kill()


@cache
def shared(_number: int = 0) -> Zygote:
    """A zygote for all tests of this process, and a second one for what plays twice at once; they end with the process."""
    zygote = Zygote()
    atexit.register(zygote.close)
    return zygote


def forkable(words: Sequence[str]) -> bool:
    """Whether a command starts no worker processes, which a forked child must not."""
    pairs = pairwise(words)
    return "preprocess" not in words or ("--workers", "1") in pairs


def own_modules() -> list[str]:
    """Every module of the product: one that is imported within a command would make its calls differ from run to run."""
    found = (walk_packages(import_module(name).__path__, f"{name}.") for name in PACKAGES)
    return [module.name for modules in found for module in modules if not module.name.endswith("__main__")]


def serve() -> None:
    """The zygote itself: forks on request, tells when children end, until its stdin is closed."""
    for name in (*LOADED, *own_modules()):
        import_module(name)
    gc.collect()
    gc.freeze()  # the collector of a child need not copy the pages of all these modules
    waiting = selectors.DefaultSelector()
    waiting.register(0, selectors.EVENT_READ, None)
    rest = b""
    tell("ready")
    while True:
        for key, _ in waiting.select():
            if key.data is not None:  # a pidfd: that child ended
                _, status = os.waitpid(key.data, 0)
                waiting.unregister(key.fd)
                os.close(key.fd)
                tell(f"ended {key.data} {os.waitstatus_to_exitcode(status)}")
                continue
            data = os.read(0, 1 << 16)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                pid = fork(Order(**json.loads(line)))
                waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)
                tell(f"started {pid}")


def tell(line: str) -> None:
    """One line to the driver, past Python's buffers (a child must not inherit half a line)."""
    os.write(1, line.encode() + b"\n")


def fork(order: Order) -> int:
    """Starts one child; its pid."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        become(order)
        from dateshard.cli import run

        if order.script is not None:
            sys.argv = ["-c", *order.words]
            exec(compile(order.script, "script", "exec"), {"__name__": "__main__"})
        code = 0 if order.script is not None else run(order.words)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def become(order: Order) -> None:
    """Makes the forked child what a freshly started command would be."""
    os.setsid()
    os.chdir(order.cwd)
    for descriptor, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, order.out, os.O_WRONLY | os.O_CREAT),
        (2, order.err, os.O_WRONLY | os.O_CREAT),
    ):
        opened = os.open(path, flags, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
    resource.setrlimit(resource.RLIMIT_CPU, (int(CPU_SECONDS),) * 2)
    if order.protocol:
        import_module("tests.kit.controls", "pipeline.sources").apply(order.protocol)
    if order.file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order.file_limit,) * 2)
    if order.stopped:  # to be traced: the same calls every time, so no memory figures by the clock
        import_module("dateshard.training.view").SHOWN_SECONDS = float("inf")
        import_module("dateshard.terminal.progress").family_bytes = lambda: 0
    if order.stopped == MAIN:  # polars' first use looks for the stack in /proc/self/maps, and how long that is varies
        import_module("polars").read_csv(b"a\n1\n")
        os.kill(os.getpid(), signal.SIGSTOP)
    elif order.stopped == WRITER:
        import_module("dateshard.trainer.checkpoint.writer").ThreadPoolExecutor = partial(
            ThreadPoolExecutor, initializer=halt
        )


def halt() -> None:
    """Names the calling thread and stops the process at this very place of it."""
    Path("/proc/thread-self/comm").write_text(WRITER)
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


if __name__ == "__main__":
    serve()
