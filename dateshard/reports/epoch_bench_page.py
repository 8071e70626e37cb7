"""The plot of `bench epoch`: bars of memory, time to the first batch, epoch and loss; alone, or on a page with the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dateshard.documents.benching import BenchEpochDocument, WayRow
from dateshard.reports.charts import HALF, canvas, figure, text
from dateshard.reports.html import card, page, paragraph, table
from dateshard.reports.page_files import write_page
from dateshard.terminal.screen import number, size
from dateshard.training.epoch_bench.bench_epoch_screen import duration, headline, legend, table_of

NAMES, BAR, FIGURES = 96, 20, 64  # room for the ways, height of a row, room for the figures
# Of a picture that stands alone, where no page's style reaches it.
STYLE = (
    "<style>svg{font:11.5px system-ui,'Liberation Sans',Arial,sans-serif;background:#fff}.label{fill:#5c636b}"
    ".strong{fill:#1c2126;font-weight:600}.bars.a{fill:#256d8f;opacity:.55}</style>"
)


@dataclass(frozen=True, slots=True)
class WayChart:
    """One chart: its title, the figure of a way, and how that is written."""

    title: str
    value_of: Callable[[WayRow], float | None]
    write: Callable[[float], str]


CHARTS = (
    WayChart("memory above an idle process", lambda row: row["peak_bytes"], size),
    WayChart("time to the first batch", lambda row: row["first_batch_seconds"], duration),
    WayChart("epoch, the first batch included", lambda row: row["epoch_seconds"], duration),
    WayChart("train loss of the epoch", lambda row: row["train_loss"], number),
)


def write_plot(path: Path, document: BenchEpochDocument) -> None:
    """Writes the page.

    Raises:
        DiskFullError, OSError: it cannot be written there.
    """
    write_page(path, bench_page(document).encode(errors="backslashreplace"))


def bench_page(document: BenchEpochDocument) -> str:
    """The whole page."""
    head = f"{paragraph('bench epoch', 'kicker')}<h1>Ways to feed an epoch</h1>{paragraph(headline(document), 'lead')}"
    heads, *rows = table_of(document["ways"])
    skipped = [f"{row['way']} was skipped: {row['skipped']}" for row in document["ways"] if row["skipped"]]
    pictures = [
        figure(canvas(HALF, _height(document), bars.title, _bars(document["ways"], 0, 0, bars)), f"<b>{bars.title}</b>")
        for bars in CHARTS
    ]
    body = [
        f"<header>{head}</header>",
        card(['<div class="pair">', *pictures, "</div>"]),
        card([table("", heads, rows, numbers=range(1, len(heads))), *(paragraph(words, "note") for words in skipped)]),
        f"<footer>{paragraph(legend(document))}</footer>",
    ]
    return page(f"{document['dataset']}: ways to feed an epoch", body)


def plot_of(document: BenchEpochDocument) -> str:
    """The four charts as one picture for a notebook: an SVG within HTML that needs no style from elsewhere."""
    height = _height(document) + 24
    parts = [STYLE]
    for place, bars in enumerate(CHARTS):
        x, y = place % 2 * (HALF + 20), place // 2 * (height + 10)
        parts.append(text(x + 6, y + 16, bars.title, css="strong"))
        parts.append(_bars(document["ways"], x, y + 22, bars))
    return canvas(2 * HALF + 20, 2 * height + 10, "ways to feed an epoch", parts)


def _height(document: BenchEpochDocument) -> int:
    return BAR * len(document["ways"]) + 6


def _bars(rows: Sequence[WayRow], x: float, y: float, bars: WayChart) -> str:
    """A bar a way, from zero, with its figure behind it."""
    most = max((value for row in rows if (value := bars.value_of(row)) is not None), default=0.0) or 1.0
    parts = []
    for k, row in enumerate(rows):
        top, value = y + k * BAR, bars.value_of(row)
        parts.append(text(x + NAMES - 8, top + 14, row["way"], anchor="end"))
        if value is None:
            parts.append(text(x + NAMES + 6, top + 14, "skipped" if row["skipped"] else "–"))
            continue
        wide = value / most * (HALF - NAMES - FIGURES)
        parts.append(f'<path class="a bars" d="M{x + NAMES:g},{top + 3}h{wide:.1f}v{BAR - 6}h-{wide:.1f}z"/>')
        parts.append(text(x + NAMES + wide + 6, top + 14, bars.write(value)))
    return "".join(parts)
