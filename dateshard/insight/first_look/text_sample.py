"""Some of a text file's lines: all of a small file; of a large one its beginning, pieces of its middle and its end.

Nothing but that is read, however large the file is, and what is packed is unpacked up to a bound.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from dateshard.pipeline.raw.formats.packed import DAMAGED, is_packed, misnamed, opened
from dateshard.shardstore.errors import DumpError, Where

WHOLE_BYTES, HEAD_BYTES, PIECE_BYTES, NUM_PIECES = 4 << 20, 2 << 20, 128 << 10, 8
UNPACKED_BYTES = 64 << 20  # of a packed file that are looked through for its end
MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
HIGH = re.compile(rb"[\x80-\xff]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSample:
    """Lines of a file, in their order.

    Attributes:
        pieces: each begins and ends with a whole line; the first one with the file's first.
        encoding: as `source.csv.encoding` names it.
        to_end: its last lines are the file's last ones. closed: the file ends with a newline, as far as that was seen.
    """

    pieces: tuple[str, ...]
    encoding: str
    to_end: bool
    closed: bool

    @property
    def text(self) -> str:
        """All lines together, each with its newline."""
        return "".join(self.pieces)


def sample_text(path: Path) -> TextSample:
    """Reads some lines of a file.

    Memory: WHOLE_BYTES and what they are decoded to.

    Raises:
        DumpError: it cannot be read, its name says another format than its bytes, or it holds no text.
    """
    where = Where(file=str(path))
    try:
        if wrong := misnamed(path):
            raise DumpError(wrong[0], where=where, todo=wrong[1])
        with opened(path) as stream:
            raw, to_end = _packed(stream) if is_packed(path) else _plain(stream, path.stat().st_size)
    except (OSError, *DAMAGED) as error:
        what = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        raise DumpError(what, where=where, todo="Write it again") from None
    encoding = _encoding(raw)
    pieces = [piece.decode(encoding, errors="replace").removeprefix("\ufeff") for piece in raw]
    if not any(piece.strip() for piece in pieces):
        raise DumpError("the file is empty", where=where, todo="Name a file with rows")
    if any("\0" in piece for piece in pieces):
        raise DumpError("the file is not text", where=where, todo="Write it as CSV, JSON Lines or Parquet")
    closed = not to_end or pieces[-1].endswith("\n")
    return TextSample(pieces=tuple(_whole_lines(pieces, to_end)), encoding=encoding, to_end=to_end, closed=closed)


def _plain(stream: IO[bytes] | Any, size: int) -> tuple[list[bytes], bool]:
    """Returns (pieces, whether the last one is the file's end)."""
    if size <= WHOLE_BYTES:
        return [_read(stream, size)], True
    pieces = [_read(stream, HEAD_BYTES)]
    for number in range(1, NUM_PIECES + 1):
        at = HEAD_BYTES + (size - HEAD_BYTES - PIECE_BYTES) * number // NUM_PIECES
        stream.seek(at - at % 4)  # a character of UTF-16 is not divided
        pieces.append(_read(stream, PIECE_BYTES + at % 4))
    return pieces, True


def _packed(stream: IO[bytes] | Any) -> tuple[list[bytes], bool]:
    """Returns (pieces, whether the last one is the file's end): a packed file is unpacked up to UNPACKED_BYTES."""
    head = _read(stream, WHOLE_BYTES)
    if len(head) < WHOLE_BYTES:
        return [head], True
    pieces, seen, every = [head[:HEAD_BYTES]], len(head), UNPACKED_BYTES // NUM_PIECES
    last = head[-PIECE_BYTES:]
    while chunk := _read(stream, PIECE_BYTES):
        if seen // every != (seen + len(chunk)) // every:
            pieces.append(chunk)
        last, seen = (last + chunk)[-PIECE_BYTES:], seen + len(chunk)
        if seen >= UNPACKED_BYTES:
            return pieces, False
    return ([*pieces, last] if last not in pieces else pieces), True


def _read(stream: IO[bytes] | Any, size: int) -> bytes:
    """Reads so many bytes, or up to the end."""
    chunks, left = list[bytes](), size
    while left and (chunk := stream.read(left)):
        chunks.append(bytes(chunk))
        left -= len(chunk)
    return b"".join(chunks)


def _encoding(pieces: list[bytes]) -> str:
    for mark, name in MARKS:
        if pieces[0].startswith(mark):
            return name
    inside = [_inside(piece, first=not number) for number, piece in enumerate(pieces)]
    for name in ("utf-8", "gb18030"):
        with suppress(UnicodeDecodeError):
            for piece in inside:
                piece.decode(name)
            if name == "utf-8" or _in_pairs(inside):
                return name
    return "latin-1"  # which reads everything


def _in_pairs(pieces: list[bytes]) -> bool:
    """Whether bytes that are no ASCII stand in pairs, and in words of several pairs, as those of Chinese texts do."""
    lengths = [len(run) for piece in pieces for run in HIGH.findall(piece)]
    return sum(length % 2 == 0 for length in lengths) >= 0.9 * len(lengths) and sum(lengths) > 2 * len(lengths)


def _inside(piece: bytes, *, first: bool) -> bytes:
    """A piece without what a cut through a line may have left of a character at its ends."""
    begin = 0 if first else piece.find(b"\n") + 1
    return piece[begin : piece.rfind(b"\n") + 1] or piece


def _whole_lines(pieces: list[str], to_end: bool) -> Iterator[str]:
    """Yields the pieces without the lines that were cut, of equal newlines; the last line gets a newline."""
    for number, piece in enumerate(pieces):
        begin = piece.find("\n") + 1 if number else 0
        last = to_end and number == len(pieces) - 1
        text = piece[begin:] if last else piece[begin : piece.rfind("\n") + 1]
        if text:
            yield text if text.endswith("\n") else text + "\n"
