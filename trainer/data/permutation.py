"""Keyed permutations in O(1) memory. numpy only, and never numpy.random: its streams may change.

The values are pinned by `tests/golden/order.json`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
ROUNDS = 6  # of the Feistel network
WORD = (1 << 64) - 1
FEW = 256  # up to here keyed hashes are sorted: a Feistel network is biased at small sizes


def splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014), element by element."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def key(*parts: int) -> int:
    """Makes one 64-bit key of several integers, by chained splitmix64 of plain integers: arrays of one cost 30 times as much."""
    state = 0
    for number in parts:
        state = _mixed(state ^ _mixed(number & WORD))
    return state


def _mixed(value: int) -> int:
    """Mixes one number as `splitmix64` does."""
    z = (value + 0x9E3779B97F4A7C15) & WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


def shuffled(size: int, seed: int) -> Integers:
    """A permutation of range(size) by sorting keyed hashes; memory O(size)."""
    hashes = splitmix64(np.arange(size, dtype=np.uint64) ^ np.uint64(seed))
    return np.argsort(hashes, kind="stable")


def permute(indices: Integers, size: int, seed: int) -> Integers:
    """Where a keyed bijection of range(size) sends `indices`; memory O(len(indices)).

    A Feistel network over the bits of `size` (halves of unequal width where the number of bits is odd), walked until
    the value is in range: fewer than two walks on average.
    """
    if size <= FEW:
        return shuffled(size, seed)[indices]
    keys = splitmix64(np.uint64(seed) + np.arange(1, ROUNDS + 1, dtype=np.uint64))
    bits = (size - 1).bit_length()
    out = _feistel(indices.astype(np.uint64), bits, keys)
    while len(outside := np.flatnonzero(out >= size)):
        out[outside] = _feistel(out[outside], bits, keys)
    return out.astype(np.int64)


def _feistel(values: NDArray[np.uint64], bits: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One pass: the halves swap every round, so an even number of rounds ends with the widths it began with."""
    low = bits // 2
    masks = (np.uint64((1 << (bits - low)) - 1), np.uint64((1 << low) - 1))
    left, right = values >> np.uint64(low), values & masks[1]
    for number, round_key in enumerate(keys):
        mixed = (right + round_key) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
        mixed *= np.uint64(0xD6E8FEB86659FD93)
        mixed ^= mixed >> np.uint64(32)
        mixed &= masks[number % 2]
        left, right = right, left ^ mixed
    return (left << np.uint64(low)) | right
