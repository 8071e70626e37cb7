"""The codes of names in a column, over the pieces of a dump."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

NAMED = 1000  # strangers after which no more are looked for


class Codes:
    """Names -> codes over the pieces of a dump: places in the node table, or in the order of first appearance."""

    def __init__(self, table: tuple[str, ...] | None) -> None:
        self.closed = table is not None
        self.names: list[str] = list(table or ())
        self.strangers: dict[str, None] = {}  # some of the names that the table lacks
        self._known = set(self.names)
        self._type = pl.Enum(self.names)

    def of(self, column: pl.Series) -> NDArray[np.int32]:
        """Returns [R] codes, -1 for a name that the table lacks and for none."""
        if not self.closed:
            fresh = [name for name in column.unique(maintain_order=True).to_list() if name not in self._known]
            if fresh := [name for name in fresh if name is not None]:
                self.names += fresh
                self._known.update(fresh)
                self._type = pl.Enum(self.names)
        codes = column.cast(self._type, strict=False).to_physical()
        if self.closed and len(self.strangers) < NAMED and codes.null_count() > column.null_count():
            self.strangers |= dict.fromkeys(column.filter(codes.is_null()).drop_nulls().unique().sort().to_list())
        return codes.cast(pl.Int32).fill_null(-1).to_numpy()

    def final(self, used: NDArray[np.bool_]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """Returns (node list, place of each code in it): the table's, or the used names sorted by bytes. Unused: -1."""
        if self.closed:
            return tuple(self.names), np.arange(len(self.names), dtype=np.int64)
        chosen = sorted((name for name, seen in zip(self.names, used, strict=True) if seen), key=str.encode)
        place = {name: index for index, name in enumerate(chosen)}
        return tuple(chosen), np.asarray([place.get(name, -1) for name in self.names], dtype=np.int64)
