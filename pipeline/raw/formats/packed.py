"""Packed text files as the bytes that they hold: gzip, zstd, xz and bzip2, told apart by their suffix."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from dateshard.shardstore.errors import refuse_special

SUFFIXES = (".gz", ".zst", ".xz", ".bz2")
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, pa.ArrowInvalid)
TABLES = {".parquet": "Parquet", ".pq": "Parquet", ".arrow": "Arrow", ".ipc": "Arrow", ".feather": "Arrow"}
FORMS = (  # how files begin, and the suffix that says so
    (re.compile(rb"\x1f\x8b"), "gzip", ".gz"),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "zstd", ".zst"),
    (re.compile(rb"\xfd7zXZ\0"), "xz", ".xz"),
    (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), "bzip2", ".bz2"),
    (re.compile(rb"PK[\x03\x05][\x04\x06]"), "zip", ""),
    (re.compile(rb"PAR1\x15"), "Parquet", ".parquet"),
    (re.compile(rb"ARROW1\0\0"), "Arrow", ".arrow"),
)
TEXT = re.compile(rb"[\t\n\r\x20-\x7e\x80-\xff]+")
RENAME = "Correct pipeline.source.path and rename it to"
PACKED_BYTES = 1 << 20  # read from disk at once


def is_packed(path: Path) -> bool:
    """Whether the file's name says that it is packed."""
    return path.name.lower().endswith(SUFFIXES)


def misnamed(path: Path) -> tuple[str, str] | None:
    """Returns (what the first bytes are although the name says otherwise, what to do); None if they agree or are unknown.

    Raises:
        OSError
    """
    refuse_special(path)
    with open(path, "rb") as file:
        first = file.read(64)
    kind, right = next(((kind, right) for form, kind, right in FORMS if form.match(first)), ("", ""))
    suffix = path.suffix.lower()
    said = TABLES.get(suffix) or next((kind for _, kind, ending in FORMS if ending and ending == suffix), "text")
    bare = path.name if said == "text" else path.stem  # without the suffix that is not true
    if kind == "zip" or (right in SUFFIXES and suffix in TABLES):
        return f"its bytes are {kind}, and its name says {said}", "Unpack it first"
    if kind and kind != said:
        name = f"{path.stem if right in TABLES else bare}{right}"
        return f"its bytes are {kind}, and its name says {said}", f"{RENAME} {name}"
    if not kind and said != "text" and TEXT.fullmatch(first):
        name = f"{bare}.csv" if suffix in TABLES else bare
        return f"its bytes are plain text, and its name says {said}", f"{RENAME} {name}"
    return None


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes] | Any]:
    """A stream of the unpacked bytes; `read(n)` gives at most n of them.

    Raises, while it is read:
        one of DAMAGED, or an OSError without a number: the packed bytes are damaged or cut.
    """
    refuse_special(path)
    name = path.name.lower()
    if name.endswith(".gz"):
        with gzip.open(path, "rb") as stream:
            yield stream
    elif name.endswith(".zst"):
        with pa.input_stream(str(path), compression="zstd") as stream:
            yield stream
    elif name.endswith((".xz", ".bz2")):
        with open(path, "rb", buffering=0) as file:
            yield _Streams(file, lzma.LZMADecompressor if name.endswith(".xz") else bz2.BZ2Decompressor)
    else:
        with open(path, "rb", buffering=0) as stream:
            yield stream


class _Streams:
    """The streams of a file one after the other, as parallel packers write them.

    The standard library's own files take a damaged stream after the first one for padding: its rows would be gone in
    silence.
    """

    def __init__(self, file: IO[bytes], begin: Callable[[], Any]) -> None:
        self._file, self._begin = file, begin
        self._stream = begin()

    def read(self, size: int) -> bytes:
        """Reads at most `size` unpacked bytes; none at the end of the last stream."""
        while True:
            packed = b""
            if self._stream.eof:
                if not (packed := self._next_stream()):
                    return b""
                self._stream = self._begin()
            elif self._stream.needs_input and not (packed := self._file.read(PACKED_BYTES)):
                raise EOFError("it ends within a packed stream")
            unpacked: bytes = self._stream.decompress(packed, size)
            if unpacked:
                return unpacked

    def _next_stream(self) -> bytes:
        """The packed bytes after a whole stream, without the zeros that may stand between two of them."""
        packed = self._stream.unused_data.lstrip(b"\0")
        while not packed and (more := self._file.read(PACKED_BYTES)):
            packed = more.lstrip(b"\0")
        return bytes(packed)
