"""One exception tree. Every error says what happened, where, and what to do next.

Outcomes that are no faults have exit codes too (docs/commands.md): 3 some dates failed, 75 stopped at the
memory limit and saved, 130 and 143 stopped by a signal.

DateshardError                    exit 1
├── UsageError                    exit 2    the command line or the configuration
│   └── UntrustedError                      a folder from elsewhere names code that would run
├── StoreError                    exit 4    our own store or a checkpoint: stale, missing, damaged
│   ├── DamagedError                        bytes differ from what was committed
│   └── NotThereError                       nothing of that name was ever committed, or it is gone
├── DiskFullError                 exit 28
├── DumpError                     exit 65   one date's raw dump cannot be used
│   ├── NoRowsError                         nothing in it is a row of that date
│   └── FailedDatesError                    some dates failed, the others were committed; raised by functions alone
├── ResourceError                 exit 1    too little memory, or a process that was killed
└── BusyError                     exit 75   somebody else holds the lock
"""

from __future__ import annotations

import datetime as dt
import errno
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

from dateshard.shardstore.commands import command

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ELSEWHERE = "or write elsewhere: name another file or folder, or another DATESHARD_DATA"
NEXT = {  # of what the system refuses
    errno.EROFS: f"Mount it for writing, {ELSEWHERE}",
    errno.EACCES: f"Change its permissions, {ELSEWHERE}",
    errno.EPERM: f"Change its permissions, {ELSEWHERE}",
    errno.EIO: "Check the disk, then run the same command again",
}

SPECIAL = (
    (stat.S_ISFIFO, "named pipe"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
    (stat.S_ISSOCK, "socket"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """The place of a fault. `row` counts a text file's header as row 1, as an editor shows it."""

    file: str | None = None
    date: dt.date | None = None
    column: str | None = None
    row: int | None = None
    value: str | None = None

    def __str__(self) -> str:
        parts = [
            self.file,
            f"date {self.date}" if self.date else None,
            f"row {self.row:,}" if self.row is not None else None,
            f"column '{shorten(self.column)}'" if self.column is not None else None,
            f"value {_cut(self.value, 60)!r}" if self.value is not None else None,
        ]
        return ", ".join(text for text in parts if text)


def shorten(text: str, most: int = 60) -> str:
    """Returns `text` in printable characters, cut to `most` of them, so that a message stays one line."""
    return _cut(text if text.isprintable() else repr(text)[1:-1], most)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


class DateshardError(Exception):
    """Base of all errors meant for people. A traceback of one never reaches a user."""

    exit_code = 1
    kind = "error"

    def __init__(self, what: str, *, where: Where | None = None, todo: str = "") -> None:
        super().__init__(what, where, todo)  # all three in args, so that a worker process can pickle it
        self.what, self.where, self.todo = what, where, todo

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.what, self.where, self.todo)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where and str(self.where) else ""
        stop = "" if self.what.endswith(("?", "!", ".")) else "."
        return f"{place}{self.what}" + (f"{stop} {self.todo}" if self.todo else "")


def _rebuild(kind: type[DateshardError], what: str, where: Where | None, todo: str) -> DateshardError:
    return kind(what, where=where, todo=todo)


class UsageError(DateshardError):
    """A wrong option, configuration key or value; or a run that does not fit its configuration."""

    exit_code = 2
    kind = "usage"


class UntrustedError(UsageError):
    """A run, checkpoint or dataset that its user did not make names code; none of it was imported."""

    kind = "untrusted"


class StoreError(DateshardError):
    """Our own store or a checkpoint is stale, missing or damaged; `todo` names the command that mends it."""

    exit_code = 4
    kind = "store"


class DamagedError(StoreError):
    """A file's size or hash is not what was committed. Nothing of it was used."""

    kind = "damaged"


class NotThereError(StoreError):
    """A dataset, generation, date, run or checkpoint that does not exist."""

    kind = "not there"


class DiskFullError(DateshardError):
    """No space left, or too little to begin. What was committed before is untouched."""

    exit_code = 28
    kind = "disk full"


class DumpError(DateshardError):
    """One date's dump cannot be used. The other dates go on."""

    exit_code = 65
    kind = "dump"


class NoRowsError(DumpError):
    """A dump without a row, or none of whose rows is left. `pipeline.source.empty_date` says what becomes of its date."""


class FailedDatesError(DumpError):
    """Some dates of a preprocess failed; the others were committed. `failed`: {date: its error}."""

    exit_code = 3
    kind = "failed dates"

    def __init__(
        self,
        what: str,
        *,
        where: Where | None = None,
        todo: str = "",
        failed: Mapping[dt.date, DateshardError] | None = None,
    ) -> None:
        super().__init__(what, where=where, todo=todo)
        self.failed = dict(failed or {})


class ResourceError(DateshardError):
    """Too little memory, or a process that was killed: the machine, not the dump. The same date may yet succeed."""

    kind = "resources"


class BusyError(DateshardError):
    """Another process holds the lock."""

    exit_code = 75
    kind = "busy"


def of_system(error: OSError, file: str | None = None) -> DateshardError:
    """What the system refused, as an error for people.

    Args:
        file: what it is about, if not the file that the error names.
    """
    name = file if file is not None else error.filename
    where = None if name is None else Where(file=str(name))
    if error.errno in NO_ROOM:
        why = "" if error.errno == errno.ENOSPC else f" ({os.strerror(error.errno)})"
        todo = "Free some space, or name another place, and run the same command again; what was there is untouched"
        return DiskFullError(f"no space left on the disk{why}", where=where, todo=todo)
    code = error.errno or 0
    what = (error.strerror or os.strerror(code)) if code else (str(error) or type(error).__name__).splitlines()[0]
    return DateshardError(what, where=where, todo=NEXT.get(code, ""))


def of_memory(error: BaseException) -> ResourceError | None:
    """An allocation that failed, in Python, numpy, torch or the system, as an error for people; None for any other."""
    text = str(error)
    failed = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    if not failed and type(error).__name__ != "OutOfMemoryError" and "can't allocate memory" not in text:
        return None
    asked = re.search(r"allocate ([\d.]+ (?:[KMGTPE]i?B|bytes))", text)
    more = f": {_in_gigabytes(asked[1])} more were asked for" if asked else ""
    capacity = re.search(r"total capacity of ([\d.]+ \w+)", text)  # of an accelerator
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    has = f"the accelerator has {capacity[1]}" if capacity else f"this machine has {there / 1e9:,.1f} GB"
    todo = f"Make batch_size, hidden_units, the window or loading.memory_budget smaller ({command('estimate', config=True)} says "
    todo += "what each takes); in preprocess lower --memory-limit or use --workers 1"
    return ResourceError(f"out of memory{more}; {has}", todo=todo)


def _in_gigabytes(amount: str) -> str:
    """Writes an amount that torch counts in bytes in GB, if it is as large as that; others stay."""
    count, _, unit = amount.partition(" ")
    return f"{int(count) / 1e9:,.1f} GB" if unit == "bytes" and len(count) > 9 else amount


def refuse_special(path: str | PathLike[str]) -> None:
    """Refuses what opening would wait for, or reading would never end. A shell's own pipe, `<(...)`, is none of these.

    Raises:
        OSError: a named pipe, a device or a socket lies there, or nothing does; its `strerror` tells which.
    """
    mode = os.stat(path).st_mode
    kind = next((name for is_kind, name in SPECIAL if is_kind(mode)), None)
    if kind and (kind == "device" or os.path.exists(os.path.realpath(path))):  # of a shell's: /proc/1/fd/pipe:[7]
        raise OSError(errno.EINVAL, f"it is a {kind}, not a file", str(path))


def counted(count: int, noun: str, plural: str = "") -> str:
    """Writes a count with its noun: `1 date`, `365 dates`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
