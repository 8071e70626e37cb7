"""Writing that survives a power cut: files first, then folders, then the one name that makes them count.

A failed fsync is never repeated on the same file: the kernel may have dropped the dirty pages and call the second
one a success. The error goes up, what was staged is thrown away.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dateshard.shardstore.disk.naming import naming
from dateshard.shardstore.errors import NO_ROOM, DiskFullError, Where, of_system

DIRECT_BYTES, BLOCK = 1 << 20, 4096  # files from that size on are written directly, by blocks that every disk takes
FEW_FOLDERS = 8  # up to here single fsyncs; above, one syncfs (which also flushes what others wrote) is cheaper


def fsync_path(path: Path) -> None:
    """Makes one file or folder durable."""
    with naming(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def fsync_above(folder: Path, levels: int) -> None:
    """Makes the names of a new folder and of those around it durable; call it before anything that tells it is done."""
    for parent in list(folder.absolute().parents)[:levels]:
        with suppress(PermissionError):  # not ours to read, so not made by us
            fsync_path(parent)


def fsync_tree(folder: Path) -> None:
    """Makes a folder durable, bottom up; a folder that cannot be listed is an error, not an empty one."""
    for parent, _, files in os.walk(folder, topdown=False, onerror=_raise):
        for name in files:
            fsync_path(Path(parent, name))
        fsync_path(Path(parent))


def _raise(error: OSError) -> None:
    raise error


def _load(name: str, *kinds: type) -> Callable[..., int] | None:
    """A call of Linux's C library; None where there is none."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        call: Callable[..., int] = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError):
        return None
    call.argtypes = kinds  # type: ignore[attr-defined]
    return call


_syncfs = _load("syncfs", ctypes.c_int)
_sync_file_range = _load("sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
BEGIN_WRITING = 2  # SYNC_FILE_RANGE_WRITE: of all dirty pages, without waiting for them


def begin_writing(descriptor: int) -> None:
    """Lets the disk begin with what was written to an open file: whoever flushes it later waits less. Promises nothing."""
    if _sync_file_range is not None:
        _sync_file_range(descriptor, 0, 0, BEGIN_WRITING)


class Flusher:
    """Makes published folders durable. Open it before the first write: syncfs reports errors since its opening.

    Owns one file descriptor on the store's folder.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._descriptor = root, os.open(root, os.O_RDONLY)

    def close(self) -> None:
        """Gives the descriptor back."""
        os.close(self._descriptor)

    def flush(self, folders: Iterable[Path]) -> None:
        """When it returns, the folders and their names are on disk.

        Raises:
            OSError: the kernel reported a failed write; nothing may be committed on top of it.
        """
        listed = list(folders)
        if len(listed) > FEW_FOLDERS and _syncfs is not None:
            if _syncfs(self._descriptor) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code), str(self._root))
            return
        for folder in listed:
            fsync_tree(folder)
        for parent in _ancestors(listed, self._root):
            fsync_path(parent)


def _ancestors(folders: list[Path], root: Path) -> list[Path]:
    """Every folder between the given ones and `root`, deepest first, each once."""
    ancestors = {parent for folder in folders for parent in folder.parents if parent == root or root in parent.parents}
    return sorted(ancestors, key=lambda path: -len(path.parts))


def write_file(path: Path, data: bytes | memoryview) -> None:
    """A new durable file; fails if it exists. The caller makes its folder durable.

    Much that lies in aligned memory goes past the page cache: the processor does nothing, and what is mapped stays there.
    """
    with naming(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            view = memoryview(data)
            if view.nbytes >= DIRECT_BYTES:
                view = view[_write_directly(descriptor, view[: view.nbytes // BLOCK * BLOCK]) :]
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_directly(descriptor: int, blocks: memoryview) -> int:
    """Writes whole blocks straight to the disk and returns how many bytes it wrote.

    Few or none where the file system or the memory's alignment does not allow it."""
    flags, done = fcntl.fcntl(descriptor, fcntl.F_GETFL), 0
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | getattr(os, "O_DIRECT", 0))
        while done < len(blocks) and done % BLOCK == 0:
            done += os.write(descriptor, blocks[done:])
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
    return done


def replace_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replaces `path` in one step: the old bytes or the new, never a mixture.

    Args:
        durable: False for what nothing depends on: after a power cut it may be gone.
    """
    with _beside(path) as temporary:
        if durable:
            temporary.unlink(missing_ok=True)
            write_file(temporary, data)
        else:
            temporary.write_bytes(data)
    if durable:
        fsync_path(path.parent)


@contextmanager
def appearing(path: Path, temporary: Path | None = None, *, over: bool = True, durable: bool = True) -> Iterator[Path]:
    """Yields a name for a new file, which becomes `path` in one step if all within this context goes well.

    A device or a pipe is never replaced: it is written to.

    Args:
        temporary: that name, if not one beside `path`.
        over: replace a file that is there; else that is a FileExistsError.
        durable: False for what can be made again: after a power cut it may be gone.

    Raises:
        DiskFullError, OSError: naming `path`, which is as it was; nothing else is left.
    """
    with disk_full_as_error(path):
        if over and path.exists() and not path.is_file() and not path.is_dir():
            yield path
            return
        with _beside(path, temporary, over=over) as name:
            yield name
            if durable:
                fsync_path(name)
        if durable:
            fsync_path(path.parent)


@contextmanager
def _beside(path: Path, temporary: Path | None = None, *, over: bool = True) -> Iterator[Path]:
    name = temporary or path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield name
        if over:
            name.replace(path)
        else:
            os.link(name, path)
            name.unlink()
    except BaseException as error:
        with suppress(OSError):
            name.unlink()
        if isinstance(error, OSError) and str(error.filename) == str(name):
            error.filename = str(path)
        raise


@contextmanager
def disk_full_as_error(path: Path) -> Iterator[None]:
    """Turns ENOSPC, EDQUOT and EFBIG into a DiskFullError that names `path`; other OSErrors name it if they name none."""
    try:
        with naming(path):
            yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise of_system(error, str(path)) from error
        raise


def check_free_space(folder: Path, needed_bytes: int) -> None:
    """Refuses to write where too little space is free.

    Raises:
        DiskFullError: before anything is written, when less than 1.2 x `needed_bytes` is free.
    """
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if free < 1.2 * needed_bytes:
        raise DiskFullError(
            f"{free / 1e6:,.0f} MB free, about {1.2 * needed_bytes / 1e6:,.0f} MB needed",
            where=Where(file=str(folder)),
            todo="Free some space and run the same command again",
        )
