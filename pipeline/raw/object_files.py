"""Dumps in an object store, `s3://bucket/key`: listed there, and read from verified copies in a cache of this machine.

    data/objects/<content hash>/<bucket>/<key>      a copy; written under another name and verified before it is renamed

A copy's path names its content and its object, so that it can be fetched again wherever it is read, and whatever became
of the cache. The least recently used ones go where all together are larger than the cache may be.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import os
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path, PosixPath
from typing import Any, BinaryIO

from dateshard.shardstore.disk.durable import disk_full_as_error, replace_file
from dateshard.shardstore.disk.lock import take_lock
from dateshard.shardstore.errors import DamagedError, DateshardError, DumpError, ResourceError, UsageError, Where
from dateshard.shardstore.identity import hash_file, identity, seal, unseal

SCHEME = "s3://"
FOLDER, NOTES = "objects", "known"
COPY = re.compile(rf"(?:.*/)?{FOLDER}/(?P<digest>[0-9a-f]{{32}})/(?P<bucket>[^/]+)/(?P<key>.+)", re.DOTALL)
BUDGET, BUDGET_GIB = "DATESHARD_OBJECTS_GIB", 20.0
RANGE_BYTES = 32 << 20  # that one request asks for: what a cut connection costs, and what is held in memory
RETRIES, RETRY_TIME = 10, dt.timedelta(minutes=3)  # of one request
SHOWN = 3
REFUSED = re.compile(r"status code: 40[13]\b")
ENDPOINTS = ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
KEYS = "AWS_ENDPOINT, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"
ACCESS = f"Check the address and the credentials ({KEYS})"


class ObjectName(PosixPath):
    """The name of an object, or of what would be a folder of them. No path of this machine."""

    def __str__(self) -> str:
        return SCHEME + "/".join(self.parts[1:])

    @property
    def bucket(self) -> str:
        """The bucket it lies in."""
        return self.parts[1]

    @property
    def key(self) -> str:
        """Names it within the bucket."""
        return "/".join(self.parts[2:])


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """What a store says of an object without sending it. `tag`: of its content: another one means that it changed."""

    size: int
    tag: str


_listed: dict[str, ObjectFacts] = {}  # by name, as last seen


def is_remote(path: str | Path) -> bool:
    """Whether a path leads into an object store."""
    return str(path).startswith(SCHEME)


def path_of(name: str) -> Path:
    """A path of this machine, or the name of an object."""
    return ObjectName(name) if is_remote(name) else Path(name)


def names_matching(pattern: str, expression: re.Pattern[str]) -> list[str]:
    """The names that match, of objects and of what would be their folders; in order.

    Args:
        expression: of whole names. pattern: that it was made of; only what lies under its fixed beginning is listed.

    Raises:
        UsageError: obstore is not installed, or there is no such bucket. ResourceError: the store does not answer.
    """
    fixed = re.split(r"[{*]", pattern, maxsplit=1)[0]
    prefix = ObjectName(fixed if fixed == pattern else fixed.rpartition("/")[0])
    if len(prefix.parts) < 2:
        raise UsageError(f"pipeline.source.path: {pattern} names no bucket", todo="Write s3://BUCKET/FOLDER/{date}.csv")
    matching = set[str]()
    for name in _list(prefix):
        above = len(prefix.parts)
        parts = name.parts
        matching.update(str(ObjectName(*parts[:count])) for count in range(max(2, above), len(parts) + 1))
    return sorted(name for name in matching if expression.fullmatch(name))


def _list(prefix: ObjectName) -> list[ObjectName]:
    """The objects under a name, and the one of this name itself."""
    store, names = _store(prefix.bucket), list[ObjectName]()
    for gone in [other for other in _listed if f"{other}/".startswith(f"{prefix}/")]:
        del _listed[gone]  # what an earlier listing of this process saw
    for page in _asked(prefix, lambda: list(store.list(prefix.key or None))):
        for row in page:
            name = ObjectName(f"{SCHEME}{prefix.bucket}/{row['path']}")
            if not any(folder.startswith((".", "_")) for folder in name.parts[len(prefix.parts) :]):
                _listed[str(name)] = _facts(row)
                names.append(name)
    if not names and prefix.key and (facts := _head(prefix)):
        _listed[str(prefix)] = facts
        names.append(prefix)
    return names


def _facts(row: Any) -> ObjectFacts:
    return ObjectFacts(row["size"], row["e_tag"] or str(int(row["last_modified"].timestamp())))


def _head(name: ObjectName) -> ObjectFacts | None:
    try:
        return _facts(_asked(name, lambda: _store(name.bucket).head(name.key)))
    except FileNotFoundError:
        return None


def files_under(name: ObjectName) -> list[Path]:
    """The object of this name, or all objects under it, in order. An empty one may only mark the folder of others."""
    own = _listed.get(str(name))
    if own and own.size:
        return [name]
    under = [ObjectName(other) for other in sorted(_listed) if other.startswith(f"{name}/")]
    return list[Path](under) or ([name] if own else [])


def no_object(pattern: str) -> str:
    """Tells what lies where a path of objects matches none."""
    fixed = re.split(r"[{*]", pattern, maxsplit=1)[0].rpartition("/")[0]
    there = sorted(other for other in _listed if other.startswith(f"{fixed}/"))
    more = ", ..." if len(there) > SHOWN else ""
    holds = f"under {fixed} there are {', '.join(there[:SHOWN])}{more}" if there else f"nothing lies under {fixed}"
    return f"{pattern}: no object matches the path: {holds}"


def facts_of(name: ObjectName) -> ObjectFacts:
    """What is known of an object since it was listed.

    Raises:
        FileNotFoundError: there is none.
    """
    facts = _listed.get(str(name)) or _head(name)
    if facts is None:
        raise FileNotFoundError(2, "No such object", str(name))
    return facts


def digest_of(name: ObjectName) -> str:
    """The hash of an object's content; it is fetched if it was never seen with this tag.

    Raises:
        FileNotFoundError: there is none. ResourceError: the store does not answer.
    """
    with suppress(FileNotFoundError, DamagedError):
        return str(unseal(_note(name, facts_of(name)).read_bytes(), str(name))["digest"])
    return fetch(name)


def _note(name: ObjectName, facts: ObjectFacts) -> Path:
    """The file that remembers the hash of an object as its store tells it."""
    return _cache_folder() / NOTES / identity([str(name), facts.size, facts.tag])


def copy_of(name: ObjectName, digest: str) -> Path:
    """Where the copy of an object with that content lies, or would lie."""
    return _cache_folder() / digest / name.bucket / name.key


def _cache_folder() -> Path:
    return Path(os.environ.get("DATESHARD_DATA") or "data") / FOLDER


def fetch(name: ObjectName) -> str:
    """Downloads an object into the cache and returns the hash of its content.

    Memory: one range.

    Raises:
        FileNotFoundError: there is none. ResourceError: the store does not answer, or sends less than there is.
    """
    folder = _cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{uuid.uuid4().hex}.part"
    with disk_full_as_error(temporary), open(temporary, "xb") as file:
        take_lock(file.fileno(), fcntl.LOCK_EX, temporary)  # else it is what a killed process has left
        if not _lies_at(temporary, file.fileno()):  # and was taken for that before it was locked
            return fetch(name)
        try:
            facts = _download(name, file)
            file.flush()
            digest = hash_file(temporary)[1]
            final = copy_of(name, digest)
            final.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(final)
        finally:
            temporary.unlink(missing_ok=True)
    note = _note(name, facts)
    note.parent.mkdir(exist_ok=True)
    replace_file(note, seal({"digest": digest}), durable=False)
    _make_room(folder, final)
    return digest


def _download(name: ObjectName, to: BinaryIO) -> ObjectFacts:
    facts, store = facts_of(name), _store(name.bucket)

    def piece(begin: int, end: int) -> bytes:
        data = bytes(store.get(name.key, options={"range": (begin, end)}).bytes())
        if len(data) != end - begin:
            raise OSError(f"{len(data):,} bytes instead of {end - begin:,}")
        return data

    for begin in range(0, facts.size, RANGE_BYTES):
        to.write(_asked(name, partial(piece, begin, min(begin + RANGE_BYTES, facts.size))))
    now = _head(name)
    if now == facts:
        return facts
    _listed.pop(str(name), None)
    what, todo = "the object changed while it was read", "Run the command again"  # what was read may be of both
    raise ResourceError(what, where=Where(file=str(name)), todo=todo)


@contextmanager
def held(files: Sequence[Path]) -> Iterator[tuple[Path, ...]]:
    """Opens copies of those files that are objects; nobody removes them meanwhile. Yields files of this machine.

    Errors about a copy name its object.

    Raises:
        DumpError: an object is gone, or another one than the copy was of. ResourceError: the store does not answer.
    """
    with ExitStack() as opened, _named():
        yield tuple(_hold(file, opened) for file in files)


def _hold(file: Path, opened: ExitStack) -> Path:
    if isinstance(file, ObjectName):
        file = copy_of(file, _content(digest_of, file))
    match = COPY.fullmatch(str(file))
    if not match:
        return file
    name, digest = ObjectName(shown(file)), match["digest"]
    while True:
        if not file.exists():
            if _content(fetch, name) != digest:
                what, todo = "the object changed since it was looked at", "Run the command again"
                raise DumpError(what, where=Where(file=str(name)), todo=todo)
            file = copy_of(name, digest)
        with suppress(FileNotFoundError):
            number = os.open(file, os.O_RDONLY)
            opened.callback(os.close, number)
            take_lock(number, fcntl.LOCK_SH, file)
            if hash_file(file)[1] != digest:
                file.unlink(missing_ok=True)  # damaged
            elif _lies_at(file, number):  # nobody removed it before it was held
                os.utime(file)
                return file


def _lies_at(path: Path, number: int) -> bool:
    """Whether a path still leads to an open file: another process may have removed it, and even fetched it again."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(number), os.stat(path))
    return False


def _content(hash_of: Callable[[ObjectName], str], name: ObjectName) -> str:
    try:
        return hash_of(name)
    except FileNotFoundError:
        raise DumpError(
            "there is no such object", where=Where(file=str(name)), todo="Check pipeline.source.path"
        ) from None


def shown(path: str | Path) -> str:
    """The name of the object that a path of the cache is a copy of; any other path as it is."""
    match = COPY.fullmatch(str(path))
    return f"{SCHEME}{match['bucket']}/{match['key']}" if match else str(path)


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except DateshardError as error:
        if error.where and error.where.file and (name := shown(error.where.file)) != error.where.file:
            raise type(error)(error.what, where=replace(error.where, file=name), todo=error.todo) from None
        raise


def budget_bytes() -> int:
    """What all copies together may take.

    Raises:
        UsageError: it is no number.
    """
    text = os.environ.get(BUDGET) or str(BUDGET_GIB)
    try:
        return int(float(text) * (1 << 30))
    except (ValueError, OverflowError):
        raise UsageError(f"{BUDGET}={text} is no number of GiB") from None


def _make_room(folder: Path, newest: Path) -> None:
    """Removes the copies that were not used for the longest time, and what killed downloads left; none that is in use."""
    for left in folder.glob("*.part"):
        _removed(left)
    copies = sorted((status.st_mtime_ns, path, status.st_size) for path, status in _copies(folder))
    total = sum(size for _, _, size in copies)
    for _, path, size in copies:
        if total <= budget_bytes():
            return
        if path != newest and _removed(path):
            total -= size


def _copies(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                if Path(parent) not in (folder, folder / NOTES):
                    yield Path(parent, name), os.stat(Path(parent, name))


def _removed(path: Path) -> bool:
    with suppress(OSError), open(path, "r+b") as stream:  # NFS locks exclusively only what may be written
        take_lock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB, path)
        if not _lies_at(path, stream.fileno()):
            return False
        path.unlink()
        for parent in path.parents:
            if parent.name == FOLDER:
                break
            with suppress(OSError):
                parent.rmdir()
        return True
    return False


def _asked(name: ObjectName, call: Callable[[], Any]) -> Any:
    """Asks a store. obstore asks again where a connection is cut, in the middle of an answer too.

    Raises:
        FileNotFoundError: there is no such object. UsageError: not allowed. ResourceError: no answer.
    """
    from obstore import exceptions

    try:
        return call()
    except (exceptions.NotFoundError, FileNotFoundError):
        raise FileNotFoundError(2, "No such object", str(name)) from None
    except (exceptions.BaseError, OSError) as error:
        if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
            raise _refusal(name, error) from None
        if REFUSED.search(str(error)):
            raise _refusal(name, error) from None
        what = f"the object store does not answer ({_brief(error)})"
        raise ResourceError(what, where=Where(file=str(name)), todo=ACCESS) from None


def _refusal(name: ObjectName, error: Exception) -> UsageError:
    return UsageError("the object store refuses", where=Where(file=str(name), value=_brief(error)), todo=ACCESS)


def _brief(error: Exception) -> str:
    return str(error).splitlines()[0][:200]


@cache
def _store(bucket: str) -> Any:
    try:
        from obstore.store import S3Store
    except ImportError:
        todo = "Run: pip install 'dateshard[s3]'"
        raise UsageError("dumps in s3:// need the package obstore, which is not installed", todo=todo) from None
    plain = any(os.environ.get(name, "").startswith("http:") for name in ENDPOINTS)
    client: Any = {"timeout": "120s", "connect_timeout": "10s", "allow_http": plain}
    retry: Any = {"max_retries": RETRIES, "retry_timeout": RETRY_TIME}
    return S3Store(bucket, client_options=client, retry_config=retry)
