"""The layout of tables: rows that have nothing to do with each other, and need have no time.

Rows lie in a date's arrays as events do. Where neither dates nor a column divide them, each row belongs to one of a hundred
buckets by a hash of what it holds: so a row is always on the same side of a split, in whichever file and order it comes, and
rows that are equal are never on both.

Legend: R rows, F features.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dateshard.shardstore.identity import hash_bytes
from dateshard.shardstore.layouts import events
from dateshard.shardstore.layouts.records import Reduced, Reduction, Stretch
from dateshard.shardstore.layouts.row_buckets import BUCKETS
from dateshard.shardstore.scaling.transform import Floats

MISSING = np.uint64(0x9E3779B97F4A7C15)
Words = NDArray[np.uint64]


def reduce(stretches: Iterable[Stretch], to: Reduction) -> Reduced:
    """Orders a date's rows by their cut, or by the bucket of what they hold.

    Memory: the rows' columns twice.
    """
    if not to.by_row:
        return events.reduce(stretches, to)
    return events.reduce(_in_buckets(stretches, to.categories), replace(to, names=BUCKETS))


def _in_buckets(stretches: Iterable[Stretch], categories: Mapping[int, Sequence[str]]) -> Iterator[Stretch]:
    for stretch, rows in stretches:
        yield stretch, replace(rows, node_R=bucket_of(rows.values, categories))


def bucket_of(columns: Sequence[Floats | None], categories: Mapping[int, Sequence[str]]) -> NDArray[np.int64]:
    """Returns [R]: the bucket of each row, by its values and the names of its categories."""
    hash_R: Words | None = None
    for place, column in enumerate(columns):
        if column is None:
            continue
        word_R = _names(column, categories[place]) if place in categories else _bits(column)
        hash_R = mixed(word_R if hash_R is None else hash_R ^ word_R)
    assert hash_R is not None, "a table has a column"
    return (hash_R % np.uint64(len(BUCKETS))).astype(np.int64)


def _bits(column: Floats) -> Words:
    return np.where(np.isnan(column), MISSING, np.ascontiguousarray(column).view(np.uint64))


def _names(column: Floats, names: Sequence[str]) -> Words:
    """The hashes of the names that a column's values are places in, whose order may be another in another file."""
    table = np.array([int(hash_bytes(name.encode())[:16], 16) for name in names] or [0], dtype=np.uint64)
    missing = np.isnan(column)
    return np.where(missing, MISSING, table[np.where(missing, 0, column).astype(np.int64)])


def mixed(word: Words) -> Words:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014), in which every bit of a word moves every other."""
    with np.errstate(over="ignore"):
        word = (word + MISSING) & np.uint64(0xFFFFFFFFFFFFFFFF)
        word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return word ^ (word >> np.uint64(31))
