"""What a CSV or JSON Lines file says, read row by row by the standard library alone.

It shares no code with the pipeline. A reader that takes a file must find the same rows in it; it may refuse more.
"""

from __future__ import annotations

import csv
import datetime as dt
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})([T ])([0-9]{2}):([0-9]{2})(?::([0-5][0-9])(?:\.([0-9]{1,9}))?)?"
    r"(?:(Z)|([+-])([0-9]{2})(?::?([0-9]{2}))?)?"
)
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
BLANKS = "".join(
    map(chr, (*range(9, 14), 32, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000))
)
YEARS = range(1678, 2262)  # what nanoseconds in int64 hold
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
BAD, INFINITE = "bad", "infinite"

NAMES = ("time", "node", "speed", "vehicles")

Record = tuple[int, str, str, str]


class UnreadableError(Exception):
    """No reader of this format can make rows of the file."""


class UndefinedError(Exception):
    """Readers may differ: a node that is a number is spelled as its reader likes."""


@dataclass(frozen=True)
class Content:
    """Accepted records as (instant, node, speed, vehicles), numbers by their repr; and how many rows are rejected."""

    records: Counter[Record]
    rejected: int


def content(rows: Iterator[dict[str, Any]], date: dt.date, bad_number: str) -> Content:
    """The account of rows whose `bad_number` faults are refused or made null; times are UTC where they say nothing."""
    records: Counter[Record] = Counter()
    form, rejected = None, 0
    for row in rows:
        match = ISO.fullmatch(row["time"]) if row["time"] is not None else None
        instant = None
        if match and int(match[1]) in YEARS:
            instant, found = _instant(match), (match[4], match[7] is None, (match[9] or match[10]) is None)
            form = form or found
            instant = instant if found == form else None
        numbers = [_number(row[name]) for name in ("speed", "vehicles")]
        if bad_number == "null":
            numbers = ["nan" if number == BAD else number for number in numbers]
        start = (dt.datetime(date.year, date.month, date.day, tzinfo=dt.UTC) - EPOCH).days * 86400 * 10**9
        inside = instant is not None and 0 <= instant - start < 86400 * 10**9
        if not inside or row["node"] is None or BAD in numbers or INFINITE in numbers:
            rejected += 1
            continue
        assert instant is not None
        records[instant, row["node"], numbers[0], numbers[1]] += 1
    return Content(records, rejected)


def csv_rows(data: bytes) -> Iterator[dict[str, Any]]:
    """Rows of a CSV of commas and double quotes; a field without a character is a missing value."""
    if not data.endswith(b"\n"):
        raise UnreadableError("cut")
    text = data.removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape")
    lines = (line + "\n" for line in text.split("\n")[:-1])
    try:
        rows = [row for row in csv.reader(lines, strict=True) if row]
    except csv.Error as error:
        raise UnreadableError(str(error)) from None
    header = rows[0] if rows else []
    if len(rows) < 2 or any(header.count(name) > 1 for name in NAMES):
        raise UnreadableError("fields")
    whole = [row if len(row) == len(header) else [""] * len(header) for row in rows[1:]]  # others have no time then
    try:
        yield from [{name: row[header.index(name)] or None for name in NAMES} for row in whole]
    except ValueError:
        raise UnreadableError("no column") from None


def json_rows(data: bytes) -> Iterator[dict[str, Any]]:
    """Rows of JSON Lines; numbers are taken as they are spelled."""
    if not data.endswith(b"\n"):
        raise UnreadableError("cut")
    try:
        lines = [line for line in data.removeprefix(b"\xef\xbb\xbf").decode().split("\n") if line.strip()]
        rows = [json.loads(line, **_HOOKS) for line in lines]
    except (ValueError, RecursionError) as error:
        raise UnreadableError(str(error)) from None
    if not rows or not all(isinstance(row, dict) for row in rows) or not set(NAMES) <= set(rows[0]):
        raise UnreadableError("no column")
    yield from [{name: _spelled(row.get(name), name) for name in NAMES} for row in rows]


class _Spelled(str):
    """A number as it stands in the file."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if any(sum(key == name for key, _ in pairs) > 1 for name in NAMES):
        raise ValueError("a repeated key")
    return dict(pairs)


def _no_constant(name: str) -> None:
    raise ValueError(name)


_HOOKS: dict[str, Any] = {
    "object_pairs_hook": _once,
    "parse_float": _Spelled,
    "parse_int": _Spelled,
    "parse_constant": _no_constant,
}


def _spelled(value: Any, name: str) -> str | None:
    if isinstance(value, bool) and name in ("speed", "vehicles"):
        return str(int(value))
    if isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
        raise UnreadableError("no character")
    if name == "node" and (isinstance(value, bool | list | dict | _Spelled)):
        raise UndefinedError
    if name == "node" and not value:
        return None
    return value if value is None or isinstance(value, str) else "?"


def _instant(match: re.Match[str]) -> int | None:
    year, month, day, _, hour, minute, second, fraction, _, sign, ahead, minutes = match.groups()
    try:
        clock = dt.datetime(int(year), int(month), int(day), int(hour), int(minute), int(second or 0), tzinfo=dt.UTC)
    except ValueError:
        return None
    if int(ahead or 0) > 23 or int(minutes or 0) > 59:
        return None
    offset = (int(ahead or 0) * 60 + int(minutes or 0)) * (-60 if sign == "-" else 60)
    passed = clock - EPOCH
    return (passed.days * 86400 + passed.seconds - offset) * 10**9 + int((fraction or "0").ljust(9, "0"))


def _number(text: str | None) -> str:
    if text is None:
        return "nan"
    stripped = text.strip(BLANKS)
    if not stripped:
        return "nan"
    if not NUMBER.fullmatch(stripped):
        return BAD
    value = float(stripped) + 0.0  # a zero has no sign
    return INFINITE if math.isinf(value) else repr(value)
