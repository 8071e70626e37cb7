"""Which window stands at which position: a pure function of (seed, shuffle, epoch, batch). numpy only.

A window is named by its anchor: the global step of its first target (horizon 0: its last history step). Runs of
dates own arithmetic progressions of anchors; g runs make a block; the anchors of a block are permuted by a keyed
bijection. Nothing of the order is ever stored: memory is O(runs), and any position costs the same.

The values are pinned by `tests/golden/order.json`; numpy.random is not used, its streams may change.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from shardstore.calendar import Day, Segment

Integers = NDArray[np.int64]
ROUNDS = 6  # of the Feistel network
FEW = 256  # up to here an argsort of keys is used: a Feistel network is biased at small sizes
DRAWN_BATCHES = 64  # of order computed at a time


@dataclass(frozen=True, slots=True)
class Window:
    """The shape of a window.

    Attributes:
        history: input steps. horizon: target steps; 0 puts the targets on the history's own steps.
        stride: steps between anchors; its phase is fixed per segment.
    """

    history: int
    horizon: int
    stride: int = 1

    @property
    def before(self) -> int:
        """Steps of the window before its anchor."""
        return self.history if self.horizon else self.history - 1

    @property
    def length(self) -> int:
        """Steps of the window."""
        return self.history + self.horizon

    @property
    def target_steps(self) -> int:
        """Steps that are predicted."""
        return self.horizon or self.history

    @property
    def reach(self) -> int:
        """Steps from the anchor on that must lie in the anchor's own split."""
        return self.horizon or 1


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive dates days[first_day:last_day] of one segment and the anchors first + k * stride, k < count.

    Steps are counted from the beginning of the segment.
    """

    segment: int
    first: int
    count: int
    first_day: int
    last_day: int


def make_runs(
    days: Sequence[Day],
    segments: Sequence[Segment],
    member: Sequence[bool],
    window: Window,
    days_per_run: int | None,
) -> list[Run]:
    """The runs of one split, in date order.

    Args:
        member: whether days[i] belongs to the split. Its neighbours in it form a stretch: a window's targets stay in
            one stretch, its history may reach back over the border, as far as the segment goes.
        days_per_run: dates of a run; None makes one run of each stretch.
    """
    runs = []
    for number, segment in enumerate(segments):
        edges = np.cumsum([0, *(days[i].num_steps for i in range(segment.first, segment.last))])
        for first_day, last_day in _stretches(member, segment):
            end = int(edges[last_day - segment.first]) - window.reach + 1
            size = days_per_run or (last_day - first_day)
            for begin in range(first_day, last_day, size):
                stop = min(begin + size, last_day)
                low = max(int(edges[begin - segment.first]), window.before)
                low += -(low - window.before) % window.stride  # the phase starts at the segment's first anchor
                high = min(int(edges[stop - segment.first]), end)
                count = max(0, -(-(high - low) // window.stride))
                if count:
                    runs.append(Run(number, low, count, begin, stop))
    return runs


def _stretches(member: Sequence[bool], segment: Segment) -> Iterator[tuple[int, int]]:
    """Maximal ranges of neighbouring member days inside a segment."""
    begin = None
    for index in range(segment.first, segment.last + 1):
        inside = index < segment.last and member[index]
        if inside and begin is None:
            begin = index
        elif not inside and begin is not None:
            yield begin, index
            begin = None


def splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014), element by element."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def key(*parts: int) -> int:
    """One 64-bit key of several integers, by chained splitmix64."""
    state = np.zeros(1, dtype=np.uint64)
    for part in parts:
        state = splitmix64(state ^ splitmix64(np.array([part % (1 << 64)], dtype=np.uint64)))
    return int(state[0])


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


@dataclass(frozen=True, slots=True)
class Piece:
    """Windows that lie one after the other in the order and in one block.

    Attributes:
        block: number of the block in the epoch. block_runs: the block's runs, as positions in `Order.runs`.
        run_K: for each window, which of the block's runs owns it, as a position in `block_runs`.
        anchor_K: its anchor, a step of that run's segment.
    """

    block: int
    block_runs: Integers
    run_K: Integers
    anchor_K: Integers

    def take(self, windows: slice) -> Piece:
        """Some of its windows."""
        return Piece(self.block, self.block_runs, self.run_K[windows], self.anchor_K[windows])


@dataclass(frozen=True)
class Order:
    """The order of one split.

    Attributes:
        runs: in date order.
        runs_per_block: None puts all runs into one block.
        seed: None keeps date order everywhere (evaluation).
        shuffle_runs: whether an epoch begins by permuting the runs.
    """

    runs: tuple[Run, ...]
    stride: int
    batch_size: int
    runs_per_block: int | None = None
    seed: int | None = None
    shuffle_runs: bool = True

    @cached_property
    def num_windows(self) -> int:
        """Windows of an epoch; every one comes exactly once."""
        return sum(run.count for run in self.runs)

    @property
    def num_batches(self) -> int:
        """Batches of an epoch; only the last may be short."""
        return -(-self.num_windows // self.batch_size)

    def epoch(self, number: int) -> EpochOrder:
        """The order of one epoch."""
        return EpochOrder(self, number)


class EpochOrder:
    """One epoch: runs permuted, cut into blocks, positions counted through. Memory O(runs)."""

    def __init__(self, order: Order, epoch: int) -> None:
        self.order, self.number = order, epoch
        count = len(order.runs)
        per_block = order.runs_per_block or max(count, 1)
        permuted = order.seed is not None and order.shuffle_runs and count > per_block
        sequence = shuffled(count, key(order.seed or 0, 1, epoch)) if permuted else np.arange(count)
        self.blocks: list[Integers] = [sequence[i : i + per_block] for i in range(0, count, per_block)]
        counts = np.array([run.count for run in order.runs], dtype=np.int64)
        sizes = [int(counts[block].sum()) for block in self.blocks]
        self.starts: Integers = np.cumsum([0, *sizes])
        self._edges = [np.cumsum(np.concatenate([[0], counts[block]])) for block in self.blocks]
        self._first = np.array([run.first for run in order.runs], dtype=np.int64)

    def block_of(self, position: int) -> int:
        """The block in which a position lies."""
        return int(np.searchsorted(self.starts, position, side="right")) - 1

    def pieces(self, low: int, high: int) -> list[Piece]:
        """The windows at positions [low, high), cut where a block ends."""
        found = []
        while low < high:
            block = self.block_of(low)
            stop = min(high, int(self.starts[block + 1]))
            found.append(self._piece(block, low - int(self.starts[block]), stop - int(self.starts[block])))
            low = stop
        return found

    def _piece(self, block: int, low: int, high: int) -> Piece:
        local = np.arange(low, high, dtype=np.int64)
        if self.order.seed is not None:
            size = int(self.starts[block + 1] - self.starts[block])
            local = permute(local, size, key(self.order.seed, 2, self.number, block))
        edges = self._edges[block]
        run = np.searchsorted(edges, local, side="right") - 1
        first = self._first[self.blocks[block][run]]
        return Piece(block, self.blocks[block], run, first + (local - edges[run]) * self.order.stride)

    def draws(self, start: int = 0) -> Iterator[Draw]:
        """The order from batch `start` on, 64 batches at a time: about 0.1 us a window."""
        size, total = self.order.batch_size, self.order.num_windows
        for low in range(start * size, total, size * DRAWN_BATCHES):
            high = min(total, low + size * DRAWN_BATCHES)
            pieces = self.pieces(low, high)
            yield Draw(low, high, pieces, [low, *(low + np.cumsum([len(piece.anchor_K) for piece in pieces])).tolist()])

    def batches(self, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[list[Piece]]:
        """Batches from number `start` on, each as pieces; rank r of W takes every W-th window of a batch from r on."""
        size = self.order.batch_size
        for draw in self.draws(start):
            for begin in range(draw.low, draw.high, size):
                chosen = draw.cut(begin, min(begin + size, draw.high), rank, world)
                yield [draw.pieces[which].take(windows) for which, windows in chosen]


@dataclass(frozen=True, slots=True)
class Draw:
    """Positions [low, high) as pieces; piece k holds positions [edges[k], edges[k + 1])."""

    low: int
    high: int
    pieces: list[Piece]
    edges: list[int]

    def cut(self, begin: int, end: int, rank: int = 0, world: int = 1) -> list[tuple[int, slice]]:
        """(piece, which of its windows) of positions [begin + rank :: world] below `end`."""
        if len(self.pieces) == 1:
            return [(0, slice(begin - self.low + rank, end - self.low, world))]
        found = []
        for number, (low, high) in enumerate(pairwise(self.edges)):
            first, last = max(begin, low), min(end, high)
            first += -(first - begin - rank) % world
            if first < last:
                found.append((number, slice(first - low, last - low, world)))
        return found


@dataclass(frozen=True, slots=True)
class Shuffle:
    """How far shuffling reaches. `days_per_run` None: one run a stretch; `runs_per_block` None: one block."""

    days_per_run: int | None
    runs_per_block: int | None
    shuffle_runs: bool = True

    @property
    def label(self) -> str:
        """`global`, `dates` or `runs of 91 days, 2 a block`."""
        if self.days_per_run is None:
            return "global"
        return "dates" if not self.shuffle_runs else f"runs of {self.days_per_run} days, {self.runs_per_block} a block"


GLOBAL_BYTES = 1 << 30  # auto shuffles globally below this size of the training split
BLOCK_BYTES = 256 << 20  # auto makes blocks of about this size above it
HALO = 8  # auto runs are at least this many times the window's other steps long: at most 12.5 % is read twice


def resolve_shuffle(
    setting: str | tuple[int, int],
    days_per_batch: int | None,
    window: Window,
    num_steps: int,
    num_days: int,
    row_bytes: int,
) -> Shuffle:
    """`auto`, `global`, `dates` or (days_per_run, runs_per_block) -> Shuffle, from the data alone, never the machine.

    Args:
        days_per_batch: k sets days_per_run x runs_per_block = k.
        num_steps, num_days: of the training split. row_bytes: bytes of a step.
    """
    if isinstance(setting, tuple):
        return Shuffle(*setting)
    if days_per_batch:
        return Shuffle(1, days_per_batch)
    if setting == "dates":
        return Shuffle(1, 1, shuffle_runs=False)
    if setting == "global" or num_steps * row_bytes < GLOBAL_BYTES:
        return Shuffle(None, None)
    steps_a_day = max(1, num_steps // max(num_days, 1))
    days_per_run = max(1, -(-HALO * (window.length - 1) // steps_a_day))
    return Shuffle(days_per_run, max(1, BLOCK_BYTES // (days_per_run * steps_a_day * row_bytes)))


def dates_of(run: Run, days: Sequence[Day]) -> list[dt.date]:
    """The dates that own a run's anchors."""
    return [day.date for day in days[run.first_day : run.last_day]]
