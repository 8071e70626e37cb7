"""Reads strptime patterns with Python's meaning: what one lacks is told with the configuration, before any row.

Times are read by polars, whose directives are chrono's. Python's are a part of them but for fractions, offsets and an hour
without minutes, which are put in chrono's words here. What chrono has beyond Python's (`%F`, `%T`, `%e`, `%.f`, ...) is taken
as well. https://docs.python.org/3/library/datetime.html#format-codes
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

TOKEN = re.compile(r"%(?:\.[369]?f|[369]f|#z|:{1,3}z|[-_0]?[A-Za-z%+])|[^%]+|%")
WRITTEN_OUT = {
    "F": "%Y-%m-%d",
    "D": "%m/%d/%y",
    "x": "%m/%d/%y",
    "v": "%e-%b-%Y",
    "T": "%H:%M:%S",
    "X": "%H:%M:%S",
    "R": "%H:%M",
    "r": "%I:%M:%S %p",
    "c": "%a %b %d %H:%M:%S %Y",
    "h": "%b",
}
DATE, CLOCK = set("YyCmbBdejGVuwaAUW"), set("HkIlpPMSf")
OTHERS = {"s", "+", "z", "Z", "%", "n", "t"}
WIDTHS = dict.fromkeys("YG", 4) | dict.fromkeys("bja", 3) | dict.fromkeys("ymdHIMSUWV", 2) | dict.fromkeys("uw", 1)
TEXTS = {"Y": "[0-9]{4}", "M": "0{1,2}", "S": "0{1,2}", **dict.fromkeys("bBaA", "[A-Za-z.]+")}
JAVA = {
    **{"yyyy": "%Y", "yy": "%y", "MMM": "%b", "MM": "%m", "dd": "%d", "HH": "%H", "hh": "%I", "mm": "%M", "ss": "%S"},
    **{"SSS": "%f", "a": "%p", "'T'": "T"},
}
NO_MINUTES = ("|%M", "|00")  # what is added to a form, and to each text


class PatternError(ValueError):
    """A pattern that has no meaning; says why, and what may be meant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """A pattern in chrono's words.

    Attributes:
        form: for polars; `added` goes to the end of each text first.
        fraction: a regular expression and its replacement, by which `,5` becomes `.5`; None where nothing must.
        joint: what stands between the date and the time of day; None where they are not apart.
        zoned: whether a text tells an instant, by an offset or as seconds since 1970.
        short_year: whether the year has two digits.
        midnight: a text at the hour 24, in three groups around it; None where there is no hour of 24.
        clock: whether a time of day is in it.
        seconds: whether it counts seconds since 1970, which are of no zone.
        other: whether earlier versions read other times by it: they took a fraction for nanoseconds.
    """

    form: str
    added: str
    fraction: tuple[str, str] | None
    joint: str | None
    zoned: bool
    short_year: bool
    midnight: str | None
    clock: bool
    seconds: bool
    other: bool


@lru_cache(maxsize=64)
def read_pattern(text: str) -> Pattern:
    """Reads a pattern.

    Raises:
        PatternError: it is no pattern, or lacks a part of a date or time without which there is none.
    """
    tokens = _tokens(text)
    fields = [_field(token) for token in tokens if token.startswith("%")]
    _refuse_incomplete(fields, text)
    plain = "%f" in tokens
    fraction, tokens = _with_fraction(tokens)
    tokens = ["%#z" if token == "%z" else token for token in tokens]
    minutes = bool({"H", "k", "I", "l"} & set(fields)) and "M" not in fields
    return Pattern(
        form="".join(tokens) + (NO_MINUTES[0] if minutes else ""),
        added=NO_MINUTES[1] if minutes else "",
        fraction=fraction,
        joint=_joint(tokens),
        zoned=bool({"z", "s", "+"} & set(fields)),
        short_year="y" in fields and "C" not in fields,
        midnight=_midnight(tokens) if "%H" in tokens else None,
        clock=bool(CLOCK & set(fields)),
        seconds="s" in fields,
        other=plain,
    )


def _tokens(text: str) -> list[str]:
    """Directives, those that stand for several written out, and the texts between them."""
    tokens = list[str]()
    for token in TOKEN.findall(text):
        known = not token.startswith("%") or _field(token) in DATE | CLOCK | OTHERS | WRITTEN_OUT.keys()
        if not known or token == "%":
            raise PatternError(f"'{token}' is no directive of strptime")
        tokens += TOKEN.findall(WRITTEN_OUT.get(token[1:], token)) if token.startswith("%") else [token]
    return tokens


def _field(token: str) -> str:
    """The letter of a directive."""
    return token[-1]


def _refuse_incomplete(fields: list[str], text: str) -> None:
    """Raises PatternError for what makes no date, no time of day, or says one thing twice."""
    seen = set(fields)
    if not seen - {"%", "n", "t"}:
        raise PatternError("it holds no directive" + _meant(text))
    if repeated := next((field for field in fields if field not in "%nt" and fields.count(field) > 1), None):
        raise PatternError(f"'%{repeated}' stands in it twice")
    if seen & {"s", "+"}:
        return
    year, month, day = bool(seen & set("YyG")), bool(seen & set("mbB")), bool(seen & set("de"))
    weekday = bool(seen & set("uwaA"))
    by_week = weekday and ({"G", "V"} <= seen or ("Y" in seen and bool(seen & set("UW"))))
    if not (by_week or (year and ("j" in seen or (month and day)))):
        lacking = [name for name, there in (("year", year), ("month", month), ("day", day)) if not there]
        raise PatternError(f"it names no {' and no '.join(lacking) or 'day'}")
    hours, halves = bool(seen & set("Hk")), bool(seen & set("Il"))
    if halves and not seen & set("pP"):
        raise PatternError("%I counts to 12: it needs %p, or %H is meant")
    if seen & set("pP") and not halves:
        raise PatternError("%p goes with %I: %H counts to 24 and takes 12 for noon")
    if "M" in seen and not (hours or halves):
        raise PatternError("it names minutes and no hour")
    if "S" in seen and "M" not in seen:
        raise PatternError("it names seconds and no minutes")
    if "f" in seen and "S" not in seen:
        raise PatternError("it names a fraction and no seconds")


def _meant(text: str) -> str:
    """Suggests what a pattern of another language means: `; write '%Y-%m-%d'` for `yyyy-MM-dd`."""
    for written, directive in JAVA.items():
        text = text.replace(written, directive)
    try:
        return f"; write '{text}'" if "%" in text and read_pattern(text) else ""
    except PatternError:
        return ""


def _with_fraction(tokens: list[str]) -> tuple[tuple[str, str] | None, list[str]]:
    """Returns (how texts are changed, tokens), with Python's `%f` (up to six decimals) as chrono's `%.f` (any number)."""
    if "%f" not in tokens:
        return None, tokens
    place = tokens.index("%f")
    before, after = tokens[:place], tokens[place + 1 :]
    if not before[-1].startswith("%"):
        mark, start = before[-1][-1], "".join(token for token in before if not token.startswith("%"))[:-1]
        rest = [*before[:-1], before[-1][:-1], "%.f", *after]
        if mark == ".":
            return None, [token for token in rest if token]
        others = f"[^{re.escape(mark)}]*"
        to_mark = f"^((?:{others}{re.escape(mark)}){{{start.count(mark)}}}{others}){re.escape(mark)}([0-9]+)"
        return (to_mark, "${1}.${2}"), [token for token in rest if token]
    widths = [WIDTHS.get(token[1:], 0) if token.startswith("%") else len(token) for token in before]
    if not all(widths):
        raise PatternError("%f needs a point, or another mark, before it")
    return (f"^(.{{{sum(widths)}}})([0-9]+)", "${1}.${2}"), [*before, "%.f", *after]


def _joint(tokens: list[str]) -> str | None:
    """What stands between the last directive of the one half and the first of the other; None if they are mixed."""
    halves = [_half(token) for token in tokens]
    places = [place for place, half in enumerate(halves) if half]
    borders = [pair for pair in itertools.pairwise(places) if halves[pair[0]] != halves[pair[1]]]
    if len(borders) != 1:
        return None
    ((last, first),) = borders
    between = tokens[last + 1 : first]
    return None if any(token.startswith("%") for token in between) else "".join(between)


def _half(token: str) -> str:
    if not token.startswith("%"):
        return ""
    return "date" if _field(token) in DATE else "clock" if _field(token) in CLOCK else ""


def _midnight(tokens: list[str]) -> str:
    """A text of this form whose hour is 24 and whose minutes and seconds are 0, as (before)24(after)."""
    return "^(" + "".join(_as_expression(tokens)) + ")$"


def _as_expression(tokens: list[str]) -> Iterator[str]:
    for token in tokens:
        if token == "%H":
            yield ")24("
        elif token == "%.f":
            yield r"(?:\.0*)?"
        elif token.startswith("%") and token != "%%":
            yield TEXTS.get(token[1:], ".*" if _field(token) in "zZ" else "[0-9]{1,3}")
        else:
            yield re.escape(token)
