"""How scripts of this folder tell their figures: a line that says when and where, tables, and a dated file in results/."""

from __future__ import annotations

import datetime as dt
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


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
    """Writes a result of today; one of the same kind and day is replaced."""
    path = RESULTS / f"{dt.date.today()}-{kind}.md"
    path.write_text(text)
    return path
