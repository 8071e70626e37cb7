"""Categories as codes: first of the date's own vocabulary, then of the frozen one.

Legend: T steps of the date, N nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from dateshard.shardstore.scaling.transform import Floats

UNSEEN = 0  # the code of a category that no training date has, and of none
MOST_CODES = (1 << 24) - 1  # float32 holds every integer up to here


def sorted_names(names: Collection[str]) -> tuple[str, ...]:
    """Each once, by UTF-8 bytes."""
    return tuple(sorted(set(names), key=str.encode))


def own_vocabulary(column_TN: Floats, names: Sequence[str]) -> tuple[Floats, tuple[str, ...]]:
    """A date's cells as places in its own vocabulary, and that vocabulary: the categories that stand in a cell.

    Args:
        column_TN: places in `names`, NaN where nothing was observed.
        names: in any order.
    """
    used = np.unique(column_TN[~np.isnan(column_TN)]).astype(np.int64)
    vocabulary = sorted_names([names[place] for place in used])
    place_of = {name: place for place, name in enumerate(vocabulary)}
    table = np.full(len(names), np.nan)
    table[used] = [place_of[names[place]] for place in used]
    return _looked_up(column_TN, table), vocabulary


def recode(column_TN: Floats, own: Sequence[str], frozen: Sequence[str]) -> tuple[Floats, int]:
    """Places in the date's own vocabulary -> codes of the frozen one, counted from 1; and how many categories it lacks."""
    code_of = {name: code for code, name in enumerate(frozen, start=1)}
    table = np.asarray([code_of.get(name, UNSEEN) for name in own], dtype=np.float64)
    return _looked_up(column_TN, table), int((table == UNSEEN).sum())


def _looked_up(column_TN: Floats, table: Floats) -> Floats:
    codes_TN, seen = np.full(column_TN.shape, np.nan), ~np.isnan(column_TN)
    codes_TN[seen] = table[column_TN[seen].astype(np.int64)]
    return codes_TN
