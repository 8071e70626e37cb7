"""A store that lies in a bucket: the same names and bytes as on a disk, below `s3://bucket/prefix/<dataset>`.

    data/shards/<dataset>/BUCKET             says where it lies; all else in this folder is this machine's side of it
    data/shards/<dataset>/<kind>/.../.pushed     marks a folder that the bucket has: it may be removed, and is fetched again

What is prepared is published on this machine, as ever. A commit then sends what the bucket lacks, the sources file and
the manifest under a number that is free, and moves CURRENT by a put on the condition that it is what was read at the start.
The bucket alone says what is committed: CURRENT and manifests of this machine are copies.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from dateshard.shardstore.disk.durable import replace_file
from dateshard.shardstore.disk.lock import take_lock
from dateshard.shardstore.errors import BusyError, DamagedError, StoreError, UsageError, Where
from dateshard.shardstore.identity import expected_form, seal, unseal
from dateshard.shardstore.objects.copies_budget import BUCKET_FILE, FETCHING, PUSHED, lies_at, remove_folder, room_for
from dateshard.shardstore.objects.object_store import (
    ConditionError,
    ObjectFacts,
    ObjectName,
    download,
    endpoint,
    get,
    has_tag,
    head,
    is_remote,
    list_objects,
    put,
    side_by_side,
    upload,
)

SHARDS, SOLE_WRITER = "DATESHARD_SHARDS", "DATESHARD_SOLE_WRITER"
CURRENT, FORMAT, NO_TAG = "CURRENT", "FORMAT", "00000000000000000000000000000000"
HERE_ALONE = ("manifests", "staging", "pins", "quarantine", "cache", "cut", FETCHING)


@dataclass(slots=True)
class Bucket:
    """Where a store lies. `root`: its side on this machine. `tag`: of CURRENT as it was read; None where there was none."""

    root: Path
    at: ObjectName
    tag: str | None = field(default=None, compare=False)

    def pointer(self) -> bytes | None:
        """Reads CURRENT, and remembers which it was; None where nothing is committed."""
        try:
            data, self.tag = get(self._name(CURRENT))
        except FileNotFoundError:
            self.tag = None
            return None
        return data

    def _name(self, name: str) -> ObjectName:
        return ObjectName(f"{self.at}/{name}")

    def follow(self, pointer: bytes, names: Iterable[str]) -> None:
        """Makes this machine's copies of CURRENT, FORMAT and the generation that it names those of the bucket."""
        for name in (FORMAT, *names):
            if not self.copy_file(name):
                (self.root / name).unlink(missing_ok=True)
        path = self.root / CURRENT
        if not (path.exists() and path.read_bytes() == pointer):
            replace_file(path, pointer, durable=False)

    def copy_file(self, name: str) -> bool:
        """Makes a file of this machine's side what the bucket has under its name; returns whether it has it."""
        path = self.root / name
        facts = head(self._name(name))
        if facts is None:
            return False
        if not (path.exists() and has_tag(path, facts.tag)):
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, get(self._name(name))[0])
        return True

    def names(self, folder: str) -> list[str]:
        """Names of the objects below a folder of the store."""
        return [name.name for name, _ in list_objects(self._name(folder))]

    def read(self, name: str) -> bytes | None:
        """A small file as it lies in the bucket; None where it has none."""
        try:
            return get(self._name(name))[0]
        except FileNotFoundError:
            return None

    def begin(self, form: bytes) -> None:
        """Puts the file FORMAT there, and tries with it, once for a server, whether puts with a condition are conditional.

        Raises:
            UsageError: the server ignores the condition, and nobody took it on himself that only one process writes.
            StoreError: a store of another format lies there.
        """
        name, known = self._name(FORMAT), _content(self.root)
        if not self._there(FORMAT, form):
            todo = f"Name another place in {SHARDS}"
            raise StoreError(
                "another FORMAT than that of this version lies there", where=Where(file=str(name)), todo=todo
            )
        if known.get("conditional") == [endpoint()] or os.environ.get(SOLE_WRITER) == "1":
            return
        for condition in ({"absent": True}, {"tag": f'"{NO_TAG}"'}):
            try:
                put(name, form, **condition)
            except ConditionError:
                continue
            raise UsageError(
                "the server ignores the condition of a put (If-None-Match, If-Match): of two processes that write this "
                "store at the same time one would lose what it was told is committed",
                where=Where(file=str(self.at)),
                todo=f"Use a server that knows it, or see to it yourself that only one process writes: {SOLE_WRITER}=1",
            )
        replace_file(self.root / BUCKET_FILE, seal({**known, "conditional": [endpoint()]}))

    def push(self, folders: Iterable[Path]) -> None:
        """Sends published folders, each whole, and marks it; then those that nobody used for long may go."""
        side_by_side(self._send, sorted({*folders}))

    def _send(self, folder: Path) -> None:
        if not folder.is_dir():
            if not list_objects(self._name(str(folder.relative_to(self.root)))):
                what = "a folder of this generation lies neither here nor in the bucket"
                raise DamagedError(what, where=Where(file=str(folder)), todo="Run the command again")
            return
        sent = (folder / PUSHED).exists()
        with in_use(folder):
            files = [path for path in folder.rglob("*") if path.is_file() and path.name != PUSHED]
            for path in files:
                upload(path, self._name(str(path.relative_to(self.root))), look=sent)
        if not sent:
            for path in files:
                path.chmod(0o644)  # else only root can lock it exclusively, and so remove it, on NFS
            _mark(self.root, folder, folder)

    def folders(self, *, marked: bool) -> Iterator[Path]:
        """Published folders of this machine that are not marked as lying in the bucket; with `marked` all of them."""
        for kind in sorted(self.root.iterdir()):
            if not kind.is_dir() or kind.name in HERE_ALONE:
                continue
            for first in [path for path in kind.iterdir() if path.is_dir()]:
                inner = [path for path in first.iterdir() if path.is_dir()] if _is_date(first.name) else [first]
                yield from (folder for folder in inner if marked or not (folder / PUSHED).exists())

    def commit(self, before: int, files: Callable[[int], dict[str, bytes]], pointer: Callable[[int], bytes]) -> int:
        """Writes a generation's files under the next number that is free, and moves CURRENT; returns the number.

        Args:
            before: the generation that was current when it was read. files: {name: bytes} under a number, the manifest
                last. pointer: CURRENT of a number.

        Raises:
            BusyError: another process has committed since; nothing of what it did is touched.
        """
        number = before + 1
        while not all(self._there(name, data) for name, data in files(number).items()):
            number += 1
        try:
            self.tag = self._move(pointer(number))
        except ConditionError:
            tag = self.tag
            if self.pointer() == pointer(number):  # an answer was lost, or another process did the very same
                return number
            self.tag = tag
            raise BusyError(
                "another process has committed to this store while this one worked; its generation stays current",
                where=Where(file=str(self.at)),
                todo="Run the command again: it goes on from that generation, and what was measured here is kept",
            ) from None
        return number

    def _there(self, name: str, data: bytes) -> bool:
        """Puts a file unless there is one of that name; returns whether it now holds these bytes."""
        there = self.read(name)
        if there is None:
            try:
                put(self._name(name), data, absent=True)
                return True
            except ConditionError:
                there = self.read(name)
        return there == data

    def _move(self, pointer: bytes) -> str:
        if os.environ.get(SOLE_WRITER) == "1":
            now = head(self._name(CURRENT))
            if (now and now.tag) != self.tag:
                raise ConditionError(CURRENT)
            return put(self._name(CURRENT), pointer)
        return put(self._name(CURRENT), pointer, tag=self.tag, absent=self.tag is None)


def _is_date(name: str) -> bool:
    return len(name) == 10 and name[4] == name[7] == "-"


def _content(root: Path) -> dict[str, object]:
    path = root / BUCKET_FILE
    content = unseal(path.read_bytes(), str(path), f"Remove it, and set {SHARDS} again")
    with expected_form(str(path)):
        ObjectName(content["at"]).bucket  # noqa: B018
    return dict(content)


def bucket_of(root: Path) -> Bucket | None:
    """The bucket that a store lies in; None for a store on a disk.

    Raises:
        DamagedError: the file that says so is damaged.
    """
    if not os.path.exists(f"{root}/{BUCKET_FILE}"):  # a tenth of what a file that is not there costs as an error
        return None
    return Bucket(root, ObjectName(str(_content(root)["at"])))


def lie_in_bucket(root: Path, place: str) -> None:
    """Makes a folder this machine's side of the store at `place`; nothing where it is that already.

    Raises:
        UsageError: `place` names no bucket, or the folder is a store of its own, or the side of another one.
    """
    if not is_remote(place) or len(ObjectName(place).parts) < 3:
        raise UsageError(f"{SHARDS}={place} names no place in a bucket", todo="Write s3://BUCKET/FOLDER")
    at, known = ObjectName(place), bucket_of(root)
    if known is None and (root / CURRENT).exists():
        todo = f"Copy its files to {at} with a tool of your own, and move the folder away; or unset {SHARDS}"
        raise UsageError(
            f"a store of this machine lies here, and {SHARDS} names {at}", where=Where(file=str(root)), todo=todo
        )
    if known is not None and str(known.at) != str(at):
        todo = f"Take another data folder (DATESHARD_DATA), or set {SHARDS} as before"
        raise UsageError(
            f"this is the side of {known.at}, and {SHARDS} names {at}", where=Where(file=str(root)), todo=todo
        )
    if known is None:
        root.mkdir(parents=True, exist_ok=True)
        replace_file(root / BUCKET_FILE, seal({"at": str(at)}))


def make_way(root: Path, folder: Path) -> bool:
    """Moves a published folder aside so that it can be published again, in a store in a bucket alone.

    There the bucket is what readers fall back to, and a copy beside it would be another name than on a disk."""
    if not (root / BUCKET_FILE).exists():
        return False
    with suppress(FileNotFoundError):
        folder.rename(root / "staging" / uuid.uuid4().hex)
    return True


def has_store(root: Path) -> bool:
    """Whether a generation is committed there.

    Raises:
        ResourceError: a store in a bucket, and it does not answer.
    """
    bucket = bucket_of(root)
    return bucket.pointer() is not None if bucket else (root / CURRENT).exists()


def read_committed(root: Path, name: str) -> bytes:
    """Reads a file that never changes, of this machine or else of the bucket, which is kept.

    Raises:
        FileNotFoundError: neither has it.
    """
    try:
        return (root / name).read_bytes()
    except FileNotFoundError:
        bucket = bucket_of(root)
        if bucket is None or not bucket.copy_file(name):
            raise
        return (root / name).read_bytes()


def read_part(path: Path) -> bytes:
    """Reads a file of a published folder alone, without fetching the folder.

    Raises:
        FileNotFoundError: neither this machine nor a bucket has it.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        bucket = _bucket_above(path)
        data = bucket.read(str(path.relative_to(bucket.root))) if bucket else None
        if data is None:
            raise
        return data


def _bucket_above(path: Path) -> Bucket | None:
    for parent in list(path.parents)[:5]:
        if (parent / BUCKET_FILE).exists():
            return bucket_of(parent)
    return None


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Keeps a published folder from being removed within this context, and fetches it first where only a bucket has it.

    Nothing of a store on a disk; a folder that is nowhere is left to whoever reads it."""
    number = _hold(folder)
    try:
        yield
    finally:
        if number is not None:
            os.close(number)


def _hold(folder: Path) -> int | None:
    name = f"{folder}/{PUSHED}"
    while os.path.exists(name) or (not os.path.exists(folder) and _fetch(folder)):
        with suppress(FileNotFoundError):
            number = os.open(name, os.O_RDONLY)
            take_lock(number, fcntl.LOCK_SH, Path(name))
            if lies_at(Path(name), number):
                with suppress(PermissionError):  # another user's: who made it knows no use but his own
                    os.utime(number)
                return number
            os.close(number)
    return None


def open_held(path: Path) -> int:
    """Opens a file <kind>/<date>/<id>/<array>/<chunk>, which stays as long as the descriptor or a map of it does.

    Raises:
        OSError: neither this machine nor the bucket has it.
    """
    with in_use(path.parents[1]):
        number = os.open(path, os.O_RDONLY)
        take_lock(number, fcntl.LOCK_SH, path)
        return number


def opener_of(root: Path) -> Callable[[Path], int]:
    """What opens the files of a store's shards: of one in a bucket `open_held`."""
    return open_held if bucket_of(root) else lambda path: os.open(path, os.O_RDONLY)


def discard(folder: Path) -> bool:
    """Removes a folder of this machine that the bucket has, so that it is fetched anew; returns whether it did.

    It does not while the folder is in use."""
    return (folder / PUSHED).exists() and remove_folder(folder / PUSHED)


def discard_copies(root: Path, names: Iterable[str]) -> None:
    """Removes these folders of this machine that the bucket has: what is verified then is what lies there."""
    for name in names:
        discard(root / name)


def _fetch(folder: Path) -> bool:
    """Fetches a folder whole; returns whether the bucket has it. Whoever reads a file of it compares its hash."""
    bucket = _bucket_above(folder)
    if bucket is None or folder.relative_to(bucket.root).parts[0] in HERE_ALONE:
        return False
    there = list_objects(ObjectName(f"{bucket.at}/{folder.relative_to(bucket.root)}"))
    if not there:
        return False
    temporary = bucket.root / FETCHING / uuid.uuid4().hex
    temporary.mkdir(parents=True)
    with open(temporary / PUSHED, "xb") as mark:
        take_lock(mark.fileno(), fcntl.LOCK_EX, temporary / PUSHED)  # else it is what a killed process has left
        if not lies_at(temporary / PUSHED, mark.fileno()):  # and was taken for that before it was locked
            return _fetch(folder)
        try:
            side_by_side(lambda row: _fetch_file(bucket, row, folder, temporary), there)
            _mark(bucket.root, temporary, folder, mark)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return True


def _fetch_file(bucket: Bucket, row: tuple[ObjectName, ObjectFacts], folder: Path, temporary: Path) -> None:
    name, facts = row
    inside = (bucket.root / Path(name.key).relative_to(bucket.at.key)).relative_to(folder)
    path = temporary / inside
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "xb") as file:
        if not download(name, facts, file):
            what = "the object changed while it was read"
            raise DamagedError(what, where=Where(file=str(name)), todo="Run the command again")


def _mark(root: Path, written: Path, folder: Path, locked: BinaryIO | None = None) -> None:
    """Marks a folder as one that the bucket has, with its bytes, and moves it to its name; lets go of its lock."""
    num_bytes = sum(path.stat().st_size for path in written.rglob("*") if path.is_file())
    with room_for(root.parents[1], num_bytes):
        (written / PUSHED).write_text(str(num_bytes))
        if written != folder:
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                written.rename(folder)
            except OSError:
                if not folder.exists():  # else another process was first
                    raise
        if locked:
            locked.close()
