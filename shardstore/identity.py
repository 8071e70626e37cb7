"""Canonical JSON, content hashes and the ids made from them.

xxh3_128 for damage (6.8 GB/s here), sha256 for identities (small inputs). Neither is a signature: whoever can write
the store can rewrite its manifest.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

import xxhash

from shardstore.errors import DamagedError, Where

CHUNK_BYTES = 1 << 20  # one read while hashing; the memory that hashing a file costs


def canonical(value: Any) -> bytes:
    """`value` as JSON with one spelling: sorted keys, no spaces, UTF-8, NaN refused, floats by shortest repr."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.encode() + b"\n"


def identity(value: Any) -> str:
    """16 hex digits of the sha256 of `value`'s canonical JSON."""
    return hashlib.sha256(canonical(value)).hexdigest()[:16]


def hash_bytes(*parts: Any) -> str:
    """xxh3_128 of buffers, one after the other (anything with the buffer protocol)."""
    state = xxhash.xxh3_128()
    for part in parts:
        state.update(part)
    return str(state.hexdigest())


def hash_descriptor(descriptor: int) -> tuple[int, str]:
    """(bytes, xxh3_128) of a whole open file, without moving its position."""
    state, offset, buffer = xxhash.xxh3_128(), 0, bytearray(CHUNK_BYTES)
    view = memoryview(buffer)
    while count := os.preadv(descriptor, [view], offset):
        state.update(view[:count])
        offset += count
    return offset, str(state.hexdigest())


def hash_file(path: str | os.PathLike[str]) -> tuple[int, str]:
    """(bytes, xxh3_128) of a whole file; memory: 1 MB."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return hash_descriptor(descriptor)
    finally:
        os.close(descriptor)


def seal(content: Any) -> bytes:
    """`content` as canonical JSON that carries its own hash, so that a flipped bit anywhere is found on reading."""
    return canonical({"content": content, "xxh3_128": hash_bytes(canonical(content))})


def unseal(data: bytes, file: str, todo: str = "") -> Any:
    """The content of sealed JSON.

    Raises:
        DamagedError: naming `file`, when the bytes are not what was sealed.
    """
    try:
        sealed = json.loads(data)
        content = sealed["content"]
        if seal(content) == data:
            return content
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise DamagedError("the file's content does not match its own hash", where=Where(file=file), todo=todo)
