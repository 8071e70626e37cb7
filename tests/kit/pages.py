"""HTML pages taken apart: elements, tables by caption, words, and that every element is closed in its turn."""

from __future__ import annotations

import base64
import zlib
from html.parser import HTMLParser
from typing import Any

import numpy as np

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Elements, tables by caption, titles; and that every element is closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.words: dict[str, list[str]] = {"title": [], "figcaption": [], "p": []}
        self._caption = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag in VOID:
            return
        self.open.append(tag)
        if tag == "caption":
            self._caption = ""
        elif tag == "tr":
            self.tables.setdefault(self._caption, []).append([])
        elif tag in ("td", "th"):
            self.tables[self._caption][-1].append("")
        elif tag in self.words:
            self.words[tag].append("")

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "caption":
            self._caption += data
        elif "td" in self.open or "th" in self.open:
            self.tables[self._caption][-1][-1] += data
        for tag in self.words:
            if tag in self.open:
                self.words[tag][-1] += data

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.elements if name in attributes]


def number(text: str) -> float:
    return float(text.replace(",", "").replace(" %", "").replace("–", "nan"))


def pixels(source: str) -> np.ndarray:
    """The palette places of a picture that `raster` made, from the PNG's own bytes."""
    data = base64.b64decode(source.removeprefix("data:image/png;base64,"))
    width, height = (int.from_bytes(data[k : k + 4], "big") for k in (16, 20))
    place, body = 8, b""
    while place < len(data):
        size, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        body += data[place + 8 : place + 8 + size] if kind == b"IDAT" else b""
        place += 12 + size
    return np.frombuffer(zlib.decompress(body), dtype=np.uint8).reshape(height, width + 1)[:, 1:]
