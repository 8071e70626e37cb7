"""The key of the configuration that reads a file which was refused, as far as its text shows it.

Each function gives a sentence that begins with what is seen and ends with `Set pipeline.source...`, or nothing.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dateshard.pipeline.raw.formats import SUFFIXES, Request, suffix_of
from dateshard.pipeline.raw.formats.header import Header, fields_of
from dateshard.pipeline.raw.formats.numbers import GROUPED, thousands_mark, with_thousands
from dateshard.pipeline.source import Csv
from dateshard.shardstore.errors import counted

SEPARATORS = (",", ";", "\t", "|")
MARKS = "#%!*/>"  # what comments begin with
MARKERS = {"na", "n/a", "#n/a", "nan", "null", "none", "nil", "-", "--", "---", ".", "?", "*", "missing", "\\n", "nd"}
MOST_LINES, MOST_BYTES = 100, 1 << 16  # of a file's beginning that are looked at
MOST_FOOTER, MOST_MARKERS, MOST_NAMES = 20, 6, 12
NUMBER = re.compile(r"[+-]?[0-9]*[.,]?[0-9]+(?:[eE][+-]?[0-9]+)?")
OR_LEAVE = ", or leave the "
TIME = re.compile(r"[0-9]{1,4}[-/.:][0-9]{1,2}.*")


def is_csv(path: Path) -> bool:
    """Whether the dialect of `source.csv` is about the file: of another suffix than the known ones it may be."""
    suffix = suffix_of(path)
    return suffix is None or SUFFIXES[suffix] == "csv"


def of_header(header: Header, request: Request) -> str:
    """Suggests settings for a CSV in whose header a wanted column is missing."""
    rest = header.rest[:MOST_BYTES].decode(errors="replace").split("\n")[:MOST_LINES]
    lines = [header.line, *(line.rstrip("\r") for line in rest)]
    dialect = request.csv
    for above, line in enumerate(lines):
        for separator in sorted(SEPARATORS, key=lambda character: character != dialect.separator):
            if request.columns.keys() <= set(_fields(line, dialect, separator)):
                keys = [] if separator == dialect.separator else [f"separator: {json.dumps(separator)}"]
                keys += _to_skip(lines[:above], header.row - 1 + above)
                return (
                    f"Row {header.row + above} names it. Set pipeline.source.csv.{' and csv.'.join(keys)}"
                    if keys
                    else ""
                )
    kinds = [[kind_of(field) for field in _fields(line, dialect, dialect.separator)] for line in lines[:2]]
    if len(kinds) == 2 and kinds[0] == kinds[1] and {"number", "time"} & set(kinds[0]):
        columns = counted(len(kinds[0]), "column")
        return f"If the file has no header, set pipeline.source.csv.columns to the names of its {columns}"
    return ""


def _fields(line: str, dialect: Csv, separator: str) -> list[str]:
    if separator in (dialect.decimal, dialect.quote) and separator != dialect.separator:
        return []
    try:
        return next(fields_of(line, dialect.model_copy(update={"separator": separator})), [])
    except csv.Error:
        return []


def _to_skip(above: Sequence[str], count: int) -> list[str]:
    """The key that leaves out what stands above a header: comments, if all of it begins with one mark."""
    marks = {line[0] for line in above if line}
    if len(marks) == 1 and (mark := marks.pop()) in MARKS:
        return [f"comment: {json.dumps(mark)}"]
    return [f"skip_rows: {count}"] if above else []


def kind_of(field: str) -> str:
    """Says what a field of a CSV looks like: number, time or text; nothing of an empty one."""
    if NUMBER.fullmatch(field):
        return "number"
    return "time" if TIME.fullmatch(field) else "text" if field else ""


def of_fields(lines: Sequence[str], wrong: NDArray[np.int64], row: int, header: Header, dialect: Csv) -> str:
    """Suggests settings for a CSV with rows of another number of fields than its header.

    Args:
        lines: from the first such row on, some of them. row: its number.
        wrong: places of such rows, counted from the first one.
    """
    mark, seen = lines[0][:1] or " ", wrong[wrong < len(lines)].tolist()
    if mark in MARKS and mark not in (dialect.separator, dialect.quote) and all(lines[k][:1] == mark for k in seen):
        return f"If it is a comment, set pipeline.source.csv.comment: {json.dumps(mark)}"
    full = [k for k, line in enumerate(lines) if line]
    if row > header.row + 1 and len(wrong) == len(full) <= MOST_FOOTER:  # nothing but them up to the end
        return f"If the file ends with a footer, set pipeline.source.csv.skip_footer: {len(full)}"
    more = [_fields(lines[k], dialect, dialect.separator) for k in full[:MOST_LINES]]
    further = len(more[0]) - len(header.names)
    if dialect.columns is None and all(_ends_empty(fields, len(header.names), further) for fields in more):
        names, empty = [*header.names, *[""] * further], ", ".join(['""'] * further)
        named = json.dumps(names, ensure_ascii=False) if len(header.names) <= MOST_NAMES else f"its names and {empty}"
        return (
            f"Its rows end with {'a separator' if further == 1 else f'{further} separators'} and its header does not. "
            f"Set pipeline.source.csv.skip_rows: {header.row} and csv.columns: {named}"
        )
    if dialect.columns is not None and row == header.row + 1 and len(wrong) > 1:
        return _names_of_all({len(fields) for fields in more})
    if row == header.row + 1 and len(wrong) == 1:
        return f"If it is no row of data, set pipeline.source.csv.skip_rows: [{row}]"
    return ""


def to_leave_out(rows: Sequence[int], request: Request) -> str:
    """Says how rows of another number of fields are left out where the dump cannot be written again.

    Args:
        rows: their numbers; none where they are most of all.
    """
    leave = f"{OR_LEAVE}row{'s' if len(rows) > 1 else ''} out with pipeline.source"
    if request.date is not None:
        drop = f"{leave}.faults.other_fields: drop, or the date" if rows else f"{OR_LEAVE}date out"
        return f"{drop} with pipeline.exclude: [{request.date}]"
    if not rows:
        return ""
    skipped = request.csv.skip_rows
    if isinstance(skipped, int):
        skipped = tuple(range(1, skipped + 1))
    if len(skipped) + len(rows) > MOST_NAMES:
        return f"{leave}.faults.other_fields: drop"
    return f"{leave}.csv.skip_rows: {json.dumps([*skipped, *rows])}"


def _ends_empty(fields: Sequence[str], count: int, further: int) -> bool:
    return len(fields) == count + further and further > 0 and not any(fields[count:])


def _names_of_all(counts: Collection[int]) -> str:
    """Suggests names for a file without a header whose rows have another number of fields than the configuration names."""
    if len(counts) != 1:
        return ""
    (count,) = counts
    return (
        f'Name all {count} in pipeline.source.csv.columns: an unused one may be "", '
        'and "..." as the last stands for all further ones'
    )


def are_markers(texts: Collection[str]) -> bool:
    """Whether all of some texts commonly stand for a missing value."""
    return bool(texts) and all(text.strip().lower() in MARKERS for text in texts)


def of_markers(texts: Collection[str], count: int, path: Path, missing: Sequence[str]) -> str:
    """Suggests settings for values that are no numbers and that may stand for none."""
    known = are_markers(texts)
    alike = count > len(texts) and not any(re.search("[0-9]", text) for text in texts)
    if not texts or len(texts) > MOST_MARKERS or not (known or alike):
        return ""
    named = json.dumps([*missing, *sorted(texts)], ensure_ascii=False)
    key = f"csv.missing: {named}" if is_csv(path) else 'faults.bad_number: "null"'
    values = f"{count:,} value{'s are' if count > 1 else ' is'} {', '.join(map(repr, sorted(texts)))}"
    return f"{values}. {'For' if known else 'If that means'} a missing value, set pipeline.source.{key}"


def of_decimals(texts: Collection[str], count: int, path: Path, dialect: Csv) -> str:
    """Suggests settings for values that are no numbers but for their decimal mark; `1,234` alone may be a thousand."""
    other = "," if dialect.decimal == "." else "."
    marked = [re.fullmatch(rf"\s*[+-]?[0-9]*{re.escape(other)}([0-9]+)\s*", text) for text in texts]
    if not is_csv(path) or other == dialect.separator or not marked or not all(marked):
        return ""
    if all(match and len(match[1]) == 3 for match in marked):
        return ""
    values = f"{count:,} value{'s have' if count > 1 else ' has'} decimals after {other!r}"
    return f"{values}. Set pipeline.source.csv.decimal: {json.dumps(other)}"


def of_thousands(texts: Collection[str], count: int, path: Path, dialect: Csv) -> str:
    """Suggests settings for values that are no numbers but for a mark between their thousands."""
    grouped = [text for text in texts if GROUPED.fullmatch(text.strip())]
    chosen = with_thousands(texts, dialect) if is_csv(path) else None
    if not grouped or (chosen is None and len(grouped) < len(texts)):
        return ""
    value = min(grouped)
    mark = thousands_mark(value)
    what = (
        f"{count:,} values such as {value!r} look like numbers"
        if count > 1
        else f"1 value such as {value!r} looks like a number"
    )
    seen = f"{what} with {mark!r} between thousands"
    if chosen is None:
        return f"{seen}. No key reads that: remove each {mark!r} from the column"
    keys = [] if chosen.decimal == dialect.decimal else [f"decimal: {json.dumps(chosen.decimal)}"]
    keys.append(f"thousands: {json.dumps(chosen.thousands)}")
    may_be_decimals = mark in ".," and mark != dialect.decimal and all(_digits_around(mark, text) for text in texts)
    unless = f" (if {mark!r} is the decimal mark, csv.decimal instead)" if may_be_decimals else ""
    return f"{seen}. Set pipeline.source.csv.{' and csv.'.join(keys)}{unless}"


def _digits_around(mark: str, text: str) -> bool:
    return text.strip().lstrip("+-").replace(mark, "", 1).isdigit()


def of_units(row: int, path: Path) -> str:
    """Suggests settings for a first row that is the only bad one."""
    return f"If row {row} holds units, set pipeline.source.csv.skip_rows: [{row}]" if is_csv(path) else ""


def of_footer(count: int, path: Path, *, empty: bool) -> str:
    """Suggests settings for bad rows that are the last ones of a file."""
    if not is_csv(path) or (count > MOST_FOOTER and not empty):
        return ""
    rows = f"the last {count:,} rows are" if count > 1 else "the last row is"
    return f"If {rows} no data, set pipeline.source.csv.skip_footer: {count}"
