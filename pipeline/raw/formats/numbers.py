"""Numbers as people write them in text: decimal commas, and marks between thousands."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache

import polars as pl
from pydantic import ValidationError

from dateshard.pipeline.source import Csv

GROUPED = re.compile(  # 1.031,52 and 1,031.52 and 1 031.52: what stands between thousands, then what decimals follow
    "[+-]?[0-9]{1,3}(?:(?:[.][0-9]{3})+(?:,[0-9]+)?|(?:,[0-9]{3})+(?:[.][0-9]+)?"
    "|(?:[ '\u2019\u00a0\u202f][0-9]{3})+(?:[.,][0-9]+)?)"
)
MARKS = {",": ",", ".": ".", " ": " \u00a0\u202f", "'": "'\u2019"}  # csv.thousands: the characters that it means


def thousands_mark(grouped: str) -> str:
    """What stands between the thousands of a number."""
    return next(character for character in grouped.strip().lstrip("+-") if not character.isdigit())


@lru_cache(maxsize=64)
def _grouped(dialect: Csv) -> str:
    """The form of a number with the dialect's mark between its thousands: those of `GROUPED` that have this mark."""
    assert dialect.thousands is not None
    decimals = f"(?:{re.escape(dialect.decimal)}[0-9]+)?"
    return f"[+-]?[0-9]{{1,3}}(?:[{MARKS[dialect.thousands]}][0-9]{{3}})+{decimals}"


def with_points(texts: pl.Series, dialect: Csv) -> pl.Series:
    """Changes `1,5` to `1.5`, and `1.234,5` to `1234.5` where the dialect has a mark between thousands.

    Without one a text with a point in it stays no number where decimals follow a comma: `1.234` might be a thousand.
    """
    if dialect.thousands is not None:
        whole = texts.str.contains(rf"^\s*{_grouped(dialect)}\s*$").fill_null(value=False)
        texts = texts.str.replace_all(f"[{MARKS[dialect.thousands]}]", "").zip_with(whole, texts)
    if dialect.decimal == ",":
        texts = texts.str.replace(".", "?", literal=True).str.replace(",", ".", literal=True)
    return texts


def with_thousands(texts: Collection[str], dialect: Csv) -> Csv | None:
    """The dialect with the mark, and the decimals, by which all of some texts are numbers; None where none is so."""
    grouped = [text for text in texts if GROUPED.fullmatch(text.strip())]
    marks = {key for text in grouped for key, characters in MARKS.items() if thousands_mark(text) in characters}
    for decimal in sorted((".", ","), key=lambda mark: mark != dialect.decimal):
        for mark in sorted(marks):
            try:
                chosen = Csv.model_validate({**dialect.model_dump(), "decimal": decimal, "thousands": mark})
            except ValidationError:
                continue
            plain = f"[+-]?[0-9]*(?:{re.escape(decimal)}[0-9]+)?"
            form = re.compile(rf"\s*(?:{plain}|{_grouped(chosen)})\s*")
            if all(form.fullmatch(text) for text in texts):
                return chosen
    return None
