"""Text files as blocks of whole rows: unpacked, re-coded to UTF-8, cut at newlines that stand outside quotes."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dateshard.pipeline.raw.formats import BLOCK_BYTES, LONGEST_ROW, Request
from dateshard.pipeline.raw.formats.frame import framed
from dateshard.pipeline.raw.formats.packed import DAMAGED, is_packed, misnamed, opened
from dateshard.shardstore.errors import DumpError, NoRowsError, Where
from dateshard.shardstore.identity import ReadHash

BOM, UTF16 = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")
NEWLINE = ord("\n")
COUNTED_BYTES = 1 << 18  # looked at at once: what is made of them stays in the cache
AGAIN = "Write the dump again"


def chunks(path: Path, request: Request) -> Iterator[bytes]:
    """The file's bytes as they are once unpacked, BLOCK_BYTES at a time.

    Raises:
        DumpError: it cannot be read, or the packed file is damaged or cut.
    """
    place = request.where(path)
    try:
        if wrong := misnamed(path):
            raise DumpError(wrong[0], where=place, todo=wrong[1])
        with opened(path) as stream:
            hashed = None if request.hashes is None or is_packed(path) else ReadHash(stream.fileno())
            while chunk := stream.read(BLOCK_BYTES):
                if hashed:
                    hashed.update(chunk)
                yield bytes(chunk)
            if hashed and request.hashes is not None:
                request.hashes[path] = hashed
    except DAMAGED as error:
        raise DumpError(f"the compressed file is damaged or cut: {error}", where=place, todo=AGAIN) from None
    except OSError as error:
        if is_packed(path) and error.errno is None:
            raise DumpError(f"the compressed file is damaged or cut: {error}", where=place, todo=AGAIN) from None
        raise DumpError(f"cannot be read: {error.strerror or error}", where=place, todo=AGAIN) from None


def utf8(path: Path, request: Request) -> Iterator[bytes]:
    """Yields a file's bytes in UTF-8, without a byte order mark.

    Raises:
        DumpError: bytes that the declared encoding does not have.
    """
    name = request.csv.encoding
    if codecs.lookup(name).name == "utf-8":
        yield from _without_mark(path, request)
        return
    decoder, rows, first = codecs.getincrementaldecoder(name)(), 1, True
    for chunk in chain(chunks(path, request), [b""]):
        try:
            text = decoder.decode(chunk, final=not chunk).encode()
        except UnicodeError as error:
            seen = error.object[: error.start] if isinstance(error, UnicodeDecodeError) else b""
            byte = f": the byte 0x{error.object[error.start]:02x}" if isinstance(error, UnicodeDecodeError) else ""
            where, todo = (
                request.where(path, row=rows + seen.count(b"\n")),
                "Correct the dump, or pipeline.source.csv.encoding",
            )
            raise DumpError(f"not {name}{byte}", where=where, todo=todo) from None
        rows += count_of(text, b"\n")
        yield text.removeprefix(BOM) if first else text
        first = False


def _without_mark(path: Path, request: Request) -> Iterator[bytes]:
    """The bytes of a file that should be UTF-8."""
    first = True
    for chunk in chunks(path, request):
        if first and chunk[:2] in UTF16:
            todo = "Write the dump as UTF-8, or set pipeline.source.csv.encoding: utf-16"
            raise DumpError("the file is UTF-16, not UTF-8", where=request.where(path, row=1), todo=todo)
        yield chunk.removeprefix(BOM) if first else chunk
        first = False


def blocks(path: Path, request: Request) -> Iterator[bytes]:
    """UTF-8 blocks of whole rows, each ending with a newline.

    Raises:
        DumpError: an empty file, no newline at the end, a NUL byte, a quote that is never closed.
    """
    quote = request.csv.quote.encode() if request.csv.quote else None
    carried, read = b"", 0
    for chunk in framed(utf8(path, request), request.csv):
        if (at := chunk.find(b"\0")) >= 0:
            raise DumpError("a NUL byte", where=_place(read + at, path, request), todo="Correct the dump")
        block, carried = _whole_rows(carried, chunk, quote)
        read += len(chunk)
        if len(carried) > LONGEST_ROW:
            where = _place(read - len(carried), path, request)
            raise DumpError(_open_quote(carried, quote), where=where, todo="Correct the dump")
        if block:
            yield block
    if not read:
        raise NoRowsError("the file is empty", where=request.where(path), todo=f"{AGAIN}, or remove it")
    if carried:
        yield _last_row(carried, quote, read - len(carried), path, request)


def _place(position: int, path: Path, request: Request) -> Where:
    """The row of a byte of the text, which is read once more up to there: of a good file nobody counts its rows here."""
    row = 1
    for chunk in framed(utf8(path, request), request.csv):
        row += chunk.count(b"\n", 0, max(position, 0))
        position -= len(chunk)
    return request.where(path, row=row)


def count_of(text: bytes, character: bytes) -> int:
    """How often a byte stands in a text: ten times as fast as bytes.count where it is frequent."""
    if len(character) != 1:
        return text.count(character)
    data = np.frombuffer(text, dtype=np.uint8)
    pieces = (data[low : low + COUNTED_BYTES] for low in range(0, len(data), COUNTED_BYTES))
    return sum(int(np.count_nonzero(piece == character[0])) for piece in pieces)


def _last_row(text: bytes, quote: bytes | None, position: int, path: Path, request: Request) -> bytes:
    if quote and text.count(quote) % 2:
        where = _place(position, path, request)
        raise DumpError(_open_quote(text, quote), where=where, todo="Correct the dump")
    if request.csv.final_newline:
        what = "the file does not end with a newline: it may have been cut"
        todo = f"{AGAIN}, or set pipeline.source.csv.final_newline: false"
        raise DumpError(what, where=_place(position, path, request), todo=todo)
    return text + b"\n"


def _open_quote(text: bytes, quote: bytes | None) -> str:
    return "a quote that is never closed" if quote and quote in text else "a row of more than 64 MB"


def _whole_rows(carried: bytes, chunk: bytes, quote: bytes | None) -> tuple[bytes, bytes]:
    """Returns (text up to the last newline that stands outside quotes, the rest), copied once."""
    if not quote or (quote not in chunk and quote not in carried):
        end = chunk.rfind(b"\n") + 1
        return (b"".join((carried, memoryview(chunk)[:end])), chunk[end:]) if end else (b"", carried + chunk)
    text = carried + chunk
    ends = row_ends(text, quote)
    end = int(ends[-1]) + 1 if len(ends) else 0
    return text[:end], text[end:]


def row_ends(text: bytes, quote: bytes) -> NDArray[np.int64]:
    """Positions of the newlines outside quotes; the text begins outside."""
    data = np.frombuffer(text, dtype=np.uint8)
    newlines = np.flatnonzero(data == NEWLINE)
    quotes = np.flatnonzero(data == quote[0])
    outside: NDArray[np.int64] = newlines[np.searchsorted(quotes, newlines) % 2 == 0]
    return outside
