"""Dumps in an object store, `s3://bucket/key`: listed there, and read from verified copies in a cache of this machine.

    data/objects/<content hash>/<bucket>/<key>      a copy; written under another name and verified before it is renamed

A copy's path names its content and its object, so that it can be fetched again wherever it is read, and whatever became
of the cache. The least recently used ones go where all together are larger than the cache may be.
"""

from __future__ import annotations

import fcntl
import os
import re
import uuid
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from itertools import islice, takewhile
from pathlib import Path
from typing import BinaryIO

from dateshard.shardstore.disk.durable import disk_full_as_error, replace_file
from dateshard.shardstore.disk.lock import take_lock
from dateshard.shardstore.errors import DamagedError, DateshardError, DumpError, ResourceError, UsageError, Where
from dateshard.shardstore.identity import hash_file, identity, seal, unseal
from dateshard.shardstore.objects.copies_budget import FETCHING, NOTES, OBJECTS, lies_at, room_for
from dateshard.shardstore.objects.object_store import (
    SCHEME,
    ObjectFacts,
    ObjectName,
    download,
    head,
    list_objects,
    side_by_side,
)

COPY = re.compile(rf"(?:.*/)?{OBJECTS}/(?P<digest>[0-9a-f]{{32}})/(?P<bucket>[^/]+)/(?P<key>.+)", re.DOTALL)
SHOWN = 3

_listed: dict[str, ObjectFacts] = {}  # by name, as last seen
_in_order: list[str] = []  # its names sorted, or nothing where it has changed since


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
    names = list[ObjectName]()
    _in_order.clear()
    for gone in [other for other in _listed if f"{other}/".startswith(f"{prefix}/")]:
        del _listed[gone]  # what an earlier listing of this process saw
    for name, facts in list_objects(prefix):
        if not any(folder.startswith((".", "_")) for folder in name.parts[len(prefix.parts) :]):
            _listed[str(name)] = facts
            names.append(name)
    if not names and prefix.key and (own := head(prefix)):
        _listed[str(prefix)] = own
        names.append(prefix)
    return names


def files_under(name: ObjectName) -> list[Path]:
    """The object of this name, or all objects under it, in order. An empty one may only mark the folder of others."""
    own = _listed.get(str(name))
    if own and own.size:
        return [name]
    if not _in_order:
        _in_order.extend(sorted(_listed))
    first = bisect_left(_in_order, prefix := f"{name}/")
    under = takewhile(lambda other: other.startswith(prefix), islice(_in_order, first, None))
    return [ObjectName(other) for other in under] or ([name] if own else [])


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
    facts = _listed.get(str(name)) or head(name)
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


def hash_objects(names: Iterable[ObjectName]) -> None:
    """Downloads those that were never seen with their tags, a few at a time. One that is gone is left to its reader."""

    def hash_object(name: ObjectName) -> None:
        with suppress(FileNotFoundError):
            digest_of(name)

    side_by_side(hash_object, names)


def _note(name: ObjectName, facts: ObjectFacts) -> Path:
    """The file that remembers the hash of an object as its store tells it."""
    return _cache_folder() / NOTES / identity([str(name), facts.size, facts.tag])


def copy_of(name: ObjectName, digest: str) -> Path:
    """Where the copy of an object with that content lies, or would lie."""
    return _cache_folder() / digest / name.bucket / name.key


def _cache_folder() -> Path:
    return Path(os.environ.get("DATESHARD_DATA") or "data") / OBJECTS


def fetch(name: ObjectName) -> str:
    """Downloads an object into the cache and returns the hash of its content.

    Memory: one range.

    Raises:
        FileNotFoundError: there is none. ResourceError: the store does not answer, or sends less than there is.
    """
    folder = _cache_folder()
    temporary = folder / FETCHING / uuid.uuid4().hex
    temporary.parent.mkdir(parents=True, exist_ok=True)
    with disk_full_as_error(temporary), open(temporary, "xb") as file:
        take_lock(file.fileno(), fcntl.LOCK_EX, temporary)  # else it is what a killed process has left
        if not lies_at(temporary, file.fileno()):  # and was taken for that before it was locked
            return fetch(name)
        try:
            facts = _download(name, file)
            file.flush()
            digest = hash_file(temporary)[1]
            final = copy_of(name, digest)
            with room_for(folder.parent, facts.size):
                final.parent.mkdir(parents=True, exist_ok=True)  # in here nobody removes it for being empty
                temporary.replace(final)
                file.close()  # lets go of it, for others that make room
        finally:
            temporary.unlink(missing_ok=True)
    note = _note(name, facts)
    note.parent.mkdir(exist_ok=True)
    replace_file(note, seal({"digest": digest}), durable=False)
    return digest


def _download(name: ObjectName, to: BinaryIO) -> ObjectFacts:
    facts = facts_of(name)
    if download(name, facts, to):
        return facts
    _listed.pop(str(name), None)
    _in_order.clear()
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
            elif lies_at(file, number):  # nobody removed it before it was held
                os.utime(file)
                return file


def _content(hash_of: Callable[[ObjectName], str], name: ObjectName) -> str:
    try:
        return hash_of(name)
    except FileNotFoundError:
        raise DumpError(
            "there is no such object", where=Where(file=str(name)), todo="Check its path in the configuration"
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
