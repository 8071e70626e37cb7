"""HTML of any report: a page around sections, tables, tiles. Everything that comes from data is escaped.

The page needs nothing else: style and script stand in it, and its own policy forbids it to load anything.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template

MOST_TILES = 7  # in a row


def page(title: str, body: Iterable[str]) -> str:
    """The whole document."""
    folder = files("dateshard.reports")
    look, own, script = (
        folder.joinpath(name).read_text(encoding="utf-8") for name in ("look.css", "page.css", "page.js")
    )
    template = Template(folder.joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(title=escape(title), style=look + own, script=script, body="\n".join(body))


def section(name: str, heading: str, parts: Iterable[str]) -> str:
    """A heading that can be linked to, and what stands below it."""
    return f'<section id="{name}"><h2>{escape(heading)}</h2>{"".join(parts)}</section>'


def card(parts: Iterable[str]) -> str:
    """Wraps parts in one sheet of the page."""
    return f'<div class="card">{"".join(parts)}</div>'


def pair(*figures: str) -> str:
    """Pictures side by side, below each other where the screen is narrow."""
    return f'<div class="pair">{"".join(figures)}</div>' if any(figures) else ""


def tiles(rows: Sequence[tuple[str, str, bool]]) -> str:
    """Shows (figure, what it is, whether it alarms) each, in even rows of seven at most."""
    cells = (
        f"<div{' class=alarm' if alarm else ''}><b>{escape(a)}</b><span>{escape(b)}</span></div>"
        for a, b, alarm in rows
    )
    a_row = -(-len(rows) // max(-(-len(rows) // MOST_TILES), 1))
    return f'<div class="tiles" style="--columns: {a_row}">{"".join(cells)}</div>'


def paragraph(words: str, css: str = "") -> str:
    """Wraps plain text in a paragraph; nothing where there is none."""
    return f'<p class="{css}">{escape(words)}</p>' if words else ""


def table(
    caption: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Iterable[int] = (),
    strong: Container[tuple[int, int]] = (),
    links: Sequence[str] = (),
) -> str:
    """Makes a table with a caption; nothing where there are no rows.

    Args:
        numbers: columns that stand at the right. strong: (row, column) of cells that stand out.
        links: where the first cells of the first rows lead.
    """
    if not rows:
        return ""
    right = set(numbers)

    def cell(row: int, k: int, words: str) -> str:
        css = [
            name
            for name, on in (("n", k in right), ("k", k == 0 and k not in right), ("best", (row, k) in strong))
            if on
        ]
        names = f' class="{" ".join(css)}"' if css else ""
        inner = escape(words)
        if k == 0 and row < len(links):
            inner = f'<a href="{escape(links[row], quote=True)}">{inner}</a>'
        return f"<td{names}>{inner}</td>"

    head = "".join(
        f'<th scope="col"{" class=n" if k in right else ""}>{escape(words).replace("_", "_<wbr>")}</th>'
        for k, words in enumerate(heads)
    )
    lines = ("".join(cell(number, k, words) for k, words in enumerate(row)) for number, row in enumerate(rows))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    inner = f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="tables"><table>{inner}</table></div>'


def folded(summary: str, parts: Iterable[str]) -> str:
    """What is shown on asking (and when printed)."""
    return f"<details><summary>{escape(summary)}</summary>{''.join(parts)}</details>"
