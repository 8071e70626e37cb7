"""One command under strace: which system calls touched `data/`, and one of them made to fail or to be the last.

The tracer attaches to a child of the zygote that has stopped itself, so that call number k of a name is the same call
in every run. `-e inject=CALL:error=EIO:when=K` makes it fail without being carried out; `:signal=KILL` ends the process
right before it. One thread is traced at a time, the command's own or the one that writes checkpoints: the calls of each are
the same in every run, what the other does meanwhile is not. Only the order in which both reach the disk needs both.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.kit.limits import PATIENCE_SECONDS
from tests.kit.untraced import NO_STRACE, NOT_ALLOWED
from tests.kit.zygote import MAIN, WRITER, Ended, Job, Zygote

READING = ("read", "pread64", "preadv", "getdents64", "close", "flock")
CHANGING = ("write", "pwrite64", "ftruncate", "mkdir", "rmdir", "rename", "link", "unlink", "unlinkat", "chmod")
SYNCING = ("fsync", "fdatasync", "syncfs")
KINDRED = ("renameat", "renameat2", "linkat", "mkdirat", "fchmod", "fchmodat", "truncate", "symlink", "sync")
TRACED = ("openat", *READING, *CHANGING, *SYNCING, *KINDRED)
RANDOM = (
    re.compile(r"[0-9a-f]{32}"),
    re.compile(r"(?<=\.)\d+(?=\.tmp)"),
    re.compile(r"(?<=set_aside-)[0-9a-f]{8}"),
    re.compile(r"(?<=@)[0-9a-f]{16}"),
)
BOTH = "both"  # threads of a trace, beside MAIN and WRITER
LINE = re.compile(r"(\w+)\((.*)")
SPLIT = re.compile(
    r"(?P<tid>\d+) +(?P<begin>.*)(?P<cut> <unfinished \.\.\.>)|(\d+) +<\.\.\. \w+ resumed>(.*)|(\d+) +(.*)"
)
PLACE = re.compile(r'\d+<([^>]*)>|AT_FDCWD<([^>]*)>|"([^"]+)"')


@dataclass(frozen=True, slots=True)
class Call:
    """One system call of the traced thread.

    Attributes:
        ordinal: 1 for the first call of that name in its thread.
        paths: `.` and what is below `data/`, relative to the working directory; empty for calls that touch neither.
        written: for close: whether the descriptor was open for writing.
    """

    name: str
    ordinal: int
    paths: tuple[str, ...]
    text: str
    written: bool = False
    thread: str = MAIN

    @property
    def label(self) -> str:
        """The same in every run: what is random in names is masked. Opening a folder to list it is `opendir`."""
        name = "opendir" if "O_DIRECTORY" in self.text else self.name
        text = f"{name} {' '.join(self.paths)}"
        for pattern in RANDOM:
            text = pattern.sub("*", text)
        return text

    @property
    def changes(self) -> bool:
        """Whether it can change a name or a byte."""
        return self.name in CHANGING or self.name in KINDRED or "O_CREAT" in self.text

    @property
    def failed(self) -> bool:
        """Whether it fails when nothing disturbs it (mkdir of what is there)."""
        return " = -1 " in self.text

    def may_answer(self, kind: str) -> bool:
        """Whether a kernel may answer so. Closing what was only read has nothing to fail at, a lock neither.

        An injected error also leaves the descriptor open, as no kernel does, and with it a lock held for ever.
        """
        if kind == "ENOSPC":
            creating = self.name == "openat" and "O_CREAT" in self.text
            makes = creating or self.name in ("write", "pwrite64", "mkdir", "rename", "link", *SYNCING)
            return makes and not self.failed
        return kind == "KILL" or self.name != "close" or (self.written and not self.paths[-1].endswith("lock"))

    @property
    def injected(self) -> bool:
        """Whether strace made it fail."""
        return self.text.endswith("(INJECTED)")


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to call number `ordinal` of that name, and with `forever` to all later ones of that name."""

    kind: str  # KILL | EIO | ENOSPC | ENOLCK
    call: Call
    forever: bool = False

    @property
    def option(self) -> str:
        """As strace wants it."""
        act = "signal=KILL" if self.kind == "KILL" else f"error={self.kind}"
        return f"inject={self.call.name}:{act}:when={self.call.ordinal}{'+' if self.forever else ''}"

    def __str__(self) -> str:
        ever = " for ever" if self.forever else ""
        return f"{self.kind}{ever} at {self.call.ordinal} of {self.call.thread}: {self.call.label}"


class Missed(Exception):  # noqa: N818 - not an error of the product
    """The harness itself failed: the fault did not happen where it was meant to."""


def why_not() -> str | None:
    """Why nothing can be traced here; None where it can."""
    if not shutil.which("strace"):
        return NO_STRACE
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        try:
            tracer = subprocess.Popen(["strace", "-p", str(sleeper.pid), "-o", os.devnull], stderr=subprocess.DEVNULL)
            attached = _attached(sleeper.pid, tracer)
            tracer.terminate()
            tracer.wait()
        finally:
            sleeper.kill()
    return None if attached else NOT_ALLOWED


def trace(
    zygote: Zygote,
    words: Sequence[str],
    cwd: Path,
    fault: Fault | None = None,
    *,
    protocol: str | None = None,
    thread: str = MAIN,
) -> tuple[Ended, list[Call]]:
    """Runs a command in `cwd` under strace; how it ended, and all calls of a thread: the fault's, else the given one.

    Raises:
        Missed: `fault` hit another call than it was meant for, or none.
    """
    thread = fault.call.thread if fault else thread
    job = zygote.start(words, cwd, stopped=WRITER if thread == WRITER else MAIN, protocol=protocol)
    log = cwd / "strace.log"
    ended = _run_traced(zygote, job, log, fault, thread)
    calls = parse(_joined(log.read_text()) if thread == BOTH else log.read_text(), cwd, thread)
    if fault:
        check_hit(fault, calls)
    return ended, calls


def _run_traced(zygote: Zygote, job: Job, log: Path, fault: Fault | None, thread: str) -> Ended:
    task = job.stopped(WRITER if thread == WRITER else MAIN)
    if task is None:
        raise Missed(f"no {thread} stopped: {zygote.wait(job).err}")
    options = [*(["-f"] if thread == BOTH else []), *(["-e", fault.option] if fault else [])]
    command = ["strace", "-p", str(task), "-qq", "-y", "-s", "0", "-o", str(log), "-e", f"trace={','.join(TRACED)}"]
    tracer = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
    try:
        if not _attached(task, tracer):
            raise Missed(f"strace did not attach: {tracer.communicate()[1]}")
        os.kill(job.pid, signal.SIGCONT)
        ended = zygote.wait(job)
        tracer.communicate(timeout=PATIENCE_SECONDS)
    finally:
        tracer.kill()
        tracer.communicate()
    return ended


def _joined(log: str) -> str:
    """A log of several threads with every call on one line, at the place where it returned, without thread numbers."""
    begun: dict[str, str] = {}
    lines = []
    for line in log.splitlines():
        match = SPLIT.fullmatch(line)
        if match is None:
            continue
        if match["cut"]:
            begun[match["tid"]] = match["begin"]
        elif match[4]:
            lines.append(begun.pop(match[4], "") + match[5])
        else:
            lines.append(match[7])
    return "\n".join(lines)


def _attached(pid: int, tracer: subprocess.Popen[str]) -> bool:
    """Waits until the process has a tracer; False if the tracer ended."""
    end = time.monotonic() + PATIENCE_SECONDS
    while tracer.poll() is None and time.monotonic() < end:
        if "\nTracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text():
            return True
        time.sleep(0.001)
    return False


def parse(log: str, cwd: Path, thread: str = MAIN) -> list[Call]:
    """All calls of a trace, in order."""
    counts: dict[str, int] = {}
    writable: dict[str, bool] = {}  # by descriptor
    calls = []
    for line in log.splitlines():
        if match := LINE.match(line):
            name, rest = match.groups()
            counts[name] = counts.get(name, 0) + 1
            arguments, _, result = rest.rpartition(" = ")
            if name == "openat":
                writable[result.partition("<")[0]] = "O_WRONLY" in line or "O_RDWR" in line
            written = name == "close" and writable.get(arguments.partition("<")[0], False)
            calls.append(Call(name, counts[name], _paths(arguments or rest, cwd), line, written, thread))
    return calls


def _paths(arguments: str, cwd: Path) -> tuple[str, ...]:
    """Paths below data/ that the arguments name: `"data/x"`, `5</cwd/data/x>`, or `5</cwd/data>, "x"`."""
    found: list[str] = []
    base, pending = str(cwd), None
    for place in PLACE.finditer(arguments):
        descriptor, here, name = place.groups()
        if name is None:
            base = descriptor or here
            pending = descriptor
        else:
            found.append(os.path.join(base, name))
            base, pending = str(cwd), None
    if pending:
        found.append(pending)
    return tuple(os.path.relpath(path, cwd) for path in found if path == str(cwd) or path.startswith(f"{cwd}/data"))


def check_hit(fault: Fault, calls: Sequence[Call]) -> None:
    """Raises:
    Missed: the trace does not show the fault at the very call that was meant.
    """
    same = [call for call in calls if call.name == fault.call.name and call.ordinal == fault.call.ordinal]
    if not same or same[0].label != fault.call.label:
        raise Missed(f"{fault}: found {same[0].label if same else 'no such call'}")
    if fault.kind == "KILL" and same[0] is not calls[-1]:
        raise Missed(f"{fault}: it lived on")
    if fault.kind != "KILL" and not same[0].injected:
        raise Missed(f"{fault}: nothing was injected")
