"""A split's windows as batches: follows the order and has a policy gather each into a slot.

Windows are never stored: a batch is one gather over a strided view. `blocks` fills one contiguous buffer per block by
sequential reads, the next while this one trains. `mapped` serves the same order from lazily mapped files, `resident` from
the memory of the device that trains. The policy, the budget and prefetching never change a batch.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import Any, Protocol, cast

from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import UsageError
from dateshard.trainer.data.batch import Batch, BatchForm, Memory, Slot, on_host
from dateshard.trainer.data.blocks import Blocks
from dateshard.trainer.data.mapped import MappedDates
from dateshard.trainer.data.order import Order, WindowBatch
from dateshard.trainer.data.permutation import Integers
from dateshard.trainer.data.resident import Resident

RING_SLOTS = 2  # a batch stays valid until the next but one
GIB = 1 << 30


class WindowPlace(Protocol):
    """Where windows are copied from; `prepare`'s result can be sliced, and a slice of it is gathered into a slot."""

    def prepare(self, piece: WindowBatch) -> Any:
        """Where a piece's windows begin."""
        ...

    def gather(self, slot: Slot, at: int, chosen: Any) -> None:
        """Copies windows into rows [at, at + len) of the slot."""
        ...


class Policy(Protocol):
    """A policy: gives, piece by piece, the place that a piece's windows lie in."""

    def serve(self, groups: Sequence[Integers]) -> Generator[WindowPlace, WindowBatch, None]:
        """Serves an epoch's windows; `groups[j]` are the runs of its block j."""
        ...


class Reader:
    """Batches of one split.

    Memory: `resident_bytes` for blocks (never above the budget, or refused), maps for mapped; plus a ring of 2 batches.

    Args:
        policy: `blocks`, `mapped`, or `auto`: blocks where they fit the budget, else mapped.
        memory_budget: bytes that block buffers may take.
        prefetch: fill the next block while this one trains.
        memory: makes the ring's bytes, on the host. resident: makes bytes on the device, where all windows and batches lie then.

    Raises:
        UsageError: the block does not fit the budget under `policy: blocks`; says what would.
    """

    def __init__(
        self,
        dataset: Dataset,
        order: Order,
        wanted: BatchForm,
        *,
        policy: str = "auto",
        memory_budget: int = 2 * GIB,
        prefetch: bool = True,
        memory: Memory = on_host,
        resident: Memory | None = None,
    ) -> None:
        self.dataset, self.order, self.wanted = dataset, order, wanted
        padded = bool(wanted.window.interval and wanted.known)
        self.mask = padded or any(dataset.has_mask(day.date) for day in dataset.days)
        self._memory = resident or memory
        self._source: Policy
        if resident is not None:
            self._source = all_rows = Resident(dataset, order, wanted, mask=self.mask, memory=resident)
            self.policy, self.resident_bytes = "resident", all_rows.resident_bytes
        else:
            blocks = Blocks(dataset, order, wanted, mask=self.mask, prefetch=prefetch)
            self.resident_bytes = blocks.resident_bytes
            self.policy = self._choose(policy, memory_budget)
            in_blocks = self.policy == "blocks"
            self._source = blocks if in_blocks else MappedDates(dataset, wanted, order.runs, mask=self.mask)
        self._ring: list[Slot] = []
        self._turn = 0  # slots taken so far: the ring goes on over the border of epochs

    def _choose(self, policy: str, budget: int) -> str:
        if policy == "mapped":
            return policy
        fits = self.resident_bytes <= budget
        sparse = self.order.stride > max(1, self.wanted.window.length // 2)
        if policy == "auto":
            return "blocks" if fits and not sparse else "mapped"
        if not fits:
            raise UsageError(
                f"blocks of this order need {self.resident_bytes / 1e6:,.3f} MB, "
                f"trainer.loading.memory_budget allows {budget / 1e6:,.3f} MB",
                todo="Set loading.policy: mapped (the same batches), a smaller loading.days_per_batch (another order), "
                "or a larger budget",
            )
        return "blocks"

    def batches(self, epoch: int, start: int = 0, rank: int = 0, world: int = 1, every: int = 1) -> Iterator[Batch]:
        """Batches start, start + every, ... of an epoch. Reaching a batch directly gives the same as counting up to it."""
        if not self.order.runs:
            return
        most = -(-min(self.order.batch_size, self.order.num_windows) // world)
        if not self._ring or self._ring[0].size < most:  # a post-mortem reads the rows of all processes
            self._ring = [self._slot(most) for _ in range(RING_SLOTS)]
        order, size, held = self.order.epoch(epoch), self.order.batch_size, cast(WindowPlace, None)
        with closing(self._source.serve(order.blocks)) as places:
            next(places)
            for draw in order.draws(start):
                prepared: dict[int, Any] = {}  # pieces come one after the other; a batch may take from two
                for begin in range(draw.low + -(draw.low // size - start) % every * size, draw.high, size * every):
                    slot, at = self._ring[self._turn % RING_SLOTS], 0
                    for which, chosen in draw.cut(begin, min(begin + size, draw.high), rank, world):
                        if which not in prepared:
                            held = places.send(draw.pieces[which])
                            prepared[which] = held.prepare(draw.pieces[which])
                        rows = prepared[which][chosen]
                        held.gather(slot, at, rows)
                        at += len(rows)
                    self._turn += 1
                    yield slot.batch(at)

    def windows(self, number_K: Integers) -> Batch:
        """Any windows, by their numbers in date order, in memory of their own: one gather.

        The policy must be `mapped`."""
        slot, piece = self._slot(len(number_K)), self.order.piece(number_K)
        with closing(self._source.serve([piece.block_runs])) as places:
            next(places)
            place = places.send(piece)
            place.gather(slot, 0, place.prepare(piece))
        return slot.batch(len(number_K))

    def _slot(self, size: int) -> Slot:
        shape = (self.dataset.manifest.num_nodes, len(self.dataset.features))
        return Slot(size, *shape, self.wanted, mask=self.mask, memory=self._memory)
