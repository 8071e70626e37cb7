"""Starts the command line, as `dateshard` and as `python -m dateshard`."""

from __future__ import annotations

import gc
import io
import os
import sys


def open_streams() -> None:
    """Opens on /dev/null what of standard input, output and error is closed, as a daemon's are.

    Else the next file that is opened, a shard perhaps, gets that number, and what is meant for people is written into it.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def begin_in_utf8() -> None:
    """Starts this very command again in Python's UTF-8 mode where file names are ASCII to it (PYTHONUTF8=0 LC_ALL=C).

    Names of files, nodes and columns may hold any character, and no setting within a process changes how it names files.
    """
    if sys.getfilesystemencoding() == "ascii" and os.environ.get("PYTHONUTF8") != "1":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONUTF8": "1"})


def main() -> None:
    """Runs the command line; every error of ours becomes one sentence and its exit code."""
    open_streams()
    begin_in_utf8()
    # Threads that spin long while they wait make an epoch ten times slower as soon as somebody else uses a core
    # (docs/decisions/0007). It must be said before torch is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    import signal

    for out in (sys.stdout, sys.stderr):  # a name that the terminal's alphabet lacks is no error
        if isinstance(out, io.TextIOWrapper):
            out.reconfigure(errors="backslashreplace")
    try:
        from dateshard.cli import run

        code = run(sys.argv[1:], _started_as())
        for late in (signal.SIGINT, signal.SIGTERM):  # it is done: they would change nothing but the exit code
            signal.signal(late, signal.SIG_IGN)
    except KeyboardInterrupt:  # while it was being loaded: nothing had begun
        code = 130
    gc.freeze()  # all goes with the process: looking through what was imported for garbage would take 0.1 s
    sys.exit(code)


def _started_as() -> tuple[str, ...]:
    """The words before the arguments, as they were typed: what is printed to be run begins with them."""
    import shutil
    from pathlib import Path

    program = sys.argv[0]
    if Path(program).name == "__main__.py":  # python -m dateshard, with the interpreter's own options
        return tuple(sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1])
    return ("dateshard",) if shutil.which("dateshard") == program else (program,)  # a shell hands over the whole path


if __name__ == "__main__":
    main()
