"""What this process does to `data/`, call by call, in the form that `tracing` gives it: without strace, without root.

Python's own functions are wrapped and noted once they succeeded. A file that Python opens for writing counts as written
then; what a library writes through a descriptor of its own is not seen.
"""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import dateshard.shardstore.disk.durable
from tests.kit.tracing import Call

NAMES = {
    **dict.fromkeys(("rename", "replace"), "rename"),
    **dict.fromkeys(("unlink", "remove"), "unlink"),
    **{name: name for name in ("link", "symlink", "mkdir", "rmdir", "write", "pwrite", "fsync", "fdatasync")},
}  # of os -> of the call
TWO_PLACES = ("rename", "link")


@contextmanager
def recorded() -> Iterator[list[Call]]:
    """All calls of all threads that touch the working directory's `data/`, in the order in which they returned."""
    cwd, calls = os.getcwd(), list[Call]()

    def note(name: str, *places: str, text: str = "") -> None:
        inside = [place for place in places if place == cwd or place.startswith(f"{cwd}/data")]
        if inside:
            calls.append(Call(name, len(calls) + 1, tuple(os.path.relpath(place, cwd) for place in inside), text))

    def wrapped(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            chosen = given[:2] if name in TWO_PLACES else given[1:2] if name == "symlink" else given[:1]
            places = [_place(place, options.get("dir_fd")) for place in chosen]  # before it: a name may go
            result = function(*given, **options)
            note(name, *places)
            return result

        return call

    def opened(path: Any, flags: int, *given: Any, **options: Any) -> int:
        descriptor = os_open(path, flags, *given, **options)
        note("openat", _place(descriptor), text="O_CREAT" if flags & os.O_CREAT else "")
        return descriptor

    def opened_file(file: Any, mode: str = "r", *given: Any, **options: Any) -> Any:
        stream = io_open(file, mode, *given, **options)
        if not isinstance(file, int) and set(mode) & set("wxa+"):
            place = _place(file)
            note("openat", place, text="O_CREAT")
            note("write", place)
        return stream

    def flushed(descriptor: int) -> int:
        result = syncfs(descriptor) if syncfs else -1
        if result == 0:
            note("syncfs", cwd)
        return result

    os_open, io_open, syncfs = os.open, io.open, dateshard.shardstore.disk.durable._syncfs
    with ExitStack() as stack:
        for name, known in NAMES.items():
            stack.enter_context(mock.patch.object(os, name, wrapped(getattr(os, name), known)))
        stack.enter_context(mock.patch.object(os, "open", opened))
        for module in (io, builtins):
            stack.enter_context(mock.patch.object(module, "open", opened_file))
        if syncfs is not None:
            stack.enter_context(mock.patch.object(dateshard.shardstore.disk.durable, "_syncfs", flushed))
        yield calls


def _place(place: Any, folder: int | None = None) -> str:
    """The absolute path of a name or a descriptor, links on the way to it followed."""
    if isinstance(place, int):
        return os.readlink(f"/proc/self/fd/{place}")
    path = Path(os.readlink(f"/proc/self/fd/{folder}") if folder is not None else "", os.fsdecode(place)).absolute()
    return str(path.parent.resolve() / path.name)
