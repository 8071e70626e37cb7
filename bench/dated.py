"""How scripts of this folder tell their figures: a line that says when and where, tables, and dated files in results/."""

from __future__ import annotations

import datetime as dt
import os
import platform
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
Where = tuple[str, Mapping[str, str]]  # the head of a column, and with which words other cells of the row begin


def heading(what: str, how: str) -> str:
    """The first line of a result: what was measured, when, on what machine, how, and how busy the machine was."""
    return (
        f"{what}, {dt.date.today()}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; "
        f"{how}; load {os.getloadavg()[0]:.1f}\n"
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]
    return "\n".join(lines) + "\n"


def spread(values: Sequence[float]) -> str:
    """The least of repeated figures, and in brackets their median and the most."""
    return f"{figure(min(values))} ({figure(statistics.median(values))}, {figure(max(values))})"


def figure(value: float) -> str:
    """A figure of three digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def keep(kind: str, text: str) -> Path:
    """Writes a result of this minute: figures of separate times stand side by side."""
    path = RESULTS / f"{dt.datetime.now():%Y-%m-%d-%H%M}-{kind}.md"
    path.write_text(text)
    return path


@dataclass(frozen=True, slots=True)
class DatedResult:
    """A file of bench/results: its day and perhaps its minute, its first line of text, and its tables."""

    path: Path
    when: str
    about: str
    tables: list[str]

    @property
    def rows(self) -> Iterator[dict[str, str]]:
        """All rows of all tables, by the heads of their columns."""
        for each in self.tables:
            heads, _, *rows = (_cells(line) for line in each.splitlines())
            for row in rows:
                yield dict(zip(heads, row, strict=True))


def _cells(line: str) -> list[str]:
    return [each.strip() for each in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def kept(results: Path, kind: str) -> list[DatedResult]:
    """All results of a kind, the oldest first: files are named by date, perhaps time, and kind."""
    name = re.compile(rf"(\d{{4}}-\d\d-\d\d)(-\d{{4}})?-{re.escape(kind)}\.md")
    matches = [match for path in results.iterdir() if (match := name.fullmatch(path.name))]
    return [
        _read(results / match[0], match[1], match[2]) for match in sorted(matches, key=lambda m: (m[1], m[2] or ""))
    ]


def _read(path: Path, day: str, minute: str | None) -> DatedResult:
    text = path.read_text()
    tables = [block.strip() for block in re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE)]
    lines = (line.strip() for line in text.splitlines())
    when = f"{day} {minute[1:3]}:{minute[3:]}" if minute else day
    return DatedResult(path, when, next(line for line in lines if line and line[0] not in "#|"), tables)


def cells(result: DatedResult, where: Where) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The cells in a column of the rows with such cells, each with its row."""
    head, begins = where
    for row in result.rows:
        if head in row and all(
            re.match(rf"{re.escape(begin)}(?!\w)", row.get(name, "")) for name, begin in begins.items()
        ):
            yield row[head], row


def cell(result: DatedResult, where: Where) -> str | None:
    """The first of them; None if there is none."""
    return next((text for text, _ in cells(result, where)), None)
