"""Layouts: typed columns of one date -> arrays. numpy only, one encoder for preparing and for predicting.

Each layout is one file with one function: `reduce(stretches, to)` makes a date's arrays of its records. All else follows
from what it gives: `Day` knows how many rows a date has and how long it is, `time` and `cuts` lie beside the values where
rows have instants and pieces of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:  # who only asks for names waits for no numpy
    from dateshard.shardstore.layouts.records import Reduced, Reduction, Stretch

LAYOUTS = {name: f"dateshard.shardstore.layouts.{name}" for name in ("grid", "events", "table")}


def reducer_of(layout: str) -> Callable[[Iterable[Stretch], Reduction], Reduced]:
    """The function of a layout that makes a date's arrays of its records."""
    return cast("Callable[[Iterable[Stretch], Reduction], Reduced]", import_module(LAYOUTS[layout]).reduce)
