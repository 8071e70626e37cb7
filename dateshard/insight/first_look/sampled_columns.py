"""What the columns of a sample hold: numbers, and what stands for a missing one, or texts."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dateshard.pipeline.raw.formats import DIALECT, as_numbers
from dateshard.pipeline.raw.formats.numbers import GROUPED, with_points, with_thousands
from dateshard.pipeline.raw.formats.remedies import MOST_MARKERS, are_markers
from dateshard.pipeline.source import Csv
from dateshard.pipeline.unobserved import NINES

MOSTLY = 0.95  # of a column's texts are numbers, or it is one of texts
FAR = 5.0  # times the spread of all other values away from them lies a number that stands for a missing one
NO_QUANTITY = re.compile(r"(^|[_\s.-])(id|index|uuid|guid|key|zip|code|nr|no)$|^unnamed|^rowid$", re.IGNORECASE)
FEW = 5  # rows, of which nothing is concluded


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """A column's values as numbers.

    Attributes:
        values: null where there is none. markers: texts that stand for a missing value.
        nines: likewise numbers such as -9999, as they are spelled. num_bad: other texts that are no numbers.
    """

    values: pl.Series
    markers: tuple[str, ...]
    nines: tuple[str, ...]
    num_bad: int


@dataclass(frozen=True)
class Column:
    """A column of a sample."""

    series: pl.Series
    dialect: Csv = DIALECT

    def without(self, missing: Collection[str]) -> Column:
        """The column without the texts that stand for a missing value."""
        gone = self.texts.is_in(list(missing)).fill_null(value=False)
        return Column(self.series.set(gone, None), self.dialect) if gone.any() else self

    @property
    def name(self) -> str:
        """The column's name."""
        return self.series.name

    @property
    def is_text(self) -> bool:
        """Whether the file has no type for it."""
        return self.series.dtype == pl.String

    @cached_property
    def texts(self) -> pl.Series:
        """The values as texts without blanks around; null where there is none."""
        texts = self.series.cast(pl.String, strict=False).str.strip_chars()
        return texts.set(texts == "", None)

    @cached_property
    def distinct(self) -> int:
        """How many different values it has, missing ones not counted."""
        return int(self.texts.drop_nulls().n_unique())

    @cached_property
    def numbers(self) -> Numbers | None:
        """The column's numbers; None where it is a column of texts or times."""
        if not (self.is_text or self.series.dtype.is_numeric() or self.series.dtype == pl.Boolean):
            return None
        values, bad = self._read
        values = values.fill_nan(None).set(values.is_infinite().fill_null(value=False), None)
        others = self.texts.filter(bad.is_not_null()).unique().sort().to_list() if bad is not None else []
        num_bad = int(bad.is_not_null().sum()) if bad is not None else 0
        markers = [text for text in others if are_markers([text])]
        rest = [text for text in others if text not in markers]
        if len(rest) <= MOST_MARKERS and num_bad > 2 * len(others) and not any(re.search("[0-9]", t) for t in rest):
            markers, rest = [*markers, *rest], []
        unread = int(self.texts.is_in(rest).sum()) if rest else 0
        count = len(values) - values.null_count()
        if not count or count < MOSTLY * (count + unread) or count < len(others):
            return None
        values, nines = _without_nines(values, self.texts)
        return Numbers(values=values, markers=tuple(markers), nines=nines, num_bad=unread)

    @cached_property
    def _read(self) -> tuple[pl.Series, pl.Series | None]:
        """Returns (values, null where there is none; texts that are no numbers, None if there are none)."""
        return as_numbers(with_points(self.texts, self.dialect) if self.is_text else self.series)

    @cached_property
    def grouped(self) -> tuple[str, ...]:
        """The texts that are no numbers and look like some with a mark between thousands, if most of them do."""
        bad = self._read[1] if self.is_text else None
        texts = self.texts.filter(bad.is_not_null()).unique().to_list() if bad is not None else []
        rest = [text for text in texts if not are_markers([text])]
        grouped = [text for text in rest if GROUPED.fullmatch(text)]
        return tuple(sorted(grouped)) if len(grouped) >= MOSTLY * len(rest) else ()

    @property
    def is_whole(self) -> bool:
        """Whether all of its numbers are whole."""
        numbers = self.numbers
        if numbers is None:
            return False
        values = numbers.values.drop_nulls()
        return bool((values == values.floor()).all())

    @property
    def no_quantity(self) -> str:
        """Why its numbers are no feature, in words; empty where they may be one."""
        numbers = self.numbers
        if numbers is None:
            return "text" if self.is_text else f"its type is {self.series.dtype}"
        values = numbers.values.drop_nulls()
        if values.n_unique() <= 1 and len(self.series) > 1:
            return f"always {values[0]:g}" if len(values) else "no value"
        if not self.is_whole:
            return ""
        steps = values.diff().drop_nulls()
        if len(steps) >= FEW and bool((steps == 1).all()):
            return "it counts the rows"
        return "its name says that it is no quantity" if NO_QUANTITY.search(self.name) else ""

    def is_counter(self, order_R: NDArray[np.int64], who_R: NDArray[np.int64]) -> bool:
        """Says whether the numbers of each node never fall and mostly grow, as a meter's do.

        Args:
            order_R: the rows by node and time. who_R: of each row, its node.
        """
        if self.numbers is None:
            return False
        values, who = self.numbers.values.to_numpy()[order_R], who_R[order_R]
        there = ~np.isnan(values)
        steps = np.diff(values[there])[np.diff(who[there]) == 0]
        return len(steps) >= 10 * FEW and bool((steps >= 0).all() and (steps > 0).mean() > 0.5)


def _without_nines(values: pl.Series, texts: pl.Series) -> tuple[pl.Series, tuple[str, ...]]:
    """Returns (values without those of nines that stand for a missing one, how these are spelled).

    They lie far from all others, or come more than once below zero where no other is.
    """
    spelled = set[str]()
    for end in _ends(values):
        others = values.filter(values != end)
        low, high = others.min(), others.max()
        if not NINES.fullmatch(f"{end:.10g}") or not isinstance(low, float) or not isinstance(high, float):
            continue
        is_far = min(abs(end - low), abs(end - high)) > FAR * max(high - low, 1.0)
        comes_again_below_zero = end < 0 <= low and int((values == end).sum()) > 1
        if is_far or comes_again_below_zero:
            spelled |= set(texts.filter((values == end).fill_null(value=False)).to_list())
            values = values.set((values == end).fill_null(value=False), None)
    return values, tuple(sorted(spelled))


def _ends(values: pl.Series) -> Iterator[float]:
    for end in (values.min(), values.max()):
        if isinstance(end, float):
            yield end


def columns_of(frame: pl.DataFrame, dialect: Csv, without: Collection[str] = ()) -> dict[str, Column]:
    """Returns {name: column} of a frame."""
    return {name: Column(frame[name], dialect) for name in frame.columns if name not in without}


def reading_thousands(columns: Mapping[str, Column], dialect: Csv) -> Csv | None:
    """The dialect that reads numbers with a mark between their thousands too; None where columns hold none, or others."""
    texts = [text for column in columns.values() for text in column.grouped]
    decimals = any(text.lstrip("+-").startswith("0") for text in texts)  # as 0,125: no thousand begins with 0
    chosen = None if decimals else with_thousands(texts, dialect)
    if chosen is None:
        return None
    for column in columns.values():
        then, now = column.numbers, Column(column.series, chosen).numbers
        if then is not None and (now is None or now.num_bad > then.num_bad):
            return None
    return chosen
