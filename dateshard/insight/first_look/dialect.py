"""The dialect of a CSV by its first and last lines: separator, decimal mark, what stands around the rows, and the header."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dateshard.insight.first_look.text_sample import TextSample
from dateshard.pipeline.raw.formats.header import SEPARATOR_LINE, fields_of
from dateshard.pipeline.raw.formats.remedies import MARKS, are_markers, kind_of
from dateshard.pipeline.source import Csv

SEPARATORS = ("\t", ";", "|", ",", " ")  # of those that fit equally well the first: a comma may be a decimal mark
UNNAMED = "time"  # what such a column of times is called
INVENTED = "column_"  # and a number: names where a file has none
FIRST_LINES, LAST_LINES = 200, 30
ALIKE = 0.9  # of the lines have as many fields as most, or it is no separator
COMMA = re.compile(r"\s*[+-]?[0-9]*,[0-9]+\s*")
POINT = re.compile(r"\s*[+-]?[0-9]*\.[0-9]+\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How a CSV is written.

    Attributes:
        keys: of `pipeline.source.csv`, those that are not at their defaults.
        header: the names of the columns, given ones where the file has none.
        seen: why, in words. doubts: (what, which key to change).
    """

    keys: dict[str, Any]
    header: tuple[str, ...]
    seen: tuple[str, ...]
    doubts: tuple[tuple[str, str], ...]

    @property
    def csv(self) -> Csv:
        """The section as the pipeline reads it."""
        return Csv.model_validate(self.keys)


def dialect_of(sample: TextSample) -> Dialect:
    """Guesses the dialect of a file."""
    lines = [line.rstrip("\r") for line in sample.pieces[0].split("\n", FIRST_LINES)[:FIRST_LINES]]
    keys: dict[str, Any] = {}
    named = SEPARATOR_LINE.fullmatch(lines[0]) if lines else None
    separator, rows = (named[1], _fields(lines, named[1])) if named else _separator(lines)
    if separator != ",":
        keys["separator"] = separator
    full = [k for k, fields in enumerate(rows) if fields and not (named and k == 0)]
    width = Counter(len(rows[k]) for k in full).most_common(1)[0][0] if full else 1
    begin = _below_titles([k for k in full if len(rows[k]) == width], rows)
    header, keys_around = _around(lines, rows, begin, width, after=1 if named else 0)
    keys |= keys_around
    body = [rows[k] for k in full if k >= begin and len(rows[k]) == width][:FIRST_LINES]
    if footer := _footer(sample, separator, width):
        keys["skip_footer"] = footer
    marked = [[sum(bool(form.fullmatch(row[k])) for row in body) for form in (COMMA, POINT)] for k in range(width)]
    doubts = list[tuple[str, str]]()
    if header == _invented(width):
        doubts.append((f"no line names the columns: {header[0]} and so on are invented", "pipeline.source.csv.columns"))
    if separator != "," and sum(commas > points for commas, points in marked) > 0:
        keys["decimal"] = ","
        if mixed := sum(points for commas, points in marked if commas):
            doubts.append((f"{mixed:,} numbers have a decimal point", "pipeline.source.csv.decimal"))
    if sample.encoding != "utf-8":
        keys["encoding"] = sample.encoding
    spelled = {"\t": "tab", " ": "blank"}.get(separator, repr(separator))
    seen = [f"{width} fields a line, separated by {spelled}" if width > 1 else "one field a line"]
    seen += ["decimal commas"] if keys.get("decimal") == "," else []
    seen += [sample.encoding] if "encoding" in keys else []
    return Dialect(keys=keys, header=header, seen=tuple(seen), doubts=tuple(doubts))


def _separator(lines: Sequence[str]) -> tuple[str, list[list[str]]]:
    """Returns (the separator, the fields of each line; none of a blank one)."""
    best, rows_of_best, most = ",", _fields(lines, ","), (False, 0.0)
    for separator in SEPARATORS:
        rows = _fields(lines, separator)
        counts = Counter(len(fields) for fields in rows if fields)
        if not counts:
            continue
        width, many = counts.most_common(1)[0]
        share = many / counts.total()
        good = width > 1 and share >= ALIKE
        if (good, share if good else width > 1 and share) > most and (separator != " " or not most[0]):
            best, rows_of_best, most = separator, rows, (good, share)
    return best, rows_of_best


def _fields(lines: Sequence[str], separator: str) -> list[list[str]]:
    dialect, rows = Csv(separator=separator), list[list[str]]()
    for line in lines:
        try:
            rows.append(next(fields_of(line, dialect), []) if line.strip() else [])
        except csv.Error:  # a quote that is closed on another line
            rows.append([])
    return rows


def _below_titles(wide: Sequence[int], rows: Sequence[list[str]]) -> int:
    """The first of the lines that have all fields, below titles that a spreadsheet filled up with separators."""
    for k in wide[:-1]:
        if sum(map(bool, rows[k])) > 1:
            return k if all(kind_of(field.strip()) == "text" for field in rows[k]) else wide[0]
    return wide[0] if wide else 0


def _invented(width: int) -> tuple[str, ...]:
    return tuple(f"{INVENTED}{k}" for k in range(1, width + 1))


def _around(
    lines: Sequence[str], rows: Sequence[list[str]], begin: int, width: int, after: int
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Returns (names of the columns, keys): what stands above the rows, and whether the first of them names the columns.

    Args:
        begin: the first line with as many fields as most. after: lines at the start that the reader knows.
    """
    body = [fields for fields in rows[begin + 1 :] if len(fields) == width]
    above = [k for k in range(after, begin) if rows[k]]
    keys: dict[str, Any] = {}
    if above and _ends_empty(rows[begin:], len(rows[above[-1]]), width):  # its rows end with separators
        names = (*rows[above[-1]], *[""] * (width - len(rows[above[-1]])))
        return names, {"skip_rows": above[-1] + 1, "columns": list(names)}
    if above:
        marks = {lines[k][0] for k in above}
        mark = marks.pop()
        alone = not marks and mark in MARKS and not lines[begin].startswith(mark)
        keys |= {"comment": mark} if alone else {"skip_rows": begin}
    if not _names(rows[begin], body):
        names = _invented(width)
        return names, keys | {"columns": list(names)}
    if (unnamed := _unnamed_time(rows[begin], body)) is not None:
        names = (*rows[begin][:unnamed], UNNAMED, *rows[begin][unnamed + 1 :])
        return names, {"skip_rows": begin + 1, "columns": list(names)}
    if body and _units(rows[begin + 1], body[1:]):
        skipped = range(1, keys.get("skip_rows", 0) + 1)
        keys["skip_rows"] = [*skipped, begin + 2]
    return tuple(rows[begin]), keys


def _ends_empty(rows: Sequence[list[str]], count: int, width: int) -> bool:
    full = [fields for fields in rows if len(fields) == width]
    return 1 < count < width and not any(any(fields[count:]) for fields in full)


def _kinds(rows: Sequence[list[str]], column: int) -> set[str]:
    """The kinds of a column's values, without those that stand for none."""
    fields = [row[column].strip() for row in rows[:FIRST_LINES]]
    return {kind_of(field) for field in fields if field and not are_markers([field])}


def _names(first: Sequence[str], body: Sequence[list[str]]) -> bool:
    """Whether a row names the columns: some column has a text in it, and numbers or times below."""
    if not body:
        return not {"number", "time"} & {kind_of(field.strip()) for field in first}
    kinds = [("" if are_markers([name]) else kind_of(name.strip()), _kinds(body, k)) for k, name in enumerate(first)]
    if any(name == "text" and below and below <= {"number", "time"} for name, below in kinds):
        return True
    alike = any(name in ("number", "time") and name in below for name, below in kinds)
    return not alike and not any(first[k] in {row[k] for row in body} for k in range(len(first)))


def _unnamed_time(header: Sequence[str], body: Sequence[list[str]]) -> int | None:
    """The place of a column of times that has no name, as an index has none in many files; None if there is no such one."""
    if UNNAMED in header:
        return None
    places = (k for k, name in enumerate(header) if not name.strip())
    return next((k for k in places if body and _kinds(body, k) == {"time"}), None)


def _units(row: Sequence[str], body: Sequence[list[str]]) -> bool:
    """Whether a row holds units: texts in every column that has numbers alone below."""
    if len(row) != len(body[0] if body else ()):
        return False
    numeric = [k for k in range(len(row)) if _kinds(body, k) == {"number"}]
    texts = [row[k].strip() for k in numeric]
    return bool(texts) and any(texts) and not any(kind_of(text) == "number" or are_markers([text]) for text in texts)


def _footer(sample: TextSample, separator: str, width: int) -> int:
    """How many lines at the file's end have another number of fields."""
    if not sample.to_end:
        return 0
    last = [line.rstrip("\r") for line in sample.pieces[-1].rsplit("\n", LAST_LINES)[1:] if line.strip()]
    whole = (k for k, fields in enumerate(reversed(_fields(last, separator))) if not fields or len(fields) == width)
    return next(whole, 0)
