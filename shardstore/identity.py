"""Canonical JSON, content hashes and the ids made from them.

xxh3_128 for damage (6.8 GB/s here), sha256 for identities (small inputs). Neither is a signature: whoever can write
the store can rewrite its manifest.
"""

from __future__ import annotations

import datetime as dt
import gc
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import xxhash

from dateshard.shardstore.disk.naming import naming
from dateshard.shardstore.errors import DamagedError, UsageError, Where, refuse_special

CHUNK_BYTES = 1 << 20  # one read while hashing; the memory that hashing a file costs
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
BETWEEN_ROWS = re.compile(r'\},(?="\d{4}-\d\d-\d\d":\{)')
HEAD, TAIL_BYTES = b'{"content":', len(',"xxh3_128":""}\n') + 32  # around sealed content


def canonical(value: Any) -> bytes:
    """Spells `value` as JSON in one way: sorted keys, no spaces, UTF-8, NaN refused, floats by shortest repr."""
    return _utf8(_ENCODER.encode(value)) + b"\n"


def _utf8(json_text: str) -> bytes:
    """Encodes JSON in UTF-8.

    Bytes of a file's name that are no UTF-8 are lone surrogates in Python: these become JSON's own escapes, `\\udcff`,
    and are read as what they were."""
    return json_text.encode("utf-8", "backslashreplace")


def identity(value: Any) -> str:
    """Returns 16 hex digits of the sha256 of `value`'s canonical JSON."""
    return identity_of(canonical(value))


def identity_of(canonical_json: bytes) -> str:
    """Returns the `identity` of a value whose canonical JSON is at hand."""
    return hashlib.sha256(canonical_json).hexdigest()[:16]


def hash_bytes(*parts: Any) -> str:
    """Returns the xxh3_128 of buffers, one after the other (anything with the buffer protocol)."""
    state = xxhash.xxh3_128()
    for data in parts:
        state.update(data)
    return str(state.hexdigest())


def hash_descriptor(descriptor: int) -> tuple[int, str]:
    """Returns (bytes, xxh3_128) of a whole open file, without moving its position."""
    state, offset, buffer = xxhash.xxh3_128(), 0, bytearray(CHUNK_BYTES)
    view = memoryview(buffer)
    while count := os.preadv(descriptor, [view], offset):
        state.update(view[:count])
        offset += count
    return offset, str(state.hexdigest())


def hash_file(path: str | os.PathLike[str]) -> tuple[int, str]:
    """Returns (bytes, xxh3_128) of a whole file; memory: 1 MB."""
    with naming(path):
        refuse_special(path)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            return hash_descriptor(descriptor)
        finally:
            os.close(descriptor)


def stamp_of(status: os.stat_result) -> list[int]:
    """What changes when a file does: size, time of its content, place on its disk, time of its entry there."""
    return [status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns]


class ReadHash:
    """The hash of a file that is read anyway, of the very bytes that were read; costs what hashing memory costs."""

    def __init__(self, descriptor: int) -> None:
        """Begins with an open file of which nothing was read yet."""
        self._stamp, self._state = stamp_of(os.fstat(descriptor)), xxhash.xxh3_128()

    def update(self, data: bytes) -> None:
        """Takes the next bytes."""
        self._state.update(data)

    def of(self, path: str | os.PathLike[str]) -> str:
        """Returns the xxh3_128 of the whole file: it is read again if it does not stand as it did before."""
        if stamp_of(os.stat(path)) == self._stamp:
            return str(self._state.hexdigest())
        return hash_file(path)[1]


def seal(content: Any, spelled: Mapping[str, str] | None = None) -> bytes:
    """Returns `content` as canonical JSON with its own hash, so that a flipped bit anywhere is found on reading.

    Args:
        spelled: members of it whose canonical JSON is at hand; they take the place of those of their names.
    """
    if spelled:
        texts = {name: _ENCODER.encode(value) for name, value in content.items() if name not in spelled} | {**spelled}
        members = ",".join(f"{_ENCODER.encode(name)}:{texts[name]}" for name in sorted(texts))
        body = _utf8(f"{{{members}}}") + b"\n"
    else:
        body = canonical(content)
    return b"".join((HEAD, memoryview(body)[:-1], _tail(body)))


def unseal(data: bytes, file: str, todo: str = "") -> Any:
    """The content of sealed JSON. Every byte counts: the content by its hash, what stands around it by comparison.

    Raises:
        DamagedError: naming `file`, when the bytes are not what was sealed.
    """
    with _not_json_means_damaged(file, todo):
        if body := _sealed(data):
            return json.loads(body, parse_constant=_refuse)
    raise _damaged(file, todo)


def _sealed(data: bytes) -> bytes:
    """What a seal is around, as `canonical` wrote it; empty where the seal is not whole."""
    body = data[len(HEAD) : -TAIL_BYTES] + b"\n"
    return body if data.startswith(HEAD) and data[-TAIL_BYTES:] == _tail(body) else b""


class SpelledRow(Protocol):
    """What becomes of a date, with its content in JSON."""

    def to_json(self) -> dict[str, Any]:
        """The row as it is written."""
        ...


class RowTexts:
    """Canonical JSON of rows by date, a text for each: a row that stays as it was is not spelled again.

    Memory: the texts of all rows that were spelled or learned last.
    """

    def __init__(self) -> None:
        self._known: dict[dt.date, tuple[SpelledRow, str]] = {}  # each text without its last brace

    def learn(self, rows: Mapping[dt.date, SpelledRow], data: bytes) -> None:
        """Takes the texts of rows from the sealed file that they were read from, or are written in, in its order.

        They are parted where one row ends and the next begins, and each must begin with its own date: where one does
        not, or the file is not whole, nothing is learned and all rows are spelled."""
        _, _, dates = _sealed(data).decode("utf-8", "replace").partition('"dates":{')
        texts = BETWEEN_ROWS.split(dates, len(rows) - 1) if len(rows) > 1 and dates.startswith('"') else []
        if texts and [text[1:11] for text in texts] == [date.isoformat() for date in rows]:
            texts.pop()  # it holds what follows the dates, too
            self._known = {date: (row, text) for (date, row), text in zip(rows.items(), texts, strict=False)}

    def spell(self, rows: Mapping[dt.date, SpelledRow]) -> str:
        """Returns the canonical JSON of {date: row}."""
        spelled = dict[dt.date, tuple[SpelledRow, str]]()
        for date in sorted(rows):
            row, known = rows[date], self._known.get(date)
            if known is None or (known[0] is not row and known[0] != row):
                known = row, f'"{date}":{_ENCODER.encode(row.to_json())}'[:-1]
            spelled[date] = known
        self._known = spelled
        return f"{{{'},'.join([text for _, text in spelled.values()])}}}}}" if spelled else "{}"


def _refuse(constant: str) -> None:
    """NaN and its like are no JSON."""
    raise ValueError(constant)


def _tail(body: bytes) -> bytes:
    return b',"xxh3_128":"%b"}\n' % hash_bytes(body).encode()


def seal_readable(content: Mapping[str, Any]) -> bytes:
    """Returns `content` as indented JSON for people, its hash as the last key; keys keep their order."""
    sealed = {**content, "xxh3_128": hash_bytes(canonical(content))}
    return _utf8(json.dumps(sealed, indent=1, ensure_ascii=False, allow_nan=False)) + b"\n"


def unseal_readable(data: bytes, file: str, todo: str = "") -> dict[str, Any]:
    """The content of what `seal_readable` wrote. Every byte is compared, white space too.

    Raises:
        DamagedError: naming `file`.
    """
    with _not_json_means_damaged(file, todo):
        content: dict[str, Any] = json.loads(data)
        content.pop("xxh3_128")
        if seal_readable(content) == data:
            return content
    raise _damaged(file, todo)


@contextmanager
def nothing_to_collect() -> Iterator[None]:
    """Turns garbage collection off for a while: a hundred objects a date are made that all stay, and each search walks them.

    At its end they are old at once, so that no search for young ones walks them either."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            if not gc.get_freeze_count():  # else the program has frozen some itself, and they stay so
                gc.freeze()
                gc.unfreeze()  # into the oldest generation
            gc.enable()


@contextmanager
def _not_json_means_damaged(file: str, todo: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _damaged(file, todo) from None


def _damaged(file: str, todo: str) -> DamagedError:
    return DamagedError("the file's content does not match its own hash", where=Where(file=file), todo=todo)


@contextmanager
def expected_form(file: str, todo: str = "") -> Iterator[None]:
    """Around the taking apart of sealed content: a seal proves that bytes are as written, not that they mean anything.

    Raises:
        DamagedError: naming `file`, for content of another form.
    """
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError, UsageError):
        what = "its hash is right, but its content is not that of such a file"
        raise DamagedError(what, where=Where(file=file), todo=todo) from None
