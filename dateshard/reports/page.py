"""HTML of any report: a page around sections, tables, tiles. Everything that comes from data is escaped.

The page needs nothing else: style and script stand in it, and its own policy forbids it to load anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template


def page(title: str, body: Iterable[str]) -> str:
    """The whole document."""
    folder = files("dateshard.reports")
    style, script = (folder.joinpath(f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    template = Template(folder.joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(title=escape(title), style=style, script=script, body="\n".join(body))


def section(name: str, heading: str, parts: Iterable[str]) -> str:
    """A heading that can be linked to, and what stands below it."""
    return f'<section id="{name}"><h2>{escape(heading)}</h2>{"".join(parts)}</section>'


def card(parts: Iterable[str]) -> str:
    """A sheet."""
    return f'<div class="card">{"".join(parts)}</div>'


def pair(*figures: str) -> str:
    """Pictures side by side, below each other where the screen is narrow."""
    return f'<div class="pair">{"".join(figures)}</div>' if any(figures) else ""


def tiles(rows: Sequence[tuple[str, str, bool]]) -> str:
    """(figure, what it is, whether it alarms) each."""
    cells = (
        f"<div{' class=alarm' if alarm else ''}><b>{escape(a)}</b><span>{escape(b)}</span></div>"
        for a, b, alarm in rows
    )
    return f'<div class="tiles">{"".join(cells)}</div>'


def paragraph(words: str, css: str = "") -> str:
    """Plain text."""
    return f'<p class="{css}">{escape(words)}</p>' if words else ""


def table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Iterable[int] = ()) -> str:
    """A table with a caption; the columns in `numbers` stand at the right. Nothing where there are no rows."""
    if not rows:
        return ""
    right = set(numbers)

    def cells(kind: str, words: Sequence[str]) -> str:
        css = ['class="n"' if k in right else 'class="k"' if k == 0 else "" for k in range(len(words))]
        return "".join(f"<{kind} {c}>{escape(text)}</{kind}>" for c, text in zip(css, words, strict=True))

    head = "".join(
        f'<th scope="col"{" class=n" if k in right else ""}>{escape(words)}</th>' for k, words in enumerate(heads)
    )
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    inner = f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="tables"><table>{inner}</table></div>'
