"""The codes of names in a column, over the pieces of a dump."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dateshard.pipeline.raw.formats import NamePlaces

UNASKED = -2  # of a name in a list that no row had so far
NAMED = 1000  # strangers after which no more are looked for
KEPT = 1 << 20  # strangers that the mapping holds before it begins anew


class Codes:
    """Names -> codes over the pieces of a dump: places in the node table, or in the order of first appearance.

    polars keeps one growing mapping of all pieces: a piece costs its rows alone, whatever the table has.
    """

    def __init__(self, table: tuple[str, ...] | None) -> None:
        self.closed = table is not None
        self.names: list[str] = list(table or ())
        self.strangers: dict[str, None] = {}  # some of the names that the table lacks
        self._mapped = _mapping(self.names)
        self._listed: pl.Series | None = None  # the list that was met last,
        self._code = np.zeros(0, dtype=np.int32)  # and its codes

    def of(self, column: pl.Series) -> NDArray[np.int32]:
        """Returns [R] codes, -1 for a name that the table lacks and for none."""
        known = len(self.names)
        coded = column.cast(self._mapped.dtype)
        codes_R = _numbers(coded)
        highest = int(codes_R.max(initial=-1))
        if highest < known:
            return codes_R
        fresh_R = codes_R >= known
        if not self.closed:
            _, firsts = np.unique(codes_R[fresh_R], return_index=True)
            self.names += column.filter(pl.Series(fresh_R))[firsts].to_list()
            return codes_R
        if len(self.strangers) < NAMED:
            self.strangers |= dict.fromkeys(column.filter(pl.Series(fresh_R)).unique().sort().to_list())
        if highest - known > KEPT:
            self._mapped = _mapping(self.names)
        return np.where(fresh_R, np.int32(-1), codes_R)

    def at(self, places: NamePlaces) -> NDArray[np.int32]:
        """Returns [R] codes as `of` does; the names that rows have are looked up once for each list, and no others."""
        if places.names is not self._listed:
            self._listed = places.names
            self._code = np.append(
                np.full(len(places.names), UNASKED, dtype=np.int32), np.int32(-1)
            )  # -1 is the last one
        code_R: NDArray[np.int32] = self._code[places.place_R]
        if (code_R == UNASKED).any():
            asked = np.zeros(len(self._code), dtype=bool)
            asked[places.place_R] = True
            asked &= self._code == UNASKED
            self._code[asked] = self.of(places.names.filter(pl.Series(asked[:-1])))
            code_R = self._code[places.place_R]
        return code_R

    def final(self, used: NDArray[np.bool_]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """Returns (node list, place of each code in it): the table's, or the used names sorted by bytes. Unused: -1."""
        if self.closed:
            return tuple(self.names), np.arange(len(self.names), dtype=np.int64)
        chosen = sorted((name for name, seen in zip(self.names, used, strict=True) if seen), key=str.encode)
        place = {name: index for index, name in enumerate(chosen)}
        return tuple(chosen), np.asarray([place.get(name, -1) for name in self.names], dtype=np.int64)


def _numbers(coded: pl.Series) -> NDArray[np.int32]:
    """The codes of a mapped column [R], -1 for none: where there is no null they are its own bytes."""
    numbers = coded.to_physical()
    if numbers.null_count():
        return numbers.cast(pl.Int32).fill_null(-1).to_numpy()
    return numbers.to_numpy().view(np.int32)


def _mapping(names: list[str]) -> pl.Series:
    """The names as a column whose type maps each to its place, and later names to the next; it lives as long as the column."""
    return pl.Series(names, dtype=pl.String).cast(pl.Categorical(pl.Categories.random(physical=pl.UInt32)))
