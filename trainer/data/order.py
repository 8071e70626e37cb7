"""Which window stands at which position: a pure function of (seed, shuffle, epoch, batch). numpy only.

A window is named by its anchor: the global step of its first target (horizon 0: its last history step). Runs of
dates own arithmetic progressions of anchors; g runs make a block; the anchors of a block are permuted by a keyed
bijection. Nothing of the order is ever stored: memory is O(runs), and any position costs the same.

The values are pinned by `tests/golden/order.json`; numpy.random is not used, its streams may change.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from dateshard.shardstore.times.calendar import Day, Segment
from dateshard.trainer.data.permutation import Integers, key, permute, shuffled
from dateshard.trainer.data.window_sample import WindowSample

DRAWN_BATCHES, DRAWN_WINDOWS = 64, 1 << 14  # of order computed at a time, whichever is more
Pieces = Sequence[tuple[int, int]]  # [first, last) steps of a segment


@dataclass(frozen=True, slots=True)
class Window:
    """The shape of a window.

    Attributes:
        history: input steps. horizon: target steps; 0 puts the targets on the history's own steps.
        stride: steps between anchors; its phase is fixed per segment.
        interval: nanoseconds before the anchor whose records are the history, padded on the left to `history` of them; 0
            where the history is a count alone.
    """

    history: int
    horizon: int
    stride: int = 1
    interval: int = 0

    @property
    def before(self) -> int:
        """Steps of the window before its anchor."""
        return self.history if self.horizon else self.history - 1

    @property
    def needed(self) -> int:
        """Steps before its anchor that a window cannot do without."""
        return 1 if self.interval else self.before

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


@dataclass(frozen=True, slots=True, kw_only=True)
class DateRun:
    """Consecutive dates days[first_day:last_day] of one segment and the anchors first + k * stride, k < count.

    Steps are counted from the beginning of the segment. Where records are cut, several runs have the same dates.

    Attributes:
        begin: first step of the piece of the segment that no window of the run leaves.
    """

    segment: int
    first: int
    count: int
    first_day: int
    last_day: int
    begin: int = 0


def make_runs(
    days: Sequence[Day],
    segments: Sequence[Segment],
    member: Sequence[bool],
    window: Window,
    days_per_run: int | None,
    pieces: Sequence[Pieces] | None = None,
) -> list[DateRun]:
    """The runs of one split, in date order.

    Args:
        member: whether days[i] belongs to the split. Its neighbours in it form a stretch: a window's targets stay in
            one stretch, its history may reach back over the border, as far as the segment goes.
        days_per_run: dates of a run; None makes one run of each stretch.
        pieces: of each segment the pieces that no window leaves, as [first, last) steps in order; None: segments are whole.
    """
    runs = []
    for number, segment in enumerate(segments):
        edges = np.cumsum([0, *(days[i].num_steps for i in range(segment.first, segment.last))])
        whole = pieces[number] if pieces is not None else ((0, segment.num_steps),)
        for first_day, last_day in _stretches(member, segment):
            stretch = int(edges[first_day - segment.first]), int(edges[last_day - segment.first])
            size = days_per_run or (last_day - first_day)
            for begin in range(first_day, last_day, size):
                stop = min(begin + size, last_day)
                own = int(edges[begin - segment.first]), int(edges[stop - segment.first])
                for piece in _overlapping(whole, own):
                    low, count = _anchors(own, stretch, piece, window)
                    if count > 0:
                        runs.append(
                            DateRun(
                                segment=number, first=low, count=count, first_day=begin, last_day=stop, begin=piece[0]
                            )
                        )
    return runs


def _anchors(own: tuple[int, int], stretch: tuple[int, int], piece: tuple[int, int], window: Window) -> tuple[int, int]:
    """Returns (first, count) of the anchors in `own` steps of a stretch and of a piece of its segment."""
    end = min(stretch[1], piece[1]) - window.reach + 1
    # with horizon 0 the history holds the targets, so all of it must lie in the stretch
    floor = window.needed + (piece[0] if window.horizon else max(stretch[0], piece[0]))
    low = max(own[0], floor)
    low += -(low - piece[0] - window.needed) % window.stride  # the phase starts at the piece's first anchor
    return low, -(-(min(own[1], end) - low) // window.stride)


def _overlapping(pieces: Pieces, own: tuple[int, int]) -> Pieces:
    """The pieces that share a step with `own`."""
    first = bisect_right(pieces, own[0], key=lambda piece: piece[1])
    last = bisect_left(pieces, own[1], key=lambda piece: piece[0])
    return pieces[first:last]


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


@dataclass(frozen=True, slots=True)
class WindowBatch:
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


@dataclass(frozen=True, kw_only=True)
class Order:
    """The order of one split.

    Attributes:
        runs: in date order.
        runs_per_block: of runs whose dates differ; None puts all into one block.
        seed: None keeps date order everywhere (evaluation).
        shuffle_runs: whether an epoch begins by permuting the runs.
        sample: which windows come at all; None: every one.
        drop_last: leaves out the windows that would make a short last batch: others in every epoch of a shuffled order.
    """

    runs: tuple[DateRun, ...]
    stride: int
    batch_size: int
    runs_per_block: int | None = None
    seed: int | None = None
    shuffle_runs: bool = True
    sample: WindowSample | None = None
    drop_last: bool = False

    @cached_property
    def num_windows(self) -> int:
        """Windows of an epoch; every one comes exactly once."""
        count = self.sample.size if self.sample else self.num_anchors
        return count - count % self.batch_size if self.drop_last else count

    @property
    def num_anchors(self) -> int:
        """Windows that there are, whether they come or not."""
        return int(self.run_edges[-1])

    @cached_property
    def run_edges(self) -> Integers:
        """Number of each run's first window among all windows in date order; at the end how many there are."""
        return np.cumsum([0, *(run.count for run in self.runs)], dtype=np.int64)

    @cached_property
    def date_edges(self) -> Integers:
        """Where the runs of the same dates begin, [G + 1]; such runs are drawn and read together."""
        of = [(run.segment, run.first_day) for run in self.runs]
        return np.array([*(k for k in range(len(of)) if not k or of[k] != of[k - 1]), len(of)], dtype=np.int64)

    @cached_property
    def drawn_edges(self) -> Integers:
        """Returns the edges of the runs among the windows that come."""
        return self.sample.below(self.run_edges) if self.sample else self.run_edges

    def place(self, run_K: Integers, number_K: Integers) -> Integers:
        """Places in their run of the windows with these numbers among those of it that come."""
        if self.sample is None:
            return number_K
        return self.sample.windows(self.drawn_edges[run_K] + number_K) - self.run_edges[run_K]

    @property
    def num_batches(self) -> int:
        """Batches of an epoch; only the last may be short, and none with `drop_last`."""
        return -(-self.num_windows // self.batch_size)

    def windows_in(self, first: int, count: int) -> int:
        """Windows of `count` batches from number `first` on, as far as the epoch goes."""
        return min((first + count) * self.batch_size, self.num_windows) - first * self.batch_size

    def positions(self, batch: int) -> range:
        """Positions of batch number `batch` in the epoch."""
        return range(batch * self.batch_size, min((batch + 1) * self.batch_size, self.num_windows))

    @cached_property
    def first_anchors(self) -> Integers:
        """Anchor of each run's first window."""
        return np.array([run.first for run in self.runs], dtype=np.int64)

    def numbers(self, piece: WindowBatch) -> Integers:
        """Numbers of a piece's windows among all windows in date order."""
        run_K = piece.block_runs[piece.run_K]
        return self.run_edges[run_K] + (piece.anchor_K - self.first_anchors[run_K]) // self.stride

    def piece(self, number_K: Integers) -> WindowBatch:
        """The windows with these numbers, as they would lie in a block of all runs."""
        run_K = np.searchsorted(self.run_edges, number_K, side="right") - 1
        anchor_K = self.first_anchors[run_K] + (number_K - self.run_edges[run_K]) * self.stride
        return WindowBatch(0, np.arange(len(self.runs)), run_K, anchor_K)

    def epoch(self, number: int) -> EpochOrder:
        """The order of one epoch."""
        return EpochOrder(self, number)


class EpochOrder:
    """One epoch: runs permuted, cut into blocks, positions counted through. Memory O(runs).

    Three dates of four steps, history 2, horizon 1, batches of 4, one date a run, two runs a block, seed 7:

        step        0  1  2  3 | 4  5  6  7 | 8  9 10 11      anchors are 2..11: two steps lie before each
        run               0  0 | 1  1  1  1 | 2  2  2  2      run 0 has 2 windows, runs 1 and 2 have 4
        epoch 0     runs permuted 2 1 0  ->  block 0 = runs 2 1 (8 windows), block 1 = run 0 (2 windows)
        position    0  1  2  3 | 4  5  6  7 | 8  9            a batch is four positions
        anchor      7  8 10  9 | 5 11  4  6 | 2  3            permuted inside their block
    """

    def __init__(self, order: Order, epoch: int) -> None:
        self.order, self.number = order, epoch
        count = len(order.date_edges) - 1
        per_block = order.runs_per_block or max(count, 1)
        permuted = order.seed is not None and order.shuffle_runs and count > per_block
        sequence = shuffled(count, key(order.seed or 0, 1, epoch)) if permuted else np.arange(count)
        counts = np.diff(order.drawn_edges)
        self.blocks: list[Integers] = _blocks(order.date_edges, sequence, counts, per_block)
        sizes = [int(counts[block].sum()) for block in self.blocks]
        self.starts: Integers = np.cumsum([0, *sizes])
        self._edges = [np.cumsum(np.concatenate([[0], counts[block]])) for block in self.blocks]

    def block_of(self, position: int) -> int:
        """The block in which a position lies."""
        return int(np.searchsorted(self.starts, position, side="right")) - 1

    def pieces(self, low: int, high: int) -> list[WindowBatch]:
        """The windows at positions [low, high), cut where a block ends."""
        pieces = []
        while low < high:
            block = self.block_of(low)
            stop = min(high, int(self.starts[block + 1]))
            pieces.append(self._piece(block, low - int(self.starts[block]), stop - int(self.starts[block])))
            low = stop
        return pieces

    def _piece(self, block: int, low: int, high: int) -> WindowBatch:
        local = np.arange(low, high, dtype=np.int64)
        if self.order.seed is not None:
            size = int(self.starts[block + 1] - self.starts[block])
            local = permute(local, size, key(self.order.seed, 2, self.number, block))
        edges = self._edges[block]
        run = np.searchsorted(edges, local, side="right") - 1
        owner = self.blocks[block][run]
        place = self.order.place(owner, local - edges[run])
        return WindowBatch(block, self.blocks[block], run, self.order.first_anchors[owner] + place * self.order.stride)

    def draws(self, start: int = 0) -> Iterator[Draw]:
        """The order from batch `start` on, 64 batches or 16,384 windows at a time: about 0.05 us a window."""
        size, total = self.order.batch_size, self.order.num_windows
        drawn = size * max(DRAWN_BATCHES, DRAWN_WINDOWS // size)
        for low in range(start * size, total, drawn):
            high = min(total, low + drawn)
            pieces = self.pieces(low, high)
            yield Draw(low, high, pieces, [low, *(low + np.cumsum([len(piece.anchor_K) for piece in pieces])).tolist()])


def _blocks(date_edges: Integers, sequence: Integers, counts: Integers, per_block: int) -> list[Integers]:
    """The runs of each block: those of so many dates after each other in `sequence`, without such as nothing is drawn of."""
    sizes = np.diff(date_edges)[sequence]
    runs = np.arange(sizes.sum()) + np.repeat(date_edges[sequence] - np.cumsum(sizes) + sizes, sizes)
    of_dates = np.repeat(np.arange(len(sequence)), sizes)
    drawn = counts[runs] > 0  # a run of which the sample has nothing is not read
    runs, of_dates = runs[drawn], of_dates[drawn]
    block = np.cumsum(np.diff(of_dates, prepend=of_dates[:1]) > 0) // per_block
    return np.split(runs, np.flatnonzero(np.diff(block)) + 1) if len(runs) else []


@dataclass(frozen=True, slots=True)
class Draw:
    """Positions [low, high) as pieces; piece k holds positions [edges[k], edges[k + 1])."""

    low: int
    high: int
    pieces: list[WindowBatch]
    edges: list[int]

    def cut(self, begin: int, end: int, rank: int = 0, world: int = 1) -> list[tuple[int, slice]]:
        """Returns (piece, which of its windows) of positions [begin + rank :: world] below `end`."""
        if len(self.pieces) == 1:
            return [(0, slice(begin - self.low + rank, end - self.low, world))]
        chosen = []
        for number, (low, high) in enumerate(pairwise(self.edges)):
            first, last = max(begin, low), min(end, high)
            first += -(first - begin - rank) % world
            if first < last:
                chosen.append((number, slice(first - low, last - low, world)))
        return chosen
