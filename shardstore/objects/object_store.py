"""An object store, `s3://bucket/key`, and what it is asked: facts, listings, bytes, and puts with a condition."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path, PosixPath
from typing import Any, BinaryIO, TypeVar

from dateshard.shardstore.errors import ResourceError, UsageError, Where

SCHEME = "s3://"
RANGE_BYTES = 32 << 20  # that one request asks for or sends: what a cut connection costs, and what is held in memory
SIDE_BY_SIDE = 4  # requests of one process at a time
RETRIES, RETRY_TIME = 10, dt.timedelta(minutes=3)  # of one request
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 15.0  # seconds, between those that are sent again here; as obstore has them
REFUSED = re.compile(r"status code: 40[13]\b")
ENDPOINTS = ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
KEYS = "AWS_ENDPOINT, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"
ACCESS = f"Check the address and the credentials ({KEYS})"
Item = TypeVar("Item")
Result = TypeVar("Result")


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


class ConditionError(Exception):
    """An object is there already, or is another one than was asked for; never leaves the store's own modules."""


def is_remote(path: str | Path) -> bool:
    """Whether a path leads into an object store."""
    return str(path).startswith(SCHEME)


def path_of(name: str) -> Path:
    """A path of this machine, or the name of an object."""
    return ObjectName(name) if is_remote(name) else Path(name)


def list_objects(prefix: ObjectName) -> list[tuple[ObjectName, ObjectFacts]]:
    """The objects below a name, in the store's order, not the one of that name itself.

    Raises:
        UsageError: obstore is not installed, or there is no such bucket. ResourceError: the store does not answer.
    """
    pages = asked(prefix, lambda: list(store_of(prefix.bucket).list(prefix.key or None)))
    rows = [row for page in pages for row in page]
    return [(ObjectName(f"{SCHEME}{prefix.bucket}/{row['path']}"), _facts(row)) for row in rows]


def _facts(row: Any) -> ObjectFacts:
    return ObjectFacts(row["size"], row["e_tag"] or str(int(row["last_modified"].timestamp())))


def head(name: ObjectName) -> ObjectFacts | None:
    """What the store says of an object now; None where there is none."""
    try:
        return _facts(asked(name, lambda: store_of(name.bucket).head(name.key)))
    except FileNotFoundError:
        return None


def get(name: ObjectName) -> tuple[bytes, str]:
    """Returns a small object whole, and the tag of just these bytes.

    Raises:
        FileNotFoundError: there is none. ResourceError: the store does not answer.
    """

    def whole() -> tuple[bytes, str]:
        answer = store_of(name.bucket).get(name.key)
        return bytes(answer.bytes()), _facts(answer.meta).tag

    answered: tuple[bytes, str] = asked(name, whole)
    return answered


def download(name: ObjectName, facts: ObjectFacts, to: BinaryIO) -> bool:
    """Writes an object to a file, range by range; returns whether it was still the same one at the end.

    Raises:
        FileNotFoundError: there is none. ResourceError: the store does not answer, or sends less than there is.
    """
    store = store_of(name.bucket)

    def piece(begin: int, end: int) -> bytes:
        data = bytes(store.get(name.key, options={"range": (begin, end)}).bytes())
        if len(data) != end - begin:
            raise OSError(f"{len(data):,} bytes instead of {end - begin:,}")
        return data

    for begin in range(0, facts.size, RANGE_BYTES):
        to.write(asked(name, partial(piece, begin, min(begin + RANGE_BYTES, facts.size))))
    return head(name) == facts


def put(name: ObjectName, data: bytes, *, tag: str | None = None, absent: bool = False) -> str:
    """Writes a small object whole on a condition, and returns its tag.

    It is sent again here where a connection is cut, for obstore does not; so a condition may be broken by the very put
    whose answer was lost, and the caller looks.

    Args:
        tag: only over the object that has it. absent: only where there is none. Neither: over whatever is there.

    Raises:
        ConditionError: the condition does not hold, and the server looks at it. ResourceError: the store does not answer.
    """
    store = store_of(name.bucket)
    from obstore import exceptions

    mode: Any = "create" if absent else "overwrite" if tag is None else {"e_tag": tag}

    def send() -> Any:
        try:
            return store.put(name.key, data, mode=mode, use_multipart=False)
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
            raise ConditionError(str(name)) from None
        except (exceptions.NotFoundError, FileNotFoundError):
            if tag is not None:  # what should be replaced is gone
                raise ConditionError(str(name)) from None
            raise

    for number in range(RETRIES):
        with suppress(ResourceError):
            return str(asked(name, send)["e_tag"])
        time.sleep(min(FIRST_PAUSE * 2**number, LONGEST_PAUSE))
    return str(asked(name, send)["e_tag"])


def upload(path: Path, name: ObjectName, *, look: bool) -> None:
    """Makes an object hold a file's bytes.

    Memory: one range.

    Args:
        look: it is probably there; nothing is sent where its tag says that it holds them.

    Raises:
        OSError: the file cannot be read. ResourceError: the store does not answer.
    """
    if look and (facts := head(name)) and facts.size == path.stat().st_size and has_tag(path, facts.tag):
        return
    store = store_of(name.bucket)
    asked(name, lambda: store.put(name.key, path, chunk_size=RANGE_BYTES, max_concurrency=1))


def has_tag(path: Path, tag: str) -> bool:
    """Whether an object with that tag is known to hold a file's bytes.

    The tag is the MD5 of the content, of one that came in several requests the MD5 of theirs; not so on a server that
    encrypts: then nothing is known."""
    with open(path, "rb") as file:
        hashes = [hashlib.md5(data, usedforsecurity=False) for data in iter(lambda: file.read(RANGE_BYTES), b"")]
    if (
        len(hashes) <= 1
        and tag.strip('"') == (hashes[0] if hashes else hashlib.md5(b"", usedforsecurity=False)).hexdigest()
    ):
        return True
    joined = hashlib.md5(b"".join(each.digest() for each in hashes), usedforsecurity=False)
    return tag.strip('"') == f"{joined.hexdigest()}-{len(hashes)}"


def side_by_side(do: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Calls `do` with every item, a few at a time, and returns the results in order; the first error ends all."""
    pool = ThreadPoolExecutor(SIDE_BY_SIDE)
    try:
        return list(pool.map(do, items))
    finally:
        pool.shutdown(cancel_futures=True)


def asked(name: ObjectName, call: Callable[[], Any]) -> Any:
    """Asks a store. obstore asks again where a connection is cut, in the middle of an answer too.

    Raises:
        FileNotFoundError: there is no such object. UsageError: not allowed. ResourceError: no answer.
    """
    store_of(name.bucket)
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


def endpoint() -> str:
    """The address that requests go to; empty for that of AWS."""
    return next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), "")


@cache
def store_of(bucket: str) -> Any:
    """A client of a bucket.

    Raises:
        UsageError: obstore is not installed.
    """
    try:
        from obstore.store import S3Store
    except ImportError:
        todo = "Run: pip install 'dateshard[s3]'"
        raise UsageError("s3:// needs the package obstore, which is not installed", todo=todo) from None
    plain = any(os.environ.get(name, "").startswith("http:") for name in ENDPOINTS)
    client: Any = {"timeout": "120s", "connect_timeout": "10s", "allow_http": plain}
    retry: Any = {"max_retries": RETRIES, "retry_timeout": RETRY_TIME}
    return S3Store(bucket, client_options=client, retry_config=retry)
