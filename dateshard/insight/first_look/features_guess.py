"""Which columns are features, how each is made, and which are targets."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dateshard.insight.first_look.layout_guess import DAY, Layout
from dateshard.insight.first_look.sampled_columns import Column, Numbers
from dateshard.pipeline.raw.formats.numbers import thousands_mark

FILL_STEPS = 12  # that a value is carried on over
MOST_CATEGORIES = 50  # of a text column of a table
MOST_LEFT_OUT = 20  # columns that are named with why they were left out
UNEQUAL = 10.0  # times as large as at another node are values that one scale does not suit
Order = tuple[NDArray[np.int64], NDArray[np.int64]]
TARGET = re.compile(r"^(target|label|y|class|output|ot)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What becomes of the columns.

    Attributes:
        keys: {feature: its section}. left_out: {column: why}.
        missing: texts that stand for a missing value, for `source.csv.missing`; seen_missing: in words.
        num_bad: values that are no numbers and not named there.
        inputs: none where all are. targets: none where all are.
    """

    keys: dict[str, dict[str, Any]]
    left_out: dict[str, str]
    missing: tuple[str, ...] = ()
    seen_missing: tuple[str, ...] = ()
    num_bad: int = 0
    inputs: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    why_targets: str = ""
    seen: dict[str, str] = field(default_factory=dict)
    doubts: tuple[tuple[str, str], ...] = ()


def guess_features(
    layout: Layout, columns: Mapping[str, Column], rows: Order, *, has_types: bool, unusable: Mapping[str, str]
) -> Features:
    """Guesses the features of the columns that hold neither times nor names.

    Args:
        rows: (by node and time, the node of each): in what order numbers may grow.
        has_types: missing values are told by the file's types, not by texts in it. unusable: {column: why}.
    """
    wide = set(layout.columns) if "wide" in layout.keys else set[str]()
    markers, nines = _missing(_numbers(layout, columns, wide))
    if not has_types:  # what one column shows to be missing is missing in all
        columns = {name: column.without(markers | nines) for name, column in columns.items()}
    numbers = _numbers(layout, columns, wide)
    left_out = _unread(layout, unusable)
    keys, seen = dict[str, dict[str, Any]](), dict[str, str]()
    for name, column in columns.items():
        if name in layout.columns and name not in wide:
            continue
        if name in numbers:
            if name not in wide:
                keys[name], seen[name] = _section(layout, column, numbers[name], rows, has_types=has_types)
        elif column.grouped:
            left_out[name] = f"numbers with {thousands_mark(column.grouped[0])!r} between thousands"
        elif layout.name == "table" and column.numbers is None and 1 < column.distinct <= MOST_CATEGORIES:
            keys[name], seen[name] = {"categorical": True}, f"{column.distinct} different texts"
        else:
            left_out[name] = column.no_quantity
    if wide:
        keys["value"], seen["value"] = _filled(layout, any(v.values.null_count() for v in numbers.values())), ""
    keys, seen = _of_records(layout, keys, seen, columns)
    more_markers, more_nines = _missing(numbers)
    markers, nines = markers | more_markers, nines | more_nines
    bad = sum(values.num_bad for values in numbers.values())
    if has_types:
        bad, markers, nines = bad + len(markers), set(), set()
    doubts = [
        (f"{name} never falls and is taken for a meter's reading", f"pipeline.features.{name}.aggregate")
        for name, section in keys.items()
        if section.get("aggregate") == "difference"
    ]
    doubts += _about_scales(layout, keys, numbers, rows[1])
    grouped = [name for name, column in columns.items() if (name in numbers or name in left_out) and column.grouped]
    doubts += [
        _about_thousands(columns[name], "they are made missing" if name in numbers else f"{name} is left out")
        for name in grouped[:MOST_LEFT_OUT]
    ]
    if nines:
        doubts.append((f"{', '.join(sorted(nines))} is taken for a missing value", "pipeline.source.csv.missing"))
    inputs, targets, why = _sides(layout, keys, columns)
    return Features(
        keys=keys,
        left_out=dict(list(left_out.items())[:MOST_LEFT_OUT]),
        missing=(*sorted(markers), *sorted(nines)),
        seen_missing=(f"{', '.join([*sorted(markers), *sorted(nines)])} for a missing value",)
        if markers or nines
        else (),
        num_bad=bad,
        inputs=inputs,
        targets=targets,
        why_targets=why,
        seen=seen,
        doubts=tuple(doubts),
    )


def _unread(layout: Layout, unusable: Mapping[str, str]) -> dict[str, str]:
    """The unusable columns, without those that are nodes of a wide dump by their names: whichever file has one, it is read."""
    nodes = layout.keys["wide"]["nodes"] if "wide" in layout.keys else None
    names = (name for name in unusable if nodes is None or not fnmatchcase(name, nodes))
    return {name or "(no name)": unusable[name] for name in names}


def _about_scales(
    layout: Layout, keys: Mapping[str, Mapping[str, Any]], numbers: Mapping[str, Numbers], who_R: NDArray[np.int64]
) -> list[tuple[str, str]]:
    """Tells of features of a grid whose values are usually far larger at one node than at another."""
    doubts = list[tuple[str, str]]()
    for name in (name for name, section in keys.items() if layout.name == "grid" and "aggregate" not in section):
        if "wide" in layout.keys:  # a column a node
            usual = [values.values.abs().median() for values in numbers.values()]
        else:
            sizes = pl.DataFrame({"who": who_R, "size": numbers[name].values.abs()})
            usual = sizes.group_by("who").median()["size"].to_list()
        above = [float(size) for size in usual if isinstance(size, float) and size > 0]
        apart = max(above, default=1.0) / min(above, default=1.0)
        if apart > UNEQUAL:
            what = f"{name} is usually {apart:,.0f} times as large at one node as at another, and all share one scale"
            doubts.append((what, f"pipeline.features.{name}.scale_per: node"))
    return doubts[:MOST_LEFT_OUT]


def _numbers(layout: Layout, columns: Mapping[str, Column], wide: Collection[str]) -> dict[str, Numbers]:
    """Returns {name: numbers} of the columns that hold quantities."""
    return {
        name: column.numbers
        for name, column in columns.items()
        if (name in wide or name not in layout.columns)
        and column.numbers is not None
        and (name in wide or not column.no_quantity)
    }


def _missing(numbers: Mapping[str, Numbers]) -> tuple[set[str], set[str]]:
    """Returns (texts, numbers of nines) that stand for a missing value in any of some columns."""
    markers = {text for values in numbers.values() for text in values.markers}
    return markers, {text for values in numbers.values() for text in values.nines}


def _about_thousands(column: Column, becomes: str) -> tuple[str, str]:
    mark = thousands_mark(column.grouped[0])
    what = f"values such as {column.grouped[0]!r} look like numbers with {mark!r} between thousands; {becomes}"
    return f"{what}: remove each {mark!r} from the dump", f"pipeline.features.{column.name}"


def _section(
    layout: Layout, column: Column, numbers: Numbers, rows: Order, *, has_types: bool
) -> tuple[dict[str, Any], str]:
    """Returns (a feature's section, what was seen of its values)."""
    values = numbers.values.drop_nulls()
    seen = f"{float(values.min()):g} to {float(values.max()):g}"  # type: ignore[arg-type]
    missing = numbers.values.null_count()
    seen += f", {100 * missing / len(numbers.values):.1f} % missing" if missing else ""
    section: dict[str, Any] = {}
    if layout.name == "grid" and layout.step < DAY and column.is_counter(*rows):
        section, seen = {"aggregate": "difference"}, f"{seen}, never falls"
    elif layout.name == "grid":
        section = _filled(layout, bool(missing))
    if has_types and numbers.nines:
        low, high = float(values.min()), float(values.max())  # type: ignore[arg-type]
        ends = [float(text.replace(",", ".")) for text in numbers.nines]
        section["range"] = [min(ends) / 2 if min(ends) < low else None, max(ends) / 2 if max(ends) > high else None]
        section["outside"] = "null"
        seen += f"; {', '.join(numbers.nines)} for a missing value"
    return section, seen


def _filled(layout: Layout, missing: bool) -> dict[str, Any]:
    if layout.step >= DAY or not (missing or layout.covered < 1):
        return {}
    return {"fill": "forward", "fill_limit": FILL_STEPS}


def _of_records(
    layout: Layout, keys: dict[str, dict[str, Any]], seen: dict[str, str], columns: Mapping[str, Column]
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Adds what the records themselves tell: how many there were, or how long after the one before each came."""
    if layout.name == "grid" and not keys:
        return {"records": {"aggregate": "count"}}, {"records": "no column holds numbers: how many rows there are"}
    if layout.name == "events" and "gap" not in columns and "cut" not in layout.keys:
        return {"gap": {"aggregate": "gap"}, **keys}, {"gap": "seconds since the row before", **seen}
    return keys, seen


def _sides(
    layout: Layout, keys: Mapping[str, Any], columns: Mapping[str, Column]
) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """Returns (inputs, targets, why): of a table one column is the target, otherwise all features are both."""
    if layout.name != "table":
        return (), tuple(keys), "all features; leave out what need not be forecast"
    numeric = [name for name in keys if columns[name].numbers is not None]
    named = next((name for name in keys if TARGET.fullmatch(name)), None)
    target = named or (numeric or list(keys))[-1]
    why = "by its name" if named else "the last column of numbers; any other may be it"
    return tuple(name for name in keys if name != target), (target,), why
