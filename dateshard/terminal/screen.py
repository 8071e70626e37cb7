"""What people see: tables, progress and numbers. Renders the events of both stages; computes nothing.

A terminal gets aligned columns and bars; a pipe gets the same tab-separated and a log line every few seconds.
Names and messages come from files of anybody: what would steer a terminal is spelled out, here and nowhere else.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO

from dateshard.shardstore.disk.naming import naming
from dateshard.terminal.indented import indented

LINE_SECONDS = 5.0  # between two log lines where there is no terminal
BAR_COLUMNS = 52  # what a bar with its counts and times takes of a line
LEAST_ROOM = 20  # of a wrapped column; with less it stands below its row


# C0 (with ESC, CR and BS) but tab and newline, DEL, C1, separators of lines, overrides of direction, lone surrogates
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def escaped(text: str) -> str:
    """Spells out what would steer a terminal: `\\x1b` for an escape. Newlines and tabs stay."""
    return STEERING.sub(lambda match: ascii(match[0])[1:-1], text)


def in_a_line(text: str) -> str:
    """Spells out newlines and tabs as well: a cell of a table, a line of a file."""
    return escaped(text).replace("\n", "\\n").replace("\t", "\\t")


def put(text: str, out: TextIO | None = None, *, lines: bool = False) -> None:
    """Writes a line, escaped, to stdout, or to stderr where that is given.

    Args:
        lines: the text is several lines, and what comes from files in it is escaped already.

    Raises:
        OSError: naming which of the two takes no more.
    """
    with naming("standard error" if out is sys.stderr else "standard output"):
        print(escaped(text if lines else text.replace("\n", "\\n")), file=out or sys.stdout, flush=True)


def put_document(document: object, *, in_lines: bool = False) -> None:
    """Writes one JSON document to stdout; JSON escapes all that steers a terminal but DEL."""
    text = indented(document) if in_lines else json.dumps(document, allow_nan=False)
    put(text.replace("\x7f", "\\u007f"), lines=True)


class Screen:
    """Where text for people goes: stdout, or stderr when stdout carries a JSON document.

    Args:
        works: the command's work is not its text: it goes on when the reader of a pipe (`| head`, a `tee`) has gone.
        out: takes the text instead.
    """

    def __init__(
        self, *, as_json: bool = False, quiet: bool = False, works: bool = False, out: TextIO | None = None
    ) -> None:
        self.out: TextIO = out or (sys.stderr if as_json else sys.stdout)
        self.quiet, self.works = quiet, works
        self.terminal = self.out.isatty()
        self.log: Callable[[str], None] | None = None  # takes every line as well, of a quiet command too

    def say(self, text: str = "", *, logged: bool = True) -> None:
        """One line, unless quiet."""
        if not self.quiet:
            self._put(text)
        if self.log and logged:
            self.log(text)

    def say_fitting(self, text: str, shorter: str, logged: str) -> None:
        """One line; a terminal on which it would be broken gets the shorter one. The log has its own."""
        self.say(text if not self.terminal or len(text) <= columns() else shorter, logged=False)
        if self.log:
            self.log(logged)

    def tell(self, text: str = "") -> None:
        """One line that counts as the result: not even quiet silences it."""
        self._put(text)
        if self.log:
            self.log(text)

    def _put(self, text: str) -> None:
        try:
            put(text, self.out)
        except BrokenPipeError:
            if not self.works:
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.out.fileno())  # what is still buffered goes there too, when the stream is closed
            os.close(nowhere)

    def draw(self, line: str) -> None:
        """One line of a picture, which `paint` may have coloured and which holds no names."""
        print(line, file=self.out, flush=True)

    def explain(self, text: str) -> None:
        """A sentence that counts as the result, broken between words on a terminal. Not for a command: that is copied."""
        if self.terminal:
            self._wrapped("", text, 0)
        else:
            self.tell(text)

    def paint(self, text: str, colour: str) -> str:
        """Coloured on a terminal that wants it (NO_COLOR, TERM=dumb); `colour` is an ANSI code such as `1;31`."""
        plain = not self.terminal or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        return text if plain else f"\x1b[{colour}m{text}\x1b[0m"

    def table(
        self, rows: Iterable[Sequence[str]], *, right: Iterable[int] = (), indent: str = "  ", wrap: bool = False
    ) -> None:
        """Rows in columns: aligned on a terminal (CJK takes two cells), tab-separated in a pipe.

        Args:
            wrap: the last column goes on below itself where the terminal is too narrow.
        """
        lines, numbers = [list(map(in_a_line, row)) for row in rows], set(right)
        if not self.terminal:
            for line in lines:
                self.tell("\t".join(line))
            return
        from rich.cells import cell_len

        count = max((len(line) for line in lines), default=0)
        widths = [max((cell_len(line[k]) for line in lines if k < len(line)), default=0) for k in range(count)]
        before = len(indent) + sum(widths[:-1]) + 2 * (count - 1)
        for line in lines:
            cells = []
            for k, text in enumerate(line):
                space = " " * (widths[k] - cell_len(text))
                cells.append(space + text if k in numbers else text + space)
            whole = (indent + "  ".join(cells)).rstrip()
            if not wrap or len(line) < count or cell_len(whole) <= columns():
                self.tell(whole)
                continue
            self._wrapped((indent + "  ".join(cells[:-1])).rstrip(), line[-1], before)

    def _wrapped(self, start: str, text: str, before: int) -> None:
        """A row whose last cell is too long: beside the others if there is room, else below them."""
        from rich.cells import cell_len

        text = in_a_line(text)
        if columns() - before < LEAST_ROOM:
            self.tell(start)
            start, before = "", 6
        line = start + " " * (before - cell_len(start))
        for word in text.split(" "):
            if cell_len(line) + cell_len(word) > columns() and (cell_len(line) > before):
                self.tell(line.rstrip())
                line = " " * before
            line += word + " "
        self.tell(line.rstrip())

    def fitting(self, *parts: str) -> str:
        """Joins as many of the parts, in their order of importance, as stand beside a bar on one line."""
        room, chosen = columns() - BAR_COLUMNS, list[str]()
        for fact in parts:
            if fact and sum(len(text) + 2 for text in chosen) + len(fact) <= room:
                chosen.append(fact)
        return "  ".join(chosen)

    def bar(self, label: str, total: int, *, whole: bool = False) -> Bar:
        """Progress of `total` equal things; `whole`: its note is all that the live line shows."""
        return Bar(self, label, total, whole=whole)


class _Nowhere(io.StringIO):
    """Takes text and keeps none of it."""

    def write(self, text: str) -> int:
        """Counts what it was given."""
        return len(text)


def screen_of(*, progress: bool) -> Screen:
    """The screen of a function in place of a command: what the command shows, or nothing at all."""
    return Screen(works=True) if progress else Screen(quiet=True, works=True, out=_Nowhere())


class Bar:
    """A progress bar on a terminal, a line every few seconds elsewhere, nothing when quiet."""

    def __init__(self, screen: Screen, label: str, total: int, *, whole: bool = False) -> None:
        self.screen, self.label, self.total, self.done = screen, label, total, 0
        self.began = self.said = time.monotonic()
        self._live: Any = None
        if screen.terminal and not screen.quiet:
            self._live = _live_bar(screen.out, whole)
            self._task = self._live.add_task(in_a_line(label), total=total, note="")
            self._live.start()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Counts `count` more as done."""
        self.done += count
        if self._live is not None:
            self._live.update(self._task, advance=count, note=in_a_line(note))
        elif time.monotonic() - self.said >= LINE_SECONDS:
            self.said = time.monotonic()
            self.screen.say(f"{in_a_line(self.label)}\t{self.done}/{self.total}\t{in_a_line(note)}")

    def note(self, note: str) -> None:
        """Another note beside the same count."""
        if self._live is not None:
            self._live.update(self._task, note=in_a_line(note))

    def reach(self, done: int, note: str = "") -> None:
        """So many are done; without a note the last one stays."""
        if note:
            self.advance(done - self.done, note)
            return
        if self._live is not None:
            self._live.advance(self._task, done - self.done)
        self.done = done

    def close(self) -> None:
        """Takes the bar away: what it counted is said in a line after it."""
        if self._live is not None:
            self._live.stop()

    def print(self, text: str) -> None:
        """A line above the bar."""
        if self._live is not None:
            self._live.console.print(in_a_line(text), markup=False, emoji=False, highlight=False, soft_wrap=True)
        else:
            self.screen.tell(text)


def _live_bar(out: TextIO, whole: bool) -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    note = TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True))
    columns = [
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("<"),
        TimeRemainingColumn(),
    ]
    return Progress(
        *([] if whole else columns),
        note,
        console=Console(file=out, highlight=False),
        refresh_per_second=5,
        transient=True,
    )


def columns() -> int:
    """Width of the terminal, or what COLUMNS says."""
    return shutil.get_terminal_size().columns


def size(num_bytes: float) -> str:
    """Writes a size as `1.2 MB`; MB = 10^6."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:,.1f} {unit}"
    return f"{num_bytes:,.0f} B"


def seconds(value: float) -> str:
    """Writes a duration as `0.8 s`, `41 s`, `2 min 05 s`."""
    if value < 10:
        return f"{value:.1f} s"
    return f"{value:.0f} s" if value < 60 else f"{int(value // 60)} min {int(value % 60):02d} s"


def rounded(value: float | None) -> str:
    """Writes at most six digits and no zeros after them, as of a setting; empty where there is none."""
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else f"{value}"


def number(value: float | None, digits: int = 4) -> str:
    """A figure for a table, `-` where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"
