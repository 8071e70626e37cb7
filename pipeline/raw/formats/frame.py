"""What stands around a text file's rows: lines before the header, comments, units and a footer.

Such a line is made a blank one before rows are looked for: blank lines are no rows, but count, so that messages keep the
numbers that an editor shows. A quote in such a line quotes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dateshard.pipeline.raw.formats import LONGEST_ROW
from dateshard.pipeline.source import Csv

NEWLINE = ord("\n")


def is_framed(dialect: Csv) -> bool:
    """Whether the dialect says that some lines are no rows."""
    return bool(dialect.skip_rows or dialect.comment or dialect.skip_footer)


def framed(chunks: Iterator[bytes], dialect: Csv) -> Iterator[bytes]:
    """Yields the text with blank lines in place of those that are no rows; untouched where the dialect names none.

    Memory: a chunk, and the lines of the footer.
    """
    if not is_framed(dialect):
        yield from chunks
        return
    lines = _Lines(dialect)
    carried, footer = b"", _Footer(dialect.skip_footer)
    for chunk in chunks:
        text = carried + chunk
        end = text.rfind(b"\n") + 1
        carried = text[end:]
        if end:
            yield footer.hold(lines.blank(text[:end]))
        if len(carried) > LONGEST_ROW:  # is refused by who looks for rows
            yield carried
            carried = b""
    last = lines.blank(carried + b"\n")[:-1] if carried else b""
    yield footer.end(last)


class _Lines:
    """Blanks the lines that `skip_rows` and `comment` name.

    Knows the number of the next line, and whether a quoted field is open before it."""

    def __init__(self, dialect: Csv) -> None:
        skip = dialect.skip_rows
        self._first = skip if isinstance(skip, int) else 0
        self._listed = np.asarray(() if isinstance(skip, int) else skip, dtype=np.int64)
        self._comment = (dialect.comment or "").encode()
        self._quote = ord(dialect.quote) if dialect.quote else None
        self._row, self._open = 1, False

    def blank(self, text: bytes) -> bytes:
        """The lines of a text that ends with a newline."""
        data = np.frombuffer(text, dtype=np.uint8)
        ends = np.flatnonzero(data == NEWLINE)
        starts = np.concatenate([[0], ends[:-1] + 1])
        row_L = np.arange(self._row, self._row + len(ends))
        gone_L = (row_L <= self._first) | np.isin(row_L, self._listed)
        self._row += len(ends)
        if self._comment:
            self._blank_comments(data, starts, ends, gone_L)
        return _without(text, starts[gone_L], ends[gone_L])

    def _blank_comments(
        self, data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64], gone_L: NDArray[np.bool_]
    ) -> None:
        """Marks the comments as gone; a line inside a quoted field is none, and a quote in a line that is gone opens none."""
        likely = ~gone_L
        for place, letter in enumerate(self._comment):
            likely &= data[np.minimum(starts + place, len(data) - 1)] == letter
        quotes_L = np.zeros(len(ends), dtype=np.int64)
        if self._quote is not None:
            quotes = np.flatnonzero(data == self._quote)
            quotes_L = np.bincount(np.searchsorted(ends, quotes), minlength=len(ends))
        quotes_L[gone_L] = 0
        before = np.cumsum(quotes_L) - quotes_L + self._open
        taken = 0  # quotes of the comments before
        for line in np.flatnonzero(likely).tolist():
            if (before[line] - taken) % 2 == 0:
                taken += int(quotes_L[line])
                gone_L[line] = True
        self._open ^= bool((quotes_L.sum() - taken) % 2)


def _without(text: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> bytes:
    """The text with nothing left of the lines that start and end there but their newlines."""
    if not len(starts):
        return text
    kept = zip([0, *ends.tolist()], [*starts.tolist(), len(text)], strict=True)
    return b"".join(text[low:high] for low, high in kept)


class _Footer:
    """Holds the last lines back until more of the file follows; at its end they are the footer."""

    def __init__(self, num_lines: int) -> None:
        self._num_lines, self._held = num_lines, b""

    def hold(self, text: bytes) -> bytes:
        """What cannot be in the footer any more of the lines so far."""
        if not self._num_lines:
            return text
        text = self._held + text
        first = _first_of_last(text, self._num_lines)
        self._held = text[first:]
        return text[:first]

    def end(self, last: bytes) -> bytes:
        """The rest of the file, whose last line may have no newline."""
        if not self._num_lines:
            return last
        text = self._held + last
        first = _first_of_last(text, self._num_lines)
        return text[:first] + b"\n" * text.count(b"\n", first)


def _first_of_last(text: bytes, num_lines: int) -> int:
    """Where the last `num_lines` lines that are not blank begin."""
    start = len(text)
    while num_lines and start:
        end, start = start, text.rfind(b"\n", 0, start - 1) + 1
        num_lines -= bool(text[start:end].strip(b"\r\n"))
    return start
